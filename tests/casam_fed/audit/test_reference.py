"""The reference pages speak of every code and every event, and of no other."""

import re
from pathlib import Path

from casam_fed.audit.check_folder import CODES
from casam_fed.audit.event import FORMS, REASONS

from .defects import DEFECTS, FOUND_AS_ANOTHER, LEFT_TO_CASAM_AUDIT

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def test_every_code_is_explained_with_its_exit_code():
    page = (REFERENCE / "casam-audit.md").read_text().partition("## Codes")[2].partition("\n## ")[0]
    found = {}
    for codes, exit_code in re.findall(r"^\| (`.+?`) \| ([12]) \|", page, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`([a-z-]+)`", codes), int(exit_code))
    assert found == CODES


def test_what_the_script_leaves_to_casam_audit_is_listed_by_its_code():
    page = (REFERENCE / "casam-audit.md").read_text().partition("## What verify.sh leaves to casam-audit")[2]
    rows = re.findall(r"^\| `([a-z-]+)` \| ([0-9]+) \|", page, re.MULTILINE)
    assert {code: int(count) for code, count in rows} == {
        code: len(names) for code, names in LEFT_TO_CASAM_AUDIT.items()
    }
    left = sum(map(len, LEFT_TO_CASAM_AUDIT.values()))
    assert f"Of the {len(DEFECTS)} defects" in page
    assert f"only `casam-audit` finds these {left}:" in page
    assert all(f"(`{code}`" in page for code in FOUND_AS_ANOTHER.values())


def test_every_event_is_explained():
    page = (REFERENCE / "log-entry.md").read_text()
    site, bank = page.partition("## Events of a site log")[2].split("## Events of a bank log")
    for log, text in (("site", site), ("bank", bank.partition("## Versions")[0])):
        rows = re.findall(r"^\| (`[a-z]+`(?:, `[a-z]+`)*) \| (.*) \|$", text, re.MULTILINE)
        explained = {event: row for events, row in rows for event in re.findall(r"`([a-z]+)`", events)}
        assert explained.keys() == FORMS[log].keys()
        for event, form in FORMS[log].items():
            for word in (*form.subjects, *form.optional, *form.facts):
                assert f"`{word}`" in explained[event], (event, word)
    assert all(f"`{reason}`" in bank for reason in REASONS)
