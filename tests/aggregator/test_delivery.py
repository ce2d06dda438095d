"""One delivery through the real handlers: honest sites are served, whatever others do, and nothing goes twice."""

import dataclasses
import functools
import time
from collections.abc import Callable

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from aggregator import decisions, delivery
from aggregator.admission import AdmissionLimits
from aggregator.decisions import Decisions
from aggregator.delivery import Timing, deliver, evaluate, plain
from aggregator.sites import enrol, revoke
from casam_fed.backbone.backbones import backbone_card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import pack, parse
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import BankError, StorageError, WithheldError
from casam_fed.host.files import sha256_bytes, write_atomically
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.routing.overlap import OverlapLimits
from casam_fed.routing.state import RouterOptions, fit_routers
from casam_fed.wire.enrolment import open_request, welcome_json
from casam_fed.wire.exchange import (
    EVALUATE_STAGE,
    HELLO,
    LOG,
    SUBMIT,
    SYNC,
    Hello,
    Request,
    StageReport,
    Submission,
    Synced,
    decode_json,
    encode_json,
    wrap_bytes,
)
from site_client.client_app import make_client_app
from site_client.home import SiteHome, create_site_home
from site_client.outbox import Outbox

from ..casam_fed.bank.releases import card
from ..loopback import LoopbackGrid
from .deployed import grid_of
from .small_sites import SmallSite, small_release, small_report

Answer = Callable[[Message], Message]
_TIMING = Timing()
Answers = dict[str, tuple[str, Answer]]


class Grid(LoopbackGrid):
    """Sites by their number, some of whose answers are replaced, and some never come."""

    def __init__(self, *sites: SmallSite, silent: tuple[str, str] = ("", ""), answers: Answers | None = None) -> None:
        super().__init__([make_client_app(site) for site in sites])
        self.nodes = {site.name: number for number, site in enumerate(sites, start=1)}
        self._silent = (self.nodes.get(silent[0]), silent[1])
        for name, (kind, answer) in (answers or {}).items():
            honest = self.apps[self.nodes[name]]
            self.apps[self.nodes[name]] = lambda message, context, honest=honest, kind=kind, answer=answer: (
                answer(message) if message.metadata.message_type == kind else honest(message, context)
            )

    def push_messages(self, messages):
        sent = list(messages)
        heard = [m for m in sent if (m.metadata.dst_node_id, m.metadata.message_type) != self._silent]
        super().push_messages(heard)
        return [message.object_id for message in sent]

    def kinds(self, name: str) -> list[str]:
        """What a site was asked for."""
        return [m.metadata.message_type for m in self.sent if m.metadata.dst_node_id == self.nodes[name]]

    def objects(self, name: str) -> list[list[str]]:
        """The objects in each of the messages that brought a site to the bank."""
        return [
            [name for name in m.content.get("arrays") or {} if name != LOG]
            for m in self.sent
            if m.metadata.dst_node_id == self.nodes[name] and m.metadata.message_type == SYNC
        ]


def delivered(home, *sites, said=None, timing=_TIMING, **how):
    """Run one delivery and return its results and the grid."""
    grid = Grid(*sites, **how)
    return deliver(grid, home, grid.nodes, [].append if said is None else said.append, timing), grid


def evaluated(home, *sites, said=None, timing=_TIMING, **how):
    grid = Grid(*sites, **how)
    return evaluate(grid, home, grid.nodes, [].append if said is None else said.append, timing=timing)


def answering(payload=None, arrays=None) -> Answer:
    """An answer with this JSON, and these serialized arrays."""

    def answer(message: Message) -> Message:
        content = RecordDict({} if payload is None else {"payload": ConfigRecord({"json": payload})})
        if arrays is not None:
            content["arrays"] = ArrayRecord(
                {name: Array("uint8", (len(data),), "numpy.ndarray", data) for name, data in arrays.items()}
            )
        return Message(content, reply_to=message)

    return answer


def saying(**payload) -> Answer:
    """An answer whose payload is none."""
    return lambda message: Message(RecordDict({"payload": ConfigRecord(payload)}), reply_to=message)


def broken(message: Message) -> Message:
    """What Flower sends where a site is gone or its app has raised."""
    return Message(Error(code=5, reason="a text that must not be shown \x1b[2J"), reply_to=message)


