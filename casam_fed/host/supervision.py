"""Programs started as children of ours: kept alive, and all gone afterwards, whatever happens to us.

A child runs in a session of its own, so that Ctrl-C reaches only its supervisor, which then stops it in good order. Its
environment names the supervisor's folder: by that the next start finds what a killed supervisor left behind, trusting no
file, and never taking a process that got the number of a dead one for it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from casam_fed.errors import SupervisionError
from casam_fed.host.clock import utc_now
from casam_fed.host.files import as_storage_error, reason_of
from casam_fed.host.locks import is_held, only_one
from casam_fed.host.processes import end_marked
from casam_fed.host.signals import stop_on_signals, undisturbed

__all__ = [
    "PRIVATE_ENVIRONMENT",
    "Child",
    "Supervisor",
    "direct_to_loopback",
    "end_leftovers",
    "is_running",
]

PRIVATE_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Nothing phones home: set before flwr or ray is imported, and inherited by every child."""

_MARK = "CASAM_SUPERVISED"

_FIRST_DELAY_S = 0.5
_SETTLED_S = 60.0
_READY_S = 60.0
_GRACE_S = 15.0
"""Flower's SuperLink waits up to 14 s for open connections."""
_LEAD_S = 1.0
_REST_S = 5.0
_LOCK = "supervisor.lock"
_LOCK_S = 1.0
_LOG_BYTES = 10 << 20


@dataclass(frozen=True)
class Child:
    """A program to keep running.

    Attributes:
        name: names its log file and what is said of it.
        command: the program, looked up beside this Python first, and its arguments.
        environment: added to this process's; `PRIVATE_ENVIRONMENT` wins over it.
        ready: asked until true before the next child starts.
        longest_delay_s: the longest pause before it is started again.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[], bool] | None = None
    longest_delay_s: float = 30.0


class Supervisor:
    """Keeps children running for as long as its context lasts; one at a time in a folder.

    Inside the context signals are as in `stop_on_signals`. Every child's output is appended to FOLDER/logs/NAME.log.
    """

    def __init__(self, children: Sequence[Child], folder: Path, say: Callable[[str], None]) -> None:
        """Keep `children` running, with locks and logs in `folder`; `say` shows a sentence to a person."""
        self._folder, self._say = folder.resolve(), say
        self._kept = {child.name: _Kept(child, self._folder) for child in children}
        self._context = contextlib.ExitStack()

    def __enter__(self) -> "Supervisor":
        """End what an earlier supervisor left behind, then start the children in order.

        Raises:
            SupervisionError: another process supervises the folder, or a child does not start; then none is left running.
        """
        with contextlib.ExitStack() as context:
            context.enter_context(stop_on_signals())
            context.enter_context(_only_supervisor(self._folder))
            if ended := end_marked(_MARK, str(self._folder), set(), _GRACE_S):
                self._say(f"ended {ended} processes that an earlier start had left behind")
            context.callback(self._stop)
            for kept in self._kept.values():
                kept.start_first()
            self._context = context.pop_all()
        return self

    def __exit__(self, *cause: object) -> None:
        """Stop the children, the last one first; signals are not heard meanwhile."""
        self._context.__exit__(*cause)  # type: ignore[arg-type]

    def tend(self) -> None:
        """Start again what has died, later each time; call it every second or so, it does not wait for anything."""
        for kept in self._kept.values():
            if sentence := kept.tend():
                self._say(sentence)

    def pid(self, name: str) -> int | None:
        """Return the process number of a child, None while it does not run."""
        process = self._kept[name].process
        return process.pid if process is not None and self._kept[name].alive() else None

    def restart(self, name: str) -> None:
        """Ask a child to end; `tend` starts it again as soon as it has."""
        self._kept[name].restart()

    def _stop(self) -> None:
        """End all children; each has its full grace, yet together they take little longer than the slowest."""
        with undisturbed():
            until: dict[subprocess.Popen[bytes], float] = {}
            for kept in reversed(self._kept.values()):
                if kept.process is not None and kept.alive():
                    _signal_group(kept.process, signal.SIGTERM)
                    until[kept.process] = time.monotonic() + _GRACE_S
                    # What others depend on should outlive them, but not make everybody wait for one that is slow.
                    _await_end(kept.process, _LEAD_S)
            for process, deadline in until.items():
                if not _await_end(process, max(0.0, deadline - time.monotonic())):
                    _signal_group(process, signal.SIGKILL)
                    _await_end(process, _LEAD_S)
            # What left its group, outlived its parent, or was just being started.
            end_marked(_MARK, str(self._folder), set(), _REST_S)


class _Kept:
    """One child: its process, its log, and when it will be started again."""

    def __init__(self, child: Child, folder: Path) -> None:
        self.child = child
        self.process: subprocess.Popen[bytes] | None = None
        self._folder = folder
        self._log = folder / "logs" / f"{child.name}.log"
        self._delay = _FIRST_DELAY_S
        self._started = 0.0
        self._due: float | None = None
        self._kill_at: float | None = None

    def start_first(self) -> None:
        """Start the child and wait until it is ready, or raise SupervisionError with the last line of its log."""
        name = self.child.name
        try:
            self._start()
        except OSError as error:
            raise SupervisionError(f"{name} cannot be started: {reason_of(error)}; its log is {self._log}") from error
        deadline = time.monotonic() + _READY_S
        while self.child.ready is not None and not self.child.ready():
            alive = self.alive()
            if not alive or time.monotonic() > deadline:
                what = f"was not ready within {_READY_S:g} s" if alive else f"{self._end()} while starting"
                raise SupervisionError(f"{name} {what}: {self._last_line()}; its log is {self._log}")
            time.sleep(0.1)

    def tend(self) -> str | None:
        """Do what is due now, and return what to say of it."""
        sentence = None
        now = time.monotonic()
        if self._due is None:
            if self.alive():
                if self._kill_at is not None and now > self._kill_at and self.process is not None:
                    _signal_group(self.process, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    _limit(self._log)
                return None
            if self._kill_at is None:
                sentence = self._postponed(self._end())
            else:
                self._due = now
                sentence = f"{self.child.name} is started again as asked; its log is {self._log}"
        if self._due is not None and now >= self._due:
            try:
                self._start()
            except OSError as error:
                sentence = self._postponed(f"cannot be started: {reason_of(error)}")
        return sentence

    def restart(self) -> None:
        """Ask the process to end, and have it killed where it does not."""
        if self.process is not None and self.alive():
            self._kill_at = time.monotonic() + _GRACE_S
            _signal_group(self.process, signal.SIGTERM)
        elif self._due is not None:
            self._due = time.monotonic()

    def alive(self) -> bool:
        """Return whether the process runs; what a dead one has started is killed, for it is in the way of the next."""
        if self.process is None or self.process.returncode is not None:
            return False
        if self.process.poll() is None:
            return True
        # At once: later the number could be another process's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return False

    def _start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        _limit(self._log)
        # Appending: after `_limit` has emptied the file, a running child goes on at its new end.
        with os.fdopen(os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0) as log:
            os.fchmod(log.fileno(), 0o600)
            log.write(f"=== {self.child.name} started {utc_now()} ===\n".encode())
            self.process = subprocess.Popen(
                self.child.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        self._started = time.monotonic()
        self._due = self._kill_at = None

    def _environment(self) -> dict[str, str]:
        chosen = {**os.environ, **self.child.environment}
        # Flower looks for its own programs on the PATH, which an unactivated virtual environment is not on.
        path = f"{Path(sys.executable).parent}{os.pathsep}{chosen.get('PATH', os.defpath)}"
        return {
            **chosen,
            **PRIVATE_ENVIRONMENT,
            **direct_to_loopback(chosen),
            "NO_COLOR": "1",
            "PATH": path,
            _MARK: str(self._folder),
        }

    def _postponed(self, what: str) -> str:
        """Set when to start again, and return the sentence that says it."""
        now = time.monotonic()
        if self.process is not None and now - self._started >= _SETTLED_S and self._due is None:
            self._delay = _FIRST_DELAY_S
        delay, self._delay = self._delay, min(2 * self._delay, self.child.longest_delay_s)
        self._due = now + delay
        return f"{self.child.name} {what}; it is started again in {delay:g} s; its log is {self._log}"

    def _end(self) -> str:
        code = self.process.returncode if self.process is not None else 0
        if code >= 0:
            return f"ended with exit code {code}"
        return f"was ended by {signal.Signals(-code).name if -code in list(signal.Signals) else f'signal {-code}'}"

    def _last_line(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
        return "it wrote nothing" if last.startswith("=== ") else last


def direct_to_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which no proxy is asked for this machine itself; a proxy for elsewhere stays in force."""
    kept = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [kept, "localhost,127.0.0.1,::1"]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def end_leftovers(folder: Path) -> None:
    """End what a killed supervisor left behind in `folder`, e.g. before looking whether a port is free.

    Raises:
        SupervisionError: a living one supervises the folder.
    """
    with _only_supervisor(folder.resolve()):
        end_marked(_MARK, str(folder.resolve()), set(), _GRACE_S)


