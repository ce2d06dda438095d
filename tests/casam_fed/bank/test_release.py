"""A release is exactly what its schema says, or it is refused before any tensor is made."""

import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from casam_fed.bank.card import Card, bucketed, card_json, grey_values, parse_card
from casam_fed.bank.release import Release, pack, parse
from casam_fed.data.volume import Percentiles, Window
from casam_fed.errors import ReleaseError
from casam_fed.host.files import sha256_bytes
from casam_fed.routing.state import router_tensors

from .releases import card, learned, release_bytes

GOOD = release_bytes()
Header = dict[str, Any]


def test_a_release_comes_back_as_it_was_packed():
    alignment, router = learned()
    release = parse(GOOD)
    assert release.card == card()
    assert (release.data, release.digest) == (GOOD, sha256_bytes(GOOD))
    pairs = ((alignment, release.alignment), (router_tensors(router), router_tensors(release.router)))
    for sent, received in pairs:
        assert sent.keys() == received.keys()
        assert all(torch.equal(sent[name], received[name]) for name in sent)


def test_only_parse_makes_a_release():
    release = parse(GOOD)
    with pytest.raises(AssertionError, match="by parse alone"):
        Release(release.card, release.alignment, release.router, b"other bytes", release.digest, None)
    with pytest.raises(ValueError, match="made_by"):
        replace(release, data=b"other bytes")


def test_the_same_content_gives_the_same_bytes():
    assert release_bytes() == GOOD
    assert release_bytes(seed=1) != GOOD
    assert release_bytes(seed=0, modality="CT") != GOOD


