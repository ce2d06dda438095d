"""The card of a release: what a task is and how it was learned, in words a person can check.

A card holds no path, no file name, no patient and no free text; counts are rounded down to a coarse grid.
"""

import math
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from casam_fed.canonical import canonical_json
from casam_fed.data.volume import Intensity, Percentiles, Window
from casam_fed.errors import ReleaseError
from casam_fed.forms import STRICT, Digest, Label, Slug

__all__ = ["Card", "GreyValues", "bucketed", "card_json", "grey_values", "parse_card"]

Scalar = bool | int | float | Annotated[str, Field(pattern=r"^[a-z_]{0,32}$")]


@dataclass(frozen=True, config=STRICT)
class GreyValues:
    """How raw values became grey: linear between two limits, in the source's units or percentiles of the volume."""

    kind: Literal["window", "percentiles"]
    low: float
    high: float

    def __post_init__(self) -> None:
        allowed = self.kind == "window" or 0 <= self.low <= self.high <= 100
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high and allowed):
            raise ValueError("low and high are no such range")

    @property
    def intensity(self) -> Intensity:
        """The same, for a volume that is read like this."""
        return (Window if self.kind == "window" else Percentiles)(self.low, self.high)


@dataclass(frozen=True, config=STRICT)
class Card:
    """What accompanies the tensors of a release.

    Attributes:
        site, task: names of letters, digits, dots, dashes and underscores.
        modality, classes, unit: what is segmented, and whether a prompt boxes a class or an instance.
        images, patients: training counts, rounded down by `bucketed`.
        backbone, backbone_digest, channels: the frozen SAM the layer belongs to.
        blocks, start: geometry of the alignment layer.
        hyperparameters: the method's choices, flat.
        seed: of training and calibration.
        schema_version: of card and tensors.
        intensity: of a task whose images are cut from volumes; None, and not in the JSON, for flat images.
    """

    site: Slug
    task: Slug
    modality: Label
    classes: Annotated[tuple[Label, ...], Field(min_length=1, max_length=64)]
    unit: Literal["class", "instance"]
    images: Annotated[int, Field(ge=0)]
    patients: Annotated[int, Field(ge=0)]
    backbone: Slug
    backbone_digest: Digest
    channels: Annotated[int, Field(ge=1, le=1024)]
    blocks: Annotated[int, Field(ge=1, le=16)]
    start: Literal["identity", "paper"]
    hyperparameters: Annotated[dict[Slug, Scalar], Field(max_length=64)]
    seed: int
    schema_version: Literal[1] = 1
    intensity: GreyValues | None = None


def bucketed(count: int) -> int:
    """Return a count rounded down to one significant digit of steps 1, 2, 5 (e.g. 37 -> 20, 583 -> 500)."""
    largest = 0
    step = 1
    while step <= count:
        for factor in (1, 2, 5):
            if step * factor <= count:
                largest = step * factor
        step *= 10
    return largest


def grey_values(intensity: Intensity | None) -> GreyValues | None:
    """Return what a card says of a reader's intensity."""
    if intensity is None:
        return None
    return GreyValues("window" if isinstance(intensity, Window) else "percentiles", intensity.low, intensity.high)


def card_json(card: Card) -> str:
    """Return the one canonical JSON text of a card: sorted keys, no spaces, ASCII; what there is none of is no key."""
    plain = TypeAdapter(Card).dump_python(card, mode="json", exclude_none=True)
    return canonical_json(plain)


def parse_card(text: str) -> Card:
    """Parse a card from outside.

    Raises:
        ReleaseError: not JSON, not exactly the fields of a card, out of range, or not in canonical form.
    """
    try:
        card: Card = TypeAdapter(Card).validate_json(text)
        if card_json(card) == text:
            return card
        defect = "in canonical form"
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top"
        defect = f"valid at {place}: {first['msg'].lower()}"
    raise ReleaseError(f"the release's card is not {defect}; make it again with the same version of casam-fed")
