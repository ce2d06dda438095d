"""The gateway over real sockets: a process of its own in front of a real uvicorn that remembers all it was asked."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aggregator.gateway_bounds import Budget, GatewayLimits

ROOT = Path(__file__).parents[2]
PROTOBUF = {"content-type": "application/protobuf", "accept": "application/protobuf"}
PUSH = "/v1/fleet/push-object"


@dataclass
class Files:
    """PEM files: a CA, and a certificate for 127.0.0.1 with its key."""

    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("certificates"))


def make_files(folder: Path) -> Files:
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "server")]
    authority = x509.BasicConstraints(ca=True, path_length=None)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    pems = []
    for name, key, extension in zip(names, keys, (authority, address), strict=True):
        builder = x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(hours=1)).add_extension(extension, critical=True)
        pems.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    found = Files(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    for path, data in zip((found.ca, found.certificate, found.key), (*pems, private), strict=True):
        path.write_bytes(data)
    return found


@dataclass
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    size: int


@dataclass
class Upstream:
    """A SuperLink as far as the gateway can tell; `asked` holds what came through."""

    port: int
    asked: list[Asked] = field(default_factory=list)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        target = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        self.asked.append(Asked(scope["method"], target, dict(request.headers), len(body)))
        await (await self.answer(scope["raw_path"], body))(scope, receive, send)

    async def answer(self, path: bytes, body: bytes) -> Response:
        if path == b"/v1/fleet/slow":
            await asyncio.sleep(1)
        if path == b"/v1/fleet/stuck":
            await asyncio.sleep(30)
        if path == b"/v1/fleet/stream":
            return StreamingResponse(trickle())
        headers = {"server": "uvicorn/0.49", "set-cookie": "a=b", "keep-alive": "timeout=5", "x-internal": "1"}
        headers["flwr-version-incompatibility-message"] = "old"
        status = 418 if path == b"/v1/fleet/teapot" else 200
        return Response(body, status, {**headers, "connection": "x-internal"}, "application/protobuf")


async def trickle():
    yield b"first"
    await asyncio.sleep(1)
    yield b"second"


@contextlib.contextmanager
def running_upstream(files: Files, port: int) -> Iterator[Upstream]:
    upstream = Upstream(port)
    config = uvicorn.Config(
        upstream,
        port=port,
        ssl_certfile=files.certificate,
        ssl_keyfile=files.key,
        log_level="critical",
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        yield upstream
    finally:
        server.should_exit = True
        thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@dataclass
class Gateway:
    port: int
    process: subprocess.Popen
    log: Path
    files: Files

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def client(self, **named) -> httpx.Client:
        context = ssl.create_default_context(cafile=self.files.ca)
        return httpx.Client(base_url=self.url, verify=context, timeout=20, trust_env=False, **named)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.files.ca)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def raw(self, data: bytes) -> bytes:
        """Send bytes as they are and return what comes until the gateway closes, or nothing more comes for a moment."""
        with self.connect() as connection:
            connection.settimeout(1.5)
            connection.sendall(data)
            return read_all(connection)


def read_all(connection: ssl.SSLSocket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        while data := connection.recv(1 << 16):
            got += data
    return got


@contextlib.contextmanager
def running_gateway(files: Files, upstream_port: int, folder: Path, limits: str = "") -> Iterator[Gateway]:
    """Start the command, or, with limits, the same call with limits that a test can reach."""
    port = free_port()
    if limits:
        command = [
            "-c",
            f"import sys; from pathlib import Path as P; from aggregator.gateway import GatewayLimits, serve\n"
            f"a = sys.argv; serve(a[1], a[2], P(a[3]), P(a[4]), P(a[5]), GatewayLimits({limits}))",
            f"127.0.0.1:{port}",
            f"127.0.0.1:{upstream_port}",
            files.ca,
            files.certificate,
            files.key,
        ]
    else:
        command = ["-m", "aggregator.gateway", *arguments(files, port, upstream_port)]
    log = folder / "gateway.log"
    with log.open("w") as stderr:
        process = subprocess.Popen([sys.executable, *command], stderr=stderr, cwd=ROOT)
    gateway = Gateway(port, process, log, files)
    try:
        wait_for(lambda: "listening" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield gateway
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


def arguments(files: Files, port: int, upstream_port: int) -> list[str]:
    return [
        f"--listen=127.0.0.1:{port}",
        f"--upstream=127.0.0.1:{upstream_port}",
        f"--ca={files.ca}",
        f"--certificate={files.certificate}",
        f"--key={files.key}",
    ]


@pytest.fixture(scope="module")
def upstream(files: Files) -> Iterator[Upstream]:
    with running_upstream(files, free_port()) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(files: Files, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running_gateway(files, upstream.port, tmp_path_factory.mktemp("gateway")) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_asked(upstream: Upstream) -> None:
    upstream.asked.clear()


def post(target: str, extra: str = "", body: str = "abc") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nhost: g\r\ncontent-type: application/protobuf\r\ncontent-length: {len(body)}\r\n"
    return f"{head}{extra}\r\n{body}".encode("latin-1")


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer.split()[1])


def test_a_supernodes_request_passes_with_its_headers_and_no_others(gateway: Gateway, upstream: Upstream) -> None:
    flower = {
        "flwr-public-key": "key",
        "flwr-signature": "signature",
        "flwr-timestamp": "2026-01-01T00:00:00+00:00",
        "flwr-package-name": "flwr",
        "flwr-package-version": "1.41.0",
        "flwr-component-name": "SuperNode",
    }
    foreign = {"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "authorization": "Bearer x", "flwr-superexec-ts": "1"}
    with gateway.client() as client:
        answer = client.post(PUSH, content=b"abc", headers={**PROTOBUF, **flower, **foreign})
    assert (answer.status_code, answer.content) == (200, b"abc")
    [asked] = upstream.asked
    assert (asked.method, asked.target, asked.size) == ("POST", PUSH, 3)
    own = {"host": f"127.0.0.1:{upstream.port}", "accept-encoding": "identity", "connection": "keep-alive"}
    assert asked.headers == {**PROTOBUF, **flower, **own, "content-length": "3"}


def test_health_passes(gateway: Gateway, upstream: Upstream) -> None:
    with gateway.client() as client:
        assert client.get("/health").status_code == 200
    assert [(asked.method, asked.target) for asked in upstream.asked] == [("GET", "/health")]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1/control/list-runs",
        "/v1/runtime/pull-task",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/../control/x",
        "/v1/fleet/./x",
        "/v1/fleet/%2e%2e/control",
        "/v1/fleet/..%2fcontrol",
        "/v1/fleet/a%2Fb",
        "/v1/fleet/a%00",
        "/v1/fleet/a%0d%0aHost:x",
        "/v1/fleet/a;b",
        "/v1/fleet/a\\..\\control",
        "/v1/fleet\\x",
        "/v1/fleet//x",
        "/v1//fleet/x",
        "//v1/fleet/x",
        "//127.0.0.1/v1/fleet/x",
        "/V1/FLEET/x",
        "/v1/fleet/X",
        "/v1/fleet/x?a=/v1/control",
        "/v1/fleet/x?/../../control",
        "/v1/fleet/x#y",
        "/v1/fleetx/y",
        "/xv1/fleet/y",
        "/health/",
        "/health?x",
        "https://127.0.0.1/v1/fleet/x",
        "http://evil.example/v1/fleet/x",
        "127.0.0.1:443",
        "*",
        "/v1/fleet/" + "a" * 5000,
    ],
)
def test_any_other_target_is_refused_unseen(gateway: Gateway, upstream: Upstream, target: str) -> None:
    for request in (post(target), f"GET {target} HTTP/1.1\r\nhost: g\r\n\r\n".encode("latin-1")):
        answer = gateway.raw(request)
        assert status(answer) == 403
        assert b"text/plain" in answer
    assert upstream.asked == []


@pytest.mark.parametrize("target", ["/v1/fleet/a\x00b", "/v1/fleet/\xe9", "/v1/fleet/a\tb"])
def test_what_is_not_http_is_refused_unseen(gateway: Gateway, upstream: Upstream, target: str) -> None:
    assert status(gateway.raw(post(target))) == 400
    assert upstream.asked == []


@pytest.mark.parametrize(
    "request_",
    [
        *(f"{method} {PUSH} HTTP/1.1\r\nhost: g\r\n\r\n" for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD")),
        "POST /health HTTP/1.1\r\nhost: g\r\ncontent-length: 0\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: g\r\ncontent-length: 1\r\n\r\nx",
        "CONNECT 127.0.0.1:443 HTTP/1.1\r\nhost: g\r\n\r\n",
        f"POST {PUSH} HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n",
        f"POST {PUSH} HTTP/1.1\r\nhost: g\r\ncontent-length: 0\r\n\r\n",
        post(PUSH, "transfer-encoding: chunked\r\n", "0\r\n\r\n").decode(),
        post(PUSH, "flwr-public-key: a\r\nflwr-public-key: b\r\n").decode(),
        post(PUSH, "upgrade: h2c\r\nconnection: upgrade\r\n").decode(),
        f"GET {PUSH} HTTP/1.1\r\nhost: g\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ],
)
def test_other_methods_media_types_and_upgrades_are_refused_unseen(
    gateway: Gateway, upstream: Upstream, request_: str
) -> None:
    assert status(gateway.raw(request_.encode())) == 403
    assert upstream.asked == []


def test_a_body_announced_too_large_is_refused_before_it_is_sent(gateway: Gateway, upstream: Upstream) -> None:
    head = f"POST {PUSH} HTTP/1.1\r\nhost: g\r\ncontent-type: application/protobuf\r\n"
    for extra in ("", "expect: 100-continue\r\n"):
        with gateway.connect() as connection:
            started = time.monotonic()
            connection.sendall(f"{head}{extra}content-length: 10000000000\r\n\r\n".encode())
            assert status(connection.recv(1 << 16)) == 413
            assert time.monotonic() - started < 1
    assert upstream.asked == []


def test_the_limit_itself_passes_and_one_byte_more_does_not(gateway: Gateway, upstream: Upstream) -> None:
    limit = GatewayLimits().body_bytes
    with gateway.client() as client:
        assert client.post(PUSH, content=bytes(limit), headers=PROTOBUF).status_code == 200
        assert client.post(PUSH, content=bytes(limit + 1), headers=PROTOBUF).status_code == 413
        # Many times what fits into the buffers between us: the answer must reach a client that is still sending.
        assert client.post(PUSH, content=bytes(8 * limit), headers=PROTOBUF).status_code == 413
    assert [asked.size for asked in upstream.asked] == [limit]


def test_a_chunked_body_is_refused_as_soon_as_it_passes_the_limit(gateway: Gateway, upstream: Upstream) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield bytes(1 << 16)

    with gateway.client() as client:
        assert client.post(PUSH, content=iter([b"a", b"b"]), headers=PROTOBUF).content == b"ab"
        assert client.post(PUSH, content=endless(), headers=PROTOBUF).status_code == 413
    assert sent >= GatewayLimits().body_bytes
    assert [asked.size for asked in upstream.asked] == [2]


def test_the_answer_keeps_its_status_and_loses_what_is_between_two_neighbours(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/v1/fleet/teapot", content=b"abc", headers=PROTOBUF)
        refused = client.get("/")
    assert (answer.status_code, answer.content) == (418, b"abc")
    assert set(answer.headers) == {
        "date",
        "content-length",
        "content-type",
        "flwr-version-incompatibility-message",
    }
    assert "server" not in refused.headers


def test_the_answer_is_streamed(gateway: Gateway) -> None:
    with gateway.client() as client, client.stream("POST", "/v1/fleet/stream", headers=PROTOBUF) as answer:
        times = [time.monotonic() for _ in answer.iter_raw()]
    assert len(times) == 2
    assert times[1] - times[0] > 0.5


def test_a_hundred_sites_wait_for_answers_at_the_same_time(gateway: Gateway) -> None:
    async def all_sites() -> float:
        context = ssl.create_default_context(cafile=gateway.files.ca)
        bounds = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(verify=context, limits=bounds, timeout=20, trust_env=False) as client:
            url = gateway.url + "/v1/fleet/slow"
            started = time.monotonic()
            answers = await asyncio.gather(*(client.post(url, headers=PROTOBUF) for _ in range(100)))
            assert {answer.status_code for answer in answers} == {200}
            return time.monotonic() - started

    assert asyncio.run(all_sites()) < 10


def test_a_missing_superlink_gives_503_until_it_is_back(files: Files, tmp_path: Path) -> None:
    port = free_port()
    with running_gateway(files, port, tmp_path) as gateway, gateway.client() as client:
        for _ in range(2):
            for answer in (client.post(PUSH, content=b"abc", headers=PROTOBUF), client.get("/health")):
                assert answer.status_code == 503
                assert answer.text == "The SuperLink is not reachable; try again.\n"
                assert answer.headers["retry-after"]
            with running_upstream(files, port):
                assert client.post(PUSH, content=b"abc", headers=PROTOBUF).content == b"abc"
                assert client.get("/health").status_code == 200


def test_a_superlink_with_a_certificate_of_another_ca_is_not_asked(
    files: Files, upstream: Upstream, tmp_path: Path
) -> None:
    other = Files(make_files(tmp_path).ca, files.certificate, files.key)
    context = ssl.create_default_context(cafile=files.ca)
    with running_gateway(other, upstream.port, tmp_path) as gateway:
        assert httpx.get(gateway.url + "/health", verify=context, trust_env=False).status_code == 503
    assert upstream.asked == []


def test_slow_clients_are_cut_off_and_block_nobody(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    limits = "head_s=1.5, stall_s=1.5, bytes_per_s=1000, linger_s=0.5"
    head = b"POST /v1/fleet/x HTTP/1.1\r\nhost: g\r\n" + b"a: b\r\n" * 100
    body = post(PUSH, "", "x" * 200)
    with running_gateway(files, upstream.port, tmp_path, limits) as gateway, ThreadPoolExecutor(3) as pool:
        slow_head = pool.submit(drip, gateway, b"", head)
        slow_body = pool.submit(drip, gateway, body[:-200], body[-200:])
        silent = pool.submit(drip, gateway, b"", b"")
        with gateway.client() as client:
            for _ in range(20):
                started = time.monotonic()
                assert client.post(PUSH, content=b"abc", headers=PROTOBUF).content == b"abc"
                assert time.monotonic() - started < 1
                time.sleep(0.05)
        for slow, expected in ((slow_head, b""), (silent, b""), (slow_body, b"HTTP/1.1 503")):
            seconds, got = slow.result()
            assert got.startswith(expected)
            assert 1 < seconds < 5
        text = gateway.log.read_text()
        assert "head too slow" in text
        assert "body too slow" in text
    assert {asked.size for asked in upstream.asked} == {3}


def drip(gateway: Gateway, first: bytes, rest: bytes) -> tuple[float, bytes]:
    """Send one byte every 50 ms; return after how long the gateway ended it, and its last words."""
    started, got = time.monotonic(), b""
    with gateway.connect() as connection, contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(first)
        connection.settimeout(0.05)
        for number in range(300):
            if rest:
                connection.sendall(rest[number % len(rest) :][:1])
            try:
                data = connection.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                break
            got += data
    return time.monotonic() - started, got


def test_a_client_that_does_not_read_is_cut_off(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    with running_gateway(files, upstream.port, tmp_path, "stall_s=1.0") as gateway, gateway.connect() as connection:
        connection.sendall(post(PUSH, "", "x" * (15 << 20)))
        time.sleep(3)
        assert len(read_all(connection)) < 15 << 20
        with gateway.client() as client:
            assert client.get("/health").status_code == 200


def test_bodies_in_flight_share_a_budget(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    limits = "body_bytes=1 << 20, total_bytes=3 << 20, queue_s=0.3"
    with running_gateway(files, upstream.port, tmp_path, limits) as gateway, gateway.client() as client:
        large, held = bytes(1 << 20), []
        for _ in range(3):
            held.append(gateway.connect())
            held[-1].sendall(post(PUSH, "", "x" * (1 << 20))[:-1])
        wait_for(lambda: client.post(PUSH, content=large, headers=PROTOBUF).status_code == 503)
        refused = client.post(PUSH, content=large, headers=PROTOBUF)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        # Heartbeats and polls need nothing from the budget.
        assert client.post(PUSH, content=b"abc", headers=PROTOBUF).content == b"abc"
        # One is completed, two go away: all is given back.
        held[0].sendall(b"x")
        assert status(held[0].recv(1 << 16)) == 200
        for connection in held:
            connection.close()
        with ThreadPoolExecutor(3) as pool:
            found = pool.map(lambda _: client.post(PUSH, content=large, headers=PROTOBUF).status_code, range(3))
            assert list(found) == [200, 200, 200]


def test_a_key_has_a_quota_that_refills_and_is_nobody_elses(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    limits = "site_bytes=3 << 20, site_bytes_per_s=1 << 20"
    with running_gateway(files, upstream.port, tmp_path, limits) as gateway, gateway.client() as client:

        def push(key: str) -> int:
            return client.post(PUSH, content=bytes(1 << 20), headers={**PROTOBUF, "flwr-public-key": key}).status_code

        assert [push("a") for _ in range(3)] == [200, 200, 200]
        assert push("a") == 413
        assert push("b") == 200
        # Polls and heartbeats go on.
        small = client.post(PUSH, content=b"abc", headers={**PROTOBUF, "flwr-public-key": "a"})
        assert small.status_code == 200
        wait_for(lambda: push("a") == 200)


def test_the_budget_keeps_its_order_and_loses_no_byte() -> None:
    async def play() -> list[str]:
        budget, seen = Budget(10), []

        async def hold(name: str, size: int, patience: float, held: float) -> None:
            try:
                async with budget.hold(size, patience):
                    seen.append(name)
                    await asyncio.sleep(held)
                    seen.append(f"{name} is done")
            except TimeoutError:
                seen.append(f"{name} gives up")

        # c would fit beside a, but waits behind b, and goes on as soon as b has lost patience.
        await asyncio.gather(hold("a", 6, 1, 0.3), hold("b", 8, 0.1, 0), hold("c", 4, 1, 0.4), hold("d", 10, 1, 0))
        cancelled = [asyncio.create_task(hold("e", 7, 1, 9)) for _ in range(3)]
        await asyncio.sleep(0.01)
        for task in cancelled:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        await hold("all", 10, 0.01, 0)
        return seen

    seen = asyncio.run(play())
    assert seen == ["a", "b gives up", "c", "a is done", "c is done", "d", "d is done", "e", "all", "all is done"]


def test_too_many_connections_are_closed_at_once(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    with running_gateway(files, upstream.port, tmp_path, "connections=3") as gateway:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(gateway.connect())
            assert gateway.raw(post(PUSH)) == b""
        wait_for(lambda: gateway.raw(b"GET /health HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n") != b"")


def test_refused_requests_are_logged_escaped_cut_and_limited(files: Files, upstream: Upstream, tmp_path: Path) -> None:
    with running_gateway(files, upstream.port, tmp_path) as gateway:
        gateway.raw(post("/v1/control/\\" + "a" * 5000))
        wait_for(lambda: len(gateway.lines) == 2)
        line = gateway.lines[1]
        found = re.fullmatch(r"gateway: refused (\S+) from 127\.0\.0\.1:\d+: path not on the list", line)
        assert found, line
        assert found[1].startswith("/v1/control/\\\\aaa")
        assert len(found[1]) == 200
        for _ in range(150):
            gateway.raw(b"GET /x HTTP/1.1\r\nhost: g\r\n\r\n")
        assert len(gateway.lines) == 61
        with gateway.client() as client:
            client.post(PUSH, content=b"secret body", headers=PROTOBUF)
        assert "secret" not in gateway.log.read_text()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(gateway: Gateway, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=gateway.files.ca)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", gateway.port)) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_tls_1_2_is_accepted_and_plain_http_is_not(gateway: Gateway, upstream: Upstream) -> None:
    context = ssl.create_default_context(cafile=gateway.files.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=context, trust_env=False) as client:
        assert client.get(gateway.url + "/health").status_code == 200
        with pytest.raises(httpx.TransportError):
            client.get(gateway.url.replace("https", "http") + "/health")
    assert len(upstream.asked) == 1


def test_sigterm_ends_it_within_five_seconds_with_connections_open(
    files: Files, upstream: Upstream, tmp_path: Path
) -> None:
    with running_gateway(files, upstream.port, tmp_path) as gateway, contextlib.ExitStack() as stack:
        for data in (b"", b"POST /v1", post("/v1/fleet/stuck"), post(PUSH)[:-1]):
            stack.enter_context(gateway.connect()).sendall(data)
        stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        time.sleep(0.5)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(5) == 0
        assert time.monotonic() - started < 5
        assert len(gateway.lines) == 1, gateway.lines


def run_main(*given: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aggregator.gateway", *given]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT)


def test_what_it_cannot_start_with_is_one_sentence(files: Files, gateway: Gateway, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    for port, found, expected in (
        (gateway.port, files, str(gateway.port)),
        (free_port(), Files(wrong, files.certificate, files.key), "wrong.pem"),
        (free_port(), Files(tmp_path / "absent", files.certificate, files.key), "absent"),
        (free_port(), Files(files.ca, wrong, files.key), "wrong.pem"),
    ):
        done = run_main(*arguments(found, port, 1))
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert expected in line
        assert ";" in line
    assert run_main(*arguments(files, 1, 1)[1:], "--listen=nowhere").returncode == 1


def test_importing_it_brings_no_flower_and_no_torch() -> None:
    code = "import sys, aggregator.gateway; print(sorted({'flwr', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert done.stdout == "[]\n"
