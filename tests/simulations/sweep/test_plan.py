"""Which cells there are, and in which order tasks may join."""

import pytest

from casam_fed.errors import ConfigError
from simulations.methods.method_list import METHODS, chosen_methods
from simulations.sweep.plan import cells_of, orders_of


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


def test_methods_are_chosen_by_name_in_the_catalogues_order():
    assert [method.name for method in chosen_methods("er, casam")] == ["casam", "er"]
    assert [method.name for method in chosen_methods("all")] == list(METHODS)


@pytest.mark.parametrize(("words", "reason"), [("ewcc", "did you mean 'ewc'"), (",", "no method is named")])
def test_an_unknown_method_is_refused_with_the_nearest_one(words, reason):
    with pytest.raises(ConfigError, match=reason):
        chosen_methods(words)
