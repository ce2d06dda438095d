"""KPIs: one group of mouse kidneys, the owner's split, and both ways in which cases are kept."""

from pathlib import Path

import pytest

from casam_fed.data.formats.kpis import open_kpis
from casam_fed.data.sample import Reader, Record
from casam_fed.data.split import split_records

from ..tiny_images import COLOUR, DISC, H, W, refused, save


def patch(case: Path, name: str, *, flat: bool = False) -> None:
    save((case if flat else case / "img") / f"{name}_img.jpg", COLOUR)
    save((case if flat else case / "mask") / f"{name}_mask.jpg", DISC)


@pytest.mark.parametrize("flat", [False, True])
def test_the_owners_split_and_cases_are_kept(tmp_path: Path, flat: bool) -> None:
    patch(tmp_path / "train" / "56Nx" / "12_116", "12_116_0_0", flat=flat)
    patch(tmp_path / "train" / "56Nx" / "12_116", "12_116_0_1024", flat=flat)
    patch(tmp_path / "test" / "56Nx" / "12_171", "12_171_0_0", flat=flat)
    patch(tmp_path / "train" / "DN" / "11_1", "11_1_0_0", flat=flat)
    (tmp_path / "train" / "56Nx" / "12_116" / "._12_116_0_0_img.jpg").write_bytes(b"AppleDouble")
    (tmp_path / "train" / "56Nx" / "._12_116").write_bytes(b"AppleDouble")
    reader: Reader = open_kpis(tmp_path, "56Nx")
    records = reader.records()
    assert records == [
        Record("test/12_171/12_171_0_0", "12_171", "test"),
        Record("train/12_116/12_116_0_0", "12_116", "train"),
        Record("train/12_116/12_116_0_1024", "12_116", "train"),
    ]
    assert split_records(records) == records
    assert reader.notes == []


def test_jpeg_masks_are_thresholded_at_128(tmp_path: Path) -> None:
    for side in ("train", "test"):
        patch(tmp_path / side / "DN" / f"{side}1", "a")
    reader = open_kpis(tmp_path, "DN")
    sample = reader.read(reader.records()[0])
    assert reader.classes == ("glomerulus",)
    assert sample.image.shape == (H, W, 3)
    assert (sample.masks["glomerulus"] == (DISC > 0)).mean() > 0.97
    assert "JPEG masks: 1 thresholded at 128" in reader.notes[0]


def test_validation_is_left_out_and_counted(tmp_path: Path) -> None:
    for side in ("train", "validation", "test"):
        patch(tmp_path / side / "DN" / f"{side}1", "a")
    patch(tmp_path / "validation" / "DN" / "v2", "a", flat=True)
    (tmp_path / "validation" / "DN" / "v2" / "._a_img.jpg").write_bytes(b"AppleDouble")
    reader = open_kpis(tmp_path, "DN")
    assert [record.patient for record in reader.records()] == ["test1", "train1"]
    assert reader.notes == ["Validation images of DN left out: 2; only train/ and test/ are used."]


def test_half_a_split_is_no_split(tmp_path: Path) -> None:
    patch(tmp_path / "train" / "DN" / "c1", "a")
    reader = open_kpis(tmp_path, "DN")
    assert reader.records() == [Record("train/c1/a", "c1", None)]
    assert reader.notes == ["Only train/ holds DN: the owner's split is not complete and therefore not used."]


def test_an_absent_group_is_refused_with_those_there(tmp_path: Path) -> None:
    assert "neither train/ nor test/" in refused(open_kpis(tmp_path, "DN"))
    patch(tmp_path / "train" / "DN" / "c1", "a")
    patch(tmp_path / "test" / "NEP25" / "c2", "a")
    assert "no group '56NX'; choose one of those there: DN, NEP25" in refused(open_kpis(tmp_path, "56NX"))


def test_patches_that_do_not_pair_up_are_refused(tmp_path: Path) -> None:
    case = tmp_path / "train" / "DN" / "c1"
    case.mkdir(parents=True)
    assert f"the case {case} holds no image" in refused(open_kpis(tmp_path, "DN"))
    patch(case, "a", flat=True)
    save(case / "b_img.jpg", COLOUR)
    assert f"image {case / 'b_img.jpg'} has no mask in {case};" in refused(open_kpis(tmp_path, "DN"))
    (case / "b_img.jpg").rename(case / "b_mask.jpg")
    save(case / "c_mask.jpg", DISC)
    sentence = refused(open_kpis(tmp_path, "DN"))
    assert f"mask {case / 'b_mask.jpg'} has no image in {case};" in sentence
    assert "(1 more like it" in sentence
    (case / "b_mask.jpg").rename(case / "b.jpg")
    assert "b.jpg ends neither in _img nor in _mask" in refused(open_kpis(tmp_path, "DN"))


def test_two_masks_of_one_patch_are_refused(tmp_path: Path) -> None:
    case = tmp_path / "train" / "DN" / "c1"
    patch(case, "a")
    save(case / "mask" / "a.jpg", DISC)
    assert "both stand for 'a'" in refused(open_kpis(tmp_path, "DN"))


def test_a_group_without_cases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "DN").mkdir(parents=True)
    assert f"{tmp_path / 'DN'} holds no image with a mask" in refused(open_kpis(tmp_path, "DN"))
