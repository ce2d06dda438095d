"""Two verifiers that share no line: each defect of an export has the same code in both, and a good export has none."""

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import casam_fed.audit
from casam_fed.audit.check_folder import CODES
from casam_fed.audit.event import read_event
from casam_fed.audit.verify import verify
from casam_fed.errors import NewerFormatError, SignatureError

from .defects import DEFECTS, FORGERIES, under_another_key
from .exports import (
    BANK,
    CLINIC,
    GIVEN,
    GLAND,
    POLYP,
    SITE,
    STRANGER,
    VESSEL,
    Draft,
    canonical,
    decided,
    drafted,
    entries_of,
    leave,
    made,
    payload_of,
    print_of,
    write_keys,
    written,
)

SCRIPT = Path(casam_fed.audit.__file__).parent / "verify.sh"
WORDS = {0: "verified:", 1: "failed", 2: "incomplete"}


def by_script(
    arguments: Sequence[Path | str], script: Path = SCRIPT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run verify.sh."""
    return subprocess.run(
        ["bash", script, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


def code_of(run: subprocess.CompletedProcess[str]) -> str:
    """Return the code in the last line, which must be a verdict, and fit the exit code; nothing may go to stderr."""
    last = run.stdout.splitlines()[-1]
    assert last.startswith(WORDS[run.returncode])
    assert not run.stderr
    return last[last.index("[") + 1 : last.index("]: ")] if run.returncode else ""


def verdicts(case: Path, keys: Sequence[Path]) -> tuple[str, str]:
    """Return the codes of both verifiers, Python's first; "" for a good export."""
    report = verify(case / "export", keys[0], keys[1:])
    run = by_script([case / "export", *keys])
    assert report.exit_code == run.returncode, (report.sentence, run.stdout)
    return report.code, code_of(run)


def good(case: Path, kind: str, change: Callable[[Draft], object], *names: str) -> tuple[str, str]:
    """Return the verdicts about an export that was changed before it was signed."""
    draft = drafted(kind)
    change(draft)
    written(draft, case / "export")
    write_keys(case / "keys")
    return verdicts(case, [case / "keys" / f"{name}.pem" for name in names or GIVEN[kind]])


@pytest.fixture(scope="module")
def scripted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[Path, subprocess.CompletedProcess[str]]]]:
    """Return what makes an export with a defect, and tells what verify.sh says about it.

    As many run at once as there are processors, unless pytest itself shares the tests out among processes.
    """
    made_ahead: dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]] = {}

    def start(name: str) -> tuple[Path, Future[subprocess.CompletedProcess[str]]]:
        case = tmp_path_factory.mktemp("case")
        DEFECTS[name].made_in(case)
        return case, pool.submit(by_script, [case / "export", *DEFECTS[name].given(case)])

    def result(name: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        case, run = made_ahead.get(name) or start(name)
        return case, run.result()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
            made_ahead.update({name: start(name) for name in DEFECTS if name in asked})
        yield result


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_has_its_code_in_both_verifiers(name, scripted):
    defect = DEFECTS[name]
    case, run = scripted(name)
    keys = defect.given(case)
    report = verify(case / "export", keys[0], keys[1:])
    assert (report.code, report.exit_code) == (defect.code, defect.status), report.sentence
    assert (code_of(run), run.returncode) == (defect.code, defect.status), run.stdout
    assert len(run.stdout.splitlines()) == 1


def test_every_code_has_a_defect_and_its_exit_code():
    assert {defect.code: defect.status for defect in DEFECTS.values()} == CODES


@pytest.mark.parametrize("kind", ["site", "bank"])
def test_a_good_export_passes_both_verifiers(tmp_path, kind):
    written(drafted(kind), tmp_path / "export")
    write_keys(tmp_path / "keys")
    keys = [tmp_path / "keys" / f"{name}.pem" for name in GIVEN[kind]]
    report = verify(tmp_path / "export", keys[0], keys[1:])
    assert (report.result, report.sentence) == ("verified", "")
    assert report.entries == {"bank": 13, "site": 22 if kind == "site" else 0}
    run = by_script([tmp_path / "export", *keys])
    assert code_of(run) == ""
    assert all(line.startswith("verified: ") for line in run.stdout.splitlines())
    assert all(release["digest"] in run.stdout for release in report.releases if release["outcome"] != "quarantined")


def test_the_same_draft_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        written(drafted("site"), tmp_path / name)
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)
    assert len(files) == len([path for path in (tmp_path / "two").rglob("*") if path.is_file()])


