"""Where a simulated run keeps its things: one folder that aggregator and sites share only because they are simulated."""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from casam_fed.host.files import write_atomically

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """The layout below the folder of a run; runs of one sweep share the folder of their sites."""

    path: Path
    shared_sites: Path | None = None

    @property
    def results(self) -> Path:
        """What the aggregator collected."""
        return self.path / "results.json"

    @property
    def progress(self) -> Path:
        """One JSON line per event, appended by all processes of the run."""
        return self.path / "progress.jsonl"

    @property
    def failure(self) -> Path:
        """Why the run stopped, if it did."""
        return self.path / "failure.txt"

    @property
    def sites(self) -> Path:
        """The private folders of the sites."""
        return self.shared_sites or self.path / "sites"

    @property
    def flower_marker(self) -> Path:
        """Where Flower's processes are to be found while they run: one place for all runs of a sweep."""
        return self.sites.parent / "flower-home.txt"

    def site(self, name: str) -> Path:
        """Return the private folder of a site."""
        return self.sites / name

    def site_log(self, name: str) -> Path:
        """Return the log of a site, its folder made."""
        folder = self.site(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "log.txt"

    def say(self, text: str) -> None:
        """Append one event to the progress file; lines this short reach the file whole."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.progress.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "text": text}) + "\n")

    def fail(self, reason: str) -> None:
        """Keep the reason for which the run stopped."""
        write_atomically(self.failure, reason.encode())

    def about(self, site: str, seed: str) -> dict[str, Any]:
        """Return a site's counts of images and its notes about its data; a deployed site keeps them to itself."""
        about: dict[str, Any] = json.loads((self.site(site) / f"seed-{seed}" / "about.json").read_text())
        return about

    def gather_overlays(self, sites: Sequence[str]) -> None:
        """Copy the pictures that the sites drew for themselves into the report; a deployed site keeps them."""
        for name in sites:
            for picture in sorted((self.site(name) / "overlays").glob("*.png")):
                target = self.path / "overlays" / picture.name
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(picture, target)
