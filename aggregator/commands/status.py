"""`casam-aggregator status`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import click

from aggregator.authority import days_left
from aggregator.home import Home
from aggregator.sites import read_sites
from casam_fed.audit.keys import shown
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import ExchangeError
from casam_fed.host.clock import utc_now
from casam_fed.host.command_line import folder_argument, json_option
from casam_fed.host.printable import printable
from casam_fed.host.supervision import is_running
from casam_fed.wire.exchange import StageReport, decode_json

__all__ = ["status"]


@click.command()
@folder_argument
@json_option
def status(folder: Path, as_json: bool) -> None:
    """Show whether the aggregator runs, who is enrolled, who is online, and what each holds and scores."""
    home = Home(folder)
    facts = _facts(home)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"federation   {facts['federation']} at {facts['address']}, {'up' if facts['up'] else 'not running'}")
    click.echo(f"fingerprint  {shown(facts['fingerprint'])}")
    click.echo(f"bank         {facts['tasks']} tasks, digest {facts['bank']}")
    click.echo(f"certificate  {facts['certificate_days']} days left, its authority {facts['authority_days']}")
    for site, row in facts["sites"].items():
        state = "revoked" if row["revoked"] else "online" if row["online"] else "offline"
        holds = "this bank" if row["holds"] == facts["bank"] else "an older bank" if row["holds"] else "-"
        score = f"IoU {_number(row['iou'])} (plain SAM {_number(row['zero_shot'])})" if row["reported"] else ""
        # Sites have sent parts of the error.
        click.echo(printable(f"  {site:24} {state:8} {holds:14} {score} {row['error']}".rstrip()))
    if not facts["sites"]:
        click.echo(f"Nobody is enrolled. Next: casam-aggregator enroll {folder} REQUEST.json")


def _facts(home: Home) -> dict[str, Any]:
    snapshot = read_snapshot(home.bank)
    up = is_running(home.path)
    path = home.path / "flower" / "state.json"
    state: dict[str, Any] = json.loads(path.read_text())["sites"] if up and path.exists() else {}
    left = days_left(home.keys)
    sites = {}
    for name, record in read_sites(home.sites).items():
        seen = state.get(name, {"online": False, "holds": "", "error": ""})
        report = _report(home, snapshot.digest, name)
        sites[name] = {
            "fingerprint": record.keys[-1].fingerprint,
            "enrolled": record.keys[-1].since,
            "revoked": record.current is None,
            "online": seen["online"],
            "holds": seen["holds"],
            "error": seen["error"],
            "reported": report is not None,
            "iou": report.gaussian.scores.get("iou") if report else None,
            "zero_shot": report.zero_shot.scores.get("iou") if report else None,
        }
    return {
        "federation": home.config.federation,
        "address": home.config.address,
        "time": utc_now(),
        "up": up,
        "fingerprint": home.fingerprint(),
        "bank": snapshot.digest,
        "tasks": len(snapshot.active),
        "certificate_days": left.server,
        "authority_days": left.authority,
        "sites": sites,
    }


def _number(score: float | None) -> str:
    return "unknown" if score is None else f"{score:.3f}"


def _report(home: Home, bank: str, site: str) -> StageReport | None:
    path = home.reports / bank / f"{site}.json"
    # One that cannot be read is as none: the site's next evaluation writes it again.
    with contextlib.suppress(OSError, UnicodeDecodeError, ExchangeError):
        report: StageReport = decode_json(StageReport, path.read_text(), str(path))
        return report
    return None
