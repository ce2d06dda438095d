"""The verifier: what a good export comes to, in which order it is looked at, and that no export can exhaust or mislead it.

What can be wrong with an export, code by code, stands in defects.py; here is what one defect alone does not show.
"""

import os
import random
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from casam_fed import forms
from casam_fed.audit.check_events import BankHistory, SiteHistory, check_cross, follow
from casam_fed.audit.check_files import MAX_RELEASE_BYTES, card_of
from casam_fed.audit.check_folder import CODES, CheckError, Folder, Manifest, manifest_bytes, read_manifest
from casam_fed.audit.event import Event
from casam_fed.audit.forms import DIGEST, NAME
from casam_fed.audit.note import Checkpoint, sign_checkpoint
from casam_fed.audit.verify import Report, verify

from .defects import DEFECTS
from .exports import (
    BANK,
    CELL,
    CLINIC,
    FEDERATION,
    GIVEN,
    LESION,
    OTHER_SITE,
    POLYP,
    SITE,
    SITE_LOG,
    VESSEL,
    Draft,
    Made,
    approved,
    decided,
    digest_of,
    drafted,
    fingerprint_of,
    leave,
    made,
    tell,
    write_keys,
    written,
)


def verified(folder: Path, draft: Draft, after: Callable[[Path], object] = lambda folder: None) -> Report:
    """Write an export, change it, and verify it with the keys that belong to it."""
    written(draft, folder / "export")
    after(folder / "export")
    return checked(folder / "export", draft.kind)


def checked(export: Path, kind: str) -> Report:
    """Verify an export with the keys that belong to it."""
    if not (export.parent / "keys").exists():
        write_keys(export.parent / "keys")
    bank, *sites = (export.parent / "keys" / f"{name}.pem" for name in GIVEN[kind])
    return verify(export, bank, sites)


def test_the_export_of_a_site_tells_what_became_of_each_release(tmp_path):
    report = verified(tmp_path, drafted("site"))
    assert report.plain() == {
        "result": "verified",
        "code": "",
        "sentence": "",
        "entries": {"site": 22, "bank": 13},
        "releases": [
            {
                "digest": each.digest,
                "task": each.task,
                "approved": f"2026-11-25T07:{minutes[0]}:00Z",
                "sent": f"2026-11-25T07:{minutes[1]}:00Z",
                "outcome": outcome,
            }
            for each, minutes, outcome in (
                (POLYP, ("03", "05"), "admitted"),
                (LESION, ("07", "10"), "refused"),
                (VESSEL, ("12", "14"), "refused"),
            )
        ],
    }
    text = "\n".join(report.lines)
    assert "22 entries; the aggregator had seen 18 of them by 2026-11-25T08:00:00Z" in text
    assert "13 entries; this site had seen 11 of them by 2026-11-25T08:00:00Z" in text
    assert "3 releases with card and signed statement, 6 texts that left, 5 signed decisions with proof" in text
    assert report.exit_code == 0


def test_the_export_of_a_bank_tells_what_is_in_it(tmp_path):
    report = verified(tmp_path, drafted("bank"))
    outcomes = {each["task"]: each["outcome"] for each in report.releases}
    assert outcomes == {"polyp": "admitted", "cell": "admitted", "vessel": "retired", "gland": "quarantined"}
    assert {(each["approved"], each["sent"]) for each in report.releases} == {("", "")}
    assert report.entries == {"site": 0, "bank": 13}
    assert f"site {OTHER_SITE} had seen 12 of them" in "\n".join(report.lines)


def test_what_one_more_key_would_check_is_told(tmp_path):
    """A site without a release in the bank cannot be asked for: its cosignature is left alone, and that is said."""
    draft = drafted("bank")
    draft.append("bank", "enrolled", {"key": fingerprint_of(BANK)}, {"site": "harbour-2"})
    draft.signed["bank"].witnesses["harbour-2"] = ("casam-fed/site/harbour-2/0123456789ab", BANK, 3)
    report = verified(tmp_path, draft)
    assert report.result == "verified"
    assert report.notes == ["bank/witnessed/harbour-2 was not checked, for want of that site's key"]


