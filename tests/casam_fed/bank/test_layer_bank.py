"""The bank: content-addressed, atomic, the same everywhere, and never serving what it cannot vouch for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from casam_fed.bank import layer_bank
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import Snapshot
from casam_fed.errors import BankError, CasamError, ReleaseError, StorageError
from casam_fed.host.files import sha256_bytes
from casam_fed.routing.gaussian import Background

from .releases import BACKBONE_DIGEST, BACKGROUND, CHANNELS, release_bytes

RELEASES = {task: parse(release_bytes(task, seed)) for seed, task in enumerate(("polyp", "spleen", "teeth"))}


@pytest.fixture(autouse=True)
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has loaded before counts for no test."""
    monkeypatch.setattr(layer_bank, "_loaded", layer_bank._Loaded(1 << 20))


@pytest.fixture
def bank(tmp_path: Path) -> LayerBank:
    return LayerBank.create(tmp_path / "bank", "tiny", BACKBONE_DIGEST, BACKGROUND)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_admitted_can_be_loaded_also_after_opening_again(bank):
    for sequence, release in enumerate(RELEASES.values()):
        entry = bank.admit(release)
        assert (entry.sequence, entry.task, entry.digest) == (sequence, release.card.task, release.digest)
    again = LayerBank(bank.folder)
    assert [entry.task for entry in again.entries()] == list(RELEASES)
    assert torch.equal(again.background.mean, BACKGROUND.mean)
    for task, release in RELEASES.items():
        loaded = again.load(task)
        assert loaded.data == release.data
        assert all(torch.equal(loaded.alignment[name], release.alignment[name]) for name in release.alignment)


def test_the_digest_of_the_bank_depends_on_releases_and_order_only(tmp_path):
    def digest(folder: str, order: list[str]) -> str:
        bank = LayerBank.create(tmp_path / folder, "tiny", BACKBONE_DIGEST, BACKGROUND)
        for task in order:
            bank.admit(RELEASES[task])
        return bank.snapshot().digest

    first = digest("a", ["polyp", "spleen"])
    assert digest("elsewhere", ["polyp", "spleen"]) == first
    assert digest("c", ["spleen", "polyp"]) != first


def test_the_snapshot_is_the_same_on_every_platform(bank):
    bank.admit(RELEASES["polyp"])
    snapshot = bank.snapshot()
    expected = (
        '{"backbone":"tiny","backbone_digest":"' + BACKBONE_DIGEST + '","background":"' + snapshot.background + '",'
        '"entries":[{"bytes":' + str(len(RELEASES["polyp"].data)) + ',"digest":"' + RELEASES["polyp"].digest + '",'
        '"sequence":0,"site":"site-polyp","status":"active","task":"polyp"}],"schema_version":1}'
    )
    assert snapshot.data == expected.encode()
    assert (bank.folder / "bank.json").read_bytes() == snapshot.data


def test_the_same_release_twice_is_one_entry(bank):
    first = bank.admit(RELEASES["polyp"])
    before = _files(bank.folder)
    assert bank.admit(RELEASES["polyp"]) == first
    assert _files(bank.folder) == before


def test_another_release_for_a_task_in_force_is_refused(bank):
    bank.admit(RELEASES["polyp"])
    before = _files(bank.folder)
    with pytest.raises(BankError, match="retire it before"):
        bank.admit(parse(release_bytes("polyp", seed=9)))
    assert _files(bank.folder) == before


def test_a_release_of_another_backbone_is_refused(bank):
    with pytest.raises(BankError, match="another backbone than tiny"):
        bank.admit(parse(release_bytes("polyp", backbone_digest="c" * 64)))
    assert bank.entries() == []


def test_a_release_of_other_channels_than_the_background_is_refused(tmp_path):
    wide = Background(torch.zeros(2 * CHANNELS, dtype=torch.float64), torch.ones(2 * CHANNELS, dtype=torch.float64))
    bank = LayerBank.create(tmp_path / "bank", "tiny", BACKBONE_DIGEST, wide)
    with pytest.raises(BankError, match="another backbone than tiny"):
        bank.admit(RELEASES["polyp"])


def test_a_release_that_no_router_can_be_built_from_is_refused(tmp_path):
    """It would stop the routing of all tasks; here a channel that hardly changes blows the statistics up."""
    std = torch.ones(CHANNELS, dtype=torch.float64)
    std[0] = 1e-160
    bank = LayerBank.create(tmp_path / "bank", "tiny", BACKBONE_DIGEST, Background(torch.zeros_like(std), std))
    with pytest.raises(ReleaseError, match="task polyp give no scores against this bank's background; train it again"):
        bank.admit(RELEASES["polyp"])
    assert bank.entries() == []


def test_an_entry_cannot_pass_for_another_task(bank):
    bank.admit(RELEASES["polyp"])
    path = bank.folder / "bank.json"
    path.write_bytes(path.read_bytes().replace(b'"task":"polyp"', b'"task":"teeth"'))
    with pytest.raises(BankError, match="contradicts the snapshot"):
        LayerBank(bank.folder).load("teeth")


