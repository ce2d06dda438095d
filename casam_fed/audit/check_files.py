"""The checks of what the entries of a log speak of: releases, their cards and statements, and the texts that left.

Forms: safetensors headers (8 bytes of length, little-endian, JSON); DSSE envelopes of in-toto statements
(`casam_fed.audit.statement`). Releases are hashed in chunks and never held whole.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.check_events import BankHistory, SiteHistory
from casam_fed.audit.check_folder import CheckError, Finding, Folder, Manifest, as_check_error, end_at_first
from casam_fed.audit.dsse import Envelope, is_signed, read_envelope
from casam_fed.audit.event import MAX_ENTRY_BYTES, Event
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import PAYLOAD_TYPE, open_statement

__all__ = [
    "HEAD_BYTES",
    "KEPT",
    "MAX_RELEASE_BYTES",
    "card_of",
    "check_bank_files",
    "check_keys_given",
    "check_site_files",
    "path_of",
]

MAX_RELEASE_BYTES = 128 << 20
MAX_PAYLOAD_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
HEAD_BYTES = 8 + _MAX_HEADER_BYTES
"""How much of a release may be needed to find its card."""

KEPT = ("admitted", "quarantined")
"""The last decisions about a release after which an aggregator keeps it."""

_FOLDERS = {
    "release": ("releases", "safetensors"),
    "card": ("cards", "json"),
    "statement": ("statements", "json"),
    "payload": ("payloads", "json"),
    "receipt": ("receipts", "json"),
    "proof": ("receipts", "tlog-proof"),
}
_ASK = "ask whoever made this export"


def path_of(role: str, digest: str) -> str:
    """Return the name in an export of a release, card, statement, payload, receipt, or proof (by its release)."""
    folder, suffix = _FOLDERS[role]
    return f"{folder}/{digest}.{suffix}"


def card_of(head: bytes, size: int) -> bytes | None:
    """Return the card in the header of a safetensors file, given its first `HEAD_BYTES`; None where there is none."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
        return None
    try:
        metadata = json.loads(head[8 : 8 + length].decode())["__metadata__"]
        return str(metadata["card"]).encode() if list(metadata) == ["card"] and type(metadata["card"]) is str else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def check_site_files(folder: Folder, site: SiteHistory, manifest: Manifest, public: Ed25519PublicKey) -> None:
    """Check the files that a site's log speaks of, receipts excepted.

    Args:
        folder: the export.
        site: its log.
        manifest: of the export.
        public: the site's key.

    Raises:
        CheckError: as the first that is missing or wrong; codes release-, card-, statement-, payload-.
    """
    end_at_first(_of_site(folder, site, manifest, public))


def _of_site(folder: Folder, site: SiteHistory, manifest: Manifest, public: Ed25519PublicKey) -> Iterator[Finding]:
    for approval in (event for events in site.approvals.values() for event in events):
        yield from _of_release(folder, approval)
        envelope = _envelope(folder, approval)
        if envelope.key != fingerprint(public):
            yield _wrong("statement-key", approval, "was signed with another key than the site's")
        # Counts of images stand in the card, not in the statement.
        facts = {name: value for name, value in approval.facts.items() if name not in ("images", "patients")}
        yield from _of_statement(folder, approval, envelope, public, {**facts, "site": manifest.site})
    for payload in site.payloads:
        path = path_of("payload", payload)
        if folder.digest(path, MAX_PAYLOAD_BYTES, "payload-missing", "payload-digest") != payload:
            yield "payload-digest", f"{path} is not the text that left; {_ASK} what became of it"


def check_bank_files(
    folder: Folder, bank: BankHistory, manifest: Manifest, keys: Mapping[str, Ed25519PublicKey]
) -> None:
    """Check the files that an aggregator's log speaks of; a release that it keeps no longer need not be there.

    Args:
        folder: the export.
        bank: its log, with the decisions of all sites.
        manifest: of the export.
        keys: the sites', by fingerprint.

    Raises:
        CheckError: as the first that is missing or wrong; codes release-, card-, statement-, and `key-missing`.
    """
    end_at_first(_of_bank(folder, bank, manifest, keys))


