"""The bank: admitted releases, content-addressed, with one small snapshot that says which of them are in force.

    <bank>/objects/<sha256>.safetensors   releases, and the background statistics that the gaussian router needs
    <bank>/bank.json                      the snapshot: canonical JSON without time or place

Objects are written before the snapshot that names them, and the snapshot is replaced atomically: a crash leaves the old
bank or the new one, and at worst files that nobody names, which the next change removes. The digest of the snapshot
depends only on the releases and their order, on every platform.

An aggregator's bank has a log, which is the truth (casam_fed.bank.bank_log): a change is recorded there after its objects
and before the snapshot, and `LayerBank.restore` brings a snapshot that a crash has left behind in line with the log.

A process keeps the releases that it has loaded, by their digests, up to a bound: what has the digest is what it was.
"""

import contextlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from casam_fed.bank.release import Release, parse
from casam_fed.bank.snapshot import MAX_SNAPSHOT_BYTES, Entry, Snapshot, read_snapshot
from casam_fed.errors import BankError, CasamError, ReleaseError, TrainingError
from casam_fed.host.files import as_storage_error, sha256_bytes, write_atomically
from casam_fed.host.locks import only_one
from casam_fed.routing.gaussian import Background, GaussianScorer

__all__ = ["Entry", "LayerBank", "Recorded", "Snapshot"]

Recorded = Callable[[Entry], object]
"""Writes an entry that was added or retired into the bank's log."""

_OBJECT_NAME = re.compile(r"[0-9a-f]{64}\.safetensors")

_KEPT_BYTES = 256 << 20
"""Of the releases that a process keeps; their tensors take as much again."""


