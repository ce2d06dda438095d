"""Flower without processes: a Grid that hands every message to the receiving node's app in this process.

The handlers, the messages and what they carry are the real ones; tests/simulations runs the same over Flower's own
processes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

# Flower's processes set this before an app runs; private, and used nowhere else.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

App = Callable[[Message, Context], Message]


def context_of(node: int, run_config: Mapping[str, str] | None = None) -> Context:
    """Return the context of a node, which stands at that place in its stream, counted from 1."""
    config: Any = dict(run_config or {})
    return Context(
        run_id=1, node_id=node, node_config={"partition-id": node - 1}, state=RecordDict(), run_config=config
    )


class LoopbackGrid:
    """Nodes 1..N, each an app; keeps every message for tests to look at."""

    def __init__(self, apps: Sequence[App], run_config: Mapping[str, str] | None = None) -> None:
        self.apps: dict[int, App] = dict(enumerate(apps, start=1))
        self.run_config = run_config
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self._waiting: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number) for number in self.apps]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            reply = self.apps[node](message, context_of(node, self.run_config))
            self.sent.append(message)
            self.received.append(reply)
            replies.append(reply)
        return replies

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        for message in sent:
            message.metadata.__dict__["_message_id"] = message.object_id
        for reply in self.send_and_receive(sent):
            self._waiting[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._waiting.pop(number) for number in message_ids if number in self._waiting]
