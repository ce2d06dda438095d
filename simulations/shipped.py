"""The streams and methods that ship with the package, found by name; a file of that name goes first."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

from casam_fed.errors import ConfigError

__all__ = ["found", "shipped"]

Kind = Literal["streams", "methods"]

_PLACES = {"streams": "streams", "methods": "."}


def shipped(kind: Kind) -> dict[str, Path]:
    """Return what ships with the package: name -> YAML file."""
    with as_file(files("simulations")) as package:
        # In a wheel configs/ lies in the package; in a checkout, beside it.
        folder = next(place for place in (package / "configs", package.parent / "configs") if place.is_dir())
    return {path.stem: path for path in sorted((folder / _PLACES[kind]).glob("*.yaml"))}


def found(given: Path, kind: Kind) -> Path:
    """Return the file that a user means: the one at that path, or the shipped one of that name.

    Raises:
        ConfigError: there is neither.
    """
    known = shipped(kind)
    if given.is_file() or str(given) not in known:
        if not given.exists() and given.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"there is no file {given}, and none of the {kind} that ship: {', '.join(known)}")
        return given
    return known[str(given)]
