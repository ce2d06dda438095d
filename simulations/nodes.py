"""Flower's simulated nodes: which site each one is, and questions that only a simulation asks."""

import time
from collections.abc import Iterable, Mapping

from flwr.app import RecordDict
from flwr.serverapp import Grid
from pydantic.dataclasses import dataclass

from aggregator.dialogue import Dialogue, text_of
from casam_fed.errors import ExchangeError
from casam_fed.forms import STRICT, Slug
from casam_fed.wire.exchange import Request, decode_json

__all__ = ["LEARN", "LOOK", "NAME", "Named", "ask", "meet"]

NAME = "query.name"
"""Which site is this node?"""

LEARN = "train.learn"
"""Train your task, and let its release go. A hospital never takes such a message: there a person says so."""

LOOK = "query.look"
"""Write what only a researcher may see into the run's folder; the answer tells nothing of it."""

_ONLINE_S = 300.0


@dataclass(frozen=True, config=STRICT)
class Named:
    """A node's answer: the site that it is."""

    site: Slug


def meet(grid: Grid, expected: Iterable[str]) -> dict[str, int]:
    """Wait until as many nodes are online as there are sites, and return site -> node, in the order of `expected`.

    Flower numbers its nodes in random order.

    Raises:
        ExchangeError: some never came, or no node is one of the sites.
    """
    wanted = list(expected)
    deadline = time.monotonic() + _ONLINE_S
    while len(nodes := list(grid.get_node_ids())) < len(wanted):
        if time.monotonic() > deadline:
            raise ExchangeError(f"only {len(nodes)} of {len(wanted)} sites came online; start the others and run again")
        time.sleep(0.2)
    numbers = {f"node {node}": node for node in nodes}
    replies = ask(grid, numbers, NAME, dict.fromkeys(numbers, Request()))
    found = {decode_json(Named, text_of(reply), name).site: numbers[name] for name, reply in replies.items()}
    if missing := sorted(set(wanted) - set(found)):
        raise ExchangeError(f"no node says it is {', '.join(missing)}; start as many nodes as the stream has sites")
    return {site: found[site] for site in wanted}


def ask(
    grid: Grid,
    nodes: Mapping[str, int],
    kind: str,
    requests: Mapping[str, object],
    arrays: Mapping[str, Mapping[str, bytes]] | None = None,
) -> dict[str, RecordDict]:
    """Send sites their payloads, and arrays (site -> name -> bytes), and return their answers, however long they take.

    Raises:
        ExchangeError: a site failed or went away.
    """
    dialogue = Dialogue(grid, nodes)
    answers = dict(dialogue.answers(dialogue.push(kind, requests, arrays), None))
    for answer in answers.values():
        if isinstance(answer, ExchangeError):
            raise answer
    return {site: answer for site, answer in answers.items() if not isinstance(answer, ExchangeError)}