def _of_bank(
    folder: Folder, bank: BankHistory, manifest: Manifest, keys: Mapping[str, Ed25519PublicKey]
) -> Iterator[Finding]:
    last = bank.last()
    for event in bank.decisions.values():
        site = event.facts["site"]
        if event.event in KEPT:
            if last[site, event.subjects["release"]].event in KEPT or folder.has(_path(event, "release")):
                yield from _of_release(folder, event)
            envelope = _envelope(folder, event)
            if bank.keys.get(site, {}).get(envelope.key, event.sequence) >= event.sequence:
                yield _wrong("statement-key", event, f"was signed with a key that was not enrolled for site {site}")
            elif envelope.key not in keys:
                yield _key_missing(site, envelope.key)
            else:
                facts = {name: event.facts[name] for name in ("site", "task", "size")}
                facts["federation"] = manifest.federation
                yield from _of_statement(folder, event, envelope, keys[envelope.key], facts)
        elif "statement" in event.subjects and folder.has(_path(event, "statement")):
            # What was refused may be anything, a statement in no form included.
            _statement_bytes(folder, event)


def check_keys_given(folder: Folder, bank: BankHistory, keys: Mapping[str, Ed25519PublicKey]) -> None:
    """Check that the keys of all sites with a release in an aggregator's export were given, as far as can be told yet.

    Raises:
        CheckError: `key-missing`.
    """
    end_at_first(_of_keys(folder, bank, keys))


def _of_keys(folder: Folder, bank: BankHistory, keys: Mapping[str, Ed25519PublicKey]) -> Iterator[Finding]:
    for event in bank.decisions.values():
        # What is wrong with a statement is told when its turn comes.
        with suppress(CheckError):
            if event.event in KEPT:
                site, key = event.facts["site"], _envelope(folder, event).key
                if key not in keys and key in bank.keys.get(site, {}):
                    yield _key_missing(site, key)


def _of_release(folder: Folder, event: Event) -> Iterator[Finding]:
    """Check a release and its card, whose digest a site's log names."""
    release = event.subjects["release"]
    path = _path(event, "release")
    if folder.digest(path, MAX_RELEASE_BYTES, "release-missing", "release-digest") != release:
        yield _wrong("release-digest", event, "is not the release of that digest", "release")
    size = folder.size(path)
    if size != event.facts["size"]:
        what = f"has {size:,} bytes, and was logged with {event.facts['size']:,}"
        yield _wrong("release-size", event, what, "release")
    text = card_of(folder.start(path, HEAD_BYTES, "release-missing"), size)
    digest = event.subjects.get("card") or (hashlib.sha256(text).hexdigest() if text is not None else "")
    if not digest:
        yield _wrong("card-release", event, "holds no card", "release")
        return
    card = path_of("card", digest)
    if folder.digest(card, MAX_RELEASE_BYTES, "card-missing", "card-digest") != digest:
        yield "card-digest", f"{card} is not the card of that digest; {_ASK} what became of it"
    if folder.read(card, MAX_PAYLOAD_BYTES, "card-missing", "card-release") != text:
        yield "card-release", f"{card} is not the card in {path}; {_ASK} which one was approved"


def _envelope(folder: Folder, event: Event) -> Envelope:
    """Return the envelope of an event's statement; its signature has not been checked."""
    code, what = _wrong("statement-form", event, f"is no signed envelope of the kind {PAYLOAD_TYPE} in its one form")
    with as_check_error(code, what):
        envelope = read_envelope(_statement_bytes(folder, event), "this export")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise CheckError(code, what)
    return envelope


def _statement_bytes(folder: Folder, event: Event) -> bytes:
    data = folder.read(_path(event, "statement"), MAX_ENTRY_BYTES, "statement-missing", "statement-size")
    if hashlib.sha256(data).hexdigest() != event.subjects["statement"]:
        raise CheckError(*_wrong("statement-digest", event, "is not the statement of that digest"))
    return data


def _of_statement(
    folder: Folder, event: Event, envelope: Envelope, public: Ed25519PublicKey, facts: Mapping[str, object]
) -> Iterator[Finding]:
    if not is_signed(envelope, public):
        what = "bears a signature that does not fit: it was changed after it was signed"
        yield _wrong("statement-signature", event, what)
    with as_check_error(*_wrong("statement-form", event, "does not hold a statement in its one form")):
        statement = open_statement(_statement_bytes(folder, event), {envelope.key: public}, "this export")
    for name, value in {**facts, "release": event.subjects["release"]}.items():
        if getattr(statement, name) != value:
            yield _wrong("statement-release", event, f"says another {name} than entry {event.sequence} of the log")


def _path(event: Event, role: str) -> str:
    return path_of(role, event.subjects[role])


def _wrong(code: str, event: Event, what: str, role: str = "statement") -> Finding:
    return code, f"{_path(event, role)} {what}; {_ASK} what became of it"


def _key_missing(site: str, key: str) -> Finding:
    return (
        "key-missing",
        f"the key {key[:12]} of site {site} is not among those given; ask that site for it (--site-key)",
    )