def test_nothing_is_told_of_what_does_not_verify(tmp_path):
    report = verified(tmp_path, drafted("site"), lambda folder: (folder / "more").write_bytes(b""))
    assert (report.result, report.code, report.releases, report.lines) == ("failed", "surplus", [], [])
    assert report.sentence == ("nothing in the logs accounts for more; take it out, or ask who put it into the export")


def test_every_code_is_shown_by_a_defect():
    assert {defect.code for defect in DEFECTS.values()} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_a_code_says_whether_something_is_wrong_or_missing(code):
    assert {defect.status for defect in DEFECTS.values() if defect.code == code} == {CODES[code]}


def test_an_export_needs_neither_guide_nor_script(tmp_path):
    def after(folder: Path) -> None:
        (folder / "VERIFY.md").unlink()
        (folder / "verify.sh").write_text("echo verified")

    report = verified(tmp_path, drafted("site"), after)
    assert report.result == "verified"
    assert report.notes == [
        "verify.sh in the export is not the one of this version; do not run it unless you know its maker"
    ]


@pytest.mark.parametrize("kind", GIVEN)
def test_no_byte_of_an_export_can_be_changed(tmp_path, kind):
    """Nor may a file be cut, emptied, or left out; the guides alone are nobody's statement."""
    written(drafted(kind), tmp_path / "export")
    randomness = random.Random(5)
    for path in sorted(path for path in (tmp_path / "export").rglob("*") if path.is_file() and path.stat().st_size):
        data = path.read_bytes()
        place = randomness.randrange(len(data))
        flipped = data[:place] + bytes([data[place] ^ 1 << randomness.randrange(8)]) + data[place + 1 :]
        for changed in (flipped, data[:place], data + b"\n", None):
            if changed is None:
                path.unlink()
            else:
                path.write_bytes(changed)
            report = checked(tmp_path / "export", kind)
            if report.exit_code == 0:
                # A bank's witnesses may be absent but for one, and so may the statement of what was refused.
                is_witness = path.parent.name == "witnessed"
                is_optional = kind == "bank" and (is_witness or path.stem == digest_of(LESION.statement))
                assert path.name in ("VERIFY.md", "verify.sh") or (is_optional and changed is None)
                assert len(report.notes) == (is_witness or changed is not None)
            else:
                assert "; " in report.sentence
        path.write_bytes(data)
    assert checked(tmp_path / "export", kind).exit_code == 0


DEEP = b"[" * 60_000


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda draft: setattr(draft.lines["site"][1], "envelope", lambda data: DEEP), "entry-form"),
        (lambda draft: setattr(draft.lines["site"][1], "content", lambda content: DEEP[:40_000]), "event-form"),
        (lambda draft: setattr(draft.lines["site"][1], "content", lambda content: b"9" * 40_000), "event-form"),
        (lambda draft: setattr(draft.lines["site"][1], "content", lambda content: b""), "event-form"),
    ],
    ids=["envelope", "event", "number", "nothing"],
)
def test_what_is_nested_too_deep_is_told_like_anything_else(tmp_path, change, code):
    draft = drafted("site")
    change(draft)
    assert verified(tmp_path, draft).code == code


def test_a_manifest_and_a_header_may_be_nested_as_deep_as_they_like(tmp_path):
    report = verified(tmp_path, drafted("site"), lambda folder: (folder / "export.json").write_bytes(DEEP))
    assert report.code == "manifest-form"
    head = (1 << 20).to_bytes(8, "little") + b"[" * (1 << 20)
    assert card_of(head, 2 << 20) is None


# ---- The order of the checks ----


def _gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


