"""The nine drawn datasets: each read by its owner's reader, aligned with what was drawn, the same bytes every time."""

from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import yaml
from PIL import Image

from casam_fed.data.check import check_dataset
from casam_fed.data.dataset import PublicData, open_dataset
from casam_fed.data.sample import Sample
from casam_fed.data.volume import open_volume
from casam_fed.drawn import nine
from casam_fed.drawn.abdominal_ct import draw_ct_units
from casam_fed.drawn.nine import SIZES, Amount, generator, write_nine
from casam_fed.drawn.volume_files import POSES, Pose, save_metaimage, save_nifti
from casam_fed.errors import ConfigError, StorageError

TINY = {
    "acdc": Amount(2, 1, 2),
    "ebhi_seg": Amount(2, 0, 2),
    "kpis_56nx": Amount(1, 1, 1),
    "kpis_dn": Amount(1, 1, 1),
    "polyp": Amount(3, 0, 1),
    "msd_prostate": Amount(2, 0, 2),
    "msd_spleen": Amount(2, 0, 2),
    "promise12": Amount(2, 0, 2),
    "sts_2d": Amount(2, 0, 1),
}
# Images and patients of TINY, and the classes, in the order of `DATASETS`.
EXPECTED = {
    "acdc": (12, 3, ("left ventricle", "myocardium", "right ventricle")),
    "ebhi_seg": (4, 2, ("colorectal tumour area",)),
    "kpis_56nx": (2, 2, ("glomerulus",)),
    "kpis_dn": (2, 2, ("glomerulus",)),
    "polyp": (3, 3, ("polyp",)),
    "msd_prostate": (4, 2, ("peripheral zone", "transition zone")),
    "msd_spleen": (4, 2, ("spleen",)),
    "promise12": (4, 2, ("prostate",)),
    "sts_2d": (2, 2, ("teeth",)),
}


