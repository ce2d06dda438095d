"""What was decided: once, on disk, whatever crashes in between, and by nobody's bytes but the site's own."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator import decisions as module
from aggregator import kept_neighbours, records
from aggregator import ledger as ledgers
from aggregator.decisions import Decisions
from aggregator.kept_neighbours import neighbours_of
from aggregator.sites import revoke, rotate
from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.dsse import read_envelope, seal
from casam_fed.audit.event_log import events_of
from casam_fed.bank import layer_bank as banks
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.canonical import canonical_json
from casam_fed.errors import BankError, CasamError, StorageError
from casam_fed.host import files as files_of_ours
from casam_fed.host.files import sha256_bytes, sha256_file
from casam_fed.routing.overlap import measure_overlap
from casam_fed.wire.exchange import decode_json, encode_json

from ..casam_fed.routing.slow_overlap import slow_overlap
from .small_sites import PROBES, SmallSite, small_release, small_request


@pytest.fixture
def decisions(small_home):
    return Decisions(small_home)


def decide(decisions, site, data=None, envelope=None):
    """Let a site's release, or other bytes in its place, be decided."""
    data = site.data if data is None else data
    return decisions.decide(data, site.signed(data) if envelope is None else envelope, site.name)


def bank_of(decisions) -> LayerBank:
    return LayerBank(decisions.home.bank)


def claiming(home, name: str = "greedy", task: str = "") -> SmallSite:
    """An enrolled site whose router claims images of no task, and those of `north` besides."""
    site = SmallSite(name, home, 0.0, task)
    site.data = small_release(name, site.task, 0.0, greedy=True)
    return site


@pytest.fixture
def waiting(decisions, north):
    """A site whose release is in quarantine, because `north` is in the bank."""
    decide(decisions, north)
    site = claiming(decisions.home)
    assert decide(decisions, site).outcome == "quarantined"
    return site


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestDecide:
    def test_an_honest_release_is_admitted_and_why_is_on_record(self, decisions, north):
        receipt = decide(decisions, north)
        assert (receipt.digest, receipt.outcome, receipt.sequence, receipt.code) == (
            north.digest,
            "admitted",
            0,
            "A001",
        )
        (entry,) = bank_of(decisions).entries()
        assert (entry.site, entry.task, entry.digest) == ("north", "north", north.digest)
        (record,) = decisions.records()
        assert (record.site, record.task, record.digest, record.sequence) == ("north", "north", north.digest, 0)
        assert record.statement.encode() == north.signed()
        assert json.loads(record.overlap)["candidate"] == "north"
        assert record.receipt == receipt

    def test_a_receipt_travels_unchanged(self, decisions, north, waiting):
        for receipt in (decide(decisions, north), decide(decisions, waiting)):
            assert decode_json(type(receipt), encode_json(receipt), "the aggregator") == receipt

    def test_a_refused_release_is_nowhere_but_on_record(self, decisions, north):
        before = bank_of(decisions).snapshot().digest
        receipt = decide(decisions, north, b"not a release")
        assert (receipt.outcome, receipt.code) == ("refused", "R116")
        assert bank_of(decisions).snapshot().digest == before
        assert not decisions.home.quarantine.exists()
        (record,) = decisions.records()
        assert (record.digest, record.code) == (sha256_bytes(b"not a release"), "R116")

    def test_what_is_not_even_signed_is_on_record_without_its_text(self, decisions, north):
        assert decide(decisions, north, envelope=b"\x1b[2J\xff").code == "R103"
        (record,) = decisions.records()
        assert (record.task, record.statement) == ("", "")

    def test_a_refused_release_may_be_offered_again(self, decisions, north):
        assert decide(decisions, north, envelope=north.signed(app="d" * 64)).code == "R112"
        assert not decisions.is_decided(north.digest, "north")
        assert decide(decisions, north).code == "A001"
        (record,) = decisions.records()
        assert record.outcome == "admitted"

    def test_too_few_images_by_the_settings_are_refused(self, small_home, north):
        settings = small_home.path / "aggregator.yaml"
        settings.write_text(settings.read_text().replace("minimum_images: 10", "minimum_images: 21"))
        assert decide(Decisions(type(small_home)(small_home.path)), north).code == "R119"

    def test_the_newest_of_an_outbox_is_what_a_site_is_told_of(self, decisions, north):
        assert decisions.receipt((), "north") is None
        assert decisions.receipt((north.digest,), "north") is None
        receipt = decide(decisions, north)
        assert decisions.receipt(("0" * 64, north.digest), "north") == receipt
        assert decisions.receipt((north.digest, "0" * 64), "north") is None
        assert decisions.receipt((north.digest,), "south") is None


