"""`casam-aggregator bank`: what the bank holds, and the decisions behind it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aggregator.home import Home
from aggregator.ledger import Ledger
from aggregator.records import read_records
from casam_fed.audit.event import REASONS
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import BankError
from casam_fed.host.command_line import folder_argument, json_option, require_yes

if TYPE_CHECKING:
    from aggregator.decisions import Decisions
    from casam_fed.routing.overlap import OverlapTable

__all__ = ["bank"]

_site_option = click.option("--site", help="Whose, where several sites have named a task so.")


@click.group()
def bank() -> None:
    """List, show, verify, accept and retire entries of the bank."""


@bank.command("list")
@folder_argument
@json_option
def list_command(folder: Path, as_json: bool) -> None:
    """Show all entries, and the releases that wait for a person."""
    home = Home(folder)
    snapshot = read_snapshot(home.bank)
    waiting = [record for record in read_records(home) if record.outcome == "quarantined"]
    if as_json:
        entries = [asdict(entry) for entry in snapshot.entries]
        held = [
            {"site": r.site, "task": r.task, "digest": r.digest, "code": r.code, "reason": r.reason} for r in waiting
        ]
        click.echo(json.dumps({"digest": snapshot.digest, "entries": entries, "quarantined": held}, indent=1))
        return
    click.echo(f"bank {snapshot.digest}, backbone {snapshot.backbone}")
    for entry in snapshot.entries:
        click.echo(
            f"{entry.sequence:4} {entry.status:8} {entry.task:24} {entry.site:24} {entry.bytes:12,} B  {entry.digest[:16]}"
        )
    for record in waiting:
        click.echo(f"   - {record.code:8} {record.task:24} {record.site:24} {record.digest[:16]}  {record.reason}")
    if waiting:
        click.echo(f"Waiting for you: casam-aggregator bank show {folder} TASK, then bank accept or leave it.")


@bank.command("show")
@folder_argument
@click.argument("task")
@_site_option
@json_option
def show_command(folder: Path, task: str, site: str | None, as_json: bool) -> None:
    """Show a task: its card, its decision, and what its router takes from others (the overlap table)."""
    from casam_fed.bank.layer_bank import LayerBank
    from casam_fed.routing.overlap import OverlapTable

    decisions = _decisions(folder)
    bank = decisions.home.bank
    known = [
        record
        for record in decisions.records()
        if record.task == task and record.outcome != "refused" and site in (None, record.site)
    ]
    if not known:
        raise BankError(f"nothing is known of a task {task}; casam-aggregator bank list {folder} shows all")
    # What waits for a person comes first: it is what the person wants to look at.
    record = ([each for each in known if each.outcome == "quarantined"] or known)[-1]
    card = None
    if record.outcome == "quarantined":
        card = asdict(decisions.quarantined(record).card)
    elif any(entry.digest == record.digest for entry in read_snapshot(bank).active):
        card = asdict(LayerBank(bank).load(task).card)
    table = OverlapTable.from_json(record.overlap) if record.overlap else None
    if as_json:
        overlap = json.loads(record.overlap) if record.overlap else None
        click.echo(json.dumps({"record": asdict(record) | {"overlap": overlap}, "card": card}, indent=1))
        return
    click.echo(f"{task} of {record.site}: {record.outcome} {record.code}, {record.time}\n  {record.reason}")
    click.echo(f"  release {record.digest}")
    if others := sorted({each.site for each in known} - {record.site}):
        click.echo(f"  a release of that name came from {', '.join(others)} too; choose with --site")
    if card is not None:
        for name in ("modality", "classes", "unit", "images", "patients", "backbone", "seed"):
            click.echo(f"  {name:9} {', '.join(card[name]) if name == 'classes' else card[name]}")
    if table is not None:
        click.echo(_overlap(table))


@bank.command("verify")
@folder_argument
@json_option
def verify_command(folder: Path, as_json: bool) -> None:
    """Read the log and every object of the bank, check that the one follows from the other, and say what was found."""
    from casam_fed.bank.layer_bank import LayerBank

    home = Home(folder)
    bank, ledger = LayerBank(home.bank), Ledger(home)
    told = ledger.snapshot()
    if told != bank.snapshot():
        raise BankError(
            f"the bank ({bank.snapshot().digest[:12]}) is not what its log leads to ({told.digest[:12]}); if no delivery "
            "was cut short (the next makes that good), somebody changed it by another way"
        )
    bank.check_whole()
    entries = ledger.check_whole()
    facts = {"digest": told.digest, "entries": len(bank.entries()), "log": entries, "verified": True}
    sentence = f"{len(bank.entries())} entries verified, bank {told.digest}, by the {entries} entries of its log"
    click.echo(json.dumps(facts) if as_json else sentence)


@bank.command("retire")
@folder_argument
@click.argument("task")
@click.option("--reason", type=click.Choice(REASONS), required=True, help="Why; it goes into the bank's log.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def retire_command(folder: Path, task: str, reason: str, yes: bool) -> None:
    """Withdraw a task: its release leaves the bank for good, no other entry changes by one bit, its log says so."""
    home = Home(folder)
    # Its file may be damaged: that is a reason to retire it.
    if all(entry.task != task for entry in read_snapshot(home.bank).active):
        raise BankError(f"the bank has no task {task}; casam-aggregator bank list {folder} shows all")
    require_yes(f"Retire {task}? Its release is deleted here, and at every site at its next sync.", yes)
    entry = _decisions(folder).retire(task, reason)
    click.echo(f"{task} (entry {entry.sequence}) is retired; bank {read_snapshot(home.bank).digest}")


@bank.command("accept")
@folder_argument
@click.argument("task")
@_site_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def accept_command(folder: Path, task: str, site: str | None, yes: bool) -> None:
    """Admit a release that waits in quarantine, after a look at its overlap table (bank show)."""
    decisions = _decisions(folder)
    require_yes(f"Admit the quarantined release of {task}?", yes)
    record = decisions.accept(task, site)
    click.echo(f"{task} is entry {record.sequence} now; {record.site} hears of it at its next sync.")


def _decisions(folder: Path) -> "Decisions":
    # torch takes seconds to import: neither --help nor a wrong folder waits for it.
    home = Home(folder)
    from aggregator.decisions import Decisions

    return Decisions(home)


def _overlap(table: "OverlapTable") -> str:
    lines = [f"  what the router of {table.candidate} takes ({table.samples} samples a task):"]
    for kind, overlap in table.kinds.items():
        lines += [f"    {kind:9} {source:32} {share:6.1%}" for source, share in overlap.claimed.items()]
        lines += [f"    {kind:9} of its own, {source:21} {share:6.1%}" for source, share in overlap.own.items()]
        lines.append(f"    {kind:9} of its own, unknown {'':13} {overlap.unknown:6.1%}")
    return "\n".join(lines)
