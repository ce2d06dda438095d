"""`casam-aggregator` as an operator meets it: quick, honest in its exit codes, one sentence where something is wrong."""

import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aggregator.cli import main
from aggregator.commands import status as status_command
from aggregator.commands import up as up_command
from aggregator.decisions import Decisions
from aggregator.delivery import deliver
from aggregator.home import Home
from aggregator.ledger import Ledger
from aggregator.sites import enrol, read_sites
from casam_fed.audit.keys import shown
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import BankError, EnrolmentError, ExchangeError, StorageError, SupervisionError
from casam_fed.host.files import write_atomically
from casam_fed.wire.enrolment import EnrolmentRequest, open_request, open_welcome, sign_request
from casam_fed.wire.exchange import encode_json
from site_client.client_app import make_client_app
from site_client.home import SiteHome, create_site_home, renew_keys

from ..loopback import LoopbackGrid
from .small_sites import SmallSite, small_release, small_report, small_request

CASAM = "from aggregator.cli import main; main()"


class Terminal(io.StringIO):
    """Somebody who types these answers."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def casam(monkeypatch, capsys):
    """Run a command line in this process and return its exit code, what it printed, and what it complained of."""

    def run(*arguments: object, answers: str | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["casam-aggregator", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO() if answers is None else Terminal(answers))
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "\x1b" not in printed.out + printed.err
        return code, printed.out, printed.err

    return run


@pytest.fixture
def clinic(tmp_path) -> SiteHome:
    """A hospital's folder with its REQUEST.json."""
    data = {"kind": "phantom", "modality": "endoscopy", "train": 12, "test": 10, "seed": 1}
    return create_site_home(tmp_path / "clinic", {"name": "clinic", "data": data, "threads": 1, "device": "cpu"})


def request_of(site: SiteHome) -> EnrolmentRequest:
    return open_request(site.request.read_bytes())


def delivered(home, *sites) -> None:
    nodes = {site.name: number for number, site in enumerate(sites, start=1)}
    deliver(LoopbackGrid([make_client_app(site) for site in sites]), home, nodes, [].append)


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["enroll", "--help"], ["bank", "accept", "-h"], ["--version"]])
    def test_it_is_quick_and_loads_neither_torch_nor_flower(self, arguments):
        self.is_quick(*arguments)

    def test_to_list_the_bank_is_quick_too(self, small_home):
        self.is_quick("bank", "list", str(small_home.path))

    def is_quick(self, *arguments: str) -> None:
        check = (
            "import atexit, os, sys\n"
            "def check():\n"
            "    if {'torch', 'flwr', 'ray'} & set(sys.modules): os._exit(9)\n"
            "atexit.register(check)\n"
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", check + CASAM, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 5

    def test_every_command_has_its_page(self, casam):
        code, printed, _ = casam("--help")
        names = re.findall(r"^  (\w+) +[A-Z]", printed.partition("Commands:")[2], re.MULTILINE)
        assert (code, names) == (0, ["init", "up", "enroll", "rotate", "revoke", "status", "bank"])
        for name in names:
            assert casam(name, "--help")[0] == 0
        for name in ("list", "show", "verify", "accept", "retire"):
            assert casam("bank", name, "--help")[0] == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            ["nothing"],
            ["init"],
            ["init", "x"],
            ["init", "x", "--name", "n"],
            ["init", "x", "--name", "n", "--address", "h:1", "--superlink-port", "70000"],
            ["up"],
            ["enroll", "x"],
            ["revoke", "x"],
            ["bank", "nothing"],
            ["bank", "show", "x"],
            ["status", "x", "--what"],
        ],
    )
    def test_wrong_usage_is_2(self, casam, arguments):
        code, printed, complaint = casam(*arguments)
        assert (code, printed) == (2, "")
        assert "Usage:" in complaint

    @pytest.mark.parametrize(
        "arguments",
        [
            ["up"],
            ["status"],
            ["enroll", "R"],
            ["rotate", "R"],
            ["revoke", "S", "--yes"],
            ["bank", "list"],
            ["bank", "show", "T"],
            ["bank", "verify"],
            ["bank", "retire", "T", "--reason", "other", "--yes"],
            ["bank", "accept", "T", "--yes"],
        ],
    )
    def test_a_folder_that_is_none_is_1_and_one_sentence(self, casam, tmp_path, arguments):
        place = 2 if arguments[0] == "bank" else 1
        code, printed, complaint = casam(*arguments[:place], tmp_path, *arguments[place:])
        assert (code, printed) == (1, "")
        assert complaint == (
            f"casam-aggregator: {tmp_path} is not an aggregator's folder; "
            f"make one with casam-aggregator init {tmp_path}\n"
        )


