"""What a site tells of its test images: aggregates only. Needs no torch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.forms import STRICT, Slug

__all__ = ["METRICS", "STRENGTH_EDGES", "RouteReport", "withheld"]

METRICS = ("iou", "dice", "boundary_iou", "boundary_iou_casam")

STRENGTH_EDGES = np.concatenate([np.arange(-2.0, 3.0, 0.02), np.geomspace(3.0, 1e6, 200)])
"""Bin edges of the histograms of the strength of "unknown": a site tells how many images, never which."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class RouteReport:
    """Aggregates of one site's test images under one way of routing.

    Attributes:
        images: number of test images with something to segment.
        scores: metric -> mean over those images, each the mean over its targets; all box-prompted.
        chosen: task name or "unknown" -> number of test images sent there.
        strengths: counts of the strength of "unknown" per bin of `STRENGTH_EDGES`, underflow and overflow at the ends;
            empty where nothing was routed.
        decoded: images that had to be decoded for this report.
    """

    images: Count
    scores: Mapping[Slug, Annotated[float, Field(ge=0, le=1)]]
    chosen: Mapping[Slug, Count]
    strengths: Annotated[tuple[Count, ...], Field(max_length=len(STRENGTH_EDGES) + 1)]
    decoded: Count


def withheld(report: RouteReport, least: int) -> RouteReport:
    """Return a report without groups of fewer than `least` images.

    Histograms go, for their bins are small. What was taken out can be told from the total: so the next smallest groups go
    too, until no fewer than two groups and `least` images are out together (complementary suppression). Scores are rounded
    to three digits, so that the difference of two means tells less of a single image.
    """
    ordered = sorted(report.chosen.items(), key=lambda item: (item[1], item[0]))
    hidden = sum(1 for _, count in ordered if count < least)
    while 0 < hidden < len(ordered) and (hidden == 1 or sum(count for _, count in ordered[:hidden]) < least):
        hidden += 1
    rounded = {name: round(score, 3) for name, score in report.scores.items()}
    return replace(report, chosen=dict(sorted(ordered[hidden:])), strengths=(), decoded=0, scores=rounded)
