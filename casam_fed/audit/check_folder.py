"""An export's folder as an auditor opens it: plain files only, each looked at by its size before it is read.

Nothing that an export holds is trusted: links are not followed, and what was not asked for by some check is surplus.
"""

import hashlib
import importlib.resources
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath

from casam_fed.audit.forms import NAME, SIZES, is_time
from casam_fed.canonical import canonical_json
from casam_fed.errors import CasamError, LogError, SignatureError
from casam_fed.host.files import reason_of

__all__ = [
    "CODES",
    "GUIDES",
    "MANIFEST",
    "CheckError",
    "Finding",
    "Folder",
    "Manifest",
    "UnsuitableError",
    "as_check_error",
    "end_at_first",
    "guide",
    "manifest_bytes",
    "read_manifest",
]

FORMAT = 1
"""Of an export folder; a reader refuses what is newer."""
MANIFEST = "export.json"
GUIDES = ("VERIFY.md", "verify.sh")
"""What comes with every export: how to verify it, and a program for that."""

_INCOMPLETE = (
    "key-form empty no-manifest newer-format key-missing checkpoint-missing tiles-missing newer-event release-missing "
    "card-missing statement-missing payload-missing receipt-missing proof-missing"
)
_FAILED = (
    "manifest-form checkpoint-form checkpoint-origin checkpoint-key checkpoint-signature entry-cut entry-surplus "
    "hash-tile root entry-form entry-type entry-key entry-signature event-form sequence chain clock foreign event-order "
    "not-approved cosignature-missing cosignature-form cosignature-key cosignature-signature fork cosignature-stale "
    "release-digest release-size card-digest card-release statement-size statement-digest statement-form statement-key "
    "statement-signature statement-release payload-digest receipt-digest receipt-form receipt-signature receipt-release "
    "proof-form proof-index proof-path proof-root proof-checkpoint receipt-decision admitted-not-sent admitted-other "
    "surplus"
)
CODES = dict.fromkeys(_INCOMPLETE.split(), 2) | dict.fromkeys(_FAILED.split(), 1)
"""Why a verification ends -> exit code: 2 where something is not there to be checked, 1 where something is wrong."""

_MAX_MANIFEST_BYTES = 64 << 10
_AGAIN = "export again where it was made"