def test_the_next_change_removes_what_a_crash_left_and_nothing_else(bank):
    objects = bank.folder / "objects"
    left = [objects / f"{'e' * 64}.safetensors", objects / f".{'e' * 64}.safetensors.x.part"]
    left.append(bank.folder / ".bank.json.x.part")
    foreign = [objects / "notes.txt", bank.folder / "README"]
    for path in (*left, *foreign):
        path.write_bytes(b"x")
    (objects / "folder").mkdir()
    bank.admit(RELEASES["polyp"])
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in (*foreign, objects / "folder"))


def test_retiring_withdraws_one_task_and_leaves_the_others_bit_for_bit(bank):
    for release in RELEASES.values():
        bank.admit(release)
    objects = bank.folder / "objects"
    before = _files(objects)
    retired = bank.retire("spleen")
    assert retired.status == "retired"
    gone = f"{RELEASES['spleen'].digest}.safetensors"
    assert _files(objects) == {name: data for name, data in before.items() if name != gone}
    assert [entry.task for entry in bank.entries()] == ["polyp", "teeth"]
    assert [entry.status for entry in bank.snapshot().entries] == ["active", "retired", "active"]
    with pytest.raises(BankError, match="no task spleen; choose one of: polyp, teeth"):
        bank.load("spleen")
    assert bank.admit(RELEASES["spleen"]).sequence == 3


def _damage(bank: LayerBank, digest: str) -> None:
    path = bank.folder / "objects" / f"{digest}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_what_is_read_is_checked_against_its_digest(bank):
    entry = bank.admit(RELEASES["polyp"])
    _damage(bank, entry.digest)
    for read in (lambda: bank.load("polyp"), lambda: bank.object_bytes(entry.digest), bank.check_whole):
        with pytest.raises(BankError, match=r"changed or damaged; delete it and sync"):
            read()
    (bank.folder / "objects" / f"{entry.digest}.safetensors").unlink()
    for read in (lambda: bank.load("polyp"), lambda: bank.object_bytes(entry.digest), bank.check_whole):
        with pytest.raises(BankError, match="is missing from the bank"):
            read()


def test_a_release_is_read_and_parsed_once_in_a_process_and_damage_after_that_is_found_by_who_looks_for_it(bank):
    entry = bank.admit(RELEASES["polyp"])
    first = bank.load("polyp")
    _damage(bank, entry.digest)
    assert LayerBank(bank.folder).load("polyp") is first
    with pytest.raises(BankError, match="changed or damaged"):
        bank.check_whole()


def test_what_a_process_has_loaded_counts_for_a_bank_only_as_that_bank_says(bank):
    """The same bytes under another name contradict the entry, whoever has loaded them before."""
    bank.admit(RELEASES["polyp"])
    bank.load("polyp")
    path = bank.folder / "bank.json"
    path.write_bytes(path.read_bytes().replace(b'"task":"polyp"', b'"task":"teeth"'))
    with pytest.raises(BankError, match="contradicts the snapshot"):
        LayerBank(bank.folder).load("teeth")


def test_a_process_keeps_the_releases_it_used_last_up_to_a_bound(bank, monkeypatch):
    for release in RELEASES.values():
        bank.admit(release)
    monkeypatch.setattr(layer_bank, "_loaded", layer_bank._Loaded(2 * len(RELEASES["polyp"].data)))
    polyp, spleen = bank.load("polyp"), bank.load("spleen")
    assert bank.load("polyp") is polyp
    bank.load("teeth")
    assert bank.load("polyp") is polyp
    assert bank.load("spleen") is not spleen


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b" ",
        lambda data: data.replace(b'"sequence":0', b'"sequence":1'),
        lambda data: data.replace(b'"status":"active"', b'"status":"unheard"'),
        lambda data: data.replace(b'"backbone":"tiny"', b'"backbone":"tiny","extra":1'),
        lambda data: b"\x80\x04N.",
        lambda data: b" " * (9 << 20),
    ],
    ids=["truncated", "not canonical", "sequence", "status", "unknown key", "pickle", "too large"],
)
def test_a_damaged_snapshot_is_refused(bank, damage):
    bank.admit(RELEASES["polyp"])
    path = bank.folder / "bank.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(BankError):
        LayerBank(bank.folder)


def test_a_snapshot_with_two_releases_for_one_task_is_refused(bank):
    bank.admit(RELEASES["polyp"])
    bank.admit(RELEASES["spleen"])
    with pytest.raises(BankError, match="contradicts itself"):
        Snapshot.parse(bank.snapshot().data.replace(b'"task":"spleen"', b'"task":"polyp"'))


def _objects(bank: LayerBank) -> dict[str, bytes]:
    return {digest: bank.object_bytes(digest) for digest in bank.snapshot().object_digests}


def test_a_copy_needs_only_what_it_lacks_and_ends_up_equal(bank, tmp_path):
    bank.admit(RELEASES["polyp"])
    copy = LayerBank.mirror(tmp_path / "copy", bank.snapshot(), _objects(bank))
    entry = bank.admit(RELEASES["spleen"])
    copy = LayerBank.mirror(copy.folder, bank.snapshot(), {entry.digest: RELEASES["spleen"].data})
    assert copy.snapshot().digest == bank.snapshot().digest
    assert copy.load("polyp").data == RELEASES["polyp"].data
    bank.retire("polyp")
    copy = LayerBank.mirror(copy.folder, bank.snapshot(), {})
    assert _objects(copy) == _objects(bank)