ORDER = [
    ("empty", None, lambda folder: [path.unlink() for path in folder.rglob("*") if path.is_file()]),
    ("no-manifest", None, _gone("export.json")),
    ("checkpoint-missing", None, _gone("bank/checkpoint")),
    ("tiles-missing", None, _gone("bank/tile/entries/000.p/13")),
    ("entry-surplus", None, lambda f: (f / "bank/tile/entries/000.p/13").open("ab").write(b"\0")),
    ("hash-tile", None, lambda f: (f / "bank/tile/0/000.p/13").write_bytes(bytes(13 * 32))),
]


def test_the_first_thing_that_is_wrong_is_told(tmp_path):
    """One defect after the other is put in, the last of the order first: each hides those before."""
    steps = [step for step in ORDER if step[0] not in ("empty", "no-manifest")]
    written(drafted("site"), tmp_path / "export")
    for code, _, spoil in [*reversed(steps), ORDER[1]]:
        spoil(tmp_path / "export")
        assert checked(tmp_path / "export", "site").code == code


def test_an_entry_that_is_wrong_by_itself_comes_before_the_order_of_events(tmp_path):
    draft = drafted("site")
    draft.lines["site"][2].facts["intent"] = 0
    assert verified(tmp_path / "order", draft).code == "event-order"
    draft.line("site", "withheld").facts["federation"] = "south"
    assert verified(tmp_path / "foreign", draft).code == "foreign"


def test_the_order_of_events_comes_before_the_witness_and_that_before_files(tmp_path):
    draft = drafted("site")
    draft.files.pop(f"releases/{POLYP.digest}.safetensors")
    assert verified(tmp_path / "file", draft).code == "release-missing"
    draft.signed["site"].witnesses.clear()
    assert verified(tmp_path / "witness", draft).code == "cosignature-missing"
    draft.lines["site"][2].facts["intent"] = 0
    assert verified(tmp_path / "order", draft).code == "event-order"


def test_the_log_of_the_aggregator_comes_before_that_of_the_site(tmp_path):
    draft = drafted("site")
    draft.signed["bank"].witnesses.clear()
    draft.lines["site"][2].facts["intent"] = 0
    assert verified(tmp_path, draft).code == "cosignature-missing"


# ---- What is no defect ----


def _approved_twice(draft: Draft) -> None:
    """A person approves a release again, e.g. for a new app: the aggregator admitted by the first statement."""
    again = made("polyp", stated={"time": "2026-11-25T07:30:00Z"})
    draft.append("site", "approved", *approved(again))
    draft.keep("statements", again.statement)


def _sent_again(draft: Draft) -> None:
    """The connection broke, and the same release is sent once more."""
    leave(draft, "train.submit", f'{{"digest":"{POLYP.digest}"}}', POLYP)
    draft.signed["site"].witnesses["bank"] = (*draft.signed["site"].witnesses["bank"][:2], len(draft.lines["site"]))


def _never_sent(draft: Draft) -> None:
    """A release was approved, and the machine switched off."""
    each = made("tumour")
    draft.append("site", "approved", *approved(each))
    draft.files[f"releases/{each.digest}.safetensors"] = each.data
    draft.keep("cards", each.card)
    draft.keep("statements", each.statement)


def _task_in_force_again(draft: Draft) -> None:
    """What was retired makes room for a release of another site with that task."""
    each = made("vessel", OTHER_SITE, CLINIC)
    draft.append("bank", "admitted", *decided(each, entry=3, by="rule"))


def _declined_and_approved(draft: Draft) -> None:
    """A person changed their mind, and the release left after that."""
    draft.append("site", "declined", {"release": LESION.digest}, {"federation": FEDERATION, "task": "lesion"})
    draft.append("site", "approved", *approved(LESION))
    leave(draft, "train.submit", f'{{"digest":"{LESION.digest}"}}', LESION)


def _told_twice(draft: Draft) -> None:
    tell(draft, LESION, "refused", "R112", None)


@pytest.mark.parametrize(
    "change", [_approved_twice, _sent_again, _never_sent, _task_in_force_again, _declined_and_approved, _told_twice]
)
def test_what_happens_in_good_order_is_verified(tmp_path, change):
    draft = drafted("site")
    change(draft)
    report = verified(tmp_path, draft)
    assert (report.code, report.sentence) == ("", "")


