"""The comparison of two exports: do both tell one history, of which one may have seen more, or two that contradict?

An aggregator that shows different logs to different sites, or a site that rewrites its own, is found by this alone: each
checkpoint is signed by the log's one key, and no log has two histories.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from casam_fed.audit.check_folder import CheckError, Folder, Manifest, UnsuitableError, read_manifest
from casam_fed.audit.check_log import Tree, read_checkpoint, read_tree
from casam_fed.audit.event import Event
from casam_fed.audit.show import events_of_export

__all__ = ["Comparison", "diff"]


@dataclass(frozen=True)
class Comparison:
    """One log in two exports.

    Attributes:
        kind: "site" or "bank".
        origin: name of the log.
        sizes: entries in the first and in the second export.
        common: entries at the beginning that both have.
        folders: the exports.
        other: name of the log in the second export, where a site has changed its key in between.
    """

    kind: str
    origin: str
    sizes: tuple[int, int]
    common: int
    folders: tuple[Folder, Folder]
    other: str = ""

    @property
    def result(self) -> str:
        """Tell "same"; "continued" where one has all that the other has, and more; "forked"; or "unrelated"."""
        if self.other:
            return "unrelated"
        if self.common < min(self.sizes):
            return "forked"
        return "same" if self.sizes[0] == self.sizes[1] else "continued"

    def only(self, which: int) -> Iterator[Event]:
        """Yield the events that only export `which` (0 or 1) has, by their form; none of unrelated logs."""
        if self.other:
            return iter(())
        return islice(events_of_export(self.folders[which], self.kind), self.common, None)

    def plain(self) -> dict[str, Any]:
        """Return the comparison as JSON holds it; entries by index and kind of event."""
        only = [
            [{"index": each.sequence, "event": each.event, "time": each.time} for each in self.only(w)] for w in (0, 1)
        ]
        facts = {name: getattr(self, name) for name in ("kind", "origin", "sizes", "common", "result")}
        return {**facts, "only": only}


def diff(first: Path, second: Path) -> list[Comparison]:
    """Compare the aggregator's log in two exports of a federation, and the site's where both are of the same site.

    Raises:
        UnsuitableError: they are of different federations, or of aggregators with different keys.
        CheckError: one is no export, or a log in it is not whole (codes up to `root`).
    """
    opened = [_opened(path) for path in (first, second)]
    (folder, manifest), (other_folder, other_manifest) = opened
    if manifest.federation != other_manifest.federation:
        raise UnsuitableError(
            f"{first} is of federation {manifest.federation} and {second} of {other_manifest.federation}: "
            "they have no log in common; give two exports of one federation"
        )
    compared = [_compared("bank", (first, second), (folder, other_folder))]
    if manifest.kind == other_manifest.kind == "site" and manifest.site == other_manifest.site:
        compared.append(_compared("site", (first, second), (folder, other_folder)))
    return compared


def _opened(path: Path) -> tuple[Folder, Manifest]:
    with _named(path):
        folder = Folder(path)
        return folder, read_manifest(folder)


def _compared(kind: str, paths: tuple[Path, Path], folders: tuple[Folder, Folder]) -> Comparison:
    trees: list[Tree] = []
    for path, folder in zip(paths, folders, strict=True):
        with _named(path):
            trees.append(read_tree(folder, kind, read_checkpoint(folder, kind)))
    first, second = trees
    origin, other = (tree.note.checkpoint.origin for tree in trees)
    if origin != other and kind == "site":
        return Comparison(kind, origin, (first.size, second.size), 0, folders, other)
    if origin != other:
        raise UnsuitableError(
            f"{paths[0]} holds the log {origin} and {paths[1]} the log {other}, which another key signs: these are two "
            "logs, not two histories of one; ask whose keys they are, and since when"
        )
    both = zip(first.leaves, second.leaves, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    return Comparison(kind, origin, (first.size, second.size), common, folders)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say of which of the two exports an error speaks."""
    try:
        yield
    except CheckError as error:
        raise CheckError(error.code, f"{path}: {error}") from error
