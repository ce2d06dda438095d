"""The stage matrix: the numbers of the hand-checked example, of naive sums, and honesty about what was not measured."""

import json
import math

import numpy as np
import pytest

from casam_fed.inference.stage_matrix import FORMULAS, StageMatrix, mean_of

BY_HAND = [[0.8], [0.7, 0.9], [0.6, 0.85, 0.5]]


def random_matrix(tasks: int, seed: int) -> StageMatrix:
    return StageMatrix(np.random.default_rng(seed).random((tasks, tasks)))


def test_the_numbers_of_the_hand_checked_example() -> None:
    matrix = StageMatrix.from_rows(BY_HAND)
    assert matrix.last == pytest.approx(0.65)
    assert matrix.avg == pytest.approx(0.75)
    assert matrix.ff == pytest.approx(0.125)
    assert matrix.bwt == pytest.approx(-0.125)
    assert matrix.ff_max == pytest.approx(0.125)


def test_a_task_that_improves_before_it_falls_forgets_more_by_ff_max_only() -> None:
    matrix = StageMatrix.from_rows([[0.8], [0.9, 0.9], [0.6, 0.85, 0.5]])
    assert matrix.ff_max == pytest.approx(0.175)
    assert matrix.ff == pytest.approx(0.125)


def test_forward_transfer_by_hand() -> None:
    matrix = StageMatrix.from_rows([[0.8, 0.3, 0.9], [0.7, 0.9, 0.1], [0.6, 0.85, 0.5]])
    assert matrix.fwt([0.7, 0.2, 0.3]) == pytest.approx(((0.3 - 0.2) + (0.1 - 0.3)) / 2)


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 9])
def test_every_number_equals_naive_sums(tasks: int) -> None:
    for seed in range(20):
        matrix = random_matrix(tasks, seed)
        a, end = matrix.to_rows(), tasks - 1
        zero = np.random.default_rng(100 + seed).random(tasks).tolist()
        earlier, later = max(1, tasks - 1), range(1, tasks)
        best = [max(a[stage][j] for stage in range(j, tasks)) for j in range(tasks)]
        assert matrix.last == pytest.approx(sum(a[end]) / tasks)
        assert matrix.avg == pytest.approx(sum(sum(a[i][: i + 1]) / (i + 1) for i in range(tasks)) / tasks)
        assert matrix.ff == pytest.approx(sum(a[j][j] - a[end][j] for j in range(end)) / earlier)
        assert matrix.ff_max == pytest.approx(sum(best[j] - a[end][j] for j in range(end)) / earlier)
        assert matrix.bwt == -matrix.ff
        assert matrix.fwt(zero) == pytest.approx(sum(a[j - 1][j] - zero[j] for j in later) / earlier)
        assert matrix.ff_max >= max(0.0, matrix.ff - 1e-12)


def test_scores_above_the_diagonal_change_nothing_but_forward_transfer() -> None:
    whole = random_matrix(4, 0)
    lower = StageMatrix.from_rows([row[: stage + 1] for stage, row in enumerate(whole.to_rows())])
    for name in ("last", "avg", "ff", "ff_max", "bwt"):
        assert getattr(whole, name) == getattr(lower, name)


def test_a_stream_of_one_task_forgets_and_transfers_nothing() -> None:
    matrix = StageMatrix.from_rows([[0.8]])
    assert (matrix.last, matrix.avg) == (0.8, 0.8)
    numbers = (matrix.ff, matrix.ff_max, matrix.bwt, matrix.fwt([0.5]))
    assert numbers == (0.0, 0.0, 0.0, 0.0)
    assert all(math.copysign(1, number) == 1 for number in numbers)


def test_entries_that_never_change_show_no_forgetting_at_all() -> None:
    matrix = StageMatrix.from_rows([[0.1], [0.1, 0.7], [0.1, 0.7, 0.3]])
    assert (matrix.ff, matrix.ff_max) == (0.0, 0.0)
    assert str(matrix.bwt) == "0.0"


def test_forward_transfer_needs_every_score_it_is_made_of() -> None:
    assert math.isnan(StageMatrix.from_rows(BY_HAND).fwt([0.7, 0.2, 0.3]))
    assert math.isnan(StageMatrix.from_rows([[0.8, 0.3], [0.7, 0.9, 0.1], [0.6, 0.85, 0.5]]).fwt([0.7, math.nan, 0.3]))


def test_rows_go_through_json_and_come_back_the_same() -> None:
    for matrix in (StageMatrix.from_rows(BY_HAND), random_matrix(4, 1)):
        rows = json.loads(json.dumps(matrix.to_rows(), allow_nan=False))
        assert StageMatrix.from_rows(rows) == matrix
    assert StageMatrix.from_rows(BY_HAND).to_rows() == [[0.8, None, None], [0.7, 0.9, None], [0.6, 0.85, 0.5]]


def test_matrices_are_equal_only_where_every_score_is() -> None:
    matrix = StageMatrix.from_rows(BY_HAND)
    assert matrix != StageMatrix.from_rows([*BY_HAND[:2], [0.6, 0.85, 0.51]])
    assert matrix != StageMatrix.from_rows([[0.8, 0.1], *BY_HAND[1:]])
    assert matrix != BY_HAND


def test_a_matrix_cannot_be_changed_from_outside() -> None:
    scores = np.ones((2, 2))
    matrix = StageMatrix(scores)
    scores[1, 0] = 0.0
    assert matrix.ff == 0.0
    with pytest.raises(ValueError, match="read-only"):
        matrix.values[1, 0] = 0.0


def test_the_mean_of_runs_is_taken_score_by_score() -> None:
    runs = [random_matrix(4, seed) for seed in range(3)]
    mean = mean_of(runs)
    for i in range(4):
        for j in range(4):
            assert mean.values[i, j] == pytest.approx(sum(run.values[i, j] for run in runs) / 3)
    for name in ("last", "avg", "ff", "bwt"):
        assert getattr(mean, name) == pytest.approx(sum(getattr(run, name) for run in runs) / 3)
    assert mean_of(runs[:1]) == runs[0]


def test_what_one_run_did_not_measure_is_missing_in_the_mean() -> None:
    mean = mean_of([StageMatrix.from_rows(BY_HAND), random_matrix(3, 0)])
    assert mean.to_rows()[0][1:] == [None, None]


def test_every_number_has_its_formula() -> None:
    matrix = random_matrix(3, 0)
    assert set(FORMULAS) == {"last", "avg", "ff", "ff_max", "bwt", "fwt"}
    assert all(hasattr(matrix, name) for name in FORMULAS)
