"""Two verifiers that share no line: what the bytes of an export prove, both find; its story is casam-audit's alone."""

import json
import os
import random
import re
import subprocess
import time
from collections import Counter
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

from .defects import DEFECTS, FORGERIES, FOUND_AS_ANOTHER, LEFT_TO_CASAM_AUDIT, under_another_key
from .exports import (
    BANK,
    CLINIC,
    GIVEN,
    GLAND,
    LESION,
    OTHER_SITE,
    POLYP,
    SITE,
    STRANGER,
    VESSEL,
    Draft,
    canonical,
    decided,
    digest_of,
    drafted,
    entries_of,
    fingerprint_of,
    leave,
    made,
    payload_of,
    write_keys,
    written,
)
from .forging import says

SCRIPT = Path(casam_fed.audit.__file__).parent / "verify.sh"
WORDS = {0: "verified: bytes", 1: "failed", 2: "incomplete"}

BYTES = re.compile(
    "(checkpoint|entry|cosignature|proof)-.*|.*-(signature|digest|key)|hash-tile|root|sequence|chain|fork|surplus"
    "|not-approved|receipt-decision|admitted-not-sent|admitted-other"
)
"""Codes of what verify.sh must find under the same name."""


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


def code_in_script(name: str) -> str:
    """Return the code with which verify.sh must end for a defect; "" for what is left to casam-audit."""
    code = DEFECTS[name].code
    return "" if name in LEFT_TO_CASAM_AUDIT.get(code, ()) else FOUND_AS_ANOTHER.get(name, code)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_has_its_code_in_both_verifiers_or_is_left_to_casam_audit(name, scripted):
    defect = DEFECTS[name]
    case, run = scripted(name)
    keys = defect.given(case)
    report = verify(case / "export", keys[0], keys[1:])
    assert (report.code, report.exit_code) == (defect.code, defect.status), report.sentence
    expected = code_in_script(name)
    assert (code_of(run), run.returncode) == (expected, CODES[expected] if expected else 0), run.stdout
    assert len(run.stdout.splitlines()) == 1 or not expected


def test_what_is_left_to_casam_audit_is_the_story_and_no_more():
    left = {name: code for code, names in LEFT_TO_CASAM_AUDIT.items() for name in names}
    assert len(left) == 14
    assert all(DEFECTS[name].code == code for name, code in left.items())
    assert not left.keys() & FOUND_AS_ANOTHER.keys()
    assert not [name for name in (*left, *FOUND_AS_ANOTHER) if BYTES.fullmatch(DEFECTS[name].code)]
    assert {name: code for name, code in FOUND_AS_ANOTHER.items() if DEFECTS[name].code == code} == {}


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
    *witnessed, last = run.stdout.splitlines()
    assert last == "verified: bytes"
    size = 18 if kind == "site" else 12
    assert all(
        re.fullmatch("verified: the first [0-9]+ of [0-9]+ entries of the .* log, cosigned by .*", line)
        for line in witnessed
    )
    assert len(witnessed) == 2
    assert f"the first {size} of" in witnessed[1]


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
        draft.append("bank", "enrolled", {"key": fingerprint_of(STRANGER)}, {"site": "surgery"})
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
        draft.append("bank", "enrolled", {"key": fingerprint_of(STRANGER)}, {"site": SITE})
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


def test_the_log_of_a_simulation_passes(tmp_path):
    """Nothing of Flower is in it: no ids of requests, no word that something was sent; and an option approves."""

    def simulated(draft: Draft) -> None:
        for each in (POLYP, LESION, VESSEL):
            again = made(each.task, stated={"approved": "option"})
            del draft.files[f"statements/{digest_of(each.statement)}.json"]
            draft.keep("statements", again.statement)
            for line in (*draft.lines["site"], *draft.lines["bank"]):
                if line.subjects.get("statement") == digest_of(each.statement):
                    line.subjects["statement"] = digest_of(again.statement)
        draft.lines["site"] = [line for line in draft.lines["site"] if line.event != "sent"]
        for line in draft.lines["site"]:
            line.facts |= {"intent": {"request": ""}, "approved": {"approved": "option"}}.get(line.event, {})

    assert good(tmp_path, "site", simulated) == ("", "")


def test_the_bank_cannot_speak_for_a_site_with_its_own_key(tmp_path):
    def posing(draft: Draft) -> None:
        draft.append("bank", "enrolled", {"key": fingerprint_of(BANK)}, {"site": OTHER_SITE})
        forged = made("tumour", OTHER_SITE, BANK)
        draft.append("bank", "quarantined", *decided(forged, "Q201"))
        draft.files[f"releases/{forged.digest}.safetensors"] = forged.data
        draft.keep("cards", forged.card)
        draft.keep("statements", forged.statement)

    assert good(tmp_path, "bank", posing) == ("key-missing", "key-missing")


