"""The bank: admitted releases, content-addressed, with one small snapshot that says which of them are in force.

    <bank>/objects/<sha256>.safetensors   releases, and the background statistics that the gaussian router needs
    <bank>/bank.json                      the snapshot: canonical JSON without time or place

Objects are written before the snapshot that names them, and the snapshot is replaced atomically: a crash leaves the old
bank or the new one, and at worst an object that nobody names. The digest of the snapshot depends only on the releases
and their order, on every platform.
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load, save

from casam_fed.card import Digest, Slug
from casam_fed.config import STRICT
from casam_fed.errors import BankError, CasamError
from casam_fed.files import sha256_bytes, write_atomically
from casam_fed.release import MAX_RELEASE_BYTES, Release, parse
from casam_fed.routing.gaussian import Background

__all__ = ["Entry", "LayerBank", "Snapshot"]

_MAX_SNAPSHOT_BYTES = 8 << 20


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
        plain = TypeAdapter(Snapshot).dump_python(self, mode="json")
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode("ascii")

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
        if len(data) > _MAX_SNAPSHOT_BYTES:
            raise BankError(f"a snapshot of {len(data):,} bytes is refused; fetch it again from the aggregator")
        try:
            snapshot = TypeAdapter(Snapshot).validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise BankError(f"the snapshot is not valid at '{place}'; fetch it again from the aggregator") from error
        tasks = [entry.task for entry in snapshot.active]
        numbers = [entry.sequence for entry in snapshot.entries]
        if snapshot.data != data or len(set(tasks)) != len(tasks) or numbers != list(range(len(numbers))):
            raise BankError("the snapshot contradicts itself or is not canonical; fetch it again from the aggregator")
        return snapshot


class LayerBank:
    """A bank in a folder. One process at a time may change it; reading needs no lock."""

    def __init__(self, folder: Path) -> None:
        """Open a bank.

        Raises:
            BankError: there is no bank, its snapshot is damaged, or its background statistics are.
        """
        self.folder = folder
        try:
            data = (folder / "bank.json").read_bytes()
        except FileNotFoundError as error:
            raise BankError(f"there is no bank in {folder}; create one, or give its folder") from error
        self._snapshot = Snapshot.parse(data)
        self.background = _background(self.object_bytes(self._snapshot.background))

    @staticmethod
    def create(folder: Path, backbone: str, backbone_digest: str, background: Background) -> "LayerBank":
        """Create an empty bank for a backbone.

        Raises:
            BankError: the folder holds a bank already.
            StorageError: the disk is full or cannot be written.
        """
        if (folder / "bank.json").exists():
            raise BankError(f"{folder} holds a bank already; open it, or give another folder")
        data = save({"mean": background.mean.contiguous(), "std": background.std.contiguous()})
        digest = sha256_bytes(data)
        write_atomically(_object_path(folder, digest), data)
        write_atomically(folder / "bank.json", Snapshot(backbone, backbone_digest, digest, ()).data)
        return LayerBank(folder)

    @staticmethod
    def mirror(folder: Path, snapshot: Snapshot, objects: Mapping[str, bytes]) -> "LayerBank":
        """Bring a copy of a bank to a snapshot, given the objects it lacks, everything checked before it counts.

        Raises:
            BankError, ReleaseError: an object is missing, is not what its digest says, or contradicts its entry; the
                copy then stays at its old snapshot.
            StorageError: the disk is full or cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with _only_writer(folder):
            named = {entry.digest: entry for entry in snapshot.active}
            for digest in snapshot.object_digests:
                path = _object_path(folder, digest)
                data = objects[digest] if digest in objects else _read_object(path)
                _check_digest(data, digest, path)
                if digest in named:
                    _check_entry(parse(data), named[digest], snapshot)
                else:
                    _background(data)
                if digest in objects:
                    write_atomically(path, data)
            write_atomically(folder / "bank.json", snapshot.data)
            _sweep(folder, snapshot)
        return LayerBank(folder)

    def snapshot(self) -> Snapshot:
        """Return what the bank holds."""
        return self._snapshot

    def entries(self) -> list[Entry]:
        """Return the active entries in the order of their admission."""
        return self._snapshot.active

    def admit(self, release: Release) -> Entry:
        """Add a release and return its entry; a release that is in force already gives the entry it has.

        Raises:
            BankError: another release is in force for the task, or the backbone is another one.
            StorageError: the disk is full or cannot be written; the bank stays as it was.
        """
        with self._changing():
            for entry in self._snapshot.active:
                if entry.digest == release.digest:
                    return entry
                if entry.task == release.card.task:
                    raise BankError(
                        f"task {entry.task} has another release in force; retire it before admitting this one"
                    )
            if release.card.backbone_digest != self._snapshot.backbone_digest:
                raise BankError(
                    f"the release was made with another backbone than {self._snapshot.backbone}; train it again with that"
                )
            card = release.card
            entry = Entry(len(self._snapshot.entries), card.site, card.task, release.digest, len(release.data))
            path = _object_path(self.folder, release.digest)
            write_atomically(path, release.data)
            try:
                self._replace(replace(self._snapshot, entries=(*self._snapshot.entries, entry)))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            return entry

    def load(self, task: str) -> Release:
        """Return the release in force for a task; its digest is checked on every call.

        Raises:
            BankError: no such task, or its file is missing or damaged.
        """
        entry = self._entry(task)
        return parse(self.object_bytes(entry.digest))

    def object_bytes(self, digest: str) -> bytes:
        """Return the bytes of an object after checking their digest.

        Raises:
            BankError: the file is missing or damaged.
        """
        path = _object_path(self.folder, digest)
        data = _read_object(path)
        _check_digest(data, digest, path)
        return data

    def retire(self, task: str) -> Entry:
        """Withdraw a task and return its retired entry; no other entry changes by one bit.

        Raises:
            BankError: no such task.
            StorageError: the disk is full or cannot be written; the bank stays as it was.
        """
        with self._changing():
            old = self._entry(task)
            new = replace(old, status="retired")
            entries = tuple(new if entry == old else entry for entry in self._snapshot.entries)
            self._replace(replace(self._snapshot, entries=entries))
            _sweep(self.folder, self._snapshot)
            return new

    def _entry(self, task: str) -> Entry:
        for entry in self._snapshot.active:
            if entry.task == task:
                return entry
        known = ", ".join(entry.task for entry in self._snapshot.active) or "none"
        raise BankError(f"the bank has no task {task}; choose one of: {known}")

    def _replace(self, snapshot: Snapshot) -> None:
        write_atomically(self.folder / "bank.json", snapshot.data)
        self._snapshot = snapshot

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the bank's lock, and see what another process has changed meanwhile."""
        with _only_writer(self.folder):
            self._snapshot = Snapshot.parse((self.folder / "bank.json").read_bytes())
            yield


