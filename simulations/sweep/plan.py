"""Which cells a sweep has: methods x seeds x orders, less what does not matter to a method. Needs no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from casam_fed.errors import ConfigError
from simulations.methods.method_list import Method

__all__ = ["Cell", "batches_of", "cells_of", "orders_of"]


@dataclass(frozen=True)
class Cell:
    """One method with one seed and one order of tasks."""

    method: Method
    seed: int
    order: int

    def folder(self, sweep: Path) -> Path:
        """Return the cell's folder below that of the sweep; what most people run has the shortest path."""
        plain = self.method.name == "casam" and self.order == 0
        series = sweep if plain else sweep / "cells" / self.method.name / f"order-{self.order}"
        return series / f"seed-{self.seed}"

    def __str__(self) -> str:
        """Name the cell for a person."""
        return f"{self.method.name}, seed {self.seed}, order {self.order}"


def orders_of(tasks: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """Return `count` different orders of the tasks: the stream's own, then seeded permutations, always the same ones.

    Raises:
        ConfigError: there are not that many orders.
    """
    if count > math.factorial(len(tasks)):
        raise ConfigError(f"{len(tasks)} tasks have {math.factorial(len(tasks))} orders, not {count}; lower --orders")
    orders = [tuple(tasks)]
    draw = 0
    while len(orders) < count:
        draw += 1
        permutation = np.random.default_rng(draw).permutation(len(tasks))
        order = tuple(tasks[index] for index in permutation.tolist())
        if order not in orders:
            orders.append(order)
    return orders


def cells_of(methods: Sequence[Method], seeds: Sequence[int], orders: int) -> list[Cell]:
    """Return the cells: all methods with the first seed and order first, so that there is something to compare early."""
    return [
        Cell(method, seed, order)
        for order in range(orders)
        for place, seed in enumerate(seeds)
        for method in methods
        if (method.ordered or order == 0) and (method.seeded or place == 0)
    ]


def batches_of(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Return the cells as they are computed: one by one, but the seeds of a method that needs Flower in one start of it."""
    batches: dict[object, list[Cell]] = {}
    for cell in cells:
        batches.setdefault((cell.method, cell.order) if cell.method.flower else cell, []).append(cell)
    return list(batches.values())