def test_a_log_of_more_than_one_tile_passes(tmp_path):
    def many(draft: Draft) -> None:
        while len(draft.lines["site"]) < 300:
            leave(draft, "query.hello", "{}")

    assert good(tmp_path, "site", many) == ("", "")
    assert (tmp_path / "export/site/tile/1/000.p/1").exists()


def test_a_log_of_exactly_one_tile_passes(tmp_path):
    def many(draft: Draft) -> None:
        while len(draft.lines["site"]) < 256:
            leave(draft, "query.hello", "{}")

    assert good(tmp_path, "site", many) == ("", "")


def test_a_retired_release_may_be_there(tmp_path):
    def kept(draft: Draft) -> None:
        draft.files[f"releases/{VESSEL.digest}.safetensors"] = VESSEL.data
        draft.keep("cards", VESSEL.card)

    assert good(tmp_path, "bank", kept) == ("", "")


def test_what_was_refused_in_the_end_need_not_be_there(tmp_path):
    def refused(draft: Draft) -> None:
        draft.append("bank", "refused", *decided(GLAND, "R112"))
        del draft.files[f"releases/{GLAND.digest}.safetensors"]

    assert good(tmp_path, "bank", refused)[0] == "surplus"


def test_a_witness_whose_key_nobody_gives_is_left_unchecked(tmp_path):
    def third(draft: Draft) -> None:
        draft.append("bank", "enrolled", {"key": print_of(STRANGER)}, {"site": "surgery"})
        draft.signed["bank"].witnesses["surgery"] = ("x", STRANGER, 3)

    assert good(tmp_path, "bank", third) == ("", "")
    run = by_script([tmp_path / "export", *(tmp_path / "keys" / f"{name}.pem" for name in GIVEN["bank"])])
    assert "verified: not checked, for want of that site's key: bank/witnessed/surgery" in run.stdout


def test_a_key_that_is_given_twice_is_one_key(tmp_path):
    assert good(tmp_path, "site", lambda draft: None, "bank", "clinic", "clinic") == ("", "")


def test_a_release_that_came_under_another_key_of_the_site_is_not_missed(tmp_path):
    assert good(tmp_path, "site", under_another_key, "bank", "clinic", "stranger") == ("", "")


def test_a_release_that_waited_while_the_key_changed_is_missed_in_the_log_of_its_own_key(tmp_path):
    def rotated(draft: Draft) -> None:
        later = made("tumour")
        draft.append("bank", "quarantined", *decided(later, "Q201"))
        draft.append("bank", "enrolled", {"key": print_of(STRANGER)}, {"site": SITE})
        draft.append("bank", "admitted", *decided(later, "Q201", entry=3, by="person"))

    assert good(tmp_path, "site", rotated) == ("admitted-not-sent", "admitted-not-sent")


def test_a_release_may_be_approved_and_sent_again(tmp_path):
    def twice(draft: Draft) -> None:
        line = draft.line("site", "approved", POLYP)
        draft.append("site", "declined", {"release": POLYP.digest}, {"federation": "north", "task": "polyp"})
        draft.append("site", "approved", line.subjects, line.facts)
        leave(draft, "train.submit", "{}", POLYP)
        witness, key, _ = draft.signed["site"].witnesses["bank"]
        draft.signed["site"].witnesses["bank"] = (witness, key, len(draft.lines["site"]))

    assert good(tmp_path, "site", twice) == ("", "")


