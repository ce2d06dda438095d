"""Splits and folds that never separate a patient, the same everywhere."""

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from casam_fed.data.sample import Record
from casam_fed.data.split import check_counts, patient_folds, split_records
from casam_fed.errors import DataError

SIZES = {"p1": 10, "p2": 1, "p3": 4, "p4": 4, "p5": 7, "p6": 1, "p7": 3}


def records_of(sizes: Mapping[str, int], split: str | None = None) -> list[Record]:
    return [Record(f"{patient}_{i}", patient, split) for patient, size in sizes.items() for i in range(size)]


def sides(records: list[Record]) -> dict[str, set[str | None]]:
    result: dict[str, set[str | None]] = {}
    for record in records:
        result.setdefault(record.patient, set()).add(record.split)
    return result


@pytest.mark.parametrize("seed", range(20))
def test_a_split_never_separates_a_patient_and_fills_both_sides(seed: int) -> None:
    records = records_of(SIZES)
    split = split_records(records, 0.2, seed)
    assert [(record.id, record.patient) for record in split] == [(record.id, record.patient) for record in records]
    assert all(len(where) == 1 for where in sides(split).values())
    assert {record.split for record in split} == {"train", "test"}


def test_images_that_are_their_own_patient_split_at_the_fraction() -> None:
    records = records_of({f"image{i}": 1 for i in range(50)})
    for fraction, expected in ((0.2, 10), (0.5, 25), (0.01, 1), (0.99, 49)):
        assert sum(record.split == "test" for record in split_records(records, fraction, 1)) == expected


@pytest.mark.parametrize("seed", range(10))
def test_the_fraction_is_of_images_and_a_patient_too_large_for_it_stays_in_train(seed: int) -> None:
    split = split_records(records_of({"large": 80} | {f"small{i}": 1 for i in range(20)}), 0.1, seed)
    assert sum(record.split == "test" for record in split) == 10
    assert sides(split)["large"] == {"train"}


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_records() -> None:
    records = records_of({f"image{i}": 1 for i in range(30)})
    split = split_records(records, 0.3, 4)
    assert sorted(split_records(records[::-1], 0.3, 4), key=lambda record: record.id) == sorted(
        split, key=lambda record: record.id
    )
    assert split != split_records(records, 0.3, 5)


def test_a_split_is_the_same_on_every_platform() -> None:
    split = split_records(records_of({f"P{i}": 1 for i in range(10)}), 0.3, 0)
    # The smallest of sha256("0\0P0"), ..., sha256("0\0P9"), computed by hand.
    assert [record.patient for record in split if record.split == "test"] == ["P0", "P1", "P2"]


def test_a_side_is_never_empty_however_large_the_patients() -> None:
    for sizes in ({"big": 90, "huge": 200}, {"one": 1, "two": 1}):
        for fraction, seed in itertools.product((0.05, 0.95), range(5)):
            assert {record.split for record in split_records(records_of(sizes), fraction, seed)} == {"train", "test"}


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(DataError, match="all 5 images belong to patient 'p1'"):
        split_records(records_of({"p1": 5}))


def test_a_fixed_split_stays() -> None:
    fixed = records_of({"a": 2, "b": 3}, "train") + records_of({"c": 1}, "test")
    assert split_records(fixed, 0.9, 3) == fixed
    assert split_records(records_of({"a": 2}, "train")) == records_of({"a": 2}, "train")


def test_a_patient_on_both_sides_of_a_fixed_split_is_refused() -> None:
    records = [Record("train/1", "P7", "train"), Record("test/1", "P8", "test"), Record("test/9", "P7", "test")]
    with pytest.raises(DataError, match=r"patient 'P7' has images in both train \(train/1\) and test \(test/9\); move"):
        split_records(records)


def test_other_records_of_a_fixed_patient_follow_and_the_rest_fills_the_empty_side() -> None:
    records = [Record("1", "a", "train"), Record("2", "a"), Record("3", "b"), Record("4", "c", "train")]
    assert [record.split for record in split_records(records, 0.01)] == ["train", "train", "test", "train"]
    records = [Record("1", "a", "train"), Record("2", "b"), Record("3", "c")]
    assert [record.split for record in split_records(records, 0.99)] == ["train", "test", "test"]


def test_a_class_with_too_few_images_is_refused_by_name() -> None:
    check_counts({"lv": 2, "rv": 2})
    check_counts({"lv": 1}, minimum=1)
    with pytest.raises(DataError, match="foreground: 'rv' has 1, 'la' has 0, and 2 are needed; add"):
        check_counts({"lv": 2, "rv": 1, "la": 0})


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_hold_every_image_once_and_never_separate_a_patient(folds: int, seed: int) -> None:
    patients = [record.patient for record in records_of(SIZES)]
    np.random.default_rng(seed).shuffle(patients)
    held_out = patient_folds(patients, folds, seed)
    assert len(held_out) == folds
    assert sorted(np.concatenate(held_out).tolist()) == list(range(len(patients)))
    assert all((np.diff(indices) > 0).all() for indices in held_out)
    names = [{patients[i] for i in indices} for indices in held_out]
    assert all(not a & b for a, b in itertools.combinations(names, 2))


def test_folds_are_balanced() -> None:
    for patients in (list("abcdefghijk"), [record.patient for record in records_of(SIZES)]):
        for seed in range(10):
            sizes = [indices.size for indices in patient_folds(patients, 3, seed)]
            assert max(sizes) - min(sizes) <= 1


def test_fewer_patients_than_folds_give_fewer_folds() -> None:
    assert len(patient_folds(["a", "a", "b", "c"], 5, 0)) == 3
    assert [indices.tolist() for indices in patient_folds(["a", "a"], 5, 0)] == [[0, 1]]


def test_folds_depend_on_the_seed_and_not_on_the_order_of_the_images() -> None:
    patients = np.array([f"p{i % 12}" for i in range(40)])
    order = np.random.default_rng(0).permutation(40)

    def groups(names: np.ndarray, seed: int) -> list[list[str]]:
        return [sorted(names[indices].tolist()) for indices in patient_folds(names.tolist(), 4, seed)]

    assert groups(patients, 1) == groups(patients[order], 1)
    assert groups(patients, 1) != groups(patients, 2)


def test_folds_are_the_same_on_every_platform() -> None:
    held_out = patient_folds([f"P{i}" for i in range(8)], 3, 0)
    # By sha256("0\0P..") the order is 1 2 0 5 7 6 3 4, dealt to three folds in turn.
    assert [indices.tolist() for indices in held_out] == [[1, 3, 5], [2, 4, 7], [0, 6]]
