"""The drawn datasets: reproducible, split by patient, annotated as the anatomy demands, and different from each other."""

import math
import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from casam_fed.data.phantoms import PhantomReader
from casam_fed.data.sample import Sample
from casam_fed.drawn.abdominal_ct import draw_abdominal_ct, draw_ct_units
from casam_fed.drawn.cardiac_mr import draw_cardiac_signal
from casam_fed.drawn.geometry import Plane, blob, make_plane
from casam_fed.drawn.modalities import MODALITIES
from casam_fed.drawn.texture import smooth_noise, stamp
from casam_fed.errors import ConfigError

CLASSES = {
    "cardiac_mr": ("right ventricle", "myocardium", "left ventricle"),
    "stained_tissue": ("gland",),
    "endoscopy": ("polyp",),
    "abdominal_ct": ("spleen",),
    "kidney_56nx": ("glomerulus",),
    "kidney_dn": ("glomerulus",),
    "prostate_msd": ("peripheral zone", "transition zone"),
    "prostate_promise12": ("peripheral zone", "transition zone"),
    "dental_xray": ("teeth",),
    "breast_ultrasound": ("lesion",),
}
# Two groups of kidneys, and two scanners for prostates, differ as little as they do in reality.
FAMILIES = {"kidney_dn": "kidney_56nx", "prostate_promise12": "prostate_msd"}
# Share of the image that a class may cover.
AREAS = {
    "right ventricle": (0.001, 0.15),
    "myocardium": (0.005, 0.15),
    "left ventricle": (0.002, 0.12),
    "gland": (0.15, 0.75),
    "polyp": (0.005, 0.25),
    "spleen": (0.004, 0.1),
    "glomerulus": (0.003, 0.3),
    "peripheral zone": (0.002, 0.1),
    "transition zone": (0.001, 0.1),
    "teeth": (0.08, 0.25),
    "lesion": (0.008, 0.2),
}


def read_all(reader: PhantomReader) -> list[Sample]:
    return [reader.read(record) for record in reader.records()]


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return {modality: read_all(PhantomReader(modality, train=6, test=2, seed=5)) for modality in MODALITIES}


def same(one: Sample, other: Sample) -> bool:
    return (
        (one.id, one.patient) == (other.id, other.patient)
        and np.array_equal(one.image, other.image)
        and all(np.array_equal(one.masks[name], other.masks[name]) for name in one.masks)
        and all(np.array_equal(one.instances[name], other.instances[name]) for name in one.instances)
    )


def grey(sample: Sample) -> npt.NDArray[np.float64]:
    return sample.image.astype(np.float64).mean(axis=2)


# --- a dataset -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_image_depends_on_seed_and_id_and_not_on_the_order_or_how_many_others_there_are(
    modality: str, samples: dict[str, list[Sample]]
) -> None:
    few = PhantomReader(modality, train=2, test=0, seed=5)
    by_id = {sample.id: sample for sample in samples[modality]}
    assert all(same(few.read(record), by_id[record.id]) for record in reversed(few.records()))


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_seed_patient_and_slice_is_another_picture(modality: str, samples: dict[str, list[Sample]]) -> None:
    other = PhantomReader(modality, train=1, test=0, seed=6)
    pictures = [sample.image.tobytes() for sample in (*samples[modality], other.read(other.records()[0]))]
    assert len(set(pictures)) == len(pictures) == 9


def test_records_are_sorted_counted_and_split_as_asked() -> None:
    records = PhantomReader("cardiac_mr", train=25, test=7, seed=0, images_per_patient=12).records()
    assert [record.id for record in records] == sorted(record.id for record in records)
    assert len({record.id for record in records}) == 32
    assert sum(record.split == "train" for record in records) == 25
    assert sum(record.split == "test" for record in records) == 7


def test_patients_have_their_number_of_images_and_one_split_each() -> None:
    records = PhantomReader("endoscopy", train=7, test=5, seed=0, images_per_patient=3).records()
    splits: dict[str, list[str | None]] = {}
    for record in records:
        splits.setdefault(record.patient, []).append(record.split)
    assert all(len(set(split)) == 1 for split in splits.values())
    assert sorted(len(split) for split in splits.values()) == [1, 2, 3, 3, 3]


