"""The reference pages speak of every code and every event, and of no other."""

import re
from pathlib import Path

from casam_fed.audit.check_folder import CODES
from casam_fed.audit.event import FORMS, REASONS

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def test_every_code_is_explained_with_its_exit_code():
    page = (REFERENCE / "casam-audit.md").read_text().partition("## Codes")[2]
    found = {}
    for codes, exit_code in re.findall(r"^\| (`.+?`) \| ([12]) \|", page, re.MULTILINE):
        found |= dict.fromkeys(re.findall(r"`([a-z-]+)`", codes), int(exit_code))
    assert found == CODES


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
