"""Admission: every kind of wrong release has a code, an honest one passes, and no bytes make it raise."""

import itertools
import json
import random
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import save
from torch import Tensor

from aggregator import admission
from aggregator.admission import CODES, AdmissionLimits, Decision, EnrolledSite, Standing, examine
from casam_fed.audit.dsse import read_envelope, seal
from casam_fed.audit.keys import fingerprint
from casam_fed.audit.statement import PAYLOAD_TYPE, Statement, sign_statement
from casam_fed.bank.card import card_json
from casam_fed.bank.layer_bank import Entry, LayerBank
from casam_fed.bank.release import pack, parse
from casam_fed.errors import BankError
from casam_fed.host.files import sha256_bytes
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.routing.calibration import Threshold
from casam_fed.routing.gaussian import Background
from casam_fed.routing.neighbours import Neighbours
from casam_fed.routing.overlap import OverlapTable
from casam_fed.routing.state import RouterState, fit_routers, router_tensors

from ..casam_fed.bank.releases import BACKBONE_DIGEST, CHANNELS, card

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "refusal-codes.md"
APP = "c" * 64
BACKGROUND = Background(torch.zeros(CHANNELS, dtype=torch.float64), torch.full((CHANNELS,), 3.0, dtype=torch.float64))
PROBES = {"blank": torch.linspace(-60, 60, 24)[:, None].expand(24, CHANNELS).contiguous()}


def key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def enrolled(number: int, *revoked: int) -> EnrolledSite:
    gone = frozenset(fingerprint(key(each).public_key()) for each in revoked)
    return EnrolledSite({fingerprint(key(number).public_key()): key(number).public_key()}, gone)


SITES = {"site-polyp": enrolled(1, 11), "site-spleen": enrolled(2), "site-teeth": enrolled(3)}


def routers(place: float) -> RouterState:
    features = torch.randn(20, CHANNELS, generator=torch.Generator().manual_seed(0)) + place
    return fit_routers(features, [f"p{index // 2}" for index in range(20)], BACKGROUND)


ROUTERS = {"polyp": routers(0.0), "spleen": routers(8.0), "teeth": routers(-8.0)}


def layer(start: str = "identity", **changes: float) -> dict[str, Tensor]:
    """A fresh layer; the named tensors are filled with one value."""
    state = AlignmentLayer(CHANNELS, 1, start, seed=0).state_dict()
    named = {name.replace("__", "."): torch.full_like(state[name.replace("__", ".")], v) for name, v in changes.items()}
    return {**state, **named}


def released(
    task: str = "polyp", router: RouterState | None = None, alignment: dict[str, Tensor] | None = None, **changes: Any
) -> bytes:
    return pack(
        alignment or layer(changes.get("start", "identity")),
        router or ROUTERS[task],
        card(task, **changes),
    ).data


def stated(data: bytes, task: str = "polyp", **changes: Any) -> Statement:
    values = {
        "release": sha256_bytes(data),
        "size": len(data),
        "federation": "north",
        "site": f"site-{task}",
        "task": task,
        "backbone": BACKBONE_DIGEST,
        "app": APP,
        "code": "0.1.0",
        "approved": "person",
        "time": "2026-11-25T07:10:43Z",
    }
    return Statement(**{**values, **changes})


def signed(data: bytes, task: str = "polyp", number: int = 1, **changes: Any) -> bytes:
    return sign_statement(stated(data, task, **changes), key(number))


RELEASES = {task: released(task) for task in ROUTERS}
POLYP = RELEASES["polyp"]
ENVELOPE = signed(POLYP)


def entry(task: str, sequence: int = 0, **changes: Any) -> Entry:
    data = RELEASES[task]
    values = {
        "sequence": sequence,
        "site": f"site-{task}",
        "task": task,
        "digest": sha256_bytes(data),
        "bytes": len(data),
    }
    return Entry(**{**values, **changes})


def standing(*entries: Entry, **changes: Any) -> Standing:
    values: dict[str, Any] = {
        "federation": "north",
        "app": APP,
        "backbone": "tiny",
        "backbone_digest": BACKBONE_DIGEST,
        "background": BACKGROUND,
        "probes": PROBES,
        "sites": SITES,
        "entries": entries,
    }
    routers = {each.task: ROUTERS[each.task.lower()] for each in entries if each.status == "active"}
    values = {**values, **changes}
    return Standing(**{"neighbours": lambda: Neighbours.of(routers, values["background"]), **values})


