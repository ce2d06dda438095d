"""`python -m casam_fed.audit` is `casam-audit`."""

from casam_fed.audit.cli import main

main()
