"""The SuperLink's Control API, called in this process: who is registered, who is online, start a run, how did it end.

Flower offers this as a command line only, which takes a second and a half per call; the watcher asks every second. All that
is private in Flower and used by the aggregator stands in this file; tests/deployment is its contract.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from casam_fed.errors import ExchangeError

__all__ = ["Node", "SuperLink", "build_app"]


@dataclass(frozen=True)
class Node:
    """A SuperNode as the SuperLink knows it.

    Attributes:
        id: Flower's number.
        key: public key, SubjectPublicKeyInfo PEM.
        online: whether it answers now.
        activated: when it last came online, ISO 8601; another value means that it was away.
    """

    id: int
    key: str
    online: bool
    activated: str


class SuperLink:
    """A client of one SuperLink; close it after use.

    Every method raises ExchangeError where the SuperLink cannot be reached or refuses.
    """

    def __init__(self, address: str, ca: Path) -> None:
        """Prepare to call the SuperLink at `address` (HOST:PORT), whose certificate must come from `ca` (PEM)."""
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca.read_bytes(),
            interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def nodes(self) -> list[Node]:
        """Return all registered SuperNodes; those unregistered are not among them."""
        with _plain_errors("list its nodes"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        return [
            Node(node.node_id, node.public_key.decode("ascii"), node.status == "online", node.last_activated_at)
            for node in found
            if node.status != "unregistered"
        ]

    def register(self, key: str) -> int:
        """Admit the SuperNode with this public key (PEM) and return its number."""
        with _plain_errors("register a node"):
            return int(self._client.RegisterNode(RegisterNodeRequest(public_key=key.encode("ascii"))).node_id)

    def unregister(self, node: int) -> None:
        """Shut a SuperNode out; its key can never come back."""
        with _plain_errors("unregister a node"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def start(self, app: bytes, config: Mapping[str, str]) -> int:
        """Start a run of an app bundle with values for keys of its run configuration, and return the run's number."""
        fab = Fab(hashlib.sha256(app).hexdigest(), app, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        with _plain_errors("start a run"):
            return int(self._client.StartRun(request).run_id)

    def status(self, run: int) -> str:
        """Return a run's status: "pending", "starting", "running", "finished:completed", "finished:failed", ..."""
        with _plain_errors("tell of a run"):
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        if run not in found:
            return "unknown"
        status = found[run].status
        return f"{status.status}:{status.sub_status}" if status.sub_status else str(status.status)

    def stop(self, run: int) -> None:
        """End a run that goes on for too long."""
        with _plain_errors("stop a run"):
            self._client.StopRun(StopRunRequest(run_id=run))


@functools.cache
def build_app() -> bytes:
    """Return the bundle of the thin delivery app; compression differs between platforms, so an aggregator keeps it."""
    # Only `init` needs it, and it would stay in the memory of a running aggregator.
    from flwr.cli.build import build_fab_from_disk

    return build_fab_from_disk(Path(__file__).parent / "app")


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        kind = type(error).__name__
        raise ExchangeError(f"the SuperLink did not {what} ({kind}); see logs/superlink.log") from error
