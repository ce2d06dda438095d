"""A release: the exact bytes that leave a site for one task.

One safetensors file. Its single metadata key `card` holds the card as canonical JSON, so that the SHA-256 of the bytes
binds tensors and card. Bytes from outside are checked in this order: size, header, names, shapes and types, extent, and
only then do they become tensors, whose values are checked last. Nothing is ever unpickled. What passes can be routed with:
a release that a bank accepted must not stop the sites that read it.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from casam_fed.bank.card import Card, card_json, parse_card
from casam_fed.errors import ReleaseError
from casam_fed.forms import MAX_RELEASE_BYTES
from casam_fed.host.files import sha256_bytes
from casam_fed.method.alignment import expected_shapes
from casam_fed.routing.state import RouterState, expected_router_shapes, router_state_from, router_tensors

__all__ = ["Release", "pack", "parse"]

_MAX_HEADER_BYTES = 1 << 20
_ALIGNMENT = "alignment."
_TYPES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
_PARSED = object()

Schema = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True, eq=False)
class Release:
    """A release that `parse` has checked; nothing else makes one, so that who has one need not check it again.

    Attributes:
        card: what the task is.
        alignment: state dict of the alignment layer, float32, names without prefix.
        router: both routers of the task, with their thresholds.
        data: the bytes.
        digest: their SHA-256.
    """

    card: Card
    alignment: Mapping[str, Tensor]
    router: RouterState
    data: bytes
    digest: str
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        assert made_by is _PARSED, "a release is made by parse alone"


def pack(alignment: Mapping[str, Tensor], router: RouterState, card: Card) -> Release:
    """Return the release of a layer, its routers and its card; the same ones give the same bytes.

    Raises:
        ReleaseError: the tensors are not those that the card announces.
    """
    tensors = {f"{_ALIGNMENT}{name}": tensor for name, tensor in alignment.items()} | router_tensors(router)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return parse(save(plain, {"card": card_json(card)}))


def parse(data: bytes, max_bytes: int = MAX_RELEASE_BYTES) -> Release:
    """Check and open the bytes of a release.

    Raises:
        ReleaseError: anything is not as the schema says; the message names the first thing that is not.
    """
    if len(data) > max_bytes:
        raise _refusal(f"it has {len(data):,} bytes and at most {max_bytes:,} are allowed")
    header, start = _header(data)
    card = parse_card(_card_text(header.pop("__metadata__", None)))
    if defect := _layout_defect(header, _schema(card), len(data) - start):
        raise _refusal(defect)
    try:
        tensors = load(data)
        broken = [
            f"tensor '{name}' holds NaN or infinity" for name in tensors if not torch.isfinite(tensors[name]).all()
        ]
    except SafetensorError:
        broken = ["safetensors cannot read it"]
    if broken:
        raise _refusal(broken[0])
    layer = {name.removeprefix(_ALIGNMENT): tensors[name] for name in tensors if name.startswith(_ALIGNMENT)}
    return Release(card, MappingProxyType(layer), router_state_from(tensors), data, sha256_bytes(data), _PARSED)


def _refusal(reason: str) -> ReleaseError:
    return ReleaseError(f"the release is refused: {reason}; make it again with the same version of casam-fed")


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the JSON header of a safetensors file and where its payload starts.

    Only the form that safetensors itself writes passes: compact JSON, no key twice, spaces up to a multiple of 8 bytes. A
    header that may hold more could carry out what no card declares.
    """
    length = int.from_bytes(data[:8], "little")
    if length > min(_MAX_HEADER_BYTES, len(data) - 8):
        raise _refusal("it is too short to be a safetensors file, or its header is cut off")
    text = data[8 : 8 + length]
    with contextlib.suppress(ValueError, RecursionError):
        header = json.loads(text.decode("utf-8"))
        compact = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
        if isinstance(header, dict) and text == compact + b" " * (-len(compact) % 8):
            return header, 8 + length
    raise _refusal("its header is not plain JSON, an object in the form that safetensors writes")


def _card_text(metadata: object) -> str:
    if not isinstance(metadata, dict) or list(metadata) != ["card"] or not isinstance(metadata["card"], str):
        raise _refusal("its metadata must hold the card and nothing else")
    return metadata["card"]


def _schema(card: Card) -> Schema:
    layer = expected_shapes(card.channels, card.blocks, card.start)
    return {f"{_ALIGNMENT}{name}": (shape, torch.float32) for name, shape in layer.items()} | expected_router_shapes(
        card.channels
    )


def _layout_defect(header: Mapping[str, Any], schema: Schema, payload: int) -> str:
    """Return what is wrong with names, types, shapes or extents, which fill the payload without gap; "" for nothing."""
    if header.keys() != schema.keys():
        name = min(header.keys() ^ schema.keys())
        # The name is the sender's: escaped, it can neither break the sentence in two nor move a terminal's cursor.
        return f"tensor {name[:80]!a} {'is missing' if name in schema else 'does not belong there'}"
    extents = []
    for name, (shape, dtype) in schema.items():
        entry = header[name]
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            return f"the header of tensor '{name}' is malformed"
        # Compared as text, because to Python [true, 8.0] equals [1, 8].
        if entry["dtype"] != _TYPES[dtype] or json.dumps(entry["shape"]) != json.dumps(shape):
            return f"tensor '{name}' must be {_TYPES[dtype]} {list(shape)}"
        offsets = entry["data_offsets"]
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(value) is int for value in offsets)):
            return f"the header of tensor '{name}' is malformed"
        if offsets[1] - offsets[0] != dtype.itemsize * torch.Size(shape).numel():
            return f"tensor '{name}' has an extent that its shape does not fill"
        extents.append((offsets[0], offsets[1]))
    position = 0
    for begin, end in sorted(extents):
        if begin != position:
            return "its tensors overlap or leave gaps"
        position = end
    return "" if position == payload else "its tensors do not fill the file exactly"
