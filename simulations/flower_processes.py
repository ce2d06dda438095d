"""Flower's processes for one simulated run: started apart from any other, watched, and all gone afterwards.

`flwr run` starts a SuperLink that detaches and lives on, and exits 0 even when the run failed. So the run gets a Flower
home and a port of its own, its outcome is read from `flwr list`, and at the end every process whose environment names
that home is stopped. Uses only Flower's command line.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

from casam_fed.errors import SimulationError
from casam_fed.host.processes import end_marked, free_port, marked
from casam_fed.host.signals import stop_on_signals, undisturbed
from casam_fed.host.supervision import PRIVATE_ENVIRONMENT

__all__ = ["FlowerRun", "end_leftovers"]

_GRACE_S = 5.0
_LOOK_S = 5.0


class FlowerRun:
    """One `flwr run` on a SuperLink of its own; use as a context manager, which ends all its processes.

    Inside the context signals are as in `stop_on_signals`.
    """

    def __init__(self, log: Path, marker: Path) -> None:
        """Keep Flower's log in `log`; while the run lives, `marker` tells `end_leftovers` how to find its processes."""
        self.log, self._marker = log, marker
        self.peak_rss_mb = 0.0
        self._look_again = 0.0
        self._seen: set[psutil.Process] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._signals = contextlib.ExitStack()

    def __enter__(self) -> "FlowerRun":
        self._signals.enter_context(stop_on_signals())
        # Ray's sockets live below the temporary folder and have a length limit, so this must be short.
        self._home = tempfile.mkdtemp(prefix="casam-")
        self._marker.write_text(self._home)
        self.environment = {
            **os.environ,
            **PRIVATE_ENVIRONMENT,
            "FLWR_HOME": self._home,
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
            "RAY_TMPDIR": self._home,
            # Ray's workers otherwise run at nice 15, so that anything beside them stops them almost entirely.
            "RAY_worker_niceness": "0",
            # Threads that wait for each other sleep instead of spinning, which would take the other process's core.
            "OMP_WAIT_POLICY": "PASSIVE",
            "NO_COLOR": "1",
            # Flower looks for its own programs on the PATH, which an unactivated virtual environment is not on.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        self._marker.unlink(missing_ok=True)
        self._signals.__exit__(kind, error, traceback)

    def start(self, app: Path, federation: Mapping[str, float], run_config: Mapping[str, str]) -> None:
        """Start `flwr run` on the app folder with Flower's `federation` settings, e.g. num-supernodes."""
        # A file, because Flower takes values on the command line apart at spaces and quotes. JSON strings are TOML strings.
        values = Path(self._home) / "run-config.toml"
        values.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run_config.items()))
        settings = " ".join(f"{key}={value}" for key, value in federation.items())
        command = ["run", str(app), "local", "--stream", "--federation-config", settings, "--run-config", str(values)]
        with self.log.open("wb") as sink:
            self._process = subprocess.Popen(
                _flwr(*command),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self.environment,
                cwd=self._home,
                start_new_session=True,
            )

    def running(self) -> bool:
        """Return whether `flwr run` still streams; also keeps the peak of the memory of all processes of the run."""
        if time.monotonic() >= self._look_again:
            # To look at every process of the machine costs more than all else that is done while a run goes on.
            marked("FLWR_HOME", self._home, self._seen)
            self._look_again = time.monotonic() + _LOOK_S
        total = 0
        for process in self._seen:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
        self.peak_rss_mb = max(self.peak_rss_mb, total / 2**20)
        return self._process is not None and self._process.poll() is None

    def outcome(self) -> str:
        """Return the run's status as Flower keeps it, e.g. "finished:completed".

        Raises:
            SimulationError: Flower knows no run, or does not answer.
        """
        answer = subprocess.run(
            _flwr("list", "local", "--format", "json"),
            env=self.environment,
            cwd=self._home,
            capture_output=True,
            timeout=60,
            check=False,
        )
        try:
            runs = json.loads(answer.stdout)["runs"]
            return str(runs[0]["status"])
        except (ValueError, KeyError, IndexError) as error:
            raise SimulationError(f"Flower did not start the run; its log is {self.log}") from error

    def stop(self) -> None:
        """End every process of the run; Ctrl-C is not heard meanwhile."""
        with undisturbed():
            _end(self._home, self._seen)


def end_leftovers(marker: Path) -> None:
    """End what a run left behind whose `casam` was killed, so that it does not go on writing beside its successor."""
    if marker.exists():
        _end(marker.read_text(), set())
        marker.unlink()


def _end(home: str, seen: set[psutil.Process]) -> None:
    """End every process of a run and remove its home."""
    end_marked("FLWR_HOME", home, seen, _GRACE_S)
    shutil.rmtree(home, ignore_errors=True)


def _flwr(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from flwr.cli.app import app; app()", *arguments]
