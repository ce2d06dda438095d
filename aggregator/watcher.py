"""Decides when to run what: whoever comes online is served, and whenever the bank grows, all who are online get it.

The watcher keeps no state of its own on disk. After a restart every site that is online is simply served once more, which
changes nothing where nothing is new.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from aggregator.home import Home
from aggregator.sites import read_sites
from aggregator.superlink import Node, SuperLink
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.host.files import write_atomically

__all__ = ["Watcher"]

_FIRST_RETRY_S, _LAST_RETRY_S = 2.0, 300.0
_LONGEST_RUN_S = {"deliver": 1800.0, "evaluate": 7200.0}
_RUNS_KEPT = 50


@dataclass
class _Seen:
    """What the watcher remembers of an enrolled site: in which online spell it was served and last tried, its failures."""

    activated: str = ""
    tried: str = ""
    bank: str = ""
    evaluated: str = ""
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""


@dataclass
class _Run:
    """A Flower run that goes on."""

    name: str
    slot: str
    kind: str
    number: int
    nodes: Mapping[str, Node]
    started: float = field(default_factory=time.monotonic)


class Watcher:
    """Looks at the SuperLink every second or so; of each kind of run at most one goes on at a time, and one for repeats."""

    def __init__(self, home: Home, superlink: SuperLink, say: Callable[[str], None]) -> None:
        """Watch over the sites of `home`; `say` takes sentences for the operator."""
        self.home, self.superlink, self.say = home, superlink, say
        self.app = home.app.read_bytes()
        self._seen: dict[str, _Seen] = {}
        self._running: dict[str, _Run] = {}
        self._numbers = itertools.count()

    def look(self) -> None:
        """Bring Flower's nodes in line with who is enrolled, collect runs that ended, and start what is due.

        Raises:
            ExchangeError: the SuperLink does not answer; look again later.
            EnrolmentError, BankError: the aggregator's own files are damaged.
        """
        nodes = self._reconcile()
        online = {site: node for site, node in nodes.items() if node.online}
        for run in list(self._running.values()):
            self._collect(run)
        bank = read_snapshot(self.home.bank).digest
        self._start_all("deliver", bank, {s: node for s, node in online.items() if self._delivery_due(s, node, bank)})
        self._start_all(
            "evaluate", bank, {s: node for s, node in online.items() if self._evaluation_due(s, node, bank)}
        )
        self._tell(nodes, bank)

    def abandon_runs(self) -> None:
        """End the runs that go on: the process that carried them is gone, which Flower notices only a minute later.

        Raises:
            ExchangeError: the SuperLink does not answer; call it again later.
        """
        for run in list(self._running.values()):
            self.superlink.stop(run.number)

    def _reconcile(self) -> dict[str, Node]:
        """Register keys that are enrolled and shut out those that are not; return the sites' nodes."""
        wanted = {
            pair.node_key: record.site for record in read_sites(self.home.sites).values() if (pair := record.current)
        }
        nodes = {node.key: node for node in self.superlink.nodes()}
        for key, site in wanted.items():
            if key not in nodes:
                self.superlink.register(key)
                self.say(f"{site}: may connect now")
        for key, node in nodes.items():
            if key not in wanted:
                self.superlink.unregister(node.id)
                self.say("a key that is no longer enrolled was shut out")
        return {wanted[key]: node for key, node in nodes.items() if key in wanted}

    def _delivery_due(self, site: str, node: Node, bank: str) -> bool:
        seen = self._seen.setdefault(site, _Seen())
        if node.activated != seen.tried:
            # It was away and is back, perhaps mended: what went wrong before says little about now.
            seen.tried, seen.retry_at = node.activated, 0.0
        served = (seen.activated, seen.bank) == (node.activated, bank)
        return not served and time.monotonic() >= seen.retry_at

    def _evaluation_due(self, site: str, node: Node, bank: str) -> bool:
        seen = self._seen[site]
        served = (seen.activated, seen.bank) == (node.activated, bank)
        return served and seen.evaluated != f"{node.activated} {bank}" and time.monotonic() >= seen.retry_at

    def _start_all(self, kind: str, bank: str, due: Mapping[str, Node]) -> None:
        """Start a run with those that are well, and another with those that failed: nobody waits for a site that hangs."""
        well = {site: node for site, node in due.items() if not self._seen[site].failures}
        for slot, nodes in ((kind, well), (f"{kind} again", {s: due[s] for s in due if s not in well})):
            if nodes and slot not in self._running:
                self._start(slot, kind, bank, nodes)

    def _start(self, slot: str, kind: str, bank: str, due: Mapping[str, Node]) -> None:
        name = f"{kind}{int(time.time())}{next(self._numbers)}{secrets.token_hex(4)}"
        nodes = {site: node.id for site, node in due.items()}
        order = {"kind": kind, "nodes": nodes, "bank": bank}
        write_atomically(self.home.runs / f"{name}.order.json", json.dumps(order).encode())
        number = self.superlink.start(self.app, {"run": name})
        self._running[slot] = _Run(name, slot, kind, number, dict(due))
        if kind == "deliver":
            self.say(f"{', '.join(due)}: online, a delivery starts")

    def _collect(self, run: _Run) -> None:
        """Take in a run's result once it has ended; one that takes too long is stopped."""
        status = self.superlink.status(run.number)
        if not status.startswith("finished") and status != "unknown":
            if time.monotonic() - run.started > _LONGEST_RUN_S[run.kind] or self._is_dead(run):
                self.superlink.stop(run.number)
            return
        del self._running[run.slot]
        path = self.home.runs / f"{run.name}.result.json"
        outcome: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"results": {}, "error": ""}
        if (status != "finished:completed" and not path.exists()) or outcome["error"]:
            self.say(outcome["error"] or f"a {run.kind} run ended as {status}; see logs/superexec.log")
        for site, node in run.nodes.items():
            self._note(site, node, run.kind, outcome["results"].get(site), outcome["error"])
        self._forget_old_runs()

    def _is_dead(self, run: _Run) -> bool:
        path = self.home.runs / f"{run.name}.pid"
        return path.exists() and not psutil.pid_exists(int(path.read_text()))

    def _note(self, site: str, node: Node, kind: str, result: dict[str, Any] | None, error: str) -> None:
        seen = self._seen[site]
        seen.error = error or ("the run was cut short" if result is None else result["error"])
        if result is not None and not result["error"]:
            seen.failures, seen.retry_at = 0, 0.0
            if kind == "deliver":
                seen.activated, seen.bank = node.activated, result["bank"]
            else:
                seen.evaluated = f"{node.activated} {result['bank']}"
        else:
            seen.failures += 1
            pause = min(_FIRST_RETRY_S * 2 ** (seen.failures - 1), _LAST_RETRY_S)
            seen.retry_at = time.monotonic() + pause
            if kind == "evaluate" and result is not None and "WithheldError" in result["error"]:
                seen.evaluated = f"{node.activated} {seen.bank}"

    def _forget_old_runs(self) -> None:
        old = sorted(self.home.runs.iterdir(), key=lambda path: path.stat().st_mtime)[: -3 * _RUNS_KEPT]
        for path in old:
            path.unlink(missing_ok=True)

    def _tell(self, nodes: Mapping[str, Node], bank: str) -> None:
        """Write what `casam-aggregator status` shows; only on a change, for it would wear out disks otherwise."""
        state = {
            site: {
                "online": node.online,
                "activated": node.activated,
                "holds": seen.bank,
                "error": seen.error,
            }
            for site, node in sorted(nodes.items())
            for seen in [self._seen.get(site, _Seen())]
        }
        data = json.dumps({"bank": bank, "sites": state, "running": sorted(self._running)}, indent=1).encode()
        path = self.home.path / "flower" / "state.json"
        if not path.exists() or path.read_bytes() != data:
            write_atomically(path, data)