def is_running(folder: Path) -> bool:
    """Return whether a supervisor runs in the folder."""
    return is_held(folder / _LOCK)


@contextlib.contextmanager
def _only_supervisor(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system frees it when this process ends, however it ends."""
    path = folder / _LOCK
    with as_storage_error("make", folder, "let this user write there, then run again"):
        folder.mkdir(parents=True, exist_ok=True)
    busy = SupervisionError(f"{folder} is run by another process already (pid {_pid_in(path)}); end that first")
    # `is_running` holds it for a moment too.
    with only_one(path, busy, _LOCK_S):
        # Only for that sentence; a full disk must not keep anybody from starting.
        with contextlib.suppress(OSError):
            path.write_text(str(os.getpid()), encoding="ascii")
        yield


def _pid_in(path: Path) -> str:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(20).decode("ascii", errors="replace")
    return "unknown"


def _limit(log: Path) -> None:
    """Move a long log's end to LOG.1 by copying, for its child keeps writing to the file it has open.

    What is written between the copy and the cut is lost. When the disk is full, so is the copy: room comes first.
    """
    if not log.exists() or log.stat().st_size <= _LOG_BYTES:
        return
    with log.open("rb+") as file:
        with contextlib.suppress(OSError):
            file.seek(-_LOG_BYTES, os.SEEK_END)
            older = os.open(f"{log}.1", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(older, "wb") as copy:
                copy.write(file.read(_LOG_BYTES))
        file.truncate(0)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Signal a process and what it has started; only before it was waited for, while its number is still its own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _await_end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None