EMPTY = standing()
TWO = standing(entry("spleen"), entry("teeth", 1))


def decide(data: bytes, envelope: bytes, sender: str = "site-polyp", known: Standing = TWO) -> Decision:
    decision = examine(data, envelope, sender, known)
    assert decision.code in CODES
    assert decision.outcome == {"A": "admitted", "Q": "quarantined", "R": "refused"}[decision.code[0]]
    assert decision.sentence.isascii()
    assert decision.sentence.isprintable()
    assert 0 < len(decision.sentence) <= 400
    return decision


def resigned(data: bytes, **changes: Any) -> Decision:
    """Decide on bytes that the right site signed as they are."""
    return decide(data, signed(data, **changes))


@pytest.mark.parametrize("known", [EMPTY, TWO], ids=["empty bank", "two tasks"])
@pytest.mark.parametrize("start", ["identity", "paper"])
def test_an_honest_release_may_be_admitted(known, start):
    data = released(start=start)
    decision = decide(data, signed(data), known=known)
    assert (decision.code, decision.outcome) == ("A001", "admitted")
    assert decision.release is not None
    assert decision.release.data == data
    assert decision.statement == stated(data)
    assert decision.overlap is not None
    assert OverlapTable.from_json(decision.overlap.to_json()) == decision.overlap
    assert decision.entry is None


def test_what_may_be_admitted_the_bank_admits(tmp_path):
    bank = LayerBank.create(tmp_path / "bank", "tiny", BACKBONE_DIGEST, BACKGROUND)
    for number, task in enumerate(RELEASES, 1):
        now = standing(*bank.snapshot().entries)
        decision = decide(RELEASES[task], signed(RELEASES[task], task, number), f"site-{task}", now)
        assert decision.code == "A001"
        assert decision.release is not None
        bank.admit(decision.release)
    again = decide(POLYP, ENVELOPE, known=standing(*bank.snapshot().entries))
    assert again.entry == bank.snapshot().entries[0]


def test_the_same_bytes_again_give_the_same_entry():
    known = standing(entry("spleen"), entry("polyp", 1))
    decision = decide(POLYP, ENVELOPE, known=known)
    assert (decision.code, decision.outcome, decision.entry) == ("A002", "admitted", known.entries[1])
    later = decide(POLYP, signed(POLYP, time="2027-01-01T00:00:00Z"), known=known)
    assert (later.code, later.entry) == ("A002", known.entries[1])


def test_what_is_in_force_stays_so_when_limits_become_stricter():
    strict = standing(entry("polyp"), limits=AdmissionLimits(images=10_000, layer_rms=0.0))
    assert decide(POLYP, ENVELOPE, known=strict).code == "A002"


def test_a_decision_depends_on_its_arguments_alone():
    first, second = decide(POLYP, ENVELOPE), decide(POLYP, ENVELOPE)
    assert (first.code, first.sentence, first.overlap) == (second.code, second.sentence, second.overlap)


def scaled_thresholds(state: RouterState, value: float) -> RouterState:
    return replace(state, thresholds={**state.thresholds, "gaussian": Threshold(0.0, value)})


