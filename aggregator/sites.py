"""Who is enrolled: one JSON file per site, with every key it ever had.

The file is the truth. A running aggregator brings Flower's list of nodes in line with it (aggregator.watcher), so enrolling
works whether it runs or not, and a crash in between is made good by the next look.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.audit.keys import fingerprint, public_key
from casam_fed.errors import EnrolmentError, KeyFileError
from casam_fed.forms import STRICT, Slug
from casam_fed.host.clock import utc_now
from casam_fed.host.files import write_atomically
from casam_fed.wire.enrolment import EnrolmentRequest, Pem

__all__ = ["KeyPair", "SiteRecord", "enrol", "read_sites", "revoke", "rotate"]


@dataclass(frozen=True, config=STRICT)
class KeyPair:
    """The keys of one request: signing (Ed25519) and node (EC P-384), PEM; `ended` is set once they no longer count."""

    signing_key: Pem
    node_key: Pem
    since: str
    ended: str = ""

    @cached_property
    def public(self) -> Ed25519PublicKey:
        """The signing key."""
        return public_key(self.signing_key, "an enrolled site")

    @cached_property
    def fingerprint(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.public)


@dataclass(frozen=True, config=STRICT)
class SiteRecord:
    """One site and its keys, oldest first; at most the last pair is in force."""

    site: Slug
    keys: tuple[KeyPair, ...]
    schema_version: Literal[1] = 1

    @property
    def current(self) -> KeyPair | None:
        """The keys in force; None once the site was revoked."""
        return self.keys[-1] if not self.keys[-1].ended else None


_RECORD = TypeAdapter(SiteRecord)


def read_sites(folder: Path) -> dict[str, SiteRecord]:
    """Return all sites by name.

    Raises:
        EnrolmentError: a file is damaged.
    """
    records = {}
    owners: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        record = _read(path)
        for key in {key for pair in record.keys for key in (pair.signing_key, pair.node_key)}:
            if owners.setdefault(key, record.site) != record.site:
                raise EnrolmentError(f"{path} has a key of site {owners[key]}; restore both files from a copy")
        records[record.site] = record
    return records


def enrol(folder: Path, request: EnrolmentRequest) -> SiteRecord:
    """Add a site; a request that was enrolled already changes nothing.

    Raises:
        EnrolmentError: the name is taken by other keys, or the keys by another name, or they were revoked.
        StorageError: the disk is full or cannot be written.
    """
    records = read_sites(folder)
    known = records.get(request.site)
    if known and known.current and (known.current.signing_key, known.current.node_key) == _pems(request):
        return known
    if obstacle := _name_taken(records, request.site):
        raise EnrolmentError(obstacle)
    return _with_keys(folder, records, SiteRecord(request.site, ()), request)


def rotate(folder: Path, request: EnrolmentRequest) -> SiteRecord:
    """Give a site new keys; the old ones end at once.

    Raises:
        EnrolmentError: no such site, or a key of the request was used before.
        StorageError: the disk is full or cannot be written.
    """
    records = read_sites(folder)
    known = _of(records, request.site)
    if known.current and (known.current.signing_key, known.current.node_key) == _pems(request):
        return known
    return _with_keys(folder, records, _ended(known), request)


def revoke(folder: Path, site: str) -> SiteRecord:
    """End all keys of a site; what the bank holds of it stays until it is retired.

    Raises:
        EnrolmentError: no such site.
        StorageError: the disk is full or cannot be written.
    """
    record = _ended(_of(read_sites(folder), site))
    _write(folder, record)
    return record


def _read(path: Path) -> SiteRecord:
    with contextlib.suppress(ValidationError, KeyFileError, OSError):
        record: SiteRecord = _RECORD.validate_json(path.read_bytes())
        # A copy under another name would bring keys back that have ended; only the last pair may be in force.
        if record.site == path.stem and record.keys and all(pair.ended for pair in record.keys[:-1]):
            for pair in record.keys:
                _ = pair.fingerprint
            return record
    raise EnrolmentError(
        f"{path} is no record of that site; restore it from a copy, or move it away and enrol it again"
    )


def _of(records: Mapping[str, SiteRecord], site: str) -> SiteRecord:
    if site not in records:
        raise EnrolmentError(
            f"there is no site {site}; use casam-aggregator enroll to let it in; casam-aggregator status lists all"
        )
    return records[site]


def _name_taken(records: Mapping[str, SiteRecord], site: str) -> str:
    """Return why a site cannot be enrolled under its name, or ""."""
    if site in records and records[site].current is None:
        return f"site {site} was shut out; let it make new keys (casam-site rotate), then use casam-aggregator rotate"
    if site in records:
        return f"site {site} is enrolled with other keys; use casam-aggregator rotate if it has new ones"
    # Names that differ by case alone would share a file on some systems.
    alike = [name for name in records if name.casefold() == site.casefold()]
    return f"site {alike[0]} is enrolled already; let {site} take a name of its own" if alike else ""


def _with_keys(
    folder: Path, records: dict[str, SiteRecord], record: SiteRecord, request: EnrolmentRequest
) -> SiteRecord:
    for other in records.values():
        for pair in other.keys:
            if pair.signing_key == request.signing_key or pair.node_key == request.node_key:
                raise EnrolmentError(
                    f"a key of this request belongs or belonged to site {other.site}; "
                    "let the site make new ones with casam-site rotate"
                )
    record = replace(record, keys=(*record.keys, KeyPair(request.signing_key, request.node_key, utc_now())))
    _write(folder, record)
    return record


def _ended(record: SiteRecord) -> SiteRecord:
    return replace(record, keys=tuple(pair if pair.ended else replace(pair, ended=utc_now()) for pair in record.keys))


def _write(folder: Path, record: SiteRecord) -> None:
    plain: Any = _RECORD.dump_python(record, mode="json")
    write_atomically(folder / f"{record.site}.json", json.dumps(plain, indent=1).encode())


def _pems(request: EnrolmentRequest) -> tuple[str, str]:
    return request.signing_key, request.node_key
