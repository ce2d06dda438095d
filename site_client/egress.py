"""The way out: everything that leaves the site passes a gate, is checked against what was declared, and is logged first.

What is not as declared is replaced by an error code, and the release log says so. If the log cannot be written, nothing
leaves.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict

from casam_fed.errors import CasamError, ExchangeError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.host.files import sha256_bytes
from casam_fed.wire.exchange import (
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
from site_client.answering import AnsweringSite
from site_client.client_app import make_client_app
from site_client.release_log import Leaving, ReleaseLog
from site_client.wire import message_id, objects_of, refusal_of

__all__ = ["Gate", "WayOut"]

_DECLARED: Mapping[str, type[Any]] = {HELLO: Hello, SUBMIT: Submission, SYNC: Synced, EVALUATE_STAGE: StageReport}
"""What may answer which message. A release may accompany a submission; nothing else has arrays."""

_CODE = re.compile("[A-Za-z][A-Za-z0-9_]{0,63}")
_UNKNOWN = "unknown"
_UNDECLARED = "Undeclared"

_WITHHELD = 0
"""Flower's number for an error of no kind of its own."""

log = logging.getLogger("site_client")


class Gate:
    """The one way out."""

    def __init__(
        self, release_log: ReleaseLog, federation: str, approved: Callable[[str, str], bool], on_wire: bool = True
    ) -> None:
        """Guard the way out.

        Args:
            release_log: where every message is logged before it goes.
            federation: whose aggregator is answered.
            approved: tells whether a release with this digest may leave, and with this statement.
            on_wire: whether messages become objects on a wire, whose digests the log names. Flower's simulation hands
                messages over in memory, under numbers that are no digests: then an intent names neither request nor
                objects, and nothing is logged as sent.
        """
        self._log, self._federation, self._approved, self._on_wire = release_log, federation, approved, on_wire
        self._intents: dict[str, int] = {}

    def passed(self, reply: Message) -> Message:
        """Return the reply as it may leave: itself, or an error code in its place; its intent is in the log.

        Raises:
            StorageError, LogError, KeyFileError: the log cannot be written; then nothing may leave.
        """
        kind = reply.metadata.message_type
        try:
            text, release, size = self._checked(kind, reply.content)
        except Exception as error:
            # Whatever goes wrong here: what was not found to be as declared stays.
            log.error("kept back: %s", error if isinstance(error, CasamError) else type(error).__name__)
            text, release, size = _UNDECLARED, "", len(_UNDECLARED)
            self._withheld(reply, _UNDECLARED)
            reply.content = RecordDict({"payload": ConfigRecord({"error": _UNDECLARED})})
        self._intend(reply, text, release, size)
        return reply

    def refusal(self, reply: Message) -> Message:
        """Return a reply that bears one of Flower's error codes, with one word of ours that says why.

        Raises:
            StorageError, LogError, KeyFileError: as `passed`.
        """
        word = reply.error.reason or _UNDECLARED
        self._withheld(reply, word)
        self._intend(reply, word, "", len(word))
        return reply

    def left(self, reply: Message) -> None:
        """Log that the SuperNode has taken over a reply that has passed."""
        intent = self._intents.pop(message_id(reply), None)
        if intent is not None:
            self._log.sent(message_id(reply), intent)

    def _withheld(self, reply: Message, code: str) -> None:
        # Without an id of its own a message is named by nothing.
        self._log.withheld(_kind_of(reply), self._request_of(reply) or sha256_bytes(b""), self._federation, code)

    def _request_of(self, reply: Message) -> str:
        return reply.metadata.reply_to_message_id if self._on_wire else ""

    def _intend(self, reply: Message, text: str, release: str, size: int) -> None:
        leaving = Leaving(
            kind=_kind_of(reply),
            request=self._request_of(reply),
            payload=text,
            release=release,
            size=size,
            objects=objects_of(reply) if self._on_wire else [],
        )
        intent = self._log.intent(leaving, self._federation)
        self._intents = {message_id(reply): intent} if self._on_wire else {}

    def _checked(self, kind: str, content: RecordDict) -> tuple[str, str, int]:
        """Return the text, the release's digest ("" for none) and the bytes of both; raise what is not as declared."""
        payload = content.get("payload")
        if kind not in _DECLARED or not isinstance(payload, ConfigRecord):
            raise ExchangeError(f"{kind[:40]!a} has no declared answer")
        if list(content) == ["payload"] and list(payload) == ["error"]:
            code = payload["error"]
            if not isinstance(code, str) or not _CODE.fullmatch(code):
                raise ExchangeError("an error code is one word")
            return code, "", len(code)
        text = payload.get("json")
        value = decode_json(_DECLARED[kind], text, "this site")
        # The text itself leaves, so it must say what was declared and nothing besides.
        if list(payload) != ["json"] or encode_json(value) != text:
            raise ExchangeError("the answer is not in its one form")
        release, size = self._release(kind, content, value)
        return str(text), release, len(str(text).encode()) + size

    def _release(self, kind: str, content: RecordDict, value: Any) -> tuple[str, int]:
        if kind != SUBMIT and list(content) == ["payload"]:
            return "", 0
        arrays = content.get("arrays")
        declared = kind == SUBMIT and set(content) == {"payload", "arrays"}
        if not declared or not isinstance(arrays, ArrayRecord) or list(arrays) != ["release"]:
            raise ExchangeError("a submission carries one release, and no other answer carries an array")
        array = arrays["release"]
        release = unwrap_bytes(array.data, MAX_RELEASE_BYTES, "this site")
        if (array.dtype, tuple(array.shape), array.stype) != ("uint8", (len(release),), "numpy.ndarray"):
            raise ExchangeError("the release's array is not what it holds")
        digest = sha256_bytes(release)
        if digest != value.digest or not self._approved(value.digest, value.statement):
            raise ExchangeError("this release was not approved")
        return digest, len(release)


