"""The export of a home for an auditor: its logs, and every file that their entries speak of, in a folder of its own.

Settings, keys and everything private are left alone: what no entry names is not looked at. The folder is made beside its
final place and renamed at the end, so that there is either a whole export or none.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from casam_fed import __version__
from casam_fed.audit.check_files import HEAD_BYTES, KEPT, MAX_RELEASE_BYTES, card_of, path_of
from casam_fed.audit.check_folder import GUIDES, MANIFEST, Manifest, UnsuitableError, guide, manifest_bytes
from casam_fed.audit.event import Event, read_entry
from casam_fed.audit.forms import NAME
from casam_fed.audit.note import Note
from casam_fed.audit.tiles import Log
from casam_fed.errors import LogError
from casam_fed.host.clock import utc_now
from casam_fed.host.files import as_storage_error, reason_of

__all__ = ["Exported", "Home", "events_in", "export", "find_home", "whose", "witnessed_of"]

_CHUNK_BYTES = 1 << 20
_MISSING = "missing"
_MEND = "free space, or give a folder that this user can write"


@dataclass(frozen=True)
class Home:
    """Where a site or an aggregator keeps its logs.

    Attributes:
        kind: "site" or "bank".
        path: the home.
        logs: "site" or "bank" -> folder; a site that has not met its aggregator yet has no "bank".
    """

    kind: str
    path: Path
    logs: dict[str, Path]


@dataclass
class Exported:
    """An export that was made.

    Attributes:
        manifest: what it says it is.
        files: number of files in it.
        entries: folder of a log -> number of entries.
        gaps: what the logs speak of and the home does not hold, or not as it was; one sentence each.
    """

    manifest: Manifest
    files: int = 0
    entries: dict[str, int] = field(default_factory=dict)
    gaps: list[str] = field(default_factory=list)


def find_home(path: Path, key: str = "") -> Home:
    """Find the logs in a home.

    Args:
        path: of a site or an aggregator.
        key: first digits of the fingerprint of the signing key whose log is meant; "" for the log that goes furthest.

    Raises:
        UnsuitableError: it is no home, or holds no log, or none of that key.
        LogError, SignatureError, StorageError: a log is damaged or cannot be read.
    """
    audit = path / "audit"
    if os.path.isfile(path / "site.yaml"):
        own = _newest([each for each in _logs(audit, "log-") if each.name.removeprefix("log-").startswith(key)])
        if own is not None:
            bank = _mirror(_logs(audit, "bank-"), own)
            return Home("site", path, {"site": own} | ({"bank": bank} if bank else {}))
        why_not = f"{path} holds no log{f' of key {key}' if key else ''} yet; see {audit} for those it has"
    elif os.path.isfile(path / "aggregator.yaml"):
        if not key and audit / "bank" in _logs(audit, "bank"):
            return Home("bank", path, {"bank": audit / "bank"})
        why_not = f"{path} holds no log yet; let casam-aggregator of this version make the folder"
        if key:
            why_not = "only a site's home has a log for each key; leave --key out"
    else:
        why_not = f"{path} is neither a site's folder nor an aggregator's; give one of those"
    raise UnsuitableError(why_not)


def whose(note: Note) -> tuple[str, str]:
    """Return of what kind a log is, "site" or "bank", and the name of the site or federation, by its checkpoint.

    Raises:
        UnsuitableError: it is no log of ours.
    """
    parts = note.checkpoint.origin.split("/")
    if len(parts) != 4 or parts[0] != "casam-fed" or parts[1] not in ("site", "bank"):
        raise UnsuitableError(f"{note.checkpoint.origin} is no log of casam-fed; give the folder of one that is")
    return parts[1], parts[2]


def events_in(log: Log, owner: str) -> Iterator[Event]:
    """Yield the events of a log by their form; whether their signatures fit is for `casam_fed.audit.verify` to say.

    Raises:
        LogError, SignatureError, NewerFormatError, StorageError: the log is damaged, not readable, or newer.
    """
    for entry in log.entries():
        yield read_entry(entry, owner)


def export(path: Path, out: Path, key: str = "") -> Exported:
    """Make the export of a home.

    Args:
        path: of a site or an aggregator.
        out: folder to make; it must not exist, or be empty.
        key: as for `find_home`.

    Raises:
        UnsuitableError: as `find_home`; there is something at `out`; or the site has not met its aggregator yet.
        LogError, SignatureError, NewerFormatError: a log is damaged.
        StorageError: something cannot be read or written. Whatever is raised, nothing stays at `out`.
    """
    home = find_home(path, key)
    if home.kind == "site" and "bank" not in home.logs:
        raise UnsuitableError(f"{path} has no copy of its aggregator's log yet; export again after casam-site join")
    with as_storage_error("write", out, _MEND):
        if os.path.lexists(out) and (out.is_symlink() or not out.is_dir() or any(out.iterdir())):
            raise UnsuitableError(f"there is something at {out} already; give the name of a new folder")
        out.parent.mkdir(parents=True, exist_ok=True)
        with _all_or_nothing(out) as folder:
            return _filled(folder, home)


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` that takes its place at the end."""
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        yield temporary
        os.rename(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _filled(folder: Path, home: Home) -> Exported:
    # Cosigned checkpoints are read before the logs, which only grow: none may be ahead of its log. And the site's log is
    # read before the aggregator's, which holds what the site was told.
    seen = {kind: witnessed_of(home.logs[kind]) for kind in home.logs}
    logs = {kind: Log(home.logs[kind]) for kind in ("site", "bank") if kind in home.logs}
    names = {kind: whose(log.note)[1] for kind, log in logs.items()}
    made = Exported(Manifest(home.kind, names["bank"], names.get("site", ""), utc_now(), __version__))
    copy = _Copy(folder, home.path, made)
    for kind, log in logs.items():
        made.entries[kind] = log.size
        copy.put(f"{kind}/checkpoint", log.note.data)
        for name, data in log.files():
            copy.put(f"{kind}/{name}", data)
        for witness, note in seen[kind].items():
            # A site's export has one witness of each log; whoever verifies it has no key of another.
            if home.kind == "bank" or witness in ("bank", names["site"]):
                copy.put(f"{kind}/witnessed/{witness}", note.data)
    if home.kind == "site":
        _copy_of_site(copy, logs["site"], logs["bank"])
    else:
        _copy_of_bank(copy, logs["bank"])
    for name in GUIDES:
        if (text := guide(name)) is not None:
            copy.put(name, text)
    copy.put(MANIFEST, manifest_bytes(made.manifest))
    return made


def _copy_of_site(copy: "_Copy", log: Log, bank: Log) -> None:
    decisions: dict[str, int] = {}
    for event in events_in(log, "the site's log"):
        if event.event == "approved":
            copy.release(event, sorted(copy.home.glob(f"work/seed-*/outbox/{event.subjects['release']}.safetensors")))
            copy.statement(event)
        elif event.event == "intent":
            copy.kept("payload", event.subjects["payload"], "audit/payloads")
        elif event.event == "receipt":
            copy.kept("receipt", event.subjects["receipt"], "audit/receipts")
            decisions[event.subjects["release"]] = event.facts["decision"]
    for release, decision in decisions.items():
        path = path_of("proof", release)
        if decision < bank.size:
            copy.put(path, bank.proof(decision).data)
        else:
            copy.made.gaps.append(f"{path}: the copy of the aggregator's log ends before entry {decision}")


def _copy_of_bank(copy: "_Copy", log: Log) -> None:
    last: dict[tuple[str, str], Event] = {}
    for event in events_in(log, "the aggregator's log"):
        if "release" in event.subjects:
            last[event.facts["site"], event.subjects["release"]] = event
        if event.event in KEPT or ("statement" in event.subjects and copy.has_statement(event)):
            copy.statement(event)
    for (site, release), event in last.items():
        if event.event in KEPT:
            name = f"{release}.safetensors"
            copy.release(event, [copy.home / "bank" / "objects" / name, copy.home / "quarantine" / site / name])


class _Copy:
    """What goes from a home into an export, each file once; the folder and its parts are for this user alone."""

    def __init__(self, folder: Path, home: Path, made: Exported) -> None:
        self.home = home
        self.made = made
        self._folder = folder
        self._tried: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        path = self._new(name)
        with open(path, "xb", opener=_private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.made.files += 1

    def kept(self, role: str, digest: str, folder: str) -> None:
        self._take(path_of(role, digest), digest, [self.home / folder / f"{digest}.json"])

    def statement(self, event: Event) -> None:
        self.kept("statement", event.subjects["statement"], "audit/statements")

    def has_statement(self, event: Event) -> bool:
        return (self.home / "audit" / "statements" / f"{event.subjects['statement']}.json").is_file()

    def release(self, event: Event, places: list[Path]) -> None:
        """Copy a release and the card in it."""
        digest = event.subjects["release"]
        name = path_of("release", digest)
        if self._take(name, digest, places):
            with (self._folder / name).open("rb") as file:
                card = card_of(file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size)
            if card is not None:
                path = path_of("card", hashlib.sha256(card).hexdigest())
                if path not in self._tried:
                    self._tried.add(path)
                    self.put(path, card)

    def _take(self, name: str, digest: str, places: list[Path]) -> bool:
        """Copy the first of these files that is what its digest says; tell whether a copy was made now."""
        if name in self._tried:
            return False
        self._tried.add(name)
        reason = "the home holds none"
        for path in places:
            why_not = self._copied(path, name, digest)
            if not why_not:
                self.made.files += 1
                return True
            reason = why_not if why_not != _MISSING else reason
        self.made.gaps.append(f"{name}: {reason}")
        return False

    def _copied(self, path: Path, name: str, digest: str) -> str:
        """Copy a plain file; return "" or why not."""
        target = self._new(name)
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return _MISSING
        except OSError as error:
            return f"{path} cannot be read ({reason_of(error)})"
        found = hashlib.sha256()
        with os.fdopen(source, "rb") as file, open(target, "xb", opener=_private) as out:
            status = os.fstat(source)
            if stat.S_ISREG(status.st_mode) and status.st_size <= MAX_RELEASE_BYTES:
                while chunk := file.read(_CHUNK_BYTES):
                    found.update(chunk)
                    out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if found.hexdigest() == digest:
            return ""
        target.unlink()
        return f"{path} is not what it was; restore it from a copy"

    def _new(self, name: str) -> Path:
        path = self._folder / name
        # Not parents=True: folders above would be as wide as the umask lets them.
        for parent in reversed(path.relative_to(self._folder).parents):
            (self._folder / parent).mkdir(mode=0o700, exist_ok=True)
        return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _logs(audit: Path, prefix: str) -> list[Path]:
    """Return the folders of logs whose names begin so."""
    with as_storage_error("read", audit, "let this user read it"):
        try:
            found = sorted(os.listdir(audit))
        except FileNotFoundError:
            return []
    # os.path says no where pathlib raises: the folder may be another user's.
    return [audit / name for name in found if name.startswith(prefix) and os.path.isfile(audit / name / "checkpoint")]


def _newest(folders: list[Path]) -> Path | None:
    """Return the log with the newest last entry."""
    return max(folders, key=_last_time, default=None)


def _last_time(folder: Path) -> str:
    log = Log(folder)
    owner = f"the log {folder}"
    return read_entry(log.entry(log.size - 1), owner).time if log.size else ""


def _mirror(folders: list[Path], own: Path) -> Path | None:
    """Return the copy of the log of the aggregator that a site's log spoke of last."""
    federation = ""
    for event in events_in(Log(own), "the site's log"):
        federation = event.facts.get("federation", federation)
    return _newest([each for each in folders if whose(Log(each).note)[1] == federation or not federation])


def witnessed_of(folder: Path) -> dict[str, Note]:
    """Return what witnesses have cosigned of a log, by name."""
    notes: dict[str, Note] = {}
    log = Log(folder)
    with as_storage_error("read", folder / "witnessed", "let this user read it"):
        try:
            names = sorted(os.listdir(folder / "witnessed"))
        except FileNotFoundError:
            return notes
    for name in filter(NAME.fullmatch, names):
        # A temporary file that a crash has left has no such name. What a damaged one lacks is found by whoever verifies.
        with suppress(LogError):
            if (note := log.witnessed(name)) is not None:
                notes[name] = note
    return notes
