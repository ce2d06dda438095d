"""The site's Flower ClientApp: four handlers, the same in simulation and deployment.

Handlers only translate between messages and `Site`. An exception never travels: it is logged at the site, and the
aggregator gets a code.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from casam_fed.errors import CasamError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.wire.exchange import (
    LOG,
    Hello,
    Logs,
    Receipt,
    Request,
    StageReport,
    Submission,
    Synced,
    decode_json,
    encode_json,
    unwrap_bytes,
    wrap_bytes,
)

__all__ = ["AnsweringSite", "SiteOf", "answer", "make_client_app", "payload_of"]


class AnsweringSite(Protocol):
    """What handlers need of a site; `site_client.site.Site` is a simulated one, `DeployedSite` a real one."""

    def hear(self, logs: Logs, tail: bytes) -> None: ...
    def hello(self, logs: Logs | None) -> Hello: ...
    def release(self) -> tuple[bytes, Submission]: ...
    def receive(self, receipt: Receipt, envelope: bytes) -> None: ...
    def sync(self, snapshot: bytes, objects: Mapping[str, bytes], logs: Logs | None) -> Synced: ...
    def evaluate(self, last: bool) -> StageReport: ...


SiteOf = Callable[[Context, int], AnsweringSite]
"""Finds the site that a Flower context stands for, for a seed."""

log = logging.getLogger("site_client")


def make_client_app(site_of: SiteOf) -> ClientApp:
    """Return a ClientApp whose handlers serve the site that `site_of` finds."""
    app = ClientApp()

    @app.query("hello")
    def hello(message: Message, context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            site = _heard(site_of(context, request.seed), request)
            return RecordDict(payload_of(site.hello(request.logs)))

        return answer(message, work)

    @app.train("submit")
    def submit(message: Message, context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            release, submission = site_of(context, request.seed).release()
            array = Array("uint8", (len(release),), "numpy.ndarray", wrap_bytes(release))
            return RecordDict({**payload_of(submission), "arrays": ArrayRecord({"release": array})})

        return answer(message, work)

    @app.query("sync")
    def sync(message: Message, context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            arrays = message.content.get("arrays") or {}
            objects = {
                name: unwrap_bytes(array.data, MAX_RELEASE_BYTES, "the aggregator") for name, array in arrays.items()
            }
            site = _heard(site_of(context, request.seed), request, objects.pop(LOG, b""))
            if request.receipt is not None:
                site.receive(request.receipt, request.receipt_envelope.encode())
            return RecordDict(payload_of(site.sync(request.snapshot.encode(), objects, request.logs)))

        return answer(message, work)

    @app.evaluate("stage")
    def stage(message: Message, context: Context) -> Message:
        def work(request: Request) -> RecordDict:
            site = _heard(site_of(context, request.seed), request)
            return RecordDict(payload_of(site.evaluate(request.last)))

        return answer(message, work)

    return app


def _heard(site: AnsweringSite, request: Request, tail: bytes = b"") -> AnsweringSite:
    """Return the site after it has taken in what the aggregator shows of the logs."""
    if request.logs is not None:
        site.hear(request.logs, tail)
    return site


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


def payload_of(value: object) -> dict[str, ConfigRecord]:
    """Return the record that carries a payload dataclass in a message."""
    return {"payload": ConfigRecord({"json": encode_json(value)})}
