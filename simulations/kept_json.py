"""What a run keeps as JSON for the same command to go on with: read back whole, or refused."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from casam_fed.errors import SimulationError

__all__ = ["read_kept"]

T = TypeVar("T")


def read_kept(path: Path, kind: type[T]) -> T:
    """Parse a file of a run; a missing one stays FileNotFoundError.

    Raises:
        SimulationError: it is not JSON, or not of that kind.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise SimulationError(
            f"{path} is not whole ({f'{place}: ' if place else ''}{what}); delete it and run the same command again"
        ) from error
