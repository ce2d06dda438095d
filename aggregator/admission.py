"""Admission: what a release must pass before it may become an entry of the bank.

A pure function without files, network or clock: bytes and what the aggregator knows go in, a decision comes out, and the
same arguments give the same decision. The checks run from the cheapest, which a stranger's bytes meet, to the most costly,
which only the release of an enrolled site meets. No bytes make it raise; what escapes is a defect of ours.

A refused release is wrong. A quarantined one is well-formed but takes more from other tasks than honest ones do, and a
person decides. docs/reference/refusal-codes.md says for every code what to do.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from torch import Tensor

from casam_fed.audit.dsse import read_envelope, unseal
from casam_fed.audit.statement import PAYLOAD_TYPE, Statement, open_statement
from casam_fed.bank.release import Release, parse
from casam_fed.bank.snapshot import Entry
from casam_fed.errors import CasamError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.host.files import sha256_bytes
from casam_fed.host.printable import printable
from casam_fed.routing.gaussian import Background
from casam_fed.routing.neighbours import Meeting, Neighbours
from casam_fed.routing.overlap import LIMITS, OverlapLimits, OverlapTable, measure_overlap

__all__ = ["CODES", "AdmissionLimits", "Decision", "EnrolledSite", "Outcome", "Standing", "examine"]

Outcome = Literal["admitted", "quarantined", "refused"]

CODES: Mapping[str, str] = MappingProxyType(
    {
        "A001": "may be admitted",
        "A002": "is in force already",
        "Q201": "the router takes too much",
        "R101": "the release is too large",
        "R102": "the envelope is too large",
        "R103": "not a signed statement",
        "R104": "the sender is not enrolled",
        "R105": "the key is not known",
        "R106": "the key is revoked",
        "R107": "the key is another site's",
        "R108": "the signature does not fit",
        "R109": "the statement is not in its form",
        "R110": "the statement is for another federation",
        "R111": "the statement is another site's",
        "R112": "the statement names another app",
        "R113": "the statement names another backbone",
        "R114": "the release is not the one that was signed",
        "R115": "the release was retired",
        "R116": "not a release",
        "R117": "the card contradicts the statement",
        "R118": "the release was made with another backbone",
        "R119": "too few images",
        "R120": "the alignment layer is out of bounds",
        "R121": "the site's task is in force",
        "R122": "the task is another site's",
        "R123": "the router gives no scores",
        "R124": "the task's name is reserved",
    }
)
"""Every code and what it says; the first letter is the outcome. A code never changes its meaning."""

_OUTCOMES: Mapping[str, Outcome] = MappingProxyType({"A": "admitted", "Q": "quarantined", "R": "refused"})

_LONGEST_SENTENCE = 400

_RESERVED = frozenset({"unknown", "identity"})


@dataclass(frozen=True)
class AdmissionLimits:
    """What a release may be at most, or must be at least.

    Root mean squares of honest layers of the mini SAM, either start, 300 to 2,000 steps with learning rates of 1e-4 and
    1e-3: at most 1.12 in one tensor (a norm's weight; .39 in the channel attention, .04 in a convolution) and .035 over
    all values. The bounds are nine and almost thirty times that: they stop what would overflow, not what is unusual.

    Attributes:
        release_bytes, envelope_bytes: sizes; an envelope must fit into an entry of the log.
        images: fewest training images, by the card and by the router's count.
        tensor_rms, layer_rms: root mean square of one tensor of the alignment layer, and of all its values.
        overlap: what the router may take; above it the release is quarantined.
    """

    release_bytes: int = MAX_RELEASE_BYTES
    envelope_bytes: int = 65_535
    images: int = 10
    tensor_rms: float = 10.0
    layer_rms: float = 1.0
    overlap: OverlapLimits = LIMITS


@dataclass(frozen=True, eq=False)
class EnrolledSite:
    """The keys of a site: those that count, by fingerprint, and the fingerprints of those that do no more."""

    keys: Mapping[str, Ed25519PublicKey]
    revoked: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class Standing:
    """What the aggregator knows when a release arrives.

    Attributes:
        federation: its name.
        app: SHA-256 of the Flower app through which releases may leave.
        backbone, backbone_digest: name and SHA-256 of the backbone.
        background: of the bank.
        probes: name -> features [n, C] float32, as `casam_fed.routing.overlap.probe_features` makes them.
        sites: name -> its keys; a key belongs to one site.
        entries: of the bank in the order of their admission, retired ones included.
        neighbours: gives what is known of the tasks in force; asked only for a release that has passed all other checks.
        limits: of what is admitted.
    """

    federation: str
    app: str
    backbone: str
    backbone_digest: str
    background: Background
    probes: Mapping[str, Tensor]
    sites: Mapping[str, EnrolledSite]
    entries: tuple[Entry, ...]
    neighbours: Callable[[], Neighbours]
    limits: AdmissionLimits = field(default_factory=AdmissionLimits)


@dataclass(frozen=True, eq=False)
class Decision:
    """What becomes of a release, and what was found on the way to it.

    Attributes:
        code: one of `CODES`.
        sentence: for the operator, one line of printable ASCII; nothing of the sender's stands in it unescaped.
        statement: once its signature and form were right, whatever else it says.
        release: once parsed.
        meeting: of the release's routers with those of the tasks in force, once it took place.
        overlap: what was measured in it.
        entry: the entry that the release has already, with code A002.
    """

    code: str
    sentence: str
    statement: Statement | None = None
    release: Release | None = None
    meeting: Meeting | None = None
    overlap: OverlapTable | None = None
    entry: Entry | None = None

    @property
    def outcome(self) -> Outcome:
        """Admitted (the caller may write it into the bank), quarantined or refused."""
        return _OUTCOMES[self.code[0]]


def examine(data: bytes, envelope: bytes, sender: str, standing: Standing) -> Decision:
    """Decide on a release.

    Args:
        data: bytes offered as a release.
        envelope: bytes offered as its signed statement.
        sender: name of the site that the transport says it comes from.
        standing: what the aggregator knows.

    Returns:
        A decision for any bytes and any name.
    """
    found = _Found()
    try:
        code, sentence = _examine(data, envelope, sender, standing, found)
    except _RefusalError as refusal:
        code, sentence = refusal.code, refusal.sentence
    return Decision(code, _shown(sentence), found.statement, found.release, found.meeting, found.overlap, found.entry)


@dataclass
class _Found:
    statement: Statement | None = None
    release: Release | None = None
    meeting: Meeting | None = None
    overlap: OverlapTable | None = None
    entry: Entry | None = None


class _RefusalError(Exception):
    """Ends the examination; never leaves this module."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(code)
        self.code, self.sentence = code, sentence


def _examine(data: bytes, envelope: bytes, sender: str, standing: Standing, found: _Found) -> tuple[str, str]:
    _check_sizes(data, envelope, standing.limits)
    statement = found.statement = _signed_statement(envelope, sender, standing)
    _check_statement(statement, sender, standing)
    digest = sha256_bytes(data)
    if (statement.release, statement.size) != (digest, len(data)):
        _refuse("R114", f"the release of {sender} is not the one its statement was signed for; send both again")
    known = _known(statement, standing)
    if known is not None:
        found.entry = known
        return "A002", f"the release of task {known.task} is entry {known.sequence} of the bank already"
    with _refused_as("R116"):
        release = found.release = parse(data, standing.limits.release_bytes)
    _check_card(release, statement, standing)
    _check_layer(release, standing.limits)
    _check_task(release, standing)
    # Names from here on have passed a slug's form, twice: in the statement and in the card.
    task = release.card.task
    neighbours = standing.neighbours()
    with _refused_as("R123"):
        meeting = neighbours.meet(task, release.router)
        table = measure_overlap(meeting, standing.probes)
    found.meeting, found.overlap = meeting, table
    claim = table.beyond(standing.limits.overlap)
    if claim is not None:
        return "Q201", (
            f"by {claim.kind} the router of task {task} takes {claim.share:.0%} of {claim.source};"
            " look at its overlap table, then accept it or leave it"
        )
    return "A001", f"the release of task {task} of {sender} may be admitted"


def _check_sizes(data: bytes, envelope: bytes, limits: AdmissionLimits) -> None:
    if len(data) > limits.release_bytes:
        _refuse("R101", f"a release of {len(data):,} bytes is not read; at most {limits.release_bytes:,} are")
    if len(envelope) > limits.envelope_bytes:
        _refuse("R102", f"an envelope of {len(envelope):,} bytes is not read; at most {limits.envelope_bytes:,} are")


def _signed_statement(envelope: bytes, sender: str, standing: Standing) -> Statement:
    """Return the statement once the envelope's form, its key and its signature are right, in this order."""
    with _refused_as("R103"):
        opened = read_envelope(envelope, sender if sender in standing.sites else "an unknown sender")
    if opened.payload_type != PAYLOAD_TYPE:
        _refuse("R103", "the envelope holds another kind of document than a statement; send the release's own")
    if sender not in standing.sites:
        _refuse("R104", "the sender is no enrolled site; enrol it, or let it send under its enrolled name")
    key = _key(opened.key, sender, standing.sites)
    with _refused_as("R108"):
        unseal(envelope, PAYLOAD_TYPE, {opened.key: key}, sender)
    with _refused_as("R109"):
        return open_statement(envelope, {opened.key: key}, sender)


def _key(fingerprint: str, sender: str, sites: Mapping[str, EnrolledSite]) -> Ed25519PublicKey:
    # Revoked wins: a key that somebody withdrew must not live on under another site's name.
    if any(fingerprint in site.revoked for site in sites.values()):
        _refuse("R106", f"{sender} signed with a revoked key; let it sign with its present one")
    owner = next((name for name, site in sites.items() if fingerprint in site.keys), None)
    if owner is None:
        _refuse("R105", f"{sender} signed with a key that is not enrolled; enrol it after comparing its fingerprint")
    if owner != sender:
        _refuse("R107", f"{sender} sent what {owner} signed; find out how it came there")
    return sites[owner].keys[fingerprint]


def _check_statement(statement: Statement, sender: str, standing: Standing) -> None:
    if statement.federation != standing.federation:
        _refuse("R110", f"{sender} signed for federation {statement.federation}, this is {standing.federation}")
    if statement.site != sender:
        _refuse("R111", f"{sender} signed a statement of site {statement.site}; let it sign its own")
    if statement.app != standing.app:
        _refuse(
            "R112", f"{sender} signed for another app than this federation's; let it review and allow the present one"
        )
    if statement.backbone != standing.backbone_digest:
        _refuse("R113", f"{sender} signed for another backbone than the federation's; let it train with that")


def _known(statement: Statement, standing: Standing) -> Entry | None:
    """Return the sender's entry in force with these bytes; asked before parsing, as an entry was examined once."""
    same = [entry for entry in standing.entries if entry.digest == statement.release]
    active = next((entry for entry in same if entry.status == "active"), None)
    if same and active is None:
        _refuse(
            "R115",
            f"the release is entry {same[0].sequence}, which was retired; another seed or other data make a new one",
        )
    # Another site may have signed the bytes of an entry; its statement then contradicts the card.
    if active is not None and (active.site, active.task) == (statement.site, statement.task):
        return active
    return None


def _check_card(release: Release, statement: Statement, standing: Standing) -> None:
    card, limits = release.card, standing.limits
    if (card.site, card.task) != (statement.site, statement.task):
        _refuse("R117", f"the card speaks of task {card.task} of {card.site}, the statement of {statement.task}")
    ours = (standing.backbone, standing.backbone_digest, standing.background.mean.numel())
    if (card.backbone, card.backbone_digest, card.channels) != ours:
        _refuse("R118", f"task {card.task} was trained with another backbone; train it again with the federation's")
    if min(card.images, release.router.gaussian.count) < limits.images:
        _refuse("R119", f"task {card.task} has fewer than {limits.images} training images; add images and train again")


def _check_layer(release: Release, limits: AdmissionLimits) -> None:
    squares = {name: tensor.double().square() for name, tensor in release.alignment.items()}
    for name, square in squares.items():
        if square.mean().sqrt().item() > limits.tensor_rms:
            _refuse("R120", f"{name} of the alignment layer has a root mean square above {limits.tensor_rms:g}")
    mean = sum(square.sum().item() for square in squares.values()) / sum(map(Tensor.numel, squares.values()))
    if mean > limits.layer_rms**2:
        _refuse("R120", f"the alignment layer has a root mean square above {limits.layer_rms:g}; train it again")


def _check_task(release: Release, standing: Standing) -> None:
    site, task = release.card.site, release.card.task
    if task.casefold() in _RESERVED:
        _refuse("R124", f"{task} is what images of no task are called; let {site} name its task otherwise")
    for entry in standing.entries:
        # Names that differ by case alone would share a folder on some systems.
        if entry.status != "active" or entry.task.casefold() != task.casefold():
            continue
        if entry.site == site:
            _refuse("R121", f"task {entry.task} of {site} has another release in force; retire that first")
        _refuse("R122", f"task {entry.task} belongs to {entry.site}; let {site} name its task otherwise")


def _refuse(code: str, sentence: str) -> NoReturn:
    raise _RefusalError(code, sentence)


@contextlib.contextmanager
def _refused_as(code: str) -> Iterator[None]:
    try:
        yield
    except CasamError as error:
        raise _RefusalError(code, str(error)) from error


def _shown(sentence: str) -> str:
    """Return a sentence that can neither break a line nor move a terminal's cursor, nor fill a page."""
    text = printable(sentence.encode("ascii", "backslashreplace").decode("ascii"))
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[: _LONGEST_SENTENCE - 3]}..."
