"""What can be wrong with an audit export, and how both verifiers must call it: the files that the logs speak of."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from casam_fed.audit.dsse import seal
from casam_fed.audit.proof import Proof
from casam_fed.audit.statement import PAYLOAD_TYPE

from .exports import (
    BANK,
    CELL,
    CLINIC,
    GLAND,
    HARBOUR,
    LESION,
    NODULE,
    OTHER_SITE,
    POLYP,
    SITE_LOG,
    STRANGER,
    VESSEL,
    Draft,
    approved,
    decided,
    digest_of,
    drafted,
    entries_of,
    made,
    payload_of,
    receipt_of,
    time_of,
)
from .forging import (
    After,
    Defect,
    by_stranger,
    edited,
    exchanged,
    facts,
    flipped,
    gone,
    linked,
    other_payload,
    other_signature,
    proves,
    proves_history,
    put,
    quarantined,
    restated,
    restating,
    retelling,
    retold,
    subject,
    with_crlf,
    with_signature,
    written_again,
)

__all__ = ["DEFECTS_OF_FILES"]

DEFECTS_OF_FILES: dict[str, Defect] = {}


def _site(name: str, code: str, status: int = 1, **what: Any) -> None:
    assert name not in DEFECTS_OF_FILES
    DEFECTS_OF_FILES[name] = Defect("site", code, status, **what)


def _bank(name: str, code: str, status: int = 1, **what: Any) -> None:
    assert name not in DEFECTS_OF_FILES
    DEFECTS_OF_FILES[name] = Defect("bank", code, status, **what)


# ---- Releases and cards ----


def _other_card(draft: Draft) -> None:
    draft.line("site", "approved", VESSEL).subjects["card"] = digest_of(LESION.card)


def _more_than_a_card(draft: Draft) -> None:
    each = made("tumour", metadata={"patient": "in bed 4"})
    draft.append("site", "approved", *approved(each))
    draft.files[f"releases/{each.digest}.safetensors"] = each.data
    draft.keep("cards", each.card)
    draft.keep("statements", each.statement)


def _header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


_cell, _gland, _vessel = (f"export/releases/{each.digest}.safetensors" for each in (CELL, GLAND, VESSEL))
_card = f"export/cards/{digest_of(CELL.card)}.json"

_site("release missing", "release-missing", 2, after=gone("export/releases/*"))
_bank("release in quarantine missing", "release-missing", 2, after=gone(_gland))
_bank("release that is a link", "release-missing", 2, after=linked(_cell))
_site("release changed", "release-digest", after=edited("export/releases/*", flipped))
_bank("release cut", "release-digest", after=edited(_cell, lambda data: data[:-1]))
_bank("retired release that is another", "release-digest", after=put(_vessel))
_site("approved with another size", "release-size", before=facts("site", "approved", POLYP, size=5))
_bank("admitted with another size", "release-size", before=facts("bank", "admitted", CELL, size=5))
_site("card missing", "card-missing", 2, after=gone("export/cards/*"))
_bank("card of an entry missing", "card-missing", 2, after=gone(_card))
_site("card changed", "card-digest", after=edited("export/cards/*", flipped))
_bank("card of an entry changed", "card-digest", after=edited(_card, flipped))
_site("release not matching its card", "card-release", before=_other_card)
_site("release with more than a card", "card-release", before=_more_than_a_card)
_bank("release without a header", "card-release", before=quarantined(b"short"))
_bank("release with a header beyond its end", "card-release", before=quarantined(_header(b"{}")[:-1]))
_bank("release with a header beyond all", "card-release", before=quarantined(b"\xff" * 8 + b"{}"))
_bank("release without a card", "card-release", before=quarantined(_header(b'{"__metadata__":{}}')))
_bank("release whose card is a number", "card-release", before=quarantined(_header(b'{"__metadata__":{"card":1}}')))
_bank("release whose header is no JSON", "card-release", before=quarantined(_header(b"{{")))

# ---- Statements ----


def _by_another_site(draft: Draft) -> None:
    """Let a bank admit a release with a statement that another site's key has signed."""
    del draft.files[f"statements/{digest_of(CELL.statement)}.json"]
    other = made("cell", OTHER_SITE, CLINIC)
    draft.line("bank", "admitted", CELL).subjects["statement"] = draft.keep("statements", other.statement)


_event = entries_of(drafted("site").lines["site"][:1], SITE_LOG, CLINIC)[0]
_of_vessel, _of_lesion = (f"export/statements/{digest_of(each.statement)}.json" for each in (VESSEL, LESION))