class TestInit:
    def test_it_makes_a_folder_and_says_what_comes_next(self, casam, tmp_path):
        method = tmp_path / "method.yaml"
        method.write_text("epochs: 2\n")
        path = tmp_path / "aggregator"
        code, printed, _ = casam("init", path, "--name", "north", "--address", "[::1]:9443", "--method", method)
        home = Home(path)
        assert code == 0
        assert shown(home.fingerprint()) in printed
        assert f"casam-aggregator up {path}" in printed
        assert (home.config.listen, home.config.superlink_port, home.config.method.epochs) == ("[::]:9443", 18000, 2)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--name", "a b", "--address", "h:1"], "'federation' in the options cannot be 'a b'"),
            (["--name", "n", "--address", "h"], "'address' in the options cannot be 'h'"),
            (["--name", "n", "--address", "h:99999"], "'address' cannot be 'h:99999': ports end at 65535"),
            (["--name", "n", "--address", "h:18000"], "cannot both have port 18000"),
            (["--name", "n", "--address", "0.0.0.0:1"], "is no address of one machine"),
            (["--name", "n", "--address", "h:1", "--method", "none.yaml"], "cannot read none.yaml: no such file"),
        ],
    )
    def test_wrong_options_are_one_sentence_and_leave_nothing(self, casam, tmp_path, options, words):
        code, printed, complaint = casam("init", tmp_path / "aggregator", *options)
        assert (code, printed) == (1, "")
        assert words in complaint
        assert complaint.count("\n") == 1
        assert not (tmp_path / "aggregator").exists()

    def test_a_wrong_method_is_one_sentence(self, casam, tmp_path):
        (tmp_path / "method.yaml").write_text("epoch: 2\n")
        options = ["--name", "n", "--address", "h:1", "--method", tmp_path / "method.yaml"]
        code, _, complaint = casam("init", tmp_path / "aggregator", *options)
        assert code == 1
        assert "unknown key 'method.epoch' in the options; did you mean 'epochs'?" in complaint

    def test_a_folder_that_is_not_empty_is_refused(self, casam, new_home):
        code, _, complaint = casam("init", new_home.path, "--name", "n", "--address", "h:1")
        assert (code, "is not empty; give a new folder" in complaint) == (1, True)