@pytest.fixture(scope="module")
def monkeypatch_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", TINY)
        patch.setenv("CASAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield patch


@pytest.fixture(scope="module")
def written(monkeypatch_module: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("nine") / "data"
    said: list[str] = []
    write_nine(out, "tiny", 4, said.append)
    return out, said


@pytest.fixture(scope="module")
def root(written: tuple[Path, list[str]]) -> Path:
    return written[0]


def block(kind: str) -> PublicData:
    return PublicData(kind=kind, path=kind)  # type: ignore[arg-type]


def samples(root: Path, kind: str) -> list[Sample]:
    reader = block(kind).reader(root)
    return [reader.read(record) for record in reader.records()]


def grey(sample: Sample) -> np.ndarray:
    return sample.image.astype(float).mean(axis=2)


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_owners_reader_finds_every_image_and_nothing_wrong(kind: str, root: Path) -> None:
    images, patients, classes = EXPECTED[kind]
    report = check_dataset(block(kind).reader(root))
    assert report.problems == []
    assert (report.images, report.patients) == (images, patients)
    assert report.classes == dict.fromkeys(classes, images)
    assert report.intensity is not None
    assert report.intensity[1] > 180


def test_every_dataset_is_announced_in_one_line(written: tuple[Path, list[str]]) -> None:
    said = [line.split() for line in written[1]]
    assert [(line[0], int(line[1]), int(line[3])) for line in said] == [
        (kind, patients, images) for kind, (images, patients, _) in EXPECTED.items()
    ]


def test_the_folders_are_those_of_the_stream_and_the_readme_says_what_they_are(root: Path) -> None:
    stream = yaml.safe_load((Path(__file__).parents[3] / "configs" / "streams" / "nine.yaml").read_text())
    assert {site["data"]["path"] for site in stream["sites"]} == {path.name for path in root.iterdir() if path.is_dir()}
    text = (root / "README.txt").read_text()
    assert "seed 4" in text
    assert "size tiny" in text
    assert "None was taken from a patient" in text


def test_owners_splits_are_kept_and_others_are_drawn(root: Path) -> None:
    for kind, amount in TINY.items():
        dataset = open_dataset(block(kind), root)
        assert dataset.train
        assert dataset.test
        if amount.test:
            counts = {"acdc": (8, 4)}.get(kind, (1, 1))
            assert (len(dataset.train), len(dataset.test)) == counts


def test_halves_that_the_release_lacks_are_noted_and_not_wrong(root: Path) -> None:
    reader = block("ebhi_seg").reader(root)
    reader.records()
    assert [note for note in reader.notes if "1 without a mask" in note and "1 without an image" in note]
    assert {path.name for path in (root / "ebhi_seg").iterdir()} == {
        *("Normal", "Polyp", "Low-grade IN", "High-grade IN", "Adenocarcinoma", "Serrated adenoma")
    }


def test_jpeg_masks_are_as_noisy_as_the_owners(root: Path) -> None:
    for kind in ("kpis_56nx", "kpis_dn", "polyp"):
        masks = [path for path in (root / kind).rglob("*.jpg") if path.parent.name in ("mask", "masks")]
        assert masks
        for path in masks:
            values = np.asarray(Image.open(path))
            assert np.unique(values).size > 2
            assert ((values > 100) & (values < 156)).mean() < 0.02


def test_litter_of_macos_lies_where_owners_left_it(root: Path) -> None:
    litter = [path for path in root.rglob("._*") if path.is_file()]
    assert {path.relative_to(root).parts[0] for path in litter} == {
        *("kpis_56nx", "kpis_dn", "msd_prostate", "msd_spleen")
    }
    assert all(path.read_bytes()[:4] == bytes.fromhex("00051607") for path in litter)


def test_kidney_patches_can_be_as_large_as_the_owners(tmp_path: Path) -> None:
    nine._WRITERS["kpis_dn"](tmp_path, Amount(1, 0, 1, pixels=1024), 0)
    sizes = {Image.open(path).size for path in tmp_path.rglob("*.jpg") if not path.name.startswith(".")}
    assert sizes == {(1024, 1024)}
    assert {amount.pixels for kind, amount in SIZES["medium"].items() if kind.startswith("kpis")} == {2048}


# --- masks and images line up ----------------------------------------------------------------------------------------


def test_blood_is_bright_muscle_dark_and_the_right_ventricle_on_the_patients_right(root: Path) -> None:
    for sample in samples(root, "acdc"):
        means = {name: grey(sample)[mask].mean() for name, mask in sample.masks.items()}
        assert means["left ventricle"] > 1.15 * means["myocardium"]
        columns = {name: np.nonzero(mask)[1].mean() for name, mask in sample.masks.items()}
        assert columns["right ventricle"] < columns["left ventricle"]


def test_the_heart_is_smaller_when_it_has_contracted(root: Path) -> None:
    area: dict[str, dict[str, int]] = {}
    for sample in samples(root, "acdc"):
        phase = "full" if "_frame01/" in sample.id else "empty"
        area.setdefault(sample.patient, dict.fromkeys(("full", "empty"), 0))[phase] += int(
            sample.masks["left ventricle"].sum()
        )
    assert all(both["empty"] < 0.75 * both["full"] for both in area.values())


def test_the_most_basal_slice_of_a_heart_has_no_label_and_the_apex_lies_below(root: Path) -> None:
    for path in sorted((root / "acdc").rglob("*_gt.nii.gz")):
        label = open_volume(path, view="acquired")
        sizes = [int((label.slice(z) > 0).sum()) for z in range(label.slices)]
        assert sizes[-1] == 0
        assert 0 < sizes[0] < sizes[1]
        assert round(label.spacing[0], 3) in (8, 10)


def test_glands_are_purple_polyps_in_view_and_teeth_bright(root: Path) -> None:
    for sample in samples(root, "ebhi_seg"):
        assert sample.image.shape == (224, 224, 3)
        mask = sample.masks["colorectal tumour area"]
        assert 0.1 < mask.mean() < 0.9
        dark = grey(sample) < 110
        assert dark[mask].mean() > 1.5 * dark[~mask].mean()
    for sample in samples(root, "polyp"):
        assert (sample.image[sample.masks["polyp"]].max(axis=1) > 30).mean() > 0.9
    for sample in samples(root, "sts_2d"):
        assert grey(sample)[sample.masks["teeth"]].mean() > 1.4 * grey(sample)[~sample.masks["teeth"]].mean()


def test_the_peripheral_zone_lies_behind_the_transition_zone(root: Path) -> None:
    for sample in samples(root, "msd_prostate"):
        rows = {name: np.nonzero(mask)[0].mean() for name, mask in sample.masks.items()}
        assert rows["peripheral zone"] > rows["transition zone"]
        assert not (sample.masks["peripheral zone"] & sample.masks["transition zone"]).any()


def test_a_prostate_scan_holds_t2_and_the_diffusion_of_the_same_slices(root: Path) -> None:
    path = root / "msd_prostate" / "imagesTr" / "prostate_00.nii.gz"
    assert nibabel.load(path).shape[3] == 2
    t2, adc = (open_volume(path, channel) for channel in (0, 1))
    zones = open_volume(root / "msd_prostate" / "labelsTr" / "prostate_00.nii.gz")
    assert t2.planes.shape == adc.planes.shape == zones.planes.shape
    assert 600 < adc.planes[zones.planes > 0].mean() < 2200


def test_organs_end_before_the_scan_does(root: Path) -> None:
    labels = [
        *(root / "msd_prostate" / "labelsTr").glob("[!.]*"),
        *(root / "msd_spleen" / "labelsTr").glob("[!.]*"),
        *(root / "promise12").glob("*_segmentation.mhd"),
    ]
    assert len(labels) == 6
    for path in labels:
        label = open_volume(path)
        present = [bool(label.slice(z).any()) for z in range(label.slices)]
        assert present == [False, False, True, True, False, False]


def test_what_the_reader_shows_is_what_was_drawn_in_every_pose(root: Path) -> None:
    for case in ("spleen_2", "spleen_3"):
        image = open_volume(root / "msd_spleen" / "imagesTr" / f"{case}.nii.gz")
        label = open_volume(root / "msd_spleen" / "labelsTr" / f"{case}.nii.gz")
        # Planes run from the feet, drawings (here numbers 2 and 3 of 6) from the head.
        for plane, index, position in ((3, 2, 0.25), (2, 3, 0.75)):
            drawn = draw_ct_units(generator(4, "msd_spleen", case), generator(4, "msd_spleen", case, index), position)
            assert np.abs(image.slice(plane) - np.clip(drawn.units, -1024, 3071)).max() <= 0.5
            assert np.array_equal(label.slice(plane) > 0, drawn.spleen)


@pytest.mark.parametrize("pose", POSES)
def test_every_pose_is_undone_by_the_reader_in_both_formats(pose: Pose, tmp_path: Path) -> None:
    planes = np.random.default_rng(0).integers(0, 900, (4, 12, 10)).astype(np.int16)
    save_nifti(tmp_path / "a.nii.gz", planes, (5.0, 0.7, 0.8), pose)
    save_metaimage(tmp_path / "a.mhd", planes, (5.0, 0.7, 0.8), pose)
    nifti, meta = open_volume(tmp_path / "a.nii.gz"), open_volume(tmp_path / "a.mhd")
    for volume in (nifti, meta):
        assert np.array_equal(volume.planes, planes)
        assert volume.spacing == pytest.approx((5.0, 0.7, 0.8), abs=1e-5)
        down, back, left = volume.affine[2, 0], volume.affine[1, 1], volume.affine[0, 2]
        assert (down > 0, back < 0, left < 0) == (True, True, True)
    assert np.allclose(nifti.affine, meta.affine, atol=1e-3)
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / "a.nii.gz").affine) == tuple(pose.axes)
    assert SimpleITK.ReadImage(str(tmp_path / "a.mhd")).GetSize() != (0, 0, 0)


