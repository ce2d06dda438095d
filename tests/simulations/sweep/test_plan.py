"""Which cells there are, and in which order tasks may join."""

from pathlib import Path

import pytest

from casam_fed.errors import ConfigError
from simulations.methods.method_list import METHODS, chosen_methods
from simulations.sweep.plan import Cell, batches_of, cells_of, orders_of


def test_the_first_order_is_the_streams_own_and_all_differ_and_stay_the_same():
    tasks = [f"t{number}" for number in range(9)]
    orders = orders_of(tasks, 5)
    assert orders[0] == tuple(tasks)
    assert len(set(orders)) == 5
    assert all(sorted(order) == tasks for order in orders)
    assert orders_of(tasks, 3) == orders[:3]


def test_two_tasks_have_two_orders():
    assert orders_of(["a", "b"], 2) == [("a", "b"), ("b", "a")]
    with pytest.raises(ConfigError, match="2 tasks have 2 orders, not 3; lower --orders"):
        orders_of(["a", "b"], 3)


def test_a_method_has_no_cell_for_what_does_not_matter_to_it():
    cells = cells_of(list(METHODS.values()), (0, 1, 2), 3)
    count = {name: sum(cell.method.name == name for cell in cells) for name in METHODS}
    assert count == {
        "casam": 9,
        "zero-shot": 3,
        "joint": 3,
        "sequential": 9,
        "ewc": 9,
        "lwf": 9,
        "er": 9,
        "fedavg": 3,
    }
    assert len(set(cells)) == len(cells)


def test_every_method_is_compared_once_before_any_is_repeated():
    cells = cells_of(list(METHODS.values()), (7, 8), 2)
    assert [cell.method.name for cell in cells[: len(METHODS)]] == list(METHODS)
    assert {(cell.seed, cell.order) for cell in cells[: len(METHODS)]} == {(7, 0)}


def test_casam_in_the_streams_own_order_lies_where_one_looks_first_and_no_two_cells_together():
    out = Path("/out")
    assert Cell(METHODS["casam"], 2, 0).folder(out) == out / "seed-2"
    assert Cell(METHODS["casam"], 2, 1).folder(out) == out / "cells/casam/order-1/seed-2"
    assert Cell(METHODS["er"], 0, 0).folder(out) == out / "cells/er/order-0/seed-0"
    cells = cells_of(list(METHODS.values()), (0, 1, 2), 3)
    assert len({cell.folder(out) for cell in cells}) == len(cells)


def test_the_seeds_of_a_method_and_order_that_need_flower_are_run_together():
    casam, er, fedavg = METHODS["casam"], METHODS["er"], METHODS["fedavg"]
    assert batches_of(cells_of([casam, er, fedavg], (0, 1), 2)) == [
        [Cell(casam, 0, 0), Cell(casam, 1, 0)],
        [Cell(er, 0, 0)],
        [Cell(fedavg, 0, 0), Cell(fedavg, 1, 0)],
        [Cell(er, 1, 0)],
        [Cell(casam, 0, 1), Cell(casam, 1, 1)],
        [Cell(er, 0, 1)],
        [Cell(er, 1, 1)],
    ]


def test_methods_are_chosen_by_name_in_the_order_of_the_list():
    assert [method.name for method in chosen_methods("er, casam")] == ["casam", "er"]
    assert [method.name for method in chosen_methods("all")] == list(METHODS)


@pytest.mark.parametrize(("words", "reason"), [("ewcc", "did you mean 'ewc'"), (",", "no method is named")])
def test_an_unknown_method_is_refused_with_the_nearest_one(words, reason):
    with pytest.raises(ConfigError, match=reason):
        chosen_methods(words)
