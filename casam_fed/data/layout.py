"""Finding one's way in the folder of a dataset: its parts, the files that describe it, and what names say."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from casam_fed.errors import ConfigError, DataError

__all__ = [
    "PatientNames",
    "find_folder",
    "folders_in",
    "read_description",
    "read_json",
    "require_folder",
    "without_ends",
    "without_suffix",
]

Description = TypeVar("Description", bound=BaseModel)

_MAX_TEXT: Final = 2**26


def require_folder(folder: Path) -> None:
    """Stop with a `DataError` where a folder is missing."""
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist; check the path")


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name, without hidden ones and the leftovers of macOS archives."""
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"
    )


def find_folder(folder: Path, names: Collection[str]) -> Path | None:
    """Return the folder in `folder` that has one of `names` (lower case), in whatever case it is written, or None.

    Raises:
        DataError: there are several.
    """
    found = [path for path in folders_in(folder) if path.name.lower() in names]
    if len(found) > 1:
        raise DataError(
            f"{folder} holds both {found[0].name}/ and {found[1].name}/, so that it is unknown which one is meant; "
            "take one of them out"
        )
    return found[0] if found else None


def read_json(path: Path, model: type[Description]) -> Description:
    """Return what a JSON file says about a dataset, as the pydantic `model`.

    Raises:
        DataError: as `read_description`, or a field is missing or of another type.
    """
    try:
        return model.model_validate_json(read_description(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        raise DataError(f"{path} is wrong at {place} ({problem['msg']}); replace it with an intact copy") from error


def read_description(path: Path) -> str:
    """Return a small text file that describes a dataset, such as Info.cfg.

    Raises:
        DataError: it is missing, larger than 64 MiB, or not UTF-8.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; it must be there in a dataset of this layout, so check the path")
    with path.open("rb") as file:
        content = file.read(_MAX_TEXT + 1)
    if len(content) > _MAX_TEXT:
        raise DataError(f"{path} is larger than {_MAX_TEXT:,} bytes; replace it with an intact copy")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8; replace it with an intact copy") from error


def without_suffix(path: Path) -> str:
    """Return the file name before .nii.gz, or before its last dot."""
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def without_ends(files: Mapping[str, Path], ends: tuple[str, ...]) -> dict[str, Path]:
    """Return files by name without the first of `ends` that the name has; names that have none stay.

    Raises:
        DataError: two files then share a name.
    """
    named: dict[str, Path] = {}
    for stem, path in files.items():
        name = stem.removesuffix(next((end for end in ends if stem.endswith(end)), ""))
        if name in named:
            raise DataError(f"{named[name]} and {path} both stand for {name!r}; rename or remove one of them")
        named[name] = path
    return named


class PatientNames:
    """Whose image a file shows, as far as its name tells.

    Args:
        expression: regular expression searched in the name; its first group, or else the whole match, is the patient.
            None: names tell nothing, and every image is a patient of its own.

    Raises:
        ConfigError: it is no regular expression.
    """

    def __init__(self, expression: str | None) -> None:
        try:
            self._pattern = None if expression is None else re.compile(expression)
        except re.error as error:
            raise ConfigError(
                f"the patient expression {expression!r} is not a regular one ({error}); correct it"
            ) from error

    def find(self, name: str, file: Path, image: str) -> str:
        """Return the patient in `name`, the part of `file` to search; or `image`, where names tell nothing.

        Raises:
            DataError: the expression finds nobody.
        """
        if self._pattern is None:
            return image
        match = self._pattern.search(name)
        patient = match and (match.group(1) if self._pattern.groups else match.group())
        if not patient:
            raise DataError(
                f"the patient expression {self._pattern.pattern!r} finds no patient in the name {name!r} of {file}; "
                "correct the expression or rename the file"
            )
        return patient
