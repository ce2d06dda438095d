"""Exports of every format that there was: later versions verify them for ever, and nothing in `formats` is ever changed."""

import subprocess
from pathlib import Path

import pytest

import casam_fed.audit
from casam_fed.audit.verify import verify

FORMATS = Path(__file__).parent / "formats"
SCRIPT = Path(casam_fed.audit.__file__).parent / "verify.sh"
KEYS = {"site": ("bank", "clinic"), "bank": ("bank", "clinic", "harbour")}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("version", ["v1"])
def test_an_export_of_an_earlier_format_is_verified_by_both(version, kind):
    export, keys = FORMATS / version / kind, [FORMATS / version / "keys" / f"{name}.pem" for name in KEYS[kind]]
    report = verify(export, keys[0], keys[1:])
    assert (report.result, report.sentence) == ("verified", "")
    assert report.entries == {"bank": 13, "site": 22 if kind == "site" else 0}
    run = subprocess.run(["bash", SCRIPT, export, *keys], capture_output=True, text=True, check=False, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[-1].startswith("verified: ")


def test_every_format_is_tried():
    assert [path.name for path in sorted(FORMATS.iterdir())] == ["v1"]
