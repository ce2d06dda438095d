"""The gate: everything that leaves the site passes here, is checked against what was declared, and is written down first.

A line of the journal holds the time, the kind of message, and for each part its name, bytes and SHA-256. A message that is
not as declared is replaced by an error code, and the journal says so. If the journal cannot be written, nothing leaves.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from casam_fed.card import MAX_RELEASE_BYTES
from casam_fed.errors import CasamError, ExchangeError
from casam_fed.exchange import (
    EVALUATE_STAGE,
    HELLO,
    SUBMIT,
    SYNC,
    Hello,
    StageReport,
    Submission,
    Synced,
    decode_json,
    encode_json,
    unwrap_bytes,
)
from casam_fed.files import sha256_bytes
from site_client.journal import write_line

__all__ = ["Gate"]

_DECLARED: Mapping[str, type[Any]] = {HELLO: Hello, SUBMIT: Submission, SYNC: Synced, EVALUATE_STAGE: StageReport}
"""What may answer which message. A release may accompany a submission; nothing else has arrays."""

_CODE = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Gate:
    """The one way out.

    Attributes:
        journal: the file that every message is written to before it goes.
        approved: tells whether a release with this digest may leave, and with this statement.
    """

    journal: Path
    approved: Callable[[str, str], bool]

    def passed(self, reply: Message) -> Message:
        """Return the reply as it may leave: itself, or an error code in its place; its line is in the journal.

        Raises:
            StorageError: the journal cannot be written; then nothing may leave.
        """
        kind = reply.metadata.message_type
        try:
            parts = self._parts(kind, reply.content)
        except Exception as error:
            # Whatever goes wrong here: what was not found to be as declared stays.
            reason = str(error) if isinstance(error, CasamError) else type(error).__name__
            refused = RecordDict({"payload": ConfigRecord({"error": "Undeclared"})})
            write_line(self.journal, {"kind": kind, "withheld": reason, "parts": _code_parts("Undeclared")})
            reply.content = refused
            return reply
        write_line(self.journal, {"kind": kind, "parts": parts})
        return reply

    def _parts(self, kind: str, content: RecordDict) -> list[dict[str, Any]]:
        payload = content.get("payload")
        if kind not in _DECLARED or not isinstance(payload, ConfigRecord):
            raise ExchangeError(f"{kind[:40]!a} has no declared answer")
        if list(content) == ["payload"] and list(payload) == ["error"]:
            code = payload["error"]
            if not isinstance(code, str) or not _CODE.fullmatch(code):
                raise ExchangeError("an error code is one word")
            return _code_parts(code)
        text = payload.get("json")
        value = decode_json(_DECLARED[kind], text, "this site")
        # The text itself leaves, so it must say what was declared and nothing besides.
        if list(payload) != ["json"] or encode_json(value) != text:
            raise ExchangeError("the answer is not in its one form")
        parts = [_part("payload", str(text).encode())]
        return parts + self._arrays(kind, content, value)

    def _arrays(self, kind: str, content: RecordDict, value: Any) -> list[dict[str, Any]]:
        names = set(content) - {"payload"}
        if kind != SUBMIT:
            if names:
                raise ExchangeError("this answer carries no arrays")
            return []
        arrays = content.get("arrays")
        if names != {"arrays"} or not isinstance(arrays, ArrayRecord) or list(arrays) != ["release"]:
            raise ExchangeError("a submission carries one release")
        array = arrays["release"]
        release = unwrap_bytes(array.data, MAX_RELEASE_BYTES, "this site")
        if (array.dtype, tuple(array.shape), array.stype) != ("uint8", (len(release),), "numpy.ndarray"):
            raise ExchangeError("the release's array is not what it holds")
        part = _part("release", release)
        if part["sha256"] != value.digest or not self.approved(value.digest, value.statement):
            raise ExchangeError("this release was not approved")
        return [part]


def _part(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "bytes": len(data), "sha256": sha256_bytes(data)}


def _code_parts(code: str) -> list[dict[str, Any]]:
    return [_part("error", code.encode())]
