"""How an export is spoilt: by the owner of a log, who signs what he likes, and by outsiders, who have only its files."""

import base64
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from casam_fed.audit.dsse import seal
from casam_fed.audit.merkle import in_memory, inclusion_path, leaf_hash, tree_root
from casam_fed.audit.note import Checkpoint, Note, sign_checkpoint
from casam_fed.audit.proof import Proof
from casam_fed.audit.statement import PAYLOAD_TYPE
from casam_fed.audit.tile_layout import bundle_of, parse_bundle

from .exports import (
    BANK,
    CLINIC,
    GIVEN,
    LESION,
    POLYP,
    STRANGER,
    Draft,
    Line,
    Made,
    canonical,
    digest_of,
    drafted,
    entries_of,
    payload_of,
    receipt_of,
    write_keys,
    written,
)

Before = Callable[[Draft], object]
After = Callable[[Path], object]
Content = Callable[[dict[str, Any]], Any]


def nothing(_: object) -> None:
    """Leave all as it is."""


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong with an export.

    Attributes:
        kind: of the export.
        code: what both verifiers must say.
        status: with which they must exit.
        before: changes the draft; what is signed afterwards has good signatures.
        after: changes the folder that holds `export` and `keys`.
        keys: those that the auditor gives, by name.
    """

    kind: str
    code: str
    status: int
    before: Before = nothing
    after: After = nothing
    keys: tuple[str, ...] = ()

    def made_in(self, case: Path) -> None:
        """Write the export and the keys into a new folder."""
        draft = drafted(self.kind)
        self.before(draft)
        written(draft, case / "export")
        write_keys(case / "keys")
        self.after(case)

    def given(self, case: Path) -> list[Path]:
        """Return the keys that the auditor gives, the aggregator's first."""
        return [case / "keys" / f"{name}.pem" for name in self.keys or GIVEN[self.kind]]


# What an outsider does to files. Patterns stand for the first file that fits.


def gone(pattern: str) -> After:
    """Remove a file or folder."""

    def after(case: Path) -> None:
        path = _first(case, pattern)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return after


def edited(pattern: str, edit: Callable[[bytes], bytes]) -> After:
    """Change the bytes of a file."""

    def after(case: Path) -> None:
        path = _first(case, pattern)
        data = edit(path.read_bytes())
        assert data != path.read_bytes()
        path.write_bytes(data)

    return after


def exchanged(pattern: str, old: bytes, new: bytes) -> After:
    """Put other bytes into the place of some."""
    return edited(pattern, lambda data: data.replace(old, new))


def put(path: str, data: bytes = b"smuggled") -> After:
    """Write a file."""

    def after(case: Path) -> None:
        (case / path).parent.mkdir(parents=True, exist_ok=True)
        (case / path).write_bytes(data)

    return after


def linked(pattern: str) -> After:
    """Move a file or folder out of the export, and leave a link in its place."""

    def after(case: Path) -> None:
        path = _first(case, pattern)
        path.rename(case / "elsewhere")
        path.symlink_to(case / "elsewhere")

    return after


def rebundled(change: Callable[[list[bytes]], list[bytes]], *, tiles: bool = False) -> After:
    """Change the entries of the bank log, and the hash tile with them."""

    def after(case: Path) -> None:
        path = _first(case, "export/bank/tile/entries/000.p/*")
        entries = change(parse_bundle(path.read_bytes(), int(path.name), "a test"))
        path.write_bytes(bundle_of(entries))
        if tiles:
            _first(case, "export/bank/tile/0/000.p/*").write_bytes(b"".join(map(leaf_hash, entries)))

    return after


def as_it_was_witnessed(path: str) -> After:
    """Put the witnessed checkpoint of the good export of that kind into one whose history was written anew."""

    def after(case: Path) -> None:
        kind = json.loads((case / "export/export.json").read_text())["kind"]
        written(drafted(kind), case / "before")
        shutil.copy(case / "before" / path, case / "export" / path)

    return after


def _first(case: Path, pattern: str) -> Path:
    return sorted(case.glob(pattern))[0]


def flipped(data: bytes) -> bytes:
    """Return the bytes with one bit of the last but one changed."""
    return data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]


def with_crlf(data: bytes) -> bytes:
    """Return a text as a mail program or an editor may leave it."""
    return data.replace(b"\n", b"\r\n")


def swapped(entries: list[bytes]) -> list[bytes]:
    """Return entries of which two have changed places."""
    return [*entries[:7], entries[8], entries[7], *entries[9:]]


def one_changed(entries: list[bytes]) -> list[bytes]:
    """Return entries of which one says something else under its old signature."""
    return [*entries[:5], other_payload(entries[5]), *entries[6:]]


# What the owner of a log does before he signs.


def forged(log: str, event: str, about: Made | None = None, nth: int = 0, **attributes: Any) -> Before:
    """Change attributes of a line."""

    def before(draft: Draft) -> None:
        for name, value in attributes.items():
            setattr(draft.line(log, event, about, nth), name, value)

    return before


def facts(log: str, event: str, about: Made | None = None, nth: int = 0, **changes: Any) -> Before:
    """Change facts of an event, which stays in its form."""
    return lambda draft: draft.line(log, event, about, nth).facts.update(changes)


def subject(log: str, event: str, about: Made | None = None, nth: int = 0, **changes: str) -> Before:
    """Change subjects of an event, which stays in its form."""
    return lambda draft: draft.line(log, event, about, nth).subjects.update(changes)


