"""`casam-audit` as an auditor runs it: what it prints, with which code it ends, and one sentence for whatever is unfit."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from casam_fed.audit.cli import run
from casam_fed.audit.compare import diff
from casam_fed.audit.event import FORMS, Event
from casam_fed.audit.explain import EVENTS, FIELDS, SUBJECTS, explain
from casam_fed.audit.merkle import check_inclusion
from casam_fed.audit.show import describe, time_line

from .defects import DEFECTS
from .exports import (
    BANK,
    BANK_LOG,
    CLINIC,
    FEDERATION,
    GIVEN,
    HARBOUR,
    POLYP,
    SITE,
    SITE_LOG,
    Draft,
    drafted,
    fingerprint_of,
    leave,
    write_keys,
    written,
)
from .homes import SITE_LOG as LOG_FOLDER
from .homes import bank_home, site_home

COMMANDS = ("show", "export", "verify", "diff", "entry")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with good exports `site` and `bank`, homes in `of-site` and `of-bank`, and `keys`."""
    folder = tmp_path_factory.mktemp("made")
    for kind, home in (("site", site_home), ("bank", bank_home)):
        written(drafted(kind), folder / kind)
        home(folder / f"of-{kind}")
    write_keys(folder / "keys")
    return folder


def given(folder: Path, kind: str) -> list[str]:
    """Return the options with the keys that belong to an export."""
    bank, *sites = (str(folder / "keys" / f"{name}.pem") for name in GIVEN[kind])
    return ["--bank-key", bank, *(part for site in sites for part in ("--site-key", site))]


