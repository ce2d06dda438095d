"""`casam-site` as an engineer meets it: quick, honest in its exit codes, and one sentence where something is wrong."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from casam_fed.backbone.backbones import backbone_card
from casam_fed.errors import CasamError
from casam_fed.host.processes import free_port
from casam_fed.wire.exchange import Receipt
from site_client import join as joining
from site_client.cli import site as casam_site
from site_client.home import SiteHome, create_site_home
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog

from ..conftest import write_blobs
from .deployed_sites import SETTINGS, Asked, approve, give_welcome, log_of, objects_of, welcomed_home

CASAM = "from site_client.cli import main; main()"
PHANTOM = ("--data", "phantom", "--set", "modality=endoscopy", "--set", "train=4", "--set", "test=2")


def started(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run casam-site as a program of its own."""
    command = [sys.executable, "-c", before + CASAM, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL, env=quiet()
    )


def quiet() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Printed(str):
    """What a command printed, with its exit code."""

    code: int


def called(*arguments: object) -> Printed:
    """Run casam-site in this process, as `run_command` does: the exit code and what it printed."""
    done = CliRunner().invoke(casam_site, list(map(str, arguments)))
    printed = Printed(done.output)
    printed.code = done.exit_code
    if isinstance(done.exception, CasamError):
        printed = Printed(f"{done.output}casam-site: {done.exception}\n")
        printed.code = 1
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return printed


def at_a_terminal(*arguments: object, answers: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run casam-site at a terminal and type an answer whenever it stops and asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CASAM, *map(str, arguments)], stdin=theirs, stdout=theirs, stderr=theirs, env=quiet()
    )
    os.close(theirs)
    waiting, shown = list(answers), ""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 0.1)[0]:
            try:
                shown += os.read(ours, 4096).decode()
            except OSError:
                break
        if waiting and re.search(r"(\]|[^\n]): $", shown):
            os.write(ours, (waiting.pop(0) + "\n").encode())
            shown += "\n"
    os.close(ours)
    return process.wait(30), shown.replace("\r\n", "\n")