def test_the_bank_cannot_be_its_own_witness(tmp_path):
    def witnessing(draft: Draft) -> None:
        draft.append("bank", "enrolled", {"key": fingerprint_of(BANK)}, {"site": "surgery"})
        name = f"casam-fed/site/surgery/{fingerprint_of(BANK)[:12]}"
        draft.signed["bank"].witnesses = {"surgery": (name, BANK, 3)}

    assert good(tmp_path, "bank", witnessing) == ("cosignature-missing", "cosignature-missing")


# ---- The forms of events, many at once ----


def judged_by_script(payloads: Sequence[str], tmp_path: Path) -> list[str]:
    """Return what verify.sh finds about each payload, of one line: good, newer or bad."""
    (tmp_path / "lines").write_text("".join(f"{payload}\n" for payload in payloads), encoding="utf-8")
    judge = '[try fromjson catch null][0] | ., if newer then "newer" elif event then "good" else "bad" end'
    command = f"source {SCRIPT}; jq -R -r -c -S \"$FORMS\"'{judge}' {tmp_path}/lines"
    answers = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(answers) == 2 * len(payloads)
    return [
        "bad" if word == "good" and canon != payload else word
        for payload, canon, word in zip(payloads, answers[::2], answers[1::2], strict=True)
    ]


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


OF_ITS_KIND = {
    "event with a name less",
    "event of no kind",
    "event of another log's kind",
    "about something else",
    "objects that are text",
    "request of no form",
}
"""Forgeries in the form of an event in general; that they are none of their kind casam-audit alone finds."""


def test_what_is_no_event_is_none_to_both_unless_only_its_kind_tells(tmp_path):
    intent = json.loads(good_payloads()[16])
    assert intent["predicate"]["event"] == "intent"
    payloads = [
        content.decode() if isinstance(content, bytes) else canonical(content).decode()
        for content in (forgery(json.loads(canonical(intent))) for forgery in FORGERIES.values())
    ]
    by_them = dict(zip(FORGERIES, judged_by_script(payloads, tmp_path), strict=True))
    assert by_them == {name: "good" if name in OF_ITS_KIND else "bad" for name in FORGERIES}
    assert {judged_by_python(payload) for payload in payloads} == {"bad"}


def test_what_is_an_event_to_casam_audit_is_one_to_the_script(tmp_path):
    chance = random.Random(20261125)
    payloads = good_payloads()
    changed = [change(chance, json.loads(chance.choice(payloads)), payloads) for _ in range(1500)]
    pairs = Counter(zip(map(judged_by_python, changed), judged_by_script(changed, tmp_path), strict=True))
    assert pairs.keys() == {("good", "good"), ("newer", "newer"), ("bad", "bad"), ("bad", "good")}
    assert min(pairs.values()) > 20
    # What only the kind of an event tells is the smaller part.
    assert pairs["bad", "good"] < pairs["bad", "bad"]


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


@pytest.mark.parametrize("tool", ["openssl", "jq", "sha256sum", "find", "basenc", "sort"])
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


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("export.json", "manifest-form"),
        ("bank/tile/entries/000.p/13", "entry-surplus"),
        (f"releases/{POLYP.digest}.safetensors", "release-digest"),
        (f"statements/{digest_of(POLYP.statement)}.json", "statement-size"),
    ],
)
def test_the_script_does_not_read_what_is_larger_than_it_can_be(tmp_path, path, code):
    """A file without blocks on the disk that says it has a terabyte, which no limit of time would outlast."""
    written(drafted("site"), tmp_path / "export")
    write_keys(tmp_path / "keys")
    os.truncate(tmp_path / "export" / path, 1 << 40)
    assert code_of(by_script([tmp_path / "export", tmp_path / "keys/bank.pem", tmp_path / "keys/clinic.pem"])) == code


def test_the_script_reckons_with_no_word(tmp_path):
    """In bash a word where a number should be is the name of a variable, whose content would be reckoned with."""
    draft = drafted("site")
    draft.line("site", "receipt", LESION).content = says(decision="note_size")
    written(draft, tmp_path / "export")
    write_keys(tmp_path / "keys")
    run = by_script([tmp_path / "export", tmp_path / "keys/bank.pem", tmp_path / "keys/clinic.pem"])
    assert code_of(run) == "proof-index"


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
