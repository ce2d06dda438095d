"""The bank: content-addressed, atomic, the same everywhere, and never serving what it cannot vouch for."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from casam_fed.bank import LayerBank, Snapshot
from casam_fed.errors import BankError, CasamError, ReleaseError, StorageError
from casam_fed.release import parse

from .releases import BACKBONE_DIGEST, BACKGROUND, release_bytes

RELEASES = {task: parse(release_bytes(task, seed)) for seed, task in enumerate(("polyp", "spleen", "teeth"))}


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


def test_every_load_checks_the_digest(bank):
    entry = bank.admit(RELEASES["polyp"])
    bank.load("polyp")
    path = bank.folder / "objects" / f"{entry.digest}.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(BankError, match=r"changed or damaged; delete it and sync"):
        bank.load("polyp")
    path.unlink()
    with pytest.raises(BankError, match="is missing from the bank"):
        bank.load("polyp")


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


def test_no_bank_and_a_second_bank_are_refused(bank, tmp_path):
    with pytest.raises(BankError, match="there is no bank"):
        LayerBank(tmp_path / "nowhere")
    with pytest.raises(BankError, match="holds a bank already"):
        LayerBank.create(bank.folder, "tiny", BACKBONE_DIGEST, BACKGROUND)


@pytest.mark.parametrize("change", ["admit", "retire"], ids=["release does not fit", "snapshot does not fit"])
def test_a_full_disk_leaves_the_bank_as_it_was(bank, tmp_path, change):
    """The real error of a real write: the process may write no file beyond 100 bytes."""
    bank.admit(RELEASES["polyp"])
    (tmp_path / "release").write_bytes(RELEASES["spleen"].data)
    before = _files(bank.folder)
    script = textwrap.dedent(f"""
        import resource, signal, sys
        from pathlib import Path
        from casam_fed.bank import LayerBank
        from casam_fed.errors import StorageError
        from casam_fed.release import parse

        bank = LayerBank(Path({str(bank.folder)!r}))
        release = parse(Path({str(tmp_path / "release")!r}).read_bytes())
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            bank.admit(release) if {change == "admit"} else bank.retire("polyp")
        except StorageError as error:
            print(error)
            sys.exit(1)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "file too large; free space or choose a folder" in done.stdout
    assert _files(bank.folder) == before
    LayerBank(bank.folder).admit(RELEASES["spleen"])


def test_a_process_killed_while_admitting_leaves_a_bank_that_opens(tmp_path):
    script = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from casam_fed.bank import LayerBank
        from casam_fed.release import parse
        from releases import BACKBONE_DIGEST, BACKGROUND, release_bytes

        bank = LayerBank.create(Path({str(tmp_path / "bank")!r}), "tiny", BACKBONE_DIGEST, BACKGROUND)
        release = parse(release_bytes())
        print("ready", flush=True)
        while True:
            bank.admit(release)
            bank.retire("polyp")
    """)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.4)
        process.send_signal(signal.SIGKILL)
    bank = LayerBank(tmp_path / "bank")
    assert len(bank.snapshot().entries) > 0
    for entry in bank.entries():
        bank.load(entry.task)
    if not bank.entries():
        bank.admit(RELEASES["polyp"])
    assert bank.load("polyp").data == RELEASES["polyp"].data


def test_a_reader_never_sees_a_bank_that_is_being_changed_as_damaged(bank):
    """One process changes the bank while this one opens it again and again."""
    (bank.folder.parent / "release").write_bytes(RELEASES["polyp"].data)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from casam_fed.bank import LayerBank
        from casam_fed.release import parse

        bank = LayerBank(Path({str(bank.folder)!r}))
        release = parse(Path({str(bank.folder.parent / "release")!r}).read_bytes())
        for _ in range(30):
            bank.admit(release)
            bank.retire("polyp")
    """)
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while process.poll() is None:
            LayerBank(bank.folder)
    assert process.returncode == 0
    assert len(LayerBank(bank.folder).snapshot().entries) == 30


def test_errors_are_ours():
    assert issubclass(BankError, CasamError)
    assert issubclass(StorageError, CasamError)