def test_what_was_never_noted_as_sent_is_told(tmp_path):
    draft = drafted("site")
    _never_sent(draft)
    report = verified(tmp_path, draft)
    assert report.releases[-1]["sent"] == ""
    assert "not known to have left, not decided yet" in report.lines[-1]


# ---- A site that has changed its keys ----


def event(log: str, index: int, name: str, subjects: dict[str, str], **facts: object) -> Event:
    return Event(log, index, "", "2026-11-25T07:00:00Z", name, subjects, facts)


def bank_events(*events: tuple[str, dict[str, str], dict[str, object]]) -> BankHistory:
    """Return the history of a bank log that consists of these events after its first."""
    history = BankHistory(SITE)
    log = "casam-fed/bank/north/0123456789ab"
    all_of = [("began", {"key": "0" * 64}, {"federation": FEDERATION}), *events]
    follow(
        (event(log, place, name, subjects, **facts) for place, (name, subjects, facts) in enumerate(all_of)), history
    )
    return history


def keyed(name: str, key: str) -> tuple[str, dict[str, str], dict[str, object]]:
    return name, {"key": key * 64}, {"site": SITE}


def about(name: str, each: Made, **facts: object) -> tuple[str, dict[str, str], dict[str, object]]:
    subjects, its = decided(each)
    return name, subjects, {**its, "site": SITE, **facts}


OLD, NEW = "1", "2"
CHANGED = {
    "admitted before": [keyed("enrolled", OLD), about("admitted", POLYP, entry=0, by="rule"), keyed("enrolled", NEW)],
    "kept before, admitted after": [
        keyed("enrolled", OLD),
        about("quarantined", POLYP),
        keyed("revoked", OLD),
        keyed("enrolled", NEW),
        about("admitted", POLYP, entry=0, by="person"),
    ],
}


@pytest.mark.parametrize("case", CHANGED)
def test_what_came_under_an_earlier_key_stands_in_the_log_of_that_key(case):
    bank = bank_events(*CHANGED[case])
    check_cross(SiteHistory(), bank, NEW * 64)
    with pytest.raises(CheckError) as error:
        check_cross(SiteHistory(), bank, OLD * 64)
    assert error.value.code == "admitted-not-sent"


@pytest.mark.parametrize(
    "events",
    [
        [about("admitted", POLYP, entry=0, by="rule"), keyed("enrolled", NEW)],
        [keyed("enrolled", NEW), about("admitted", POLYP, entry=0, by="rule")],
        [keyed("enrolled", OLD), keyed("enrolled", NEW), about("admitted", POLYP, entry=0, by="rule")],
        [keyed("enrolled", OLD), keyed("enrolled", NEW), about("admitted", POLYP, entry=0, by="person")],
        [keyed("enrolled", NEW), keyed("revoked", NEW), about("admitted", POLYP, entry=0, by="rule")],
    ],
    ids=["before any key", "under it", "after a change", "by a person, never kept", "after it had ended"],
)
def test_no_change_of_keys_hides_what_a_site_never_sent(events):
    with pytest.raises(CheckError) as error:
        check_cross(SiteHistory(), bank_events(*events), NEW * 64)
    assert error.value.code == "admitted-not-sent"


def test_a_key_that_somebody_enrols_in_the_name_of_a_site_is_found_by_what_it_admits(tmp_path):
    draft = drafted("site")
    draft.append("bank", "enrolled", {"key": fingerprint_of(BANK)}, {"site": SITE})
    (tmp_path / "enrolled").mkdir()
    report = verified(tmp_path / "enrolled", draft)
    assert (report.result, len(report.notes)) == ("verified", 1)
    assert f"another key for this site, {fingerprint_of(BANK)[:12]}, and 0 admitted under it" in report.notes[0]
    draft.append("bank", "admitted", *decided(made("tumour", SITE, BANK), entry=3, by="rule"))
    report = verified(tmp_path, draft)
    assert (report.result, report.code, report.exit_code) == ("incomplete", "key-missing", 2)
    assert "else somebody spoke in its name" in report.sentence


