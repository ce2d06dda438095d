"""An image and prompts in, masks and a route out; and evaluation scores just these masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from casam_fed.backbone.decoding import Prompts
from casam_fed.bank.card import Card
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import Release, pack
from casam_fed.config import MethodConfig
from casam_fed.data.phantoms import PhantomReader
from casam_fed.data.prompts import central_point, targets_of, tight_boxes
from casam_fed.errors import BankError, DataError
from casam_fed.inference.evaluation import Evaluator
from casam_fed.inference.metrics import boundary_iou, boundary_iou_casam, dice, iou
from casam_fed.inference.segmenter import Route, Segmenter, segmenter_for
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.task_data import TaskData, encode_task
from casam_fed.method.training import train_alignment
from casam_fed.routing.background import background_of
from casam_fed.routing.pooling import pool
from casam_fed.routing.state import RouterOptions, build_router, fit_routers
from casam_fed.wire.evaluation_report import RouteReport

CONFIG = MethodConfig(threads=1, epochs=1, min_steps=10, batch_size=4, masks_per_image=1)
TASKS = ("endoscopy", "abdominal-ct")
WAYS = ("gaussian", "vae")


class Trained:
    """A bank of two tasks of the mini SAM, and the test images of both."""

    def __init__(self, folder, backbone) -> None:
        self.backbone, self.store = backbone, EmbeddingStore(folder / "store", backbone)
        self.bank = LayerBank.create(folder / "bank", "mini", backbone.digest, background_of(backbone))
        self.readers = {task: PhantomReader(task.replace("-", "_"), 24, 4, seed=1) for task in TASKS}
        self.tests: dict[str, TaskData] = {}
        for task, reader in self.readers.items():
            # One by one, as a user's image is encoded: sums in a batch may differ in their last bits.
            for record in reader.records():
                if record.split == "test":
                    encode_task(reader, [record], self.store, CONFIG)
            train, self.tests[task] = (
                encode_task(
                    reader, [record for record in reader.records() if record.split == split], self.store, CONFIG
                )
                for split in ("train", "test")
            )
            self.bank.admit(self._release(task, train))

    def _release(self, task: str, data: TaskData) -> Release:
        layer = train_alignment(self.backbone, self.store, data, CONFIG, 0)
        features = torch.cat([pool(self.store.load([key])) for key in data.keys])
        routers = fit_routers(features, data.patients, self.bank.background, RouterOptions(vae_epochs=2))
        card = Card(
            site=task,
            task=task,
            modality=task,
            classes=self.readers[task].classes,
            unit="class",
            images=20,
            patients=10,
            backbone="mini",
            backbone_digest=self.backbone.digest,
            channels=128,
            blocks=CONFIG.blocks,
            start=CONFIG.start,
            hyperparameters={},
            seed=0,
        )
        return pack(layer.state_dict(), routers, card)

    def segmenter(self, router: str = "gaussian", **options) -> Segmenter:
        return Segmenter(self.backbone, LayerBank(self.bank.folder), router, **options)

    def evaluator(self, task: str) -> Evaluator:
        return Evaluator(self.readers[task], self.tests[task], self.store, CONFIG)

    def images(self, task: str):
        """The test images of a task with their true masks and boxes."""
        for image in self.tests[task].images:
            sample = self.readers[task].read(image.record)
            targets = targets_of(sample, CONFIG.unit)
            truth = np.stack([targets.mask(index) for index in range(len(targets))])
            yield sample.image, truth, tight_boxes(targets)

    def plain(self, image, boxes):
        """Plain SAM's masks, without Segmenter: the backbone alone, box by box."""
        embedding, frame = self.segmenter().embed(image)
        found = []
        for box in boxes:
            prompt = Prompts(
                torch.zeros(1, dtype=torch.int64), boxes=torch.from_numpy(frame.boxes_to_square(box[None]))
            )
            logits, _ = self.backbone.decode(embedding[None], prompt)
            found.append((frame.to_source(logits) > 0).numpy())
        return np.concatenate(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mini_backbone) -> Trained:
    return Trained(tmp_path_factory.mktemp("trained"), mini_backbone)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


BOXES = np.array([[10, 20, 90, 80], [0, 0, 159, 119], [40, 40, 40, 40]], dtype=np.float32)


def means(rows) -> list[float]:
    return np.mean(rows, axis=0).tolist()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("task", TASKS)
