"""`casam-site status`: how far this site is, and what has left it."""

import json
from pathlib import Path
from typing import Any

import click

from casam_fed.audit.keys import fingerprint, shown
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import BankError, EnrolmentError
from casam_fed.host.command_line import folder_argument, json_option
from site_client.home import SiteHome
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog

__all__ = ["status"]


@click.command()
@folder_argument
@json_option
def status(folder: Path, as_json: bool) -> None:
    """Show how far this site is: welcome, release, decision, bank, and how much has left it."""
    home = SiteHome(folder)
    facts = _facts(home)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    click.echo(f"site         {facts['site']}, key {shown(facts['fingerprint'])}")
    click.echo(f"aggregator   {facts['aggregator'] or 'no welcome yet'}")
    click.echo(f"release      {facts['release'] or 'none trained'}{', approved' if facts['approved'] else ''}")
    click.echo(f"decision     {facts['decision'] or 'none'}")
    click.echo(f"bank         {facts['bank'] or 'none fetched'}")
    sent = facts["sent"]
    listed = f"; casam-audit show {folder} lists them" if sent["messages"] else ""
    click.echo(f"sent         {sent['messages']} messages, {sent['bytes']:,} bytes{listed}")
    click.echo(f"Next: casam-site {facts['next']} {folder}")


def _facts(home: SiteHome) -> dict[str, Any]:
    outbox = Outbox(home)
    newest = outbox.newest()
    receipt = outbox.receipt(newest.digest) if newest else None
    try:
        welcome = home.welcome()
        aggregator = f"{welcome.federation} at {welcome.address}{'' if home.trusts(welcome) else ', not confirmed yet'}"
    except EnrolmentError:
        aggregator = ""
    try:
        snapshot = read_snapshot(home.bank)
        bank = f"{len(snapshot.active)} tasks, digest {snapshot.digest}"
    except BankError:
        bank = ""
    sent = [event.facts["size"] for event in ReleaseLog(home).events() if event.event == "intent"]
    decision = f"{receipt.outcome} {receipt.code} {receipt.reason}".rstrip() if receipt else ""
    step = "doctor" if not aggregator else "train" if newest is None else "join"
    if aggregator and receipt and receipt.outcome == "admitted":
        step = "sync"
    return {
        "site": home.settings.name,
        "fingerprint": fingerprint(home.signing_key().public_key()),
        "aggregator": aggregator,
        "release": newest.digest if newest else "",
        "approved": bool(newest and outbox.is_approved(newest.digest)),
        "decision": decision,
        "bank": bank,
        "sent": {"messages": len(sent), "bytes": sum(sent)},
        "next": step,
    }