# ---- The forms of events, many at once ----


def judged_by_script(payloads: Sequence[str], tmp_path: Path) -> list[str]:
    """Return what verify.sh finds about each payload, of one line: good, newer or bad."""
    (tmp_path / "lines").write_text("".join(f"{payload}\n" for payload in payloads), encoding="utf-8")
    command = f'source {SCRIPT}; work={tmp_path}; judge "$EVENT" {tmp_path}/lines; printf "%s\\n" "${{REPLIES[@]}}"'
    answers = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answers) == 2 * len(payloads)
    found = []
    for payload, canon, answer in zip(payloads, answers[::2], answers[1::2], strict=True):
        word = answer.split(" ")[0]
        found.append("bad" if word == "good" and canon != payload else word)
    return found


def judged_by_python(payload: str) -> str:
    """Return the same of `read_event`."""
    try:
        read_event(payload.encode(), "a test")
    except NewerFormatError:
        return "newer"
    except SignatureError:
        return "bad"
    return "good"


def good_payloads() -> list[str]:
    """Return the payloads of all entries of both logs."""
    draft = drafted("site")
    return [
        payload_of(entry).decode()
        for log, key in (("site", CLINIC), ("bank", BANK))
        for entry in entries_of(draft.lines[log], draft.signed[log].origin, key)
    ]


def test_every_event_of_the_good_logs_is_in_its_form(tmp_path):
    assert set(judged_by_script(good_payloads(), tmp_path)) == {"good"}


def test_what_is_no_event_is_none_to_both(tmp_path):
    intent = json.loads(good_payloads()[16])
    assert intent["predicate"]["event"] == "intent"
    payloads = [
        content.decode() if isinstance(content, bytes) else canonical(content).decode()
        for content in (forgery(json.loads(canonical(intent))) for forgery in FORGERIES.values())
    ]
    by_them = dict(zip(FORGERIES, judged_by_script(payloads, tmp_path), strict=True))
    assert by_them == dict.fromkeys(FORGERIES, "bad")
    assert {name: judged_by_python(payload) for name, payload in zip(FORGERIES, payloads, strict=True)} == by_them


def test_changed_events_are_the_same_to_both(tmp_path):
    chance = random.Random(20261125)
    payloads = good_payloads()
    changed = [change(chance, json.loads(chance.choice(payloads)), payloads) for _ in range(1500)]
    scripted = judged_by_script(changed, tmp_path)
    assert [judged_by_python(payload) for payload in changed] == scripted
    assert min(scripted.count(word) for word in ("good", "newer", "bad")) > 20


def change(chance: random.Random, content: dict[str, Any], payloads: Sequence[str]) -> str:
    """Return an event with one thing changed, in its form or out of it."""
    other = json.loads(chance.choice(payloads))
    values = [
        0,
        1,
        -1,
        2**53 - 1,
        2**53,
        1.5,
        "",
        "x",
        "a" * 64,
        "A" * 64,
        "x\n",
        None,
        True,
        [],
        {},
        "other",
        "option",
    ]
    place = chance.choice(["predicate", "facts", "other", "subject", "type", "bytes", "drop"])
    predicate = content["predicate"]
    if place == "predicate":
        predicate[chance.choice(sorted(predicate))] = chance.choice(values)
    elif place == "facts":
        predicate.update({name: chance.choice(values) for name in [chance.choice(sorted(other["predicate"]))]})
    elif place == "other":
        name = chance.choice(sorted(predicate))
        predicate[name] = other["predicate"].get(name, chance.choice(values))
    elif place == "subject":
        content["subject"] = chance.choice([other["subject"], content["subject"][::-1], content["subject"][:1]])
    elif place == "type":
        content["predicateType"] = (
            f"https://casam-fed.github.io/log-entry/v{chance.choice(['1', '2', '01', 'x', '10000'])}"
        )
    elif place == "drop":
        predicate.pop(chance.choice(sorted(predicate)))
    text = canonical(content).decode()
    if place == "bytes":
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["", " ", '"', "0", "\\u0041", "a", "}", "\u00e4"]) + text[at + 1 :]
    return text