class TestOnce:
    def test_the_same_release_again_gives_the_same_receipt_and_no_second_entry(self, decisions, north):
        first = decide(decisions, north)
        before = files(decisions.home.path)
        assert decisions.is_decided(north.digest, "north")
        assert decide(decisions, north) == first
        assert files(decisions.home.path) == before

    def test_nothing_that_comes_with_an_admitted_release_later_changes_its_record(self, decisions, north):
        """Otherwise a site could make `bank verify` fail, or the reason for its admission vanish."""
        first = decide(decisions, north)
        before = files(decisions.home.path)
        for envelope in (b"garbage", north.signed(app="d" * 64), north.signed(federation="elsewhere")):
            assert decide(decisions, north, envelope=envelope) == first
        assert files(decisions.home.path) == before

    def test_nothing_that_comes_with_a_release_in_quarantine_takes_it_out(self, decisions, waiting):
        before = files(decisions.home.path)
        assert decide(decisions, waiting, envelope=b"garbage").outcome == "quarantined"
        assert files(decisions.home.path) == before

    def test_a_crash_between_bank_and_record_gives_the_same_entry_and_one_record(self, decisions, north, monkeypatch):
        class Killed(BaseException):
            pass

        def killed(home, record):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_record", killed)
            with pytest.raises(Killed):
                decide(decisions, north)
        assert decisions.records() == []
        (entry,) = bank_of(decisions).entries()
        assert not decisions.is_decided(north.digest, "north")
        receipt = decide(decisions, north)
        assert (receipt.outcome, receipt.code, receipt.sequence) == ("admitted", "A002", entry.sequence)
        assert bank_of(decisions).entries() == [entry]
        assert len(decisions.records()) == 1

    def test_a_crash_before_the_record_of_a_quarantine_is_made_good(self, decisions, waiting):
        shutil.rmtree(decisions.home.admissions / waiting.name)
        assert decide(decisions, waiting).outcome == "quarantined"
        assert len(files(decisions.home.quarantine)) == 1

    def test_what_two_deliveries_decide_at_once_is_decided_one_after_the_other(self, decisions, monkeypatch):
        """Each was examined before the other was admitted: without a lock the bank itself would have to refuse one."""
        sites = [
            SmallSite(name, decisions.home, place, "Heart" if name == "south" else "heart")
            for name, place in (("north", 0.0), ("south", 8.0))
        ]
        examine = module.examine

        def slow(*arguments):
            found = examine(*arguments)
            time.sleep(0.2)
            return found

        monkeypatch.setattr(module, "examine", slow)
        with ThreadPoolExecutor() as pool:
            receipts = list(pool.map(lambda site: decide(Decisions(decisions.home), site), sites))
        assert sorted(receipt.code for receipt in receipts) == ["A001", "R122"]
        assert len(bank_of(decisions).entries()) == 1


class TestFullDisk:
    @pytest.mark.parametrize("where", ["bank", "admissions", "quarantine"])
    def test_nothing_is_decided_and_it_works_once_there_is_space(self, decisions, north, monkeypatch, where):
        if where == "quarantine":
            decide(decisions, north)
        site = claiming(decisions.home) if where == "quarantine" else north
        folder = str(getattr(decisions.home, where))
        real = files_of_ours.write_atomically

        def full(path, data, **how):
            if str(path).startswith(folder):
                raise StorageError(f"cannot write {path}: no space left on device; free space")
            real(path, data, **how)

        before = len(decisions.records())
        with monkeypatch.context() as patch:
            patch.setattr(banks, "write_atomically", full)
            patch.setattr(module, "write_atomically", full)
            patch.setattr(records, "write_atomically", full)
            with pytest.raises(StorageError, match="no space left on device"):
                decide(decisions, site)
        assert not decisions.is_decided(site.digest, site.name)
        assert decisions.receipt((site.digest,), site.name) is None
        assert len(decisions.records()) == before
        assert decide(decisions, site).outcome == ("quarantined" if where == "quarantine" else "admitted")


