"""Time of a decision about a release, the overlap apart, with banks of so many entries.

    python -m tests.benchmarks.bench_admission [--entries 5 40 100] [--channels 128] [--repeats 5] [--threads 1]

A real aggregator's folder, enrolled sites, signed statements, and releases of the mini SAM's size (3 blocks), whose routers
were trained on drawn features and moved to other places. The entries are put into bank and log without a decision, so that
the first decision has to make anew what is kept of the bank's tasks; the others find it. Median and least, in
milliseconds of the processor, which other work on the machine does not lengthen; what the disk takes to flush comes on top.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save_file

from aggregator import admission, decisions
from aggregator.decisions import Decisions
from aggregator.founding import create_home
from aggregator.home import AggregatorConfig, Home
from aggregator.ledger import Ledger, begin_ledger
from aggregator.sites import enrol
from casam_fed.audit.statement import Statement, sign_statement
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import Release, pack
from casam_fed.host.files import sha256_file
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.routing.gaussian import Background
from casam_fed.routing.neighbours import Meeting, Neighbours
from casam_fed.routing.state import RouterOptions, RouterState, fit_routers
from tests.aggregator.small_sites import small_request
from tests.casam_fed.bank.releases import BACKBONE_DIGEST, card

_IMAGES = 24
_OVERLAP: tuple[tuple[Any, str], ...] = (
    (decisions, "neighbours_of"),
    (Neighbours, "meet"),
    (admission, "measure_overlap"),
    (Meeting, "after"),
    (decisions, "keep_neighbours"),
)
"""Where all that the overlap costs is spent, none within another."""


class Federation:
    """An aggregator whose bank is for releases of so many channels, and sites of one release each."""

    def __init__(self, folder: Path, channels: int) -> None:
        self.home = _founded(folder, channels)
        self.channels, self.count = channels, 0
        generator = torch.Generator().manual_seed(0)
        mixing = torch.randn(channels, channels, generator=generator) / channels**0.5
        patients = [f"p{number // 2}" for number in range(_IMAGES)]
        self.routers = [
            fit_routers(
                torch.randn(_IMAGES, channels, generator=generator) @ mixing, patients, _background(channels), FAST
            )
            for _ in range(4)
        ]
        self.layer = AlignmentLayer(channels, 3, "identity", seed=0).state_dict()
        self.app = sha256_file(self.home.app)

    def offer(self) -> tuple[Release, bytes, str]:
        """Enrol another site, and return its release, its signed statement, and its name."""
        name, key = f"site-{self.count}", Ed25519PrivateKey.generate()
        facts = card(name, site=name, channels=self.channels, blocks=3)
        release = pack(self.layer, self._router(self.count), facts)
        self.count += 1
        enrol(self.home.sites, small_request(name, key))
        said = {"federation": "bench", "site": name, "task": name, "backbone": BACKBONE_DIGEST, "app": self.app}
        said |= {"code": "0.1.0", "approved": "option", "time": "2026-11-25T07:10:43Z"}
        statement = Statement(release=release.digest, size=len(release.data), **said)
        return release, sign_statement(statement, key), name

    def fill(self, entries: int) -> None:
        """Put releases into bank and log, up to so many entries."""
        bank, ledger = LayerBank(self.home.bank), Ledger(self.home)
        while self.count < entries:
            release, envelope, _ = self.offer()
            bank.admit(
                release, record=lambda entry, envelope=envelope: ledger.admitted(entry, envelope, "A001", "rule")
            )

    def _router(self, number: int) -> RouterState:
        router = self.routers[number % len(self.routers)]
        shift = 2 * torch.randn(self.channels, generator=torch.Generator().manual_seed(number)).double()
        vae = {**router.vae, "decoder2.bias": router.vae["decoder2.bias"] + shift.float()}
        return replace(router, gaussian=replace(router.gaussian, mean=router.gaussian.mean + shift), vae=vae)


FAST = RouterOptions(vae_epochs=1)


def _background(channels: int) -> Background:
    return Background(torch.zeros(channels).double(), torch.ones(channels).double())


def _founded(folder: Path, channels: int) -> Home:
    home = create_home(folder, AggregatorConfig("bench", "127.0.0.1:8443", "127.0.0.1:8443", 18443))
    for made in (home.bank, home.bank_log):
        made.rename(made.with_name(f"{made.name} of the mini SAM"))
    bank = LayerBank.create(home.bank, "tiny", BACKBONE_DIGEST, _background(channels))
    begin_ledger(home.bank_log, "bench", home.signing_key(), sha256_file(home.app), bank.snapshot())
    # What no router of here claims.
    save_file({"blank": torch.linspace(-60, 60, 24)[:, None].expand(24, channels).contiguous()}, home.probes)
    return home


class Watch:
    """Adds up the seconds that are spent on the overlap."""

    def __init__(self) -> None:
        self.spent = 0.0
        for owner, name in _OVERLAP:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def timed(*arguments: Any, **options: Any) -> Any:
            started, before = time.process_time(), self.spent
            try:
                return work(*arguments, **options)
            finally:
                # What was added within is part of this.
                self.spent = before + time.process_time() - started

        return timed


def measure(federation: Federation, watch: Watch) -> tuple[float, float]:
    """Return the processor's milliseconds for a decision without the overlap, and for the overlap."""
    release, envelope, name = federation.offer()
    deciding, watch.spent = Decisions(federation.home), 0.0
    started = time.process_time()
    receipt = deciding.decide(release.data, envelope, name)
    total = time.process_time() - started
    assert receipt.outcome == "admitted", receipt
    return 1000 * (total - watch.spent), 1000 * watch.spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[5, 40, 100])
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("entries  without the overlap     the overlap             made anew")
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        for entries in options.entries:
            federation = Federation(Path(folder) / str(entries), options.channels)
            federation.fill(entries)
            _, anew = measure(federation, watch)
            found = [measure(federation, watch) for _ in range(options.repeats)]
            columns = [f"{statistics.median(each):8.1f} (least {min(each):6.1f})" for each in zip(*found, strict=True)]
            print(f"{entries:7}  {'  '.join(columns)}  {anew:10.1f}", flush=True)


if __name__ == "__main__":
    main()
