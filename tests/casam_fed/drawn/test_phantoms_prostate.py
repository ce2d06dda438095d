"""The drawn prostates: reproducible, zoned as anatomy demands along the gland, two scanners close to each other."""

import math
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from casam_fed.drawn.abdominal_ct import draw_abdominal_ct
from casam_fed.drawn.cardiac_mr import draw_cardiac_mr
from casam_fed.drawn.geometry import Phantom
from casam_fed.drawn.prostate import (
    CLASSES,
    ProstateSlice,
    Scanner,
    draw_prostate_msd,
    draw_prostate_promise12,
    draw_prostate_slice,
)

SCANNERS: tuple[Scanner, ...] = get_args(Scanner)
DRAWERS = {"msd": draw_prostate_msd, "promise12": draw_prostate_promise12}
# Twelve patients, each scanned once.
PATIENTS = {"msd": range(6), "promise12": range(6, 12)}
POSITIONS = (0.0, 0.35, 0.65, 1.0)

Scans = dict[Scanner, list[list[ProstateSlice]]]  # Patients, and their slices at POSITIONS.


def generators(patient: int, position: float, image: int = 0) -> tuple[np.random.Generator, np.random.Generator]:
    own = np.random.default_rng([2, patient, image, round(100 * position) + 1000])
    return np.random.default_rng([1, patient]), own


def draw(patient: int, position: float, scanner: Scanner, image: int = 0) -> ProstateSlice:
    return draw_prostate_slice(*generators(patient, position, image), position, scanner)


@pytest.fixture(scope="module")
def patients() -> Scans:
    return {
        scanner: [[draw(patient, position, scanner) for position in POSITIONS] for patient in PATIENTS[scanner]]
        for scanner in SCANNERS
    }


@pytest.fixture(scope="module")
def slices(patients: Scans) -> list[ProstateSlice]:
    return [drawn for scanner in SCANNERS for patient in patients[scanner] for drawn in patient]


def look(phantoms: list[Phantom]) -> npt.NDArray[np.float64]:
    """Mean, spread and quantiles of grey, one row per picture."""
    pixels = [phantom.image[:, :, 0].astype(np.float64) for phantom in phantoms]
    return np.array([[p.mean(), p.std(), *np.percentile(p, (5, 25, 50, 75, 95))] for p in pixels])


def centre(mask: npt.NDArray[np.bool_]) -> tuple[float, float]:
    row, column = ndimage.center_of_mass(mask)
    return float(row), float(column)


@pytest.mark.parametrize("scanner", SCANNERS)
def test_the_same_generators_give_the_same_bytes_and_others_do_not(scanner: Scanner, patients: Scans) -> None:
    patient, position = PATIENTS[scanner][0], POSITIONS[1]
    first, again = patients[scanner][0][1], draw(patient, position, scanner)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in ("t2", "adc", "zones"))
    assert not np.array_equal(first.t2, draw(patient, position, scanner, image=1).t2)
    assert not np.array_equal(first.zones, patients[scanner][1][1].zones)


def test_slices_have_the_agreed_types_and_scanner_units(slices: list[ProstateSlice]) -> None:
    for drawn in slices:
        assert (drawn.t2.dtype, drawn.adc.dtype, drawn.zones.dtype) == (np.float32, np.float32, np.uint8)
        assert drawn.t2.shape == drawn.adc.shape == drawn.zones.shape
        assert np.isfinite(drawn.t2).all()
        assert drawn.t2.min() >= 0
        assert np.isfinite(drawn.adc).all()
        assert drawn.adc.min() >= 0
        assert drawn.adc.max() < 4000


def test_all_slices_of_a_patient_have_one_size_and_only_promise12_sizes_differ(
    patients: Scans,
) -> None:
    sizes = {scanner: [{drawn.t2.shape for drawn in patient} for patient in patients[scanner]] for scanner in SCANNERS}
    assert all(len(size) == 1 for scanner in SCANNERS for size in sizes[scanner])
    assert set.union(*sizes["msd"]) == {(256, 256)}
    assert len(set.union(*sizes["promise12"])) > 1
    assert all(240 <= side <= 288 for shape in set.union(*sizes["promise12"]) for side in shape)


@pytest.mark.parametrize("scanner", SCANNERS)
def test_there_is_a_prostate_from_base_to_apex_and_none_beyond(scanner: Scanner, patients: Scans) -> None:
    for patient, position in zip(PATIENTS[scanner][:4], (-0.8, -0.01, 1.01, 1.8), strict=True):
        drawn = draw(patient, position, scanner)
        assert np.isfinite(drawn.t2).all()
        assert not drawn.zones.any()
    for zones in (drawn.zones for patient in patients[scanner] for drawn in patient):
        assert set(np.unique(zones)) == {0, 1, 2}
        assert min((zones == 1).mean(), (zones == 2).mean()) > 0.001


def test_both_zones_together_are_one_outline_without_holes(slices: list[ProstateSlice]) -> None:
    for drawn in slices:
        prostate = drawn.zones > 0
        assert ndimage.label(prostate)[1] == 1
        assert np.array_equal(ndimage.binary_fill_holes(prostate), prostate)
        assert ndimage.label(drawn.zones == 2)[1] == 1
        assert 0.01 < prostate.mean() < 0.2


