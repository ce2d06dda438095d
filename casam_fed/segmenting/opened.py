"""A bank that is loaded once and segments many images: each case is routed as one, then each of its planes segmented."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from casam_fed.backbone.model import load_backbone
from casam_fed.backbone.preparation import Fit
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.data.volume import Intensity, Percentiles
from casam_fed.errors import BankError, ConfigError, DataError
from casam_fed.inference.segmenter import Prompt, Route, Segmenter, decode_prompts
from casam_fed.method.embeddings import as_stored
from casam_fed.routing.pooling import pool
from casam_fed.routing.route import RouterKind
from casam_fed.segmenting.case import Case, Marked, picture_of, read_case
from casam_fed.segmenting.prompt_file import marked_in

__all__ = ["CaseRoute", "Found", "OpenedBank", "bank_folder", "open_bank", "segment"]

_FARTHEST = 1e3
"""An alignment layer that moves an embedding to so many times its size has gone wrong; those measured stay below 3."""


@dataclass(frozen=True)
class CaseRoute:
    """Which task segments a case, and why.

    Attributes:
        task: whose alignment layer was taken; None is plain SAM.
        site: who trained it; None for plain SAM.
        chosen_by: "router", or "user" who overruled it.
        nearest, score, threshold, strength, second, second_score: what the router found, as in `Route`.
        entry: SHA-256 of the task's release; None for plain SAM.
        bank: digest of the bank.
        why: all this in one sentence.
    """

    task: str | None
    site: str | None
    chosen_by: Literal["router", "user"]
    nearest: str | None
    score: float
    threshold: float
    strength: float
    second: str | None
    second_score: float
    entry: str | None
    bank: str
    why: str


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a case.

    Attributes:
        masks: class -> bool [H, W] of a picture; of a volume, in the order in which nibabel or SimpleITK give its voxels.
        route: which task was taken, and why.
        notes: sentences that whoever uses the masks should read.
        logits: class -> float32 of the masks' shape, where they were asked for: above 0 is inside; -inf where no
            prompt reaches.
    """

    masks: Mapping[str, npt.NDArray[np.bool_]]
    route: CaseRoute
    notes: tuple[str, ...] = ()
    logits: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)


