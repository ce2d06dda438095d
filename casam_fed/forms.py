"""The forms of what travels: names, digests, and how large a release may be. Needs no torch."""

from typing import Annotated

from pydantic import ConfigDict, Field

__all__ = ["MAX_RELEASE_BYTES", "NAME_PATTERN", "STRICT", "Digest", "Label", "Slug"]

STRICT = ConfigDict(extra="forbid", strict=False, allow_inf_nan=False)
"""For every dataclass that takes in what others wrote: exactly its fields, and no NaN."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What names of sites and tasks are made of: they become names of folders, and travel."""

MAX_RELEASE_BYTES = 128 << 20
"""The most that a release may have: some nine times that of a ViT backbone with three blocks."""

Slug = Annotated[str, Field(pattern=NAME_PATTERN)]
Label = Annotated[str, Field(pattern=r"^[\w &+./()-]{0,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
