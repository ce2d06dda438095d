"""How long it takes to append to a long audit log, to read it, and how much memory that needs.

    .venv/bin/python -m tests.benchmarks.bench_audit_log [--entries 100000] [--bytes 1500] [--appends 1000]

The log is built in bulk, in the system's temporary folder; the appends are real ones, each flushed to the disk.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from casam_fed.audit.dsse import seal
from casam_fed.audit.merkle import check_inclusion, complete_root, fold, grown, leaf_hash
from casam_fed.audit.note import Checkpoint, sign_checkpoint
from casam_fed.audit.tile_layout import bundle_of, tile_path
from casam_fed.audit.tiles import Log

ORIGIN = "casam-fed/site/clinic/0123456789ab"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WIDTH = 256


def main() -> None:
    """Build, measure in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--bytes", type=int, default=1500)
    parser.add_argument("--appends", type=int, default=1000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.bytes, options.appends)
        return
    with tempfile.TemporaryDirectory(prefix="casam-bench-") as folder:
        log = Path(folder) / "log"
        started = time.perf_counter()
        build(log, options.entries, options.bytes)
        print(f"{options.entries:,} entries of {options.bytes:,} bytes built in {time.perf_counter() - started:.1f} s")
        print(f"one flush of 1,500 bytes: median {statistics.median(flushes(Path(folder))) * 1000:.2f} ms", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks.bench_audit_log", "--measure", str(log)]
        subprocess.run([*command, "--bytes", str(options.bytes), "--appends", str(options.appends)], check=True)


def build(folder: Path, count: int, size: int) -> None:
    """Write the files of a log, bundle by bundle, without flushing any."""
    peaks: list[bytes] = []
    rows: list[list[bytes]] = [[]]
    for start in range(0, count, WIDTH):
        entries = [unsigned(index, size) for index in range(start, min(start + WIDTH, count))]
        leaves = [leaf_hash(entry) for entry in entries]
        write(folder / tile_path("entries", start // WIDTH, len(entries)), bundle_of(entries))
        peaks = grown(peaks, start, leaves)
        rows[0] += leaves
    while len(rows[-1]) >= WIDTH:
        rows.append([complete_root(tile) for tile in tiles(rows[-1]) if len(tile) == WIDTH])
    for level, row in enumerate(rows):
        for number, tile in enumerate(tiles(row)):
            write(folder / tile_path(str(level), number, len(tile)), b"".join(tile))
    write(folder / "checkpoint", sign_checkpoint(Checkpoint(ORIGIN, count, fold(peaks)), KEY).data)


def unsigned(index: int, size: int) -> bytes:
    """Return bytes like those of an entry; appending does not look at what is counted already."""
    return hashlib.shake_128(index.to_bytes(8, "big")).digest(size)


def tiles(row: list[bytes]) -> Iterator[list[bytes]]:
    """Yield hashes in rows of 256."""
    for start in range(0, len(row), WIDTH):
        yield row[start : start + WIDTH]


def write(path: Path, data: bytes) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def flushes(folder: Path) -> Iterator[float]:
    """Yield how long this disk takes to write 1,500 bytes and flush them, seconds."""
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(1500))
            started = time.perf_counter()
            os.fsync(file.fileno())
            yield time.perf_counter() - started


def measure(folder: Path, size: int, appends: int) -> None:
    """Print times and peak memory."""
    before = peak()
    log = Log(folder)
    payload = b"x" * (size * 3 // 4 - 220)

    def make(index: int, previous: str) -> bytes:
        log.entry(index - 1)
        return seal("application/vnd.in-toto+json", b"%d %s" % (index, previous.encode()) + payload, KEY)

    used = time.process_time()
    times = sorted(timed(lambda: log.append(make, KEY)) for _ in range(appends))
    used = (time.process_time() - used) / appends
    print(
        f"append, {appends} times, its own signature included: {spread(times)}; {used * 1000:.2f} ms of processor time"
    )
    print(f"memory of all that: {peak() - before:.0f} MB more at most than the {before:.0f} MB of its modules")
    reader = Log(folder)
    step = max(1, reader.size // 500)
    indices = range(0, reader.size, step)
    print(f"proof of one entry: {spread(sorted(timed(lambda index=index: reader.proof(index)) for index in indices))}")
    index = reader.size // 3
    check_inclusion(leaf_hash(reader.entry(index)), index, reader.size, reader.inclusion(index), reader.checkpoint.root)
    started = time.perf_counter()
    peaks = grown([], 0, map(leaf_hash, reader.entries()))
    assert fold(peaks) == reader.checkpoint.root
    print(f"all {reader.size:,} entries read and their root computed: {time.perf_counter() - started:.1f} s")
    print(f"peak memory at the end: {peak():.0f} MB")


def timed(act: Callable[[], object]) -> float:
    """Return how long something takes, seconds."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def spread(times: list[float]) -> str:
    """Return sorted times in words."""
    high = times[int(len(times) * 0.95)]
    return f"median {statistics.median(times) * 1000:.2f} ms, 95% {high * 1000:.2f} ms, most {times[-1] * 1000:.2f} ms"


def peak() -> float:
    """Return the most memory this process has had resident, MB."""
    # getrusage would tell that of the process which started this one, too.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
