"""EBHI-SEG: folders of findings, patients in the names, and pairs of which the release lacks one half."""

from pathlib import Path

import numpy as np

from casam_fed.data.formats.ebhi import open_ebhi
from casam_fed.data.sample import Reader, Record

from ..tiny_images import COLOUR, DISC, refused, save


def pair(root: Path, finding: str, name: str, mask: np.ndarray = DISC) -> None:
    save(root / finding / "image" / f"{name}.png", COLOUR)
    save(root / finding / "label" / f"{name}.png", mask)


def test_the_findings_are_read_as_one_binary_class(tmp_path: Path) -> None:
    pair(tmp_path, "High-grade IN", "GT2014141-1-400-001")
    pair(tmp_path, "Adenocarcinoma", "GT2014141-1-400-001", DISC // 255)
    (tmp_path / "Normal.txt").write_text("beside the folders")
    pair(tmp_path, "__MACOSX", "GT1-1-1-1")
    pair(tmp_path, ".Trash", "GT1-1-1-1")
    reader: Reader = open_ebhi(tmp_path)
    assert reader.classes == ("colorectal tumour area",)
    assert reader.records() == [
        Record("Adenocarcinoma/GT2014141-1-400-001", "GT2014141", None),
        Record("High-grade IN/GT2014141-1-400-001", "GT2014141", None),
    ]
    for record in reader.records():
        sample = reader.read(record)
        assert (sample.image == COLOUR).all()
        assert (sample.masks["colorectal tumour area"] == (DISC > 0)).all()
        assert sample.instances == {}
    assert reader.notes == []


def test_pairs_that_lack_one_half_are_left_out_and_reported(tmp_path: Path) -> None:
    pair(tmp_path, "Polyp", "GT1-1-1-1")
    for number in range(5):
        save(tmp_path / "Polyp" / "image" / f"GT2-1-1-{number}.png", COLOUR)
    save(tmp_path / "Normal" / "label" / "GT3-1-1-1.png", DISC)
    (tmp_path / "Normal" / "image").mkdir()
    (tmp_path / "Polyp" / "label" / "._GT2-1-1-0.png").write_bytes(b"AppleDouble")
    reader = open_ebhi(tmp_path)
    assert [record.id for record in reader.records()] == ["Polyp/GT1-1-1-1"]
    assert reader.notes == [
        "Left out, as the release lacks the other half: 5 without a mask (Polyp/GT2-1-1-0, Polyp/GT2-1-1-1, "
        "Polyp/GT2-1-1-2 and 2 more) and 1 without an image (Normal/GT3-1-1-1)."
    ]


def test_a_name_without_a_patient_is_a_patient_of_its_own(tmp_path: Path) -> None:
    for name in ("GT1-1-1-1", "scan7", "-8"):
        pair(tmp_path, "Polyp", name)
    reader = open_ebhi(tmp_path)
    assert [record.patient for record in reader.records()] == ["Polyp/-8", "GT1", "Polyp/scan7"]
    assert reader.notes == [
        "No patient in the name of 2 of 3 images (Polyp/-8, Polyp/scan7); each of them counts as a patient of its own."
    ]


def test_empty_masks_are_kept_and_counted_once(tmp_path: Path) -> None:
    pair(tmp_path, "Normal", "GT1-1-1-1", DISC * 0)
    reader = open_ebhi(tmp_path)
    for _ in range(2):
        (record,) = reader.records()
        assert not reader.read(record).masks["colorectal tumour area"].any()
    assert reader.notes == ["Empty masks: 1 of 1 read so far; they are kept, not replaced."]


def test_what_does_not_follow_the_layout_is_refused(tmp_path: Path) -> None:
    assert "holds no folder with image/ and label/ in it" in refused(open_ebhi(tmp_path))
    save(tmp_path / "Polyp" / "image" / "GT1-1-1-1.png", COLOUR)
    assert "Polyp holds image/ but no label/" in refused(open_ebhi(tmp_path))
    (tmp_path / "Polyp" / "label").mkdir()
    assert "holds no image with a mask" in refused(open_ebhi(tmp_path))


def test_masks_that_are_not_binary_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "Polyp", "GT1-1-1-1", DISC // 255 * 7)
    assert "holds the value 7" in refused(open_ebhi(tmp_path))
