"""EBHI-SEG: folders of findings, patients in the names, and pairs of which the release lacks one half."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_fed.data.formats.ebhi import EbhiReader
from casam_fed.data.sample import Reader, Record
from casam_fed.errors import DataError

H, W = 24, 32
COLOUR = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
DISC = np.zeros((H, W), dtype=np.uint8)
DISC[6:18, 8:22] = 255


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def refused(reader: Reader) -> str:
    with pytest.raises(DataError) as caught:
        list(map(reader.read, reader.records()))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value), "an error names its mend"
    return str(caught.value)


def pair(root: Path, finding: str, name: str, mask: np.ndarray = DISC) -> None:
    save(root / finding / "image" / f"{name}.png", COLOUR)
    save(root / finding / "label" / f"{name}.png", mask)


def test_the_findings_are_read_as_one_binary_class(tmp_path: Path) -> None:
    pair(tmp_path, "High-grade IN", "GT2014141-1-400-001")
    pair(tmp_path, "Adenocarcinoma", "GT2014141-1-400-001", DISC // 255)
    (tmp_path / "Normal.txt").write_text("beside the folders")
    pair(tmp_path, "__MACOSX", "GT1-1-1-1")
    pair(tmp_path, ".Trash", "GT1-1-1-1")
    reader: Reader = EbhiReader(tmp_path)
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
    reader = EbhiReader(tmp_path)
    assert [record.id for record in reader.records()] == ["Polyp/GT1-1-1-1"]
    assert reader.notes == [
        "Left out, as the release lacks the other half: 5 without a mask (Polyp/GT2-1-1-0, Polyp/GT2-1-1-1, "
        "Polyp/GT2-1-1-2 and 2 more) and 1 without an image (Normal/GT3-1-1-1)."
    ]


def test_a_name_without_a_patient_is_a_patient_of_its_own(tmp_path: Path) -> None:
    for name in ("GT1-1-1-1", "scan7", "-8"):
        pair(tmp_path, "Polyp", name)
    reader = EbhiReader(tmp_path)
    assert [record.patient for record in reader.records()] == ["Polyp/-8", "GT1", "Polyp/scan7"]
    assert reader.notes == [
        "No patient in the name of 2 of 3 images (Polyp/-8, Polyp/scan7); each of them counts as a patient of its own."
    ]


def test_empty_masks_are_kept_and_counted_once(tmp_path: Path) -> None:
    pair(tmp_path, "Normal", "GT1-1-1-1", DISC * 0)
    reader = EbhiReader(tmp_path)
    for _ in range(2):
        (record,) = reader.records()
        assert not reader.read(record).masks["colorectal tumour area"].any()
    assert reader.notes == ["Empty masks: 1 of 1 read so far; they are kept, not replaced."]


def test_what_does_not_follow_the_layout_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(EbhiReader(tmp_path / "nowhere"))
    assert "holds no folder with image/ and label/ in it" in refused(EbhiReader(tmp_path))
    save(tmp_path / "Polyp" / "image" / "GT1-1-1-1.png", COLOUR)
    assert "Polyp holds image/ but no label/" in refused(EbhiReader(tmp_path))
    (tmp_path / "Polyp" / "label").mkdir()
    assert "holds no image with a mask" in refused(EbhiReader(tmp_path))


def test_damage_and_misfits_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "Polyp", "GT1-1-1-1", DISC[:-1])
    assert "32 x 24 pixels but its mask" in refused(EbhiReader(tmp_path))
    save(tmp_path / "Polyp" / "label" / "GT1-1-1-1.png", DISC // 255 * 7)
    assert "holds the value 7" in refused(EbhiReader(tmp_path))
    (tmp_path / "Polyp" / "image" / "GT1-1-1-1.png").write_bytes(b"no image")
    reader = EbhiReader(tmp_path)
    assert len(reader.records()) == 1, "listing opens no file"
    assert "cannot be read as PNG" in refused(reader)
    with pytest.raises(DataError, match="has no image 'GT9'; list the folder again"):
        reader.read(Record("GT9", "GT9"))
