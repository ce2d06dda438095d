"""Where a simulated run keeps its things. It lies on one disk only because it is simulated: every party has its own folder.

progress.jsonl, workers.log    what happened, by all processes of the run
seed-N/aggregator/             the aggregator's folder, as `casam-aggregator init` makes it
seed-N/sites/NAME/             a hospital's folder, as `casam-site init` makes it
seed-N/exports/                what an auditor gets of each
seed-N/looks/NAME.json         what only a researcher may see of a site
seed-N/results.json            what the seed came to
shared/NAME/                   splits, trained releases and scores of images, for runs that would make the same again
"""

import filecmp
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_fed.host.files import write_atomically
from casam_fed.host.line_log import append_event

__all__ = ["RunFolder", "SeedFolder", "SharedFolder"]

_CHECKPOINT = "training.safetensors"


@dataclass(frozen=True)
class SeedFolder:
    """The folder of one seed: a federation of its own."""

    path: Path

    @property
    def aggregator(self) -> Path:
        """The aggregator's folder."""
        return self.path / "aggregator"

    @property
    def sites(self) -> Path:
        """The hospitals' folders."""
        return self.path / "sites"

    @property
    def exports(self) -> Path:
        """What an auditor gets."""
        return self.path / "exports"

    @property
    def results(self) -> Path:
        """What the seed came to; written last."""
        return self.path / "results.json"

    def site(self, name: str) -> Path:
        """Return the folder of a hospital."""
        return self.sites / name

    def look(self, site: str) -> Path:
        """Return the file with what only a researcher may see of a site."""
        return self.path / "looks" / f"{site}.json"

    def read_look(self, site: str) -> dict[str, Any]:
        """Return what only a researcher may see of a site."""
        found: dict[str, Any] = json.loads(self.look(site).read_text())
        return found


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run of one or several seeds.

    Attributes:
        path: the folder.
        whole: the folder of the sweep that the run is part of; its own where it is alone.
    """

    path: Path
    whole: Path

    @property
    def progress(self) -> Path:
        """One JSON line per event, appended by all processes of the run."""
        return self.path / "progress.jsonl"

    @property
    def log(self) -> Path:
        """What the sites' workers log."""
        return self.path / "workers.log"

    @property
    def failure(self) -> Path:
        """Why the run stopped, if it did."""
        return self.path / "failure.txt"

    @property
    def overlays(self) -> Path:
        """Pictures of test images with their masks."""
        return self.path / "overlays"

    @property
    def flower_marker(self) -> Path:
        """Where Flower's processes are to be found while they run: one place for all runs of a sweep."""
        return self.whole / "flower-home.txt"

    def seed(self, number: int) -> SeedFolder:
        """Return the folder of a seed."""
        return SeedFolder(self.path / f"seed-{number}")

    @property
    def current(self) -> int:
        """The seed that is at work."""
        return int((self.path / "current-seed.txt").read_text())

    def begin(self, seed: int) -> SeedFolder:
        """Let a seed be the one at work, and return its folder, empty; what a killed run has trained in it is kept."""
        folder = self.seed(seed)
        for site in folder.sites.glob("*"):
            self.shared(site.name).take(site / "work", seed)
        shutil.rmtree(folder.path, ignore_errors=True)
        write_atomically(self.path / "current-seed.txt", str(seed).encode())
        return folder

    def shared(self, site: str) -> "SharedFolder":
        """Return what runs of a sweep share of a site."""
        return SharedFolder(self.whole / "shared" / site)

    def say(self, text: str) -> None:
        """Append one event to the progress file; lines this short reach the file whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        append_event(self.progress, text)

    def fail(self, reason: str) -> None:
        """Keep the reason for which the run stopped."""
        write_atomically(self.failure, reason.encode())


@dataclass(frozen=True)
class SharedFolder:
    """What the runs of a sweep share of a site: what they would compute again. Never keys, approvals or logs."""

    path: Path

    @property
    def split(self) -> Path:
        """The file that keeps the site's split."""
        return self.path / "split.json"

    def give(self, work: Path, seed: int) -> None:
        """Copy what there is into a site's `work` folder.

        Args:
            work: of the site.
            seed: of the run.
        """
        for name in self._names(seed, self.path):
            target = work / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path / name, target)

    def take(self, work: Path, seed: int) -> None:
        """Copy what a site has made; a checkpoint goes when the training that it belongs to has ended."""
        names = self._names(seed, work)
        for name in names:
            if not (self.path / name).exists() or not filecmp.cmp(work / name, self.path / name, shallow=False):
                write_atomically(self.path / name, (work / name).read_bytes())
        for name in set(self._names(seed, self.path)) - set(names):
            if name.name == _CHECKPOINT:
                (self.path / name).unlink()

    def _names(self, seed: int, folder: Path) -> list[Path]:
        """Return the names of the files to share that are in `folder`; the record of a release comes after the release."""
        seeded = Path(f"seed-{seed}")
        releases = [seeded / "outbox" / path.name for path in (folder / seeded / "outbox").glob("*.safetensors")]
        names = (_CHECKPOINT, "about.json", "image-scores.json", "outbox/submission.json")
        wanted = (Path("split.json"), *releases, *(seeded / name for name in names))
        return [name for name in wanted if (folder / name).exists()]
