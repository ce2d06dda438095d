"""The loop that answers tasks: one whose message never arrives whole holds up no other."""

import threading
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from casam_fed.host.files import sha256_bytes
from site_client import node
from site_client.node import TaskLoop

APP = b"the one app"


class Ended(BaseException):
    """Ends the loop of a test."""


class Runtime:
    """Stands for the SuperNode's runtime API: hands out these tokens, then ends the loop once all that can is done."""

    def __init__(self, tokens: list[str], done: threading.Event) -> None:
        self.tokens, self.done = tokens, done

    def AcquireTask(self, _wanted):  # noqa: N802 - Flower's name
        if self.tokens:
            token = self.tokens.pop(0)
            return SimpleNamespace(token=token, HasField=lambda name: True)
        assert self.done.wait(20)
        raise Ended

    def close(self) -> None:
        pass


@pytest.fixture
def loop(tmp_path, monkeypatch):
    """A loop whose task `stuck` waits for an object that never comes, and what became of the others."""
    done, settled = threading.Event(), []
    runtime = Runtime(["stuck", "first", "second"], done)
    (tmp_path / "secret").write_text("a" * 64)
    monkeypatch.setattr(TaskLoop, "_client", lambda self, credential: _named(runtime, credential))
    monkeypatch.setattr(node, "RuntimeTokenHttpInterceptor", lambda token: token)
    monkeypatch.setattr(node, "HeartbeatSender", lambda beat: SimpleNamespace(start=lambda: None, stop=lambda: None))
    monkeypatch.setattr(node, "make_task_heartbeat_fn_http", lambda client: None)

    def pull(client):
        if client.token == "stuck":
            threading.Event().wait()
        message = Message(
            RecordDict({"payload": ConfigRecord({"token": client.token})}), dst_node_id=1, message_type="query"
        )
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        return message, context, None, SimpleNamespace(content=APP)

    def settle(client, _context, status, _details):
        settled.append((client.token, str(status)))
        if len(settled) == 2:
            done.set()

    monkeypatch.setattr(node, "pull_task_input", pull)
    monkeypatch.setattr(node, "push_message", lambda client, reply, context: None)
    monkeypatch.setattr(node, "push_task_output", settle)
    answering = TaskLoop(
        "127.0.0.1:1",
        tmp_path / "secret",
        {sha256_bytes(APP)},
        answer=lambda message, context: message,
        refuse=lambda message, digest: pytest.fail("refused"),
        left=lambda message: None,
    )
    return answering, settled


def _named(runtime: Runtime, credential: object) -> SimpleNamespace:
    return SimpleNamespace(AcquireTask=runtime.AcquireTask, close=runtime.close, token=credential)


def test_a_message_that_never_arrives_whole_holds_up_no_other(loop):
    answering, settled = loop
    with pytest.raises(Ended):
        answering.run()
    assert sorted(token for token, _ in settled) == ["first", "second"]
