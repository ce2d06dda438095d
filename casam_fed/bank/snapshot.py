"""The bank's snapshot: what it holds, small and canonical, so that its digest stands for the whole bank. Needs no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.canonical import canonical_json
from casam_fed.errors import BankError
from casam_fed.forms import MAX_RELEASE_BYTES, STRICT, Digest, Slug
from casam_fed.host.files import as_storage_error, sha256_bytes

__all__ = ["MAX_SNAPSHOT_BYTES", "Entry", "Snapshot", "read_snapshot"]

MAX_SNAPSHOT_BYTES = 8 << 20


@dataclass(frozen=True, config=STRICT)
class Entry:
    """One admitted release: `sequence` counts admissions from 0, `bytes` is the size, `digest` the SHA-256."""

    sequence: Annotated[int, Field(ge=0)]
    site: Slug
    task: Slug
    digest: Digest
    bytes: Annotated[int, Field(ge=0, le=MAX_RELEASE_BYTES)]
    status: Literal["active", "retired"] = "active"


@dataclass(frozen=True, config=STRICT)
class Snapshot:
    """What the bank holds: the backbone it belongs to, the digest of its background statistics, and all entries."""

    backbone: Slug
    backbone_digest: Digest
    background: Digest
    entries: tuple[Entry, ...]
    schema_version: Literal[1] = 1

    @property
    def data(self) -> bytes:
        """The canonical JSON: sorted keys, no spaces, ASCII."""
        plain = _SNAPSHOT.dump_python(self, mode="json")
        return canonical_json(plain).encode("ascii")

    @property
    def digest(self) -> str:
        """SHA-256 of `data`: the digest of the bank."""
        return sha256_bytes(self.data)

    @property
    def active(self) -> list[Entry]:
        """The entries in force, in the order of their admission."""
        return [entry for entry in self.entries if entry.status == "active"]

    @property
    def object_digests(self) -> list[str]:
        """Digests of all objects that a copy of this bank needs."""
        return [self.background, *(entry.digest for entry in self.active)]

    @staticmethod
    def parse(data: bytes) -> "Snapshot":
        """Parse a snapshot from outside.

        Raises:
            BankError: too large, not a snapshot, not canonical, or entries that contradict each other.
        """
        defect = f"has {len(data):,} bytes"
        if len(data) <= MAX_SNAPSHOT_BYTES:
            try:
                snapshot = _SNAPSHOT.validate_json(data)
                tasks = [entry.task for entry in snapshot.active]
                numbers = [entry.sequence for entry in snapshot.entries]
                if snapshot.data == data and len(set(tasks)) == len(tasks) and numbers == list(range(len(numbers))):
                    return snapshot
                defect = "contradicts itself or is not canonical"
            except ValidationError as error:
                place = ".".join(str(part) for part in error.errors()[0]["loc"])
                defect = f"is not valid at '{place}'"
        raise BankError(f"the snapshot {defect}; fetch it again from the aggregator")


_SNAPSHOT = TypeAdapter(Snapshot)


def read_snapshot(folder: Path) -> Snapshot:
    """Return the snapshot of the bank in `folder`.

    Raises:
        BankError: there is no bank, or its snapshot is damaged.
        StorageError: the file cannot be read.
    """
    path = folder / "bank.json"
    try:
        with as_storage_error("read", path):
            return Snapshot.parse(path.read_bytes())
    except FileNotFoundError as error:
        raise BankError(f"there is no bank in {folder}; create one, or give its folder") from error
