"""What can be wrong with an audit export, and how the verifiers must call it: keys, logs, and witnesses.

What can be wrong with files is in defects_of_files.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casam_fed.audit.event import site_origin
from casam_fed.audit.keys import public_pem
from casam_fed.audit.note import Note, read_note, sign_checkpoint

from .defects_of_files import DEFECTS_OF_FILES
from .exports import (
    BANK,
    BANK_LOG,
    CLINIC,
    GLAND,
    HARBOUR,
    HARBOUR_BEFORE,
    NODULE,
    OTHER_SITE,
    POLYP,
    SITE,
    SITE_LOG,
    STRANGER,
    Draft,
    canonical,
    decided,
    digest_of,
    drafted,
    entries_of,
    fingerprint_of,
    leave,
    made,
    time_of,
)
from .forging import (
    After,
    Content,
    Defect,
    again,
    as_it_was_witnessed,
    both,
    by_stranger,
    edited,
    exchanged,
    facts,
    flipped,
    forged,
    gone,
    holds,
    linked,
    manifest,
    one_changed,
    other_payload,
    other_signature,
    put,
    rebundled,
    says,
    signed_twice,
    signs,
    subject,
    swapped,
    text,
    with_bits_left_over,
    with_crlf,
    with_signature,
    written_again,
)

__all__ = ["DEFECTS", "FORGERIES", "FOUND_AS_ANOTHER", "LEFT_TO_CASAM_AUDIT", "under_another_key"]

DEFECTS: dict[str, Defect] = {}


def _site(name: str, code: str, status: int = 1, **what: Any) -> None:
    assert name not in DEFECTS
    DEFECTS[name] = Defect("site", code, status, **what)


def _bank(name: str, code: str, status: int = 1, **what: Any) -> None:
    assert name not in DEFECTS
    DEFECTS[name] = Defect("bank", code, status, **what)


# ---- Keys and manifest ----


def _emptied(case: Path) -> None:
    shutil.rmtree(case / "export")
    (case / "export/tile").mkdir(parents=True)


def _key_of_another_kind(case: Path) -> None:
    public = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (case / "keys/clinic.pem").write_bytes(public.public_bytes(serialization.Encoding.PEM, form))


def _key_in_der(case: Path) -> None:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (case / "keys/bank.pem").write_bytes(BANK.public_key().public_bytes(serialization.Encoding.DER, form))


def _key_of_small_order(case: Path) -> None:
    key = Ed25519PublicKey.from_public_bytes(b"\x01" + bytes(30) + b"\x80")
    (case / "keys/clinic.pem").write_text(public_pem(key))


_site("key of another kind", "key-form", 2, after=_key_of_another_kind)
_site("key in DER", "key-form", 2, after=_key_in_der)
_site("key with line ends of Windows", "key-form", 2, after=edited("keys/bank.pem", with_crlf))
_site("key with which anybody signs", "key-form", 2, after=_key_of_small_order)
_site("key beyond all size", "key-form", 2, after=edited("keys/bank.pem", lambda data: data * 1000))
_bank("key file missing", "key-form", 2, after=gone("keys/harbour.pem"))
_site("folder missing", "empty", 2, after=gone("export"))
_site("folder empty", "empty", 2, after=_emptied)
_site("manifest missing", "no-manifest", 2, after=gone("export/export.json"))
_site("manifest that is a link", "no-manifest", 2, after=linked("export/export.json"))
_site("newer format", "newer-format", 2, before=manifest(format=2))
_site("newer format that says more", "newer-format", 2, before=manifest(format=3, kind="network", salt="x"))
_site("manifest written again", "manifest-form", after=edited("export/export.json", written_again))
_site("manifest that is no JSON", "manifest-form", after=put("export/export.json", b"{"))
_site("manifest of no kind", "manifest-form", before=manifest(kind="hospital"))
_site("manifest of format 0", "manifest-form", before=manifest(format=0))
_site("manifest with free text", "manifest-form", before=manifest(code="0.2.0 (nightly)"))
_site("manifest with a name more", "manifest-form", before=manifest(more="x"))
_site("manifest made on 30 February", "manifest-form", before=manifest(made="2026-02-30T00:00:00Z"))
_site("manifest without a site", "manifest-form", before=manifest(site=""))
_bank("manifest of a bank with a site", "manifest-form", before=manifest(site=SITE))


def under_another_key(draft: Draft) -> None:
    """Let the bank enrol another key for the site, and admit what came under it."""
    draft.append("bank", "enrolled", {"key": fingerprint_of(STRANGER)}, {"site": SITE})
    draft.append("bank", "admitted", *decided(made("tumour", key=STRANGER), entry=3, by="rule"))


_site("no key of the site", "key-missing", 2, keys=("bank",))
_site("no key under which another release of the site came", "key-missing", 2, before=under_another_key)
_site("keys of two sites", "key-missing", 2, keys=("bank", "clinic", "harbour"))
_bank("no key of any site", "key-missing", 2, keys=("bank",))
_bank("no key of a site in the bank", "key-missing", 2, keys=("bank", "clinic"))

# ---- Checkpoints and tiles ----


def _cut_after_text(data: bytes) -> bytes:
    return data[: data.index(b"\n\n") + 2]


def _doubled(note: Note) -> Note:
    return Note(note.checkpoint, note.signatures * 2)


_bank("checkpoint missing", "checkpoint-missing", 2, after=gone("export/bank/checkpoint"))
_site("checkpoint of the site log missing", "checkpoint-missing", 2, after=gone("export/site/checkpoint"))
_bank("checkpoint with other line ends", "checkpoint-form", after=edited("export/bank/checkpoint", with_crlf))
_bank("checkpoint without signatures", "checkpoint-form", after=edited("export/bank/checkpoint", _cut_after_text))
_bank(
    "checkpoint with a fourth line", "checkpoint-form", after=exchanged("export/bank/checkpoint", b"\n\n", b"\nx\n\n")
)
_bank("checkpoint signed twice by one key", "checkpoint-form", before=signs("bank", note=_doubled))
_bank("checkpoint beyond 16 KiB", "checkpoint-form", after=edited("export/bank/checkpoint", lambda data: data * 99))
_bank("size with a zero before it", "checkpoint-form", after=exchanged("export/bank/checkpoint", b"\n13\n", b"\n013\n"))
_bank("keys the wrong way round", "checkpoint-origin", keys=("clinic", "bank"))
_bank("manifest of another federation", "checkpoint-origin", before=manifest(federation="south"))
_site(
    "manifest of another site",
    "checkpoint-origin",
    before=both(
        manifest(site="surgery"),
        signs("bank", witnesses={"surgery": (site_origin("surgery", fingerprint_of(CLINIC)), CLINIC, 11)}),
    ),
)
_bank("checkpoint of a stranger", "checkpoint-key", before=signs("bank", note=by_stranger))
_site("checkpoint of the site log by a stranger", "checkpoint-key", before=signs("site", note=by_stranger))
_bank("size changed", "checkpoint-signature", after=exchanged("export/bank/checkpoint", b"\n13\n", b"\n12\n"))
_bank("signature cut", "checkpoint-signature", before=signs("bank", note=other_signature(lambda value: value[:60])))
_bank("signature changed", "checkpoint-signature", before=signs("bank", note=other_signature(flipped)))
_site("checkpoint without its tiles", "tiles-missing", 2, after=gone("export/site/tile"))
_bank("bundle missing", "tiles-missing", 2, after=gone("export/bank/tile/entries/000.p/13"))
_bank("hash tile missing", "tiles-missing", 2, after=gone("export/bank/tile/0/000.p/13"))
_bank("tile that is a link", "tiles-missing", 2, after=linked("export/bank/tile/0/000.p/13"))
_bank(
    "size of a million billions",
    "tiles-missing",
    2,
    before=signs("bank", checkpoint=lambda checkpoint: replace(checkpoint, size=10**15)),
)
_bank("log cut in mid-entry", "entry-cut", after=edited("export/bank/tile/entries/*/*", lambda data: data[:-300]))
_bank("log with an entry less", "entry-cut", after=rebundled(lambda entries: entries[:-1]))
_bank("log with a byte more", "entry-surplus", after=edited("export/bank/tile/entries/*/*", lambda data: data + b"\0"))
_bank("log with an entry more", "entry-surplus", after=rebundled(lambda entries: [*entries, entries[-1]]))
_bank("changed payload", "hash-tile", after=rebundled(one_changed))
_bank("hash tile changed", "hash-tile", after=edited("export/bank/tile/0/*/*", flipped))
_site("hash tile with a hash more", "hash-tile", after=edited("export/site/tile/0/*/*", lambda data: data + bytes(32)))
_bank("changed payload and hash", "root", after=rebundled(one_changed, tiles=True))
_bank("reordered by an outsider", "root", after=rebundled(swapped, tiles=True))
_bank("root changed", "root", before=signs("bank", checkpoint=lambda checkpoint: replace(checkpoint, root=bytes(32))))

# ---- Entries ----


def _replaced(entries: list[bytes]) -> list[bytes]:
    """Put another, good entry into the place of an old one."""
    draft = drafted("bank")
    draft.line("bank", "quarantined").facts["code"] = "Q202"
    place = draft.place("bank", "quarantined")
    other = entries_of(draft.lines["bank"], BANK_LOG, BANK)[place]
    return [*entries[:place], other, *entries[place + 1 :]]


_bank("re-serialised envelope", "entry-form", before=forged("bank", "quarantined", envelope=written_again))
_bank("envelope signed twice", "entry-form", before=forged("bank", "quarantined", envelope=signed_twice))
_bank("envelope with bits left over", "entry-form", before=forged("bank", "refused", envelope=with_bits_left_over))
_bank("entry that is no envelope", "entry-form", before=forged("bank", "refused", envelope=lambda _: b"\0x\n\xff\0"))
_site("re-serialised envelope of the site", "entry-form", before=forged("site", "sent", envelope=written_again))
_bank("entry of another type", "entry-type", before=forged("bank", "retired", payload_type="application/json"))
_bank("entry of another key", "entry-key", before=forged("bank", "admitted", key=STRANGER))
_site("entry of the bank's key in the site log", "entry-key", before=forged("site", "receipt", key=BANK))
_bank("entry with a changed payload", "entry-signature", before=forged("bank", "refused", envelope=other_payload))
_bank(
    "entry with a changed signature",
    "entry-signature",
    before=forged("bank", "quarantined", envelope=with_signature(flipped)),
)
_bank(
    "entry with a short signature",
    "entry-signature",
    before=forged("bank", "admitted", envelope=with_signature(lambda value: value[:63])),
)
_site(
    "entry of the site with a changed payload",
    "entry-signature",
    before=forged("site", "intent", envelope=other_payload),
)

FORGERIES: dict[str, Content] = {
    "event written again": lambda content: json.dumps(content, sort_keys=True).encode(),
    "event in another order": lambda content: json.dumps(
        dict(reversed(content.items())), separators=(",", ":")
    ).encode(),
    "event of another predicate": holds(predicateType="https://example.org/log-entry/v1"),
    "event of another statement": holds(_type="https://in-toto.io/Statement/v2"),
    "event that is a list": lambda content: [content],
    "event that is a text": lambda content: "x",
    "event that is two": lambda content: canonical(content) * 2,
    "event with something after it": lambda content: canonical(content) + b"x",
    "event with a name twice": text('{"_type":', '{"_type":"","_type":'),
    "event with a name more": says(note="the patient in bed 4"),
    "event with a name more at the top": holds(note="the patient in bed 4"),
    "event with a name less": lambda content: holds(
        predicate={name: value for name, value in content["predicate"].items() if name != "kind"}
    )(content),
    "event of no kind": says(event="sold"),
    "event of another log's kind": says(event="enrolled"),
    "event with free text": says(kind="the patient in bed 4"),
    "event with letters of another script": says(kind="\N{CYRILLIC SMALL LETTER A}"),
    "event with a word and a line end": says(kind="query.sync\n"),
    "event with a word of 64 letters": says(kind="x" * 64),
    "event on 29 February 2026": says(time="2026-02-29T07:00:00Z"),
    "event on 29 February 2100": says(time="2100-02-29T07:00:00Z"),
    "event on 31 April": says(time="2026-04-31T07:00:00Z"),
    "event at 24 o'clock": says(time="2026-11-25T24:00:00Z"),
    "event in the 60th second": says(time="2026-11-25T07:00:60Z"),
    "event in month 13": says(time="2026-13-25T07:00:00Z"),
    "event in the year 0": says(time="0000-11-25T07:00:00Z"),
    "event in another zone": says(time="2026-11-25T07:00:00+01:00"),
    "sequence with a point": text('"sequence":16', '"sequence":16.0'),
    "sequence with an exponent": text('"sequence":16', '"sequence":16e0'),
    "sequence that is text": says(sequence="16"),
    "sequence that is true": says(sequence=True),
    "sequence that is nothing": says(sequence=None),
    "no entry before": says(previous=""),
    "entry before that is none": says(previous="c" * 63),
    "log of no form": says(log="casam-fed/site/clinic"),
    "log of no kind": says(log="casam-fed/net/clinic/0123456789ab"),
    "about nothing": holds(subject=[]),
    "about something else": holds(subject=[{"name": "x", "digest": {"sha256": "a" * 64}}]),
    "about a thing twice": lambda content: holds(subject=content["subject"] * 2)(content),
    "about things in another order": holds(
        subject=[{"name": name, "digest": {"sha256": "a" * 64}} for name in ("release", "payload")]
    ),
    "digest in upper case": holds(subject=[{"name": "payload", "digest": {"sha256": "A" * 64}}]),
    "digest of another kind": holds(subject=[{"name": "payload", "digest": {"sha512": "a" * 64}}]),
    "two digests": holds(subject=[{"name": "payload", "digest": {"sha256": "a" * 64, "sha1": "a" * 40}}]),
    "subject with a name more": holds(subject=[{"name": "payload", "digest": {"sha256": "a" * 64}, "uri": "x"}]),
    "deep nest": text('"subject":[', '"subject":[' + "[" * 5000 + "]" * 5000 + ","),
    "size of minus nothing": text('"size":10', '"size":-0'),
    "size at the end of what JSON readers agree on": says(size=2**53),
    "size that readers round": says(size=2**53 + 1),
    "size below nothing": says(size=-1),
    "size with a fraction": says(size=10.5),
    "size with a huge exponent": text('"size":10', '"size":1e999'),
    "size that is no number": text('"size":10', '"size":NaN'),
    "objects with a name more": says(objects=[{"id": "a" * 64, "bytes": 1, "more": 1}]),
    "objects without bytes": says(objects=[{"id": "a" * 64}]),
    "objects with bytes below nothing": says(objects=[{"id": "a" * 64, "bytes": -1}]),
    "too many objects": says(objects=[{"id": "a" * 64, "bytes": 1}] * 513),
    "objects that are text": says(objects="a" * 64),
    "request of no form": says(request="a" * 63),
}
"""What is no event any more when it is made of entry 16 of the site log, an intent; each in one line."""

for _name, _content in {
    "event with a line end": lambda content: canonical(content) + b"\n",
    "event with bare letters of another script": text('"query.sync"', '"query.\N{CYRILLIC SMALL LETTER A}"'),
    "event that is nothing": lambda content: b"",
    "event written again": FORGERIES["event written again"],
}.items():
    _site(_name, "event-form", before=forged("site", "intent", nth=4, content=_content))

_bank(
    "event with a name more", "event-form", before=forged("bank", "retired", content=says(note="the patient in bed 4"))
)
_bank(
    "event for a reason of one's own", "event-form", before=forged("bank", "retired", content=says(reason="bad luck"))
)
_bank("event by somebody else", "event-form", before=forged("bank", "admitted", content=says(by="committee")))

_bank(
    "event of a newer form",
    "newer-event",
    2,
    before=forged("bank", "retired", content=holds(predicateType="https://casam-fed.github.io/log-entry/v2", new=[1])),
)
_bank(
    "event of a newer form in other lines",
    "newer-event",
    2,
    before=forged(
        "bank",
        "retired",
        content=lambda content: json.dumps(
            content | {"predicateType": "https://casam-fed.github.io/log-entry/v12"}, indent=1
        ).encode(),
    ),
)

_bank("removed entry", "sequence", before=signs("bank", entries=lambda entries: entries[:5] + entries[6:]))
_bank("reordered log", "sequence", before=signs("bank", entries=swapped))
_bank("entry put in twice", "sequence", before=signs("bank", entries=lambda each: [*each[:8], each[7], *each[8:]]))
_bank("log that starts later", "sequence", before=signs("bank", entries=lambda entries: entries[1:]))
_site("wrong index", "sequence", before=forged("site", "approved", content=says(sequence=7)))
_bank("replaced entry", "chain", before=signs("bank", entries=_replaced))
_bank("entry that names another before it", "chain", before=forged("bank", "refused", content=says(previous="c" * 64)))
_site("clock going back", "clock", before=forged("site", "withheld", time=time_of(3)))
_bank("clock going back a year", "clock", before=forged("bank", "admitted", time="2025-11-25T07:10:00Z"))
_bank(
    "entry of another log",
    "foreign",
    before=forged("bank", "retired", content=says(log="casam-fed/bank/north/0123456789ab")),
)
_site("entry for another federation", "foreign", before=facts("site", "intent", federation="south"))
_site("site log of another key", "foreign", before=subject("site", "began", key=fingerprint_of(STRANGER)))
_site("statement of another site at the beginning", "foreign", before=facts("site", "began", site=OTHER_SITE))
_bank("bank log of another federation", "foreign", before=facts("bank", "began", federation="south"))
_bank("bank log of another key", "foreign", before=subject("bank", "began", key=fingerprint_of(CLINIC)))

# ---- Events in their order ----


def _all_out(draft: Draft) -> None:
    draft.lines["bank"].clear()
    draft.signed["bank"].witnesses.clear()


def _not_begun(draft: Draft) -> None:
    draft.lines["bank"][0] = replace(draft.line("bank", "enrolled"), time=time_of(0))


def _not_approved(draft: Draft) -> None:
    draft.lines["site"][3] = replace(draft.line("site", "withheld"), time=time_of(3))


def _declined_since(draft: Draft) -> None:
    draft.append("site", "declined", {"release": POLYP.digest}, {"federation": "north", "task": "polyp"})
    leave(draft, "train.submit", "{}", POLYP)


def _admitted_again(draft: Draft) -> None:
    draft.append("bank", "admitted", *decided(POLYP, entry=3, by="rule"))


def _revoked_again(draft: Draft) -> None:
    draft.append("bank", "revoked", {"key": fingerprint_of(HARBOUR_BEFORE)}, {"site": OTHER_SITE})


_bank("empty log", "event-order", before=_all_out)
_bank("log without a beginning", "event-order", before=_not_begun)
_bank("log with two beginnings", "event-order", before=again("bank", "began"))
_site("sent without an intent", "event-order", before=facts("site", "sent", intent=0))
_site("sent before its intent", "event-order", before=facts("site", "sent", intent=19))
_site("sent twice", "event-order", before=again("site", "sent"))
_site("sent another message", "event-order", before=subject("site", "sent", message=digest_of("another")))
_site("decision about what was not sent", "event-order", before=subject("site", "receipt", release=NODULE.digest))
_bank("wrong number of an entry", "event-order", before=facts("bank", "admitted", nth=1, entry=2))
_bank("two entries of one task", "event-order", before=_admitted_again)
_bank("retired twice", "event-order", before=again("bank", "retired"))
_bank("retired what is another entry", "event-order", before=facts("bank", "retired", entry=0))
_bank("retired what is of another site", "event-order", before=facts("bank", "retired", site=OTHER_SITE))
_bank("retired what never was", "event-order", before=facts("bank", "retired", entry=7))
_bank("revoked what is not enrolled", "event-order", before=facts("bank", "revoked", site=SITE))
_bank("revoked twice", "event-order", before=_revoked_again)
_site("let go without approval", "not-approved", before=lambda draft: leave(draft, "train.submit", "{}", NODULE))
_site("let go though declined since", "not-approved", before=_declined_since)
_site("let go before it was approved", "not-approved", before=_not_approved)

# ---- Witnesses ----


def _of_another_log(note: Note) -> Note:
    return sign_checkpoint(replace(note.checkpoint, origin="casam-fed/bank/north/000000000000"), BANK)


def _cosignature(change: Any) -> After:
    """Change a cosignature: 8 bytes of time, 64 of signature."""

    def edit(data: bytes) -> bytes:
        return other_signature(change, 1)(read_note(data, "a test")).data

    return edited("export/bank/witnessed/clinic", edit)


def _late(size: int) -> dict[str, Any]:
    return {"witnesses": {"bank": (BANK_LOG, BANK, size)}}


def _cut_short(draft: Draft) -> None:
    del draft.lines["bank"][9:]


_site("missing cosignature of the bank", "cosignature-missing", after=gone("export/site/witnessed"))
_site("missing cosignature of the site", "cosignature-missing", after=gone("export/bank/witnessed"))
_bank("missing cosignatures of all sites", "cosignature-missing", after=gone("export/bank/witnessed"))
_bank("cosigned what is no checkpoint", "cosignature-form", after=put("export/bank/witnessed/clinic"))
_bank("cosigned another log", "cosignature-form", before=signs("bank", cosign=_of_another_log))
_bank("cosigned in the year 10000", "cosignature-form", before=signs("bank", time=253_402_300_800))
_bank("cosigned beyond all time", "cosignature-form", before=signs("bank", time=2**64 - 1))
_site("swapped key", "cosignature-key", keys=("bank", "stranger"))
_bank("cosigned by a stranger", "cosignature-key", before=signs("bank", witnesses={SITE: (SITE_LOG, STRANGER, 11)}))
_site(
    "cosigned under another name",
    "cosignature-key",
    before=signs("site", witnesses={"bank": ("somebody", BANK, 18)}),
)
_bank(
    "cosigned what its owner had not signed",
    "cosignature-key",
    before=signs("bank", cosign=lambda note: replace(note, signatures=())),
)
_bank(
    "cosigned by another site",
    "cosignature-key",
    before=signs("bank", witnesses={SITE: (site_origin(OTHER_SITE, fingerprint_of(HARBOUR)), HARBOUR, 11)}),
)
_bank(
    "cosigned what its owner had signed otherwise",
    "cosignature-signature",
    before=signs("bank", cosign=other_signature(flipped)),
)
_bank("cosignature changed", "cosignature-signature", after=_cosignature(flipped))
_bank("cosigned at another time", "cosignature-signature", after=_cosignature(lambda value: bytes(8) + value[8:]))
_bank("cosignature cut", "cosignature-signature", after=_cosignature(lambda value: value[:-1]))
_site(
    "forked log",
    "fork",
    before=facts("site", "withheld", code="Other"),
    after=as_it_was_witnessed("site/witnessed/bank"),
)
_site(
    "forked bank log",
    "fork",
    before=facts("bank", "refused", code="R101"),
    after=as_it_was_witnessed("bank/witnessed/clinic"),
)
_bank(
    "forked log, as one of two sites can tell",
    "fork",
    before=facts("bank", "quarantined", GLAND, code="Q202"),
    after=as_it_was_witnessed("bank/witnessed/harbour"),
)
_bank("log shorter than it was", "fork", before=_cut_short, after=as_it_was_witnessed("bank/witnessed/harbour"))
_site("cosigned before an admitted release left", "cosignature-stale", before=signs("site", **_late(13)))

DEFECTS |= DEFECTS_OF_FILES

LEFT_TO_CASAM_AUDIT = {
    "event-form": {"event by somebody else"},
    "event-order": {
        "sent without an intent",
        "sent before its intent",
        "sent twice",
        "sent another message",
        "wrong number of an entry",
        "two entries of one task",
        "retired twice",
        "retired what is another entry",
        "retired what never was",
        "revoked what is not enrolled",
        "revoked twice",
    },
    "receipt-form": {"receipt that says more", "receipt with a tab"},
}
"""Code -> defects of the story, which casam-audit alone finds: the bytes are what they should be."""

FOUND_AS_ANOTHER = {
    "decision about what was not sent": "proof-missing",
    "retired what is of another site": "release-missing",
    "statement with free text": "statement-release",
    "statement that says more": "admitted-other",
    "statement that is an event": "statement-release",
    "receipt with a long code": "receipt-release",
}
"""Defects in which verify.sh comes upon something else than casam-audit does -> the code it gives."""
