"""What the measurements say is what a slow and obvious computation says."""

import numpy as np
import pytest
import torch
from PIL import Image

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import prepare
from casam_fed.data.folder import open_folder
from casam_fed.errors import DataError
from simulations.mini_sam.measure import measure_drawn, measure_instances


def plain_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float((predicted & truth).sum() / (predicted | truth).sum())


def slowly(backbone: Backbone, image: np.ndarray, instances: np.ndarray) -> list[tuple[int, float]]:
    """Return area and IoU of every instance, prompted alone by its tight box."""
    prepared = prepare(image, 256, "pad")
    embedding = backbone.embed([prepared.pixels])
    scores = []
    for label in range(1, instances.max() + 1):
        truth = instances == label
        ys, xs = np.nonzero(truth)
        box = np.array([[xs.min(), ys.min(), xs.max(), ys.max()]], dtype=np.float32)
        prompts = Prompts(torch.tensor([0]), boxes=torch.from_numpy(prepared.frame.boxes_to_square(box)))
        logits = prepared.frame.to_source(backbone.decode(embedding, prompts)[0])
        scores.append((int(truth.sum()), plain_iou(logits[0].numpy() > 0, truth)))
    return scores


def test_instances_equal_one_instance_at_a_time(mini_backbone, blobs):
    """Also with more than five discs in an image, and with more squares than are decoded together."""
    rows, columns = np.mgrid[:48, :64]
    discs = np.zeros((48, 64), dtype=np.uint8)
    for label, (y, x, radius) in enumerate(
        [(9, 9, 6), (9, 30, 7), (9, 52, 5), (34, 9, 4), (34, 30, 8), (34, 52, 3)], 1
    ):
        discs[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = label
    squares = np.where((rows % 6 < 3 + rows // 24) & (columns % 6 < 4), rows // 6 * 11 + columns // 6 + 1, 0)
    for name, labels in (("discs", discs), ("squares", squares.astype(np.uint8))):
        Image.fromarray(labels).save(blobs / "test" / "masks" / f"{name}.png")
        Image.fromarray(np.where(labels > 0, 200, 50).astype(np.uint8)).save(blobs / "test" / "images" / f"{name}.png")

    every, largest, counts = [], [], []
    reader = open_folder(blobs, ["disc"], "instances")
    for record in reader.records():
        if record.split == "test":
            sample = reader.read(record)
            scores = slowly(mini_backbone, sample.image, sample.instances["disc"])
            every.append(np.mean([score for _, score in scores]))
            # Python's sort is stable: of equal areas the first stay first.
            largest.append(np.mean([score for _, score in sorted(scores, key=lambda pair: -pair[0])[:5]]))
            counts.append(len(scores))
    assert sorted(counts)[-2:] == [6, 88]
    every_measured, largest_measured = measure_instances(mini_backbone, blobs)
    assert every_measured == pytest.approx(np.mean(every), abs=2e-3)
    assert largest_measured == pytest.approx(np.mean(largest), abs=2e-3)
    assert abs(every_measured - largest_measured) > 4e-3


def test_bright_discs_on_a_dark_ground_are_easy(mini_backbone, blobs):
    assert min(measure_instances(mini_backbone, blobs)) > 0.6


def test_images_without_instances_are_left_out(mini_backbone, blobs):
    before = measure_instances(mini_backbone, blobs)
    for kind in ("images", "masks"):
        Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(blobs / "test" / kind / "empty.png")
    assert measure_instances(mini_backbone, blobs) == before


def test_a_folder_without_any_instance_to_measure_is_refused(mini_backbone, tmp_path):
    for split in ("train", "test"):
        for kind in ("images", "masks"):
            (tmp_path / split / kind).mkdir(parents=True)
            Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(tmp_path / split / kind / "empty.png")
    with pytest.raises(DataError, match=r"no test image of .* has an instance to prompt"):
        measure_instances(mini_backbone, tmp_path)


def test_drawn_images_give_the_same_numbers_every_time(mini_backbone):
    box, point = measure_drawn(mini_backbone, 4)
    assert (box, point) == measure_drawn(mini_backbone, 4)
    assert 0 <= point < box <= 1


def test_a_backbone_that_knows_nothing_scores_next_to_nothing(tiny_backbone):
    assert max(measure_drawn(tiny_backbone, 8)) < 0.3