class WayOut:
    """What a site says to messages, and the gate that all of it passes."""

    def __init__(self, site: AnsweringSite, on_wire: bool = True) -> None:
        """Let `site` answer; `on_wire` as for `Gate`."""
        self._app = make_client_app(site)
        self._gate = Gate(ReleaseLog(site.home), site.welcome.federation, site.outbox.is_approved, on_wire)

    def answer(self, message: Message, context: Context) -> Message:
        """Return a handler's reply to a message of an allowed app, as it may leave."""
        kind = message.metadata.message_type
        try:
            reply = self._app(message, context)
        except Exception:
            # Only a message of a kind that has no handler gets here: handlers turn their failures into codes.
            log.exception("a message of kind %.40r could not be handled", kind)
            reply = Message(RecordDict({"payload": ConfigRecord({"error": "UnknownMessage"})}), reply_to=message)
        return self._through(lambda: self._gate.passed(reply), message)

    def refuse(self, message: Message, app: str) -> Message:
        """Return the refusal of a message of an app that is not allowed here, as it may leave."""
        log.error("refused an app that is not allowed here: %s", app)
        return self._through(lambda: self._gate.refusal(refusal_of(message, "AppNotAllowed")), message)

    def left(self, reply: Message) -> None:
        """Log that a reply has left."""
        try:
            self._gate.left(reply)
        except CasamError as error:
            # Its intent stands in the log already.
            log.error("that a message has left could not be logged: %s", error)

    def _through(self, passed: Callable[[], Message], message: Message) -> Message:
        try:
            return passed()
        except Exception as error:
            # A full disk, or a defect of ours: what has no entry in the log does not leave, only a number does.
            log.error("nothing is sent: %s", error, exc_info=not isinstance(error, CasamError))
            return Message(Error(_WITHHELD), reply_to=message)


def _kind_of(reply: Message) -> str:
    """Return the kind of message that is answered; one that is not ours has a name of somebody else's."""
    return reply.metadata.message_type if reply.metadata.message_type in _DECLARED else _UNKNOWN
