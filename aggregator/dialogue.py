"""The aggregator's half of every exchange with the sites, over a Flower Grid.

Replies are matched to sites by name. A site that fails answers with a code, never with its own text: what went wrong
stands in that site's log, at the site.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from casam_fed.errors import ExchangeError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.wire.exchange import encode_json, unwrap_bytes, wrap_bytes

__all__ = ["Dialogue", "Pushed", "Waiting", "bytes_of", "text_of"]

_SOONEST_S, _LATEST_S, _LATEST_S_PER_NODE = 0.2, 2.0, 0.05
_AWAY_S = 3.0


@dataclass(frozen=True)
class Dialogue:
    """The sites that are online: name -> Flower node."""

    grid: Grid
    nodes: Mapping[str, int]

    def push(
        self,
        kind: str,
        requests: Mapping[str, object],
        arrays: Mapping[str, Mapping[str, bytes]] | None = None,
    ) -> "Pushed":
        """Send each site its payload, and its arrays (site -> name -> bytes); the waiting is left for `answers`."""
        messages = [
            _message(kind, self.nodes[site], request, (arrays or {}).get(site, {}))
            for site, request in requests.items()
        ]
        return Pushed(kind, tuple(requests), _push(self.grid, messages))

    def answers(self, pushed: "Pushed", timeout: float | None) -> Iterator[tuple[str, RecordDict | ExchangeError]]:
        """Yield the answers to what was pushed as they come, and at the end an error for each site that gives none.

        After `timeout` seconds nobody is waited for any more; None: as long as they are online.
        """
        names = {node: site for site, node in self.nodes.items()}
        silent = dict.fromkeys(pushed.sites)
        for node, reply in _replies(self.grid, pushed.waiting, timeout):
            site = names[node]
            silent.pop(site, None)
            try:
                answer: RecordDict | ExchangeError = _content(reply, f"site {site}")
            except ExchangeError as error:
                answer = error
            yield site, answer
        for site in silent:
            yield site, ExchangeError(f"no answer to {pushed.kind} from {site}; see whether it is still running")


@dataclass(frozen=True)
class Waiting:
    """Messages that Flower has taken, by their number, and when each node had come online before."""

    nodes: Mapping[str, int]
    activated: Mapping[int, str]


@dataclass(frozen=True)
class Pushed:
    """One message to each of some sites, not yet answered."""

    kind: str
    sites: tuple[str, ...]
    waiting: Waiting


def _push(grid: Grid, messages: Sequence[Message]) -> Waiting:
    """Send one message to each node; those that Flower does not take are left out."""
    activated = _activations(grid)
    numbers = grid.push_messages(messages)
    nodes = {
        number: message.metadata.dst_node_id
        for number, message in zip(numbers, messages, strict=True)
        if number is not None
    }
    return Waiting(nodes, activated)


def _replies(grid: Grid, pushed: Waiting, timeout: float | None) -> Iterator[tuple[int, Message]]:
    """Yield the replies to pushed messages with their nodes; those that do not come in time are left out.

    A reply is announced before its bytes are uploaded, and Flower's `pull_messages` then waits for them, for minutes where
    their sender died meanwhile. So each reply is awaited by a thread of its own, and no site holds up another. A node that
    went away and came back has lost its message: it is not waited for.
    """
    waiting, activated = dict(pushed.nodes), pushed.activated
    arrived: queue.SimpleQueue[tuple[str, Message | Exception]] = queue.SimpleQueue()
    given_up = threading.Event()
    latest = max(_LATEST_S, _LATEST_S_PER_NODE * len(waiting))
    for number in waiting:
        # A daemon: one that waits for bytes that will not come must not keep this process from ending.
        threading.Thread(target=_pull, args=(grid, number, latest, arrived.put, given_up), daemon=True).start()
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    try:
        while waiting and (left := deadline - time.monotonic()) > 0:
            try:
                number, reply = arrived.get(timeout=min(left, _AWAY_S))
            except queue.Empty:
                now = _activations(grid)
                waiting = {
                    number: node
                    for number, node in waiting.items()
                    if now.get(node, activated.get(node)) == activated.get(node)
                }
                continue
            if isinstance(reply, Exception):
                raise reply
            if (node := waiting.pop(number, None)) is not None:
                yield node, reply
    finally:
        given_up.set()


def _pull(
    grid: Grid,
    number: str,
    latest: float,
    put: Callable[[tuple[str, Message | Exception]], None],
    given_up: threading.Event,
) -> None:
    """Look for the reply to one message, soon at first, later every `latest` seconds, and put it, or what went wrong.

    Flower's own `send_and_receive` looks every three seconds.
    """
    pause = _SOONEST_S
    while not given_up.is_set():
        try:
            replies = list(grid.pull_messages([number]))
        except Exception as error:
            put((number, error))
            return
        if replies:
            put((number, replies[0]))
            return
        given_up.wait(pause)
        pause = min(1.5 * pause, latest)


def _activations(grid: Grid) -> dict[int, str]:
    """Return when each node that is online came online."""
    return {node.node_id: node.last_activated_at for node in grid.get_nodes()}


def _message(kind: str, node: int, request: object, arrays: Mapping[str, bytes]) -> Message:
    content = RecordDict({"payload": ConfigRecord({"json": encode_json(request)})})
    if arrays:
        content["arrays"] = ArrayRecord({name: _array(data) for name, data in arrays.items()})
    return Message(content, dst_node_id=node, message_type=kind)


def _array(data: bytes) -> Array:
    return Array("uint8", (len(data),), "numpy.ndarray", wrap_bytes(data))


def _content(reply: Message, sender: str) -> RecordDict:
    if reply.has_error():
        raise ExchangeError(f"{sender} did not answer (Flower error {reply.error.code}); see that site's log")
    content = reply.content
    payload = content.get("payload")
    if isinstance(payload, ConfigRecord) and isinstance(code := payload.get("error"), str):
        raise ExchangeError(f"{sender} failed with {code[:80]}; that site's log says why")
    return content


def bytes_of(content: RecordDict, name: str, sender: str) -> bytes:
    """Return the bytes that an answer carries under `name`, size-capped and not yet parsed.

    Raises:
        ExchangeError: the answer carries something else, or more.
    """
    arrays = content.get("arrays")
    if not isinstance(arrays, ArrayRecord) or list(arrays) != [name]:
        raise ExchangeError(f"{sender} sent no {name}; run the same version at both ends")
    return unwrap_bytes(arrays[name].data, MAX_RELEASE_BYTES, sender)


def text_of(content: RecordDict) -> object:
    """Return the JSON text of an answer's payload, or what stands in its place."""
    payload = content.get("payload")
    return payload.get("json") if isinstance(payload, ConfigRecord) else None
