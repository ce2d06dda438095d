"""Images and masks that find each other by name, and what is said of those that do not."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from casam_fed.errors import DataError

__all__ = ["PairingError", "pair_by_name", "require_paired"]


class PairingError(DataError):
    """Images without a mask or masks without an image; `sentences` has one for each of them."""

    def __init__(self, sentences: Sequence[str]) -> None:
        more = f" ({len(sentences) - 1} more like it; `casam data check` lists them)" if len(sentences) > 1 else ""
        super().__init__(f"{sentences[0]}{more}")
        self.sentences = tuple(sentences)


def pair_by_name(
    images: Mapping[str, Path], masks: Mapping[str, Path], image_folder: Path, mask_folder: Path, alone: list[str]
) -> list[tuple[str, Path, Path]]:
    """Return (name, image, mask) of every name that both have, sorted.

    Args:
        images, masks: by the name they share.
        image_folder, mask_folder: where the other half of what is alone should be, for the sentences.
        alone: takes a sentence for each image or mask without the other; see `require_paired`.
    """
    for these, others, kind, other, folder in (
        (images, masks, "image", "mask", mask_folder),
        (masks, images, "mask", "image", image_folder),
    ):
        alone += [
            f"{kind} {these[name]} has no {other} in {folder}; add the {other} of {name!r} there, or remove the {kind}"
            for name in sorted(these.keys() - others.keys())
        ]
    return [(name, images[name], masks[name]) for name in sorted(images.keys() & masks.keys())]


def require_paired(alone: Sequence[str]) -> None:
    """Stop where there is a sentence about something that is alone.

    Raises:
        PairingError: with all of them.
    """
    if alone:
        raise PairingError(alone)