def test_evaluation_scores_the_masks_and_routes_that_a_user_gets(trained, task, way):
    segmenter = trained.segmenter(way)
    rows, chosen = [], []
    for image, truth, boxes in trained.images(task):
        masks, route = segmenter.segment(image, boxes)
        assert masks.shape == truth.shape
        rows.append([float(measure(masks, truth).mean()) for measure in (iou, dice, boundary_iou, boundary_iou_casam)])
        chosen.append(route.task or "unknown")
    report = trained.evaluator(task).routed(trained.segmenter(way))
    assert list(report.scores.values()) == means(rows)
    assert report.chosen == {name: chosen.count(name) for name in sorted(set(chosen))}
    assert sum(report.strengths) == report.images == len(chosen)


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_own_new_images_are_routed_to_it_and_take_its_layer(trained, task):
    segmenter, own = trained.segmenter(), []
    for image, _, boxes in trained.images(task):
        masks, route = segmenter.segment(image, boxes)
        assert route.nearest == task
        if route.task == task:
            assert route.strength <= 1
            embedding, frame = segmenter.embed(image)
            assert np.array_equal(masks, segmenter.masks(embedding, frame, boxes, task))
            own.append(not np.array_equal(masks, trained.plain(image, boxes)))
    assert len(own) >= 3
    assert any(own)


@pytest.mark.parametrize("way", WAYS)
def test_noise_is_unknown_and_gets_exactly_the_masks_of_plain_sam(trained, noise, way):
    masks, route = trained.segmenter(way).segment(noise, BOXES)
    assert route.task is None
    assert route.nearest in TASKS
    assert route.strength > 1
    assert masks.shape == (3, 120, 160)
    assert masks.dtype == np.bool_
    assert np.array_equal(masks, trained.plain(noise, BOXES))


def test_points_are_prompts_too(trained):
    segmenter, rng = trained.segmenter(), np.random.default_rng(0)
    scores: dict[bool, list[float]] = {True: [], False: []}
    for task in TASKS:
        for image, truth, _ in trained.images(task):
            points = np.stack([central_point(mask, rng) for mask in truth])
            elsewhere = np.stack([central_point(~mask, rng) for mask in truth])
            for there, clicks in ((True, points), (False, elsewhere)):
                masks, route = segmenter.segment(image, clicks)
                assert route.nearest == task
                scores[there] += iou(masks, truth).tolist()
    assert np.mean(scores[True]) > 2 * np.mean(scores[False])


def test_a_point_is_one_positive_click_on_its_pixel(trained, noise):
    clicks = np.array([[30, 50], [159, 119], [0, 0]])
    masks, _ = trained.segmenter().segment(noise, clicks)
    embedding, frame = trained.segmenter().embed(noise)
    on_square = torch.from_numpy((clicks + 0.5) * 256 / 160 - 0.5).float()
    prompts = Prompts(torch.zeros(3, dtype=torch.int64), points=on_square)
    logits, _ = trained.backbone.decode(embedding[None], prompts)
    assert np.array_equal(masks, (frame.to_source(logits) > 0).numpy())


def test_many_prompts_and_none_are_answered_one_by_one(trained, noise):
    segmenter = trained.segmenter()
    many = np.tile(BOXES, (50, 1))
    masks, _ = segmenter.segment(noise, many)
    assert masks.shape == (150, 120, 160)
    assert np.array_equal(masks[:3], masks[147:])
    for none in (BOXES[:0], np.zeros((0, 2))):
        assert segmenter.segment(noise, none)[0].shape == (0, 120, 160)


@pytest.mark.parametrize(
    "prompts",
    [
        [[10, 20, 160, 80]],
        [[10, 20, 90, 120]],
        [[-1, 20, 90, 80]],
        [[90, 20, 10, 80]],
        [[10, 20, 90, 80], [10, np.nan, 90, 80]],
        [[160, 3]],
        [[3, np.inf]],
        [[1, 2, 3]],
        [1, 2, 3, 4],
        [[[10, 20], [90, 80]]],
        [[]],
    ],
)
def test_prompts_that_are_not_in_the_image_are_refused_with_the_mend(trained, noise, prompts):
    with pytest.raises(DataError, match=r"do not fit an image of 160 x 120 pixels; give boxes .* x1 <= 159"):
        trained.segmenter().segment(noise, np.array(prompts, dtype=np.float32))


def test_in_an_empty_bank_everything_is_unknown(mini_backbone, tmp_path, noise, trained):
    empty = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, trained.bank.background)
    for way in WAYS:
        masks, route = Segmenter(mini_backbone, empty, way).segment(noise, BOXES)
        assert route == Route(None, None, float("inf"), float("inf"))
        assert np.array_equal(masks, trained.plain(noise, BOXES))