class OpenedBank:
    """A bank at work; `open_bank` makes one. What it needs of a task is read when it is first needed, and once.

    Attributes:
        segmenter: the bank with its router.
        digest: of the bank.
        tasks: those among which cases are routed.
        own: those of them that are asked first; the others only where these say unknown.
    """

    def __init__(self, segmenter: Segmenter, own: str | None = None) -> None:
        """Take a bank with its router; `own` is the site whose tasks are asked first, None for nobody."""
        self.segmenter = segmenter
        snapshot = segmenter.bank.snapshot()
        self.digest = snapshot.digest
        self.tasks = segmenter.tasks
        self._sites = {entry.task: entry.site for entry in segmenter.bank.entries()}
        self.own = tuple(task for task in self.tasks if self._sites[task] == own)

    def segment(
        self,
        image: npt.NDArray[Any] | Path | str | Case,
        boxes: Mapping[str, Iterable[Sequence[float]]] | None = None,
        points: Mapping[str, Iterable[Sequence[float]]] | None = None,
        *,
        task: str = "auto",
    ) -> Found:
        """Segment what is marked in an image.

        Args:
            image: uint8 [H, W, 3] or grey [H, W]; or the path of a picture or volume.
            boxes: class -> boxes (x0, y0, x1, y1) of first and last pixels counted from 0; (x0, y0, z0, x1, y1, z1) in a
                volume.
            points: class -> clicks inside, (x, y) or (x, y, z); they go with the box of the class where there is one.
            task: "auto" lets the router choose, "none" is plain SAM; a name overrules the router.

        Raises:
            DataError: the image cannot be read, or a prompt is missing or not in it.
            ConfigError: the bank has no such task.
            BankError: an entry's file is missing or damaged.
        """
        if isinstance(image, str | Path):
            case = read_case(Path(image))
        else:
            case = image if isinstance(image, Case) else picture_of(image)
        return self.segment_marked(case, marked_in(boxes or {}, points or {}), task=task)

    def segment_marked(
        self, case: Case, marked: Sequence[Marked], *, task: str = "auto", with_logits: bool = False
    ) -> Found:
        """Segment what is marked in a case; otherwise as `segment`."""
        self.require_task(task)
        if not marked:
            raise DataError(
                f"{case.path} has no prompt, and SAM segments what is marked; give a box (--boxes) or a click (--points) "
                "for each target"
            )
        by_plane: dict[int, list[Marked]] = {}
        for each in marked:
            for z, here in case.on_planes(each):
                by_plane.setdefault(z, []).append(here)
        planes = sorted(by_plane)
        embedded: dict[Intensity, list[Tensor]] = {}
        route = self._route(case, planes, embedded, task)
        intensity = self._intensity(route.task or (route.nearest if task == "auto" else None))
        self._embed(case, planes, embedded, intensity)
        frame = self.segmenter.frame(case.shape[1:])
        labels = list(dict.fromkeys(each.label for each in marked))
        masks = {label: np.zeros(case.shape, dtype=np.bool_) for label in labels}
        logits = {label: np.full(case.shape, -np.inf, dtype=np.float32) for label in labels if with_logits}
        unsound = 0
        for z, embedding in zip(planes, embedded[intensity], strict=True):
            plain = embedding.float()
            aligned = self.segmenter.aligned(plain, route.task)
            if not _is_sound(aligned, plain):
                unsound += 1
                aligned = plain
            prompts = [_prompt(each) for each in by_plane[z]]
            for number, values in decode_prompts(self.segmenter.backbone, aligned, frame, prompts):
                label = by_plane[z][number].label
                masks[label][z] |= values > 0
                if with_logits:
                    np.maximum(logits[label][z], values, out=logits[label][z])
        notes = list(case.notes)
        if unsound:
            notes.append(
                f"the layer of {route.task} gave no usable embedding for {unsound} of {len(planes)} images; plain SAM "
                "segmented these"
            )
        if empty := [label for label, mask in masks.items() if not mask.any()]:
            notes.append(f"nothing was found where {', '.join(empty)} was marked")
        if route.task is not None and (strange := self._unknown_labels(labels, route.task)):
            notes.append(
                f"{route.task} was trained on {', '.join(self._classes(route.task))}, not on {', '.join(strange)}; what "
                "was marked is segmented all the same"
            )
        return Found(
            {label: case.to_file(mask) for label, mask in masks.items()},
            route,
            tuple(notes),
            {label: case.to_file(values) for label, values in logits.items()},
        )

    def require_task(self, task: str, labels: Sequence[str] = ()) -> None:
        """Check that a task can be asked for, and has the classes with these names.

        Raises:
            ConfigError: it is neither "auto", "none" nor in the bank, or lacks a class; the message has the nearest name.
        """
        if task in ("auto", "none"):
            return
        if task not in self.tasks:
            raise ConfigError(
                f"the bank has no task '{task}'; did you mean '{_nearest(task, self.tasks)}'? It has "
                f"{', '.join(self.tasks)}; auto routes, none is plain SAM"
            )
        if strange := self._unknown_labels(labels, task):
            raise ConfigError(
                f"task {task} has no class '{strange[0]}'; did you mean '{_nearest(strange[0], self._classes(task))}'? "
                f"It has {', '.join(self._classes(task))}"
            )

    def _embed(
        self, case: Case, planes: Sequence[int], embedded: dict[Intensity, list[Tensor]], intensity: Intensity
    ) -> None:
        """Encode planes as this intensity shows them, where that was not done."""
        done = embedded.setdefault(intensity, []) if case.volume is not None else _share(embedded, intensity)
        for z in planes[len(done) :]:
            embedding, _ = self.segmenter.embed(case.plane(z, intensity))
            done.append(as_stored(embedding))

    def _route(
        self, case: Case, planes: Sequence[int], embedded: dict[Intensity, list[Tensor]], task: str
    ) -> CaseRoute:
        """Route a case by the mean score of its planes; each task sees them with the intensity of its training."""
        columns: list[Tensor] = []
        scored: dict[Intensity, Tensor] = {}
        for number, name in enumerate(self.tasks):
            intensity = self._intensity(name)
            if intensity not in scored:
                self._embed(case, planes, embedded, intensity)
                features = torch.cat([pool(embedding[None].float()) for embedding in embedded[intensity]])
                scored[intensity] = self.segmenter.scores(features).mean(0)
            columns.append(scored[intensity][number])
        scores = torch.stack(columns)[None]
        asked = [number for number, name in enumerate(self.tasks) if name in self.own]
        rest = [number for number in range(len(self.tasks)) if number not in asked]
        for numbers in (asked, rest) if asked and rest else (range(len(self.tasks)),):
            (found,) = self.segmenter.routes_of(scores[:, list(numbers)], [self.tasks[number] for number in numbers])
            if found.task is not None:
                break
        return self._told(found, task)

    def _told(self, found: Route, task: str) -> CaseRoute:
        taken = found.task if task == "auto" else None if task == "none" else task
        near = f"its score {found.score:.4g} is {{}} the threshold {found.threshold:.4g} of {found.nearest}"
        if found.task is None:
            why = f"no task knows this image: {near.format('above')} (strength of unknown {found.strength:.2f}): plain SAM"
        else:
            first = ", which is asked first," if found.task in self.own else ""
            why = f"{found.task} of {self._sites[found.task]}{first} claims it: {near.format('within')}"
        if found.second is not None:
            why += f"; next is {found.second} with {found.second_score:.4g}"
        if task != "auto":
            choice = "plain SAM" if taken is None else taken
            why = f"{choice} was asked for; the router says: {why}"
        return CaseRoute(
            task=taken,
            site=self._sites[taken] if taken is not None else None,
            chosen_by="router" if task == "auto" else "user",
            nearest=found.nearest,
            score=found.score,
            threshold=found.threshold,
            strength=found.strength,
            second=found.second,
            second_score=found.second_score,
            entry=self.segmenter.digests[taken] if taken is not None else None,
            bank=self.digest,
            why=why,
        )

    def _intensity(self, task: str | None) -> Intensity:
        """Return how a task saw voxels in its training; percentiles where its card does not say, and for no task."""
        if task is None:
            return Percentiles()
        said = self.segmenter.bank.load(task).card.intensity
        return said.intensity if said is not None else Percentiles()

    def _classes(self, task: str) -> tuple[str, ...]:
        return self.segmenter.bank.load(task).card.classes

    def _unknown_labels(self, labels: Sequence[str], task: str) -> list[str]:
        return [label for label in labels if label not in self._classes(task)]


