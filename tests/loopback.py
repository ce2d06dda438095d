"""Flower without processes: a Grid that hands every message to the receiving site's ClientApp in this process.

The handlers, the messages and what they carry are the real ones; tests/simulations runs the same over Flower's own
processes.
"""

from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from site_client.client_app import make_client_app
from site_client.site import Site

SiteOf = Callable[[Context, int], Site]

# Flower's processes set this before an app runs; private, and used nowhere else.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


class LoopbackGrid:
    """Nodes 1..N, each a ClientApp; keeps every message for tests to look at."""

    def __init__(
        self,
        sites: list[Callable[[int], Site]],
        extend: Callable[[ClientApp, SiteOf], None] = lambda app, site_of: None,
    ) -> None:
        self.apps: dict[int, ClientApp] = {}
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self._waiting: dict[str, Message] = {}
        for node, site_of in enumerate(sites, start=1):
            found: SiteOf = lambda _context, seed, site_of=site_of: site_of(seed)  # noqa: E731
            self.apps[node] = make_client_app(found)
            extend(self.apps[node], found)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=number) for number in self.apps]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            reply: Any = self.apps[node](message, context)
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
