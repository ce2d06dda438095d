"""What a site keeps back: no number that is told, and no difference of such numbers, counts fewer images than it may."""

import numpy as np
import pytest
from pydantic import ValidationError

from casam_fed.wire.evaluation_report import STRENGTH_EDGES, RouteReport, withheld

SCORES = {"iou": 0.5, "dice": 0.6}


def kept(chosen: dict[str, int], least: int = 10) -> dict[str, int]:
    report = RouteReport(sum(chosen.values()), SCORES, chosen, (0, 3, 1), 4)
    return dict(withheld(report, least).chosen)


@pytest.mark.parametrize(
    ("chosen", "left"),
    [
        ({"a": 30}, {"a": 30}),
        ({"a": 30, "b": 10}, {"a": 30, "b": 10}),
        ({"a": 30, "b": 12, "c": 3}, {"a": 30}),
        ({"a": 30, "b": 6, "c": 5}, {"a": 30}),
        ({"a": 30, "b": 9}, {}),
        ({"a": 4, "b": 3}, {}),
        ({"a": 10, "b": 10, "c": 10, "d": 1}, {"b": 10, "c": 10}),
        ({}, {}),
    ],
    ids=["one", "none small", "one small", "two small", "one small of two", "all small", "alike", "no groups"],
)
def test_small_groups_go_and_the_next_smallest_where_the_total_would_tell(chosen, left):
    assert kept(chosen) == left


def test_several_small_groups_do_not_go_alone_when_they_are_few_images_together():
    """30 of 33 shown would tell that three images went elsewhere."""
    assert kept({"a": 30, "b": 2, "c": 1}) == {}
    assert kept({"a": 40, "b": 30, "c": 2, "d": 1}) == {"a": 40}


def test_groups_of_nobody_hide_nobody_else():
    assert kept({"a": 30, "b": 20, "c": 0, "d": 1}) == {"a": 30}
    assert kept({"a": 30, "b": 0}) == {}
    assert kept({"a": 0, "b": 0}) == {}


def test_where_nothing_is_small_for_the_site_nothing_is_kept_back():
    assert kept({"a": 1, "b": 2}, least=1) == {"a": 1, "b": 2}


def test_histograms_and_what_was_decoded_never_leave():
    report = withheld(RouteReport(30, SCORES, {"a": 30}, (0, 30), 7), 10)
    assert (report.strengths, report.decoded) == ((), 0)
    assert (report.images, dict(report.scores)) == (30, SCORES)


def test_the_report_at_the_site_stays_as_it_was():
    report = RouteReport(30, SCORES, {"a": 29, "b": 1}, (0, 30), 7)
    withheld(report, 10)
    assert dict(report.chosen) == {"a": 29, "b": 1}
    assert report.strengths == (0, 30)


def test_whatever_is_hidden_is_two_groups_and_enough_images():
    """A thousand reports: what an aggregator can work out from the total is never a small group."""
    rng = np.random.default_rng(0)
    for _ in range(1000):
        counts = rng.integers(0, rng.integers(2, 40), size=rng.integers(1, 7))
        chosen = {f"task-{number}": int(count) for number, count in enumerate(counts)}
        left = kept(chosen)
        hidden = {task: count for task, count in chosen.items() if task not in left}
        assert all(count >= 10 and chosen[task] == count for task, count in left.items())
        if left and hidden:
            assert len(hidden) >= 2
            assert sum(hidden.values()) >= 10
        if all(count >= 10 for count in chosen.values()):
            assert left == chosen


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": {"a": -1}},
        {"chosen": {"/home/doctor/patient 7.png": 1}},
        {"scores": {"name of a patient": 0.5}},
        {"scores": {"iou": 1.5}},
        {"scores": {"iou": float("nan")}},
        {"strengths": (0,) * (len(STRENGTH_EDGES) + 2)},
        {"images": -1},
    ],
)
def test_a_report_holds_names_and_counts_and_nothing_else(change):
    values = {"images": 3, "scores": SCORES, "chosen": {"a": 3}, "strengths": (), "decoded": 0}
    with pytest.raises(ValidationError):
        RouteReport(**{**values, **change})
