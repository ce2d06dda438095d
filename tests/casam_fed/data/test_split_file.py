"""A split that is kept in a file."""

import json

import pytest

from casam_fed.data.sample import Record
from casam_fed.data.split_file import kept_split
from casam_fed.errors import DataError

RECORDS = [Record(f"p{patient}-{image}", f"p{patient}") for patient in range(10) for image in range(3)]


def sides(records):
    return {record.patient: record.split for record in records}


def test_a_split_is_written_and_read_back(tmp_path):
    path = tmp_path / "site" / "split.json"
    first = kept_split(path, RECORDS, 0.2, seed=0)
    assert sorted(sides(first)) == sorted(json.loads(path.read_text())["train"] + json.loads(path.read_text())["test"])
    assert kept_split(path, RECORDS, 0.5, seed=7) == first
    assert [record.id for record in first] == [record.id for record in RECORDS]


def test_what_the_file_says_counts(tmp_path):
    path = tmp_path / "split.json"
    kept_split(path, RECORDS, 0.2, seed=0)
    content = json.loads(path.read_text())
    content["train"], content["test"] = content["test"], content["train"]
    path.write_text(json.dumps(content))
    turned = sides(kept_split(path, RECORDS, 0.2, seed=0))
    assert {patient for patient, side in turned.items() if side == "train"} == set(content["train"])


def test_patients_that_left_the_dataset_do_no_harm(tmp_path):
    path = tmp_path / "split.json"
    all_sides = sides(kept_split(path, RECORDS, 0.3, seed=0))
    assert sides(kept_split(path, RECORDS[6:], 0.3, seed=0)).items() <= all_sides.items()


def _changed(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_patient_on_no_side_or_on_both_stops(tmp_path):
    path = tmp_path / "split.json"
    kept_split(path, RECORDS[3:], 0.2, seed=0)
    with pytest.raises(DataError, match=r"patient 'p0' is not in the split .*; add it to one side there, or delete"):
        kept_split(path, RECORDS, 0.2, seed=0)
    _changed(path, train=["p1"], test=["p1"])
    with pytest.raises(DataError, match="has patient 'p1' on both sides; take it out of one"):
        kept_split(path, RECORDS, 0.2, seed=0)


def test_a_file_that_contradicts_the_owner_stops(tmp_path):
    path = tmp_path / "split.json"
    owned = [Record("a", "a", "train"), Record("b", "b", "test")]
    kept_split(path, owned, 0.2, seed=0)
    with pytest.raises(DataError, match="has patient 'a' in train, the owner of the data in test"):
        kept_split(path, [Record("a", "a", "test"), Record("b", "b", "train")], 0.2, seed=0)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"train": []}', b"\xff\xfe", b'{"format": "casam-fed split 2"}']
)
def test_a_damaged_file_stops_and_stays(tmp_path, content):
    path = tmp_path / "split.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read; restore it, or delete it to split anew"):
        kept_split(path, RECORDS, 0.2, seed=0)
    assert path.read_bytes() == content
