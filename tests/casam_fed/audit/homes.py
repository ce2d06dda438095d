"""Homes of a site and an aggregator, as far as an export looks at them, made from the draft of the export they lead to."""

import shutil
from pathlib import Path

from .exports import BANK, CLINIC, FEDERATION, SITE, Draft, drafted, fingerprint_of, written

SITE_LOG = f"audit/log-{fingerprint_of(CLINIC)[:12]}"
MIRROR = f"audit/bank-{FEDERATION}-{fingerprint_of(BANK)[:12]}"


def site_home(folder: Path, draft: Draft | None = None) -> Path:
    """Make the home of a site, and return it; `made_in` beside it is the export that it should give."""
    export = _written(folder, draft or drafted("site"))
    home = folder / "home"
    _move(export / "site", home / SITE_LOG)
    _move(export / "bank", home / MIRROR)
    for name in ("payloads", "statements"):
        _move(export / name, home / "audit" / name)
    for path in export.glob("receipts/*.json"):
        _move(path, home / "audit/receipts" / path.name)
    for path in export.glob("releases/*"):
        _move(path, home / "work/seed-0/outbox" / path.name)
    _private(home, "site.yaml")
    (home / "audit/payloads/.0123.part").write_bytes(b"left by a crash")
    (home / "work/seed-0/outbox" / f"{'a' * 64}.safetensors").write_bytes(b"never approved")
    return home


def bank_home(folder: Path, draft: Draft | None = None) -> Path:
    """Make the home of an aggregator, and return it."""
    draft = draft or drafted("bank")
    export = _written(folder, draft)
    home = folder / "home"
    _move(export / "bank", home / "audit/bank")
    _move(export / "statements", home / "audit/statements")
    for path in sorted(export.glob("releases/*")):
        last = [line for line in draft.lines["bank"] if line.subjects.get("release") == path.stem][-1]
        place = "bank/objects" if last.event == "admitted" else f"quarantine/{last.facts['site']}"
        _move(path, home / place / path.name)
    _private(home, "aggregator.yaml")
    seen = home / "audit/sites" / SITE / fingerprint_of(CLINIC)[:12]
    seen.parent.mkdir(parents=True)
    seen.write_bytes(b"a checkpoint that the aggregator cosigned")
    return home


def _written(folder: Path, draft: Draft) -> Path:
    """Write the export that is expected, and a copy to be taken apart."""
    written(draft, folder / "expected")
    shutil.copytree(folder / "expected", folder / "parts")
    return folder / "parts"


def _private(home: Path, settings: str) -> None:
    (home / settings).write_text("name: [this is not even YAML\n")
    (home / "keys").mkdir()
    (home / "keys/signing.key").write_bytes(b"a secret")


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