class TestEnroll:
    def test_it_asks_a_person_and_writes_a_welcome_that_the_site_accepts(self, casam, new_home, clinic):
        code, printed, _ = casam("enroll", new_home.path, clinic.request, answers="y\n")
        assert code == 0
        request = request_of(clinic)
        assert shown(request.fingerprint) in printed
        assert "Has the hospital read out the same fingerprint?" in printed
        assert shown(new_home.fingerprint()) in printed
        welcome = open_welcome((clinic.path / "WELCOME.json").read_bytes())
        assert welcome == clinic.welcome()
        assert (welcome.site, welcome.fingerprint) == ("clinic", new_home.fingerprint())
        assert read_sites(new_home.sites)["clinic"].current.fingerprint == request.fingerprint

    @pytest.mark.parametrize("answers", ["n\n", "\n", ""])
    def test_without_a_yes_nobody_is_enrolled(self, casam, new_home, clinic, answers):
        code, _, complaint = casam("enroll", new_home.path, clinic.request, answers=answers)
        assert (code, complaint.strip().splitlines()[-1]) == (130, "casam-aggregator: interrupted")
        assert read_sites(new_home.sites) == {}
        assert not (clinic.path / "WELCOME.json").exists()

    def test_without_a_terminal_it_is_wrong_usage(self, casam, new_home, clinic):
        code, _, complaint = casam("enroll", new_home.path, clinic.request)
        assert (code, "There is no terminal to ask at" in complaint) == (2, True)
        assert read_sites(new_home.sites) == {}

    @pytest.mark.parametrize("form", [str, shown, str.upper])
    def test_a_fingerprint_as_an_option_needs_no_question(self, casam, new_home, clinic, form, tmp_path):
        given = form(request_of(clinic).fingerprint)
        out = tmp_path / "answers" / "clinic.json"
        code, printed, _ = casam("enroll", new_home.path, clinic.request, "--fingerprint", given, "--out", out)
        assert code == 0
        assert str(out) in printed
        assert open_welcome(out.read_bytes()).site == "clinic"
        assert not (clinic.path / "WELCOME.json").exists()

    @pytest.mark.parametrize(
        "change", [lambda text: "0" * 64, lambda text: text[:-1], lambda text: text[:16], lambda text: ""]
    )
    def test_a_wrong_fingerprint_is_refused(self, casam, new_home, clinic, change):
        given = change(request_of(clinic).fingerprint)
        code, _, complaint = casam("enroll", new_home.path, clinic.request, "--fingerprint", given)
        assert code == 1
        assert "the fingerprint given is not that of the request; somebody may have changed the file" in complaint
        assert read_sites(new_home.sites) == {}

    def test_a_request_that_was_tampered_with_is_refused(self, casam, new_home, clinic):
        envelope = json.loads(clinic.request.read_bytes())
        forged = json.loads(sign_request(small_request("thief"), clinic.signing_key()))
        envelope["payload"] = forged["payload"]
        clinic.request.write_text(json.dumps(envelope, separators=(",", ":")))
        code, _, complaint = casam("enroll", new_home.path, clinic.request, answers="y\n")
        assert (code, "this enrolment request cannot be used" in complaint) == (1, True)
        assert read_sites(new_home.sites) == {}

    @pytest.mark.parametrize("data", [b"", b"{}", b"hello", b"\x1b[2J", b"\xff" * 70_000, b'{"payload":"","x":1}'])
    def test_what_is_no_request_is_one_sentence(self, casam, new_home, tmp_path, data):
        (tmp_path / "REQUEST.json").write_bytes(data)
        code, printed, complaint = casam("enroll", new_home.path, tmp_path / "REQUEST.json", answers="y\n")
        assert (code, printed, complaint.count("\n")) == (1, "", 1)
        assert "enrolment request" in complaint

    def test_a_request_that_is_not_there_or_a_folder_is_one_sentence(self, casam, new_home, tmp_path):
        for path in (tmp_path / "none.json", tmp_path):
            code, _, complaint = casam("enroll", new_home.path, path, answers="y\n")
            assert (code, f"cannot read {path}: " in complaint) == (1, True)

    def test_again_it_writes_the_welcome_again(self, casam, new_home, clinic):
        """So that what a full disk has cut is made good."""
        options = ["enroll", new_home.path, clinic.request, "--fingerprint", request_of(clinic).fingerprint]
        assert casam(*options)[0] == 0
        first = (clinic.path / "WELCOME.json").read_bytes()
        (clinic.path / "WELCOME.json").unlink()
        assert casam(*options)[0] == 0
        assert (clinic.path / "WELCOME.json").read_bytes() == first

    def test_a_welcome_that_cannot_be_written_is_one_sentence_and_can_be_written_later(self, casam, new_home, clinic):
        options = ["enroll", new_home.path, clinic.request, "--fingerprint", request_of(clinic).fingerprint]
        code, _, complaint = casam(*options, "--out", clinic.path)
        assert (code, "cannot write" in complaint) == (1, True)
        assert casam(*options)[0] == 0

    def test_a_name_that_is_taken_is_one_sentence(self, casam, new_home, clinic):
        enrol(new_home.sites, small_request("clinic"))
        code, _, complaint = casam("enroll", new_home.path, clinic.request, answers="y\n")
        assert (code, "site clinic is enrolled with other keys" in complaint) == (1, True)
        assert not (clinic.path / "WELCOME.json").exists()


