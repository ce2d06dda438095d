"""Image to route to mask: the bank at work, for a user's new image and for a site that scores its own alike.

An image's embedding is scored against every task of the bank; the alignment layer of the claiming task (or the identity,
when none claims it) changes the embedding; the frozen decoder turns it and the prompts into masks.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import Fit, Frame, frame_of, prepare
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.config import MethodConfig
from casam_fed.errors import BankError, DataError
from casam_fed.method.alignment import AlignmentLayer, alignment_layer_from
from casam_fed.method.embeddings import as_stored
from casam_fed.routing.pooling import pool
from casam_fed.routing.route import Router, RouterKind, route
from casam_fed.routing.state import RouterState, build_router

__all__ = ["Place", "Prompt", "Route", "Segmenter", "decode_masks", "decode_prompts", "segmenter_for"]

Place = Literal["source", "square"]
"""Where masks are wanted: at the resolution of the source image, or at the backbone's square."""

_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True)
class Route:
    """Where one image goes.

    Attributes:
        task: the task that claims it; None for unknown, which takes the identity.
        nearest: the task of the lowest score, whether it claims the image or not; None in an empty bank.
        score: of the nearest task, low means near; infinite in an empty bank.
        strength: of "unknown": 0 for a typical image of the nearest task, 1 at its threshold, comparable between tasks;
            infinite in an empty bank.
        threshold: of the nearest task: what scores above it is not of that task.
        second: the task of the lowest score but for the nearest; None in a bank of one task or none.
        second_score: its score.
    """

    task: str | None
    nearest: str | None
    score: float
    strength: float
    threshold: float = math.inf
    second: str | None = None
    second_score: float = math.inf


@dataclass(frozen=True)
class Prompt:
    """What a person marks of one target, in pixels of the source image counted from 0: a box, clicks, or both.

    Attributes:
        box: (x0, y0, x1, y1), its first and last column and row.
        inside: clicks (x, y) on what belongs to the target.
        outside: clicks on what does not.
    """

    box: tuple[float, float, float, float] | None = None
    inside: tuple[tuple[float, float], ...] = ()
    outside: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        assert self.box is not None or self.inside, "a target needs a box, or a click inside it"