class TestQuarantine:
    def test_it_keeps_the_very_bytes_and_what_the_router_takes(self, decisions, waiting):
        record = decisions.record(waiting.name, waiting.digest)
        assert (record.code, record.sequence, record.accepted) == ("Q201", None, "")
        assert "takes" in record.reason
        assert json.loads(record.overlap)["candidate"] == "greedy"
        path = decisions.home.quarantine / "greedy" / f"{waiting.digest}.safetensors"
        assert path.read_bytes() == waiting.data
        assert [entry.site for entry in bank_of(decisions).entries()] == ["north"]

    def test_a_person_accepts_it_and_the_site_is_told(self, decisions, waiting):
        record = decisions.accept("greedy")
        assert (record.outcome, record.sequence) == ("admitted", 1)
        assert record.accepted
        assert bank_of(decisions).load("greedy").data == waiting.data
        assert decisions.receipt((waiting.digest,), "greedy").outcome == "admitted"
        assert files(decisions.home.quarantine) == {}
        assert decisions.record("greedy", waiting.digest) == record
        with pytest.raises(BankError, match="no release of task greedy is in quarantine"):
            decisions.accept("greedy")

    def test_its_overlap_table_stays_on_record(self, decisions, waiting):
        before = decisions.record("greedy", waiting.digest)
        after = decisions.accept("greedy")
        assert (after.overlap, after.statement, after.code) == (before.overlap, before.statement, "Q201")

    @pytest.mark.parametrize("task", ["north", "nothing", "", "../greedy"])
    def test_only_what_waits_can_be_accepted(self, decisions, waiting, task):
        with pytest.raises(BankError, match="is in quarantine"):
            decisions.accept(task)

    def test_a_crash_between_bank_and_record_is_made_good_by_accepting_again(self, decisions, waiting, monkeypatch):
        class Killed(BaseException):
            pass

        def killed(home, record):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(module, "write_record", killed)
            with pytest.raises(Killed):
                decisions.accept("greedy")
        assert decisions.accept("greedy").sequence == 1
        assert len(bank_of(decisions).entries()) == 2

    def test_a_retired_release_does_not_come_back_from_the_quarantine(self, decisions, waiting, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_record", lambda home, record: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                decisions.accept("greedy")
        decisions.retire("greedy", "other")
        with pytest.raises(BankError, match="is entry 1, which was retired"):
            decisions.accept("greedy")
        assert len(bank_of(decisions).snapshot().entries) == 2

    @pytest.mark.parametrize("task", ["greedy", "GREEDY"])
    def test_a_task_that_was_taken_meanwhile_is_not_taken_over(self, decisions, waiting, task):
        other = SmallSite("south", decisions.home, 8.0, task)
        assert decide(decisions, other).outcome == "admitted"
        with pytest.raises(BankError, match=f"task {task} of south has another release in force; retire that first"):
            decisions.accept("greedy")
        assert [entry.site for entry in bank_of(decisions).entries()] == ["north", "south"]

    def test_of_two_sites_with_one_task_a_person_chooses(self, decisions, waiting):
        """Otherwise whoever comes last would be admitted in the other one's place."""
        thief = claiming(decisions.home, "thief", "greedy")
        assert decide(decisions, thief).outcome == "quarantined"
        with pytest.raises(BankError, match="wait from greedy, thief; choose one with --site"):
            decisions.accept("greedy")
        assert decisions.accept("greedy", "greedy").digest == waiting.digest
        assert [entry.site for entry in bank_of(decisions).entries()] == ["north", "greedy"]

    def test_of_two_releases_of_one_site_the_newer_counts(self, decisions, waiting, monkeypatch):
        waiting.data = small_release("greedy", "greedy", 0.0, seed=2, greedy=True)
        monkeypatch.setattr(module, "utc_now", lambda: "2099-01-01T00:00:00Z")
        assert decide(decisions, waiting).outcome == "quarantined"
        assert decisions.accept("greedy").digest == waiting.digest

    def test_a_file_that_is_gone_or_changed_is_not_admitted_and_asked_for_again(self, decisions, waiting):
        path = decisions.home.quarantine / "greedy" / f"{waiting.digest}.safetensors"
        path.write_bytes(small_release("greedy", "greedy", 0.0, seed=3))
        with pytest.raises(BankError, match="is not the release that was quarantined; delete it"):
            decisions.accept("greedy")
        path.unlink()
        with pytest.raises(BankError, match="is missing; greedy is asked for it again"):
            decisions.accept("greedy")
        assert len(bank_of(decisions).entries()) == 1
        assert not decisions.is_decided(waiting.digest, "greedy")
        assert decide(decisions, waiting).outcome == "quarantined"
        assert decisions.accept("greedy").sequence == 1


class TestRetired:
    def test_it_stays_out_and_the_site_is_told_so(self, decisions, north):
        decide(decisions, north)
        decisions.retire("north", "other")
        for receipt in (decide(decisions, north), decisions.receipt((north.digest,), "north")):
            assert (receipt.outcome, receipt.code, receipt.sequence) == ("refused", "R115", None)
        assert bank_of(decisions).entries() == []

    def test_the_record_of_its_admission_stays(self, decisions, north):
        decide(decisions, north)
        before = files(decisions.home.admissions)
        decisions.retire("north", "other")
        decide(decisions, north)
        assert files(decisions.home.admissions) == before

    def test_also_where_its_record_was_lost(self, decisions, north):
        decide(decisions, north)
        decisions.retire("north", "other")
        shutil.rmtree(decisions.home.admissions)
        assert decide(decisions, north).code == "R115"

    def test_a_new_training_is_admitted(self, decisions, north):
        decide(decisions, north)
        decisions.retire("north", "other")
        assert decide(decisions, north, small_release("north", "north", 0.0, seed=4)).sequence == 1


class TestOtherSites:
    def test_who_sends_what_another_one_signed_is_refused_on_its_own_record(self, decisions, north, south):
        decide(decisions, north)
        before = files(decisions.home.admissions / "north")
        assert decisions.decide(north.data, north.signed(), "south").code == "R107"
        assert decisions.decide(north.data, south.signed(north.data), "south").code == "R117"
        assert files(decisions.home.admissions / "north") == before
        assert decisions.receipt((north.digest,), "north").outcome == "admitted"
        told = {(record.site, record.outcome) for record in decisions.records()}
        assert told == {("north", "admitted"), ("south", "refused")}

    def test_who_is_not_enrolled_is_refused(self, decisions, north):
        assert decisions.decide(north.data, north.signed(), "stranger").code == "R104"

    def test_a_key_that_was_rotated_or_revoked_signs_no_more(self, decisions, north, south):
        rotate(decisions.home.sites, small_request("north"))
        assert decide(decisions, north).code == "R106"
        revoke(decisions.home.sites, "south")
        assert decide(decisions, south).code == "R106"
        assert bank_of(decisions).entries() == []

    def test_a_new_key_signs_what_the_old_one_had_signed(self, decisions, north):
        key = Ed25519PrivateKey.generate()
        rotate(decisions.home.sites, small_request("north", key))
        assert decide(decisions, north).code == "R106"
        north.key = key
        assert decide(decisions, north).code == "A001"


class TestDamage:
    """The aggregator's own files: one sentence, and nothing is decided on half of them."""

    @pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[1]"])
    def test_a_damaged_record_is_named(self, decisions, north, data):
        decide(decisions, north)
        path = decisions.home.admissions / "north" / f"{north.digest}.json"
        path.write_bytes(data)
        for look in (decisions.records, lambda: decisions.is_decided(north.digest, "north")):
            with pytest.raises(BankError, match=f"{north.digest}.json is missing or damaged; restore it from a copy"):
                look()

    def test_a_record_of_another_release_or_site_is_damaged(self, decisions, north, south):
        for site in (north, south):
            decide(decisions, site)
        ours = decisions.home.admissions / "north" / f"{north.digest}.json"
        theirs = decisions.home.admissions / "south" / f"{south.digest}.json"
        shutil.copy(theirs, ours)
        with pytest.raises(BankError, match="is missing or damaged"):
            decisions.record("north", north.digest)

    @pytest.mark.parametrize("name", ["probes.safetensors", "app.fab", "audit/bank/checkpoint"])
    def test_a_missing_file_is_one_sentence(self, decisions, north, name):
        envelope = north.signed()
        (decisions.home.path / name).unlink()
        with pytest.raises(CasamError):
            decide(decisions, north, envelope=envelope)
        assert not decisions.home.admissions.exists()

    def test_a_snapshot_that_was_lost_is_made_again_from_the_log(self, decisions, north, south):
        decide(decisions, north)
        path = decisions.home.bank / "bank.json"
        path.unlink()
        assert decide(decisions, south).outcome == "admitted"
        assert [entry.site for entry in bank_of(decisions).entries()] == ["north", "south"]

    def test_what_was_put_into_the_bank_past_the_log_is_taken_out(self, decisions, north, south):
        bank_of(decisions).admit(parse(south.data))
        decide(decisions, north)
        assert [entry.site for entry in bank_of(decisions).entries()] == ["north"]

    def test_damaged_probes_are_one_sentence(self, decisions, north):
        decisions.home.probes.write_bytes(b"rotten")
        with pytest.raises(BankError, match=r"probes.safetensors is missing or damaged"):
            decide(decisions, north)

    def test_a_flipped_bit_in_the_bank_stops_the_decision_that_has_to_read_it(self, decisions, north, south, unread):
        decide(decisions, north)
        path = decisions.home.bank / "objects" / f"{north.digest}.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        shutil.rmtree(decisions.home.kept)
        with pytest.raises(BankError, match="is not what its name says"):
            decide(decisions, south)
        with pytest.raises(BankError, match="is not what its name says"):
            bank_of(decisions).check_whole()


@pytest.fixture
def unread(monkeypatch):
    """Let this process forget the releases that it has loaded, and count those that a bank parses from now on."""
    parsed = []

    def counted(data):
        parsed.append(sha256_bytes(data))
        return parse(data)

    monkeypatch.setattr(banks, "_loaded", banks._Loaded(1 << 20))
    monkeypatch.setattr(banks, "parse", counted)
    return parsed


@pytest.fixture
def read_from(monkeypatch):
    """The places in the bank log from which its events are read."""
    places = []

    def noted(log, public, owner, start=0):
        places.append(start)
        return events_of(log, public, owner, start)

    monkeypatch.setattr(ledgers, "events_of", noted)
    return places


def forged(home, **changes) -> bytes:
    """Return a kept snapshot that says something else, signed all the same."""
    key, path = home.signing_key(), home.kept / "snapshot.json"
    payload = json.loads(read_envelope(path.read_bytes(), "it").payload)
    return seal(ledgers._REACHED, canonical_json(payload | changes).encode(), key)


UNFIT = {
    "nothing": lambda home: b"",
    "rotten": lambda home: (home.kept / "snapshot.json").read_bytes()[:-9],
    "of another key": lambda home: seal(ledgers._REACHED, b"{}", Ed25519PrivateKey.generate()),
    "of another kind": lambda home: seal(RECEIPT, b"{}", home.signing_key()),
    "of another log": lambda home: forged(home, log="casam-fed/bank/south/" + "0" * 12),
    "of another history": lambda home: forged(home, root="0" * 64),
    "of a longer log": lambda home: forged(home, size=99),
    "no snapshot": lambda home: forged(home, snapshot="{}"),
}


class TestKept:
    """What log and bank lead to is kept, so that neither is read again, and believed only where it fits them."""

    def test_a_decision_reads_no_release_of_the_bank_and_only_the_events_since_the_last(
        self, decisions, north, south, west, unread, read_from
    ):
        decide(decisions, north)
        decide(decisions, south)
        size = decisions.ledger.log().size
        assert decide(decisions, west).outcome == "admitted"
        assert (read_from, unread) == ([0, size - 2, size - 1], [])

    def test_where_nothing_has_happened_since_no_event_is_read(self, decisions, north, read_from):
        decide(decisions, north)
        bank, size = decisions.bank_now()
        del read_from[:]
        again, same = decisions.bank_now()
        assert (again.snapshot(), same, read_from) == (bank.snapshot(), size, [])

    @pytest.mark.parametrize("kind", UNFIT)
    def test_a_snapshot_that_does_not_fit_the_log_is_made_anew(self, decisions, north, south, read_from, kind):
        decide(decisions, north)
        decisions.bank_now()
        path = decisions.home.kept / "snapshot.json"
        whole = path.read_bytes()
        path.write_bytes(UNFIT[kind](decisions.home))
        del read_from[:]
        bank, _ = decisions.bank_now()
        assert (bank.snapshot(), read_from, path.read_bytes()) == (decisions.ledger.snapshot(), [0, 0], whole)
        assert decide(decisions, south).sequence == 1

    def test_a_snapshot_is_not_believed_of_a_log_that_was_set_back(self, decisions, north, south):
        """An older copy of folder and log was restored, but what was kept is newer."""
        decide(decisions, north)
        before = decisions.home.path.parent / "before"
        shutil.copytree(decisions.home.audit, before)
        decide(decisions, south)
        decisions.bank_now()
        shutil.rmtree(decisions.home.audit)
        before.rename(decisions.home.audit)
        bank, _ = decisions.bank_now()
        assert [entry.site for entry in bank.entries()] == ["north"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda path: path.unlink(),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(b"\x80\x04N."),
            lambda path: path.rename(path.with_name(f"neighbours-{'0' * 64}.safetensors")),
            lambda path: path.write_bytes(bytes(8 << 20)),
        ],
        ids=["missing", "cut", "pickle", "renamed", "too large"],
    )
    def test_neighbours_that_are_missing_or_damaged_are_made_anew_and_say_the_same(
        self, decisions, north, south, west, unread, change
    ):
        decide(decisions, north)
        decide(decisions, south)
        (path,) = decisions.home.kept.glob("neighbours-*")
        change(path)
        known = neighbours_of(bank_of(decisions), decisions.home.kept)
        assert sorted(unread) == sorted([north.digest, south.digest])
        (path,) = decisions.home.kept.glob("neighbours-*")
        assert path.name == f"neighbours-{sha256_file(path)}.safetensors"
        assert slow_table(bank_of(decisions), west) == measure_overlap(meeting(known, west), PROBES).to_json()

    def test_after_each_change_of_the_bank_a_table_is_what_all_would_give_anew(self, decisions, north, south, west):
        """Admitted by rule, then by a person, then retired, then admitted again."""
        for site in (north, south):
            table = slow_table(bank_of(decisions), site)
            assert decide(decisions, site).outcome == "admitted"
            assert decisions.record(site.name, site.digest).overlap == table
        waits = claiming(decisions.home)
        table = slow_table(bank_of(decisions), waits)
        assert decide(decisions, waits).outcome == "quarantined"
        assert decisions.record("greedy", waits.digest).overlap == table
        decisions.accept("greedy")
        known = neighbours_of(bank_of(decisions), decisions.home.kept)
        assert known.tasks == ("north", "south", "greedy")
        decisions.retire("north", "other")
        table = slow_table(bank_of(decisions), west)
        decide(decisions, west)
        assert decisions.record("west", west.digest).overlap == table

    def test_neighbours_of_other_entries_are_not_believed_although_they_are_as_many(self, decisions, north, south):
        """As an older copy of the folder would bring them back."""
        for site in (north, south):
            decide(decisions, site)
        (path,) = decisions.home.kept.glob("neighbours-*")
        older = path.read_bytes()
        decisions.retire("north", "other")
        decide(decisions, north, small_release("north", "north", 3.0, seed=4))
        shutil.rmtree(decisions.home.kept)
        decisions.home.kept.mkdir()
        path.write_bytes(older)
        bank = bank_of(decisions)
        assert [entry.task for entry in bank.entries()] == ["south", "north"]
        known, greedy = neighbours_of(bank, decisions.home.kept), claiming(decisions.home)
        assert slow_table(bank, greedy) == measure_overlap(meeting(known, greedy), PROBES).to_json()

    def test_after_a_person_has_accepted_only_the_new_entry_is_read(self, decisions, north, waiting, unread):
        decisions.accept("greedy")
        del unread[:]
        neighbours_of(bank_of(decisions), decisions.home.kept)
        assert unread == [waiting.digest]

    def test_a_disk_that_has_no_room_for_it_costs_time_only(self, decisions, north, south, monkeypatch):
        def full(path, data, **how):
            raise StorageError(f"cannot write {path}: no space left on device; free space")

        monkeypatch.setattr(ledgers, "write_atomically", full)
        monkeypatch.setattr(kept_neighbours, "write_atomically", full)
        assert [decide(decisions, site).outcome for site in (north, south)] == ["admitted", "admitted"]
        assert not decisions.home.kept.exists()


def meeting(known, site):
    release = parse(site.data)
    return known.meet(release.card.task, release.router)


def slow_table(bank, site) -> str:
    release = parse(site.data)
    routers = {entry.task: bank.load(entry.task).router for entry in bank.entries()}
    return slow_overlap(release.card.task, release.router, routers, bank.background, PROBES).to_json()