class TestRotateAndRevoke:
    @pytest.fixture
    def enrolled(self, casam, new_home, clinic):
        casam("enroll", new_home.path, clinic.request, answers="y\n")
        return clinic

    def test_new_keys_take_the_place_of_the_old_ones(self, casam, new_home, enrolled):
        renew_keys(enrolled)
        code, printed, _ = casam("rotate", new_home.path, enrolled.request, answers="y\n")
        assert (code, "Replace its keys by these?" in printed) == (0, True)
        record = read_sites(new_home.sites)["clinic"]
        assert [bool(pair.ended) for pair in record.keys] == [True, False]
        assert enrolled.welcome().site_key == record.current.fingerprint

    def test_who_is_not_enrolled_cannot_rotate(self, casam, new_home, clinic):
        code, _, complaint = casam("rotate", new_home.path, clinic.request, answers="y\n")
        assert (code, "there is no site clinic; use casam-aggregator enroll" in complaint) == (1, True)

    def test_a_wrong_fingerprint_rotates_nothing(self, casam, new_home, enrolled):
        before = read_sites(new_home.sites)
        renew_keys(enrolled)
        assert casam("rotate", new_home.path, enrolled.request, "--fingerprint", "0" * 64)[0] == 1
        assert read_sites(new_home.sites) == before

    @pytest.mark.parametrize(("options", "answers"), [(["--yes"], None), ([], "y\n")])
    def test_a_site_is_shut_out(self, casam, new_home, enrolled, options, answers):
        code, printed, _ = casam("revoke", new_home.path, "clinic", *options, answers=answers)
        assert (code, "clinic is shut out" in printed) == (0, True)
        assert read_sites(new_home.sites)["clinic"].current is None
        code, _, complaint = casam("enroll", new_home.path, enrolled.request, answers="y\n")
        assert (code, "site clinic was shut out" in complaint) == (1, True)

    @pytest.mark.parametrize(("answers", "code"), [("n\n", 130), (None, 2)])
    def test_without_a_yes_nobody_is_shut_out(self, casam, new_home, enrolled, answers, code):
        assert casam("revoke", new_home.path, "clinic", answers=answers)[0] == code
        assert read_sites(new_home.sites)["clinic"].current is not None

    def test_who_is_not_enrolled_cannot_be_shut_out(self, casam, new_home):
        code, _, complaint = casam("revoke", new_home.path, "../clinic", "--yes")
        assert (code, "there is no site ../clinic" in complaint) == (1, True)

    def test_a_damaged_file_is_one_sentence(self, casam, new_home, enrolled):
        (new_home.sites / "clinic.json").write_text("{")
        for command in (["revoke", new_home.path, "clinic", "--yes"], ["status", new_home.path]):
            code, _, complaint = casam(*command)
            assert (code, "clinic.json is no record of that site" in complaint) == (1, True)


