"""The aggregator's only public port: passes what a SuperNode needs to the SuperLink on loopback, refuses the rest.

Flower serves its fleet, control and runtime APIs on one port, and the holder of the CA certificate alone can list nodes or
read logs through the last two. Here a request must be on a list to pass: its path, method, media type and every header.

    python -m aggregator.gateway --listen HOST:PORT --upstream 127.0.0.1:PORT --ca FILE --certificate FILE --key FILE
"""

import argparse
import asyncio
import contextlib
import mmap
import re
import resource
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from aggregator.gateway_bounds import Budget, GatewayLimits, Pace, Quota, RefusalLog
from casam_fed.errors import ConfigError
from casam_fed.host.files import reason_of

__all__ = ["GatewayLimits", "main", "make_gateway", "serve"]

T = TypeVar("T")
_Header = tuple[bytes, bytes]

# flwr 1.41 asks for /v1/fleet/register-node and eleven more of that form; dots, percent signs and second slashes never.
_FLEET_PATH = re.compile(rb"/v1/fleet(?:/[a-z0-9-]{1,64}){1,4}")
_HEALTH_PATH = b"/health"
_MEDIA_TYPE = b"application/protobuf"

# What flwr 1.41 reads of a fleet request: node_auth_http_interceptor.py and interceptors/http/runtime_version.py.
_REQUEST_HEADERS = frozenset(
    {
        b"accept",
        b"content-type",
        b"flwr-component-name",
        b"flwr-package-name",
        b"flwr-package-version",
        b"flwr-public-key",
        b"flwr-signature",
        b"flwr-timestamp",
    }
)
_RESPONSE_HEADERS = frozenset(
    {b"content-length", b"content-type", b"flwr-version-incompatibility-message", b"retry-after"}
)

# A body up to this size takes nothing from the budget, so heartbeats pass while large bodies wait for each other. uvicorn
# holds as much for every connection anyway, and the number of connections is limited.
_FREE_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10


