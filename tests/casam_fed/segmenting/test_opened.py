"""A bank segments what is marked, as evaluation does, and says why it took the task that it took."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from casam_fed.bank.layer_bank import LayerBank
from casam_fed.data.prompts import targets_of, tight_boxes
from casam_fed.errors import BankError, ConfigError, DataError
from casam_fed.inference.segmenter import decode_masks
from casam_fed.segmenting.case import read_case
from casam_fed.segmenting.opened import bank_folder, open_bank

from .conftest import CONFIG


def evaluated(world, opened, task, image, boxes):
    """The masks that evaluation scores."""
    (embedding,) = world.store.load([image.key])
    layer = opened.segmenter.layer(task)
    return decode_masks(world.store.backbone, layer, embedding, image.frame, boxes, CONFIG.score_at)


def test_a_picture_from_its_file_has_the_masks_of_evaluation_to_the_bit(world, opened, tmp_path):
    path, record = world.picture(tmp_path)
    image = world.tests["polyp"].images[0]
    targets = targets_of(world.readers["polyp"].read(record), "class")
    boxes = tight_boxes(targets)
    given = {target.class_name: [box] for target, box in zip(targets.targets, boxes, strict=True)}
    found = opened.segment(path, boxes=given, task="polyp")
    for mask, expected in zip(found.masks.values(), evaluated(world, opened, "polyp", image, boxes), strict=True):
        assert mask.any()
        assert np.array_equal(mask, expected)


def test_a_volume_from_its_file_has_the_masks_of_evaluation_to_the_bit(world, opened):
    """Though its voxels lie in another order than its planes, and another intensity than its task's would show others."""
    reader = world.readers["organ"]
    images = world.tests["organ"].images
    path = reader._cases["case3"].image
    volume = read_case(path).volume
    boxes, expected = [], np.zeros(volume.planes.shape, dtype=bool)
    for image in images:
        z = int(image.record.id.rpartition("/")[2])
        sample = reader.read(image.record)
        (box,) = tight_boxes(targets_of(sample, "class"))
        expected[z] = evaluated(world, opened, "organ", image, box[None])[0]
        corners = np.argwhere(volume.to_source(_only(volume, z, sample.masks["organ"])))
        boxes.append((*corners.min(0), *corners.max(0)))
    assert len(boxes) == 4
    found = opened.segment(path, boxes={"organ": boxes}, task="organ")
    assert np.array_equal(found.masks["organ"], volume.to_source(expected))
    assert np.array_equal(volume.from_source(found.masks["organ"]), expected)


def _only(volume, z, mask):
    planes = np.zeros(volume.planes.shape, dtype=bool)
    planes[z] = mask
    return planes


def test_a_case_is_routed_by_the_mean_of_its_planes_and_as_in_training(world, opened):
    path = world.readers["organ"]._cases["case3"].image
    found = opened.segment(path, boxes={"organ": [(10, 10, 1, 30, 26, 4)]})
    mean = opened.segmenter.scores(world.evaluator("organ").features).mean(0)[opened.tasks.index("organ")]
    assert found.route.task == "organ"
    assert found.route.site == "organ-clinic"
    assert found.route.score == pytest.approx(float(mean), rel=1e-9)
    assert found.route.second == "polyp"
    assert found.route.bank == opened.digest
    assert found.route.entry == opened.segmenter.digests["organ"]
    assert found.route.why.startswith("organ of organ-clinic claims it: its score")


def test_evaluation_routes_a_volume_as_one_too_unless_told_otherwise(world, opened):
    found = {}
    for way in ("case", "image"):
        evaluator = world.evaluator("organ")
        evaluator.config = replace(evaluator.config, route_by=way)
        evaluator.features = evaluator.features.clone()
        evaluator.features[0] = 9.0  # A plane that is like nothing else.
        found[way] = evaluator.routed(opened.segmenter).chosen
    assert sorted(found["image"].items()) == [("organ", 3), ("unknown", 1)]
    assert list(found["case"].values()) == [4]


def test_noise_is_unknown_and_goes_to_plain_sam(opened):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    boxes = {"thing": [(20, 20, 70, 60)]}
    found = opened.segment(noise, boxes)
    assert found.route.task is None
    assert found.route.entry is None
    assert "no task knows this image" in found.route.why
    assert found.route.strength > 1
    assert np.array_equal(found.masks["thing"], opened.segment(noise, boxes, task="none").masks["thing"])