class TestBank:
    @pytest.fixture
    def greedy(self, small_home):
        site = SmallSite("greedy", small_home, -8.0)
        site.data = small_release("greedy", "greedy", -8.0, greedy=True)
        return site

    @pytest.fixture
    def filled(self, small_home, north, south, greedy):
        """A bank with two entries, one retired, and a release in quarantine."""
        delivered(small_home, north, south, greedy)
        Decisions(small_home).retire("south", "other")
        return small_home

    def test_an_empty_one_is_listed_and_verified(self, casam, new_home):
        digest = read_snapshot(new_home.bank).digest
        assert casam("bank", "list", new_home.path)[:2] == (0, f"bank {digest}, backbone mini\n")
        assert casam("bank", "verify", new_home.path)[:2] == (
            0,
            f"0 entries verified, bank {digest}, by the 1 entries of its log\n",
        )

    def test_list_shows_entries_retired_ones_and_what_waits(self, casam, filled, north, greedy):
        code, printed, _ = casam("bank", "list", filled.path)
        assert code == 0
        lines = printed.splitlines()
        assert lines[0].startswith(f"bank {read_snapshot(filled.bank).digest}")
        assert re.fullmatch(rf" +0 active +north +north +{len(north.data):,} B  {north.digest[:16]}", lines[1])
        assert re.match(r" +1 retired +south ", lines[2])
        assert re.match(rf" +- Q201 +greedy +greedy +{greedy.digest[:16]}  by ", lines[3])
        assert "bank accept or leave it" in lines[4]

    def test_list_as_json_says_the_same(self, casam, filled, north, greedy):
        code, printed, _ = casam("bank", "list", filled.path, "--json")
        facts = json.loads(printed)
        assert (code, facts["digest"]) == (0, read_snapshot(filled.bank).digest)
        assert [(entry["task"], entry["status"]) for entry in facts["entries"]] == [
            ("north", "active"),
            ("south", "retired"),
        ]
        assert facts["entries"][0]["digest"] == north.digest
        assert [(held["task"], held["digest"], held["code"]) for held in facts["quarantined"]] == [
            ("greedy", greedy.digest, "Q201")
        ]

    def test_show_tells_card_decision_and_overlap(self, casam, filled, north):
        code, printed, _ = casam("bank", "show", filled.path, "north")
        assert code == 0
        assert "north of north: admitted A001" in printed
        assert f"release {north.digest}" in printed
        assert "modality  endoscopy" in printed
        assert "classes   polyp\n" in printed
        assert "what the router of north takes" in printed
        code, printed, _ = casam("bank", "show", filled.path, "north", "--json")
        facts = json.loads(printed)
        assert (facts["record"]["code"], facts["card"]["images"]) == ("A001", 20)
        assert facts["record"]["overlap"]["candidate"] == "north"

    def test_show_tells_what_a_person_needs_to_decide_about_a_release_that_waits(self, casam, filled):
        code, printed, _ = casam("bank", "show", filled.path, "greedy")
        assert code == 0
        assert "greedy of greedy: quarantined Q201" in printed
        assert "images    20" in printed
        assert "what the router of greedy takes" in printed

    def test_show_of_a_retired_task_tells_its_decision_without_a_card(self, casam, filled):
        code, printed, _ = casam("bank", "show", filled.path, "south", "--json")
        facts = json.loads(printed)
        assert (code, facts["record"]["outcome"], facts["card"]) == (0, "admitted", None)

    def test_show_of_nothing_is_one_sentence(self, casam, filled):
        code, printed, complaint = casam("bank", "show", filled.path, "nothing")
        assert (code, printed, complaint.count("\n")) == (1, "", 1)
        assert "nothing is known of a task nothing" in complaint

    def test_verify_reads_everything(self, casam, filled):
        digest, log = read_snapshot(filled.bank).digest, Ledger(filled).log().size
        assert casam("bank", "verify", filled.path)[:2] == (
            0,
            f"1 entries verified, bank {digest}, by the {log} entries of its log\n",
        )
        code, printed, _ = casam("bank", "verify", filled.path, "--json")
        assert (code, json.loads(printed)) == (0, {"digest": digest, "entries": 1, "log": log, "verified": True})

    @pytest.mark.parametrize("what", ["release", "background", "snapshot"])
    def test_verify_finds_one_flipped_bit(self, casam, filled, north, what):
        name = {"release": north.digest, "background": read_snapshot(filled.bank).background}.get(what)
        path = filled.bank / "objects" / f"{name}.safetensors" if name else filled.bank / "bank.json"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        for options in ([], ["--json"]):
            code, printed, complaint = casam("bank", "verify", filled.path, *options)
            assert (code, printed, complaint.count("\n")) == (1, "", 1)

    def test_verify_finds_a_missing_object(self, casam, filled, north):
        (filled.bank / "objects" / f"{north.digest}.safetensors").unlink()
        code, _, complaint = casam("bank", "verify", filled.path)
        assert (code, "is missing from the bank" in complaint) == (1, True)

    def test_verify_finds_an_entry_that_the_log_does_not_know(self, casam, filled):
        smuggled = small_release("west", "west", 8.0)
        LayerBank(filled.bank).admit(parse(smuggled))
        code, printed, complaint = casam("bank", "verify", filled.path)
        assert (code, printed) == (1, "")
        assert "is not what its log leads to" in complaint

    def test_nothing_that_a_site_sends_makes_verify_fail(self, casam, filled, north):
        Decisions(filled).decide(north.data, b"garbage", "north")
        assert casam("bank", "verify", filled.path)[0] == 0

    @pytest.mark.parametrize(("options", "answers"), [(["--yes"], None), ([], "y\n")])
    def test_retire_withdraws_a_task_and_no_other_changes(self, casam, filled, north, options, answers):
        code, printed, _ = casam(
            "bank", "retire", filled.path, "north", "--reason", "site-request", *options, answers=answers
        )
        snapshot = read_snapshot(filled.bank)
        assert (code, snapshot.digest in printed) == (0, True)
        assert snapshot.active == []
        assert not (filled.bank / "objects" / f"{north.digest}.safetensors").exists()
        assert casam("bank", "verify", filled.path)[0] == 0

    @pytest.mark.parametrize("options", [[], ["--reason", "a patient asked for it"]])
    def test_a_reason_is_one_of_a_list_for_it_is_kept_for_ever(self, casam, filled, options):
        code, _, complaint = casam("bank", "retire", filled.path, "north", *options, "--yes")
        assert (code, "consent-withdrawn" in complaint) == (2, True)
        assert len(read_snapshot(filled.bank).active) == 1

    @pytest.mark.parametrize(("answers", "code"), [("n\n", 130), (None, 2)])
    def test_without_a_yes_nothing_is_retired_or_accepted(self, casam, filled, answers, code):
        before = read_snapshot(filled.bank)
        assert casam("bank", "retire", filled.path, "north", "--reason", "other", answers=answers)[0] == code
        assert casam("bank", "accept", filled.path, "greedy", answers=answers)[0] == code
        assert read_snapshot(filled.bank) == before

    @pytest.mark.parametrize("task", ["south", "greedy", "nothing"])
    def test_what_is_not_in_force_cannot_be_retired(self, casam, filled, task):
        code, _, complaint = casam("bank", "retire", filled.path, task, "--reason", "other", "--yes")
        assert (code, f"the bank has no task {task}" in complaint) == (1, True)

    def test_a_damaged_entry_can_be_retired(self, casam, filled, north):
        """Otherwise one flipped bit would stop every delivery until somebody finds a copy."""
        (filled.bank / "objects" / f"{north.digest}.safetensors").write_bytes(b"rotten")
        assert casam("bank", "retire", filled.path, "north", "--reason", "harmful", "--yes")[0] == 0
        assert casam("bank", "verify", filled.path)[0] == 0

    @pytest.mark.parametrize(
        ("options", "answers"), [(["--yes"], None), ([], "y\n"), (["--site", "greedy", "--yes"], None)]
    )
    def test_accept_admits_what_waits(self, casam, filled, greedy, options, answers):
        code, printed, _ = casam("bank", "accept", filled.path, "greedy", *options, answers=answers)
        assert (code, "greedy is entry 2 now" in printed) == (0, True)
        assert [entry.task for entry in read_snapshot(filled.bank).active] == ["north", "greedy"]
        assert casam("bank", "verify", filled.path)[0] == 0
        assert "Q201" not in casam("bank", "list", filled.path)[1]
        assert "accepted by the operator" in casam("bank", "show", filled.path, "greedy")[1]

    def test_accept_of_nothing_is_one_sentence(self, casam, filled):
        for arguments in (["north"], ["greedy", "--site", "north"]):
            code, _, complaint = casam("bank", "accept", filled.path, *arguments, "--yes")
            assert (code, complaint.count("\n"), "is in quarantine" in complaint) == (1, 1, True)

    def test_of_two_sites_with_one_task_the_operator_chooses(self, casam, filled):
        thief = SmallSite("thief", filled, -8.0, "greedy")
        thief.data = small_release("thief", "greedy", -8.0, greedy=True)
        delivered(filled, thief)
        code, printed, _ = casam("bank", "show", filled.path, "greedy", "--site", "greedy")
        assert (code, "a release of that name came" in printed) == (0, False)
        assert "choose with --site" in casam("bank", "show", filled.path, "greedy")[1]
        code, _, complaint = casam("bank", "accept", filled.path, "greedy", "--yes")
        assert (code, "choose one with --site" in complaint) == (1, True)
        assert casam("bank", "accept", filled.path, "greedy", "--site", "greedy", "--yes")[0] == 0