GREEDY = released(router=scaled_thresholds(ROUTERS["polyp"], 1e12))
FEW = released(images=5)
OTHER_POLYP = released(seed=5)
HIDING = released("Unknown", ROUTERS["polyp"], site="site-polyp")
WRONG: dict[str, tuple[str, Callable[[], Decision]]] = {
    "release too large": (
        "R101",
        lambda: decide(POLYP, ENVELOPE, known=standing(limits=AdmissionLimits(release_bytes=100))),
    ),
    "envelope too large": ("R102", lambda: decide(POLYP, b"x" * 65_536)),
    "no envelope": ("R103", lambda: decide(POLYP, b"hello")),
    "written again": ("R103", lambda: decide(POLYP, json.dumps(json.loads(ENVELOPE)).encode())),
    "another kind of document": (
        "R103",
        lambda: decide(POLYP, seal("application/vnd.casam-fed.bank+json", b"{}", key(1))),
    ),
    "unknown sender": ("R104", lambda: decide(POLYP, ENVELOPE, "site-nobody")),
    "sender with a strange name": ("R104", lambda: decide(POLYP, ENVELOPE, "\x1b[2Jü\n" * 99)),
    "unknown key": ("R105", lambda: decide(POLYP, signed(POLYP, number=9))),
    "revoked key": ("R106", lambda: decide(POLYP, signed(POLYP, number=11))),
    "key revoked at one site and enrolled at another": (
        "R106",
        lambda: decide(POLYP, ENVELOPE, known=standing(sites={**SITES, "site-teeth": enrolled(3, 1)})),
    ),
    "key of another site": ("R107", lambda: decide(POLYP, signed(POLYP, number=2))),
    "relayed": ("R107", lambda: decide(POLYP, ENVELOPE, "site-spleen")),
    "signature of another statement": ("R108", lambda: decide(POLYP, forged())),
    "no statement": ("R109", lambda: decide(POLYP, seal(PAYLOAD_TYPE, b'{"a":1}', key(1)))),
    "another federation": ("R110", lambda: resigned(POLYP, federation="south")),
    "statement of another site": ("R111", lambda: resigned(POLYP, site="site-spleen")),
    "another app": ("R112", lambda: resigned(POLYP, app="d" * 64)),
    "statement of another backbone": ("R113", lambda: resigned(POLYP, backbone="d" * 64)),
    "another digest": ("R114", lambda: resigned(POLYP, release="d" * 64)),
    "another size": ("R114", lambda: resigned(POLYP, size=len(POLYP) + 1)),
    "another release": ("R114", lambda: decide(OTHER_POLYP, ENVELOPE)),
    "retired": ("R115", lambda: decide(POLYP, ENVELOPE, known=standing(entry("polyp", status="retired")))),
    "retired, another in force": (
        "R115",
        lambda: decide(
            POLYP, ENVELOPE, known=standing(entry("polyp", status="retired"), entry("polyp", 1, digest="e" * 64))
        ),
    ),
    "no release": ("R116", lambda: resigned(b"hello")),
    "empty": ("R116", lambda: resigned(b"")),
    "not a number": (
        "R116",
        lambda: resigned(with_tensor("alignment.block0.conv1.bias", torch.full((CHANNELS,), torch.nan))),
    ),
    "undeclared tensor": ("R116", lambda: resigned(with_tensor("alignment.image", torch.zeros(9)))),
    "card of another task": (
        "R117",
        lambda: decide(POLYP, sign_statement(replace(stated(POLYP), task="teeth"), key(1))),
    ),
    "card of another site": ("R117", lambda: resigned(released(site="site-spleen"))),
    "another's entry signed anew": (
        "R117",
        lambda: decide(RELEASES["spleen"], signed(RELEASES["spleen"], "spleen", site="site-polyp"), known=TWO),
    ),
    "another backbone": ("R118", lambda: resigned(released(backbone_digest="d" * 64))),
    "another backbone by name": ("R118", lambda: resigned(released(backbone="vit_b"))),
    "other channels than the bank's": (
        "R118",
        lambda: decide(
            POLYP, ENVELOPE, known=standing(background=Background(torch.zeros(9).double(), torch.ones(9).double()))
        ),
    ),
    "few images": ("R119", lambda: resigned(FEW)),
    "few images behind the statistics": (
        "R119",
        lambda: resigned(with_tensor("router.gaussian.count", torch.tensor(9))),
    ),
    "one tensor out of bounds": ("R120", lambda: resigned(released(alignment=layer(block0__conv2__bias=10.1)))),
    "all values out of bounds": ("R120", lambda: resigned(released(alignment=layer(block0__conv1__weight=1.5)))),
    "values that overflow when squared": (
        "R120",
        lambda: resigned(released(alignment=layer(block0__conv1__weight=3e38))),
    ),
    "own task in force": (
        "R121",
        lambda: decide(POLYP, ENVELOPE, known=standing(entry("polyp", digest="e" * 64))),
    ),
    "another's task": (
        "R122",
        lambda: decide(POLYP, ENVELOPE, known=standing(entry("polyp", digest="e" * 64, site="site-x"))),
    ),
    "another's task in other case": (
        "R122",
        lambda: decide(
            POLYP, ENVELOPE, known=standing(replace(entry("polyp"), digest="e" * 64, site="site-x", task="POLYP"))
        ),
    ),
    "reserved": (
        "R124",
        lambda: decide(HIDING, signed(HIDING, task="Unknown", site="site-polyp")),
    ),
    "no scores": (
        "R123",
        lambda: decide(
            POLYP,
            ENVELOPE,
            known=standing(
                background=Background(BACKGROUND.mean, torch.tensor([1e-160] + [1.0] * 7, dtype=torch.float64))
            ),
        ),
    ),
    "a router without a threshold": ("Q201", lambda: resigned(GREEDY)),
    "a copy of a neighbour, sharper": ("Q201", lambda: resigned(released(router=sharper(ROUTERS["spleen"])))),
}


