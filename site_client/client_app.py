"""The site's Flower ClientApp: four handlers, the same in simulation and deployment.

Handlers only translate between messages and `AnsweringSite`. An exception never travels: it is logged at the site, and the
aggregator gets a code.
"""

import logging
from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from casam_fed.errors import CasamError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.wire.exchange import LOG, Request, decode_json, encode_json, unwrap_bytes, wrap_bytes
from site_client.answering import AnsweringSite

__all__ = ["answer", "bytes_record", "make_client_app", "payload_of"]

log = logging.getLogger("site_client")


def make_client_app(site: AnsweringSite) -> ClientApp:
    """Return a ClientApp whose handlers let `site` answer."""
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, _context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            _hear(site, request)
            return payload_of(site.hello(request.logs))

        return answer(message, work)

    @app.train("submit")
    def submit(message: Message, _context: Context) -> Message:
        def work(_request: Request) -> RecordDict:
            release, submission = site.release()
            content = payload_of(submission)
            content["arrays"] = bytes_record("release", release)
            return content

        return answer(message, work)

    @app.query("sync")
    def sync(message: Message, _context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            objects = _bytes_in(message.content)
            _hear(site, request, objects.pop(LOG, b""))
            if request.receipt is not None:
                site.receive(request.receipt, request.receipt_envelope.encode())
            return payload_of(site.sync(objects, request.logs))

        return answer(message, work)

    @app.evaluate("stage")
    def stage(message: Message, _context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            _hear(site, request)
            return payload_of(site.evaluate())

        return answer(message, work)

    return app


def _hear(site: AnsweringSite, request: Request, tail: bytes = b"") -> None:
    """Let the site take in what the aggregator shows of the logs."""
    if request.logs is not None:
        site.hear(request.logs, tail)


def _bytes_in(content: RecordDict) -> dict[str, bytes]:
    """Return name -> bytes of the arrays that a message carries, size-capped; none where it carries none."""
    arrays = content.get("arrays")
    if not isinstance(arrays, ArrayRecord):
        return {}
    return {name: unwrap_bytes(array.data, MAX_RELEASE_BYTES, "the aggregator") for name, array in arrays.items()}


def answer(message: Message, work: Callable[[Any], RecordDict], kind: type = Request) -> Message:
    """Parse a message's payload as `kind`, let `work` make the content of the reply, and turn any failure into a code."""
    try:
        payload = message.content.get("payload")
        text = payload.get("json") if isinstance(payload, ConfigRecord) else None
        content = work(decode_json(kind, text, "the aggregator"))
    except CasamError as error:
        log.error("%s: %s", type(error).__name__, error)
        content = RecordDict({"payload": ConfigRecord({"error": type(error).__name__})})
    except Exception as error:
        log.exception("unexpected failure")
        content = RecordDict({"payload": ConfigRecord({"error": type(error).__name__})})
    return Message(content, reply_to=message)


def payload_of(value: object) -> RecordDict:
    """Return the content of a message that carries a payload dataclass."""
    return RecordDict({"payload": ConfigRecord({"json": encode_json(value)})})


def bytes_record(name: str, data: bytes) -> ArrayRecord:
    """Return the record that carries bytes under a name."""
    return ArrayRecord({name: Array("uint8", (len(data),), "numpy.ndarray", wrap_bytes(data))})