def test_a_key_that_is_enrolled_once_more_is_the_last_one():
    events = [keyed("enrolled", NEW), keyed("enrolled", OLD), keyed("enrolled", NEW)]
    bank = bank_events(*events, about("admitted", POLYP, entry=0, by="rule"))
    assert bank.keys == {SITE: {OLD * 64: 2, NEW * 64: 1}}
    with pytest.raises(CheckError, match="never left"):
        check_cross(SiteHistory(), bank, NEW * 64)


# ---- Sizes ----


@pytest.mark.parametrize("size", [1 << 62, (1 << 63) - 1, 513, 257, 14])
def test_a_checkpoint_that_claims_more_than_there_is_costs_nothing(tmp_path, size):
    draft = drafted("bank")
    draft.signed["bank"].checkpoint = lambda true: Checkpoint(true.origin, size, true.root)
    started = time.monotonic()
    assert verified(tmp_path, draft).code == "tiles-missing"
    assert time.monotonic() - started < 2


HUGE = {
    "export.json": "manifest-form",
    "bank/checkpoint": "checkpoint-form",
    "site/witnessed/bank": "cosignature-form",
    "site/tile/entries/000.p/22": "entry-surplus",
    "site/tile/0/000.p/22": "hash-tile",
    f"releases/{POLYP.digest}.safetensors": "release-digest",
    f"cards/{digest_of(POLYP.card)}.json": "card-digest",
    f"statements/{digest_of(POLYP.statement)}.json": "statement-size",
    "payloads": "payload-digest",
    f"receipts/{POLYP.digest}.tlog-proof": "proof-form",
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_larger_than_it_can_be_is_not_read(tmp_path, monkeypatch, name):
    """A file without blocks on the disk that says it has a terabyte."""
    written(drafted("site"), tmp_path / "export")
    path = tmp_path / "export" / name
    os.truncate(next(path.iterdir()) if path.is_dir() else path, 1 << 40)
    started = time.monotonic()
    report = checked(tmp_path / "export", "site")
    assert (report.code, report.result) == (HUGE[name], "failed")
    assert "bytes, and at most" in report.sentence
    assert time.monotonic() - started < 2


def test_a_receipt_that_is_larger_than_it_can_be_is_not_held(tmp_path):
    written(drafted("site"), tmp_path / "export")
    os.truncate(next((tmp_path / "export/receipts").glob("*.json")), 100 << 20)
    assert checked(tmp_path / "export", "site").code == "receipt-digest"


def long_log(entries: int) -> Draft:
    """Return an export of a site that has said hello very often."""
    draft = drafted("site")
    for _ in range(entries // 2):
        leave(draft, "query.hello", '{"site":"clinic"}')
    return draft


def test_a_thousand_entries_are_verified_in_seconds(tmp_path):
    written(long_log(1000), tmp_path / "export")
    started = time.monotonic()
    report = checked(tmp_path / "export", "site")
    assert (report.code, report.entries["site"]) == ("", 1022)
    assert time.monotonic() - started < 10


def test_memory_does_not_grow_with_the_length_of_entries(tmp_path):
    """2,000 entries have 2 MB; what may be kept of them is a few hashes each, and the bundle at hand."""
    written(long_log(2000), tmp_path / "export")
    size = sum(path.stat().st_size for path in (tmp_path / "export/site/tile/entries").rglob("*") if path.is_file())
    assert size > 2_000_000
    (tmp_path / "short").mkdir()
    verified(tmp_path / "short", drafted("site"))
    tracemalloc.start()
    try:
        assert checked(tmp_path / "export", "site").code == ""
        assert tracemalloc.get_traced_memory()[1] < 1_200_000
    finally:
        tracemalloc.stop()


# ---- Files ----


def test_nothing_outside_the_export_is_opened(tmp_path, monkeypatch):
    """Not even what looks right behind a link."""
    written(drafted("site"), tmp_path / "export")
    (tmp_path / "export/releases").rename(tmp_path / "releases")
    (tmp_path / "export/releases").symlink_to(tmp_path / "releases")
    opened: list[str] = []
    real = os.open

    def watched(path: object, *arguments: object, **more: object) -> int:
        opened.append(os.fspath(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", watched)
    report = checked(tmp_path / "export", "site")
    assert (report.code, report.exit_code) == ("surplus", 1)
    assert opened
    assert not any("releases" in path for path in opened)


def test_a_file_that_becomes_a_link_meanwhile_is_not_followed(tmp_path):
    written(drafted("site"), tmp_path / "export")
    folder = Folder(tmp_path / "export")
    path = tmp_path / "export/export.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckError, match="cannot be read") as error:
        read_manifest(folder)
    assert error.value.code == "no-manifest"


def test_a_file_that_grows_meanwhile_is_not_read_to_its_end(tmp_path):
    written(drafted("site"), tmp_path / "export")
    folder = Folder(tmp_path / "export")
    os.truncate(tmp_path / "export/export.json", 1 << 40)
    with pytest.raises(CheckError, match="grew meanwhile"):
        read_manifest(folder)


def test_a_manifest_comes_back():
    manifest = Manifest("site", FEDERATION, SITE, "2026-11-25T07:00:00Z", "0.1.0")
    assert manifest_bytes(manifest) == (
        b'{"code":"0.1.0","federation":"north","format":1,"kind":"site","made":"2026-11-25T07:00:00Z","site":"clinic"}\n'
    )
    assert (manifest.logs, replace(manifest, kind="bank", site="").logs) == (("bank", "site"), ("bank",))


def test_a_card_is_found_in_its_header_alone():
    head = POLYP.data[:4096]
    assert card_of(head, len(POLYP.data)) == POLYP.card
    assert card_of(head, 100) is None
    for broken in (b"", head[:7], b"\xff" * 8 + head[8:], head[:20], (8).to_bytes(8, "little") + b"[" * 8):
        assert card_of(broken, len(POLYP.data)) is None


def test_the_key_of_the_aggregator_cannot_stand_for_that_of_a_site(tmp_path):
    written(drafted("site"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    bank = tmp_path / "keys/bank.pem"
    assert verify(tmp_path / "export", bank, [bank]).exit_code == 1


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_key_is_a_file(tmp_path, kind):
    written(drafted("site"), tmp_path / "export")
    path = tmp_path / "key"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    report = verify(tmp_path / "export", path, [])
    assert (report.code, report.exit_code) == ("key-form", 2)
    assert str(path) in report.sentence


def test_a_signed_empty_log_is_out_of_order(tmp_path):
    draft = drafted("site")
    draft.lines["site"] = []
    draft.signed["site"].witnesses.clear()
    written_empty = sign_checkpoint(Checkpoint(SITE_LOG, 0, bytes.fromhex(digest_of(b""))), CLINIC)

    def after(folder: Path) -> None:
        (folder / "site/checkpoint").write_bytes(written_empty.data)

    draft.files, draft.proofs = {}, {}
    assert verified(tmp_path, draft, after).code == "event-order"


def test_names_digests_and_sizes_have_the_forms_that_they_have_elsewhere():
    """The audit imports only the standard library and `cryptography`, and so states them itself."""
    assert f"^{NAME.pattern}$" == forms.NAME_PATTERN
    assert TypeAdapter(forms.Digest).json_schema()["pattern"] == f"^{DIGEST.pattern}$"
    assert forms.MAX_RELEASE_BYTES == MAX_RELEASE_BYTES


def test_cell_is_of_another_site():
    """What this site's bank log says of others is checked, but is not this site's to have sent."""
    bank = bank_events(about("admitted", CELL, entry=0, by="rule", site=OTHER_SITE))
    check_cross(SiteHistory(), bank, NEW * 64)
