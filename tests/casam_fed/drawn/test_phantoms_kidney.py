"""The drawn kidney sections: reproducible, annotated as pathologists outline glomeruli, two groups close to each other."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from casam_fed.drawn.endoscopy import draw_endoscopy
from casam_fed.drawn.geometry import Phantom
from casam_fed.drawn.kidney import CLASSES, draw_kidney_56nx, draw_kidney_dn
from casam_fed.drawn.stained_tissue import draw_stained_tissue

GROUPS = {"56nx": draw_kidney_56nx, "dn": draw_kidney_dn}
PATIENTS = range(6)
Drawer = Callable[[np.random.Generator, np.random.Generator, float], Phantom]
Fields = dict[str, list[Phantom]]  # Of each group.
Depths = dict[str, list[npt.NDArray[np.float64]]]


def draw(drawer: Drawer, patient: int, image: int, position: float = 0.5) -> Phantom:
    return drawer(np.random.default_rng([1, patient]), np.random.default_rng([2, image]), position)


def place(group: str, patient: int) -> float:
    """Return where in the cortex a field lies, deep 0 or outer 1: one group's deep patients are the other's outer ones."""
    return float((patient + (group == "56nx")) % 2)


@pytest.fixture(scope="module")
def drawn() -> Fields:
    # Both groups from the same generators: what differs between them is the disease, not the luck of the draw.
    return {group: [draw(drawer, n, n, place(group, n)) for n in PATIENTS] for group, drawer in GROUPS.items()}


@pytest.fixture(scope="module")
def others() -> Fields:
    """The first patients again, in the same place, in the image that `drawn` has two patients later."""
    return {
        group: [draw(GROUPS[group], n, n + 2, place(group, n)) for n in PATIENTS[:count]]
        for group, count in (("56nx", 4), ("dn", 1))
    }


@pytest.fixture(scope="module")
def depths(drawn: Fields) -> Depths:
    """How deep every pixel lies in a glomerulus; what the field's border cuts goes on beyond it."""
    return {
        group: [ndimage.distance_transform_edt(np.pad(p.masks["glomerulus"], 1, mode="edge"))[1:-1, 1:-1] for p in ps]
        for group, ps in drawn.items()
    }


def grey(phantom: Phantom) -> npt.NDArray[np.float64]:
    return phantom.image.astype(np.float64).mean(axis=2)


def colour(phantoms: list[Phantom]) -> npt.NDArray[np.float64]:
    return np.mean([phantom.image.reshape(-1, 3).mean(axis=0) for phantom in phantoms], axis=0)


def whole(phantom: Phantom) -> list[npt.NDArray[np.bool_]]:
    """The glomeruli that the field's border does not cut."""
    labels = phantom.instances["glomerulus"]
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return [labels == number for number in range(1, labels.max() + 1) if number not in border]


@pytest.mark.parametrize("group", GROUPS)
def test_the_same_generators_give_the_same_bytes_and_others_do_not(group: str, drawn: Fields, others: Fields) -> None:
    first, again = drawn[group][0], draw(GROUPS[group], 0, 0, place(group, 0))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances["glomerulus"], again.instances["glomerulus"])
    assert not np.array_equal(others[group][0].image, first.image)  # The same patient, another image.
    assert not np.array_equal(others[group][0].image, drawn[group][2].image)  # The same image of another patient.


def test_fields_of_one_patient_share_their_stain(drawn: Fields, others: Fields) -> None:
    one, other = (
        np.array([np.median(field.image, axis=(0, 1)) for field in fields["56nx"]]) for fields in (drawn, others)
    )
    within = np.abs(one[: len(other)] - other).mean()
    between = np.abs(one[:, None] - other[None])[~np.eye(len(one), len(other), dtype=bool)].mean()
    assert within < 0.6 * between


def test_fields_have_the_agreed_size_types_and_class(drawn: Fields) -> None:
    for phantom in [*drawn["56nx"], *drawn["dn"]]:
        assert phantom.image.shape == (512, 512, 3)
        assert phantom.image.dtype == np.uint8
        assert tuple(phantom.masks) == tuple(phantom.instances) == CLASSES
        assert phantom.masks["glomerulus"].dtype == np.bool_
        assert phantom.instances["glomerulus"].dtype == np.int32


def test_instances_are_numbered_from_one_and_fill_the_mask_without_touching(drawn: Fields) -> None:
    for phantom in [*drawn["56nx"], *drawn["dn"]]:
        labels = phantom.instances["glomerulus"]
        assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
        assert np.array_equal(labels > 0, phantom.masks["glomerulus"])
        assert 1 <= labels.max() <= 4
        assert ndimage.label(labels > 0, structure=np.ones((3, 3)))[1] == labels.max()