def test_a_bank_of_another_backbone_is_refused(tiny_backbone, trained):
    with pytest.raises(BankError, match=r"belongs to backbone mini .* not to tiny .*; load the backbone"):
        Segmenter(tiny_backbone, trained.bank, "gaussian")


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("way", WAYS)
def test_leaving_a_task_out_is_a_bank_it_never_joined(trained, tmp_path, way, seed):
    """Scores, routes and reports to the bit, and the segmenter it was taken from stays as it was."""
    alone = LayerBank.create(tmp_path / "bank", "mini", trained.backbone.digest, trained.bank.background)
    alone.admit(trained.bank.load("abdominal-ct"))
    segmenter, evaluator = trained.segmenter(way, seed=seed), trained.evaluator("endoscopy")
    before = segmenter.scores(evaluator.features)
    left, expected = segmenter.without("endoscopy"), Segmenter(trained.backbone, alone, way, seed=seed)
    assert left.tasks == expected.tasks == ("abdominal-ct",)
    assert torch.equal(left.scores(evaluator.features), expected.scores(evaluator.features))
    assert left.route(evaluator.features) == expected.route(evaluator.features)
    assert replace(evaluator.routed(left), decoded=0) == replace(evaluator.routed(expected), decoded=0)
    assert segmenter.tasks == TASKS
    assert torch.equal(segmenter.scores(evaluator.features), before)


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_of_the_released_routers_over_all_images_at_once(trained, way):
    states = [trained.bank.load(task).router for task in TASKS]
    features = trained.evaluator("endoscopy").features
    for seed in (None, 3):
        expected = build_router(way, states, trained.bank.background, seed).scores(features)
        assert torch.equal(trained.segmenter(way, seed=seed).scores(features), expected)


def test_both_routers_share_what_was_read_and_every_entry_is_read_once(trained, monkeypatch):
    segmenter, read = trained.segmenter(), []
    load = LayerBank.load
    monkeypatch.setattr(LayerBank, "load", lambda bank, task: read.append(task) or load(bank, task))
    evaluator = trained.evaluator("endoscopy")
    for way in WAYS:
        by = segmenter.by(way)
        assert by.router == way
        for kept in (by, *(by.without(task) for task in TASKS)):
            evaluator.routed(kept)
    assert segmenter.router == "gaussian"
    for task in TASKS:
        assert segmenter.layer(task) is segmenter.by("vae").layer(task)
    # Once for the routers, once for the layer.
    assert sorted(read) == sorted(2 * TASKS)


def test_a_user_gets_the_router_the_fit_and_the_sampling_that_the_method_names(trained, noise):
    plain = segmenter_for(CONFIG, trained.backbone, trained.bank)
    assert (plain.router, plain.fit, plain.seed) == ("gaussian", "pad", None)
    paper = replace(CONFIG, router="vae", fit="stretch", vae_sampled=True)
    authors = segmenter_for(paper, trained.backbone, trained.bank, seed=4)
    assert (authors.router, authors.fit, authors.seed) == ("vae", "stretch", 4)
    assert authors.embed(noise)[1].fitted == (256, 256)
    assert plain.embed(noise)[1].fitted == (192, 256)


def test_zero_shot_is_the_identity_and_the_oracle_takes_the_tasks_own_layer(trained):
    evaluator, segmenter = trained.evaluator("endoscopy"), trained.segmenter()
    zero_shot, oracle = evaluator.zero_shot(segmenter), evaluator.oracle(segmenter, "endoscopy")
    assert (zero_shot.chosen, oracle.chosen) == ({"unknown": 4}, {"endoscopy": 4})
    assert zero_shot.scores == evaluator.through(None).scores
    assert oracle.scores == evaluator.through(segmenter.layer("endoscopy")).scores
    assert zero_shot.scores != oracle.scores
    # Once it has gone, its own images are plain SAM's again.
    assert evaluator.oracle(segmenter.without("endoscopy"), "endoscopy").scores == zero_shot.scores


def test_scores_once_taken_are_kept_and_read_again(trained, tmp_path):
    task, segmenter = "endoscopy", trained.segmenter()

    def report() -> RouteReport:
        kept = tmp_path / "scores.json"
        return Evaluator(trained.readers[task], trained.tests[task], trained.store, CONFIG, kept).oracle(
            segmenter, task
        )

    first, again = report(), report()
    assert (first.decoded, again.decoded) == (4, 0)
    assert again == replace(first, decoded=0)


def test_a_comparison_shows_the_masks_that_are_scored(trained):
    evaluator, segmenter = trained.evaluator("endoscopy"), trained.segmenter()
    image, truth, boxes = next(trained.images("endoscopy"))
    compared = evaluator.compare(segmenter, evaluator.data.images[0], "endoscopy")
    embedding, frame = segmenter.embed(image)
    expected = (truth, trained.plain(image, boxes), segmenter.masks(embedding, frame, boxes, "endoscopy"))
    assert all(np.array_equal(a, b) for a, b in zip(compared, expected, strict=True))