class TestStatus:
    def test_with_nobody_enrolled_it_says_what_comes_next(self, casam, new_home):
        code, printed, _ = casam("status", new_home.path)
        assert code == 0
        assert "federation   north at 127.0.0.1:8443, not running" in printed
        assert shown(new_home.fingerprint()) in printed
        assert "0 tasks" in printed
        assert f"Nobody is enrolled. Next: casam-aggregator enroll {new_home.path} REQUEST.json" in printed

    def test_it_shows_who_is_enrolled_and_what_each_scores_under_the_present_bank(
        self, casam, small_home, north, south
    ):
        delivered(small_home, north)
        digest = read_snapshot(small_home.bank).digest
        for bank, name, iou in ((digest, "north", 0.75), ("0" * 64, "south", 0.5)):
            report = encode_json(small_report(iou=iou)).encode()
            write_atomically(small_home.reports / bank / f"{name}.json", report)
        code, printed, _ = casam("status", small_home.path)
        assert code == 0
        assert re.search(r"^  north +offline +- +IoU 0.750 \(plain SAM 0.750\)$", printed, re.MULTILINE)
        assert re.search(r"^  south +offline +-$", printed, re.MULTILINE)
        facts = json.loads(casam("status", small_home.path, "--json")[1])
        assert (facts["bank"], facts["tasks"], facts["up"]) == (digest, 1, False)
        assert (facts["sites"]["north"]["iou"], facts["sites"]["south"]["iou"]) == (0.75, None)
        assert facts["certificate_days"] > 300

    def test_what_runs_is_shown_as_the_watcher_has_left_it(self, casam, small_home, north, south, monkeypatch):
        digest = read_snapshot(small_home.bank).digest
        sites = {
            "north": {"online": True, "holds": digest, "error": "", "activated": ""},
            "south": {
                "online": False,
                "holds": "0" * 64,
                "error": "site south failed with \x1b[2J\u202e",
                "activated": "",
            },
        }
        write_atomically(small_home.path / "flower" / "state.json", json.dumps({"sites": sites}).encode())
        assert " online " not in casam("status", small_home.path)[1]
        monkeypatch.setattr(status_command, "is_running", lambda path: True)
        _, printed, _ = casam("status", small_home.path)
        assert "8443, up" in printed
        assert re.search(r"^  north +online +this bank$", printed, re.MULTILINE)
        assert re.search(
            r"^  south +offline +an older bank +site south failed with .x1b\[2J.u202e$", printed, re.MULTILINE
        )

    def test_a_revoked_site_is_shown_as_such(self, casam, small_home, north):
        casam("revoke", small_home.path, "north", "--yes")
        assert re.search(r"^  north +revoked ", casam("status", small_home.path)[1] + " ", re.MULTILINE)
        assert json.loads(casam("status", small_home.path, "--json")[1])["sites"]["north"]["revoked"] is True

    @pytest.mark.parametrize("scores", [{"iou": 0.5}, {"dice": 0.5}, {}])
    def test_a_report_may_lack_any_score(self, casam, small_home, north, scores):
        report = encode_json(small_report(**scores)).encode()
        write_atomically(small_home.reports / read_snapshot(small_home.bank).digest / "north.json", report)
        code, printed, _ = casam("status", small_home.path)
        assert (code, ("IoU 0.500" if "iou" in scores else "IoU unknown") in printed) == (0, True)

    @pytest.mark.parametrize("data", [b"", b"{", b"\xff"])
    def test_a_damaged_report_is_as_none(self, casam, small_home, north, data):
        path = small_home.reports / read_snapshot(small_home.bank).digest / "north.json"
        write_atomically(path, data)
        code, printed, _ = casam("status", small_home.path)
        assert (code, "IoU" in printed) == (0, False)

    def test_a_loose_key_is_one_sentence(self, casam, new_home):
        (new_home.keys / "signing.key").chmod(0o644)
        code, printed, complaint = casam("status", new_home.path)
        assert (code, printed, "can be read by others" in complaint) == (1, "", True)


