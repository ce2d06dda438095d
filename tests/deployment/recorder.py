"""A recording proxy between a SuperNode and the gateway: it passes everything on, and keeps what the site has sent."""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from casam_fed.host.processes import free_port

HOP_BY_HOP = {"host", "content-length", "transfer-encoding", "connection", "content-encoding"}


@dataclass
class Recorder:
    """What passed: path, headers and body of each request, in their order."""

    address: str
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def bodies(self, call: str) -> list[bytes]:
        """The bodies of one kind of call, e.g. "push-object"."""
        return [body for path, _, body in self.requests if path == f"/v1/fleet/{call}"]


@contextlib.contextmanager
def recording(gateway: str, keys: Path) -> Iterator[Recorder]:
    """Listen with the aggregator's own certificate, and pass on to its gateway."""
    port = free_port()
    recorder = Recorder(f"127.0.0.1:{port}")
    trusted = ssl.create_default_context(cafile=str(keys / "ca.pem"))
    client = httpx.AsyncClient(base_url=f"https://{gateway}", verify=trusted, timeout=120, trust_env=False)

    async def forward(request: Request) -> Response:
        body = await request.body()
        recorder.requests.append((request.url.path, dict(request.headers), body))
        kept = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
        answer = await client.request(request.method, request.url.path, content=body, headers=kept)
        back = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
        return Response(answer.content, answer.status_code, back)

    app = Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST"])])
    certificate = str(keys / "server.pem")
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, ssl_certfile=certificate, ssl_keyfile=certificate, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.should_exit = True
        thread.join(20)
