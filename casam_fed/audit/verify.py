"""The verification of an export: is what it says of releases what both parties signed, and all that they signed.

Keys come from the auditor, never from the export. The order of the checks is fixed, so that a defect has the same code
(`casam_fed.audit.check_folder.CODES`) here and in verify.sh, which shares no line with this. The first one ends it.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.check_events import (
    BankHistory,
    SiteHistory,
    check_cross,
    check_keys_of_site,
    check_seen,
    follow,
)
from casam_fed.audit.check_files import check_bank_files, check_keys_given, check_site_files
from casam_fed.audit.check_folder import (
    GUIDES,
    CheckError,
    Folder,
    Manifest,
    as_check_error,
    guide,
    read_manifest,
)
from casam_fed.audit.check_log import (
    Tree,
    check_owner,
    check_witnessed,
    checked_events,
    origin_of,
    read_checkpoint,
    read_tree,
)
from casam_fed.audit.check_receipts import check_receipts
from casam_fed.audit.event import Event, site_origin
from casam_fed.audit.keys import fingerprint, public_key
from casam_fed.errors import KeyFileError, StorageError
from casam_fed.host.files import as_storage_error

__all__ = ["Report", "verify"]

_MAX_KEY_BYTES = 1024


@dataclass
class Report:
    """What a verification came to.

    Attributes:
        result: "verified", "failed" (something is wrong) or "incomplete" (something is not there to be checked).
        code, sentence: why it ended; "" where verified.
        entries: folder of a log -> entries checked.
        releases: of each release digest, task, and when it was approved, when sent, and the outcome; "" for none.
        lines: what was verified, for people.
        notes: what was not.
    """

    result: str = "verified"
    code: str = ""
    sentence: str = ""
    entries: dict[str, int] = field(default_factory=lambda: {"site": 0, "bank": 0})
    releases: list[dict[str, str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return {"verified": 0, "failed": 1, "incomplete": 2}[self.result]

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        names = ("result", "code", "sentence", "entries", "releases")
        return {name: getattr(self, name) for name in names}


def verify(export: Path, bank_key: Path, site_keys: Sequence[Path]) -> Report:
    """Verify an export.

    Args:
        export: folder that casam-audit export has made.
        bank_key: file with the aggregator's public key, PEM.
        site_keys: files with sites' public keys; for the export of a site first the one of its log, then its earlier ones
            if it had any, for that of a bank those of all sites with a release in it.
    """
    report = Report()
    try:
        bank = _key(bank_key, "the aggregator")
        sites = {fingerprint(key): key for key in (_key(path, "a site") for path in site_keys)}
        folder = Folder(export)
        manifest = read_manifest(folder)
        if manifest.kind == "site":
            _verify_site(report, folder, manifest, bank, sites)
        else:
            _verify_bank(report, folder, manifest, bank, sites)
        report.notes += _foreign_guides(folder)
        if surplus := folder.surplus():
            raise CheckError(
                "surplus", f"nothing in the logs accounts for {surplus}; take it out, or ask who put it into the export"
            )
    except CheckError as error:
        report.result = "failed" if error.exit_code == 1 else "incomplete"
        report.code, report.sentence = error.code, str(error)
        report.releases, report.lines, report.notes = [], [], []
    return report


def _key(path: Path, owner: str) -> Ed25519PublicKey:
    with (
        as_check_error("key-form", of=(KeyFileError, StorageError)),
        as_storage_error("take the public key of " + owner + " from", path, "give the path of its file"),
        open(path, "rb", opener=_at_once) as file,
    ):
        return public_key((file.read(_MAX_KEY_BYTES + 1) or b"").decode("latin-1"), f"{owner} ({path})")


def _at_once(path: str, flags: int) -> int:
    # A pipe would wait for ever for somebody to write into it.
    return os.open(path, flags | os.O_NONBLOCK)


def _verify_site(
    report: Report, folder: Folder, manifest: Manifest, bank_key: Ed25519PublicKey, keys: dict[str, Ed25519PublicKey]
) -> None:
    if not keys:
        raise CheckError(
            "key-missing", f"no public key of site {manifest.site} was given; give it with --site-key FILE"
        )
    site_fingerprint, site_key = next(iter(keys.items()))
    bank = BankHistory(manifest.site)
    bank_tree = _log(report, folder, manifest, "bank", bank_key, bank)
    bank_seen = _check_witness(folder, bank_tree, bank_key, manifest.site, list(keys.values()))
    site = SiteHistory()
    site_tree = _log(report, folder, manifest, "site", site_key, site)
    witness = (origin_of("bank", manifest, bank_key), bank_key)
    site_seen = check_witnessed(folder, site_tree, site_key, "bank", [witness])
    check_seen(site, bank, site_seen[0])
    check_keys_of_site(bank, manifest.site, list(keys))
    check_site_files(folder, site, manifest, site_key)
    check_receipts(folder, site, bank_tree, bank_key)
    check_cross(site, bank, site_fingerprint)
    report.releases = _releases_of_site(site)
    report.notes = [
        f"the aggregator's log enrols another key for this site, {key[:12]}, and {count} admitted under it: their releases "
        "stand in the log of that key"
        for key, count in sorted(bank.under_other_keys(manifest.site, site_fingerprint).items())
    ]
    receipts = len(site.receipts)
    report.lines = [
        f"export of site {manifest.site} in federation {manifest.federation}, made {manifest.made}",
        _log_line(bank_tree, "this site", *bank_seen),
        _log_line(site_tree, "the aggregator", *site_seen),
        f"{_count(report.releases, 'release')} with card and signed statement, {_count(site.payloads, 'text')} that left, "
        f"{receipts} signed decision{'' if receipts == 1 else 's'} with proof",
        *map(_release_line, report.releases),
    ]


def _verify_bank(
    report: Report, folder: Folder, manifest: Manifest, bank_key: Ed25519PublicKey, keys: dict[str, Ed25519PublicKey]
) -> None:
    bank = BankHistory()
    tree = _log(report, folder, manifest, "bank", bank_key, bank)
    check_keys_given(folder, bank, keys)
    seen, notes = _check_witnesses(folder, tree, bank, bank_key, keys)
    check_bank_files(folder, bank, manifest, keys)
    report.releases = _releases_of_bank(bank)
    report.notes = notes
    report.lines = [
        f"export of the bank of federation {manifest.federation}, made {manifest.made}",
        *(_log_line(tree, f"site {name}", *when) for name, when in seen.items()),
        f"{_count(report.releases, 'release')} admitted, or put aside for a person, with signed statement",
        *map(_release_line, report.releases),
    ]


def _log(
    report: Report,
    folder: Folder,
    manifest: Manifest,
    kind: str,
    key: Ed25519PublicKey,
    history: BankHistory | SiteHistory,
) -> Tree:
    """Check one log up to the order of its events."""
    note = read_checkpoint(folder, kind)
    origin = origin_of(kind, manifest, key)
    check_owner(note, kind, origin, key)
    tree = read_tree(folder, kind, note)
    follow(checked_events(folder, tree, origin, key, manifest), history)
    report.entries[kind] = tree.size
    return tree


def _check_witness(
    folder: Folder, tree: Tree, bank_key: Ed25519PublicKey, site: str, keys: Sequence[Ed25519PublicKey]
) -> tuple[int, str]:
    """Check what a site has cosigned of the bank log, by the first of its keys that did; return how much, and when."""
    return check_witnessed(folder, tree, bank_key, site, [(site_origin(site, fingerprint(key)), key) for key in keys])


def _check_witnesses(
    folder: Folder, tree: Tree, bank: BankHistory, bank_key: Ed25519PublicKey, keys: dict[str, Ed25519PublicKey]
) -> tuple[dict[str, tuple[int, str]], list[str]]:
    """Check what the sites whose keys were given have cosigned; return that, and what there is to say of the others."""
    seen: dict[str, tuple[int, str]] = {}
    notes: list[str] = []
    for site in sorted(bank.keys):
        path = f"bank/witnessed/{site}"
        given = [key for key in bank.keys[site] if key in keys]
        if not folder.has(path):
            notes.append(f"site {site} was enrolled, and the export has no checkpoint that it has seen")
            continue
        if not given:
            notes.append(f"{path} was not checked, for want of that site's key")
            continue
        seen[site] = _check_witness(folder, tree, bank_key, site, [keys[key] for key in reversed(given)])
    if not seen:
        raise CheckError(
            "cosignature-missing",
            "no site whose key was given has cosigned the aggregator's log; give the key of one that has",
        )
    return seen, notes


def _foreign_guides(folder: Folder) -> list[str]:
    """Say which guides of the export are not those that came with this version: a script may do anything."""
    foreign = []
    for name in filter(folder.has, GUIDES):
        own = guide(name)
        if own is None or folder.size(name) != len(own) or folder.start(name, len(own), "surplus") != own:
            foreign.append(
                f"{name} in the export is not the one of this version; do not run it unless you know its maker"
            )
    return foreign


def _releases_of_site(site: SiteHistory) -> list[dict[str, str]]:
    outcomes = {event.subjects["release"]: event.facts["outcome"] for event in site.receipts}
    return [
        _release(digest, events[-1], events[-1].time, site.sent.get(digest, ""), outcomes.get(digest, ""))
        for digest, events in site.approvals.items()
    ]


def _releases_of_bank(bank: BankHistory) -> list[dict[str, str]]:
    return [
        _release(digest, event, "", "", event.event)
        for (_, digest), event in bank.last().items()
        if event.event != "refused"
    ]


def _release(digest: str, event: Event, approved: str, sent: str, outcome: str) -> dict[str, str]:
    return {"digest": digest, "task": event.facts["task"], "approved": approved, "sent": sent, "outcome": outcome}


def _release_line(release: dict[str, str]) -> str:
    told = [f"{word} {release[word]}" for word in ("approved", "sent") if release[word]]
    if not release["sent"] and release["approved"]:
        told.append("not known to have left")
    return f"release {release['digest'][:12]} of task {release['task']}: " + ", ".join(
        [*told, release["outcome"] or "not decided yet"]
    )


def _log_line(tree: Tree, witness: str, seen: int, time: str) -> str:
    return f"log {tree.note.checkpoint.origin}, {tree.size} entries; {witness} had seen {seen} of them by {time}"


def _count(things: Sequence[object] | dict[str, None], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
