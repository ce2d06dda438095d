"""YAML files to frozen values: unknown keys, wrong types and wrong ranges are refused with one sentence.

`MethodConfig` holds every choice of the method (arXiv 2511.17201); configs/paper.yaml sets all of them to the authors'.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.errors import ConfigError
from casam_fed.forms import NAME_PATTERN, STRICT
from casam_fed.host.files import reason_of, sha256_bytes

__all__ = ["MethodConfig", "from_mapping", "read_yaml"]

T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class MethodConfig:
    """How a task is learned, routed and scored.

    Attributes:
        backbone: name in the catalogue.
        device: auto, cuda, mps or cpu.
        threads: CPU threads of torch; part of what makes a run repeatable to the bit.
        fit: pad (as SAM was trained) or stretch (as the authors do).
        score_at: metrics at the source resolution, or at the backbone's square as the authors do.
        unit: one box per class, or one per instance.
        start: identity (ours) or paper (fresh layer ending in a LayerNorm).
        blocks: residual blocks of the alignment layer.
        epochs, min_steps: train for whichever is longer.
        batch_size: images per step.
        masks_per_image: masks drawn per image and step.
        learning_rate: of Adam, without a schedule.
        point_share: probability that a batch is prompted by points, not boxes.
        box_jitter: each side of a training box moves by up to this many pixels of a 1024 px square; other squares scale it.
        router: what routes when a user asks for masks; reports always show both.
        route_by: image, or case: the planes of a volume are routed together, by the mean of their scores.
        vae_sampled: score with a sampled latent as the released code does, instead of its mean.
        folds, folds_by, percentile: calibration of the thresholds on held-out scores.
        min_train_images: fewest training images that a class must appear in.
    """

    backbone: str = "mini"
    device: str = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 2
    fit: Literal["pad", "stretch"] = "pad"
    score_at: Literal["source", "square"] = "source"
    unit: Literal["class", "instance"] = "class"
    start: Literal["identity", "paper"] = "identity"
    blocks: Annotated[int, Field(ge=1, le=16)] = 3
    epochs: Annotated[int, Field(ge=1)] = 24
    min_steps: Annotated[int, Field(ge=0)] = 400
    batch_size: Annotated[int, Field(ge=1)] = 6
    masks_per_image: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    point_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    box_jitter: Annotated[float, Field(ge=0)] = 5.0
    router: Literal["gaussian", "vae"] = "gaussian"
    route_by: Literal["image", "case"] = "case"
    vae_sampled: bool = False
    folds: Annotated[int, Field(ge=2)] = 5
    folds_by: Literal["patient", "image"] = "patient"
    percentile: Annotated[float, Field(ge=50, le=100)] = 97.0
    min_train_images: Annotated[int, Field(ge=1)] = 2

    @property
    def digest(self) -> str:
        """SHA-256 of all choices: equal where the methods are."""
        return sha256_bytes(json.dumps(asdict(self), sort_keys=True).encode())


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(_unread(path, error)) from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not keys and values; write `key: value` lines")
    return content or {}


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a configuration dataclass from outside values; `where` names their origin in the message.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing key, or a value of the wrong type or range.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(_sentence(kind, error, where)) from error


def _unread(path: Path, error: Exception) -> str:
    if isinstance(error, yaml.YAMLError):
        place = getattr(error, "problem_mark", None)
        return f"{path} is not valid YAML{f' near line {place.line + 1}' if place else ''}; mend it there"
    reason = reason_of(error) if isinstance(error, OSError) else "it is no text in UTF-8"
    return f"cannot read {path}: {reason}; give the path of a readable YAML file"


def _sentence(kind: type[Any], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        key = str(first["loc"][-1])
        near = difflib.get_close_matches(key, _keys_at(kind, first["loc"][:-1]), n=1, cutoff=0.0)
        hint = f"; did you mean '{near[0]}'?" if near else "; remove it"
        return f"unknown key '{path}' in {where}{hint}"
    if first["type"] in ("missing", "missing_argument"):
        return f"key '{path}' is missing in {where}; add it"
    if first["type"] == "union_tag_invalid":
        tag, tags = str(first["ctx"]["tag"]), re.findall(r"'([^']*)'", first["ctx"]["expected_tags"])
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0.0)
        return f"'{path}' in {where} is of unknown kind '{tag}'; did you mean '{near[0]}'? There are {', '.join(tags)}"
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"].startswith(NAME_PATTERN):
        return (
            f"'{path}' in {where} cannot be {first['input']!r}: a name has letters, digits, dots, dashes and "
            "underscores, 63 at most; mend that name"
        )
    reason = first["msg"][0].lower() + first["msg"][1:]
    return f"'{path}' in {where} cannot be {first['input']!r}: {reason}; mend that value"


def _keys_at(kind: Any, place: Sequence[int | str]) -> list[str]:
    """Return the keys that are valid at `place`: indices, names of a mapping and tags of a union lead to no other block."""
    owners = _dataclasses_in(kind)
    for part in place:
        entered = [field.type for owner in owners for field in fields(owner) if field.name == part]
        if entered:
            owners = [owner for inner in entered for owner in _dataclasses_in(inner)]
        else:
            tagged = [owner for owner in owners if any(part in get_args(field.type) for field in fields(owner))]
            owners = tagged or owners
    return [field.name for owner in owners for field in fields(owner)]


def _dataclasses_in(kind: Any) -> list[type[Any]]:
    """Return the dataclasses that a type is, or is made of: those of a tuple, a mapping or a union."""
    if isinstance(kind, type) and is_dataclass(kind):
        return [kind]
    return [found for part in get_args(kind) for found in _dataclasses_in(part)]
