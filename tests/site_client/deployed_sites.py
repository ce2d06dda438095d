"""A deployed site's folder, the aggregator that welcomed it, and a message asked as Flower would."""

import json
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from casam_fed.audit.announcement import RECEIPT
from casam_fed.audit.dsse import seal
from casam_fed.audit.event import Event
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.wire.enrolment import open_request, welcome_json
from casam_fed.wire.exchange import LOG, SYNC, Logs, Receipt, Request, encode_json, wrap_bytes
from site_client.answering import AnsweringSite
from site_client.client_app import make_client_app
from site_client.egress import Gate
from site_client.home import SiteHome, create_site_home
from site_client.release_log import ReleaseLog

from ..casam_fed.bank.bank_logs import ShownLog, shown_log
from ..casam_fed.wire.welcomes import AGGREGATOR, welcome_for

# Flower's processes set this before an app runs; private, and used in tests/loopback.py alike.
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1

SETTINGS: dict[str, Any] = {
    "name": "clinic",
    "data": {"kind": "phantom", "modality": "endoscopy", "train": 12, "test": 12, "seed": 1},
    "threads": 1,
    "device": "cpu",
}


def welcomed_home(path: Path, welcome: dict[str, Any] | None = None, **settings: Any) -> SiteHome:
    """Make a site's folder with a welcome in it; `welcome` changes fields of that."""
    home = create_site_home(path, {**SETTINGS, **settings})
    give_welcome(home, **(welcome or {}))
    return home


def give_welcome(home: SiteHome, **changes: Any) -> None:
    """Put a welcome into a site's folder."""
    request = open_request(home.request.read_bytes())
    (home.path / "WELCOME.json").write_bytes(welcome_json(welcome_for(request, **changes)))


def approve(home: SiteHome, digest: str) -> None:
    """Let a release go, as `casam-site join --yes` does."""
    site = AnsweringSite(home)
    size = site.outbox.path(digest).stat().st_size
    site.outbox.approve(digest, size, home.settings.site.task_name, site.welcome, "option")


def request_of(kind: str, request: object = None, arrays: dict[str, bytes] | None = None) -> Message:
    """Return a message of the aggregator."""
    content = RecordDict({"payload": ConfigRecord({"json": encode_json(request or Request())})})
    if arrays:
        content["arrays"] = ArrayRecord({name: array_of(data) for name, data in arrays.items()})
    return Message(content, dst_node_id=1, message_type=kind)


def array_of(data: bytes) -> Array:
    """Return bytes as they travel."""
    return Array("uint8", (len(data),), "numpy.ndarray", wrap_bytes(data))


class Asked:
    """A site's answers: its real handlers, in this process, and the gate."""

    def __init__(self, home: SiteHome) -> None:
        self.home, self.site = home, AnsweringSite(home)
        self._app = make_client_app(self.site)
        self._gate = Gate(ReleaseLog(home), self.site.welcome.federation, self.site.outbox.is_approved)

    def send(self, message: Message) -> Message:
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        return self._gate.passed(self._app(message, context))

    def ask(self, kind: str, request: object = None, arrays: dict[str, bytes] | None = None) -> dict[str, Any]:
        """Return the answer's payload; {"error": CODE} where there is none."""
        payload = self.send(request_of(kind, request, arrays)).content["payload"]
        return json.loads(payload["json"]) if "json" in payload else dict(payload)

    def sync(
        self, log: ShownLog, objects: dict[str, bytes] | None = None, receipt: Receipt | None = None
    ) -> dict[str, Any]:
        """Show the site a bank log as far as it lacks it, ask for a sync, and return the answer but for its logs."""
        sealed = signed_receipt(receipt).decode("ascii") if receipt else ""
        known = self.site.witness.shown(Logs()).size
        logs = Logs(checkpoint=log.note().data.decode())
        request = Request(receipt=receipt, receipt_envelope=sealed, logs=logs)
        answer = self.ask(SYNC, request, {LOG: log.bundle(known), **(objects or {})})
        answer.pop("logs", None)
        return answer

    def events(self) -> list[Event]:
        """Return what the release log says."""
        return list(ReleaseLog(self.home).events())

    def said(self) -> str:
        """Everything that was shown to the person at the site, by the lines of the progress file."""
        return "".join(json.loads(line)["text"] + "\n" for line in self.home.progress.read_text().splitlines())

    @property
    def bank(self) -> str:
        """Digest of the site's copy of the bank."""
        return LayerBank(self.home.seeded / "bank").snapshot().digest


def log_of(bank: LayerBank) -> ShownLog:
    """Return a bank's log as the aggregator shows it."""
    return shown_log(bank.snapshot())


def signed_receipt(receipt: Receipt) -> bytes:
    """Return a receipt as the aggregator signs it."""
    return seal(RECEIPT, encode_json(receipt).encode(), AGGREGATOR)


def objects_of(bank: LayerBank) -> dict[str, bytes]:
    """Return all objects of a bank."""
    return {digest: bank.object_bytes(digest) for digest in bank.snapshot().object_digests}