def test_of_what_a_copy_holds_only_the_digest_is_checked_again(bank, tmp_path, monkeypatch):
    entry = bank.admit(RELEASES["polyp"])
    copy = LayerBank.mirror(tmp_path / "copy", bank.snapshot(), _objects(bank))
    new = bank.admit(RELEASES["spleen"])
    parsed = []
    monkeypatch.setattr(layer_bank, "parse", lambda data: parsed.append(sha256_bytes(data)) or parse(data))
    LayerBank.mirror(copy.folder, bank.snapshot(), {new.digest: RELEASES["spleen"].data})
    assert parsed == [new.digest]
    _damage(copy, entry.digest)
    with pytest.raises(BankError, match="changed or damaged"):
        LayerBank.mirror(copy.folder, bank.snapshot(), {})


def test_a_copy_checks_what_it_holds_against_an_entry_that_has_changed(bank, tmp_path):
    bank.admit(RELEASES["polyp"])
    copy = LayerBank.mirror(tmp_path / "copy", bank.snapshot(), _objects(bank))
    lie = Snapshot.parse(bank.snapshot().data.replace(b'"task":"polyp"', b'"task":"teeth"'))
    with pytest.raises(BankError, match="contradicts the snapshot"):
        LayerBank.mirror(copy.folder, lie, {})


@pytest.mark.parametrize("defect", ["missing", "bit", "other release", "not a release"])
def test_a_copy_refuses_what_is_not_what_the_snapshot_says_and_stays_as_it_was(bank, tmp_path, defect):
    copy = LayerBank.mirror(tmp_path / "copy", bank.snapshot(), _objects(bank))
    before = _files(copy.folder)
    entry = bank.admit(RELEASES["polyp"])
    data, snapshot = RELEASES["polyp"].data, bank.snapshot()
    objects = {
        "missing": {},
        "bit": {entry.digest: data[:-1] + b"\1"},
        "other release": {entry.digest: RELEASES["spleen"].data},
        "not a release": {entry.digest: b"hello"},
    }[defect]
    with pytest.raises((BankError, ReleaseError)):
        LayerBank.mirror(copy.folder, snapshot, objects)
    assert _files(copy.folder) == before


def test_a_copy_refuses_a_release_that_contradicts_its_entry(bank, tmp_path):
    entry = bank.admit(RELEASES["polyp"])
    lie = Snapshot.parse(bank.snapshot().data.replace(b'"task":"polyp"', b'"task":"teeth"'))
    with pytest.raises(BankError, match="contradicts the snapshot"):
        LayerBank.mirror(tmp_path / "copy", lie, {**_objects(bank), entry.digest: RELEASES["polyp"].data})


@pytest.mark.parametrize("extra", ["tensor", "metadata"])
def test_a_copy_refuses_background_statistics_that_carry_more(bank, tmp_path, extra):
    tensors = {"mean": BACKGROUND.mean, "std": BACKGROUND.std}
    data = save(
        tensors | ({"image": torch.ones(9)} if extra == "tensor" else {}), {"a": "b"} if extra != "tensor" else None
    )
    snapshot = replace(bank.snapshot(), background=sha256_bytes(data))
    with pytest.raises(BankError, match="hold more than mean and std"):
        LayerBank.mirror(tmp_path / "copy", snapshot, {snapshot.background: data})


def test_a_copy_writes_nothing_before_everything_is_checked(bank, tmp_path):
    copy = LayerBank.mirror(tmp_path / "copy", bank.snapshot(), _objects(bank))
    before = _files(copy.folder)
    bank.admit(RELEASES["polyp"])
    bank.admit(RELEASES["spleen"])
    objects = {**_objects(bank), RELEASES["spleen"].digest: b"hello"}
    with pytest.raises(BankError):
        LayerBank.mirror(copy.folder, bank.snapshot(), objects)
    assert _files(copy.folder) == before


def test_a_file_that_cannot_be_read_or_locked_is_told_in_one_sentence(bank, tmp_path):
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot lock .*: is a directory; .*let this user"):
        LayerBank.mirror(tmp_path / "locked", bank.snapshot(), _objects(bank))
    (bank.folder / "bank.json").unlink()
    (bank.folder / "bank.json").mkdir()
    with pytest.raises(StorageError, match=r"cannot read .*: is a directory; let this user"):
        LayerBank(bank.folder)


def test_no_bank_and_a_second_bank_are_refused(bank, tmp_path):
    with pytest.raises(BankError, match="there is no bank"):
        LayerBank(tmp_path / "nowhere")
    with pytest.raises(BankError, match="holds a bank already"):
        LayerBank.create(bank.folder, "tiny", BACKBONE_DIGEST, BACKGROUND)


def test_errors_are_ours():
    assert issubclass(BankError, CasamError)
    assert issubclass(StorageError, CasamError)