_site("statement missing", "statement-missing", 2, after=gone("export/statements/*"))
_bank("statement of a retired release missing", "statement-missing", 2, after=gone(_of_vessel))
_site("statement over the size limit", "statement-size", before=restated(seal(PAYLOAD_TYPE, b" " * 60_000, CLINIC)))
_site("statement changed", "statement-digest", after=edited("export/statements/*", flipped))
_bank("statement of a refused release changed", "statement-digest", after=edited(_of_lesion, flipped))
_site("statement written again", "statement-form", before=restated(written_again(POLYP.statement)))
_site("statement that is none", "statement-form", before=restated(b"\0garbage"))
_site("statement of another type", "statement-form", before=restating("application/json"))
_site("statement with free text", "statement-form", before=restating(code="the patient in bed 4"))
_site("statement that says more", "statement-form", before=restating(note="x"))
_site("statement that is an event", "statement-form", before=restated(_event))
_site("statement of a stranger", "statement-key", before=restated(made("polyp", key=STRANGER).statement))
_site("statement of another site's key", "statement-key", before=restated(made("polyp", key=HARBOUR).statement))
_bank("statement of a key that is not enrolled for the site", "statement-key", before=_by_another_site)
_site(
    "statement with a changed signature",
    "statement-signature",
    before=restated(with_signature(flipped)(POLYP.statement)),
)
_site("statement with a changed payload", "statement-signature", before=restated(other_payload(POLYP.statement)))

for _name, _value in {
    "release": "e" * 64,
    "size": 5,
    "site": OTHER_SITE,
    "task": "lesion",
    "federation": "south",
    "backbone": "c" * 64,
    "app": "c" * 64,
    "code": "0.1.0",
    "approved": "option",
}.items():
    _site(
        f"statement of another site (another {_name})" if _name == "site" else f"statement of another {_name}",
        "statement-release",
        before=restated(made("polyp", stated={_name: _value}).statement),
    )

_bank(
    "admitted for another task than stated", "statement-release", before=facts("bank", "admitted", CELL, task="cells")
)

# ---- Payloads and receipts ----

_site("payload missing", "payload-missing", 2, after=gone("export/payloads/*"))
_site("payload changed", "payload-digest", after=edited("export/payloads/*", flipped))
_site("receipt missing", "receipt-missing", 2, after=gone("export/receipts/*.json"))
_site("receipt changed", "receipt-digest", after=edited("export/receipts/*.json", flipped))
_receipt = receipt_of(LESION, "refused", "R112", None)
_site("receipt written again", "receipt-form", before=retold(written_again(_receipt)))
_site("receipt of another type", "receipt-form", before=retold(seal(PAYLOAD_TYPE, payload_of(_receipt), BANK)))
_site("receipt that says more", "receipt-form", before=retelling(more=1))
_site("receipt with a long code", "receipt-form", before=retelling(code="R12345678"))
_site("receipt with a tab", "receipt-form", before=retelling(reason="a\tb"))
_site("receipt without end", "receipt-form", before=retelling(reason="a" * 66_000))
_site("receipt of an entry with a point", "receipt-form", before=retelling(sequence=1.0))
_site(
    "receipt of a stranger", "receipt-signature", before=retold(receipt_of(LESION, "refused", "R112", None, STRANGER))
)
_site("receipt with a changed signature", "receipt-signature", before=retold(with_signature(flipped)(_receipt)))
_site("receipt about another release", "receipt-release", before=retelling(digest=POLYP.digest))
_site("receipt of another outcome", "receipt-release", before=retelling(outcome="quarantined"))
_site("receipt of another code", "receipt-release", before=retelling(code="R113"))

# ---- Proofs ----


def _of_another_entry(draft: Draft) -> None:
    draft.proofs[f"receipts/{LESION.digest}.tlog-proof"] = draft.place("bank", "admitted", CELL)


def _half_a_hash(proof: Proof) -> Proof:
    return replace(proof, path=(proof.path[0][:16], *proof.path[1:]))