def started(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with the project's folder as the only place to import from."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "casam_fed.audit", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **more)  # type: ignore[call-overload,no-any-return]


# ---- The command itself ----


def test_help_names_all_commands_and_codes(capsys):
    with pytest.raises(SystemExit) as ended:
        run(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for command in COMMANDS:
        assert f"\n    {command} " in text
    assert "exit codes: 0 verified, or done; 1 something is wrong; 2 something is missing, or wrong usage" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as ended:
        run([command, "--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert "example: casam-audit " + command in text
    assert "exit codes:" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["burn"],
        ["show"],
        ["export", "home"],
        ["verify", "export"],
        ["diff", "a"],
        ["entry", "export"],
        ["entry", "export", "-1"],
        ["entry", "export", "1.5"],
        ["entry", "export", "٣"],
        ["entry", "export", "1", "--log", "both"],
        ["show", "x", "--key", "0123"],
        ["show", "x", "--key", "0123456789xy"],
        ["export", "home", "out", "more"],
    ],
)
def test_wrong_usage_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
    assert "usage: casam-audit" in capsys.readouterr().err


def test_help_imports_nothing_that_takes_time():
    code = "import sys\nfrom casam_fed.audit.cli import run\ntry: run(['-h'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"cryptography", "torch", "numpy", "click", "pydantic", "yaml", "casam_fed.audit.verify"}


def test_an_auditor_needs_python_and_cryptography_alone():
    """Every module of the command is loaded where nothing else can be found."""
    code = (
        "import sys, importlib, pathlib\n"
        "known = set(sys.stdlib_module_names) | {'cryptography', '_cffi_backend', 'casam_fed'}\n"
        "class Only:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] not in known: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Only())\n"
        "for path in sorted(pathlib.Path('casam_fed/audit').glob('[a-z]*.py')):\n"
        "    importlib.import_module(f'casam_fed.audit.{path.stem}')\n"
        "print('all')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "all", "")


def test_it_runs_as_a_program_of_its_own(made):
    done = started("verify", made / "site", *given(made, "site"))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.startswith("verified: ") for line in done.stdout.splitlines())
    assert started("--version").stdout.startswith("casam-audit 0.")
    assert started("diff", made / "site", made / "keys").returncode == 2


def test_a_reader_who_has_seen_enough_is_no_error(made):
    command = [sys.executable, "-m", "casam_fed.audit", "show", str(made / "site")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_terminal_without_unicode_shows_what_it_can(tmp_path, made):
    shutil.copytree(made / "site", tmp_path / "site")
    (tmp_path / "site/ä\n\x1b[2Jverified: all").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "casam_fed.audit", "verify", str(tmp_path / "site"), *given(made, "site")],
        capture_output=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONIOENCODING": "ascii", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    (line,) = done.stdout.splitlines()
    assert done.returncode == 1
    assert line.startswith(rb"failed [surplus]: nothing in the logs accounts for \xe4\n\x1b[2Jverified: all; ")


# ---- verify ----


@pytest.mark.parametrize("kind", GIVEN)
def test_a_good_export_is_verified(made, capsys, kind):
    assert run(["verify", str(made / kind), *given(made, kind)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 7
    assert all(line.startswith("verified: ") for line in lines)
    assert run(["verify", str(made / kind), *given(made, kind), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["result", "code", "sentence", "entries", "releases"]
    assert report["result"] == "verified"


@pytest.mark.parametrize(
    ("defect", "word"),
    [("release changed", "failed"), ("release missing", "incomplete"), ("smuggled extra file", "failed")],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, capsys, defect, word):
    case = DEFECTS[defect]
    case.made_in(tmp_path)
    arguments = ["verify", str(tmp_path / "export"), *given(tmp_path, case.kind)]
    assert run(arguments) == case.status
    line = capsys.readouterr().out
    assert re.fullmatch(rf"{word} \[{case.code}\]: [^\n]+; [^\n]+\n", line)
    assert run([*arguments, "--json"]) == case.status
    report = json.loads(capsys.readouterr().out)
    assert (report["result"], report["code"]) == (word, case.code)
    assert report["sentence"] in line


# ---- show ----


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert run(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_time_line_tells_who_let_what_go_and_what_became_of_it(made, capsys):
    lines = shown(capsys, made / "site")
    text = "\n".join(lines)
    assert [line[:20] for line in lines] == sorted(line[:20] for line in lines)
    release = f"release {POLYP.digest[:12]}"
    for part in (
        f"approved    {release} of task polyp may leave to federation north, by a person: {len(POLYP.data)} bytes, "
        "learned from at least 20 images of 10 patients",
        f"intent      answer to train.submit with {release} is about to leave:",
        "sent        what entry 4 announced has left, as message",
        "withheld    answer to query.sync was kept back; the error code Undeclared goes in its place",
        f"receipt     {release}: told admitted, Q201, by entry 10 of the aggregator's log",
        f"admitted    {release} of task polyp from site clinic,",
        f"witnessed   {BANK_LOG} had seen the first 18 entries",
        f"witnessed   {SITE_LOG} had seen the first 11 entries",
    ):
        assert part in text
    assert "harbour" not in text


@pytest.mark.parametrize(
    ("first", "second"), [("site", "of-site/home"), ("bank", "of-bank/home"), ("bank/bank", "bank")]
)
def test_home_export_and_log_tell_the_same(made, capsys, first, second):
    assert shown(capsys, made / first) == shown(capsys, made / second)


def test_one_log_is_shown_whole(made, capsys):
    assert shown(capsys, made / "site", "--log", "bank")[:-1] == shown(capsys, made / "bank")[:-2]
    assert shown(capsys, made / "site", "--log", "site") == shown(capsys, made / "of-site/home" / LOG_FOLDER)
    fingerprint = fingerprint_of(CLINIC)
    grouped = " ".join(fingerprint[place : place + 4] for place in range(0, 64, 4)).upper()
    assert shown(capsys, made / "of-site/home", "--key", grouped) == shown(capsys, made / "site")


def test_a_site_that_has_not_met_its_aggregator_is_shown(tmp_path, capsys):
    home = site_home(tmp_path)
    for folder in (home / "audit").glob("bank-*"):
        shutil.rmtree(folder)
    assert len(shown(capsys, home)) == 23


def test_a_time_line_is_json(made, capsys):
    assert run(["show", str(made / "site"), "--json"]) == 0
    items = json.loads(capsys.readouterr().out)
    assert items[0] == {
        "time": "2026-11-25T07:00:00Z",
        "log": "site",
        "index": 0,
        "event": "began",
        "subjects": {"key": fingerprint_of(CLINIC)},
        "facts": {"site": SITE, "code": "0.2.0"},
    }
    seen = {"by": BANK_LOG, "size": 18}
    assert items[-2] == {
        "time": "2026-11-25T08:00:00Z",
        "log": "site",
        "index": -1,
        "event": "witnessed",
        "subjects": {},
        "facts": seen,
    }


def sample(log: str, event: str) -> Event:
    """Return an event with all its facts, in some form or other."""
    form = FORMS[log][event]
    texts = {"objects": [{"id": "0" * 64, "bytes": 1}], **dict.fromkeys(("size", "images", "patients", "entry"), 1)}
    facts = {name: texts.get(name, "word") for name in form.facts}
    return Event(
        f"casam-fed/{log}/x/0", 0, "", "", event, dict.fromkeys(form.subjects | form.optional, "1" * 64), facts
    )


@pytest.mark.parametrize(("log", "event"), [(log, event) for log in FORMS for event in FORMS[log]])
def test_every_event_has_words(log, event):
    words = describe(sample(log, event))
    assert words
    assert "None" not in words
    assert event in EVENTS


# ---- diff ----


def another(folder: Path, kind: str, change: Callable[[Draft], object]) -> Path:
    """Write an export that differs from the good one."""
    draft = drafted(kind)
    change(draft)
    written(draft, folder)
    return folder


def _shorter(log: str, by: int = 2) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        del draft.lines[log][-by:]
        if log == "bank":
            draft.proofs.clear()

    return change


def _forked(log: str) -> Callable[[Draft], object]:
    def change(draft: Draft) -> None:
        draft.lines[log][-3].time = draft.lines[log][-2].time

    return change


def compared(capsys: pytest.CaptureFixture[str], *paths: Path) -> tuple[int, list[str]]:
    code = run(["diff", *map(str, paths)])
    return code, capsys.readouterr().out.splitlines()


def test_a_site_and_its_aggregator_tell_one_history(made, capsys):
    assert compared(capsys, made / "site", made / "bank") == (
        0,
        [
            f"log {BANK_LOG}, one history: the first 13 entries are the same; "
            f"entries: 13 in {made / 'site'} and 13 in {made / 'bank'}"
        ],
    )


@pytest.mark.parametrize("log", ["bank", "site"])
def test_an_older_export_is_continued_by_a_newer_one(tmp_path, made, capsys, log):
    older = another(tmp_path / "older", "site", _shorter(log))
    code, lines = compared(capsys, older, made / "site")
    assert code == 0
    assert len(lines) == 4
    size = {"bank": 13, "site": 22}[log]
    only = [line for line in lines if line.startswith(f"only in {made / 'site'}: ")]
    assert [line.split(": ")[1].split()[0] for line in only] == [str(size - 2), str(size - 1)]
    assert any(f"one history: the first {size - 2} entries are the same;" in line for line in lines)
    assert compared(capsys, made / "site", older)[0] == 0


@pytest.mark.parametrize("log", ["bank", "site"])
def test_two_histories_of_one_log_are_found(tmp_path, made, capsys, log):
    other = another(tmp_path / "other", "site", _forked(log))
    code, lines = compared(capsys, made / "site", other)
    assert code == 1
    size = {"bank": 13, "site": 22}[log]
    assert any(f"two histories: the first {size - 3} entries are the same;" in line for line in lines)
    for path in (made / "site", other):
        assert len([line for line in lines if line.startswith(f"only in {path}: ")]) == 3
    comparisons = {each.kind: each for each in diff(made / "site", other)}
    assert comparisons[log].result == "forked"
    assert comparisons[log].common == size - 3


def test_a_fork_is_found_whatever_else_one_side_has(tmp_path, made, capsys):
    def change(draft: Draft) -> None:
        _forked("bank")(draft)
        draft.append("bank", "enrolled", {"key": "1" * 64}, {"site": "surgery"})

    assert compared(capsys, made / "bank", another(tmp_path / "other", "bank", change))[0] == 1


def test_a_comparison_is_json(tmp_path, made, capsys):
    other = another(tmp_path / "other", "site", _forked("site"))
    assert run(["diff", str(made / "site"), str(other), "--json"]) == 1
    bank, site = json.loads(capsys.readouterr().out)
    assert bank == {
        "kind": "bank",
        "origin": BANK_LOG,
        "sizes": [13, 13],
        "common": 13,
        "result": "same",
        "only": [[], []],
    }
    assert site["result"] == "forked"
    assert [each["index"] for each in site["only"][0]] == [19, 20, 21]


def test_exports_of_two_federations_are_not_compared(tmp_path, made, capsys):
    other = another(tmp_path / "other", "bank", lambda draft: draft.manifest.update(federation="south"))
    assert run(["diff", str(made / "bank"), str(other)]) == 2
    assert capsys.readouterr().err == (
        f"casam-audit: {made / 'bank'} is of federation north and {other} of south: they have no log in common; "
        "give two exports of one federation\n"
    )


def test_logs_of_two_keys_are_not_compared(tmp_path, made, capsys):
    def change(draft: Draft) -> None:
        draft.signed["bank"].origin = f"casam-fed/bank/{FEDERATION}/{fingerprint_of(HARBOUR)[:12]}"
        draft.signed["bank"].key = HARBOUR

    assert run(["diff", str(made / "bank"), str(another(tmp_path / "other", "bank", change))]) == 2
    assert "which another key signs: these are two logs" in capsys.readouterr().err


def test_logs_of_a_site_under_two_keys_are_not_compared_but_the_aggregators_is(tmp_path, made, capsys):
    def change(draft: Draft) -> None:
        draft.signed["site"].origin = f"casam-fed/site/{SITE}/{fingerprint_of(HARBOUR)[:12]}"
        draft.signed["site"].key = HARBOUR

    code, lines = compared(capsys, made / "site", another(tmp_path / "other", "site", change))
    assert (code, len(lines)) == (0, 2)
    assert "one history" in lines[0]
    assert lines[1].endswith(": not compared")
    assert [each.result for each in diff(made / "site", tmp_path / "other")] == ["same", "unrelated"]


# ---- entry ----


def test_an_entry_is_explained_to_its_last_field(made, capsys):
    assert run(["entry", str(made / "site"), "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"entry 4 of {SITE_LOG}: a message is about to leave; this was on the disk before anything went"
    words = [line.split()[0] for line in lines if line]
    assert words[1:4] == ["bytes", "digest", "leaf"]
    assert words.count("path") == 5
    head, facts = ["log", "sequence", "previous", "time", "event"], ["federation", "kind", "objects", "request", "size"]
    assert words[-12:] == ["payload", "release", *head, *facts]


def test_the_path_of_an_entry_leads_to_the_root(made):
    for log, size in (("site", 22), ("bank", 13)):
        for index in range(size):
            found = explain(made / "site", index, log)
            check_inclusion(found.leaf, index, size, found.path, found.checkpoint.root)
            assert found.event.sequence == index
            assert len(found.lines()) > 10


def test_an_entry_is_json(made, capsys):
    assert run(["entry", str(made / "site"), "3", "--log", "bank", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["event"]["event"] == "revoked"
    assert found["size"] == 13
    assert found["key"] == fingerprint_of(BANK)
    assert json.loads(found["bytes"])["payloadType"] == "application/vnd.in-toto+json"
    assert run(["entry", str(made / "bank"), "0"]) == 0
    assert "the log begins" in capsys.readouterr().out


def test_a_log_of_one_entry_has_no_path(tmp_path, capsys):
    export = another(tmp_path / "export", "bank", _shorter("bank", 12))
    assert run(["entry", str(export), "0"]) == 0
    assert "path       empty: the log has one entry, whose leaf is the root" in capsys.readouterr().out


def test_every_subject_and_fact_of_an_event_is_explained():
    forms = [form for kind in FORMS.values() for form in kind.values()]
    assert {role for form in forms for role in form.subjects | form.optional} == set(SUBJECTS)
    assert {name for form in forms for name in form.facts} <= set(FIELDS)
    assert {event for kind in FORMS.values() for event in kind} == set(EVENTS)


# ---- What is unfit ----


def _cut(folder: Path) -> None:
    os.truncate(folder / "site/tile/entries/000.p/22", 5000)


def _without_tiles(folder: Path) -> None:
    shutil.rmtree(folder / "site/tile")


def _newer(folder: Path) -> None:
    path = folder / "export.json"
    path.write_text(path.read_text().replace('"format":1', '"format":2'))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


UNFIT = {
    "cut in mid-entry": (_cut, 1, "ends within entry"),
    "without tiles": (_without_tiles, 2, "is not in the export"),
    "newer": (_newer, 2, "use a newer casam-fed"),
    "empty": (_empty, 2, "there is no folder {}, or nothing in it"),
    "missing": (shutil.rmtree, 2, "there is no"),
}
ASKED = {
    "show": lambda export: ["show", export],
    "verify": lambda export: ["verify", export, *given(Path(export).parent, "site")],
    "diff": lambda export: ["diff", export, export],
    "entry": lambda export: ["entry", export, "4"],
}


@pytest.mark.parametrize("defect", UNFIT)
@pytest.mark.parametrize("command", ASKED)
def test_an_unfit_export_is_told_in_one_sentence(tmp_path, capsys, command, defect):
    spoil, code, sentence = UNFIT[defect]
    written(drafted("site"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    spoil(tmp_path / "export")
    assert run(ASKED[command](str(tmp_path / "export"))) == code
    told = capsys.readouterr()
    text = told.out if command == "verify" else told.err
    assert (told.err if command == "verify" else told.out) == ""
    assert text.count("\n") == 1
    assert "; " in text
    if command != "show" or defect not in ("empty", "missing"):
        assert sentence.format(tmp_path / "export") in text
    if command != "verify":
        assert text.startswith("casam-audit: ")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["entry", "site", "99"], 2, "the site's log has entries 0 to 21, not 99; choose one of those"),
        (["entry", "bank", "0", "--log", "site"], 2, "holds no site's log; use --log bank"),
        (["show", "bank", "--log", "site"], 2, "has no site log; leave --log out"),
        (["show", "keys"], 2, "neither a site's folder nor an aggregator's; give one of those"),
        (["show", "keys/bank.pem"], 2, "neither a site's folder nor an aggregator's; give one of those"),
        (["export", "keys", "out"], 2, "neither a site's folder nor an aggregator's; give one of those"),
        (["export", "of-site/home", "site"], 2, "there is something at"),
        (["export", "of-bank/home", "out", "--key", "0123456789ab"], 2, "leave --key out"),
    ],
)
def test_unfit_arguments_are_told_in_one_sentence(made, capsys, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(made)
    assert run(arguments) == code
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith("casam-audit: ")
    assert sentence in told.err


def test_a_damaged_home_is_told_in_one_sentence(tmp_path, capsys):
    home = site_home(tmp_path)
    os.truncate(home / LOG_FOLDER / "tile/entries/000.p/22", 5000)
    for arguments in (["show", str(home)], ["export", str(home), str(tmp_path / "out")]):
        assert run(arguments) == 1
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
        assert "is damaged" in told.err


def test_entries_of_a_newer_version_are_told_so(tmp_path, capsys):
    next(defect for defect in DEFECTS.values() if defect.code == "newer-event").made_in(tmp_path)
    assert run(["show", str(tmp_path / "export")]) == 2
    assert "use a newer casam-fed" in capsys.readouterr().err


# ---- export ----


def test_an_export_tells_what_is_in_it(tmp_path, made, capsys):
    for kind, whose in (("site", "site clinic in"), ("bank", "the bank of")):
        assert run(["export", str(made / f"of-{kind}/home"), str(tmp_path / kind)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"{tmp_path / kind}: export of {whose} federation north, ")
        assert run(["verify", str(tmp_path / kind), *given(made, kind)]) == 0
        capsys.readouterr()


def test_an_export_tells_what_it_lacks(tmp_path, capsys):
    home = site_home(tmp_path)
    next((home / "audit/payloads").glob("[0-9a-f]*.json")).unlink()
    assert run(["export", str(home), str(tmp_path / "out")]) == 2
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"not in it: payloads/[0-9a-f]{64}\.json: the home holds none", line)


def test_a_long_log_is_shown_to_its_end(tmp_path, capsys):
    draft = drafted("site")
    for _ in range(300):
        leave(draft, "query.hello", '{"site":"clinic"}')
    written(draft, tmp_path / "export")
    assert len(shown(capsys, tmp_path / "export", "--log", "site")) == 623
    assert len(list(time_line(tmp_path / "export/site"))) == 623