class LayerBank:
    """A bank in a folder. One process at a time may change it; reading needs no lock."""

    def __init__(self, folder: Path) -> None:
        """Open a bank.

        Raises:
            BankError: there is no bank, its snapshot is damaged, or its background statistics are.
            StorageError: a file cannot be read.
        """
        self.folder = folder
        self._snapshot = read_snapshot(folder)
        self.background = _background(self.object_bytes(self._snapshot.background))

    @staticmethod
    def create(folder: Path, backbone: str, backbone_digest: str, background: Background) -> "LayerBank":
        """Create an empty bank for a backbone.

        Raises:
            BankError: the folder holds a bank already.
            StorageError: the disk is full or cannot be written.
        """
        data = _background_bytes(background)
        digest = sha256_bytes(data)
        with _only_writer(folder):
            if (folder / "bank.json").exists():
                raise BankError(f"{folder} holds a bank already; open it, or give another folder")
            _commit(folder, Snapshot(backbone, backbone_digest, digest, ()), {digest: data})
        return LayerBank(folder)

    @staticmethod
    def mirror(folder: Path, snapshot: Snapshot, objects: Mapping[str, bytes]) -> "LayerBank":
        """Bring a copy of a bank to a snapshot, given the objects it lacks, everything checked before it counts.

        Of an object that the copy holds for the same entry already, only the digest is checked again.

        Raises:
            BankError, ReleaseError: an object is missing, is not what its digest says, or contradicts its entry; the
                copy then stays at its old snapshot.
            StorageError: the disk is full or cannot be written.
        """
        fresh = {digest: objects[digest] for digest in snapshot.object_digests if digest in objects}
        with _only_writer(folder):
            held = _entries_held(folder, snapshot)
            background = _background(_object(folder, snapshot.background, fresh))
            for entry in snapshot.active:
                data = _object(folder, entry.digest, fresh)
                if entry.digest in fresh or entry not in held:
                    release = parse(data)
                    _check_entry(release, entry, snapshot, background)
                    _check_scores(release, background)
            _commit(folder, snapshot, fresh)
        return LayerBank(folder)

    @staticmethod
    def restore(folder: Path, snapshot: Snapshot) -> "LayerBank":
        """Bring a bank to the snapshot that its log leads to; where it is there already, nothing is written.

        Raises:
            BankError: an object of it is missing or damaged.
            StorageError: the disk is full or cannot be written.
        """
        with _only_writer(folder):
            if not _in_place(folder / "bank.json", snapshot.data):
                for digest in snapshot.object_digests:
                    _object(folder, digest)
                _commit(folder, snapshot, {})
        return LayerBank(folder)

    def snapshot(self) -> Snapshot:
        """Return what the bank holds."""
        return self._snapshot

    def entries(self) -> list[Entry]:
        """Return the active entries in the order of their admission."""
        return self._snapshot.active

    def admit(self, release: Release, record: Recorded | None = None) -> Entry:
        """Add a release and return its entry; a release that is in force already gives the entry it has.

        Args:
            release: of a task that is not in force.
            record: writes a new entry into the bank's log; what it raises leaves the bank as it was.

        Raises:
            BankError: another release is in force for the task, or the backbone is another one.
            ReleaseError: its statistics give no scores against this background.
            StorageError: the disk is full or cannot be written; the bank stays as it was.
        """
        card = release.card
        with self._changing():
            for entry in self._snapshot.active:
                if entry.digest == release.digest:
                    return entry
            if obstacle := self._obstacle(release):
                raise BankError(obstacle)
            _check_scores(release, self.background)
            entry = Entry(len(self._snapshot.entries), card.site, card.task, release.digest, len(release.data))
            snapshot = replace(self._snapshot, entries=(*self._snapshot.entries, entry))
            _commit(self.folder, snapshot, {release.digest: release.data}, partial(record, entry) if record else None)
        return entry

    def load(self, task: str) -> Release:
        """Return the release in force for a task; a process reads, checks and parses each but once while it keeps it.

        Raises:
            BankError: no such task, its file is missing or damaged, or is another task's.
            StorageError: the file cannot be read.
        """
        entry = self._entry(task)
        release = _loaded.get(entry.digest, lambda: parse(self.object_bytes(entry.digest)))
        _check_entry(release, entry, self._snapshot, self.background)
        return release

    def check_whole(self) -> None:
        """Read every object anew and check it against its digest and its entry.

        Raises:
            BankError, ReleaseError: one is missing or damaged, or contradicts its entry.
            StorageError: a file cannot be read.
        """
        _background(self.object_bytes(self._snapshot.background))
        for entry in self._snapshot.active:
            release = parse(self.object_bytes(entry.digest))
            _check_entry(release, entry, self._snapshot, self.background)
            _check_scores(release, self.background)

    def object_bytes(self, digest: str) -> bytes:
        """Return the bytes of an object after checking their digest.

        Raises:
            BankError: the file is missing or damaged.
            StorageError: the file cannot be read.
        """
        return _object(self.folder, digest)

    def retire(self, task: str, record: Recorded | None = None) -> Entry:
        """Withdraw a task and return its retired entry; no other entry changes by one bit.

        Args:
            task: in force.
            record: as for `admit`.

        Raises:
            BankError: no such task.
            StorageError: the disk is full or cannot be written; the bank stays as it was.
        """
        with self._changing():
            old = self._entry(task)
            new = replace(old, status="retired")
            entries = tuple(new if entry == old else entry for entry in self._snapshot.entries)
            _commit(self.folder, replace(self._snapshot, entries=entries), {}, partial(record, new) if record else None)
        return new

    def _obstacle(self, release: Release) -> str:
        if any(entry.task == release.card.task for entry in self._snapshot.active):
            return f"task {release.card.task} has another release in force; retire it before admitting this one"
        if not _same_backbone(release, self._snapshot, self.background):
            return (
                f"the release was made with another backbone than {self._snapshot.backbone}; train it again with that"
            )
        return ""

    def _entry(self, task: str) -> Entry:
        for entry in self._snapshot.active:
            if entry.task == task:
                return entry
        known = ", ".join(entry.task for entry in self._snapshot.active) or "none"
        raise BankError(f"the bank has no task {task}; choose one of: {known}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the bank's lock, and see what another process has changed meanwhile."""
        with _only_writer(self.folder):
            self._snapshot = read_snapshot(self.folder)
            try:
                yield
            finally:
                self._snapshot = read_snapshot(self.folder)


def _object_path(folder: Path, digest: str) -> Path:
    return folder / "objects" / f"{digest}.safetensors"


class _Loaded:
    """The releases that this process has loaded, the last used last."""

    def __init__(self, most_bytes: int) -> None:
        self._releases: OrderedDict[str, Release] = OrderedDict()
        self._bytes, self._most_bytes = 0, most_bytes
        self._lock = threading.Lock()

    def get(self, digest: str, load: Callable[[], Release]) -> Release:
        with self._lock:
            if digest in self._releases:
                self._releases.move_to_end(digest)
                return self._releases[digest]
            release = self._releases[digest] = load()
            self._bytes += len(release.data)
            while self._bytes > self._most_bytes and len(self._releases) > 1:
                self._bytes -= len(self._releases.popitem(last=False)[1].data)
            return release


_loaded = _Loaded(_KEPT_BYTES)


def _object(folder: Path, digest: str, given: Mapping[str, bytes] | None = None) -> bytes:
    """Return the bytes of an object, from the folder unless they are given, after checking their digest."""
    path = _object_path(folder, digest)
    defect = "is missing from the bank; restore it from a copy, or sync the bank again"
    with contextlib.suppress(FileNotFoundError), as_storage_error("read", path):
        data = given[digest] if given and digest in given else path.read_bytes()
        if sha256_bytes(data) == digest:
            return data
        defect = "is not what its name says, it was changed or damaged; delete it and sync the bank again"
    raise BankError(f"{path} {defect}")


def _entries_held(folder: Path, snapshot: Snapshot) -> set[Entry]:
    """Return the entries whose objects were checked for a copy that had the backbone and background of `snapshot`."""
    with contextlib.suppress(BankError):
        held = read_snapshot(folder)
        if (held.backbone_digest, held.background) == (snapshot.backbone_digest, snapshot.background):
            return set(held.active)
    return set()


def _same_backbone(release: Release, snapshot: Snapshot, background: Background) -> bool:
    made_with = (release.card.backbone_digest, release.card.channels)
    return made_with == (snapshot.backbone_digest, background.mean.numel())


def _check_entry(release: Release, entry: Entry, snapshot: Snapshot, background: Background) -> None:
    facts = (release.card.site, release.card.task, len(release.data))
    if facts != (entry.site, entry.task, entry.bytes) or not _same_backbone(release, snapshot, background):
        raise BankError(f"the release of task {entry.task} contradicts the snapshot; fetch both again")


def _check_scores(release: Release, background: Background) -> None:
    """One entry that no router can be built from would stop the routing of the whole bank."""
    try:
        GaussianScorer([release.router.gaussian], background)
    except TrainingError as error:
        raise ReleaseError(
            f"the statistics of task {release.card.task} give no scores against this bank's background; "
            "train it again on images that differ"
        ) from error


def _background_bytes(background: Background) -> bytes:
    return save({"mean": background.mean.contiguous(), "std": background.std.contiguous()})


def _background(data: bytes) -> Background:
    """Read the background statistics; the file must hold them and nothing else, as `_background_bytes` writes them."""
    with contextlib.suppress(SafetensorError, KeyError, CasamError):
        tensors = load(data)
        background = Background(tensors["mean"], tensors["std"])
        if _background_bytes(background) == data:
            return background
    raise BankError("the bank's background statistics are damaged or hold more than mean and std; sync the bank again")


def _commit(
    folder: Path, snapshot: Snapshot, fresh: Mapping[str, bytes], record: Callable[[], object] | None = None
) -> None:
    """Write the fresh objects, record the change, write the snapshot, then remove what it no longer names.

    The caller holds the lock. What goes wrong before the change is recorded takes back the objects that were not there
    before. After that the change has happened: a snapshot that cannot be written is made good by `LayerBank.restore`.
    """
    data = snapshot.data
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise BankError(f"the bank in {folder} lists as many releases as it can; create a new bank for more")
    created = [path for path in (_object_path(folder, digest) for digest in fresh) if not path.exists()]
    with contextlib.ExitStack() as undo:
        undo.callback(_take_back, created, folder, data)
        for digest, content in fresh.items():
            write_atomically(_object_path(folder, digest), content)
        if record is not None:
            record()
            undo.pop_all()
        write_atomically(folder / "bank.json", data)
        undo.pop_all()
    _sweep(folder, snapshot)


def _take_back(created: list[Path], folder: Path, data: bytes) -> None:
    # The folder may have refused to be flushed after the rename: then the snapshot is in place, and needs them.
    if not _in_place(folder / "bank.json", data):
        for path in created:
            path.unlink(missing_ok=True)


def _in_place(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _sweep(folder: Path, snapshot: Snapshot) -> None:
    """Remove objects that the snapshot does not name, and files that a crash left half written; nothing else."""
    kept = {f"{digest}.safetensors" for digest in snapshot.object_digests}
    objects = folder / "objects"
    with as_storage_error("tidy", objects):
        unnamed = [path for path in objects.iterdir() if _OBJECT_NAME.fullmatch(path.name) and path.name not in kept]
        for path in (*unnamed, *objects.glob(".*.safetensors.*.part"), *folder.glob(".bank.json.*.part")):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of the bank in `folder`, waiting for it; the system frees it when its process ends, however it ends."""
    path = folder / ".lock"
    with as_storage_error("lock", path):
        folder.mkdir(parents=True, exist_ok=True)
    with only_one(path):
        yield
