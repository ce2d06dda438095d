"""The aggregator's half of an exchange, where a site's answer is announced but its bytes do not come."""

import threading
from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from aggregator import dialogue
from aggregator.dialogue import Dialogue
from casam_fed.errors import ExchangeError
from casam_fed.wire.exchange import HELLO, Request
from tests.loopback import LoopbackGrid


class HalfUploadedGrid(LoopbackGrid):
    """Waits for node 1's bytes, as Flower does once a reply was announced."""

    def __init__(self) -> None:
        super().__init__([_answering(), _answering()])
        self.uploaded = threading.Event()
        self.activated = {1: "first", 2: "first"}

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, last_activated_at=at) for node, at in self.activated.items()]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        if any(reply.metadata.src_node_id == 1 for reply in replies):
            assert self.uploaded.wait(30)
        return replies


@pytest.fixture
def grid():
    grid = HalfUploadedGrid()
    yield grid
    grid.uploaded.set()


def test_a_site_whose_upload_stalls_holds_up_no_other(grid):
    talk = Dialogue(grid, {"stalled": 1, "prompt": 2})
    answers = talk.answers(talk.push(HELLO, {"stalled": Request(), "prompt": Request()}), timeout=30)
    assert next(answers)[0] == "prompt"
    grid.uploaded.set()
    site, answer = next(answers)
    assert (site, type(answer)) == ("stalled", RecordDict)


def test_a_site_that_restarts_during_its_upload_is_not_waited_for(grid, monkeypatch):
    monkeypatch.setattr(dialogue, "_AWAY_S", 0.1)
    talk = Dialogue(grid, {"stalled": 1, "prompt": 2})
    answers = talk.answers(talk.push(HELLO, {"stalled": Request(), "prompt": Request()}), timeout=30)
    assert next(answers)[0] == "prompt"
    grid.activated[1] = "again"
    site, answer = next(answers)
    assert site == "stalled"
    assert isinstance(answer, ExchangeError)
    assert not grid.uploaded.is_set()


def test_what_goes_wrong_while_pulling_is_raised_to_the_caller(grid, monkeypatch):
    def broken(_numbers):
        raise ConnectionError("the SuperLink is gone")

    monkeypatch.setattr(grid, "pull_messages", broken)
    talk = Dialogue(grid, {"prompt": 2})
    pushed = talk.push(HELLO, {"prompt": Request()})
    with pytest.raises(ConnectionError, match="the SuperLink is gone"):
        list(talk.answers(pushed, None))


def _answering() -> ClientApp:
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        return Message(RecordDict({"payload": ConfigRecord({"json": "{}"})}), reply_to=message)

    return app
