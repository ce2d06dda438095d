"""`casam segment`: files in, masks in their own grid and format out, one sentence for each that fails."""

import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner
from PIL import Image

from casam_fed.errors import CasamError
from simulations.segment_command import segment


def run(world, *arguments):
    """Run the command in this process and return what it printed; what it raises is raised."""
    done = CliRunner().invoke(
        segment, ["--bank", str(world.run), "--device", "cpu", *map(str, arguments)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def picture(world, tmp_path):
    path, _ = world.picture(tmp_path)
    return path


@pytest.fixture
def volume(world):
    return world.readers["organ"]._cases["case3"].image


def boxes(folder, *rows):
    path = folder / "boxes.csv"
    depth = any(len(row) > 6 for row in rows)
    head = "file,class,x0,y0,x1,y1" + (",z0,z1" if depth else "")
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_picture_has_a_label_map_an_overlay_and_a_report(world, opened, picture, tmp_path):
    given = boxes(tmp_path, (picture.name, "polyp", 30, 30, 200, 180), (picture.name, "other", 100, 90, 220, 200))
    printed = run(world, picture, "--boxes", given, "--out", tmp_path / "masks")
    report = json.loads((tmp_path / "masks/segment.json").read_text())
    (row,) = report["files"]
    found = opened.segment(picture, {"polyp": [(30, 30, 200, 180)], "other": [(100, 90, 220, 200)]})
    labels = np.asarray(Image.open(tmp_path / "masks/polyp.mask.png"))
    assert row["classes"] == {"polyp": 1, "other": 2}
    assert np.array_equal(labels == 2, found.masks["other"])
    assert np.array_equal(labels == 1, found.masks["polyp"] & ~found.masks["other"])
    assert row["overlapping_pixels"] == int((found.masks["polyp"] & found.masks["other"]).sum())
    assert row["route"]["why"] == found.route.why
    assert row["route"]["bank"] == report["bank"] == opened.digest
    assert found.route.why in printed
    assert "1 of 1 segmented" in printed
    with Image.open(tmp_path / "masks/polyp.overlay.png") as shown:
        assert max(shown.size) == 1024


@pytest.mark.parametrize("end", [".nii.gz", ".nii", ".mha", ".mhd", ".nrrd"])
def test_a_volume_has_a_mask_on_its_own_grid(world, opened, volume, tmp_path, end):
    source = tmp_path / f"scan{end}"
    image = nibabel.load(volume)
    if end.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), source)
    else:
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(volume)), str(source))
    given = boxes(tmp_path, ("", "organ", 10, 10, 30, 26, 1, 4))
    run(world, source, "--boxes", given, "--out", tmp_path / "masks", "--task", "organ")
    mask = opened.segment(volume, {"organ": [(10, 10, 1, 30, 26, 4)]}, task="organ").masks["organ"]
    written = tmp_path / "masks" / f"scan.mask{end.replace('.mhd', '.mha')}"
    if end.startswith(".nii"):
        found = nibabel.load(written)
        assert found.affine.tobytes() == nibabel.load(source).affine.tobytes()
        assert found.header["qform_code"] == nibabel.load(source).header["qform_code"]
        assert np.array_equal(np.asarray(found.dataobj), mask)
        assert found.get_data_dtype() == np.uint8
    else:
        found, original = SimpleITK.ReadImage(str(written)), SimpleITK.ReadImage(str(source))
        for of in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
            # NRRD keeps spacing times direction, and ITK takes them apart again: to the last bit but one.
            exact = 1e-15 if end == ".nrrd" else 0
            assert getattr(found, of)() == pytest.approx(getattr(original, of)(), rel=exact, abs=exact)
        assert np.array_equal(SimpleITK.GetArrayFromImage(found).T, mask)