def test_a_user_overrules_the_router_and_is_told_what_it_said(opened):
    noise = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    found = opened.segment(noise, {"organ": [(20, 20, 70, 60)]}, task="organ")
    assert (found.route.task, found.route.chosen_by) == ("organ", "user")
    assert found.route.why.startswith("organ was asked for; the router says: no task knows this image")


def test_a_site_asks_its_own_task_first_and_the_others_where_that_says_unknown(world, tmp_path):
    path, _ = world.picture(tmp_path)
    boxes = {"polyp": [(30, 30, 120, 120)]}
    own = open_bank(world.run, device="cpu", own="polyp-clinic").segment(path, boxes).route
    assert "polyp of polyp-clinic, which is asked first, claims it" in own.why
    assert own.second is None
    others = open_bank(world.run, device="cpu", own="organ-clinic").segment(path, boxes).route
    assert others.task == "polyp"
    assert "asked first" not in others.why


def test_what_is_public_is_imported_when_it_is_asked_for():
    code = (
        "import sys, casam_fed; casam_fed.CasamError; assert 'torch' not in sys.modules; "
        "from casam_fed import open_bank; assert 'torch' in sys.modules; "
        "assert all(getattr(casam_fed, name) is not None for name in casam_fed.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_class_that_the_task_does_not_know_is_segmented_and_noted(world, opened, tmp_path):
    path, _ = world.picture(tmp_path)
    found = opened.segment(path, {"dog": [(30, 30, 120, 120)]}, task="polyp")
    assert any("not on dog" in note for note in found.notes)


def test_a_layer_that_has_gone_wrong_ends_in_plain_sam_and_a_note(world, opened, tmp_path, monkeypatch):
    path, _ = world.picture(tmp_path)
    boxes = {"polyp": [(30, 30, 120, 120)]}
    plain = opened.segment(path, boxes, task="none").masks["polyp"]
    for wrong in (math.nan, 1e9):
        monkeypatch.setattr(
            type(opened.segmenter), "aligned", lambda self, embedding, task, wrong=wrong: embedding + wrong
        )
        found = opened.segment(path, boxes, task="polyp")
        assert np.array_equal(found.masks["polyp"], plain)
        assert any("gave no usable embedding for 1 of 1 images" in note for note in found.notes)


def test_clicks_add_to_a_box_and_take_from_it(opened):
    image = np.full((100, 100, 3), 40, dtype=np.uint8)
    image[20:80, 20:80] = 200
    alone = opened.segment(image, {"a": [(15, 15, 85, 85)]}, task="none").masks["a"]
    clicked = opened.segment(image, points={"a": [(50, 50)]}, task="none").masks["a"]
    both = opened.segment(image, {"a": [(15, 15, 85, 85)]}, {"a": [(50, 50), (30, 30)]}, task="none").masks["a"]
    assert clicked[50, 50]
    assert alone[50, 50]
    assert both[50, 50]


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"boxes": {}}, DataError, "has no prompt, and SAM segments what is marked"),
        ({"boxes": {"a": [(0, 0, 300, 20)]}}, DataError, "outside the image of 120 x 90 pixels"),
        ({"boxes": {"a": [(30, 0, 10, 20)]}}, DataError, "inside out; give the lower corner first"),
        ({"boxes": {"a": [(1, 2, 3)]}}, DataError, "give (x0, y0, x1, y1)"),
        ({"boxes": {"a": [(0, 0, 0, 5, 5, 5)]}}, DataError, "has the axes x and y; give no z"),
        ({"points": {"a": [(math.nan, 1)]}}, DataError, "give (x, y)"),
        ({"boxes": {"a": [(0, 0, 5, 5)]}, "task": "orgn"}, ConfigError, "did you mean 'organ'?"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_one_sentence(opened, arguments, error, sentence):
    with pytest.raises(error, match=r"^[^\n]*$") as caught:
        opened.segment(np.zeros((90, 120), dtype=np.uint8), **arguments)
    assert sentence in str(caught.value)


def test_a_bank_is_found_in_the_folder_that_holds_it(world, tmp_path):
    place = world.run / "seed-0/aggregator/bank"
    assert bank_folder(world.run) == bank_folder(place.parent) == bank_folder(place) == place
    with pytest.raises(BankError, match="holds no bank; give the folder of a run"):
        bank_folder(tmp_path)
    (tmp_path / "site.yaml").touch()
    with pytest.raises(BankError, match="casam-site sync"):
        bank_folder(tmp_path)


def test_an_empty_bank_is_said_to_be_empty(world, tmp_path, mini_backbone):
    full = LayerBank(bank_folder(world.run))
    LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, full.background)
    with pytest.raises(BankError, match="has no task yet"):
        open_bank(tmp_path, device="cpu")