class TestUp:
    """Its loop, with stand-ins for the processes; tests/deployment runs the real ones."""

    @pytest.fixture
    def looks(self, monkeypatch):
        """What each look of the watcher raises; after the last one somebody presses Ctrl-C."""
        from aggregator import superlink, watcher

        raised: list[BaseException] = []

        class Supervisor:
            def __init__(self, *_arguments):
                pass

            def __enter__(self):
                return self

            def __exit__(self, *_cause):
                pass

            def tend(self):
                pass

            def pid(self, _name):
                return 1

        class SuperLink:
            def __init__(self, *_arguments):
                pass

            def close(self):
                pass

        class Watcher:
            def __init__(self, *_arguments):
                pass

            def look(self):
                raise raised.pop(0) if raised else KeyboardInterrupt

        monkeypatch.setattr(up_command, "Supervisor", Supervisor)
        monkeypatch.setattr(up_command, "end_leftovers", lambda path: None)
        monkeypatch.setattr(up_command, "_LOOK_S", 0.0)
        monkeypatch.setattr(up_command, "check_ports", lambda home: None)
        monkeypatch.setattr(up_command, "children", lambda home: ())
        monkeypatch.setattr(superlink, "SuperLink", SuperLink)
        monkeypatch.setattr(watcher, "Watcher", Watcher)
        return raised

    def test_ctrl_c_is_how_it_is_meant_to_end(self, casam, new_home, looks):
        code, printed, _ = casam("up", new_home.path)
        assert code == 0
        assert "federation north is up: hospitals connect to 127.0.0.1:8443" in printed
        assert printed.rstrip().endswith("stopped")

    @pytest.mark.parametrize("kind", [ExchangeError, EnrolmentError, BankError, StorageError])
    def test_trouble_that_a_person_can_mend_is_said_once_and_does_not_end_it(self, casam, new_home, looks, kind):
        looks += [kind("it is full"), kind("it is full")]
        code, printed, _ = casam("up", new_home.path)
        assert (code, printed.count("it is full")) == (0, 1)

    def test_a_port_that_is_taken_is_one_sentence(self, casam, new_home, looks, monkeypatch):
        def taken(_home):
            raise SupervisionError("the public port 127.0.0.1:8444 is in use by python (pid 1); end that")

        monkeypatch.setattr(up_command, "check_ports", taken)
        code, _, complaint = casam("up", new_home.path)
        assert (code, "is in use by" in complaint) == (1, True)


def test_programs_of_their_own_leave_with_the_same_codes(new_home, tmp_path):
    """As `casam-aggregator` is installed, without anything of this process."""
    for arguments, code in ((["status", new_home.path], 0), (["status", tmp_path], 1), (["status"], 2)):
        command = [sys.executable, "-c", CASAM, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL, cwd=Path("/")
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