_proofs = "export/receipts/*.tlog-proof"
_site("proof missing", "proof-missing", 2, after=gone(_proofs))
_site("proof with other line ends", "proof-form", after=edited(_proofs, with_crlf))
_site("proof of another version", "proof-form", after=exchanged(_proofs, b"@v1", b"@v2"))
_site("proof with half a hash", "proof-form", before=proves(_half_a_hash))
_site("proof of an entry beyond its log", "proof-form", after=exchanged(_proofs, b"index 1", b"index 91"))
_site("proof of an entry beyond all", "proof-form", after=exchanged(_proofs, b"index 1", b"index 9999999999999999999"))
_site("proof without its checkpoint", "proof-form", after=edited(_proofs, lambda data: data[: data.index(b"\n\n") + 2]))
_site("proof of another entry", "proof-index", before=_of_another_entry)
_site("truncated proof", "proof-path", before=proves(lambda proof: replace(proof, path=proof.path[:-1])))
_site("lengthened proof", "proof-path", before=proves(lambda proof: replace(proof, path=(*proof.path, bytes(32)))))
_site("proof without hashes", "proof-path", before=proves(lambda proof: replace(proof, path=())))
_site("proof that leads elsewhere", "proof-root", before=proves(lambda each: replace(each, path=each.path[::-1])))
_site(
    "proof signed by a stranger",
    "proof-checkpoint",
    before=proves(lambda each: replace(each, note=by_stranger(each.note))),
)
_site(
    "proof with another signature",
    "proof-checkpoint",
    before=proves(lambda proof: replace(proof, note=other_signature(flipped)(proof.note))),
)
_site(
    "proof of another history",
    "proof-checkpoint",
    before=proves_history(lambda lines: [*lines[:-1], replace(lines[-1], time=time_of(99))]),
)
_site(
    "proof of a longer history",
    "proof-checkpoint",
    before=proves_history(lambda lines: [*lines, replace(lines[1], time=time_of(99))]),
)

# ---- One log against the other ----


def _told_of_another(draft: Draft) -> None:
    """Let the last receipt about a release name the decision about another, and prove it."""
    place = draft.place("bank", "admitted", CELL)
    draft.line("site", "receipt", POLYP, 1).facts["decision"] = place
    draft.proofs[f"receipts/{POLYP.digest}.tlog-proof"] = place


def _admitted_unsent(draft: Draft) -> None:
    draft.append("bank", "admitted", *decided(NODULE, entry=3, by="rule"))


_site("told of a decision about another release", "receipt-decision", before=_told_of_another)
_site("told of a decision beyond the log", "receipt-decision", before=facts("site", "receipt", POLYP, decision=99))
_site("told of another outcome than logged", "receipt-decision", before=facts("site", "receipt", POLYP, decision=10))
_site(
    "told of a decision about another site",
    "receipt-decision",
    before=facts("bank", "refused", LESION, site=OTHER_SITE),
)
_site("admitted release that the site never sent", "admitted-not-sent", before=_admitted_unsent)
_site("admitted by another statement", "admitted-other", before=subject("bank", "admitted", VESSEL, statement="e" * 64))
_site("admitted with another size than approved", "admitted-other", before=facts("bank", "admitted", POLYP, size=5))

# ---- What is there besides ----


def _link_more(case: Path) -> None:
    (case / "export/receipts/more").symlink_to("/etc/hostname")


def _pipe_more(case: Path) -> None:
    os.mkfifo(case / "export/payloads/pipe")


def _more(name: str, data: bytes = b"smuggled") -> After:
    return put(f"export/{name}", data)


_site("smuggled extra file", "surplus", after=_more("releases/" + "a" * 64 + ".safetensors"))
_bank("smuggled hidden file", "surplus", after=_more("bank/tile/.patients.csv"))
_bank("smuggled file with a line end in its name", "surplus", after=_more("cards/\nverified: all\n.json"))
_bank("smuggled file that is named for all", "surplus", after=_more("@"))
_site("release that was declined", "surplus", after=_more(f"releases/{NODULE.digest}.safetensors", NODULE.data))
_bank("tile of an earlier size", "surplus", after=_more("bank/tile/0/000.p/12"))
_bank("lock left behind", "surplus", after=_more("bank/.lock", b""))
_site("cosignature of another site", "surplus", after=_more(f"bank/witnessed/{OTHER_SITE}"))
_bank("cosignature of a site that is not enrolled", "surplus", after=_more("bank/witnessed/surgery"))
_bank("site log in the export of a bank", "surplus", after=_more("site/checkpoint"))
_bank("statement that nothing names", "surplus", after=_more(f"statements/{digest_of('x')}.json", b"x"))
_site("symlink", "surplus", after=_link_more)
_site("folder that is a link", "surplus", after=linked("export/payloads"))
_bank("guide that is a link", "surplus", after=linked("export/VERIFY.md"))
_site("pipe", "surplus", after=_pipe_more)