class _Refusal(Exception):  # noqa: N818
    """A request that is answered here; the reason is for our log, the text for the client."""

    def __init__(self, status: int, text: str, reason: str, retry_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.text, self.reason, self.retry_s = status, text, reason, retry_s


class _Gone(Exception):  # noqa: N818
    """The client has left, or was cut off; nobody is there to read an answer."""


# A process has one stderr.
_refusals = RefusalLog()


class _Gateway:
    """The ASGI application behind the port.

    Bodies are read whole before the SuperLink hears of them, in memory that `GatewayLimits` bounds: a client that sends
    slowly or stops half way costs the SuperLink no connection, and it never sees a part of a refused body. Responses are
    streamed.
    """

    def __init__(self, client: httpx.AsyncClient, limits: GatewayLimits) -> None:
        self._client, self._limits = client, limits
        self._budget = Budget(limits.total_bytes)
        self._quota = Quota(limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            _refusals.write(scope.get("raw_path", b""), "not a plain request", scope.get("client"))
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            await self._pass_on(scope, receive, send)
        except _Refusal as refusal:
            _refusals.write(_target(scope), refusal.reason, scope["client"])
            with contextlib.suppress(TimeoutError):
                await Pace(self._limits).wait(_answer(refusal, receive, send, self._limits.linger_s))
        except _Gone:
            if cut := scope.get("state", {}).get("cut"):
                cut()
                # Until uvicorn has heard of it, returning without an answer would be a defect in its eyes.
                await _leaving(receive)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = _expected_size(scope, self._limits)
        if size > _FREE_BYTES and not self._quota.allows(_key(scope), size):
            text = "This site has sent too much in a short time; try again in ten minutes."
            raise _Refusal(413, text, "over the quota of its key")
        held = self._budget.hold(size, self._limits.queue_s) if size > _FREE_BYTES else contextlib.nullcontext()
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(held)
            except TimeoutError as error:
                text = "The gateway is busy with other sites; try again."
                raise _Refusal(503, text, "no room for the body within the time", retry_s=5) from error
            body = await self._read_body(receive, size)
            await _unless_gone(self._exchange(scope, body, send), receive)

    async def _read_body(self, receive: Receive, size: int) -> memoryview:
        body, used, pace, more = _room(size), 0, Pace(self._limits), True
        while more:
            try:
                message = await pace.wait(receive())
            except TimeoutError as error:
                # 408 would be the word for it, but a SuperNode tries again only after 502, 503 and 504.
                raise _Refusal(503, "The body came too slowly; try again.", "body too slow", retry_s=5) from error
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            pace.earn(len(chunk))
            if used + len(chunk) > size:
                raise _too_large(self._limits, "chunked body over the limit")
            body[used : used + len(chunk)] = chunk
            used += len(chunk)
        return body[:used]

    async def _exchange(self, scope: Scope, body: memoryview, send: Send) -> None:
        """Ask the SuperLink and stream its answer back."""
        headers = [(name, value) for name, value in scope["headers"] if name in _REQUEST_HEADERS]
        if scope["method"] == "POST":
            headers.append((b"content-length", str(len(body)).encode("ascii")))
        request = self._client.build_request(
            scope["method"], scope["raw_path"].decode("ascii"), headers=headers, content=_chunks(body)
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise _no_answer(error) from error
        if response.status_code < 400 and len(body) > _FREE_BYTES:
            self._quota.take(_key(scope), len(body))
        try:
            await self._stream(response, send)
        except (httpx.TransportError, TimeoutError) as error:
            raise _Gone from error
        finally:
            await response.aclose()

    async def _stream(self, response: httpx.Response, send: Send) -> None:
        pace = Pace(self._limits)
        headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() in _RESPONSE_HEADERS]
        await pace.wait(send({"type": "http.response.start", "status": response.status_code, "headers": headers}))
        async for chunk in response.aiter_raw():
            await pace.wait(send({"type": "http.response.body", "body": chunk, "more_body": True}))
            pace.earn(len(chunk))
        await pace.wait(send({"type": "http.response.body", "body": b"", "more_body": False}))


def make_gateway(upstream: str, ca: Path, limits: GatewayLimits) -> Starlette:
    """Return the gateway to the SuperLink at `upstream`, HOST:PORT, whose certificate must be signed by `ca`.

    Raises:
        ConfigError: the CA's certificate cannot be read.
    """
    with _as_config_error(f"cannot read the CA certificate {ca}", "give a PEM file"):
        context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    client = httpx.AsyncClient(
        base_url=f"https://{upstream}",
        verify=context,
        # A proxy of the environment would see what is meant for loopback.
        trust_env=False,
        headers={"accept-encoding": "identity"},
        # Each connection of ours may wait for the SuperLink at the same time. The SuperLink drops idle ones after 5 s:
        # leaving earlier means never sending into one that it is about to drop.
        limits=httpx.Limits(max_connections=limits.connections, max_keepalive_connections=256, keepalive_expiry=2.0),
        timeout=httpx.Timeout(limits.upstream_s, connect=5.0, pool=limits.queue_s),
    )
    # httpx names itself and its version unless told otherwise.
    del client.headers["user-agent"]

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with client:
            yield

    app = Starlette(lifespan=lifespan)
    # Starlette's routes match the decoded path, from which nobody can tell any more what was asked for.
    app.router.default = _Gateway(client, limits)
    return app


def serve(listen: str, upstream: str, ca: Path, certificate: Path, key: Path, limits: GatewayLimits) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Raises:
        ConfigError: an address or file is wrong, or the port is in use.
    """
    # Before uvicorn takes over and after it hands back, the same signals end the process with exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    app = make_gateway(upstream, ca, limits)
    context = _server_context(certificate, key)
    _allow_open_files(2 * limits.connections + 100)
    config = uvicorn.Config(
        app,
        # httptools would hide absolute-form targets from us and read headers without end.
        http=cast(Any, partial(_GuardedProtocol, limits=limits)),
        ws="none",
        loop="asyncio",
        lifespan="on",
        ssl_context_factory=lambda _config, _default: context,
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_s,
        timeout_graceful_shutdown=int(limits.shutdown_s) + 1,
    )
    with _bind(listen) as bound:
        host, port = bound.getsockname()[:2]
        print(f"gateway: listening on {host}:{port} for the SuperLink at {upstream}", file=sys.stderr, flush=True)
        uvicorn.Server(config).run(sockets=[bound])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the gateway, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m aggregator.gateway", description="The aggregator's public port.")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where sites connect")
    parser.add_argument("--upstream", required=True, metavar="HOST:PORT", help="where the SuperLink listens")
    parser.add_argument("--ca", required=True, type=Path, help="certificate that signed the SuperLink's (PEM)")
    parser.add_argument("--certificate", required=True, type=Path, help="certificate shown to sites (PEM)")
    parser.add_argument("--key", required=True, type=Path, help="its private key (PEM, no passphrase)")
    given = parser.parse_args(arguments)
    try:
        serve(given.listen, given.upstream, given.ca, given.certificate, given.key, GatewayLimits())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


class _GuardedProtocol(H11Protocol):
    """uvicorn's protocol with what it lacks: limits on connections and on the time that a request's head may take."""

    def __init__(self, *arguments: Any, limits: GatewayLimits, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "cut": transport.abort}
        if len(self.connections) > self._limits.connections:
            _refusals.write(b"-", "too many connections", self.client)
            transport.abort()
            return
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        # What still comes on a connection that is being closed is nobody's.
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            # A client that does not take part in the end of TLS would keep the connection for 30 s.
            self.loop.call_later(self._limits.linger_s, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        _refusals.write(b"-", "not HTTP", self.client)
        if self._between_requests():
            super().send_400_response(msg)
            self.loop.call_later(self._limits.linger_s, self.transport.abort)
        else:
            # A broken body under a request that is being worked on: the answer to that may have begun already.
            self.transport.abort()

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(self._limits.shutdown_s, self.transport.abort)

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch_head(self) -> None:
        if not self._between_requests():
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_too_slow)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if self._between_requests():
            _refusals.write(b"-", "head too slow", self.client)
            self.transport.abort()


def _target(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    path: bytes = scope["raw_path"]
    return path + b"?" + query if query else path


def _key(scope: Scope) -> bytes:
    """Return the public key that a request says it is signed with; the SuperLink checks it."""
    return _headers(scope).get(b"flwr-public-key", b"")


def _no_answer(error: httpx.TransportError) -> _Refusal:
    if isinstance(error, httpx.ReadTimeout):
        return _Refusal(504, "The SuperLink did not answer in time; try again.", "SuperLink too slow")
    reason = f"SuperLink not reachable ({type(error).__name__})"
    return _Refusal(503, "The SuperLink is not reachable; try again.", reason, retry_s=5)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    return dict(scope["headers"])


def _too_large(limits: GatewayLimits, reason: str) -> _Refusal:
    return _Refusal(413, f"A body of more than {limits.body_bytes:,} bytes is not accepted.", reason)


def _expected_size(scope: Scope, limits: GatewayLimits) -> int:
    """Check everything that is known before the body, and return how many bytes the body may need.

    Raises:
        _Refusal: the request is not one that a SuperNode sends.
    """
    if reason := _not_on_the_list(scope):
        raise _Refusal(403, "Only the fleet API of the SuperLink is served here.", reason)
    values = _headers(scope)
    if b"transfer-encoding" in values:
        return limits.body_bytes
    size = int(values.get(b"content-length", b"0"))
    if size > limits.body_bytes:
        raise _too_large(limits, f"announced {size} bytes")
    return size


def _not_on_the_list(scope: Scope) -> str:
    """Return in what a request differs from those that a SuperNode sends, or ""."""
    path, method, values = scope["raw_path"], scope["method"], _headers(scope)
    names = [name for name, _ in scope["headers"]]
    once = (*_REQUEST_HEADERS, b"host", b"content-length", b"transfer-encoding")
    defects = {
        "path not on the list": not (path == _HEALTH_PATH or _FLEET_PATH.fullmatch(path)),
        "query string": bool(scope["query_string"]),
        "method not on the list": method != ("GET" if path == _HEALTH_PATH else "POST"),
        "upgrade": b"upgrade" in names,
        "header given twice": any(names.count(name) > 1 for name in once),
        # Two lengths for one body are how requests are smuggled past a gateway (RFC 9112, section 6.3).
        "two lengths": b"content-length" in values and b"transfer-encoding" in values,
        "body on a GET": method == "GET"
        and (b"transfer-encoding" in values or values.get(b"content-length", b"0").strip(b"0") != b""),
        "media type not on the list": method == "POST" and values.get(b"content-type") != _MEDIA_TYPE,
    }
    return next((reason for reason, found in defects.items() if found), "")


async def _answer(refusal: _Refusal, receive: Receive, send: Send, linger_s: float) -> None:
    """Tell the client why, read and forget for a moment what it still sends, then close the connection."""
    text = (refusal.text + "\n").encode("ascii")
    headers: list[_Header] = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode("ascii")),
        (b"connection", b"close"),
    ]
    if refusal.retry_s is not None:
        headers.append((b"retry-after", str(refusal.retry_s).encode("ascii")))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": text, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(linger_s):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _unless_gone(exchange: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run the exchange, and give it up when the client leaves: nobody would read the answer.

    Raises:
        _Gone: the client left first.
    """

    tasks = (asyncio.create_task(exchange), asyncio.create_task(_leaving(receive)))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _Gone
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _leaving(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _room(size: int) -> memoryview:
    # Memory of its own mapping goes back to the system at once; after a hundred bodies malloc kept half a gigabyte.
    return memoryview(mmap.mmap(-1, size) if size > _FREE_BYTES else bytearray(size))


async def _chunks(body: memoryview) -> AsyncIterator[bytes]:
    # In one piece the body would be in memory three times: as bytes, encrypted, and in the transport.
    for start in range(0, len(body), _CHUNK_BYTES):
        yield bytes(body[start : start + _CHUNK_BYTES])


def _server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    what = f"cannot use the certificate {certificate} with the key {key}"
    with _as_config_error(what, "give a PEM certificate and its key without passphrase"):
        # Without a password OpenSSL would ask the terminal for that of an encrypted key, and wait.
        context.load_cert_chain(certificate, key, password="")
    return context


def _bind(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"cannot listen on '{listen}'; give --listen as HOST:PORT, such as 0.0.0.0:9092")
    mend = "end the program that uses the port or give another --listen"
    with _as_config_error(f"cannot listen on port {port} of {host}", mend), contextlib.ExitStack() as stack:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = stack.enter_context(socket.socket(family, kind, protocol))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # From here on clients queue, also before uvicorn is ready.
        bound.listen(2048)
        stack.pop_all()
    return bound


@contextlib.contextmanager
def _as_config_error(what: str, mend: str) -> Iterator[None]:
    """Say what of the command line cannot be used, and why."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{what}: {reason_of(error)}; {mend}") from error


def _allow_open_files(wanted: int) -> None:
    """A request needs two connections; many systems allow a process 1,024 (256 on macOS) unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
