"""The look at a whole dataset, and its contact sheets."""

import io

import numpy as np
import pytest
from PIL import Image

from casam_fed.data.check import check_dataset
from casam_fed.data.contact_sheet import ContactSheets
from casam_fed.data.folder import open_folder
from casam_fed.data.phantoms import PhantomReader


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two training images of patient a and b, one test image of c; 24 x 32, a bright square in each."""
    for number, (split, name) in enumerate((("train", "a_1"), ("train", "b_1"), ("test", "c_1"))):
        image = np.full((24, 32), 20 + number)
        image[4:12, 6 : 14 + number] = 200
        save(tmp_path / split / "images" / f"{name}.png", image)
        save(tmp_path / split / "masks" / f"{name}.png", (image == 200) * 255)
    return tmp_path


def check(folder, **options):
    return check_dataset(open_folder(folder, ["polyp"], "binary", "^[a-z]"), **options)


def test_a_sound_dataset_is_described(folder):
    report = check(folder)
    assert not report.problems
    assert (report.images, report.patients) == (3, 3)
    assert report.splits == {"train": 2, "test": 1}
    assert report.classes == {"polyp": 3}
    assert report.sizes == {(24, 32): 3}
    low, high, mean = report.intensity
    assert (low, high) == (20, 200)
    assert 20 < mean < 60


def test_every_problem_is_named_with_its_image(folder):
    save(folder / "train/masks/a_1.png", np.zeros((24, 32)))
    (folder / "train/images/b_2.png").write_bytes((folder / "train/images/b_1.png").read_bytes())
    (folder / "train/masks/b_2.png").write_bytes((folder / "train/masks/b_1.png").read_bytes())
    save(folder / "train/images/d_1.png", np.arange(24 * 32).reshape(24, 32) % 251)
    save(folder / "train/masks/d_1.png", np.zeros((24, 31)))
    save(folder / "test/images/a_2.png", np.full((24, 32), 9))
    save(folder / "test/masks/a_2.png", np.eye(24, 32) * 255)
    (folder / "test/images/c_1.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    report = check(folder)
    found = {(problem.kind, problem.where) for problem in report.problems}
    assert found == {
        ("leak", "a"),
        ("empty mask", "train/a_1"),
        ("duplicate", "train/b_2"),
        ("unreadable", "train/d_1"),
        ("unreadable", "test/c_1"),
    }
    assert report.images == 6
    assert sum(report.sizes.values()) == 4
    sentences = " ".join(problem.sentence for problem in report.problems)
    for words in ("very pixels of train/b_1", "export both at the same size", "cannot be read", "move them all to one"):
        assert words in sentences


def test_every_missing_half_of_a_pair_is_a_problem(folder):
    (folder / "train/masks/a_1.png").unlink()
    (folder / "test/images/c_1.png").unlink()
    report = check(folder)
    assert [problem.kind for problem in report.problems] == ["missing pair"] * 2
    assert f"image {folder / 'train/images/a_1.png'} has no mask" in report.problems[0].sentence
    assert f"mask {folder / 'test/masks/c_1.png'} has no image" in report.problems[1].sentence


def test_a_listing_that_fails_is_a_problem(folder):
    (folder / "train/masks/a_1.txt").touch()
    report = check(folder)
    assert [problem.kind for problem in report.problems] == ["listing"]
    assert "is not a PNG, JPEG or TIFF file" in report.problems[0].sentence


def test_progress_counts_every_image_and_samples_are_shown(folder):
    steps, shown = [], []
    (folder / "test/images/c_1.png").write_bytes(b"")
    check(folder, progress=lambda done, total: steps.append((done, total)), look=shown.append)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert [sample.id for sample in shown] == ["train/a_1", "train/b_1"]


def test_contact_sheets_show_every_sample_once():
    reader = PhantomReader("cardiac_mr", 4, 1, seed=0)
    sheets = ContactSheets(rows=1)
    pages = [page for page in map(sheets.add, map(reader.read, reader.records())) if page]
    assert len(pages) == 1
    last = sheets.flush()
    assert sheets.flush() is None
    full, rest = (Image.open(io.BytesIO(page)) for page in (pages[0], last))
    assert full.width > rest.width
    assert full.height == rest.height
    assert full.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_a_contact_sheet_paints_the_masks(folder):
    reader = open_folder(folder, ["polyp"], "binary")
    sheets = ContactSheets()
    assert sheets.add(reader.read(reader.records()[0])) is None
    page = np.asarray(Image.open(io.BytesIO(sheets.flush())).convert("RGB")).astype(int)
    colourful = (page.max(axis=2) - page.min(axis=2)) > 40
    left, right = np.split(colourful, [8 + 160 + 1], axis=1)
    assert not left[30:].any()
    assert 0.03 < right[30:].mean() < 0.3
