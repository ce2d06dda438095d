"""What holds for every reader, whatever the layout; what is special to one stands in its own file."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from casam_fed.data.dataset import open_dataset
from casam_fed.data.public_datasets import DATASETS
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records
from casam_fed.errors import DataError

from .tiny_datasets import TINY, TinyDataset, make_smaller
from .tiny_images import refused


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASAM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=TINY)
def tiny(request: pytest.FixtureRequest) -> TinyDataset:
    return TINY[request.param]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def opened(tiny: TinyDataset, root: Path) -> Reader:
    return tiny.config(root).reader(Path())


def test_every_public_dataset_is_held_to_this() -> None:
    assert {tiny.block["kind"] for tiny in TINY.values()} == {"folder", *DATASETS}


def test_records_are_sorted_and_each_has_a_name_of_its_own(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    ids = [record.id for record in opened(tiny, root).records()]
    assert len(ids) > 2
    assert ids == sorted(set(ids))


def test_the_owners_split_stays_and_no_patient_is_on_both_sides(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    listed = opened(tiny, root).records()
    assert {record.split for record in listed} == ({"train", "test"} if tiny.owned else {None})
    split = split_records(listed)
    if tiny.owned:
        assert split == listed
    sides = [{record.patient for record in split if record.split == side} for side in ("train", "test")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_the_data_block_of_a_stream_leads_to_the_reader(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    dataset = open_dataset(tiny.config(root), Path())
    assert {record.split for record in dataset.train} == {"train"}
    assert {record.split for record in dataset.test} == {"test"}
    assert dataset.reader.classes == tiny.classes
    if (public := DATASETS.get(tiny.block["kind"])) and public.card.classes:
        assert public.card.classes == tiny.classes


def test_images_are_colour_and_masks_lie_where_they_are_bright(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    reader = opened(tiny, root)
    for record in reader.records():
        sample = reader.read(record)
        assert (sample.id, sample.patient) == (record.id, record.patient)
        assert sample.image.dtype == np.uint8
        assert sample.image.shape[2:] == (3,)
        assert tuple(sample.masks) == reader.classes == tiny.classes
        assert all(mask.dtype == bool and mask.shape == sample.image.shape[:2] for mask in sample.masks.values())
        assert all(mask.any() for mask in sample.masks.values())
        foreground = np.logical_or.reduce(list(sample.masks.values()))
        assert sample.image[foreground].min() > sample.image[~foreground].max()


def test_instances_are_numbered_within_their_masks(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    reader = opened(tiny, root)
    sample = reader.read(reader.records()[0])
    assert tuple(sample.instances) == (tiny.classes if tiny.instances else ())
    for name, labels in sample.instances.items():
        assert labels.dtype == np.int32
        assert np.unique(labels).tolist() == [0, 1, 2]
        assert np.array_equal(labels > 0, sample.masks[name])


def test_reading_again_gives_the_same_and_notes_are_said_once(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    first, second = opened(tiny, root), opened(tiny, root)
    listed = first.records()
    samples = [first.read(record) for record in listed]
    notes = list(first.notes)
    assert second.records() == first.records() == listed
    for reader in (first, second):
        for record, sample in zip(reversed(listed), reversed(samples), strict=True):
            again = reader.read(record)
            assert np.array_equal(again.image, sample.image)
            assert all(np.array_equal(again.masks[name], mask) for name, mask in sample.masks.items())
        assert reader.notes == notes
    assert all(note.endswith(".") for note in notes)


def test_a_reader_can_be_sent_to_a_worker_process(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    reader = pickle.loads(pickle.dumps(opened(tiny, root)))
    record = reader.records()[0]
    assert reader.read(record).id == record.id


def test_a_folder_that_is_not_there_is_refused(tiny: TinyDataset, root: Path) -> None:
    assert f"{root} does not exist" in refused(lambda: opened(tiny, root))


def test_a_record_of_another_dataset_is_refused(tiny: TinyDataset, root: Path) -> None:
    tiny.write(root)
    with pytest.raises(DataError, match=r"'elsewhere/7'; list the dataset again with records\(\)"):
        opened(tiny, root).read(Record("elsewhere/7", "elsewhere"))


@pytest.mark.parametrize("half", ["image", "mask"])
def test_half_of_a_pair_is_refused_or_left_out_and_said_so(tiny: TinyDataset, root: Path, half: str) -> None:
    image, mask = tiny.write(root)
    lost = image if half == "image" else mask
    whole = len(opened(tiny, root).records())
    lost.unlink()
    if tiny.lone_is_noted:
        reader = opened(tiny, root)
        assert len(reader.records()) == whole - 1
        assert "Left out, as the release lacks the other half: 1 without" in reader.notes[0]
    else:
        told = refused(lambda: opened(tiny, root))
        assert lost.name in told or (mask if half == "image" else image).name in told


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_listing_opens_no_image_and_a_damaged_one_is_named(tiny: TinyDataset, root: Path, content: bytes) -> None:
    image, _ = tiny.write(root)
    image.write_bytes(content)
    reader = opened(tiny, root)
    assert reader.records()
    told = refused(lambda: reader)
    assert image.name in told
    assert "replace it with an intact copy" in told


def test_a_damaged_mask_is_named(tiny: TinyDataset, root: Path) -> None:
    _, mask = tiny.write(root)
    mask.write_bytes(mask.read_bytes()[:40])
    assert mask.name in refused(lambda: opened(tiny, root))


def test_image_and_mask_of_other_size_are_refused(tiny: TinyDataset, root: Path) -> None:
    image, mask = tiny.write(root)
    make_smaller(image)
    told = refused(lambda: opened(tiny, root))
    assert mask.name in told
    assert image.name in told
    assert "export both" in told
