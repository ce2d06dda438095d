"""kill -9 of anything at any step of a join: it is started again and completes, with one entry and one receipt."""

import json
import shutil
import subprocess

import pytest

from .federation import kill, lives, supervised, wait

# Each site has images of its own kind: of two alike, the second would be quarantined.


def admitted_once(federation, site) -> bool:
    """Whether the site has one entry, one record of it, one receipt, and logs that tell of it without a gap."""
    entries = [entry for entry in federation.bank()["entries"] if entry["site"] == site.name]
    records = list((federation.home / "admissions" / site.name).glob("*.json"))
    receipts = [json.loads(path.read_text()) for path in (site.home / "work" / "seed-0" / "receipts").glob("*.json")]
    assert [entry["digest"] for entry in entries] == [receipt["digest"] for receipt in receipts]
    assert [record.stem for record in records] == [receipt["digest"] for receipt in receipts]
    assert [receipt["outcome"] for receipt in receipts] == ["admitted"]
    assert site.audited().count("admitted") == 1
    return len(entries) == 1


def test_every_process_of_the_aggregator_dies_during_a_join(federation):
    site = federation.site("patient", "endoscopy")
    victims = {
        "connecting to": "aggregator.superexec",
        "sending the release": "flower-superlink",
        "the aggregator says": "aggregator.gateway",
        "the bank has": "flwr-serverapp",
    }
    with site.joining() as joining:
        for step, victim in victims.items():
            joining.wait_for(step)
            kill(federation.home, victim, wait_s=20)
        joining.finish()
    for name in ("superexec", "superlink", "gateway"):
        assert f"{name} was ended by SIGKILL; it is started again" in federation.said()
    assert admitted_once(federation, site)


def test_the_watcher_dies_during_a_delivery_and_the_next_ends_what_it_left_behind(federation):
    site = federation.site("orphaned", "stained_tissue")
    with site.joining() as joining:
        joining.wait_for("sending the release")
        federation.kill()
        left = supervised(federation.home)
        assert left
        federation.start()
        assert not any(lives(process) for process in left)
        joining.finish()
    assert admitted_once(federation, site)


def test_every_process_of_the_site_dies_during_a_join(federation):
    site = federation.site("fragile", "breast_ultrasound")
    victims = {"sending the release": "site_client.serve", "the aggregator says": "flower-supernode"}
    with site.joining() as joining:
        for step, victim in victims.items():
            joining.wait_for(step)
            kill(site.home, victim)
        joining.finish()
    assert admitted_once(federation, site)


def test_casam_site_dies_at_each_step_of_a_join(federation):
    site = federation.site("interrupted", "dental_xray")
    for step in ("loss", "connecting to", "sending the release", "the aggregator says", "the bank has"):
        with site.joining() as joining:
            joining.wait_for(step)
            left = joining.kill()
    with site.joining() as joining:
        printed = joining.finish()
    assert not any(lives(process) for process in left)
    assert f"{site.name}: IoU plain SAM" in printed
    assert admitted_once(federation, site)


def test_a_full_disk_at_the_bank_loses_nothing_and_the_join_completes_once_there_is_space(federation):
    bank = federation.home / "bank"
    kept = shutil.copytree(bank, federation.folder / "kept")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(bank)], check=False).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        shutil.copytree(kept, bank, dirs_exist_ok=True)
        before = federation.bank()["digest"]
        used = sum(path.stat().st_size for path in bank.rglob("*") if path.is_file())
        subprocess.run(["mount", "-o", f"remount,size={used + (1 << 20)}", str(bank)], check=True)
        site = federation.site("patient-2", "kidney_56nx")
        with site.joining() as joining:
            joining.wait_for("sending the release")
            wait(lambda: "no space left on device; free space" in federation.said(), 60, "the refusal")
            assert federation.bank()["digest"] == before
            assert not list((federation.home / "admissions").glob("patient-2/*"))
            subprocess.run(["mount", "-o", "remount,size=64m", str(bank)], check=True)
            joining.finish()
        assert admitted_once(federation, site)
        shutil.copytree(bank, kept, dirs_exist_ok=True)
    finally:
        subprocess.run(["umount", "--lazy", str(bank)], check=True)
        shutil.copytree(kept, bank, dirs_exist_ok=True)