def again(log: str, event: str, **changes: Any) -> Before:
    """Append an event a second time, with other facts."""

    def before(draft: Draft) -> None:
        line = draft.line(log, event)
        draft.append(log, event, line.subjects, line.facts | changes)

    return before


def signs(log: str, **attributes: Any) -> Before:
    """Change how a log is signed."""

    def before(draft: Draft) -> None:
        for name, value in attributes.items():
            setattr(draft.signed[log], name, value)

    return before


def manifest(**changes: Any) -> Before:
    """Change the manifest."""
    return lambda draft: draft.manifest.update(changes)


def both(first: Before, second: Before) -> Before:
    """Do two things."""
    return lambda draft: (first(draft), second(draft))


def says(**changes: Any) -> Content:
    """Change what a statement's predicate says, in its form or not."""
    return lambda content: content | {"predicate": content["predicate"] | changes}


def holds(**changes: Any) -> Content:
    """Change what a statement says beside its predicate."""
    return lambda content: content | changes


def text(old: str, new: str) -> Content:
    """Sign other bytes than the canonical ones."""

    def content(statement: dict[str, Any]) -> bytes:
        assert old.encode() in canonical(statement)
        return canonical(statement).replace(old.encode(), new.encode(), 1)

    return content


def other_payload(entry: bytes) -> bytes:
    """Return an envelope whose payload is not the one that was signed."""
    fields = json.loads(entry)
    payload = base64.b64decode(fields["payload"]).replace(b'"size":', b'"size":1', 1)
    return _compact(fields | {"payload": base64.b64encode(payload).decode()})


def with_signature(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the signature of an envelope."""

    def envelope(entry: bytes) -> bytes:
        fields = json.loads(entry)
        value = base64.b64encode(change(base64.b64decode(fields["signatures"][0]["sig"]))).decode()
        return _compact(fields | {"signatures": [fields["signatures"][0] | {"sig": value}]})

    return envelope


def signed_twice(entry: bytes) -> bytes:
    """Return an envelope with two signatures."""
    fields = json.loads(entry)
    return _compact(fields | {"signatures": fields["signatures"] * 2})


def with_bits_left_over(entry: bytes) -> bytes:
    """Return an envelope whose signature is in no canonical base64: the letter before == stands for bits beyond it."""
    return entry[:-7] + bytes([entry[-7] + 1]) + entry[-6:]


def written_again(data: bytes) -> bytes:
    """Return JSON with the spaces that most programs put in."""
    return json.dumps(json.loads(data)).encode()


def _compact(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def other_signature(change: Callable[[bytes], bytes], line: int = 0) -> Callable[[Note], Note]:
    """Change the value of a line of a note."""

    def note(true: Note) -> Note:
        signatures = list(true.signatures)
        signatures[line] = replace(signatures[line], value=change(signatures[line].value))
        return Note(true.checkpoint, tuple(signatures))

    return note


def by_stranger(true: Note) -> Note:
    """Return a checkpoint that a stranger has signed under the log's name."""
    return sign_checkpoint(true.checkpoint, STRANGER)


def restated(data: bytes) -> Before:
    """Let the site's approval of a release name other bytes as the statement."""
    return lambda draft: _renamed(draft, POLYP, "approved", "statement", data)


def restating(payload_type: str = PAYLOAD_TYPE, **changes: Any) -> Before:
    """Let the site sign a statement in no form of one."""
    return restated(seal(payload_type, canonical(says(**changes)(json.loads(payload_of(POLYP.statement)))), CLINIC))


def retold(data: bytes) -> Before:
    """Let the site's receipt about a refused release name other bytes."""
    return lambda draft: _renamed(draft, LESION, "receipt", "receipt", data)


def retelling(**changes: Any) -> Before:
    """Let the aggregator sign another receipt, in its form or not."""
    told = json.loads(payload_of(receipt_of(LESION, "refused", "R112", None)))
    return retold(seal("application/vnd.casam-fed.receipt+json", canonical(told | changes), BANK))


def _renamed(draft: Draft, about: Made, event: str, role: str, data: bytes) -> None:
    line = draft.line("site", event, about)
    del draft.files[f"{role}s/{line.subjects[role]}.json"]
    line.subjects[role] = draft.keep(f"{role}s", data)


def quarantined(data: bytes) -> Before:
    """Let the bank quarantine bytes that are no release."""

    def before(draft: Draft) -> None:
        draft.files[f"releases/{digest_of(data)}.safetensors"] = data
        line = draft.line("bank", "quarantined", POLYP)
        draft.append(
            "bank", "quarantined", line.subjects | {"release": digest_of(data)}, line.facts | {"size": len(data)}
        )

    return before


def proves(change: Callable[[Proof], Proof]) -> Before:
    """Change all proofs."""
    return lambda draft: setattr(draft, "proof", change)


def proves_history(lines: Callable[[list[Line]], Iterable[Line]]) -> Before:
    """Let all proofs show another history of the bank log than the export does."""

    def before(draft: Draft) -> None:
        how = draft.signed["bank"]
        entries = entries_of(lines(draft.lines["bank"]), how.origin, how.key)
        hash_at, size = in_memory([leaf_hash(entry) for entry in entries]), len(entries)
        note = sign_checkpoint(Checkpoint(how.origin, size, tree_root(size, hash_at)), how.key)
        draft.proof = lambda proof: Proof(proof.index, tuple(inclusion_path(proof.index, size, hash_at)), note)

    return before