def test_some_patients_lie_obliquely_and_some_are_stored_flipped(root: Path) -> None:
    affines = [nibabel.load(path).affine[:3, :3] for path in sorted((root / "acdc").rglob("*_gt.nii.gz"))]
    cosines = [affine / np.linalg.norm(affine, axis=0) for affine in affines]
    assert any((np.abs(cosine) > 0.1).sum() > 3 for cosine in cosines)
    assert len({nibabel.aff2axcodes(np.pad(affine, ((0, 1), (0, 1)))) for affine in affines}) == 2


# --- reproducible, whole or absent -----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root: Path, tmp_path: Path) -> None:
    for seed, folder in ((4, "again"), (5, "other")):
        for kind in TINY if seed == 4 else ("acdc", "promise12", "ebhi_seg", "polyp"):
            nine._WRITERS[kind](tmp_path / folder / kind, Amount(1, 0, TINY[kind].each), seed)
    first, again = everything(root), everything(tmp_path / "again")
    # Of the patient that is drawn again; dataset.json lists them all.
    assert all(first[name] == data for name, data in again.items() if not name.endswith("dataset.json"))
    assert {name.split("/")[0] for name in again} == set(TINY)
    other = everything(tmp_path / "other")
    pictures = [name for name in other if name.endswith(("_frame01.nii.gz", ".raw", ".jpg", ".png"))]
    assert len(pictures) > 10
    assert all(first.get(name) != other[name] for name in pictures)


@pytest.mark.usefixtures("monkeypatch_module")
def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; give a new folder"):
        write_nine(tmp_path / "out", "tiny", 0, lambda line: None)
    with pytest.raises(ConfigError, match="is not empty"):
        write_nine(tmp_path / "out" / "thesis.txt", "tiny", 0, lambda line: None)
    assert everything(tmp_path) == {"out/thesis.txt": b"mine"}


@pytest.mark.usefixtures("monkeypatch_module")
@pytest.mark.parametrize(
    ("failure", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left on device"), StorageError)],
)
def test_an_interrupted_write_leaves_nothing_behind(
    failure: BaseException, raised: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, amount: Amount, seed: int) -> None:
        folder.mkdir()
        (folder / "half").write_bytes(b"x")
        raise failure

    monkeypatch.setitem(nine._WRITERS, "acdc", fail)  # type: ignore[arg-type]
    with pytest.raises(raised) as caught:
        write_nine(tmp_path / "deep" / "out", "tiny", 0, lambda line: None)
    assert list((tmp_path / "deep").iterdir()) == []
    if raised is StorageError:
        assert "no space left on device; free space" in str(caught.value)


@pytest.mark.usefixtures("monkeypatch_module")
def test_an_empty_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", {"sts_2d": Amount(1, 0, 1)})
    (tmp_path / "out").mkdir()
    write_nine(tmp_path / "out", "tiny", 0, lambda line: None)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.txt", "sts_2d"}


def test_medium_has_four_times_as_many_patients_as_small() -> None:
    for kind, small in SIZES["small"].items():
        assert SIZES["medium"][kind].patients == 4 * small.patients