# ---- verify.sh by itself ----


def test_the_script_says_how_it_is_used():
    for arguments in ([], ["folder"]):
        run = by_script(arguments)
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith("usage: bash verify.sh EXPORT")


@pytest.mark.parametrize("tool", ["openssl", "jq", "sha256sum", "find"])
def test_the_script_fails_where_a_tool_is_missing_or_broken(tmp_path, tool):
    written(drafted("site"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    (tmp_path / "bin").mkdir()
    for code in ("exit 0", "exit 1", "exit 141"):
        (tmp_path / "bin" / tool).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "bin" / tool).chmod(0o755)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        run = by_script([tmp_path / "export", tmp_path / "keys/bank.pem", tmp_path / "keys/clinic.pem"], PATH=path)
        assert run.returncode in (1, 2)
        assert run.stdout.splitlines()[-1].startswith(("failed", "incomplete"))
        assert "verified" not in run.stdout


def test_the_script_leaves_nothing_behind(tmp_path):
    written(drafted("bank"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    (tmp_path / "temporary").mkdir()
    arguments = [tmp_path / "export", *(tmp_path / "keys" / f"{name}.pem" for name in GIVEN["bank"])]
    assert by_script(arguments, TMPDIR=str(tmp_path / "temporary")).returncode == 0
    assert by_script([tmp_path / "keys", *arguments[1:]], TMPDIR=str(tmp_path / "temporary")).returncode == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_the_script_that_is_ended_says_that_it_verified_nothing(tmp_path):
    written(drafted("bank"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    for name in ("bin", "temporary"):
        (tmp_path / name).mkdir()
    started = tmp_path / "started"
    slow = f'#!/bin/sh\n[ "$1" = version ] && echo OpenSSL 3.0.0 && exit\ntouch {started}\nsleep 0.5\n'
    (tmp_path / "bin/openssl").write_text(slow)
    (tmp_path / "bin/openssl").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "temporary")}
    arguments = ["bash", SCRIPT, tmp_path / "export", *(tmp_path / "keys" / f"{name}.pem" for name in GIVEN["bank"])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert output.startswith("failed [internal]: ")
    assert not list((tmp_path / "temporary").iterdir())


def test_the_script_that_cannot_speak_does_not_succeed(tmp_path):
    written(drafted("bank"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    arguments = ["bash", SCRIPT, tmp_path / "export", *(tmp_path / "keys" / f"{name}.pem" for name in GIVEN["bank"])]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(arguments, stdout=full, stderr=subprocess.DEVNULL, check=False, timeout=300)
    assert run.returncode == 1


def test_odd_names_of_folders_do_no_harm(tmp_path):
    case = tmp_path / 'a b\n"$(c)'
    written(drafted("bank"), case / "export")
    write_keys(case / "keys")
    keys = [case / "keys" / f"{name}.pem" for name in GIVEN["bank"]]
    assert code_of(by_script([case / "export", *keys], TMPDIR=str(case))) == ""


def test_the_script_that_comes_with_an_export_is_the_same(tmp_path):
    written(drafted("bank"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    keys = [tmp_path / "keys" / f"{name}.pem" for name in GIVEN["bank"]]
    assert code_of(by_script([tmp_path / "export", *keys], tmp_path / "export/verify.sh")) == ""


def test_a_name_in_an_export_cannot_write_a_verdict(tmp_path):
    defect = DEFECTS["smuggled file with a line end in its name"]
    defect.made_in(tmp_path)
    run = by_script([tmp_path / "export", *defect.given(tmp_path)])
    assert len(run.stdout.splitlines()) == 1
