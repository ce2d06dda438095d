"""Files are decoded in a process of their own: what harms it costs one file, and the next is decoded by a new one.

The process gets a path a line and answers with JSON, its length in eight digits before it, and, where it could read the
file, the bytes of its pixels.
It may use so much memory, may write nothing, and what takes too long is ended with it.
"""

import base64
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

import numpy as np

from casam_fed.data.raster import MAX_PIXELS
from casam_fed.data.volume import MAX_VOXELS, Volume
from casam_fed.errors import CasamError, DataError
from casam_fed.host.processes import module_command
from casam_fed.segmenting.case import Case, Grid, read_case

__all__ = ["Decoder"]

_MEMORY: Final = 12 << 30
"""Bytes of address space: of the largest volume that is read, its voxels as float64, and what libraries reserve."""

_MOST_BYTES: Final = max(3 * MAX_PIXELS, 8 * MAX_VOXELS)
_MOST_HEAD: Final = 1 << 20
_LENGTH: Final = 8
_TYPES: Final = frozenset("iuf")


class Decoder:
    """Reads files as `read_case` does, in a process that is started when it is first needed; use as a context manager."""

    def __init__(self, seconds: float = 120.0, memory: int = _MEMORY) -> None:
        """Allow so many seconds a file, and so many bytes of address space."""
        self._seconds, self._memory = seconds, memory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process where there is none: whoever has other things to do first need not wait for it later."""
        if self._process is None:
            command = [*module_command("casam_fed.segmenting.decoding"), str(self._memory)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._process

    def read(self, path: Path, channel: int = 0) -> Case:
        """Return the case in a file.

        Raises:
            DataError: as `read_case`; or decoding it took too long or too much memory, or ended the process.
        """
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._seconds
        wish = json.dumps({"path": str(path.absolute()), "channel": channel}).encode()
        try:
            process.stdin.write(wish + b"\n")
            process.stdin.flush()
            length = int(self._exactly(process.stdout, _LENGTH, deadline))
            if not 0 < length <= _MOST_HEAD:
                raise ValueError("so long a head")
            said = json.loads(self._exactly(process.stdout, length, deadline))
            if "error" in said:
                raise DataError(str(said["error"]).replace(str(path.absolute()), str(path)))
            size = int(said["bytes"])
            if not 0 < size <= _MOST_BYTES:
                raise ValueError("so many bytes")
            return _case(path, said, self._exactly(process.stdout, size, deadline))
        except TimeoutError:
            self._end()
            problem = f"was not decoded within {self._seconds:g} s"
        except (OSError, EOFError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
            number = -self._end()
            name = signal.Signals(number).name if number in list(signal.Signals) else "no more to say"
            problem = f"ended the process that decoded it ({name})"
        raise DataError(f"{path} {problem}; it is damaged, or larger than it seems: export it again, or crop it")

    def _exactly(self, stream: IO[bytes], size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view, filled = memoryview(data), 0
        while filled < size:
            some = self._some(stream, min(size - filled, 1 << 20), deadline)
            view[filled : filled + len(some)] = some
            filled += len(some)
        return data

    def _some(self, stream: IO[bytes], most: int, deadline: float) -> bytes:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        some = os.read(stream.fileno(), most)
        if not some:
            raise EOFError
        return some

    def _end(self) -> int:
        """End the process, and return how it has ended."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            code = process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return code


def _case(path: Path, said: dict[str, Any], data: bytearray) -> Case:
    """Return the case that the process speaks of, every word of it checked."""
    kind = np.dtype(str(said["dtype"]))
    shape = tuple(int(length) for length in said["shape"])
    if kind.kind not in _TYPES or min(shape, default=0) < 1:
        raise ValueError("no such pixels")
    values = np.frombuffer(data, dtype=kind).reshape(shape)
    notes = tuple(str(note) for note in said["notes"])
    if said["volume"] is None:
        if kind != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError("no picture")
        return Case(path, picture=values, notes=notes)
    about, grid = said["volume"], said["grid"]
    if len(shape) != 3:
        raise ValueError("no volume")
    first, second, third = (float(number) for number in about["spacing"])
    axes = tuple(int(axis) for axis in about["source_axes"])
    if sorted(axes) != [0, 1, 2]:
        raise ValueError("no axes")
    volume = Volume(
        path=path,
        planes=values,
        spacing=(first, second, third),
        affine=np.array(about["affine"], dtype=np.float64).reshape(4, 4),
        source_axes=(axes[0], axes[1], axes[2]),
        flipped=(bool(about["flipped"][0]), bool(about["flipped"][1]), bool(about["flipped"][2])),
    )
    numbers = (tuple(float(number) for number in grid[name]) for name in ("origin", "spacing", "direction"))
    return Case(path, volume=volume, grid=Grid(base64.b64decode(grid["nifti"]), *numbers), notes=notes)


def _told(case: Case) -> tuple[dict[str, Any], memoryview]:
    """Return the head and the bytes that describe a case."""
    values = case.picture if case.volume is None else case.volume.planes
    assert values is not None
    whole = np.ascontiguousarray(values)
    whole = whole.astype(whole.dtype.newbyteorder("="), copy=False)
    head: dict[str, Any] = {
        "dtype": whole.dtype.str,
        "shape": whole.shape,
        "bytes": whole.nbytes,
        "notes": case.notes,
        "volume": None,
    }
    if case.volume is not None and case.grid is not None:
        volume, grid = case.volume, case.grid
        head["volume"] = {
            "spacing": volume.spacing,
            "affine": volume.affine.tolist(),
            "source_axes": volume.source_axes,
            "flipped": volume.flipped,
        }
        head["grid"] = {
            "nifti": base64.b64encode(grid.nifti).decode(),
            "origin": grid.origin,
            "spacing": grid.spacing,
            "direction": grid.direction,
        }
    return head, whole.reshape(-1).view(np.uint8).data


def _answer(line: bytes) -> tuple[dict[str, Any], memoryview]:
    wish = json.loads(line)
    path = Path(wish["path"])
    try:
        return _told(read_case(path, wish["channel"]))
    except CasamError as error:
        problem = str(error)
    except MemoryError:
        problem = f"{path} needs more memory than decoding may use; crop it, or split its channels"
    return {"error": problem}, memoryview(b"")


def _serve(memory: int) -> None:
    """Answer until nobody asks any more."""
    # What a library writes to the standard output would be taken for pixels.
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for limit, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    for line in sys.stdin.buffer:
        head, pixels = _answer(line)
        described = json.dumps(head).encode()
        out.write(f"{len(described):0{_LENGTH}}".encode() + described)
        out.write(pixels)
        out.flush()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
