"""What one client of the gateway, one key, and all of them together may take: bytes, time, memory, lines of the log."""

import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Budget", "GatewayLimits", "Pace", "Quota", "RefusalLog"]

T = TypeVar("T")

_LINES_PER_MINUTE = 60
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class GatewayLimits:
    """How much one client, and all of them together, may take.

    A SuperNode's largest request is one chunk of an array, 5 MiB (FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE) and a few hundred
    bytes around it, however large the release: `body_bytes` is three of them. `total_bytes` holds 25 such chunks, more
    than the SuperLink takes in a tenth of a second; a site pushes two at once, and others wait their turn.
    """

    body_bytes: int = 16 << 20
    total_bytes: int = 128 << 20
    # A site may send two of the largest releases at once, and as much again in ten minutes: Flower puts no bound on the sum
    # of the objects of one message, and keeps all of them on disk.
    site_bytes: int = 256 << 20
    site_bytes_per_s: float = (256 << 20) / 600
    # A hundred sites use four each: two objects pushed at once, a poll and a heartbeat. Each may cost 1 MB beside the body.
    connections: int = 500
    # A SuperNode waits 30 s for an answer: refusing it earlier lets it read why, and try again.
    queue_s: float = 20.0
    upstream_s: float = 60.0
    head_s: float = 10.0
    # A client may stand still for `stall_s`, and earns that time back with `bytes_per_s`: it can never save up more.
    stall_s: float = 20.0
    bytes_per_s: int = 16 << 10
    # A client that is still sending when it is refused reads the answer only if the connection stays open for a moment.
    linger_s: float = 2.0
    idle_s: int = 30
    shutdown_s: float = 2.0


class RefusalLog:
    """One line a refused request on stderr, and a limit, so that a flood of requests cannot fill the disk."""

    def __init__(self) -> None:
        self._since, self._lines, self._left_out = 0.0, 0, 0

    def write(self, path: bytes, reason: str, client: tuple[str, int] | None) -> None:
        now = time.monotonic()
        if now - self._since >= 60:
            if self._left_out:
                print(f"gateway: refused {self._left_out} more, not shown", file=sys.stderr, flush=True)
            self._since, self._lines, self._left_out = now, 0, 0
        if self._lines == _LINES_PER_MINUTE:
            self._left_out += 1
            return
        self._lines += 1
        shown = path[:_SHOWN_CHARACTERS].decode("latin-1").encode("unicode_escape").decode("ascii")[:_SHOWN_CHARACTERS]
        address = f"{client[0]}:{client[1]}" if client else "unknown"
        print(f"gateway: refused {shown} from {address}: {reason}", file=sys.stderr, flush=True)


class Budget:
    """Bytes that all bodies in flight share, granted in the order of asking."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, size: int, patience_s: float) -> AsyncIterator[None]:
        """Hold `size` bytes.

        Raises:
            TimeoutError: others held them for longer than `patience_s`.
        """
        await self._take(size, patience_s)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int, patience_s: float) -> None:
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        self._give(0)
        with contextlib.ExitStack() as undo:
            # The grant may have come in the same turn of the loop as the end of patience. If not, others wait behind us.
            undo.callback(lambda: self._give(size if granted.done() and not granted.cancelled() else 0))
            async with asyncio.timeout(patience_s):
                await granted
            undo.pop_all()

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting:
            wanted, granted = self._waiting[0]
            if not granted.done():
                if wanted > self._free:
                    return
                self._free -= wanted
                granted.set_result(None)
            self._waiting.popleft()


class Quota:
    """How much each key may still send: full at first, and refilled at a steady rate."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._most, self._rate = limits.site_bytes, limits.site_bytes_per_s
        self._left: dict[bytes, tuple[float, float]] = {}

    def allows(self, key: bytes, size: int) -> bool:
        """Return whether `size` bytes more are within the quota of `key`."""
        return size <= self._now(key)

    def take(self, key: bytes, size: int) -> None:
        """Count what the SuperLink has accepted: nobody can use up another's quota without that one's key."""
        self._left[key] = (self._now(key) - size, time.monotonic())

    def _now(self, key: bytes) -> float:
        left, since = self._left.get(key, (float(self._most), 0.0))
        return min(float(self._most), left + self._rate * (time.monotonic() - since))


class Pace:
    """Time that a client may let us wait: it starts with `stall_s` and earns more only by moving bytes."""

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits, self._credit = limits, limits.stall_s

    async def wait(self, step: Awaitable[T]) -> T:
        """Await one step of the client.

        Raises:
            TimeoutError: the client has used up its time.
        """
        started = time.monotonic()
        async with asyncio.timeout(self._credit):
            result = await step
        self._credit -= time.monotonic() - started
        return result

    def earn(self, size: int) -> None:
        self._credit = min(self._limits.stall_s, self._credit + size / self._limits.bytes_per_s)
