"""Splits that never separate the images of one patient: train and test, and the folds of routing calibration.

Patients are ordered by a digest of seed and name, not by a random generator: the same patients land on the same side
on every platform and numpy version, and in whatever order they are listed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from casam_fed.data.sample import Record
from casam_fed.errors import DataError
from casam_fed.host.files import sha256_bytes

__all__ = ["check_counts", "patient_folds", "split_records"]


def split_records(records: Sequence[Record], test_fraction: float = 0.2, seed: int = 0) -> list[Record]:
    """Return the records in their order, every `split` now "train" or "test", and no patient on both sides.

    A split fixed by the owner stays, and other records of that patient follow it. The remaining patients are taken into
    test, in an order drawn from `seed`, as long as that brings the number of test images closer to `test_fraction` of
    the remaining images; neither side stays empty.

    Args:
        records: of a dataset.
        test_fraction: above 0 and below 1.
        seed: other seeds give other splits.

    Raises:
        DataError: a fixed split has a patient on both sides, or there are too few patients to fill both sides.
    """
    assert 0 < test_fraction < 1
    sides = _fixed_sides(records)
    sizes: dict[str, int] = defaultdict(int)
    for record in records:
        if record.patient not in sides:
            sizes[record.patient] += 1
    needed = {"train", "test"} - set(sides.values())
    if sizes and len(sizes) < len(needed):
        raise DataError(
            f"all {len(records)} images belong to patient {next(iter(sizes))!r}, so that they cannot be split by "
            "patient; add another patient, or check the patient expression"
        )
    test = _test_patients(sizes, test_fraction, seed, needed)
    sides |= {patient: "test" if patient in test else "train" for patient in sizes}
    return [replace(record, split=sides[record.patient]) for record in records]


def check_counts(counts: Mapping[str, int], minimum: int = 2) -> None:
    """Stop when a class has too few images to learn from.

    Args:
        counts: class -> number of training images with foreground of that class.
        minimum: the least number allowed.

    Raises:
        DataError: a class has fewer; it names all such classes.
    """
    if few := {name: count for name, count in counts.items() if count < minimum}:
        listed = ", ".join(f"{name!r} has {count}" for name, count in few.items())
        raise DataError(
            f"too few training images with foreground: {listed}, and {minimum} are needed; "
            "add images of the class or leave it out of the classes"
        )


def patient_folds(patients: Sequence[str], folds: int, seed: int) -> list[npt.NDArray[np.intp]]:
    """Return K-fold held-out sets that never separate a patient, balanced by number of images.

    Args:
        patients: the patient id of every image, [N], at least one.
        folds: the number of folds wanted, at least 1; with fewer patients there are as many folds as patients. One
            patient gives a single fold, which leaves nothing to train on.
        seed: other seeds give other folds.

    Returns:
        Ascending index arrays into `patients`, none empty, together every index once.
    """
    assert patients
    assert folds >= 1
    sizes: dict[str, int] = defaultdict(int)
    for patient in patients:
        sizes[patient] += 1
    loads = [0] * min(folds, len(sizes))
    fold_of: dict[str, int] = {}
    # Largest first, each to the lightest fold: the classic greedy balance (Graham 1969, longest processing time first).
    for patient in sorted(_shuffled(sizes, seed), key=lambda name: -sizes[name]):
        lightest = loads.index(min(loads))
        fold_of[patient] = lightest
        loads[lightest] += sizes[patient]
    fold_of_image = np.array([fold_of[patient] for patient in patients])
    return [np.flatnonzero(fold_of_image == fold) for fold in range(len(loads))]


def _fixed_sides(records: Sequence[Record]) -> dict[str, str]:
    first: dict[str, Record] = {}
    for record in records:
        if record.split is None:
            continue
        other = first.setdefault(record.patient, record)
        if other.split != record.split:
            raise DataError(
                f"patient {record.patient!r} has images in both {other.split} ({other.id}) and {record.split} "
                f"({record.id}); move all images of a patient to one side"
            )
    return {patient: str(record.split) for patient, record in first.items()}


def _test_patients(sizes: Mapping[str, int], fraction: float, seed: int, needed: set[str]) -> set[str]:
    """Return the patients for the test side; `needed` are the sides that would otherwise be empty."""
    target = fraction * sum(sizes.values())
    test: set[str] = set()
    taken = 0
    for patient in _shuffled(sizes, seed):
        if "train" in needed and len(test) == len(sizes) - 1:
            break
        if abs(taken + sizes[patient] - target) < abs(taken - target):
            test.add(patient)
            taken += sizes[patient]
    if not test and sizes and "test" in needed:
        test.add(min(_shuffled(sizes, seed), key=lambda name: sizes[name]))
    return test


def _shuffled(patients: Iterable[str], seed: int) -> list[str]:
    return sorted(patients, key=lambda name: sha256_bytes(f"{seed}\0{name}".encode(errors="surrogatepass")))