def test_images_of_one_patient_share_their_scanner_and_patients_do_not() -> None:
    reader = PhantomReader("cardiac_mr", train=24, test=0, seed=3)
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for sample in read_all(reader):
        shapes.setdefault(sample.patient, set()).add(sample.image.shape)
    assert all(len(shape) == 1 for shape in shapes.values())
    assert len(set.union(*shapes.values())) > 1


def test_images_are_not_all_square_and_not_all_of_one_size(samples: dict[str, list[Sample]]) -> None:
    shapes = {sample.image.shape[:2] for read in samples.values() for sample in read}
    assert len(shapes) >= 5
    assert any(height > width for height, width in shapes)
    assert any(height < width for height, width in shapes)


@pytest.mark.parametrize("modality", MODALITIES)
def test_samples_have_the_agreed_types_and_every_class_is_present(
    modality: str, samples: dict[str, list[Sample]]
) -> None:
    reader = PhantomReader(modality, train=1, test=0, seed=0)
    assert reader.classes == CLASSES[modality]
    assert "no patients" in reader.notes[0]
    for sample in samples[modality]:
        assert sample.image.dtype == np.uint8
        assert sample.image.shape[2:] == (3,)
        assert tuple(sample.masks) == reader.classes
        for name, mask in sample.masks.items():
            assert mask.dtype == np.bool_
            assert mask.shape == sample.image.shape[:2]
            least, most = AREAS[name]
            assert least < mask.mean() < most, (sample.id, name, mask.mean())


@pytest.mark.parametrize("modality", ["stained_tissue", "endoscopy", "kidney_56nx", "kidney_dn"])
def test_instances_are_numbered_from_one_and_fill_the_mask(modality: str, samples: dict[str, list[Sample]]) -> None:
    for sample in samples[modality]:
        for name, labels in sample.instances.items():
            assert labels.dtype == np.int32
            assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
            assert np.array_equal(labels > 0, sample.masks[name])
        assert set(sample.instances) == set(sample.masks)


SCANNED = ["cardiac_mr", "abdominal_ct", "prostate_msd", "prostate_promise12", "dental_xray", "breast_ultrasound"]


@pytest.mark.parametrize("modality", SCANNED)
def test_single_organs_have_no_instances(modality: str, samples: dict[str, list[Sample]]) -> None:
    assert all(sample.instances == {} for sample in samples[modality])


@pytest.mark.parametrize("modality", SCANNED)
def test_scanner_images_are_grey(modality: str, samples: dict[str, list[Sample]]) -> None:
    assert all((sample.image == sample.image[:, :, :1]).all() for sample in samples[modality])


def test_modalities_are_told_apart_by_simple_statistics(samples: dict[str, list[Sample]]) -> None:
    features, labels = [], []
    for modality in MODALITIES:
        for sample in samples[modality]:
            pixels = sample.image.reshape(-1, 3).astype(np.float64)
            # How fast brightness changes down and across tells scanners of grey pictures apart.
            steps = [np.abs(np.diff(grey(sample), axis=axis)).mean() for axis in (0, 1)]
            features.append([*pixels.mean(axis=0), *pixels.std(axis=0), *np.percentile(pixels, (10, 50, 90)), *steps])
            labels.append(FAMILIES.get(modality, modality))
    table, truth = np.array(features), np.array(labels)
    table = (table - table.mean(axis=0)) / table.std(axis=0)
    distances = np.linalg.norm(table[:, None] - table[None], axis=2) + np.diag(np.full(len(table), np.inf))
    assert (truth[distances.argmin(axis=1)] == truth).mean() >= 0.95


def test_an_unknown_modality_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="'cardiac_mr'"):
        PhantomReader("cardiac-mri", train=1, test=1, seed=0)


def test_drawing_needs_no_torch() -> None:
    code = "import sys, casam_fed.drawn; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- anatomy ---------------------------------------------------------------------------------------------------------