class Segmenter:
    """A bank at work with one of its two routers. What it needs of an entry is read when it is first needed, and once.

    Attributes:
        tasks: those among which images are routed, in the order of their admission.
        digests: of the releases in force when this was made: task -> digest.
    """

    def __init__(
        self, backbone: Backbone, bank: LayerBank, router: RouterKind, fit: Fit = "pad", seed: int | None = None
    ) -> None:
        """Take a bank as it is now; what it admits or retires later is not seen.

        Args:
            backbone: encodes and decodes.
            bank: of that backbone.
            router: which of the two routes.
            fit: how a new image is brought to the backbone's square; as in the training of the bank's tasks.
            seed: for router "vae" only, samples the latents (preset `paper`), the same in every call; None scores with
                the mean.

        Raises:
            BankError: the bank's tasks were trained with another backbone.
        """
        snapshot = bank.snapshot()
        if snapshot.backbone_digest != backbone.digest:
            raise BankError(
                f"the bank in {bank.folder} belongs to backbone {snapshot.backbone} ({snapshot.backbone_digest[:12]}), not"
                f" to {backbone.name} ({backbone.digest[:12]}); load the backbone that its tasks were trained with"
            )
        self.backbone, self.bank, self.router, self.fit, self.seed = backbone, bank, router, fit, seed
        self.digests = {entry.task: entry.digest for entry in bank.entries()}
        self.tasks = tuple(self.digests)
        # Shared with what `by` and `without` return.
        self._layers: dict[str, AlignmentLayer] = {}
        self._states: dict[str, RouterState] = {}
        self._routers: dict[RouterKind, Router] = {}

    def by(self, router: RouterKind) -> "Segmenter":
        """Return the same segmenter with this router; both share what they have read."""
        other = copy.copy(self)
        other.router = router
        return other

    def without(self, task: str) -> "Segmenter":
        """Return the same segmenter as if `task` had never joined, to the bit; both share what they have read."""
        other = copy.copy(self)
        other.tasks = tuple(each for each in self.tasks if each != task)
        return other

    def segment(
        self, image: npt.NDArray[np.uint8], prompts: npt.NDArray[np.floating]
    ) -> tuple[npt.NDArray[np.bool_], Route]:
        """Route an image and segment what is prompted in it.

        Args:
            image: uint8 [H, W, 3].
            prompts: as for `decode_masks`.

        Returns:
            The masks, bool [N, H, W], and the route; an unknown image has plain SAM's masks.

        Raises:
            BankError: an entry's file is missing or damaged.
            DataError: a prompt is not in the image.
        """
        embedding, frame = self.embed(image)
        (found,) = self.route(pool(embedding[None]))
        return self.masks(embedding, frame, prompts, found.task), found

    def embed(self, image: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """Return the embedding of an image uint8 [H, W, 3], float32 [C, h, w], as stored ones are, and its frame."""
        assert image.shape[2:] == (3,), image.shape
        prepared = prepare(image, self.backbone.geometry.image_size, self.fit)
        return as_stored(self.backbone.embed([prepared.pixels]))[0].float(), prepared.frame

    def frame(self, source: tuple[int, int]) -> Frame:
        """Return where an image of (H, W) pixels lies in the backbone's square."""
        return frame_of(source, self.backbone.geometry.image_size, self.fit)

    def scores(self, features: Tensor) -> Tensor:
        """Return the scores float64 [B, T] of pooled embeddings [B, C] for all `tasks` at once; low means near.

        Raises:
            BankError: an entry's file is missing or damaged.
            DataError: a feature is NaN or infinite.
        """
        known = tuple(self.digests)
        if self.router not in self._routers:
            states = [self._state(task) for task in known]
            self._routers[self.router] = build_router(self.router, states, self.bank.background, self.seed)
        router = self._routers[self.router]
        if self.tasks != known:
            router = router.only([known.index(task) for task in self.tasks])
        return router.scores(features)

    def route(self, features: Tensor) -> list[Route]:
        """Return where images go, given their pooled embeddings [B, C]; errors as `scores`."""
        return self.routes_of(self.scores(features))

    def routes_of(self, scores: Tensor, tasks: Sequence[str] | None = None) -> list[Route]:
        """Return where images go, given their scores [B, T] of `tasks`; a case goes by the mean of its images'.

        Args:
            scores: low means near.
            tasks: those of the columns, in the order of their admission; None: all.

        Raises:
            BankError: an entry's file is missing or damaged.
            DataError: a score is NaN.
        """
        tasks = self.tasks if tasks is None else tasks
        thresholds = [self._state(task).thresholds[self.router] for task in tasks]
        found = route(scores, thresholds)
        # Nobody is number -1.
        named = (*tasks, None)
        limits = (*(threshold.value for threshold in thresholds), math.inf)
        columns = (found.task, found.nearest, found.score, found.strength, found.second, found.second_score)
        return [
            Route(named[task], named[nearest], score, strength, limits[nearest], named[second], second_score)
            for task, nearest, score, strength, second, second_score in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]

    def masks(
        self, embedding: Tensor, frame: Frame, prompts: npt.NDArray[np.floating], task: str | None, at: Place = "source"
    ) -> npt.NDArray[np.bool_]:
        """Segment one image through the alignment layer of `task`; None takes the identity, which is plain SAM.

        Arguments and result otherwise as `decode_masks`.

        Raises:
            BankError: no such task, or its entry is damaged.
            DataError: a prompt is not in the image.
        """
        layer = None if task is None else self.layer(task)
        return decode_masks(self.backbone, layer, embedding, frame, prompts, at)

    @torch.no_grad()
    def aligned(self, embedding: Tensor, task: str | None) -> Tensor:
        """Return an embedding [C, h, w] through the alignment layer of `task`, on the backbone's device; None: as it is.

        Raises:
            BankError: no such task, or its entry is damaged.
        """
        moved = embedding.to(self.backbone.device)
        return moved if task is None else self.layer(task)(moved[None])[0]

    def layer(self, task: str) -> AlignmentLayer:
        """Return the alignment layer of a task, on the backbone's device.

        Raises:
            BankError: no such task, or its entry is damaged.
        """
        if task not in self._layers:
            layer = alignment_layer_from(self.bank.load(task).alignment)
            self._layers[task] = layer.to(self.backbone.device).requires_grad_(False)
        return self._layers[task]

    def _state(self, task: str) -> RouterState:
        if task not in self._states:
            self._states[task] = self.bank.load(task).router
        return self._states[task]


def segmenter_for(config: MethodConfig, backbone: Backbone, bank: LayerBank, seed: int = 0) -> Segmenter:
    """Return what a user of this method segments with: routed by its router, images fitted as in training.

    Args:
        config: of the federation that the bank comes from.
        backbone: of the bank.
        bank: whose tasks to route among.
        seed: of sampled VAE scores, where the method samples.

    Raises:
        BankError: the bank's tasks were trained with another backbone.
    """
    return Segmenter(backbone, bank, config.router, config.fit, seed if config.vae_sampled else None)


@torch.no_grad()
def decode_masks(
    backbone: Backbone,
    layer: AlignmentLayer | None,
    embedding: Tensor,
    frame: Frame,
    prompts: npt.NDArray[np.floating],
    at: Place = "source",
) -> npt.NDArray[np.bool_]:
    """Segment one image through an alignment layer.

    Args:
        backbone: decodes.
        layer: on the backbone's device; None for the identity, which is plain SAM.
        embedding: float32 [C, h, w].
        frame: where the image lies in the square.
        prompts: [N, 4] boxes (x0, y0, x1, y1) of first and last pixels, or [N, 2] positive clicks (x, y); N may be 0. In
            pixels of the source image, counted from 0.
        at: where the masks are wanted.

    Returns:
        bool [N, H, W] or [N, S, S]; the logits binarised at 0.

    Raises:
        DataError: a prompt is neither box nor point, or not in the image.
    """
    aligned = embedding[None].to(backbone.device)
    if layer is not None:
        aligned = layer(aligned)
    _require_in_image(prompts, frame)
    parts = [(logits > 0).cpu() for logits in _decoded(backbone, aligned, frame, _on_square(prompts, frame), at)]
    return torch.cat(parts).numpy()


@torch.no_grad()
def decode_prompts(
    backbone: Backbone, aligned: Tensor, frame: Frame, prompts: Sequence[Prompt]
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Segment what a person has marked in one image, some targets at a time.

    Args:
        backbone: decodes.
        aligned: what the decoder sees, float32 [C, h, w]: the image's embedding, through an alignment layer or not.
        frame: where the image lies in the square.
        prompts: N targets.

    Yields:
        The number of each target, and its logits at the source, float32 [H, W]: above 0 is inside.

    Raises:
        DataError: a prompt is not in the image.
    """
    aligned = aligned[None].to(backbone.device)
    # Targets that are marked alike, with so many clicks each, are decoded together.
    alike: dict[tuple[bool, int], list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        alike[prompt.box is not None, len(prompt.inside) + len(prompt.outside)].append(number)
    for (boxed, clicks), numbers in alike.items():
        group = [prompts[number] for number in numbers]
        parts: dict[str, Tensor] = {}
        if boxed:
            boxes = np.array([prompt.box for prompt in group], dtype=np.float64)
            _require_in_image(boxes, frame)
            parts["boxes"] = torch.from_numpy(frame.boxes_to_square(boxes))
        if clicks:
            points = np.array([(*prompt.inside, *prompt.outside) for prompt in group], dtype=np.float64)
            _require_in_image(points.reshape(-1, 2), frame)
            on_square = frame.points_to_square(points.reshape(-1, 2)).reshape(points.shape)
            parts["points"] = torch.from_numpy(on_square)
            parts["labels"] = torch.tensor([[1] * len(each.inside) + [0] * len(each.outside) for each in group])
        given = Prompts(torch.zeros(len(group), dtype=torch.int64), **parts)
        decoded = _decoded(backbone, aligned, frame, given, "source")
        yield from zip(numbers, (logits for some in decoded for logits in some.cpu().numpy()), strict=True)


def _decoded(backbone: Backbone, aligned: Tensor, frame: Frame, prompts: Prompts, at: Place) -> Iterator[Tensor]:
    """Yield the logits [P, H, W] or [P, S, S] of one image's prompts, some at a time."""
    bring = frame.to_source if at == "source" else frame.to_square
    for start in range(0, max(len(prompts), 1), _PROMPTS_AT_ONCE):
        logits, _ = backbone.decode(aligned, prompts[start : start + _PROMPTS_AT_ONCE])
        yield bring(logits)


def _on_square(prompts: npt.NDArray[np.floating], frame: Frame) -> Prompts:
    rows = torch.zeros(len(prompts), dtype=torch.int64)
    if prompts.shape[1] == 4:
        return Prompts(rows, boxes=torch.from_numpy(frame.boxes_to_square(prompts)))
    return Prompts(rows, points=torch.from_numpy(frame.points_to_square(prompts)))


def _require_in_image(prompts: npt.NDArray[np.floating], frame: Frame) -> None:
    height, width = frame.source
    sound = prompts.ndim == 2 and prompts.shape[1] in (2, 4)
    if sound:
        first, last = prompts[:, :2], prompts[:, -2:]
        sound = bool(((first >= 0) & (first <= last) & (last <= (width - 1, height - 1))).all())
    if not sound:
        raise DataError(
            f"prompts of shape {list(prompts.shape)} do not fit an image of {width} x {height} pixels; give boxes"
            f" (x0, y0, x1, y1) or points (x, y), with x0 <= x1 <= {width - 1} and y0 <= y1 <= {height - 1}, none below 0"
        )