def forged() -> bytes:
    other = json.loads(signed(POLYP, time="2020-01-01T00:00:00Z"))
    return ENVELOPE.replace(
        json.loads(ENVELOPE)["signatures"][0]["sig"].encode(), other["signatures"][0]["sig"].encode()
    )


HONEST = parse(POLYP)
TENSORS = {f"alignment.{each}": value for each, value in HONEST.alignment.items()} | router_tensors(HONEST.router)


def with_tensor(name: str, tensor: Tensor) -> bytes:
    return save({**TENSORS, name: tensor}, {"card": card_json(HONEST.card)})


def sharper(state: RouterState) -> RouterState:
    gaussian = replace(state.gaussian, covariance=state.gaussian.covariance * 0.7)
    return scaled_thresholds(replace(state, gaussian=gaussian), 1e3)


@pytest.mark.parametrize("case", WRONG)
def test_every_kind_of_wrong_release_has_its_code(case):
    code, run = WRONG[case]
    decision = run()
    assert decision.code == code, decision.sentence


def test_every_code_is_tested():
    assert {code for code, _ in WRONG.values()} | {"A001", "A002"} == set(CODES)


def test_ten_images_are_enough():
    assert resigned(released(images=10)).code == "A001"


def test_a_quarantined_release_comes_with_what_was_found():
    decision = resigned(GREEDY)
    assert decision.release is not None
    assert decision.overlap is not None
    assert decision.overlap.worst is not None
    assert decision.sentence.startswith("by gaussian the router of task polyp takes 100% of probe blank")


def test_nothing_is_told_of_a_statement_whose_signature_does_not_fit():
    decision = decide(POLYP, forged())
    assert (decision.statement, decision.release) == (None, None)
    assert decide(b"hello", signed(b"hello")).statement == stated(b"hello")


def test_what_the_sender_wrote_cannot_move_the_operators_cursor():
    """A card may be any text until it is parsed, and its error names the place."""
    wild = "\x1b[2J\r\n\u202e\u00fc" * 500
    text = json.dumps({**json.loads(card_json(card("polyp"))), wild: 1}, sort_keys=True, separators=(",", ":"))
    decision = resigned(save(TENSORS, {"card": text}))
    assert decision.code == "R116"
    assert r"\x1b[2J\r\n\u202e\xfc" in decision.sentence
    undeclared = save({**TENSORS, wild: torch.zeros(1)}, {"card": card_json(HONEST.card)})
    assert resigned(undeclared).code == "R116"


