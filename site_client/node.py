"""The site's end of Flower's task protocol: answers what a SuperNode has received with handlers of this installation.

A stock SuperNode installs and runs whatever app bundle arrives. This loop takes its place (`flower-supernode --isolation
process`): it never unpacks a bundle. A task whose bundle is not on the site's list is answered with an error, because a
task that is merely dropped would block the SuperNode for ever. All that is private in Flower and used by a site stands in
this file and in site_client/wire.py; tests/deployment is its contract.
"""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = ["Answer", "TaskLoop"]

Answer = Callable[[Message, Context], Message]
"""What the site does with a message of an app it allows; it must not raise."""

log = logging.getLogger("site_client")

_POLL_S = 0.25
_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@dataclass(frozen=True)
class TaskLoop:
    """Takes tasks from the SuperNode on loopback and answers them one by one.

    Attributes:
        address: HOST:PORT of the SuperNode's runtime API.
        secret: file that SuperNode and this loop share.
        allowed: SHA-256 of every app bundle that may ask this site.
        answer: answers a message of an allowed app.
        refuse: answers a message of a bundle that is not allowed, given its digest.
        left: is told of a reply that the SuperNode has taken over.
    """

    address: str
    secret: Path
    allowed: Collection[str]
    answer: Answer
    refuse: Callable[[Message, str], Message]
    left: Callable[[Message], None]
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run(self) -> None:
        """Answer tasks for ever; a SuperNode that is away for a while is waited for."""
        secret = load_superexec_auth_secret(str(self.secret))
        assert secret is not None  # Flower returns None where no file is named only.
        client = self._client(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_ACQUIRE))
        wanted = AcquireTaskRequest(supported_task_types=list(TaskType))
        while True:
            try:
                found = client.AcquireTask(wanted)
                if found.HasField("task") and found.token:
                    # Where a run ends while its message is on the way, its task waits for hours; the next must not.
                    threading.Thread(target=self._settle_or_end, args=(found.token,), daemon=True).start()
            except httpx.HTTPError:
                time.sleep(1.0)
            time.sleep(_POLL_S)

    def _settle_or_end(self, token: str) -> None:
        """Settle a task; what nobody has foreseen ends this process, which is then started again with its SuperNode."""
        try:
            self._settle(token)
        except (httpx.HTTPError, ObjectPullError) as error:
            log.info("a task could not be settled: %s", error)
        except BaseException:
            log.exception("a task could not be settled")
            os._exit(1)

    def _settle(self, token: str) -> None:
        client = self._client(RuntimeTokenHttpInterceptor(token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        try:
            message, context, _, fab = pull_task_input(client)
            with self._one_at_a_time:
                self._answer(client, message, context, hashlib.sha256(fab.content).hexdigest())
        finally:
            heartbeat.stop()
            client.close()

    def _answer(self, client: RuntimeHttpClient, message: Message, context: Context, digest: str) -> None:
        if digest in self.allowed:
            reply, status, details = self.answer(message, context), SubStatus.COMPLETED, ""
        else:
            details = "this site does not allow that app"
            reply, status = self.refuse(message, digest), SubStatus.FAILED
        push_message(client, reply, context)
        self.left(reply)
        push_task_output(client, context, status, details)

    def _client(self, credential: ProtobufClientInterceptor) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), credential],
            retry_invoker=make_simple_http_retry_invoker(),
        )