def test_the_left_ventricle_lies_in_the_myocardial_ring_and_touches_it(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["cardiac_mr"]:
        left, muscle = sample.masks["left ventricle"], sample.masks["myocardium"]
        assert not (left & muscle).any()
        assert ndimage.binary_fill_holes(muscle)[left].all()
        rim = ndimage.binary_dilation(left) & ~left
        assert muscle[rim].all()


def test_the_right_ventricle_is_a_crescent_on_the_left_of_the_picture(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["cardiac_mr"]:
        right, muscle = sample.masks["right ventricle"], sample.masks["myocardium"]
        assert (ndimage.binary_dilation(right) & muscle).any()
        assert ndimage.center_of_mass(right)[1] < ndimage.center_of_mass(sample.masks["left ventricle"])[1]


def test_blood_is_brighter_than_muscle(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["cardiac_mr"]:
        muscle = grey(sample)[sample.masks["myocardium"]].mean()
        for blood in ("left ventricle", "right ventricle"):
            assert grey(sample)[sample.masks[blood]].mean() > 1.15 * muscle


def test_the_heart_gets_smaller_from_base_to_apex() -> None:
    samples = read_all(PhantomReader("cardiac_mr", train=24, test=0, seed=9, images_per_patient=3))
    area = [sum(int(mask.sum()) for mask in sample.masks.values()) for sample in samples]
    base, middle, apex = np.array(area).reshape(8, 3).mean(axis=0)
    assert base > middle > 1.3 * apex


def test_a_box_alone_does_not_give_the_myocardium_or_the_glands_away(samples: dict[str, list[Sample]]) -> None:
    for modality, name in (("cardiac_mr", "myocardium"), ("stained_tissue", "gland")):
        for sample in samples[modality]:
            rows, columns = np.nonzero(sample.masks[name])
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert sample.masks[name].sum() / box < 0.75


def test_a_gland_has_a_dark_rim_of_nuclei_around_a_brighter_middle(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["stained_tissue"]:
        mask, brightness = sample.masks["gland"], grey(sample)
        # Padding with gland keeps the picture's border from counting as a gland's rim.
        depth = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
        rim, middle = (depth > 2) & (depth < 9), depth > 16
        assert brightness[rim].mean() < brightness[~mask].mean() - 15
        assert np.percentile(brightness[middle], 90) > brightness[rim].mean() + 40


def test_glands_do_not_touch_each_other(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["stained_tissue"]:
        labels = sample.instances["gland"]
        parts, _ = ndimage.label(labels > 0, structure=np.ones((3, 3)))
        for part in range(1, parts.max() + 1):
            assert np.unique(labels[parts == part]).size == 1


def test_polyps_lie_in_the_visible_octagon_of_red_mucosa(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["endoscopy"]:
        image = sample.image.astype(float)
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.max() < 40
        seen = image.max(axis=2) > 40
        red, green, blue = image[seen].mean(axis=0)
        assert red > 1.3 * green
        assert red > 1.3 * blue
        assert (seen & sample.masks["polyp"]).sum() > 0.85 * sample.masks["polyp"].sum()
        assert 1 <= sample.instances["polyp"].max() <= 2


def test_a_polyps_brightness_alone_does_not_give_it_away(samples: dict[str, list[Sample]]) -> None:
    shares = []
    for sample in samples["endoscopy"]:
        polyp = sample.masks["polyp"]
        low, high = np.percentile(grey(sample)[polyp], (5, 95))
        alike = (grey(sample) >= low) & (grey(sample) <= high)
        shares.append((alike & polyp).sum() / (alike | polyp).sum())
    assert np.median(shares) < 0.3


def test_the_spleen_lies_behind_on_the_right_of_the_picture_within_the_body(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["abdominal_ct"]:
        height, width = sample.image.shape[:2]
        row, column = ndimage.center_of_mass(sample.masks["spleen"])
        assert column > 0.62 * width
        assert row > 0.42 * height
        assert ndimage.label(sample.masks["spleen"])[1] == 1


def test_the_spleen_is_soft_tissue_like_its_neighbours(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["abdominal_ct"]:
        spleen = grey(sample)[sample.masks["spleen"]]
        assert 85 < spleen.mean() < 215
        low, high = np.percentile(spleen, (5, 95))
        alike = (grey(sample) >= low) & (grey(sample) <= high)
        assert alike.sum() > 2 * sample.masks["spleen"].sum()


def test_teeth_fill_two_rows_and_stop_more_x_rays_than_the_jaw(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["dental_xray"]:
        teeth, brightness = sample.masks["teeth"], grey(sample)
        near = ndimage.binary_dilation(teeth, iterations=12) & ~ndimage.binary_dilation(teeth, iterations=3)
        assert brightness[teeth].mean() > 1.25 * brightness[near].mean()
        rows, columns = np.nonzero(teeth)
        assert np.ptp(columns) > 0.5 * teeth.shape[1]
        # Between the rows lies air: in the middle of the picture a column of teeth has a gap.
        middle = teeth[:, teeth.shape[1] // 2 - 60 : teeth.shape[1] // 2 + 60]
        runs = np.abs(np.diff(middle.astype(int), axis=0)).sum(axis=0) // 2
        assert np.median(runs) == 2
        assert (rows.min() > 0) & (rows.max() < teeth.shape[0] - 1)


def test_a_patient_has_at_most_32_teeth_and_they_differ_between_patients() -> None:
    counts = set()
    for sample in read_all(PhantomReader("dental_xray", train=12, test=0, seed=3, images_per_patient=1)):
        # Neighbours overlap in the beam; eroded by their roots' width they come apart.
        crowns, count = ndimage.label(ndimage.binary_erosion(sample.masks["teeth"], iterations=4))
        counts.add(int(sum(np.bincount(crowns.ravel())[1:] > 20)))
        assert count >= 10
    assert len(counts) > 3


def test_a_breast_lesion_is_dark_and_lies_under_the_skin(samples: dict[str, list[Sample]]) -> None:
    for sample in samples["breast_ultrasound"]:
        lesion, brightness = sample.masks["lesion"], grey(sample)
        around = ndimage.binary_dilation(lesion, iterations=14) & ~ndimage.binary_dilation(lesion, iterations=3)
        assert brightness[lesion].mean() < 0.75 * brightness[around].mean()
        assert np.nonzero(lesion)[0].min() > 15
        assert ndimage.label(lesion)[1] == 1


def test_what_lies_behind_a_lesion_is_brighter_or_darker_by_its_kind() -> None:
    behind: dict[bool, list[float]] = {True: [], False: []}  # Wider than tall: benign.
    for sample in read_all(PhantomReader("breast_ultrasound", train=40, test=0, seed=2, images_per_patient=1)):
        rows, columns = np.nonzero(sample.masks["lesion"])
        wide = bool(np.ptp(columns) > 1.15 * np.ptp(rows))
        below = np.s_[rows.max() + 4 : rows.max() + 24]
        middle, width = int(columns.mean()), int(np.ptp(columns))
        row = grey(sample)[below].mean(axis=0)
        beside = np.r_[row[max(0, middle - width - 25) : middle - width], row[middle + width : middle + width + 25]]
        behind[wide].append(row[middle - width // 4 : middle + width // 4].mean() - beside.mean())
    assert min(len(found) for found in behind.values()) > 8
    assert np.median(behind[True]) > 0
    assert np.median(behind[False]) < -12


def test_a_slice_in_hounsfield_units_is_the_one_that_is_windowed() -> None:
    for position in (0.0, 0.4, 1.0):
        shown = draw_abdominal_ct(np.random.default_rng(3), np.random.default_rng(4), position)
        units = draw_ct_units(np.random.default_rng(3), np.random.default_rng(4), position)
        assert np.array_equal(units.spleen, shown.masks["spleen"])
        levels = shown.image[:, :, 0]
        unclipped = (levels > 0) & (levels < 255)
        assert np.corrcoef(units.units[unclipped], levels[unclipped])[0, 1] > 0.9999


@pytest.mark.parametrize("position", [-0.3, -0.01, 1.01, 1.3])
def test_beyond_the_spleen_there_is_none(position: float) -> None:
    drawn = draw_ct_units(np.random.default_rng(3), np.random.default_rng(4), position)
    assert np.isfinite(drawn.units).all()
    assert not drawn.spleen.any()


def test_the_heart_empties_when_it_contracts() -> None:
    for patient in range(5):
        full, empty = (
            draw_cardiac_signal(np.random.default_rng(patient), np.random.default_rng(9), 0.3, squeeze)
            for squeeze in (0.0, 0.35)
        )
        assert empty.masks["left ventricle"].sum() < 0.65 * full.masks["left ventricle"].sum()


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_blobs_depth_is_the_distance_to_its_outline() -> None:
    plane = make_plane((120, 140), np.random.default_rng(0))
    depth = blob(plane, (6.0, -4.0), (38.0, 24.0), 0.4)
    angle = np.linspace(0, 2 * math.pi, 4000)
    u, v = 38 * np.cos(angle), 24 * np.sin(angle)
    x, y = 6 + math.cos(0.4) * u - math.sin(0.4) * v, -4 + math.sin(0.4) * u + math.cos(0.4) * v
    near = np.argwhere(np.abs(depth) < 3)
    exact = [np.hypot(plane.x[r, c] - x, plane.y[r, c] - y).min() for r, c in near]
    assert np.abs(np.abs(depth[tuple(near.T)]) - exact).max() < 0.5


def test_a_wobbled_blob_follows_its_harmonics_all_around() -> None:
    plane = make_plane((160, 160), np.random.default_rng(0))
    harmonics = ((2, 0.1, -0.05), (3, 0.0, 0.08), (5, -0.04, 0.03))
    inside = blob(plane, (0.0, 0.0), (50.0, 50.0), 0.0, harmonics) > 0
    for row, column in np.argwhere(np.ones_like(inside))[::37]:
        x, y = float(plane.x[row, column]), float(plane.y[row, column])
        direction = math.atan2(y, x)
        edge = 50 * (1 + sum(a * math.cos(k * direction) + b * math.sin(k * direction) for k, a, b in harmonics))
        if abs(math.hypot(x, y) - edge) > 0.01:
            assert inside[row, column] == (math.hypot(x, y) < edge)


def test_a_blob_outside_the_picture_leaves_it_empty() -> None:
    plane = make_plane((50, 60), np.random.default_rng(0))
    assert (blob(plane, (500.0, 0.0), (20.0, 20.0)) < 0).all()


def test_stamping_all_ellipses_at_once_equals_drawing_them_one_by_one() -> None:
    rng = np.random.default_rng(4)
    count, shape = 60, (70, 90)
    centres = rng.uniform((-5, -5), (95, 75), (count, 2))
    radii, angles, values = rng.uniform(1.5, 7, (count, 2)), rng.uniform(0, 3, count), rng.uniform(0.2, 1, count)
    quick = np.zeros(shape, dtype=np.float32)
    stamp(quick, centres, radii, angles, values)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    slow = np.zeros(shape)
    for (cx, cy), (long, short), angle, value in zip(centres, radii, angles, values, strict=True):
        u = (math.cos(angle) * (x - cx) + math.sin(angle) * (y - cy)) / long
        v = (math.cos(angle) * (y - cy) - math.sin(angle) * (x - cx)) / short
        share = np.clip((1 - np.hypot(u, v)) * min(long, short) / 1.2 + 0.5, 0, 1)
        slow = np.maximum(slow, value * share)
    np.testing.assert_allclose(quick, slow, atol=1e-5)


def test_smooth_noise_has_unit_variance_and_the_asked_scale() -> None:
    fields = [smooth_noise(np.random.default_rng(seed), (128, 96), 8.0) for seed in range(40)]
    assert abs(np.mean([field.var() for field in fields]) - 1) < 0.1
    assert abs(np.mean(fields)) < 0.05

    def correlation(lag: int) -> float:
        return float(np.mean([np.mean(field[:, lag:] * field[:, :-lag]) for field in fields]))

    assert correlation(1) > 0.97
    assert abs(correlation(32)) < 0.05


def test_a_plane_is_turned_moved_and_scaled_as_asked() -> None:
    plane: Plane = make_plane((21, 31), np.random.default_rng(0), zoom=2.0, rotation=math.pi / 2, shift=(3.0, 1.0))
    assert plane.shape == (21, 31)
    # The anatomy's centre lies 3 pixels to the right of and 1 below the picture's centre (row 10, column 15).
    assert plane.x[11, 18] == pytest.approx(0, abs=1e-6)
    assert plane.y[11, 18] == pytest.approx(0, abs=1e-6)
    assert plane.x[13, 18] == pytest.approx(1, abs=1e-6)
    assert plane.y[11, 20] == pytest.approx(-1, abs=1e-6)
