"""A deployed federation on loopback, with the real command lines, TLS and Flower's own processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from casam_fed.audit.event import Event
from casam_fed.host.processes import free_port
from site_client.home import SiteHome
from site_client.release_log import ReleaseLog

BIN = Path(sys.executable).parent
METHOD = {"epochs": 1, "min_steps": 2, "batch_size": 4, "masks_per_image": 1, "point_share": 0.0}
"""Two steps: what is learned does not matter here, only that it arrives whole."""


class Federation:
    """An aggregator's folder and those of its sites, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "aggregator"
        self.address = f"127.0.0.1:{free_port()}"
        self.superlink = f"127.0.0.1:{free_port()}"
        method = folder / "method.yaml"
        method.write_text(yaml.safe_dump(METHOD))
        port = self.superlink.rpartition(":")[2]
        self.aggregator(
            *("init", self.home, "--name", "test", "--address", self.address, "--listen", self.address),
            *("--superlink-port", port, "--method", method),
        )
        self._up: subprocess.Popen[str] | None = None
        # Where everybody types: what lies there must not be taken for a module of ours.
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        for name in ("json", "numpy", "torch", "casam_fed"):
            (self.elsewhere / f"{name}.py").write_text("raise SystemExit('imported from the working folder')")

    def aggregator(self, *arguments: object, code: int = 0) -> str:
        """Run `casam-aggregator` to its end and return what it printed."""
        return run("casam-aggregator", *arguments, code=code)

    def start(self) -> None:
        """Start `casam-aggregator up`, and return once it is."""
        before = len(self.said())
        log = (self.folder / "up.log").open("ab")
        command = [BIN / "casam-aggregator", "up", self.home]
        self._up = subprocess.Popen(
            command, stdout=log, stderr=log, text=True, start_new_session=True, cwd=self.elsewhere
        )
        wait(lambda: "is up" in self.said()[before:], 120, "the aggregator")

    @property
    def pid(self) -> int:
        """The process number of `casam-aggregator up`."""
        assert self._up is not None
        return self._up.pid

    def stop(self) -> int:
        """End `up` by SIGTERM and return its exit code."""
        assert self._up is not None
        self._up.terminate()
        return self._up.wait(40)

    def kill(self) -> None:
        """End `up` by kill -9, its children live on."""
        assert self._up is not None
        self._up.kill()
        self._up.wait()

    def said(self) -> str:
        """Everything that `up` has printed."""
        path = self.folder / "up.log"
        return path.read_text() if path.exists() else ""

    def bank(self) -> dict[str, Any]:
        """The bank as `bank list --json` shows it."""
        return json.loads(self.aggregator("bank", "list", self.home, "--json"))

    def site(self, name: str, modality: str = "endoscopy", seed: int = 1) -> "Hospital":
        """Make a site and enrol it."""
        hospital = Hospital(self, self.folder / name, name, modality, seed)
        self.aggregator("enroll", self.home, hospital.home / "REQUEST.json", "--fingerprint", hospital.fingerprint)
        return hospital


