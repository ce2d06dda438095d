"""A patient-wise split in a file, so that a later run, perhaps with more data or another version, has the same one."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from casam_fed.data.sample import Record
from casam_fed.data.split import split_records
from casam_fed.errors import DataError
from casam_fed.host.files import write_atomically

__all__ = ["kept_split"]

_MAX_BYTES = 64 * 2**20


class _SplitFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["casam-fed split 1"] = "casam-fed split 1"
    test_fraction: float
    split_seed: int
    train: list[str]
    test: list[str]


def kept_split(path: Path, records: Sequence[Record], test_fraction: float, seed: int) -> list[Record]:
    """Return the records split by patient as `path` says; where there is no such file, split them and write it.

    Args:
        path: the JSON file: patients of "train" and of "test".
        records: of the dataset; patients that are in the file but no longer in the dataset are ignored.
        test_fraction, seed: of a new split (`casam_fed.data.split.split_records`).

    Raises:
        DataError: the file is damaged, a patient is on both of its sides or on none, or it contradicts the owner's split.
        StorageError: the file cannot be written.
    """
    if not path.exists():
        split = split_records(records, test_fraction, seed)
        sides = {
            side: sorted({record.patient for record in split if record.split == side}) for side in ("train", "test")
        }
        made = _SplitFile(test_fraction=test_fraction, split_seed=seed, train=sides["train"], test=sides["test"])
        write_atomically(path, made.model_dump_json(indent=1).encode())
        return split
    known = _read(path)
    side_of = dict.fromkeys(known.train, "train") | dict.fromkeys(known.test, "test")
    for record in records:
        side = side_of.get(record.patient)
        if side is None:
            raise DataError(
                f"patient {record.patient!r} is not in the split {path}; add it to one side there, or delete the file to "
                "split anew"
            )
        if record.split not in (None, side):
            raise DataError(
                f"the split {path} has patient {record.patient!r} in {side}, the owner of the data in {record.split}; "
                "delete the file to take the owner's split"
            )
    return [replace(record, split=side_of[record.patient]) for record in records]


def _read(path: Path) -> _SplitFile:
    try:
        with path.open("rb") as file:
            # What is longer than any split is cut, and then no JSON.
            known = _SplitFile.model_validate_json(file.read(_MAX_BYTES))
    except (OSError, ValidationError) as error:
        raise DataError(f"the split {path} cannot be read; restore it, or delete it to split anew") from error
    if both := sorted(set(known.train) & set(known.test)):
        raise DataError(f"the split {path} has patient {both[0]!r} on both sides; take it out of one")
    return known