def raising(_message: Message) -> Message:
    """A handler of ours that fails is answered for by a code; here for the fake that is put in its place."""
    return saying(error="RuntimeError")(_message)


def forged(count: int) -> bytes:
    """One byte whose header announces `count`."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count},), }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"x"


def submission_of(site: SmallSite, digest: str = "") -> str:
    return encode_json(Submission(digest or site.digest, {}, site.signed().decode("ascii")))


@pytest.fixture
def lenient(monkeypatch):
    """No router takes too much: for tests of many sites, or of routers that were hardly trained."""
    everything = {"gaussian": 1.0, "vae": 1.0}
    limits = functools.partial(AdmissionLimits, overlap=OverlapLimits(everything, everything, everything))
    monkeypatch.setattr(decisions, "AdmissionLimits", limits)


class TestHonestSites:
    def test_each_has_one_entry_all_hold_the_bank_and_each_knows(self, small_home, north, south, west):
        results, _ = delivered(small_home, north, south, west)
        snapshot = read_snapshot(small_home.bank)
        assert [(entry.site, entry.digest) for entry in snapshot.active] == [
            (site.name, site.digest) for site in (north, south, west)
        ]
        for number, site in enumerate((north, south, west)):
            assert results[site.name].error == ""
            assert results[site.name].admitted == site.digest
            assert results[site.name].bank == site.bank == snapshot.digest
            assert results[site.name].bytes_up == len(site.data)
            (receipt,) = site.receipts
            assert (receipt.digest, receipt.outcome, receipt.sequence) == (site.digest, "admitted", number)

    def test_the_bank_is_that_of_a_simulation_with_the_same_releases(self, small_home, north, south, tmp_path):
        empty = LayerBank(small_home.bank)
        simulated = LayerBank.create(
            tmp_path / "bank", empty.snapshot().backbone, empty.snapshot().backbone_digest, empty.background
        )
        for site in (north, south):
            simulated.admit(parse(site.data))
        delivered(small_home, north, south)
        assert north.bank == south.bank == simulated.snapshot().digest

    def test_a_second_delivery_sends_no_release_no_object_and_no_receipt(self, small_home, north, south):
        delivered(small_home, north, south)
        results, grid = delivered(small_home, north, south)
        assert all((result.error, result.bytes_up) == ("", 0) for result in results.values())
        for site in (north, south):
            assert grid.kinds(site.name) == [HELLO, SYNC]
            assert grid.objects(site.name) == [[]]
            assert len(site.receipts) == 1

    def test_many_sites_are_served_a_few_at_a_time(self, small_home, lenient):
        sites = [SmallSite(f"site{number}", small_home, 4.0 * number - 12) for number in range(7)]
        results, _ = delivered(small_home, *sites)
        digest = read_snapshot(small_home.bank).digest
        assert {site: (result.error, result.bank) for site, result in results.items()} == {
            site.name: ("", digest) for site in sites
        }
        assert len(read_snapshot(small_home.bank).active) == 7

    def test_a_site_without_a_release_gets_the_bank_all_the_same(self, small_home, north, south):
        delivered(small_home, north)
        south.hello = lambda logs: dataclasses.replace(SmallSite.hello(south, logs), outbox=())
        south.release = lambda: pytest.fail("asked for what it does not offer") if south.asked else None
        south.asked = False
        results, _ = delivered(small_home, south)
        assert (results["south"].error, results["south"].bytes_up) == ("", 0)
        assert south.bank == read_snapshot(small_home.bank).digest
        assert [record.site for record in Decisions(small_home).records()] == ["north"]

    def test_nobody_online_is_no_trouble(self, small_home):
        assert deliver(Grid(), small_home, {}, [].append) == {}

    def test_results_are_plain(self, small_home, north):
        results, _ = delivered(small_home, north)
        assert plain(results)["north"] == {
            "bank": north.bank,
            "admitted": north.digest,
            "error": "",
            "bytes_up": len(north.data),
            "bytes_down": results["north"].bytes_down,
        }
        assert results["north"].bytes_down > len(north.data)


MISBEHAVIOUR = {
    "lies about its name": lambda site: {
        "rogue": (HELLO, answering(encode_json(dataclasses.replace(site.hello(None), site="north"))))
    },
    "has another backbone": lambda site: {
        "rogue": (HELLO, answering(encode_json(dataclasses.replace(site.hello(None), backbone_digest="f" * 64))))
    },
    "says a hello that is none": lambda site: {"rogue": (HELLO, answering("{"))},
    "says nothing": lambda site: {"rogue": (HELLO, answering())},
    "answers a hello with an error": lambda site: {"rogue": (HELLO, broken)},
    "fails at hello": lambda site: {"rogue": (HELLO, raising)},
    "offers a path": lambda site: {
        "rogue": (HELLO, answering(encode_json(site.hello(None)).replace(site.digest, "../../north/x")))
    },
    "sends no release": lambda site: {"rogue": (SUBMIT, answering(submission_of(site)))},
    "sends garbage JSON": lambda site: {
        "rogue": (SUBMIT, answering('{"digest": ' + "[" * 9999, {"release": wrap_bytes(site.data)}))
    },
    "sends no JSON": lambda site: {"rogue": (SUBMIT, answering(None, {"release": wrap_bytes(site.data)}))},
    "sends a number for JSON": lambda site: {"rogue": (SUBMIT, saying(json=7))},
    "sends another array": lambda site: {
        "rogue": (SUBMIT, answering(submission_of(site), {"weights": wrap_bytes(site.data)}))
    },
    "sends one array more": lambda site: {
        "rogue": (SUBMIT, answering(submission_of(site), {"release": wrap_bytes(site.data), "x": wrap_bytes(b"")}))
    },
    "announces a huge shape": lambda site: {
        "rogue": (SUBMIT, answering(submission_of(site), {"release": forged(10**15)}))
    },
    "sends no array of bytes": lambda site: {
        "rogue": (SUBMIT, answering(submission_of(site), {"release": b"\x80\x04"}))
    },
    "raises": lambda site: {"rogue": (SUBMIT, raising)},
    "answers with an error": lambda site: {"rogue": (SUBMIT, broken)},
    "answers with an empty code": lambda site: {"rogue": (SUBMIT, saying(error=""))},
}
"""What a site may do before its release is in the bank."""

LATER = {
    "says it holds nothing": lambda site: {"rogue": (SYNC, answering(encode_json(Synced("", ()))))},
    "says it holds another bank": lambda site: {"rogue": (SYNC, answering(encode_json(Synced("f" * 64, ()))))},
    "answers a sync with garbage": lambda site: {"rogue": (SYNC, answering("[]"))},
    "raises at a sync": lambda site: {"rogue": (SYNC, raising)},
    "answers a sync with an error": lambda site: {"rogue": (SYNC, broken)},
}
"""What it may do afterwards."""


class TestMisbehaviour:
    @pytest.fixture
    def rogue(self, small_home):
        return SmallSite("rogue", small_home, -8.0)

    def costs_only_itself(self, home, north, rogue, south, entries, **how):
        said: list[str] = []
        results, grid = delivered(home, north, rogue, south, said=said, **how)
        digest = read_snapshot(home.bank).digest
        assert results["rogue"].error
        assert results["rogue"].bank == ""
        assert sum(sentence.startswith("rogue: ") and results["rogue"].error in sentence for sentence in said) == 1
        assert "must not be shown" not in "".join(said)
        for site in (north, south):
            assert results[site.name].error == ""
            assert results[site.name].bank == site.bank == digest
        assert [entry.site for entry in read_snapshot(home.bank).active] == entries
        return results["rogue"], grid

    @pytest.mark.parametrize("how", MISBEHAVIOUR)
    def test_what_it_does_costs_only_itself(self, small_home, north, rogue, south, how):
        self.costs_only_itself(small_home, north, rogue, south, ["north", "south"], answers=MISBEHAVIOUR[how](rogue))
        assert {record.site for record in Decisions(small_home).records()} == {"north", "south"}
        assert rogue.receipts == []

    @pytest.mark.parametrize("how", LATER)
    def test_what_it_does_with_the_bank_costs_only_itself(self, small_home, north, rogue, south, how):
        self.costs_only_itself(small_home, north, rogue, south, ["north", "rogue", "south"], answers=LATER[how](rogue))

    @pytest.mark.parametrize("how", [*MISBEHAVIOUR, *LATER])
    def test_once_it_is_mended_it_is_served(self, small_home, rogue, how):
        """Nothing of what went wrong is held against it."""
        delivered(small_home, rogue, answers=(MISBEHAVIOUR | LATER)[how](rogue))
        results, _ = delivered(small_home, rogue)
        assert (results["rogue"].error, results["rogue"].bank) == ("", read_snapshot(small_home.bank).digest)
        assert [entry.digest for entry in read_snapshot(small_home.bank).active] == [rogue.digest]
        assert rogue.receipts[-1].outcome == "admitted"

    @pytest.mark.parametrize(
        ("kind", "entries"),
        [(HELLO, ["north", "south"]), (SUBMIT, ["north", "south"]), (SYNC, ["north", "rogue", "south"])],
    )
    def test_who_never_answers_is_not_waited_for(self, small_home, north, rogue, south, kind, entries):
        timing = Timing(0.3, 0.3 if kind != HELLO else 300.0)
        began = time.monotonic()
        result, _ = self.costs_only_itself(
            small_home, north, rogue, south, entries, silent=("rogue", kind), timing=timing
        )
        assert f"no answer to {kind} from rogue" in result.error
        assert time.monotonic() - began < 20

    def test_a_release_other_than_the_announced_one_is_an_error(self, small_home, north, rogue, south):
        """Its statement is right, so it is decided; but it was not the one that was asked for."""
        other = small_release("rogue", "rogue", -8.0, seed=1)
        submission = Submission(sha256_bytes(other), {}, rogue.signed(other).decode("ascii"))
        answers = {"rogue": (SUBMIT, answering(encode_json(submission), {"release": wrap_bytes(other)}))}
        result, _ = self.costs_only_itself(
            small_home, north, rogue, south, ["north", "rogue", "south"], answers=answers
        )
        assert "sent another release than it had offered" in result.error

    def test_a_digest_that_is_not_the_releases_own_is_an_error(self, small_home, north, rogue, south):
        answers = {
            "rogue": (SUBMIT, answering(submission_of(rogue, "e" * 64), {"release": wrap_bytes(rogue.data)})),
        }
        result, _ = self.costs_only_itself(
            small_home, north, rogue, south, ["north", "rogue", "south"], answers=answers
        )
        assert "sent another release than it had offered" in result.error

    def test_who_claims_now_this_and_now_that_does_not_keep_a_delivery_for_ever(
        self, small_home, north, south, rogue, monkeypatch
    ):
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)
        asked = []

        def forgetful(message: Message) -> Message:
            asked.append([name for name in message.content.get("arrays") or {} if name != LOG])
            assert len(asked) < 20
            logs = decode_json(Request, message.content["payload"]["json"], "a test").logs
            return answering(encode_json(Synced("", tuple(asked[-1]), rogue.log.shown(logs))))(message)

        self.costs_only_itself(
            small_home, north, rogue, south, ["north", "rogue", "south"], answers={"rogue": (SYNC, forgetful)}
        )
        assert len(asked) == 2

    def test_a_site_that_only_pretends_gets_no_further_than_all_objects(self, small_home, rogue, monkeypatch):
        """It says that it holds what it was sent, and never that its bank is whole."""
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)
        held = []

        def never_whole(message: Message) -> Message:
            held.extend(name for name in message.content.get("arrays") or {} if name != LOG)
            asked = decode_json(Request, message.content["payload"]["json"], "a test")
            return answering(encode_json(Synced("", tuple(held), rogue.log.shown(asked.logs))))(message)

        results, grid = delivered(small_home, rogue, answers={"rogue": (SYNC, never_whole)})
        assert "does not hold what it was sent" in results["rogue"].error
        assert len(grid.objects("rogue")) == 3

    def test_who_claims_to_hold_everything_is_found_out(self, small_home, north, rogue):
        delivered(small_home, north)
        everything = tuple(read_snapshot(small_home.bank).object_digests)
        hello = dataclasses.replace(rogue.hello(None), have=everything, outbox=())
        answers = (HELLO, answering(encode_json(hello)))
        results, _ = delivered(small_home, rogue, answers={"rogue": answers})
        assert "does not hold what it was sent" in results["rogue"].error

    def test_a_revoked_site_that_is_still_online_gets_nothing_in(self, small_home, north, south):
        revoke(small_home.sites, "north")
        results, _ = delivered(small_home, north, south)
        assert [entry.site for entry in read_snapshot(small_home.bank).active] == ["south"]
        assert (results["north"].admitted, north.receipts) == ("", [])
        assert "no key in force" in results["north"].error


class TestPortions:
    def test_what_a_site_lacks_comes_in_several_messages_and_is_never_sent_again(
        self, small_home, lenient, monkeypatch
    ):
        sites = [SmallSite(f"site{number}", small_home, 4.0 * number - 12) for number in range(4)]
        delivered(small_home, *sites)
        late = SmallSite("late", small_home, 12.0)
        late.hello = lambda logs: dataclasses.replace(SmallSite.hello(late, logs), outbox=())
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 3 * len(sites[0].data) - 1)
        results, grid = delivered(small_home, late)
        sent = grid.objects("late")
        assert results["late"].bank == late.bank == read_snapshot(small_home.bank).digest
        assert list(map(len, sent)) == [3, 2]
        objects = [digest for each in sent for digest in each]
        assert sorted(objects) == sorted(read_snapshot(small_home.bank).object_digests)
        _, grid = delivered(small_home, late)
        assert grid.objects("late") == [[]]

    def test_an_object_above_the_limit_travels_alone(self, small_home, north, south, monkeypatch):
        delivered(small_home, north)
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)
        _, grid = delivered(small_home, south)
        assert [len(each) for each in grid.objects("south")] == [1, 1, 1]

    def test_the_receipt_comes_once(self, small_home, north, monkeypatch):
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)
        _, grid = delivered(small_home, north)
        assert len(grid.objects("north")) == 2
        assert len(north.receipts) == 1

    def test_after_a_cut_between_two_portions_only_the_rest_is_sent(self, small_home, north, south, monkeypatch):
        delivered(small_home, north)
        monkeypatch.setattr(delivery, "_PORTION_BYTES", 1)

        class CutError(Exception):
            pass

        def cut(message):
            if south.objects:
                raise CutError
            return honest(message, None)

        grid = Grid(south)
        honest = grid.apps[1]
        grid.apps[1] = lambda message, context: (
            cut(message) if message.metadata.message_type == SYNC else honest(message, context)
        )
        with pytest.raises(CutError):
            deliver(grid, small_home, grid.nodes, [].append)
        assert len(south.objects) == 1
        # It fails by itself where an object comes twice.
        results, grid = delivered(small_home, south)
        assert (results["south"].error, south.bank) == ("", read_snapshot(small_home.bank).digest)
        assert grid.kinds("south").count(SUBMIT) == 0
        assert len(read_snapshot(small_home.bank).entries) == 2


class TestCuts:
    def test_a_delivery_that_is_cut_after_a_decision_is_simply_done_again(self, small_home, north, south, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(delivery, "_bring", lambda run, sites: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                delivered(small_home, north, south)
        assert north.receipts == []
        results, grid = delivered(small_home, north, south)
        assert {result.error for result in results.values()} == {""}
        assert {result.bytes_up for result in results.values()} == {0}
        assert grid.kinds("north") == [HELLO, SYNC]
        assert [site.receipts[-1].sequence for site in (north, south)] == [0, 1]

    def test_a_full_disk_is_the_aggregators_own_trouble(self, small_home, north, monkeypatch):
        def full(self, release, record):
            raise StorageError("cannot write: no space left on device; free space")

        with monkeypatch.context() as patch:
            patch.setattr(LayerBank, "admit", full)
            with pytest.raises(StorageError):
                delivered(small_home, north)
        assert Decisions(small_home).records() == []
        assert delivered(small_home, north)[0]["north"].admitted == north.digest

    def test_a_damaged_bank_is_the_aggregators_own_trouble(self, small_home, north, south):
        delivered(small_home, north)
        next((small_home.bank / "objects").glob(f"{north.digest}*")).write_bytes(b"rotten")
        with pytest.raises(BankError, match="is not what its name says"):
            delivered(small_home, south)


class TestQuarantine:
    @pytest.fixture
    def greedy(self, small_home):
        site = SmallSite("greedy", small_home, -8.0)
        site.data = small_release("greedy", "greedy", -8.0, greedy=True)
        return site

    def test_it_is_not_asked_for_again_and_after_a_person_accepts_it_the_site_hears(self, small_home, north, greedy):
        delivered(small_home, north, greedy)
        assert [receipt.outcome for receipt in greedy.receipts] == ["quarantined"]
        assert greedy.hello(None).outbox == (greedy.digest,)
        results, grid = delivered(small_home, greedy)
        assert (results["greedy"].error, results["greedy"].bytes_up) == ("", 0)
        assert SUBMIT not in grid.kinds("greedy")
        Decisions(small_home).accept("greedy")
        results, grid = delivered(small_home, greedy)
        assert SUBMIT not in grid.kinds("greedy")
        assert (greedy.receipts[-1].outcome, greedy.receipts[-1].sequence) == ("admitted", 1)
        assert results["greedy"].bank == greedy.bank == read_snapshot(small_home.bank).digest
        assert greedy.hello(None).outbox == ()

    def test_it_is_served_the_bank_meanwhile(self, small_home, north, greedy):
        results, _ = delivered(small_home, north, greedy)
        assert (results["greedy"].error, results["greedy"].admitted) == ("", "")
        assert greedy.bank == read_snapshot(small_home.bank).digest
        assert greedy.digest not in greedy.objects

    def test_one_that_is_gone_from_the_quarantine_is_asked_for_again(self, small_home, greedy):
        delivered(small_home, greedy)
        (small_home.quarantine / "greedy" / f"{greedy.digest}.safetensors").unlink()
        _, grid = delivered(small_home, greedy)
        assert SUBMIT in grid.kinds("greedy")
        assert (small_home.quarantine / "greedy" / f"{greedy.digest}.safetensors").exists()


def test_a_retired_release_that_is_offered_again_is_refused_and_not_sent(small_home, north):
    delivered(small_home, north)
    Decisions(small_home).retire("north", "other")
    north.receipts.clear()
    results, grid = delivered(small_home, north)
    assert SUBMIT not in grid.kinds("north")
    assert (north.receipts[-1].outcome, north.receipts[-1].code) == ("refused", "R115")
    assert results["north"].error == ""
    assert read_snapshot(small_home.bank).active == []


class TestEvaluate:
    def test_reports_are_kept_by_bank_and_site(self, small_home, north, south):
        said: list[str] = []
        results = evaluated(small_home, north, south, said=said)
        digest = read_snapshot(small_home.bank).digest
        for site in ("north", "south"):
            assert (results[site].error, results[site].bank) == ("", digest)
            kept = decode_json(StageReport, (small_home.reports / digest / f"{site}.json").read_text(), "a test")
            assert kept == small_report(iou=0.75)
        assert said == [f"{site}: IoU 0.750, plain SAM 0.750" for site in ("north", "south")]

    def test_a_later_report_takes_the_place_of_an_earlier_one(self, small_home, north):
        evaluated(small_home, north)
        north.evaluate = lambda: small_report(iou=0.25)
        evaluated(small_home, north)
        (path,) = small_home.reports.rglob("*.json")
        assert decode_json(StageReport, path.read_text(), "a test").gaussian.scores == {"iou": 0.25}

    def test_a_site_that_withholds_its_scores_is_said_to(self, small_home, north, south):
        def withheld():
            raise WithheldError("fewer than 10 test images in /data/hospital: their scores stay here")

        north.evaluate = withheld
        results = evaluated(small_home, north, south)
        assert results["north"].error == "site north failed with WithheldError; that site's log says why"
        assert results["south"].error == ""
        assert [path.name for path in small_home.reports.rglob("*.json")] == ["south.json"]

    def test_a_report_without_the_score_that_is_shown_is_kept_and_costs_nobody(self, small_home, north, south):
        said: list[str] = []
        north.evaluate = lambda: small_report(dice=0.5)
        results = evaluated(small_home, north, south, said=said)
        assert {result.error for result in results.values()} == {""}
        assert said[0] == "north: IoU unknown, plain SAM unknown"

    @pytest.mark.parametrize(
        "answer",
        [
            answering("{"),
            answering(encode_json(small_report(iou=0.5)).replace("0.5", "1.5")),
            answering(encode_json(small_report(iou=0.5)).replace("0.5", "NaN")),
            answering(encode_json(small_report(iou=0.5)).replace('"iou"', '"\\u001b[2J"')),
            answering(),
            broken,
            raising,
        ],
        ids=["garbage", "above one", "NaN", "cursor", "nothing", "error", "raises"],
    )
    def test_what_is_no_report_costs_only_its_sender(self, small_home, north, south, answer):
        results = evaluated(small_home, north, south, answers={"north": (EVALUATE_STAGE, answer)})
        assert results["north"].error
        assert results["north"].error.isprintable()
        assert results["south"].error == ""
        assert [path.name for path in small_home.reports.rglob("*.json")] == ["south.json"]

    def test_who_never_answers_costs_only_itself(self, small_home, north, south):
        timing = Timing(evaluate=0.3)
        results = evaluated(small_home, north, south, silent=("north", EVALUATE_STAGE), timing=timing)
        assert "no answer to evaluate.stage from north" in results["north"].error
        assert results["south"].error == ""


PLACES = {"north": 4.0, "south": -4.0, "west": 8.0}


class TestDeployedSites:
    """The site's own folder, keys, outbox and copy of the bank; only the training is left out."""

    @pytest.fixture
    def sites(self, new_home, tmp_path, lenient, monkeypatch):
        monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "cache"))
        return {name: self.made(new_home, tmp_path / name, place) for name, place in PLACES.items()}

    def made(self, home, path, place) -> SiteHome:
        from aggregator.enrolment import welcome_of

        data = {"kind": "phantom", "modality": "endoscopy", "train": 12, "test": 10, "seed": 1}
        site = create_site_home(path, {"name": path.name, "data": data, "threads": 1, "device": "cpu"})
        request = open_request(site.request.read_bytes())
        enrol(home.sites, request)
        (site.path / "WELCOME.json").write_bytes(welcome_json(welcome_of(home, request)))
        facts = card(
            path.name,
            site=path.name,
            backbone="mini",
            backbone_digest=backbone_card("mini").sha256,
            channels=128,
            blocks=3,
        )
        features = torch.randn(20, 128, generator=torch.Generator().manual_seed(0)) + place
        patients = [f"p{number}" for number in range(20)]
        state = fit_routers(features, patients, LayerBank(home.bank).background, RouterOptions(vae_epochs=1))
        release = pack(AlignmentLayer(128, 3, "identity", seed=0).state_dict(), state, facts).data
        digest = sha256_bytes(release)
        write_atomically(Outbox(site).path(digest), release)
        write_atomically(site.outbox / "submission.json", encode_json(Submission(digest, {})).encode())
        Outbox(site).approve(digest, len(release), path.name, site.welcome(), "option")
        return site

    def test_all_end_with_the_bank_that_a_simulation_makes_of_the_same_releases(self, new_home, sites, tmp_path):
        nodes = {name: number for number, name in enumerate(sites, start=1)}
        results = deliver(grid_of(*sites.values()), new_home, nodes, [].append)
        assert {result.error for result in results.values()} == {""}
        empty = LayerBank(new_home.bank)
        simulated = LayerBank.create(tmp_path / "simulated", "mini", empty.snapshot().backbone_digest, empty.background)
        for site in sites.values():
            outbox = Outbox(site)
            digest = outbox.newest().digest
            assert outbox.receipt(digest).outcome == "admitted", outbox.receipt(digest)
            assert outbox.undecided() == []
            simulated.admit(parse(outbox.path(digest).read_bytes()))
        expected = simulated.snapshot().digest
        assert read_snapshot(new_home.bank).digest == expected
        assert {read_snapshot(site.seeded / "bank").digest for site in sites.values()} == {expected}
        again = deliver(grid_of(*sites.values()), new_home, nodes, [].append)
        assert {(result.error, result.bytes_up, result.bank) for result in again.values()} == {("", 0, expected)}

    def test_a_hello_says_what_the_aggregator_asks_of_it(self, new_home, sites):
        grid = grid_of(sites["north"])
        deliver(grid, new_home, {"north": 1}, [].append)
        hello = decode_json(Hello, grid.received[0].content["payload"]["json"], "a test")
        assert (hello.site, hello.task) == ("north", "north")