class Hospital:
    """A site's folder, and `casam-site` run in it."""

    def __init__(self, federation: Federation, home: Path, name: str, modality: str, seed: int) -> None:
        self.federation, self.home, self.name = federation, home, name
        options = [f"modality={modality}", "train=12", "test=10", f"seed={seed}"]
        data = [word for option in options for word in ("--set", option)]
        printed = run("casam-site", "init", home, "--name", name, "--data", "phantom", *data, "--threads", "1")
        self.fingerprint = re.search(r"^  ((?:[0-9a-f]{4} ){15}[0-9a-f]{4})$", printed, re.MULTILINE)[1]

    def run(self, command: str, *arguments: object, code: int = 0) -> str:
        """Run `casam-site COMMAND` to its end and return what it printed."""
        return run("casam-site", command, self.home, *arguments, code=code)

    def join(self, code: int = 0, seconds: float = 240) -> str:
        """Join and return what was printed."""
        return self.run("join", "--yes", "--timeout", seconds, code=code)

    @contextlib.contextmanager
    def joining(self, *arguments: object) -> Iterator["Joining"]:
        """A join in the background, ended with the context where it still goes on."""
        joining = Joining(self, *arguments)
        try:
            yield joining
        finally:
            joining.end()

    def events(self) -> list[Event]:
        """What the release log says."""
        return list(ReleaseLog(SiteHome(self.home)).events())

    def rotate(self) -> None:
        """Make new keys and have them enrolled."""
        printed = self.run("rotate", "--yes")
        self.fingerprint = re.search(r"^  ((?:[0-9a-f]{4} ){15}[0-9a-f]{4})$", printed, re.MULTILINE)[1]
        request = self.home / "REQUEST.json"
        self.federation.aggregator("rotate", self.federation.home, request, "--fingerprint", self.fingerprint)

    def audited(self, *keys: Path, log: str = "") -> str:
        """Export what an auditor gets, verify it with both verifiers, and return what `casam-audit` printed.

        `keys` are the site's, in the order in which they are given, its present one by default; `log` chooses its log.
        """
        out = self.federation.folder / f"{self.name}-export"
        shutil.rmtree(out, ignore_errors=True)
        run("casam-audit", "export", self.home, out, *(["--key", log] if log else []))
        bank = self.federation.home / "keys" / "signing.pub"
        site = keys or (self.home / "keys" / "signing.pub",)
        checked = subprocess.run(
            ["bash", out / "verify.sh", out, bank, *site], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        given = [word for key in site for word in ("--site-key", key)]
        return run("casam-audit", "verify", out, "--bank-key", bank, *given)

    def answered(self) -> list[str]:
        """The kinds of messages that were answered, in their order."""
        return [event.facts["kind"] for event in self.events() if event.event == "intent"]


class Joining:
    """A `casam-site join` that goes on."""

    def __init__(self, hospital: Hospital, *arguments: object) -> None:
        self._hospital = hospital
        self._path = hospital.home.parent / f"{hospital.name}-join.log"
        self._from = self._path.stat().st_size if self._path.exists() else 0
        command = [BIN / "casam-site", "join", hospital.home, "--yes", "--timeout", "300", *map(str, arguments)]
        with self._path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=buffered(),
                cwd=hospital.federation.elsewhere,
            )

    def said(self) -> str:
        """What it has printed."""
        return self._path.read_bytes()[self._from :].decode()

    def wait_for(self, words: str, seconds: float = 180) -> None:
        """Return once it has printed `words`."""
        wait(lambda: words in self.said() or self.process.poll() is not None, seconds, words, self.said)
        assert words in self.said(), self.said()

    def finish(self, seconds: float = 300) -> str:
        """Wait for its end and return what it printed."""
        assert self.process.wait(seconds) == 0, self.said()
        return self.said()

    def kill(self) -> list[psutil.Process]:
        """Kill -9 it alone, and return its children, which live on."""
        self.process.kill()
        self.process.wait()
        return supervised(self._hospital.home)

    def end(self) -> None:
        """End it and, unless it was killed, its children."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(40)


def run(program: str, *arguments: object, code: int = 0) -> str:
    """Run one of our programs to its end, check its exit code, and return what it printed."""
    command = [BIN / program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL)
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed
    assert "Traceback" not in printed, printed
    return printed


def buffered() -> dict[str, str]:
    """An environment in which a program's output reaches a file line by line."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def supervised(home: Path, name: str = "") -> list[psutil.Process]:
    """The living processes that were started for a folder, those whose command line holds `name`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CASAM_SUPERVISED") == str(home) and name in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill(home: Path, name: str, wait_s: float = 0.0) -> None:
    """Kill -9 the processes of a folder whose command line holds `name`, once there is one."""
    wait(lambda: supervised(home, name), wait_s, f"a process {name}")
    for process in supervised(home, name):
        with contextlib.suppress(psutil.Error):
            process.kill()


def lives(process: psutil.Process) -> bool:
    """Whether a process goes on; one that only waits to be reaped does not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def wait(look: Callable[[], object], seconds: float, what: str, told: Callable[[], str] = lambda: "") -> None:
    """Return once `look` finds something."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s: {told()}"
        time.sleep(0.1)
