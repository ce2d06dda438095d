"""How well a backbone segments without any task: box- and point-prompted IoU on images it was never trained on."""

from pathlib import Path

import numpy as np
import torch

from casam_fed.backbone.decoding import Prompts
from casam_fed.backbone.model import Backbone
from casam_fed.backbone.preparation import frame_of, prepare
from casam_fed.data.folder import open_folder
from casam_fed.data.prompts import central_point, targets_of, tight_box, tight_boxes
from casam_fed.drawn.label_maps import draw, draw_targets
from casam_fed.errors import DataError
from casam_fed.inference import metrics

__all__ = ["measure_drawn", "measure_instances"]

_SEED = 20261123
"""Of the drawn images; none that a pre-training is likely to be given."""

_TARGETS = 6
_AT_ONCE = 64


def measure_drawn(backbone: Backbone, images: int) -> tuple[float, float]:
    """Return the mean IoU on fresh drawn images, prompted by one tight box, and by one central point.

    Up to six targets an image; the mean over the targets of an image, then over images; at the drawn resolution.
    """
    by_box: list[float] = []
    by_point: list[float] = []
    for index in range(images):
        drawing = draw(_SEED, index, backbone.geometry.image_size)
        rng = np.random.default_rng((_SEED, 1, index))
        masks = draw_targets(drawing, _TARGETS, rng)
        if not len(masks):
            continue
        frame = frame_of(drawing.labels.shape, backbone.geometry.image_size, "pad")
        embedding = backbone.embed([drawing.image])
        rows = torch.zeros(len(masks), dtype=torch.int64)
        boxes = torch.from_numpy(np.stack([tight_box(mask) for mask in masks]))
        points = torch.from_numpy(np.stack([central_point(mask, rng) for mask in masks]))
        for prompts, scores in ((Prompts(rows, boxes=boxes), by_box), (Prompts(rows, points=points), by_point)):
            predicted = (frame.to_source(backbone.decode(embedding, prompts)[0]) > 0).cpu().numpy()
            scores.append(float(metrics.iou(predicted, masks).mean()))
    return float(np.mean(by_box)), float(np.mean(by_point))


def measure_instances(backbone: Backbone, folder: Path) -> tuple[float, float]:
    """Return the mean IoU on a folder's test images with one tight box per instance: over all, over the five largest.

    The folder holds instance labels as `open_folder` takes them; the mean over the instances of an image, then over
    images that have any; at the source resolution.

    Raises:
        DataError: the folder cannot be read, or no test image has an instance.
    """
    reader = open_folder(folder, ["object"], "instances")
    every, largest = [], []
    for record in reader.records():
        if record.split != "test":
            continue
        sample = reader.read(record)
        prepared = prepare(sample.image, backbone.geometry.image_size, "pad")
        targets = targets_of(sample, "instance")
        if not len(targets):
            continue
        boxes = torch.from_numpy(prepared.frame.boxes_to_square(tight_boxes(targets)))
        embedding = backbone.embed([prepared.pixels])
        scores, areas = [], []
        for start in range(0, len(targets), _AT_ONCE):
            chunk = boxes[start : start + _AT_ONCE]
            prompts = Prompts(torch.zeros(len(chunk), dtype=torch.int64), boxes=chunk)
            predicted = (prepared.frame.to_source(backbone.decode(embedding, prompts)[0]) > 0).cpu().numpy()
            truth = np.stack([targets.mask(start + index) for index in range(len(chunk))])
            scores.append(metrics.iou(predicted, truth))
            areas.append(truth.sum(axis=(1, 2)))
        values, order = np.concatenate(scores), np.argsort(-np.concatenate(areas), kind="stable")
        every.append(values.mean())
        largest.append(values[order[:5]].mean())
    if not every:
        raise DataError(f"no test image of {folder} has an instance to prompt; give a folder with instance masks")
    return float(np.mean(every)), float(np.mean(largest))