def _object_path(folder: Path, digest: str) -> Path:
    return folder / "objects" / f"{digest}.safetensors"


def _read_object(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BankError(f"{path} is missing from the bank; restore it from a copy, or sync the bank again") from error


def _check_digest(data: bytes, digest: str, path: Path) -> None:
    if sha256_bytes(data) != digest:
        raise BankError(
            f"{path} is not what its name says, it was changed or damaged; delete it and sync the bank again"
        )


def _check_entry(release: Release, entry: Entry, snapshot: Snapshot) -> None:
    card = release.card
    facts = (card.site, card.task, card.backbone_digest, len(release.data))
    if facts != (entry.site, entry.task, snapshot.backbone_digest, entry.bytes):
        raise BankError(f"the release of task {entry.task} contradicts the snapshot; fetch both again")


def _background(data: bytes) -> Background:
    try:
        tensors = load(data)
        return Background(tensors["mean"], tensors["std"])
    except (SafetensorError, KeyError, CasamError) as error:
        raise BankError("the bank's background statistics are damaged; sync the bank again") from error


def _sweep(folder: Path, snapshot: Snapshot) -> None:
    """Remove objects that no snapshot names: retired ones, and those a crash left behind."""
    kept = set(snapshot.object_digests)
    for path in (folder / "objects").iterdir():
        if path.stem not in kept:
            path.unlink()


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