def _split(data: bytes) -> tuple[Header, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(header: Header | str, payload: bytes) -> bytes:
    """Return a safetensors file with this header: a dict as safetensors writes it, a text as it is."""
    if isinstance(header, str):
        text = header.encode()
    else:
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + payload


def _rewritten(change: Callable[[str], str]) -> bytes:
    header, payload = _split(GOOD)
    return _join(change(json.dumps(header, separators=(",", ":"))), payload)


def _changed(change: Callable[[Header], None]) -> bytes:
    header, payload = _split(GOOD)
    change(header)
    return _join(header, payload)


def _with_card(**changes: Any) -> bytes:
    values = json.loads(card_json(card())) | changes
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return _changed(lambda header: header["__metadata__"].update(card=text))


def _with_values(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> bytes:
    alignment, router = learned()
    values = {f"alignment.{key}": tensor for key, tensor in alignment.items()} | router_tensors(router)
    values[name] = change(values[name]).contiguous()
    return save(values, {"card": card_json(card())})


def _set(tensor: torch.Tensor, value: float) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[1] = value
    return changed


def _indefinite(tensor: torch.Tensor) -> torch.Tensor:
    """Symmetric with a positive diagonal, and yet the covariance of nothing."""
    changed = torch.eye(len(tensor), dtype=tensor.dtype)
    changed[0, 1] = changed[1, 0] = 5
    return changed


def _unsymmetric(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed[0, 1] += 1
    return changed


COV, VAE = "router.gaussian.covariance", "router.vae.encoder.weight"
CONV, ECA = "alignment.block0.conv1.weight", "alignment.block0.channel_conv.weight"
DEFECTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "too short"),
    "truncated payload": (lambda: GOOD[:-1], "do not fill the file exactly"),
    "trailing bytes": (lambda: GOOD + b"\0", "do not fill the file exactly"),
    "truncated header": (lambda: GOOD[:100], "cut off"),
    "forged header length": (lambda: b"\xff" * 8 + GOOD[8:], "cut off"),
    "header of lies": (lambda: _join("x" * 200, b""), "not plain JSON"),
    "header of brackets": (lambda: _join("[" * 100_000, b""), "not plain JSON"),
    "header not an object": (lambda: _join("[1]", b""), "an object in the form that safetensors writes"),
    "key stands twice": (lambda: _join('{"a":1,"a":1} ', b""), "in the form that safetensors writes"),
    "pickle": (lambda: pickle.dumps({"alignment": [1, 2, 3]}), "cut off"),
    "header padded": (lambda: _rewritten(lambda text: text + " " * 64), "in the form that safetensors writes"),
    "header with spaces": (lambda: _rewritten(lambda t: t.replace(",", ", ")), "in the form that safetensors writes"),
    "header escaped": (lambda: _rewritten(lambda t: t.replace('"F64"', '"\\u004664"')), "in the form that safetensors"),
    "no metadata": (lambda: _changed(lambda h: h.pop("__metadata__")), "must hold the card"),
    "second metadata key": (lambda: _changed(lambda h: h["__metadata__"].update(note="x")), "must hold the card"),
    "card not text": (lambda: _changed(lambda h: h["__metadata__"].update(card=1)), "must hold the card"),
    "card not canonical": (
        lambda: _changed(lambda h: h["__metadata__"].update(card=card_json(card()).replace(",", ", ", 1))),
        "canonical",
    ),
    "unknown card key": (lambda: _with_card(path="/data/patients"), "card is not valid at path"),
    "card with a path": (lambda: _with_card(modality="/home/me/scan.dcm:1"), "card is not valid at modality"),
    "card with free text": (lambda: _with_card(classes=["x" * 65]), "card is not valid at classes"),
    "bad task name": (lambda: _with_card(task="../../etc"), "card is not valid at task"),
    "future schema": (lambda: _with_card(schema_version=2), "card is not valid at schema_version"),
    "other channels": (lambda: _with_card(channels=16), "must be F32"),
    "huge channels": (lambda: _with_card(channels=10**9), "card is not valid at channels"),
    "other blocks": (lambda: _with_card(blocks=2), "is missing"),
    "missing tensor": (lambda: _changed(lambda h: h.pop(COV)), "is missing"),
    "extra tensor": (lambda: _changed(lambda h: h.update(images=h[COV])), "'images' does not belong there"),
    "name with a line break": (
        lambda: _changed(lambda h: h.update({"a\nadmitted\x1b[2J": h[COV]})),
        r"'a\\nadmitted\\x1b\[2J' does not belong there",
    ),
    "shape of 10^15": (lambda: _changed(lambda h: h[COV].update(shape=[10**15])), r"must be F64 \[8, 8\]"),
    "shape of fractions": (lambda: _changed(lambda h: h[COV].update(shape=[8.0, 8.0])), r"must be F64 \[8, 8\]"),
    "shape of truths": (lambda: _changed(lambda h: h[ECA].update(shape=[True, 1, 3])), r"must be F32 \[1, 1, 3\]"),
    "wrong type": (lambda: _changed(lambda h: h[COV].update(dtype="F16")), r"must be F64 \[8, 8\]"),
    "no offsets": (lambda: _changed(lambda h: h[COV].pop("data_offsets")), "malformed"),
    "offsets not numbers": (lambda: _changed(lambda h: h[COV].update(data_offsets=["0", "512"])), "malformed"),
    "extent too small": (lambda: _changed(lambda h: h[COV]["data_offsets"].__setitem__(1, 1)), "shape does not fill"),
    "negative offset": (lambda: _changed(lambda h: h[COV].update(data_offsets=[-512, 0])), "overlap or leave gaps"),
    "overlapping offsets": (
        lambda: _changed(lambda h: h[VAE].update(data_offsets=[v + 4 for v in h[VAE]["data_offsets"]])),
        "overlap or leave gaps",
    ),
    "NaN": (lambda: _with_values(CONV, lambda t: _set(t, float("nan"))), "NaN or infinity"),
    "infinity": (lambda: _with_values(COV, lambda t: _set(t, float("inf"))), "NaN or infinity"),
    "no images": (lambda: _with_values("router.gaussian.count", torch.zeros_like), "count 0 images"),
    "unsymmetric covariance": (lambda: _with_values(COV, _unsymmetric), "not symmetric"),
    "negative variance": (lambda: _with_values(COV, lambda t: -t), "negative variance"),
    "indefinite covariance": (lambda: _with_values(COV, _indefinite), "negative variance"),
    "threshold below median": (lambda: _with_values("router.thresholds", lambda t: t.flip(1)), "not below the median"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_refused_with_one_sentence(defect):
    make, reason = DEFECTS[defect]
    with pytest.raises(ReleaseError, match=reason) as refusal:
        parse(make())
    assert "\n" not in str(refusal.value)


def test_too_many_bytes_are_refused_before_anything_else():
    with pytest.raises(ReleaseError, match="at most 10 are allowed"):
        parse(b"\xff" * 11, max_bytes=10)


def test_a_site_cannot_pack_what_would_be_refused():
    alignment, router = learned()
    with pytest.raises(ReleaseError, match="does not belong"):
        pack({**alignment, "embedding": torch.zeros(3)}, router, card())


@pytest.mark.parametrize(
    ("count", "told"), [(0, 0), (1, 1), (3, 2), (7, 5), (10, 10), (19, 10), (37, 20), (583, 500), (1701, 1000)]
)
def test_counts_are_told_coarsely(count, told):
    assert bucketed(count) == told


def test_a_card_survives_its_text():
    assert parse_card(card_json(card())) == card()
    assert isinstance(parse_card(card_json(card())), Card)


def test_the_card_of_flat_images_is_as_it_always_was():
    assert "intensity" not in card_json(card())
    with pytest.raises(ReleaseError, match="not in canonical form"):
        parse_card(card_json(card()).replace('"modality"', '"intensity":null,"modality"'))


@pytest.mark.parametrize("intensity", [Window(-160, 240), Percentiles(0.5, 99.5)])
def test_the_card_of_a_volumes_task_tells_how_it_became_grey(intensity):
    told = card(intensity=grey_values(intensity))
    assert parse_card(card_json(told)) == told
    assert parse_card(card_json(told)).intensity.intensity == intensity


@pytest.mark.parametrize(
    "values",
    [
        '{"high":1.0,"kind":"window","low":2.0}',
        '{"high":101.0,"kind":"percentiles","low":1.0}',
        '{"high":50.0,"kind":"percentiles","low":-1.0}',
        '{"high":2.0,"kind":"logarithm","low":1.0}',
        '{"high":2.0,"kind":"window","low":1.0,"note":"free text"}',
        '{"high":1e999,"kind":"window","low":1.0}',
        '{"high":2.0,"kind":"window","low":"a"}',
    ],
)
def test_grey_values_that_are_no_range_are_refused(values):
    with pytest.raises(ReleaseError, match="the release's card is not"):
        parse_card(card_json(card()).replace('"modality"', f'"intensity":{values},"modality"'))