def open_bank(
    folder: Path | str, *, router: RouterKind = "gaussian", device: str = "auto", own: str | None = None
) -> OpenedBank:
    """Open a bank to segment with; it needs no network, and writes nothing.

    Args:
        folder: a bank, or the folder of a run, of a site or of an aggregator that holds one.
        router: which of the two routes.
        device: auto, cuda, mps or cpu.
        own: name of the site whose tasks are asked first, for a hospital knows its own images; None: all are asked alike.

    Raises:
        BankError: there is no bank, it is damaged, or has no task yet.
        BackboneError: its backbone is not there.
    """
    bank = LayerBank(bank_folder(Path(folder)))
    entries = bank.entries()
    if not entries:
        raise BankError(f"the bank in {bank.folder} has no task yet; wait until a site has joined, then sync")
    snapshot = bank.snapshot()
    # All of a federation learn by one method, which their cards tell.
    card = bank.load(entries[0].task).card
    fit: Fit = "stretch" if card.hyperparameters.get("fit") == "stretch" else "pad"
    seed = card.seed if card.hyperparameters.get("vae_sampled") else None
    backbone = load_backbone(snapshot.backbone, device)
    return OpenedBank(Segmenter(backbone, bank, router, fit, seed), own)


def segment(
    bank: Path | str,
    image: npt.NDArray[Any] | Path | str,
    boxes: Mapping[str, Iterable[Sequence[float]]] | None = None,
    points: Mapping[str, Iterable[Sequence[float]]] | None = None,
    *,
    task: str = "auto",
) -> Found:
    """Segment one image with the bank in a folder; whoever segments several opens the bank once, by `open_bank`.

    Arguments, result and errors as those of `open_bank` and `OpenedBank.segment`.
    """
    return open_bank(bank).segment(image, boxes, points, task=task)


def bank_folder(folder: Path) -> Path:
    """Return where the bank lies that a folder holds: itself, or the bank of a run, a site or an aggregator.

    Raises:
        BankError: there is none.
    """
    places = [
        folder,
        folder / "bank",
        *sorted(folder.glob("work/seed-*/bank")),
        *sorted(folder.glob("seed-*/aggregator/bank")),
    ]
    for place in places:
        if (place / "bank.json").is_file():
            return place
    raise BankError(
        f"{folder} holds no bank; give the folder of a run, a site, an aggregator or a bank"
        + (" (this site has not fetched one yet: casam-site sync)" if (folder / "site.yaml").is_file() else "")
    )


def _share(embedded: dict[Intensity, list[Tensor]], intensity: Intensity) -> list[Tensor]:
    """Return the one list of a picture, which is the same with every intensity."""
    return embedded.setdefault(intensity, next(iter(embedded.values()), []))


def _nearest(name: str, names: Sequence[str]) -> str:
    return difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]


def _prompt(marked: Marked) -> Prompt:
    box = (*marked.low, *marked.high)
    points = ([(x, y) for x, y in clicks] for clicks in (marked.inside, marked.outside))
    inside, outside = map(tuple, points)
    return Prompt((box[0], box[1], box[2], box[3]) if box else None, inside, outside)


def _is_sound(aligned: Tensor, plain: Tensor) -> bool:
    size = float(aligned.float().square().mean().sqrt())
    return math.isfinite(size) and size <= _FARTHEST * max(float(plain.square().mean().sqrt()), 1e-6)