def test_every_field_has_a_whole_round_glomerulus_of_40_pixels_or_more(drawn: Fields, depths: Depths) -> None:
    for group, phantoms in drawn.items():
        for phantom, depth in zip(phantoms, depths[group], strict=True):
            complete = whole(phantom)
            diameters = [2 * depth[mask].max() for mask in complete]
            assert max(diameters) >= 40
            for mask, diameter in zip(complete, diameters, strict=True):
                assert mask.sum() < 1.7 * np.pi * diameter**2 / 4


def test_glomeruli_lie_denser_in_the_outer_cortex(drawn: Fields) -> None:
    counts = {0.0: 0, 1.0: 0}
    for group, phantoms in drawn.items():
        for patient, phantom in zip(PATIENTS, phantoms, strict=True):
            counts[place(group, patient)] += int(phantom.instances["glomerulus"].max())
    # Every image lies deep in one group and outside in the other, so that it is their place alone that counts.
    assert counts[1.0] > 1.3 * counts[0.0]


def test_a_pale_space_parts_the_capsule_from_the_tuft(drawn: Fields, depths: Depths) -> None:
    for group, phantoms in drawn.items():
        steps = []
        for phantom, inside in zip(phantoms, depths[group], strict=True):
            mask, brightness = phantom.masks["glomerulus"], grey(phantom)
            outside = ndimage.distance_transform_edt(~mask)
            capsule = brightness[(inside <= 1) & (outside <= 1)].mean()
            space, tuft = brightness[(inside > 3) & (inside < 7)].mean(), brightness[inside > 14].mean()
            steps.append((space - capsule, space - tuft))
        assert (np.mean(steps, axis=0) > 8).all()


def test_tufts_are_crowded_with_nuclei(drawn: Fields, depths: Depths) -> None:
    for group, phantoms in drawn.items():
        shares = []
        for phantom, depth in zip(phantoms, depths[group], strict=True):
            mask, red = phantom.masks["glomerulus"], phantom.image[:, :, 0]
            nuclei = red < np.percentile(red, 6)
            shares.append((nuclei[depth > 12].mean(), nuclei[~mask].mean()))
        inside, outside = np.mean(shares, axis=0)
        assert inside > 1.3 * outside


def test_a_glomerulus_has_the_colours_of_its_surroundings(drawn: Fields) -> None:
    for phantom in [*drawn["56nx"], *drawn["dn"]]:
        mask, brightness = phantom.masks["glomerulus"], grey(phantom)
        assert abs(brightness[mask].mean() - brightness[~mask].mean()) < 0.8 * brightness[~mask].std()


def test_the_stain_is_magenta(drawn: Fields) -> None:
    for phantom in [*drawn["56nx"], *drawn["dn"]]:
        red, green, blue = colour([phantom])
        assert green < 0.9 * red
        assert green < 0.9 * blue


def test_the_groups_look_more_alike_than_like_other_colour_pictures(drawn: Fields) -> None:
    ours, theirs = colour(drawn["56nx"]), colour(drawn["dn"])
    between = np.linalg.norm(ours - theirs)
    for other in (draw_stained_tissue, draw_endoscopy):
        foreign = colour([draw(other, n, n) for n in PATIENTS])
        assert between < 0.7 * min(np.linalg.norm(foreign - ours), np.linalg.norm(foreign - theirs))


def test_the_groups_differ_as_the_diseases_do(drawn: Fields, depths: Depths) -> None:
    size, open_share, wide = {}, {}, {}
    for group, phantoms in drawn.items():
        complete = [
            (grey(phantom), depth, mask)
            for phantom, depth in zip(phantoms, depths[group], strict=True)
            for mask in whole(phantom)
        ]
        size[group] = np.mean([mask.sum() for _, _, mask in complete])
        tufts = [brightness[mask & (depth > 0.3 * np.sqrt(mask.sum() / np.pi))] for brightness, depth, mask in complete]
        open_share[group] = np.mean([(tuft > 190).mean() for tuft in tufts])
        lumens = [(grey(phantom) > 205) & ~phantom.masks["glomerulus"] for phantom in phantoms]
        wide[group] = np.mean([ndimage.binary_erosion(lumen, iterations=6).mean() for lumen in lumens])
    assert size["56nx"] > 1.1 * size["dn"]
    assert open_share["56nx"] > 1.1 * open_share["dn"]
    assert wide["56nx"] > 1.1 * wide["dn"]