@pytest.fixture
def approved(home):
    """The trained site's folder, its release approved."""
    approve(home, Outbox(home).newest().digest)
    return home


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["init", "--help"], ["status", "--help"]])
    def test_it_is_quick_and_loads_nothing_heavy(self, arguments):
        check = (
            "import atexit, os, sys\n"
            "def check():\n"
            "    heavy = {'torch', 'flwr', 'ray', 'matplotlib', 'monai', 'numpy', 'httpx'} & set(sys.modules)\n"
            "    if '--help' == sys.argv[1] and heavy or {'torch', 'flwr', 'ray', 'monai'} & heavy:\n"
            "        print('loaded', heavy, file=sys.stderr); sys.stderr.flush(); os._exit(9)\n"
            "atexit.register(check)\n"
        )
        began = time.monotonic()
        done = started(*arguments, before=check)
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < 5

    def test_it_shows_the_ladder_in_the_order_in_which_it_is_climbed(self):
        printed = called("--help")
        names = re.findall(r"^  (\w+) +[A-Z]", printed.partition("Commands:")[2], re.MULTILINE)
        ladder = ["init", "doctor", "check", "train", "preview", "join", "segment", "status", "sync", "rotate"]
        assert names == ladder
        for name in names:
            assert called(name, "--help").code == 0

    def test_status_and_preview_of_a_folder_that_is_none_load_no_torch(self, tmp_path):
        check = "import atexit, os, sys\natexit.register(lambda: 'torch' in sys.modules and os._exit(9))\n"
        for command in ("status", "preview"):
            assert started(command, tmp_path, before=check).returncode == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["nonsense"], 2, "No such command"),
            (["init"], 2, "Missing argument 'DIR'"),
            (["init", "{new}"], 2, "--name is missing, and there is no terminal to ask at"),
            (["init", "{new}", "--name", "a"], 2, "--data is missing"),
            (["init", "{new}", "--name", "a", "--data", "folder"], 2, "--path is missing"),
            (["init", "{new}", "--name", "a", "--data", "folder", "--path", "x"], 2, "--set classes=[...] is missing"),
            (["init", "{new}", "--name", "a", "--data", "phantom"], 2, "--set modality=... is missing"),
            (["init", "{new}", "--name", "a", "--data", "phantom", "--set", "x"], 2, "write KEY=VALUE"),
            (
                ["init", "{new}", "--name", "a", "--data", "phantom", "--set", "x=[1"],
                2,
                "write KEY=VALUE, the value in YAML",
            ),
            (["init", "{new}", "--name", "a b", *PHANTOM], 1, "'name' in the settings cannot be 'a b': a name has"),
            (["init", "{new}", "--name", "a", *PHANTOM, "--set", "trian=4"], 1, "did you mean 'train'?"),
            (["init", "{new}", "--name", "a", *PHANTOM, "--threads", "0"], 2, "--threads"),
            (["status", "{none}"], 1, "is not a site's folder; make one with casam-site init"),
            (["check", "{none}"], 1, "is not a site's folder"),
            (["train", "{none}"], 1, "is not a site's folder"),
            (["preview", "{none}"], 1, "is not a site's folder"),
            (["join", "{none}"], 1, "is not a site's folder"),
            (["sync", "{none}"], 1, "is not a site's folder"),
            (["rotate", "{none}", "--yes"], 1, "is not a site's folder"),
            (["doctor", "{none}"], 1, "is not a site's folder"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_each_is_one_sentence_with_its_mend(self, tmp_path, arguments, code, words):
        (tmp_path / "none").mkdir()
        printed = called(*(word.format(new=tmp_path / "new", none=tmp_path / "none") for word in arguments))
        assert printed.code == code
        assert words in printed
        assert not (tmp_path / "new").exists()

    def test_the_program_itself_says_it_in_one_line_without_traceback(self, tmp_path):
        done = started("status", tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert (
            done.stderr == f"casam-site: {tmp_path} is not a site's folder; make one with casam-site init {tmp_path}\n"
        )

    @pytest.mark.parametrize("command", ["train", "join", "sync"])
    def test_before_the_welcome_the_request_has_to_go_out(self, tmp_path, command):
        home = create_site_home(tmp_path / "clinic", SETTINGS)
        printed = called(command, home.path)
        assert printed.code == 1
        assert f"send {home.request} to the aggregator's operator" in printed

    def test_before_training_there_is_nothing_to_show(self, tmp_path):
        home = welcomed_home(tmp_path / "clinic")
        printed = called("preview", home.path)
        assert (printed.code, f"run casam-site train {home.path} first" in printed) == (1, True)

    def test_settings_edited_wrongly_are_named(self, tmp_path):
        home = welcomed_home(tmp_path / "clinic")
        (home.path / "site.yaml").write_text((home.path / "site.yaml").read_text() + "treads: 2\n")
        printed = called("status", home.path)
        assert (printed.code, "unknown key 'treads' in site.yaml; did you mean 'threads'?" in printed) == (1, True)


class TestInit:
    def test_it_makes_a_folder_and_says_what_to_do_next(self, tmp_path):
        printed = called("init", tmp_path / "clinic", "--name", "clinic", *PHANTOM)
        assert printed.code == 0
        assert f"send {tmp_path / 'clinic' / 'REQUEST.json'} to the aggregator's operator" in printed
        assert re.search(r"^  ([0-9a-f]{4} ){15}[0-9a-f]{4}$", printed, re.MULTILINE)
        assert SiteHome(tmp_path / "clinic").settings.data.train == 4

    def test_a_second_time_it_is_refused_and_the_keys_stay(self, tmp_path):
        called("init", tmp_path / "clinic", "--name", "clinic", *PHANTOM)
        keys = {path: path.read_bytes() for path in (tmp_path / "clinic" / "keys").iterdir()}
        printed = called("init", tmp_path / "clinic", "--name", "clinic", *PHANTOM)
        assert (printed.code, "is not empty; give a new folder" in printed) == (1, True)
        assert {path: path.read_bytes() for path in (tmp_path / "clinic" / "keys").iterdir()} == keys

    def test_what_is_missing_is_asked_at_a_terminal(self, tmp_path):
        answers = ("clinic", "folder", str(tmp_path / "scans"), "polyp, large nucleus ,")
        code, shown = at_a_terminal("init", tmp_path / "clinic", answers=answers)
        assert code == 0, shown
        for question in ("Name of this site", "What the data are", "Folder of the data", "Names of the target classes"):
            assert question in shown
        data = SiteHome(tmp_path / "clinic").settings.data
        assert (data.path, data.classes) == (str(tmp_path / "scans"), ("polyp", "large nucleus"))

    def test_a_path_among_the_options_is_not_asked_for_again(self, tmp_path):
        data = ("--data", "folder", "--set", "path=scans", "--set", "classes=[polyp]")
        assert called("init", tmp_path / "clinic", "--name", "clinic", *data).code == 0
        assert SiteHome(tmp_path / "clinic").settings.data.path == "scans"

    def test_rotating_asks_and_a_no_changes_nothing(self, tmp_path):
        home = welcomed_home(tmp_path / "clinic")
        key = (home.keys / "signing.key").read_bytes()
        code, shown = at_a_terminal("rotate", home.path, answers=("n",))
        assert code == 130
        assert "Make new keys for clinic?" in shown
        assert called("rotate", home.path).code == 2
        assert (home.keys / "signing.key").read_bytes() == key
        assert called("rotate", home.path, "--yes").code == 0
        assert (home.keys / "signing.key").read_bytes() != key


class TestCheck:
    @pytest.fixture
    def scans(self, tmp_path, blobs):
        data = {"kind": "folder", "path": str(blobs), "classes": ["disc"], "labels": "instances"}
        return create_site_home(tmp_path / "clinic", {**SETTINGS, "data": data})

    def test_good_data_are_counted_and_nothing_is_written_into_their_folder(self, scans, blobs):
        before = sorted(blobs.rglob("*"))
        printed = called("check", scans.path)
        assert printed.code == 0, printed
        for words in ("images                   12", "nothing is wrong", "8 images for training, 4 for testing"):
            assert words in printed
        assert sorted(blobs.rglob("*")) == before

    def test_overlays_are_drawn_where_they_are_asked_for(self, scans, tmp_path):
        printed = called("check", scans.path, "--overlay", tmp_path / "sheets")
        assert printed.code == 0
        assert [path.name for path in (tmp_path / "sheets").iterdir()] == ["sheet-001.png"]
        assert f"1 contact sheets in {tmp_path / 'sheets'}" in printed

    def test_a_bad_file_is_named_and_the_exit_code_tells(self, scans, blobs):
        (blobs / "train" / "images" / "p0_0.png").write_bytes(b"no image")
        printed = called("check", scans.path)
        assert printed.code == 1
        assert "p0_0" in printed
        assert "1 problems in the data; see the report above" in printed

    def test_data_that_are_not_there_are_one_sentence(self, scans, blobs):
        blobs.rename(blobs.parent / "away")
        printed = called("check", scans.path)
        assert printed.code == 1
        assert str(blobs) in printed


class TestTrain:
    def test_training_again_gives_the_release_that_is_there(self, home, monkeypatch):
        digest = Outbox(home).newest().digest
        monkeypatch.setattr("site_client.work.SiteWork.train", lambda self: pytest.fail("trained again"))
        printed = called("train", home.path)
        assert (printed.code, f"release {digest}" in printed) == (0, True)
        assert f"Next: casam-site preview {home.path}" in printed

    def test_training_anew_on_the_same_images_gives_the_same_release(self, home):
        digest = Outbox(home).newest().digest
        printed = called("train", home.path, "--again")
        assert (printed.code, f"release {digest}" in printed) == (0, True)
        assert Outbox(home).releases() == [digest]

    def test_training_anew_on_other_images_gives_another_release_that_nobody_has_approved(self, approved):
        settings = approved.path / "site.yaml"
        settings.write_text(settings.read_text().replace("seed: 1", "seed: 2"))
        old = Outbox(approved).newest().digest
        assert called("train", approved.path, "--again").code == 0
        outbox = Outbox(SiteHome(approved.path))
        assert outbox.newest().digest != old
        assert outbox.undecided() == []

    def test_training_needs_no_trust_and_no_network(self, home):
        """What it makes goes nowhere: the question comes with the first connection."""
        assert not home.trusts(home.welcome())
        assert called("train", home.path).code == 0


class TestPreview:
    def test_everything_that_would_leave_is_shown(self, home):
        digest = Outbox(home).newest().digest
        printed = called("preview", home.path)
        assert printed.code == 0
        assert f"release {digest}" in printed
        assert "never leaves: images, masks, embeddings" in printed
        assert f"Next: casam-site join {home.path}" in printed

    def test_json_lists_every_tensor_and_the_card(self, home):
        content = json.loads(called("preview", home.path, "--json"))
        assert content["digest"] == Outbox(home).newest().digest
        assert content["bytes"] == Outbox(home).path(content["digest"]).stat().st_size
        header = content["bytes"] - sum(tensor["bytes"] for tensor in content["tensors"])
        assert 0 < header < 20_000, "tensors are missing from the preview"
        assert content["card"]["site"] == "clinic"
        assert all(len(tensor["sha256"]) == 64 for tensor in content["tensors"])

    def test_a_release_damaged_on_the_disk_is_one_sentence(self, home):
        path = Outbox(home).path(Outbox(home).newest().digest)
        path.write_bytes(path.read_bytes()[:-1])
        assert called("preview", home.path).code == 1
        path.unlink()
        printed = called("preview", home.path)
        assert (printed.code, "is gone; restore it, or run casam-site train --again" in printed) == (1, True)


class TestStatus:
    def steps(self, home) -> dict:
        printed = called("status", home.path, "--json")
        assert printed.code == 0, printed
        return json.loads(printed)

    def test_it_follows_the_site_up_the_ladder(self, tmp_path, home, banks):
        fresh = create_site_home(tmp_path / "fresh", SETTINGS)
        assert (self.steps(fresh)["next"], self.steps(fresh)["aggregator"]) == ("doctor", "")
        give_welcome(fresh)
        assert self.steps(fresh)["next"] == "train"
        assert self.steps(fresh)["aggregator"] == "test at 127.0.0.1:8443, not confirmed yet"
        digest = Outbox(home).newest().digest
        assert (self.steps(home)["next"], self.steps(home)["release"], self.steps(home)["approved"]) == (
            "join",
            digest,
            False,
        )
        home.trust(home.welcome())
        approve(home, digest)
        assert (self.steps(home)["approved"], self.steps(home)["aggregator"]) == (True, "test at 127.0.0.1:8443")
        Asked(home).sync(log_of(banks[2]), objects_of(banks[2]), Receipt(digest, "admitted", 1, "A001"))
        facts = self.steps(home)
        assert (facts["next"], facts["decision"]) == ("sync", "admitted A001")
        assert facts["bank"] == f"2 tasks, digest {banks[2].snapshot().digest}"
        assert facts["sent"]["messages"] == 1
        assert facts["sent"]["bytes"] > 0

    @pytest.mark.parametrize("outcome", ["refused", "quarantined"])
    def test_after_a_no_the_next_step_is_to_join_again(self, approved, outcome, banks):
        receipt = Receipt(Outbox(approved).newest().digest, outcome, None, "A1", "look at it")
        Asked(approved).sync(log_of(banks[0]).after_deciding(receipt), receipt=receipt)
        facts = self.steps(approved)
        assert (facts["next"], facts["decision"]) == ("join", f"{outcome} A1 look at it")

    def test_it_does_not_need_the_request_which_a_person_may_have_moved(self, home):
        shutil.move(home.request, home.path.parent / "sent.json")
        assert len(self.steps(home)["fingerprint"]) == 64

    def test_a_welcome_by_a_newer_aggregator_is_none(self, home):
        give_welcome(home, backbone_digest=backbone_card("vit_b").sha256)
        assert self.steps(home)["next"] == "doctor"

    def test_in_words_it_is_seven_lines(self, home):
        lines = called("status", home.path).splitlines()
        assert [line.split()[0] for line in lines] == [
            *("site", "aggregator", "release", "decision", "bank", "sent", "Next:")
        ]


class TestDoctor:
    def findings(self, home) -> tuple[int, dict[str, dict]]:
        done = started("doctor", home.path, "--quick", "--json")
        assert "Traceback" not in done.stderr
        return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}

    def test_without_a_welcome_it_says_what_to_do_and_connects_to_nobody(self, tmp_path):
        code, found = self.findings(create_site_home(tmp_path / "clinic", SETTINGS))
        assert (code, found["welcome"]["state"], "aggregator" in found) == (1, "wrong", False)
        assert "to the aggregator's operator" in found["welcome"]["mend"]
        assert {found[check]["state"] for check in ("python", "keys", "telemetry")} == {"ok"}

    def test_an_aggregator_out_of_reach_is_told_beside_all_that_is_well(self, tmp_path, cache):
        home = welcomed_home(tmp_path / "clinic", {"address": f"127.0.0.1:{free_port()}"})
        (home.keys / "node.key").chmod(0o644)
        code, found = self.findings(home)
        assert code == 1
        wrong = {check for check, finding in found.items() if finding["state"] == "wrong"}
        assert wrong == {"aggregator", "keys"}
        assert "node.key" in found["keys"]["seen"]
        assert found["backbone"]["state"] == found["data"]["state"] == "ok"
        assert found["data"]["seen"] == "12 images for training, 12 for testing"


class TestJoin:
    def test_without_a_terminal_nobody_is_trusted(self, home, monkeypatch):
        monkeypatch.setattr(joining, "join", lambda *arguments: pytest.fail("connected"))
        printed = called("join", home.path)
        assert printed.code == 2
        assert "Has the aggregator's operator read out the same fingerprint?" in printed
        assert re.search(r"^fingerprint  ([0-9a-f]{4} ){15}[0-9a-f]{4}$", printed, re.MULTILINE)
        assert not home.trusts(home.welcome())

    def test_who_says_no_to_the_fingerprint_or_to_the_release_connects_to_nobody(self, home):
        code, shown = at_a_terminal("join", home.path, answers=("n",))
        assert (code, home.trusts(home.welcome())) == (130, False), shown
        code, shown = at_a_terminal("join", home.path, answers=("y", "n"))
        assert (code, home.trusts(home.welcome())) == (1, True), shown
        assert "the release was declined and stays here; casam-site join asks again" in shown
        assert "May this leave the building?" in shown
        assert "never leaves: images" in shown
        assert not Outbox(home).is_approved(Outbox(home).newest().digest)
        assert [event.event for event in ReleaseLog(home).events()] == ["began", "declined"]
        code, shown = at_a_terminal("join", home.path, answers=("n",))
        assert "read out the same fingerprint" not in shown

    def test_yes_is_an_answer_to_both_and_said_so_in_the_statement(self, home, monkeypatch):
        asked = []

        def join(home, welcome, approve, say, seconds, keep_serving):
            asked.append((approve(Outbox(home).newest()), home.trusts(welcome), seconds, keep_serving))

        monkeypatch.setattr(joining, "join", join)
        assert called("join", home.path, "--yes", "--timeout", "7").code == 0
        assert asked == [("option", True, 7.0, False)]


def test_a_folder_of_real_files_is_trained_and_shown_from_beginning_to_end(tmp_path, cache):
    """What a hospital does before it connects, with images of its own on disk."""
    import numpy as np

    rng = np.random.default_rng(1)
    scans = tmp_path / "patients of doctor who"
    for number in range(10):
        write_blobs(scans, f"secret{number}", rng)
    options = ("--path", scans, "--set", "classes=[disc]", "--set", "labels=instances", "--threads", 1)
    clinic: Path = tmp_path / "clinic"
    assert called("init", clinic, "--name", "clinic", "--data", "folder", *options, "--device", "cpu").code == 0
    give_welcome(SiteHome(clinic))
    for command in ("check", "train", "preview", "status"):
        printed = called(command, clinic)
        assert printed.code == 0, printed
        assert "Next: casam-site" in printed
    digest = Outbox(SiteHome(clinic)).newest().digest
    release = Outbox(SiteHome(clinic)).path(digest).read_bytes()
    for secret in (b"secret", b"doctor", str(tmp_path).encode()):
        assert secret not in release
