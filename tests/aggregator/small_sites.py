"""Sites whose releases have 8 channels and cost no training: keys, signatures, bytes and bank are real."""

import functools
from dataclasses import replace
from typing import Any

import torch
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.home import Home
from aggregator.sites import enrol
from casam_fed.audit.announcement import RECEIPT, open_announcement
from casam_fed.audit.event import Event, bank_origin, open_event, site_origin
from casam_fed.audit.event_log import append_event, begin_log
from casam_fed.audit.keys import fingerprint, public_pem
from casam_fed.audit.merkle import in_memory, leaf_hash, tree_root
from casam_fed.audit.note import check_cosigned, check_signed, cosigned, read_note
from casam_fed.audit.statement import Statement, sign_statement
from casam_fed.audit.tile_layout import parse_bundle
from casam_fed.audit.tiles import Log
from casam_fed.bank.bank_log import snapshot_of
from casam_fed.bank.release import pack
from casam_fed.host.files import sha256_bytes, sha256_file
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.routing.gaussian import Background
from casam_fed.routing.state import RouterState, fit_routers
from casam_fed.wire.enrolment import EnrolmentRequest
from casam_fed.wire.evaluation_report import RouteReport
from casam_fed.wire.exchange import Hello, Logs, Receipt, StageReport, Submission, Synced, decode_json

from ..casam_fed.bank.releases import BACKBONE_DIGEST, CHANNELS, card

BACKGROUND = Background(torch.zeros(CHANNELS, dtype=torch.float64), torch.full((CHANNELS,), 3.0, dtype=torch.float64))
PROBES = {"blank": torch.linspace(-60, 60, 24)[:, None].expand(24, CHANNELS).contiguous()}


def small_request(site: str, key: Ed25519PrivateKey | None = None) -> EnrolmentRequest:
    """Return a site's request with new keys, or with this signing key."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    node = ec.generate_private_key(ec.SECP384R1()).public_key()
    pem = node.public_bytes(serialization.Encoding.PEM, form).decode("ascii")
    return EnrolmentRequest(site, public_pem((key or Ed25519PrivateKey.generate()).public_key()), pem, "0.1.0")


@functools.cache
def _routers(place: float) -> RouterState:
    features = torch.randn(20, CHANNELS, generator=torch.Generator().manual_seed(0)) + place
    return fit_routers(features, [f"p{index // 2}" for index in range(20)], BACKGROUND)


def small_release(site: str, task: str, place: float, seed: int = 0, greedy: bool = False, **changes: Any) -> bytes:
    """Return a release whose images lie around `place`; a greedy one claims images of no task, too."""
    router = _routers(place)
    if greedy:
        thresholds = {kind: replace(each, value=1e12) for kind, each in router.thresholds.items()}
        router = replace(router, thresholds=thresholds)
    layer = AlignmentLayer(CHANNELS, 1, "identity", seed=seed).state_dict()
    return pack(layer, router, card(task, site=site, **changes)).data


def small_report(**scores: float) -> StageReport:
    """Return what a site tells of ten images."""
    way = RouteReport(10, scores, {}, (), 0)
    return StageReport(way, way, way, way, 1.0)


class OwnLog:
    """What a site shows of its log, a new entry each time, and what it has heard of the aggregator's."""

    def __init__(self, name: str, key: Ed25519PrivateKey, home: Home) -> None:
        self.name, self.key, self.home = name, key, home
        self.public = home.signing_key().public_key()
        self.folder = home.path.parent / f"log of {name}"
        self.origin = site_origin(name, fingerprint(key.public_key()))
        self.entries: list[bytes] = []
        self.cosigned = ""
        begin_log(self.folder, self.origin, key, {}, {"site": name, "code": "0.1.0"})

    def hear(self, logs: Logs, tail: bytes) -> None:
        if logs.witnessed:
            check_cosigned(
                read_note(logs.witnessed.encode(), "it"),
                bank_origin(self.home.config.federation, fingerprint(self.public)),
                self.public,
            )
        if logs.checkpoint:
            note = read_note(logs.checkpoint.encode(), "it")
            check_signed(note, self.public)
            self.entries += parse_bundle(tail, note.checkpoint.size - len(self.entries), "it") if tail else []
            leaves = [leaf_hash(entry) for entry in self.entries]
            assert tree_root(len(leaves), in_memory(leaves)) == note.checkpoint.root
            self.cosigned = cosigned(note, self.origin, self.key, 1_800_000_000).data.decode()

    def shown(self, asked: Logs | None) -> Logs:
        log = Log(self.folder)
        append_event(log, self.key, "declined", {"release": "d" * 64}, {"federation": "north", "task": "other"})
        log = Log(self.folder)
        known = asked.size if asked else 0
        path = tuple(each.hex() for each in log.consistency(known)) if known else ()
        return Logs(log.note.data.decode(), path, self.cosigned, len(self.entries))

    def events(self) -> list[Event]:
        """What it has heard."""
        return [open_event(entry, {fingerprint(self.public): self.public}, "it") for entry in self.entries]


