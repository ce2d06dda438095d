"""What a site and the aggregator say to each other: message names and the exact form of every payload.

No network code: both ends build and parse these values, so that neither trusts the other. A payload is one JSON object
beside, where bytes travel, arrays of dtype uint8; both are capped in size and checked before use.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.canonical import canonical_json
from casam_fed.errors import ExchangeError
from casam_fed.forms import STRICT, Digest, Slug
from casam_fed.host.printable import printable
from casam_fed.wire.evaluation_report import RouteReport

__all__ = [
    "EVALUATE_STAGE",
    "HELLO",
    "LOG",
    "MAX_JSON_BYTES",
    "SUBMIT",
    "SYNC",
    "Hello",
    "Logs",
    "Receipt",
    "Request",
    "StageReport",
    "Submission",
    "Synced",
    "decode_json",
    "encode_json",
    "unwrap_bytes",
    "wrap_bytes",
]

HELLO = "query.hello"
SUBMIT = "train.submit"
SYNC = "query.sync"
EVALUATE_STAGE = "evaluate.stage"

LOG = "log"
"""The array that holds entries of the bank log, as a bundle (C2SP tlog-tiles), beside the objects of a sync."""

MAX_JSON_BYTES = 1 << 20

_PLACE = 80
_HEADER_BYTES = 128

Reason = Annotated[str, Field(pattern=r"^[ -~]{0,600}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+_-]{1,64}$")]
Seconds = Annotated[float, Field(ge=0)]
Note = Annotated[str, Field(max_length=16 << 10)]


@dataclass(frozen=True, config=STRICT)
class Receipt:
    """The aggregator's answer to a release.

    Attributes:
        digest: of the release.
        outcome: admitted, quarantined (a person will look at it) or refused.
        sequence: of its entry in the bank, once admitted.
        code, reason: the refusal code (docs/reference/refusal-codes.md) and a sentence, printable ASCII.
    """

    digest: Digest
    outcome: Literal["admitted", "quarantined", "refused"]
    sequence: Annotated[int, Field(ge=0)] | None = None
    code: Annotated[str, Field(pattern=r"^[A-Z0-9]{0,8}$")] = ""
    reason: Reason = ""


@dataclass(frozen=True, config=STRICT)
class Logs:
    """What one end shows of its own log, and has seen of the other's; each is the witness of the other.

    Attributes:
        checkpoint: of the sender's own log, signed (casam_fed.audit.note); with a sync that of the bank log which ends with
            the entries sent beside it.
        consistency: hashes by which that checkpoint continues the one that the other end had witnessed.
        witnessed: the newest checkpoint of the other's log that the sender has cosigned.
        size: the number of entries of the other's log up to which the sender knows it.
    """

    checkpoint: Note = ""
    consistency: Annotated[tuple[Digest, ...], Field(max_length=64)] = ()
    witnessed: Note = ""
    size: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, config=STRICT)
class Request:
    """What comes with every question of the aggregator.

    Attributes:
        receipt, receipt_envelope: with a sync: a decision about the site's release, and the same, signed.
        logs: of its own log, which with a sync is followed by the entries that the site lacks; absent where a release is
            asked for.
    """

    receipt: Receipt | None = None
    receipt_envelope: Annotated[str, Field(max_length=8 << 10)] = ""
    logs: Logs | None = None


@dataclass(frozen=True, config=STRICT)
class Hello:
    """A site introduces itself: its name and task, what it runs, and which entries and releases it holds (digests)."""

    site: Slug
    task: Slug
    backbone_digest: Digest
    config_digest: Digest
    versions: dict[Slug, Version]
    have: tuple[Digest, ...]
    outbox: tuple[Digest, ...]
    logs: Logs | None = None


@dataclass(frozen=True, config=STRICT)
class Submission:
    """What accompanies a release: its digest, seconds spent on each part of making it, and its signed statement.

    The statement is a DSSE envelope (casam_fed.audit.statement), empty until a person has let the release go.
    """

    digest: Digest
    seconds: dict[Slug, Seconds]
    statement: Annotated[str, Field(max_length=64 << 10)] = ""


@dataclass(frozen=True, config=STRICT)
class Synced:
    """What a site holds after a sync: the digest of its bank (empty while objects are missing), and of every object."""

    bank_digest: Digest | Literal[""]
    have: tuple[Digest, ...]
    logs: Logs | None = None


@dataclass(frozen=True, config=STRICT)
class StageReport:
    """Aggregate scores of one site's test images at one stage."""

    zero_shot: RouteReport
    oracle: RouteReport
    gaussian: RouteReport
    vae: RouteReport
    seconds: Seconds


def encode_json(value: Any) -> str:
    """Return a payload dataclass, or plain mapping, as one JSON text without NaN."""
    plain = value if isinstance(value, Mapping) else TypeAdapter(type(value)).dump_python(value, mode="json")
    return canonical_json(plain)


def decode_json(kind: Any, text: object, sender: str) -> Any:
    """Parse a payload of dataclass `kind` from a JSON text that `sender` sent.

    Raises:
        ExchangeError: too long, not JSON, or not exactly the fields of `kind`.
    """
    try:
        # What is no text, or too much, is read like none.
        return TypeAdapter(kind).validate_json(text if isinstance(text, str) and len(text) <= MAX_JSON_BYTES else "")
    except ValidationError as error:
        first = error.errors()[0]
        # A key that is not expected is the sender's own text, and this sentence is shown at a terminal.
        place = printable(".".join(str(part) for part in first["loc"])[:_PLACE])
        raise ExchangeError(
            f"{sender} sent a {kind.__name__} that cannot be read at '{place}' ({first['type']}; at most "
            f"{MAX_JSON_BYTES:,} bytes are read); run the same version at both ends"
        ) from error


def wrap_bytes(data: bytes) -> bytes:
    """Return `data` as a serialized uint8 array [n] (NumPy .npy format 1.0)."""
    return _header(len(data)) + data


def unwrap_bytes(data: bytes, max_bytes: int, sender: str) -> bytes:
    """Return the content of a serialized uint8 array after checking that it is exactly what `wrap_bytes` writes.

    A header is Python text that NumPy evaluates, with room for remarks and claims. None is evaluated here: there is one
    header for each number of bytes, so that nothing can be forged in it, and nothing hidden.

    Raises:
        ExchangeError: over `max_bytes`, or anything else than one uint8 array [n] in .npy format 1.0.
    """
    count = len(data) - _HEADER_BYTES
    if not (0 <= count <= max_bytes and data.startswith(_header(count))):
        raise ExchangeError(
            f"{sender} sent an array of {len(data)} bytes where plain bytes in .npy format 1.0, at most {max_bytes} are "
            "allowed; nothing was read"
        )
    return data[_HEADER_BYTES:]


def _header(count: int) -> bytes:
    """Return what NumPy writes before `count` bytes: magic, version, the length of the rest, and the padded rest."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count},), }}"
    rest = text.encode("ascii").ljust(_HEADER_BYTES - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(rest).to_bytes(2, "little") + rest
