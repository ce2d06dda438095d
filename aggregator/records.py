"""What was decided about each release, on disk: one record per site and release, kept for good. Needs no torch.

admissions/SITE/DIGEST.json   outcome, code, reason, statement and overlap table
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError

from aggregator.home import Home
from casam_fed.errors import BankError
from casam_fed.forms import STRICT, Digest, Slug
from casam_fed.host.files import as_storage_error, write_atomically
from casam_fed.wire.exchange import Reason, Receipt

__all__ = ["DecisionRecord", "own_file", "read_record", "read_records", "record_path", "write_record"]


@dataclass(frozen=True, config=STRICT)
class DecisionRecord:
    """What was decided about one release of a site.

    Attributes:
        digest, site, task: of the release; `task` is empty where it could not be read.
        outcome, code, reason: as the site was told.
        sequence: of the entry, once admitted.
        time: UTC, when it was decided.
        statement: the signed envelope as it came, ASCII; empty where it was not even that.
        overlap: JSON of the router's overlap table, or empty.
        accepted: UTC, when a person let it out of quarantine.
    """

    digest: Digest
    site: Slug
    task: str
    outcome: Literal["admitted", "quarantined", "refused"]
    code: str
    reason: Reason
    time: str
    sequence: int | None = None
    statement: str = ""
    overlap: str = ""
    accepted: str = ""

    @property
    def receipt(self) -> Receipt:
        """What the site is told."""
        return Receipt(self.digest, self.outcome, self.sequence, self.code, self.reason)


def record_path(home: Home, site: str, digest: str) -> Path:
    """Return the file of the decision about a site's release."""
    return home.admissions / site / f"{digest}.json"


def read_record(home: Home, site: str, digest: str) -> DecisionRecord:
    """Return a decision.

    Raises:
        BankError: there is none, or its file is damaged.
    """
    path = record_path(home, site, digest)
    with own_file(path):
        record: DecisionRecord = TypeAdapter(DecisionRecord).validate_json(path.read_bytes())
    if (record.site, record.digest) != (site, digest):
        raise _damaged(path)
    return record


def read_records(home: Home) -> list[DecisionRecord]:
    """Return all decisions, the oldest first.

    Raises:
        BankError: a file is damaged.
    """
    found = [read_record(home, path.parent.name, path.stem) for path in home.admissions.glob("*/*.json")]
    return sorted(found, key=lambda record: (record.time, record.digest))


def write_record(home: Home, record: DecisionRecord) -> None:
    """Keep a decision."""
    plain: Any = TypeAdapter(DecisionRecord).dump_python(record, mode="json")
    write_atomically(record_path(home, record.site, record.digest), json.dumps(plain, indent=1).encode())


def _damaged(path: Path) -> BankError:
    return BankError(f"{path} is missing or damaged; restore it from a copy")


@contextlib.contextmanager
def own_file(path: Path) -> Iterator[None]:
    """Read a file that the aggregator has written.

    Raises:
        BankError: it is missing or damaged.
        StorageError: it cannot be read.
    """
    try:
        with as_storage_error("read", path):
            yield
    except (ValidationError, SafetensorError, FileNotFoundError) as error:
        raise _damaged(path) from error