class SmallSite:
    """An enrolled site that offers one release, and keeps what it is sent and told."""

    def __init__(self, name: str, home: Home, place: float, task: str = "") -> None:
        self.name, self.task, self.home = name, task or name, home
        self.key = Ed25519PrivateKey.generate()
        enrol(home.sites, small_request(name, self.key))
        self.log = OwnLog(name, self.key, home)
        self.data = small_release(name, self.task, place)
        self.objects: dict[str, bytes] = {}
        self.receipts: list[Receipt] = []
        self.bank = ""

    @property
    def digest(self) -> str:
        """Of its release."""
        return sha256_bytes(self.data)

    def signed(self, data: bytes | None = None, **changes: Any) -> bytes:
        """Return the statement of its release, or of other bytes."""
        data = self.data if data is None else data
        values: dict[str, Any] = {
            "release": sha256_bytes(data),
            "size": len(data),
            "federation": self.home.config.federation,
            "site": self.name,
            "task": self.task,
            "backbone": BACKBONE_DIGEST,
            "app": sha256_file(self.home.app),
            "code": "0.1.0",
            "approved": "person",
            "time": "2026-11-25T07:10:43Z",
        }
        return sign_statement(Statement(**{**values, **changes}), self.key)

    def hear(self, logs: Logs, tail: bytes) -> None:
        self.log.hear(logs, tail)

    def hello(self, logs: Logs | None) -> Hello:
        told = {receipt.digest: receipt.outcome for receipt in self.receipts}
        waiting = (self.digest,) if told.get(self.digest) in (None, "quarantined") else ()
        shown = self.log.shown(logs)
        return Hello(self.name, self.task, BACKBONE_DIGEST, "c" * 64, {}, tuple(self.objects), waiting, shown)

    def release(self) -> tuple[bytes, Submission]:
        return self.data, Submission(self.digest, {}, self.signed().decode("ascii"))

    def receive(self, receipt: Receipt, envelope: bytes) -> None:
        signed = open_announcement(envelope, RECEIPT, self.home.signing_key().public_key())
        assert decode_json(Receipt, signed.decode("ascii"), "the aggregator") == receipt
        self.receipts.append(receipt)

    def sync(self, objects: dict[str, bytes], logs: Logs | None) -> Synced:
        snapshot = snapshot_of(self.log.events())
        assert not set(objects) & set(self.objects), "an object was sent twice"
        self.objects.update(objects)
        whole = set(snapshot.object_digests) <= set(self.objects)
        self.bank = snapshot.digest if whole else self.bank
        return Synced(snapshot.digest if whole else "", tuple(self.objects), self.log.shown(logs))

    def evaluate(self) -> StageReport:
        return small_report(iou=0.75)
