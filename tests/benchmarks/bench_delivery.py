"""How long a delivery takes, what an idle aggregator needs, and what happens when ten of a hundred sites deliver at once.

    .venv/bin/python -m tests.benchmarks.bench_delivery [--sites 100] [--at-once 10]

Everything runs on this machine, over loopback and TLS, with the real command lines. Twelve blocks make a release of the
mini SAM as large as one of ViT-B with three.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.deployment import federation as deployed
from tests.deployment.federation import Federation, Hospital, supervised, wait

MODALITIES = (
    "endoscopy",
    "stained_tissue",
    "breast_ultrasound",
    "dental_xray",
    "kidney_56nx",
    "kidney_dn",
    "prostate_msd",
    "prostate_promise12",
    "cardiac_mr",
    "abdominal_ct",
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--at-once", type=int, default=10, choices=range(1, len(MODALITIES) + 1))
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    deployed.METHOD |= {"blocks": 12}
    with tempfile.TemporaryDirectory(prefix="casam-bench-") as folder:
        os.environ["CASAM_CACHE"] = f"{folder}/cache"
        federation = Federation(Path(folder))
        federation.start()
        try:
            measure(federation, options.sites, options.at_once)
        finally:
            federation.stop()


def measure(federation: Federation, sites: int, at_once: int) -> None:
    """Enrol `sites`, let one deliver alone and `at_once` together."""
    for number in range(sites - at_once - 1):
        federation.site(f"quiet-{number}")
    time.sleep(10)
    print(f"idle, {sites - at_once - 1} sites enrolled: {memory(federation)}", flush=True)
    alone = prepared(federation, "alone", "endoscopy", seed=7)
    seconds = delivery(alone)
    size = next((alone.home / "work" / "seed-0" / "outbox").glob("*.safetensors")).stat().st_size
    print(f"one delivery of {size:,} bytes, `casam-site join` to receipt: {seconds:.1f} s", flush=True)
    federation.aggregator("bank", "retire", federation.home, "alone", "--yes")
    together = [prepared(federation, f"busy-{name}", name, seed=0) for name in MODALITIES[:at_once]]
    found: list[float] = []
    threads = [threading.Thread(target=lambda site=site: found.append(delivery(site))) for site in together]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    peak = 0.0
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, sum(rss(process) for process in supervised(federation.home)))
        time.sleep(1)
    bank = federation.bank()
    decided = sum(entry["status"] == "active" for entry in bank["entries"]) + len(bank["quarantined"])
    print(
        f"{at_once} at once: receipts after {min(found):.1f} to {max(found):.1f} s, median {statistics.median(found):.1f} s"
    )
    print(f"all done after {time.monotonic() - started:.1f} s; {decided} of {at_once} releases decided, none lost")
    print(f"aggregator's processes at most {peak:.0f} MB RSS; afterwards {memory(federation)}")
    assert decided == at_once


def prepared(federation: Federation, name: str, modality: str, seed: int) -> Hospital:
    """Return an enrolled site whose release is trained."""
    site = federation.site(name, modality, seed)
    site.run("train")
    return site


def delivery(site: Hospital) -> float:
    """Join, and return the seconds from its start to the receipt; the join then goes on to its end."""
    started = time.monotonic()
    with site.joining() as joining:
        wait(lambda: "the aggregator says" in joining.said(), 600, "the receipt", joining.said)
        seconds = time.monotonic() - started
        joining.process.wait(600)
    return seconds


def memory(federation: Federation) -> str:
    """Return the memory of all processes of an aggregator, the watcher's included, in words."""
    members = [psutil.Process(federation.pid), *supervised(federation.home)]
    shares = ", ".join(f"{name_of(process)} {rss(process):.0f}" for process in members)
    pss = sum(process.memory_full_info().pss for process in members) / 2**20
    return f"{sum(map(rss, members)):.0f} MB RSS ({shares}), {pss:.0f} MB PSS"


def rss(process: psutil.Process) -> float:
    """Return a process's resident memory, MB."""
    try:
        return process.memory_info().rss / 2**20
    except psutil.Error:
        return 0.0


def name_of(process: psutil.Process) -> str:
    """Return what a process is, short."""
    line = " ".join(process.cmdline())
    known = ("flower-superlink", "aggregator.superexec", "aggregator.gateway", "flwr-serverapp", "casam-aggregator")
    return next((name for name in known if name in line), "another")


if __name__ == "__main__":
    main()
