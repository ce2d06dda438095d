"""Who takes part: a hospital let in, its keys changed, or shut out, each time in its file, then in the bank log.

Between the two a crash costs nothing: the files are the truth, and the same call, or the next `casam-aggregator up`,
brings the log in line.
"""

from dataclasses import replace
from pathlib import Path

from aggregator import sites
from aggregator.authority import authority_pem
from aggregator.home import Home
from aggregator.ledger import Ledger
from casam_fed.audit.keys import public_pem
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.config import MethodConfig
from casam_fed.host.files import sha256_file, write_atomically
from casam_fed.wire.enrolment import EnrolmentRequest, Welcome, welcome_json

__all__ = ["enrol_site", "revoke_site", "rotate_site", "welcome_of"]


def enrol_site(home: Home, request: EnrolmentRequest, welcome: Path) -> None:
    """Let a site in whose request a person has compared with its fingerprint, and write the answer to `welcome`.

    Raises:
        EnrolmentError: as `aggregator.sites.enrol`.
        KeyFileError, BankError, LogError, StorageError: the aggregator's own files are not in order, or the disk is full.
    """
    sites.enrol(home.sites, request)
    _announce(home, request, welcome)


def rotate_site(home: Home, request: EnrolmentRequest, welcome: Path) -> None:
    """Give a site the keys of a new request in the place of its old ones, which end at once, and write the answer.

    Raises:
        EnrolmentError: as `aggregator.sites.rotate`.
        KeyFileError, BankError, LogError, StorageError: as `enrol_site`.
    """
    sites.rotate(home.sites, request)
    _announce(home, request, welcome)


def revoke_site(home: Home, site: str) -> None:
    """End all keys of a site; what the bank holds of it stays.

    Raises:
        EnrolmentError: there is no such site.
        KeyFileError, LogError, StorageError: as `enrol_site`.
    """
    sites.revoke(home.sites, site)
    Ledger(home).note_keys()


def welcome_of(home: Home, request: EnrolmentRequest) -> Welcome:
    """Return the answer to a request that was enrolled.

    Raises:
        KeyFileError, BankError, StorageError: the aggregator's own files are not in order.
    """
    snapshot = read_snapshot(home.bank)
    standard = MethodConfig()
    return Welcome(
        federation=home.config.federation,
        site=request.site,
        site_key=request.fingerprint,
        address=home.config.address,
        ca=authority_pem(home.keys),
        aggregator_key=public_pem(home.signing_key().public_key()),
        app=sha256_file(home.app),
        backbone=snapshot.backbone,
        backbone_digest=snapshot.backbone_digest,
        method=replace(home.config.method, device=standard.device, threads=standard.threads),
    )


def _announce(home: Home, request: EnrolmentRequest, welcome: Path) -> None:
    Ledger(home).note_keys()
    write_atomically(welcome, welcome_json(welcome_of(home, request)))