def test_the_same_command_writes_the_same_bytes(world, volume, tmp_path):
    given = boxes(tmp_path, ("", "organ", 10, 10, 30, 26, 2, 2))
    for name in ("one", "two"):
        run(world, volume, "--boxes", given, "--out", tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["case3.mask.nii.gz", "case3.overlay.png", "segment.json"]
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


def test_a_file_a_class_is_written_on_request(world, picture, tmp_path):
    given = boxes(tmp_path, (picture.name, "a", 30, 30, 200, 180), (picture.name, "b", 100, 90, 220, 200))
    run(world, picture, "--boxes", given, "--out", tmp_path / "masks", "--per-class", "--no-overlays")
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == [
        "polyp.mask-1.png",
        "polyp.mask-2.png",
        "segment.json",
    ]


def test_probabilities_are_above_one_half_where_the_mask_is(world, picture, volume, tmp_path):
    given = boxes(tmp_path, (picture.name, "a", 30, 30, 200, 180, "", ""), (volume.name, "organ", 10, 10, 30, 26, 2, 3))
    run(world, picture, volume, "--boxes", given, "--out", tmp_path / "masks", "--probabilities")
    mask = np.asarray(Image.open(tmp_path / "masks/polyp.mask.png"))
    sure = np.asarray(Image.open(tmp_path / "masks/polyp.probability-1.tif"))
    assert sure.dtype == np.float32
    assert np.array_equal(sure > 0.5, mask == 1)
    deep = nibabel.load(tmp_path / "masks/case3.probability-1.nii.gz")
    mask = np.asarray(nibabel.load(tmp_path / "masks/case3.mask.nii.gz").dataobj)
    assert np.array_equal(np.asarray(deep.dataobj) > 0.5, mask == 1)
    assert not np.asarray(deep.dataobj)[:, :, [0, 1, 4, 5]].any()
    assert deep.affine.tobytes() == nibabel.load(volume).affine.tobytes()


def test_a_bad_file_does_not_stop_the_others_and_all_are_told(world, picture, volume, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture.read_bytes()[:500])
    (folder / "b.nii.gz").write_bytes(gzip.compress(b"no volume"))
    (folder / "c.png").write_bytes(picture.read_bytes())
    (folder / "d.nii.gz").write_bytes(volume.read_bytes())
    given = boxes(
        tmp_path,
        *((name, "x", 10, 10, 20, 20, "", "") for name in ("a.png", "b.nii.gz", "c.png")),
        ("d.nii.gz", "x", 10, 10, 90, 20, 0, 1),
    )
    with pytest.raises(CasamError) as caught:
        run(world, folder, "--boxes", given, "--out", tmp_path / "masks")
    first, *listed = str(caught.value).split("\n")
    assert first == "3 of 4 files could not be segmented, the others are done:"
    assert [name in line for name, line in zip(("a.png", "b.nii.gz", "d.nii.gz"), listed, strict=True)] == [True] * 3
    report = json.loads((tmp_path / "masks/segment.json").read_text())
    assert ["error" in row for row in report["files"]] == [True, True, False, True]
    assert (tmp_path / "masks/c.mask.png").exists()


def test_what_is_there_is_kept_unless_told_otherwise(world, picture, tmp_path):
    given = boxes(tmp_path, (picture.name, "a", 30, 30, 200, 180))
    out = tmp_path / "masks"
    run(world, picture, "--boxes", given, "--out", out)
    before = (out / "polyp.mask.png").read_bytes()
    with pytest.raises(CasamError, match=r"polyp\.mask\.png is there already; give another --out, or --overwrite"):
        run(world, picture, "--boxes", given, "--out", out, "--task", "none")
    assert (out / "polyp.mask.png").read_bytes() == before
    run(world, picture, "--boxes", given, "--out", out, "--task", "none", "--overwrite")
    assert json.loads((out / "segment.json").read_text())["files"][0]["route"]["task"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--task", "polip"), "did you mean 'polyp'?"),
        (("--task", "organ"), "task organ has no class 'a'; did you mean 'organ'?"),
        (("--boxes", "nothing.csv"), "cannot read nothing.csv: no such file or directory"),
        (("--bank", "nowhere"), "nowhere holds no bank"),
        (("--device", "abacus"), "unknown device 'abacus'"),
    ],
)
def test_wrong_wishes_are_one_sentence_and_nothing_is_written(world, picture, tmp_path, change, sentence):
    given = boxes(tmp_path, (picture.name, "a", 30, 30, 200, 180))
    with pytest.raises(CasamError) as caught:
        run(world, picture, "--boxes", given, "--out", tmp_path / "masks", *change)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "masks").exists()


def test_a_folder_without_images_and_a_file_of_another_kind(world, tmp_path):
    (tmp_path / "empty").mkdir()
    given = boxes(tmp_path, ("", "a", 1, 1, 2, 2))
    with pytest.raises(CasamError, match="holds no image"):
        run(world, tmp_path / "empty", "--boxes", given, "--out", tmp_path / "masks")
    with pytest.raises(CasamError, match="is no kind of file that is segmented"):
        run(world, Path(__file__), "--boxes", given, "--out", tmp_path / "masks")