class CheckError(CasamError):
    """What ends a verification: one of `CODES`, and a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        """Take a code and the sentence that explains it."""
        super().__init__(sentence)
        self.code = code

    @property
    def exit_code(self) -> int:
        """1 or 2, as `CODES` says."""
        return CODES[self.code]


class UnsuitableError(CasamError):
    """What was given is not what a command works on; nothing was checked."""


Finding = tuple[str, str]
"""What a check has found to be wrong: one of `CODES`, and a sentence. A check yields its findings in their order."""


def end_at_first(findings: Iterable[Finding]) -> None:
    """End a verification at the first thing that is wrong.

    Raises:
        CheckError: with its code and sentence.
    """
    for code, sentence in findings:
        raise CheckError(code, sentence)


@contextmanager
def as_check_error(
    code: str, sentence: str = "", of: tuple[type[CasamError], ...] = (LogError, SignatureError), about: str = ""
) -> Iterator[None]:
    """End a verification where something is not in its form, or not signed as it should be.

    Args:
        code: one of `CODES`.
        sentence: what to say; "" to say what the error says.
        of: the errors that end it.
        about: what the error speaks of, said before its own sentence.

    Raises:
        CheckError: with that code.
    """
    try:
        yield
    except of as error:
        raise CheckError(code, sentence or f"{about}{error}") from error


class Folder:
    """The files of an export."""

    def __init__(self, path: Path) -> None:
        """List a folder.

        Raises:
            CheckError: `empty`: there is no such folder, or nothing is in it.
        """
        self.path = path
        self._sizes: dict[str, int] = {}
        self._others: list[str] = []
        self._accounted: set[str] = set()
        if os.path.isdir(path):
            self._list()
        if not self._sizes and not self._others:
            raise CheckError(
                "empty",
                f"there is no folder {path}, or nothing in it; give the folder that casam-audit export has made",
            )

    def has(self, name: str) -> bool:
        """Tell whether there is a plain file of that relative name; if so, it is accounted for."""
        if name not in self._sizes:
            return False
        self._accounted.add(name)
        return True

    def need(self, name: str, missing: str) -> None:
        """Check that there is a plain file of that relative name.

        Raises:
            CheckError: `missing`; `surplus` where a link, or what cannot be read, is in the place of its folder.
        """
        if self.has(name):
            return
        outside = [
            ("surplus", f"{parent} is no folder in the export, but leads out of it; {_AGAIN}")
            for parent in map(str, PurePosixPath(name).parents)
            if parent in self._others
        ]
        end_at_first([*outside, (missing, f"{name} is not in the export; {_AGAIN}")])

    def size(self, name: str) -> int:
        """Return the bytes of a file that is there."""
        return self._sizes[name]

    def count(self, folder: str) -> int:
        """Return how many plain files are below a relative folder, at any depth."""
        return sum(name.startswith(f"{folder}/") for name in self._sizes)

    def names(self, folder: str) -> list[str]:
        """Return the names of the plain files right in a relative folder, sorted."""
        inside = (name.removeprefix(f"{folder}/") for name in self._sizes if name.startswith(f"{folder}/"))
        return sorted(name for name in inside if "/" not in name)

    def read(self, name: str, most: int, missing: str, larger: str) -> bytes:
        """Return the bytes of a file.

        Args:
            name: relative, with slashes.
            most: bytes it may have.
            missing, larger: codes to end with.

        Raises:
            CheckError: it is not there, cannot be read, or has more than `most` bytes.
        """
        with self._opened(name, most, missing, larger) as file:
            # Room for as many bytes as are asked for is made before any is read.
            return file.read(self._sizes[name])

    def digest(self, name: str, most: int, missing: str, larger: str) -> str:
        """Return the SHA-256 of a file in hexadecimal, read in chunks.

        Raises:
            CheckError: as `read`.
        """
        with self._opened(name, most, missing, larger) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def start(self, name: str, count: int, missing: str) -> bytes:
        """Return the first `count` bytes of a file, or all if it has fewer.

        Raises:
            CheckError: it is not there or cannot be read.
        """
        with self._opened(name, self._sizes.get(name, 0), missing, missing) as file:
            return file.read(min(count, self._sizes[name]))

    def surplus(self) -> str:
        """Return the first file, link or other thing that nothing has accounted for, "" for none."""
        return min([*(self._sizes.keys() - self._accounted), *self._others], default="")

    @contextmanager
    def _opened(self, name: str, most: int, missing: str, larger: str) -> Iterator[BufferedReader]:
        self.need(name, missing)
        size = self._sizes[name]
        if size > most:
            raise CheckError(larger, f"{name} has {size:,} bytes, and at most {most:,} are read; {_AGAIN}")
        try:
            descriptor = os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                # What grows later is not read any further than it was long.
                if not stat.S_ISREG(status.st_mode) or status.st_size > size:
                    raise CheckError(missing, f"{name} is no plain file any more, or grew meanwhile; {_AGAIN}")
                yield file
        except OSError as error:
            reason = reason_of(error)
            raise CheckError(missing, f"{name} cannot be read: {reason}; let this user read the export") from error

    def _list(self) -> None:
        waiting = [""]
        while waiting:
            prefix = waiting.pop()
            try:
                waiting += self._list_one(prefix)
            except OSError:
                # What is in it cannot be known: it can only be surplus.
                self._others.append(prefix.removesuffix("/") or ".")

    def _list_one(self, prefix: str) -> list[str]:
        folders: list[str] = []
        for each in os.scandir(self.path / prefix):
            name = prefix + each.name
            if each.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            elif each.is_file(follow_symlinks=False):
                self._sizes[name] = each.stat(follow_symlinks=False).st_size
            else:
                self._others.append(name)
        return folders


@dataclass(frozen=True)
class Manifest:
    """What an export says it is.

    Attributes:
        kind: "site" or "bank", whose home it was made from.
        federation: its name.
        site: name of the site, "" for kind bank.
        made: UTC, YYYY-MM-DDThh:mm:ssZ.
        code: version of casam-fed that made it.
    """

    kind: str
    federation: str
    site: str
    made: str
    code: str

    @property
    def logs(self) -> tuple[str, ...]:
        """The folders of the logs in it, in the order in which they are checked."""
        return ("bank", "site") if self.kind == "site" else ("bank",)


def guide(name: str) -> bytes | None:
    """Return one of `GUIDES` as this version has it; None where it was installed without."""
    file = importlib.resources.files("casam_fed.audit") / name
    return file.read_bytes() if file.is_file() else None


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the one form of a manifest: canonical JSON and a newline."""
    fields = {name: getattr(manifest, name) for name in ("kind", "federation", "site", "made", "code")}
    return (canonical_json({"format": FORMAT, **fields}) + "\n").encode("ascii")


def read_manifest(folder: Folder) -> Manifest:
    """Return the manifest of an export.

    Raises:
        CheckError: `no-manifest`, `newer-format`, or `manifest-form`: it is not exactly in its form.
    """
    data = folder.read(MANIFEST, _MAX_MANIFEST_BYTES, "no-manifest", "manifest-form")
    form = manifest = None
    with suppress(ValueError, KeyError, TypeError, RecursionError, AttributeError):
        content = json.loads(data.decode("ascii"))
        form = content.pop("format")
        read = Manifest(**content)
        if form == FORMAT and _fits(read) and manifest_bytes(read) == data:
            manifest = read
    if manifest is None:
        newer = type(form) is int and form in SIZES and form > FORMAT
        raise CheckError(*(_newer(form) if newer else _UNLIKE))
    return manifest


_UNLIKE = ("manifest-form", f"{MANIFEST} does not say what the export is in its one form; {_AGAIN}")


def _newer(form: object) -> Finding:
    return "newer-format", f"the export has format {form}, and {FORMAT} is the newest known here; use a newer casam-fed"


def _fits(manifest: Manifest) -> bool:
    if manifest.kind not in ("site", "bank") or not is_time(manifest.made):
        return False
    names = [manifest.federation, manifest.code, *([manifest.site] if manifest.kind == "site" else [])]
    return all(map(NAME.fullmatch, names)) and (manifest.kind == "site" or manifest.site == "")
