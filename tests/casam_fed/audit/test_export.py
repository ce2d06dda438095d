"""Exports: all that a home's logs speak of, nothing else, and either whole or not there."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from casam_fed.audit.check_folder import UnsuitableError
from casam_fed.audit.export import export, find_home
from casam_fed.audit.note import read_note
from casam_fed.audit.tiles import Log
from casam_fed.audit.verify import verify
from casam_fed.errors import CasamError, LogError, SignatureError, StorageError

from .exports import (
    CLINIC,
    FEDERATION,
    GIVEN,
    HARBOUR,
    LESION,
    POLYP,
    SITE,
    STRANGER,
    VESSEL,
    digest_of,
    drafted,
    fingerprint_of,
    time_of,
    write_keys,
    written,
)
from .homes import MIRROR, SITE_LOG, bank_home, site_home

HOMES = {"site": site_home, "bank": bank_home}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outcome(folder: Path, kind: str) -> str:
    """Verify an export and return the code, "" for none."""
    if not (folder.parent / "keys").exists():
        write_keys(folder.parent / "keys")
    bank, *sites = (folder.parent / "keys" / f"{name}.pem" for name in GIVEN[kind])
    return verify(folder, bank, sites).code


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]


@pytest.mark.parametrize("kind", HOMES)
def test_an_export_holds_what_the_logs_speak_of_and_nothing_else(tmp_path, kind):
    made = export(HOMES[kind](tmp_path), tmp_path / "out")
    found, expected = contents(tmp_path / "out"), contents(tmp_path / "expected")
    manifest = json.loads(found.pop("export.json"))
    assert found == {name: data for name, data in expected.items() if name != "export.json"}
    assert (manifest["kind"], manifest["federation"], manifest["site"]) == (
        kind,
        FEDERATION,
        SITE if kind == "site" else "",
    )
    assert (made.gaps, made.files) == ([], len(expected))
    assert outcome(tmp_path / "out", kind) == ""


@pytest.mark.parametrize("kind", HOMES)
def test_an_export_is_for_this_user_alone(tmp_path, kind):
    old = os.umask(0)
    try:
        export(HOMES[kind](tmp_path), tmp_path / "out")
    finally:
        os.umask(old)
    for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_a_home_is_not_changed(tmp_path):
    home = site_home(tmp_path)
    before = contents(home)
    export(home, tmp_path / "out")
    assert contents(home) == before


@pytest.mark.parametrize("what", ["file", "full folder", "link", "dangling link"])
def test_what_is_there_already_stays(tmp_path, what):
    home, out = site_home(tmp_path), tmp_path / "out"
    if what == "full folder":
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    elif what == "file":
        out.write_text("mine")
    else:
        if what == "link":
            (tmp_path / "empty").mkdir()
        out.symlink_to(tmp_path / "empty")
    with pytest.raises(UnsuitableError, match="there is something at"):
        export(home, out)
    assert leftovers(tmp_path) == []


def test_an_empty_folder_and_a_deep_new_one_are_filled(tmp_path):
    home = site_home(tmp_path)
    (tmp_path / "out").mkdir()
    export(home, tmp_path / "out")
    export(home, tmp_path / "deep/er/out")
    assert outcome(tmp_path / "out", "site") == outcome(tmp_path / "deep/er/out", "site") == ""


@pytest.mark.parametrize("part", [0, 0.1, 0.4, 0.8, 1])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, part):
    home, calls = site_home(tmp_path), []
    full = max(1, int(part * len(contents(tmp_path / "expected"))))

    def fsync(_: int) -> None:
        calls.append(1)
        if len(calls) == full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=r"cannot write .*out: no space left on device; free space"):
        export(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_what_takes_the_place_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    home, rename = site_home(tmp_path), os.rename

    def late(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "notes.txt").write_text("mine")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(StorageError, match="cannot write"):
        export(home, tmp_path / "out")
    assert contents(tmp_path / "out") == {"notes.txt": b"mine"}
    assert leftovers(tmp_path) == []


def test_a_failure_of_any_kind_leaves_nothing(tmp_path, monkeypatch):
    home = site_home(tmp_path)
    monkeypatch.setattr(Log, "proof", lambda self, index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


GAPS = {
    "release gone": (f"work/seed-0/outbox/{LESION.digest}.safetensors", None, "release-missing"),
    "release changed": (f"work/seed-0/outbox/{LESION.digest}.safetensors", b"other", "release-missing"),
    "statement gone": (f"audit/statements/{digest_of(POLYP.statement)}.json", None, "statement-missing"),
    "statement empty": (f"audit/statements/{digest_of(POLYP.statement)}.json", b"", "statement-missing"),
}


@pytest.mark.parametrize("defect", GAPS)
def test_what_the_home_lacks_is_told_and_missed_by_the_auditor(tmp_path, defect):
    name, data, code = GAPS[defect]
    path = site_home(tmp_path) / name
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    (gap,) = export(tmp_path / "home", tmp_path / "out").gaps
    assert path.stem in gap
    assert ("the home holds none" in gap) is (data is None)
    assert outcome(tmp_path / "out", "site") == code


def test_a_release_of_an_earlier_seed_is_found(tmp_path):
    home = site_home(tmp_path)
    (home / "work/seed-7/outbox").mkdir(parents=True)
    (home / f"work/seed-0/outbox/{VESSEL.digest}.safetensors").rename(
        home / f"work/seed-7/outbox/{VESSEL.digest}.safetensors"
    )
    (home / f"work/seed-0/outbox/{VESSEL.digest}.safetensors").write_bytes(b"damaged")
    assert export(home, tmp_path / "out").gaps == []
    assert outcome(tmp_path / "out", "site") == ""


def test_links_in_a_home_are_not_followed(tmp_path):
    path = site_home(tmp_path) / f"audit/statements/{digest_of(POLYP.statement)}.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    (gap,) = export(tmp_path / "home", tmp_path / "out").gaps
    assert "cannot be read" in gap
    assert not (tmp_path / "out/statements" / path.name).exists()


def test_a_pipe_in_a_home_is_not_waited_for(tmp_path):
    path = site_home(tmp_path) / f"audit/statements/{digest_of(POLYP.statement)}.json"
    path.unlink()
    os.mkfifo(path)
    assert len(export(tmp_path / "home", tmp_path / "out").gaps) == 1


def test_entries_that_no_checkpoint_counts_yet_are_left_out(tmp_path):
    bundle = site_home(tmp_path) / SITE_LOG / "tile/entries/000.p/22"
    bundle.write_bytes(bundle.read_bytes() + b"\x00\x05abc")
    bundle.rename(bundle.with_name("23"))
    export(tmp_path / "home", tmp_path / "out")
    assert outcome(tmp_path / "out", "site") == ""


def older_log(home: Path, *, minute: int) -> str:
    """Give a site the log of another key, whose last entry is of that minute; return its first digits."""
    draft = drafted("site")
    draft.signed["site"].origin = f"casam-fed/site/{SITE}/{fingerprint_of(STRANGER)[:12]}"
    draft.signed["site"].key = STRANGER
    draft.lines["site"] = draft.lines["site"][:3]
    draft.lines["site"][-1].time = time_of(minute)
    written(draft, home.parent / "other")
    shutil.move(home.parent / "other/site", home / f"audit/log-{fingerprint_of(STRANGER)[:12]}")
    return fingerprint_of(STRANGER)[:12]


@pytest.mark.parametrize("minute", [2, 99])
def test_of_several_logs_the_newest_is_taken(tmp_path, minute):
    home = site_home(tmp_path)
    other = older_log(home, minute=minute)
    expected = other if minute == 99 else fingerprint_of(CLINIC)[:12]
    assert find_home(home).logs["site"].name == f"log-{expected}"
    export(home, tmp_path / "out")
    assert f"/{expected}\n" in (tmp_path / "out/site/checkpoint").read_text()


def test_a_log_is_chosen_by_its_key(tmp_path):
    home = site_home(tmp_path)
    other = older_log(home, minute=2)
    export(home, tmp_path / "out", other)
    assert f"/{other}\n" in (tmp_path / "out/site/checkpoint").read_text()
    with pytest.raises(UnsuitableError, match=r"holds no log of key 0123456789ab yet; see .*audit"):
        export(home, tmp_path / "more", "0123456789ab")
    with pytest.raises(UnsuitableError, match="leave --key out"):
        export(bank_home(tmp_path / "bank"), tmp_path / "more", other)


def test_of_several_aggregators_the_one_of_the_log_is_taken(tmp_path):
    home = site_home(tmp_path)
    draft = drafted("site")
    draft.signed["bank"].origin = f"casam-fed/bank/south/{fingerprint_of(HARBOUR)[:12]}"
    draft.signed["bank"].key = HARBOUR
    draft.lines["bank"][-1].time = time_of(99)
    written(draft, tmp_path / "other")
    shutil.move(tmp_path / "other/bank", home / f"audit/bank-south-{fingerprint_of(HARBOUR)[:12]}")
    assert find_home(home).logs["bank"] == home / MIRROR
    assert export(home, tmp_path / "out").manifest.federation == FEDERATION


def test_witnesses_that_a_site_has_no_use_for_stay(tmp_path):
    home = site_home(tmp_path)
    note = read_note((home / MIRROR / "witnessed" / SITE).read_bytes(), "a test")
    (home / MIRROR / "witnessed/harbour").write_bytes(note.data)
    (home / MIRROR / "witnessed/.clinic.part").write_bytes(b"left by a crash")
    export(home, tmp_path / "out")
    assert outcome(tmp_path / "out", "site") == ""


def _no_mirror(home: Path) -> None:
    shutil.rmtree(home / MIRROR)


def _no_log(home: Path) -> None:
    shutil.rmtree(home / "audit")


def _no_home(home: Path) -> None:
    (home / "site.yaml").unlink()


def _file(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("a file")


def _cut(home: Path) -> None:
    os.truncate(home / SITE_LOG / "tile/entries/000.p/22", 2000)


def _checkpoint_alone(home: Path) -> None:
    shutil.rmtree(home / SITE_LOG / "tile")


def _no_event(home: Path) -> None:
    bundle = home / SITE_LOG / "tile/entries/000.p/22"
    data = bundle.read_bytes()
    bundle.write_bytes(data.replace(b"payloadType", b"payloadTypo"))


def _foreign(home: Path) -> None:
    path = home / SITE_LOG / "checkpoint"
    path.write_bytes(path.read_bytes().replace(b"casam-fed/site", b"go.sum"))


UNFIT = {
    "log of another program": (_foreign, UnsuitableError, "is no log of casam-fed"),
    "not online yet": (_no_mirror, UnsuitableError, "has no copy of its aggregator's log yet"),
    "no log": (_no_log, UnsuitableError, "holds no log yet"),
    "no home": (_no_home, UnsuitableError, "neither a site's folder nor an aggregator's"),
    "a file": (_file, UnsuitableError, "neither a site's folder nor an aggregator's"),
    "log cut in mid-entry": (_cut, LogError, "is damaged"),
    "checkpoint without its tiles": (_checkpoint_alone, LogError, "is damaged"),
    "log of something else": (_no_event, SignatureError, "envelope"),
}


@pytest.mark.parametrize("defect", UNFIT)
def test_a_home_that_cannot_be_exported_is_told_in_one_sentence(tmp_path, defect):
    spoil, error, sentence = UNFIT[defect]
    home = site_home(tmp_path)
    spoil(home)
    with pytest.raises(error, match=sentence) as raised:
        export(home, tmp_path / "out")
    assert isinstance(raised.value, CasamError)
    assert "; " in str(raised.value) or "is damaged" in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_an_aggregator_without_a_log_is_told_so(tmp_path):
    home = bank_home(tmp_path)
    shutil.rmtree(home / "audit/bank")
    with pytest.raises(UnsuitableError, match="holds no log yet"):
        export(home, tmp_path / "out")


def test_what_waits_and_what_was_admitted_lie_in_places_of_their_own(tmp_path):
    home = bank_home(tmp_path)
    for path in (home / "quarantine").rglob("*.safetensors"):
        path.unlink()
    (gap,) = export(home, tmp_path / "out").gaps
    assert gap.endswith("the home holds none")
    assert outcome(tmp_path / "out", "bank") == "release-missing"
