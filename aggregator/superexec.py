"""Flower's SuperExec for one app: `python -m aggregator.superexec DIR` starts processes for the delivery app and no other.

Whoever reaches the SuperLink on loopback, which any user of this machine does, may submit an app to it, and the stock
`flower-superexec` would run that as the aggregator. What is private in Flower and used here stands in this file;
tests/deployment is its contract.
"""

import argparse
import os
from pathlib import Path

from casam_fed.host.files import sha256_file
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

os.environ.update(PRIVATE_ENVIRONMENT)

from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.superexec import run_superexec as flower
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor

from aggregator.home import Home

__all__ = ["main"]


class _OneApp(SubprocessExecutor):
    """Starts a process for the app with this digest only."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        if spec.fab_hash == self._digest:
            return super().launch(spec)
        print(f"refused to run app {spec.fab_hash}", flush=True)
        return LaunchResult.failed("only the delivery app runs here")


def main(arguments: list[str] | None = None) -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(prog="aggregator.superexec", description=__doc__)
    parser.add_argument("folder", type=Path)
    home = Home(parser.parse_args(arguments).folder)
    executor = _OneApp(sha256_file(home.app))
    flower.get_executor = lambda *_arguments, **_options: executor  # type: ignore[attr-defined]
    flower.run_superexec(
        runtime_api_address=home.superlink_address,
        insecure=False,
        root_certificates_path=str(home.ca),
        superexec_auth_secret=load_superexec_auth_secret(str(home.superexec_secret)),
    )


if __name__ == "__main__":
    main()