def test_defects_of_ours_surface(monkeypatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr(admission, "measure_overlap", broken)
    with pytest.raises(RuntimeError, match="ours"):
        examine(POLYP, ENVELOPE, "site-polyp", TWO)


def test_the_bank_is_asked_only_for_what_has_passed_all_other_checks():
    def asked() -> Neighbours:
        raise BankError("an entry of ours is damaged")

    known = standing(entry("spleen"), neighbours=asked)
    for data, envelope in ((POLYP, b"hello"), (FEW, signed(FEW)), (POLYP, signed(POLYP, app="d" * 64))):
        assert decide(data, envelope, known=known).outcome == "refused"
    with pytest.raises(BankError, match="of ours"):
        examine(POLYP, ENVELOPE, "site-polyp", known)


def mutations(data: bytes, count: int, seed: int) -> list[bytes]:
    """Bit flips, truncations, insertions and repetitions of `data`."""
    randomness, found = random.Random(seed), []
    for number in range(count):
        place, changed = randomness.randrange(len(data)), bytearray(data)
        if number % 4 == 0:
            changed[place] ^= 1 << randomness.randrange(8)
        elif number % 4 == 1:
            del changed[place:]
        elif number % 4 == 2:
            changed[place:place] = randomness.randbytes(randomness.randrange(1, 9))
        else:
            changed[place : place + randomness.randrange(1, 30)] = b""
        found.append(bytes(changed))
    return found


def test_random_bytes_end_in_a_refusal():
    randomness = random.Random(0)
    for _ in range(300):
        data, envelope = (randomness.randbytes(randomness.randrange(300)) for _ in range(2))
        assert decide(data, envelope).code == "R103"
        assert decide(data, signed(data)).code == "R116"


def test_every_change_of_an_honest_envelope_ends_in_a_refusal():
    for envelope in mutations(ENVELOPE, 600, 1):
        assert decide(POLYP, envelope).code in ("R103", "R105", "R108")


def test_every_change_of_a_signed_release_ends_in_a_refusal():
    for data in mutations(POLYP, 300, 2):
        assert decide(data, ENVELOPE).code == "R114"


def test_every_change_that_its_site_signed_ends_in_a_decision():
    """An enrolled site may sign anything; most of these bytes are the header's, where everything is decided."""
    (length,) = struct.unpack("<Q", POLYP[:8])
    headers = [changed + POLYP[8 + length :] for changed in mutations(POLYP[: 8 + length], 500, 3)]
    resized = [
        struct.pack("<Q", len(changed)) + changed + POLYP[8 + length :]
        for changed in mutations(POLYP[8 : 8 + length], 500, 4)
    ]
    codes = {resigned(data).code for data in itertools.chain(headers, resized, mutations(POLYP, 200, 5))}
    assert "R116" in codes
    assert "R103" not in codes


def test_every_value_of_a_signed_header_ends_in_a_decision():
    (length,) = struct.unpack("<Q", POLYP[:8])
    header, payload = json.loads(POLYP[8 : 8 + length]), POLYP[8 + length :]
    strange = [
        None,
        True,
        -1,
        2**63,
        10**400,
        1.5,
        "",
        "x" * 9999,
        [],
        {},
        [[[[]]]],
        {"card": {}},
        "\ud800",
        [2**62, 2**62],
    ]
    for name, value in itertools.product(("__metadata__", "router.thresholds", "alignment.block0.conv1.bias"), strange):
        for field in (None, "dtype", "shape", "data_offsets", "card"):
            changed = json.loads(json.dumps(header))
            if field is None:
                changed[name] = value
            else:
                changed[name][field] = value
            text = json.dumps(changed, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)
            assert resigned(struct.pack("<Q", len(text)) + text + payload).code == "R116"


def test_every_value_of_a_signed_card_ends_in_a_decision():
    strange = [None, True, -1, 2**63, 10**400, 1e300, "", "x" * 9999, [], {}, "\x1b[2J", [[]], {"a": []}]
    for name, value in itertools.product(json.loads(card_json(HONEST.card)), strange):
        text = json.dumps({**json.loads(card_json(HONEST.card)), name: value}, sort_keys=True, separators=(",", ":"))
        resigned(save(TENSORS, {"card": text}))


def test_every_change_of_a_signed_statement_ends_in_a_decision():
    payload = read_envelope(ENVELOPE, "site-polyp").payload
    for each in (*mutations(payload, 400, 6), b"[" * 40_000, b"9" * 5000, b'{"a":' * 8000):
        # A flipped bit may leave a statement whose every value has its form, but not this release's.
        assert decide(POLYP, seal(PAYLOAD_TYPE, each, key(1))).code in {"A001", *(f"R{n}" for n in range(109, 118))}


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e-3, 1e3, 1e6, 1e30, 1e300])
@pytest.mark.parametrize("name", ["mean", "covariance", "count", "thresholds"])
def test_every_scale_of_a_router_ends_in_a_decision(name, scale):
    full = "router.thresholds" if name == "thresholds" else f"router.gaussian.{name}"
    tensor = TENSORS[full]
    value = (tensor.double() * scale).clamp(-9e18, 9e18).to(tensor.dtype) if name == "count" else tensor * scale
    resigned(with_tensor(full, value))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e3, 1e6, 1e30])
def test_every_scale_of_a_vae_ends_in_a_decision(scale):
    vae = {name: tensor for name, tensor in TENSORS.items() if name.startswith("router.vae.")}
    for name in (each for each in vae if each.endswith("weight")):
        resigned(with_tensor(name, vae[name] * scale))
    worst = {name: torch.full_like(tensor, min(scale, 1e6)) for name, tensor in vae.items()}
    resigned(save(TENSORS | worst, {"card": card_json(HONEST.card)}))


def test_every_code_has_its_page():
    headings = re.findall(r"^## (\S+): (.+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == list(CODES.items())
