"""Deliveries to and from real deployed sites, and what those cost that misbehave: only themselves."""

import dataclasses
import json
import shutil

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator import delivery, ledger
from aggregator.decisions import Decisions
from aggregator.delivery import deliver, evaluate
from aggregator.enrolment import welcome_of
from aggregator.home import Home
from aggregator.ledger import Ledger
from aggregator.sites import enrol, revoke, rotate
from aggregator.witness import SiteWitness
from casam_fed.audit.note import Checkpoint, sign_checkpoint
from casam_fed.bank import layer_bank as bank
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import BankError, StorageError
from casam_fed.host.files import write_atomically
from casam_fed.inference.segmenter import Segmenter
from casam_fed.wire.enrolment import open_request, welcome_json
from casam_fed.wire.exchange import LOG, Hello, Logs, StageReport, Submission, decode_json
from site_client.answering import AnsweringSite
from site_client.home import SiteHome, renew_keys
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog

from .deployed import grid_of, new_home, new_site
from .small_sites import OwnLog, small_request

MODALITIES = {"north": "endoscopy", "south": "stained_tissue", "west": "breast_ultrasound"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An aggregator with three enrolled sites whose releases may leave, and that none has delivered."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder / "cache"))
        home = new_home(folder / "aggregator")
        for name, modality in MODALITIES.items():
            new_site(home, folder / name, modality)
        yield folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of all their folders for one test."""
    for name in ("aggregator", *MODALITIES):
        shutil.copytree(made / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def home(copy):
    return Home(copy / "aggregator")


@pytest.fixture
def sites(copy):
    return {name: SiteHome(copy / name) for name in MODALITIES}


def delivered(home, *sites, said=None):
    """Run one delivery with the sites in their order and return its results."""
    names = [site.settings.name if isinstance(site, SiteHome) else site.name for site in sites]
    nodes = {name: number for number, name in enumerate(names, start=1)}
    return deliver(grid_of(*sites), home, nodes, [].append if said is None else said.append)


def bank_at(site) -> str:
    return read_snapshot(site.seeded / "bank").digest


class TestGoodSites:
    def test_each_has_one_entry_and_all_hold_the_bank(self, home, sites):
        results = delivered(home, *sites.values())
        snapshot = read_snapshot(home.bank)
        assert [entry.site for entry in snapshot.active] == list(MODALITIES)
        assert {result.error for result in results.values()} == {""}
        assert {result.bank for result in results.values()} == {snapshot.digest}
        assert {bank_at(site) for site in sites.values()} == {snapshot.digest}

    def test_each_is_told_the_decision_about_its_own_release(self, home, sites):
        delivered(home, *sites.values())
        for name, site in sites.items():
            outbox = Outbox(site)
            receipt = outbox.receipt(outbox.newest().digest)
            assert (receipt.outcome, receipt.code) == ("admitted", "A001")
            assert read_snapshot(home.bank).entries[receipt.sequence].site == name

    def test_a_second_delivery_moves_nothing(self, home, sites):
        delivered(home, *sites.values())
        before = read_snapshot(home.bank).digest
        results = delivered(home, *sites.values())
        assert {result.bytes_up for result in results.values()} == {0}
        assert max(result.bytes_down for result in results.values()) < 5000
        assert read_snapshot(home.bank).digest == before

    def test_what_a_site_lacks_comes_in_portions(self, home, sites, monkeypatch):
        delivered(home, sites["north"], sites["south"])
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)
        grid = grid_of(sites["west"])
        result = deliver(grid, home, {"west": 1}, lambda text: None)["west"]
        sent = [list(message.content.get("arrays") or {}) for message in grid.sent]
        assert result.bank == read_snapshot(home.bank).digest == bank_at(sites["west"])
        # The background and three releases.
        objects = [[name for name in names if name != LOG] for names in sent]
        assert sorted(map(len, objects))[-4:] == [1, 1, 1, 1]
        assert len({digest for digests in objects for digest in digests}) == 4

    def test_what_a_site_lacks_of_the_log_comes_in_portions_before_any_object(self, home, sites, monkeypatch):
        delivered(home, sites["north"], sites["south"])
        monkeypatch.setattr(ledger, "_TAIL_BYTES", 1)
        grid = grid_of(sites["west"])
        result = deliver(grid, home, {"west": 1}, lambda text: None)["west"]
        sent = [list(message.content.get("arrays") or {}) for message in grid.sent]
        entries = Ledger(home).log().size
        assert [names for names in sent if names][: entries - 1] == [[LOG]] * (entries - 1)
        assert result.bank == read_snapshot(home.bank).digest == bank_at(sites["west"])

    def test_both_logs_are_cosigned_and_tell_of_the_delivery(self, home, sites):
        delivered(home, sites["north"])
        evaluate(grid_of(sites["north"]), home, {"north": 1}, lambda text: None)
        site = sites["north"]
        log, bank_log = ReleaseLog(site).log(), Ledger(home).log()
        events = list(ReleaseLog(site).events())
        receipt = next(event.sequence for event in events if event.event == "receipt")
        assert log.witnessed("bank").checkpoint.size > receipt
        assert bank_log.witnessed("north").checkpoint == bank_log.checkpoint
        decided = list(Ledger(home).events())[events[receipt].facts["decision"]]
        assert (decided.event, decided.subjects["release"]) == ("admitted", events[receipt].subjects["release"])
        approved = next(event for event in events if event.event == "approved")
        assert approved.subjects["statement"] == decided.subjects["statement"]

    def test_a_bank_cut_off_after_its_log_is_brought_in_line(self, home, sites, monkeypatch):
        def crashing(path, data, **options):
            if path.name == "bank.json":
                raise StorageError("cannot write: no space left on device; free space")
            write_atomically(path, data, **options)

        with monkeypatch.context() as patch:
            patch.setattr(bank, "write_atomically", crashing)
            with pytest.raises(StorageError):
                delivered(home, sites["north"])
        assert (read_snapshot(home.bank).entries, len(Ledger(home).snapshot().entries)) == ((), 1)
        assert delivered(home, sites["north"])["north"].admitted
        assert read_snapshot(home.bank) == Ledger(home).snapshot()
        assert [event.event for event in Ledger(home).events()].count("admitted") == 1

    def test_a_crash_between_bank_and_record_gives_the_entry_that_is_there(self, home, sites):
        first = delivered(home, sites["north"])["north"]
        shutil.rmtree(home.admissions)
        shutil.rmtree(sites["north"].seeded / "receipts")
        again = delivered(home, sites["north"])["north"]
        assert again.admitted == first.admitted
        assert len(read_snapshot(home.bank).entries) == 1
        (record,) = Decisions(home).records()
        assert (record.code, record.sequence) == ("A002", 0)

    def test_a_full_disk_decides_nothing_and_the_next_delivery_does(self, home, sites, monkeypatch):
        def full(self, release, record):
            raise StorageError("cannot write: no space left on device; free space")

        with monkeypatch.context() as patch:
            patch.setattr(LayerBank, "admit", full)
            with pytest.raises(StorageError):
                delivered(home, sites["north"])
        assert Decisions(home).records() == []
        assert Outbox(sites["north"]).undecided()
        assert delivered(home, sites["north"])["north"].error == ""
        assert len(read_snapshot(home.bank).active) == 1

    def test_scores_are_kept_by_bank_and_site(self, home, sites):
        delivered(home, *sites.values())
        nodes = {name: number for number, name in enumerate(sites, start=1)}
        results = evaluate(grid_of(*sites.values()), home, nodes, lambda text: None)
        digest = read_snapshot(home.bank).digest
        assert {result.bank for result in results.values()} == {digest}
        for name in sites:
            report = decode_json(StageReport, (home.reports / digest / f"{name}.json").read_text(), "a test")
            assert report.gaussian.images == 10
            assert report.gaussian.strengths == ()

    def test_scores_of_a_bank_that_has_changed_meanwhile_are_not_kept(self, home, sites):
        delivered(home, sites["north"])
        held = read_snapshot(home.bank).digest
        delivered(home, sites["south"])
        results = evaluate(grid_of(sites["north"]), home, {"north": 1}, lambda text: None, bank=held)
        assert (results["north"].bank, results["north"].error) == ("", "")
        assert not list(home.reports.rglob("*.json"))


class Bad:
    """A site of a name that answers a hello as asked and fails, or lies, as its subclass says."""

    name = "bad"

    def __init__(self, good: SiteHome, home: Home) -> None:
        key = Ed25519PrivateKey.generate()
        enrol(home.sites, small_request(self.name, key))
        self.log = OwnLog(self.name, key, home)
        self.outbox = Outbox(good)
        self.digest = self.outbox.newest().digest
        self.backbone = good.welcome().backbone_digest

    def hear(self, logs, tail):
        self.log.hear(logs, tail)

    def hello(self, logs):
        shown = self.log.shown(logs)
        return Hello(self.name, self.name, self.backbone, "c" * 64, {}, (), (self.digest,), shown)

    def release(self):
        return self.outbox.approved(self.digest)

    def receive(self, receipt, envelope):
        self.receipt = receipt

    def sync(self, objects, logs):
        raise RuntimeError("a text that must not travel")

    evaluate = None


class Liar(Bad):
    def hello(self, logs):
        return dataclasses.replace(super().hello(logs), site="north")


class OtherBackbone(Bad):
    def hello(self, logs):
        return dataclasses.replace(super().hello(logs), backbone_digest="d" * 64)


class Silent(Bad):
    def release(self):
        raise RuntimeError("a text that must not travel")


class Garbage(Bad):
    def release(self):
        return b"\x80\x04 no release", Submission(self.digest, {}, "no statement")


class Thief(Bad):
    """Sends what another site has signed."""


class NoLog(Bad):
    def hello(self, logs):
        return dataclasses.replace(super().hello(logs), logs=None)


class ForeignLog(Bad):
    """Shows a checkpoint that another key has signed."""

    def hello(self, logs):
        stolen = sign_checkpoint(Checkpoint(self.log.origin, 3, bytes(32)), Ed25519PrivateKey.generate())
        return dataclasses.replace(super().hello(logs), logs=Logs(stolen.data.decode()))


class Forker(Bad):
    """Shows another log than before."""

    def hello(self, logs):
        shown = super().hello(logs)
        forked = sign_checkpoint(Checkpoint(self.log.origin, 9, bytes(32)), self.log.key)
        return dataclasses.replace(shown, logs=Logs(forked.data.decode()) if logs and logs.size else shown.logs)


@pytest.mark.parametrize(
    ("kind", "words", "code"),
    [
        (Liar, "uses another name", ""),
        (OtherBackbone, "another backbone", ""),
        (Silent, "RuntimeError", ""),
        (Garbage, "", "R103"),
        (Thief, "", "R107"),
        (NoLog, "shows no release log", ""),
        (ForeignLog, "bears no signature", ""),
    ],
)
def test_a_bad_site_costs_only_itself(home, sites, kind, words, code):
    said: list[str] = []
    results = delivered(home, sites["north"], kind(sites["west"], home), sites["south"], said=said)
    assert results["north"].error == results["south"].error == ""
    assert [entry.site for entry in read_snapshot(home.bank).active] == ["north", "south"]
    assert results["bad"].error
    assert words in "".join(said)
    assert "must not travel" not in "".join(said)
    assert [record.code for record in Decisions(home).records() if record.site == "bad"] == ([code] if code else [])


def test_a_revoked_key_no_longer_signs(home, sites):
    revoke(home.sites, "north")
    results = delivered(home, sites["north"])
    assert "no key in force" in results["north"].error
    assert Outbox(sites["north"]).undecided()
    assert read_snapshot(home.bank).entries == ()


def test_a_site_that_has_changed_its_keys_is_served_and_begins_a_log(home, sites):
    site = sites["north"]
    delivered(home, site)
    evaluate(grid_of(site), home, {"north": 1}, lambda text: None)
    renew_keys(site)
    request = open_request(site.request.read_bytes())
    rotate(home.sites, request)
    Ledger(home).note_keys()
    (site.path / "WELCOME.json").write_bytes(welcome_json(welcome_of(home, request)))
    again = delivered(home, SiteHome(site.path), sites["south"])
    assert (again["north"].error, again["south"].error) == ("", "")
    evaluate(grid_of(site), home, {"north": 1}, lambda text: None)
    assert bank_at(site) == read_snapshot(home.bank).digest
    assert Ledger(home).log().witnessed("north").checkpoint.size == Ledger(home).log().size
    assert ReleaseLog(site).log().witnessed("bank") is not None


def test_a_site_whose_log_forks_is_not_served_again(home, sites):
    forker = Forker(sites["west"], home)
    assert "must not travel" not in delivered(home, forker)["bad"].error
    again = delivered(home, sites["north"], forker)
    assert again["north"].error == ""
    assert "does not continue the one that was cosigned" in again["bad"].error
    assert SiteWitness(home).shown("bad").size < 9


def test_one_site_cannot_write_into_another_ones_record(home, sites):
    delivered(home, sites["west"])
    before = {path: path.read_bytes() for path in home.admissions.rglob("*.json")}
    delivered(home, Thief(sites["west"], home))
    assert {path: path.read_bytes() for path in before} == before


def test_a_release_that_is_retired_stays_out(home, sites):
    delivered(home, sites["north"])
    Decisions(home).retire("north", "other")
    shutil.rmtree(sites["north"].seeded / "receipts")
    shutil.rmtree(home.admissions)
    delivered(home, sites["north"])
    outbox = Outbox(sites["north"])
    assert outbox.receipt(outbox.newest().digest).code == "R115"
    assert read_snapshot(home.bank).active == []


def routed(site: SiteHome, way: str) -> tuple[dict[str, torch.Tensor], dict[str, tuple[str | None, bytes]]]:
    """The scores of a site's test images by task, and by image the task it is sent to and its masks, under its bank."""
    evaluator = AnsweringSite(site).work.evaluator()
    held = LayerBank(site.bank)
    segmenter = Segmenter(evaluator.store.backbone, held, way)
    masks = {}
    for image, route in zip(evaluator.data.images, segmenter.route(evaluator.features), strict=True):
        _, boxes = evaluator.truth(image)
        embedding = evaluator.store.load([image.key])[0]
        masks[image.record.id] = (route.task, segmenter.masks(embedding, image.frame, boxes, route.task).tobytes())
    return dict(zip(segmenter.tasks, segmenter.scores(evaluator.features).T, strict=True)), masks


def test_a_withdrawal_is_exact(home, sites, tmp_path):
    """What was withdrawn is gone everywhere; nothing else, in the bank or in any mask, differs by one bit."""
    delivered(home, *sites.values())
    gone = next(entry for entry in read_snapshot(home.bank).active if entry.task == "south")
    files = {path.name: path.read_bytes() for path in (home.bank / "objects").iterdir()}
    before = {(name, way): routed(site, way) for name, site in sites.items() for way in ("gaussian", "vae")}
    assert {task for _, masks in before.values() for task, _ in masks.values()} >= set(MODALITIES)

    Decisions(home).retire("south", "consent-withdrawn")
    delivered(home, *sites.values())
    del files[f"{gone.digest}.safetensors"]
    for folder in (home.bank, *(site.bank for site in sites.values())):
        assert {path.name: path.read_bytes() for path in (folder / "objects").iterdir()} == files
    for (name, way), (scores, masks) in before.items():
        now, after = routed(sites[name], way)
        assert "south" not in now
        assert all(torch.equal(now[task], scores[task]) for task in now)
        for image, (task, mask) in masks.items():
            assert after[image] == (task, mask) or task == "south"
    assert [event.facts["reason"] for event in Ledger(home).events() if event.event == "retired"] == [
        "consent-withdrawn"
    ]


def test_a_quarantined_release_waits_for_a_person_and_is_not_sent_twice(made, home, tmp_path):
    # Twelve slices with unlucky folds: a threshold under which half of all noise images fall.
    loose = new_site(home, tmp_path / "loose", "abdominal_ct", seed=1)
    assert delivered(home, loose)["loose"].bytes_up > 0
    outbox = Outbox(loose)
    digest = outbox.newest().digest
    assert outbox.receipt(digest).code == "Q201"
    assert read_snapshot(home.bank).entries == ()
    assert parse((home.quarantine / "loose" / f"{digest}.safetensors").read_bytes()).digest == digest
    assert delivered(home, loose)["loose"].bytes_up == 0
    record = Decisions(home).accept("loose")
    assert json.loads((home.admissions / "loose" / f"{digest}.json").read_text())["accepted"] == record.accepted != ""
    assert not (home.quarantine / "loose" / f"{digest}.safetensors").exists()
    delivered(home, loose)
    assert outbox.receipt(digest).outcome == "admitted"
    assert bank_at(loose) == read_snapshot(home.bank).digest
    with pytest.raises(BankError, match="no release of task loose is in quarantine"):
        Decisions(home).accept("loose")