def test_the_peripheral_zone_is_a_crescent_behind_the_transition_zone(slices: list[ProstateSlice]) -> None:
    for drawn in slices:
        peripheral, transition = drawn.zones == 1, drawn.zones == 2
        assert centre(peripheral)[0] > centre(transition)[0] + 4
        touching = ndimage.binary_dilation(transition) & peripheral
        assert touching.sum() > 0.3 * (ndimage.binary_dilation(transition) & ~transition).sum()
        # A crescent reaches around: it is wider than what it embraces.
        assert np.ptp(np.nonzero(peripheral)[1]) > np.ptp(np.nonzero(transition)[1])


def test_the_gland_tapers_and_the_peripheral_zone_takes_over_towards_the_apex(
    patients: Scans,
) -> None:
    for scanner in SCANNERS:
        area = np.array([[(drawn.zones > 0).sum() for drawn in patient] for patient in patients[scanner]])
        share = np.array(
            [[(drawn.zones == 2).sum() / (drawn.zones > 0).sum() for drawn in patient] for patient in patients[scanner]]
        )
        assert (area[:, -1] < 0.7 * area.max(axis=1)).all()
        assert (share[:, 1] > share[:, 2]).all()
        assert (share[:, 2] > share[:, 3]).all()
        assert share[:, -1].mean() < 0.3 < 0.45 < share[:, 0].mean()


def test_the_peripheral_zone_is_brighter_than_the_transition_zone_and_the_pelvic_muscles(
    slices: list[ProstateSlice],
) -> None:
    for drawn in slices:
        peripheral = np.median(drawn.t2[drawn.zones == 1])
        assert peripheral > 1.25 * np.median(drawn.t2[drawn.zones == 2])
        assert peripheral > 1.7 * np.percentile(drawn.t2, 15)


def test_water_diffuses_as_it_does_in_prostates(slices: list[ProstateSlice]) -> None:
    for drawn in slices:
        peripheral, transition = (float(np.median(drawn.adc[drawn.zones == zone])) for zone in (1, 2))
        assert 1400 < peripheral < 2000
        assert 1000 < transition < 1600
        assert peripheral > transition + 100


def test_a_bright_bladder_of_free_water_lies_in_front_above_the_base_only(
    patients: Scans,
) -> None:
    for patient in range(4):
        above, middle = draw(patient, -0.2, "msd"), patients["msd"][patient][2]
        urine = above.adc > 2400
        assert urine.mean() > 0.01
        assert centre(urine)[0] < above.t2.shape[0] / 2
        assert above.t2[urine].mean() > 1.5 * above.t2.mean()
        assert (middle.adc > 2400).mean() < 0.002


def test_about_every_second_patient_has_a_dark_focus_of_low_diffusion_in_the_peripheral_zone(
    patients: Scans,
) -> None:
    ill = 0
    for patient in (*patients["msd"], *patients["promise12"]):
        lowest = []
        for drawn in patient[1:3]:
            core = ndimage.binary_erosion(drawn.zones == 1, iterations=3)
            lowest.append(float(np.percentile(ndimage.gaussian_filter(drawn.adc, 2)[core], 1)))
        ill += min(lowest) < 1150
    assert 3 <= ill <= 9


def test_an_endorectal_coil_makes_what_lies_near_the_rectum_bright_in_some_promise12_patients(
    patients: Scans,
) -> None:
    ratios: dict[Scanner, list[float]] = {}
    for scanner in SCANNERS:
        middles = [patient[1] for patient in patients[scanner]]
        ratios[scanner] = [float(np.median(m.t2[m.zones == 1]) / np.median(m.t2)) for m in middles]
    assert max(ratios["msd"]) < 3.2
    assert 1 <= sum(ratio > 3.2 for ratio in ratios["promise12"]) <= len(ratios["promise12"]) / 2 + 1


@pytest.mark.parametrize("scanner", SCANNERS)
def test_the_windowed_picture_is_grey_and_has_the_zones_as_masks(scanner: Scanner, patients: Scans) -> None:
    patient, position, drawn = PATIENTS[scanner][5], POSITIONS[1], patients[scanner][5][1]
    phantom = DRAWERS[scanner](*generators(patient, position), position)
    assert tuple(phantom.masks) == CLASSES
    assert phantom.instances == {}
    assert phantom.image.dtype == np.uint8
    assert (phantom.image == phantom.image[:, :, :1]).all()
    for number, name in enumerate(CLASSES, start=1):
        assert np.array_equal(phantom.masks[name], drawn.zones == number)
    order = np.argsort(drawn.t2, axis=None)
    assert (np.diff(phantom.image[:, :, 0].ravel()[order].astype(int)) >= 0).all()
    assert phantom.image.max() == 255


def test_the_scanners_look_more_alike_than_like_other_grey_pictures() -> None:
    drawers = {**DRAWERS, "cardiac": draw_cardiac_mr, "ct": draw_abdominal_ct}
    looks = {
        name: look([drawer(np.random.default_rng([6, n]), np.random.default_rng([7, n]), 0.5) for n in range(4)])
        for name, drawer in drawers.items()
    }
    everything = np.concatenate(list(looks.values()))
    means = {name: table.mean(axis=0) / everything.std(axis=0) for name, table in looks.items()}
    between = math.dist(means["msd"], means["promise12"])
    assert between > 0.1
    for other in ("cardiac", "ct"):
        for scanner in SCANNERS:
            assert between < 0.85 * math.dist(means[scanner], means[other])
