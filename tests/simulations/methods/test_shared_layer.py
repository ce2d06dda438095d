"""One layer for all tasks: what it learns from, what it is scored on, and that a killed run goes on."""

import pytest
import torch

from casam_fed.method.fitting import total_steps
from casam_fed.method.task_data import TaskData
from casam_fed.method.training import train_alignment
from casam_fed.wire.evaluation_report import METRICS
from simulations.methods import shared_layer
from simulations.methods.shared_layer import learn_pooled, learn_staged, outcome_through, plain_sam

from .streams import METHOD, tiny_tasks

ORDER = ("heart", "scope")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder / "cache"))
        found = tiny_tasks(folder, er_images=3, ewc_strength=1e4)
        assert list(found.by_name) == ["heart", "scope"]
        yield found


def learn(method, tasks, path, seed=0, order=ORDER, say=lambda text: None):
    return learn_staged(method, tasks, order, 0, seed, path / "stage.safetensors", say)


def comparable(outcome):
    """The outcome without the seconds, which differ from run to run."""
    return {name: value for name, value in vars(outcome).items() if name != "seconds"}


@pytest.mark.parametrize("method", ["sequential", "ewc", "lwf", "er"])
def test_the_first_task_of_a_stream_gets_the_very_layer_that_casam_gives_it(tasks, tmp_path, method):
    images = tasks.by_name["heart"].images
    alone = train_alignment(tasks.backbone, tasks.store, TaskData(images, (), ()), METHOD, 0)
    expected = tasks.by_name["heart"].evaluator.through(alone).scores["iou"]
    assert learn(method, tasks, tmp_path).matrix[0][0] == expected


def test_the_methods_part_when_a_second_task_comes(tasks, tmp_path):
    found = {name: learn(name, tasks, tmp_path / name).matrix[1] for name in ("sequential", "ewc", "lwf", "er")}
    assert len(set(found.values())) == 4


@pytest.mark.parametrize("method", ["sequential", "ewc", "lwf", "er"])
def test_a_run_killed_between_stages_goes_on_to_the_same_numbers(tasks, tmp_path, method, monkeypatch):
    whole = learn(method, tasks, tmp_path / "whole")

    def die(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(method, tasks, tmp_path / "killed", say=die)
    trained = []
    fit = shared_layer.fit
    monkeypatch.setattr(shared_layer, "fit", lambda *args: (trained.append(1), fit(*args)))
    assert comparable(learn(method, tasks, tmp_path / "killed")) == comparable(whole)
    assert trained == [1]


def test_a_damaged_checkpoint_is_never_used(tasks, tmp_path):
    whole = learn("sequential", tasks, tmp_path / "whole")
    (tmp_path / "stage.safetensors").write_bytes(b"not safetensors")
    assert comparable(learn("sequential", tasks, tmp_path)) == comparable(whole)


def test_the_order_of_tasks_is_the_order_of_learning(tasks, tmp_path):
    turned = learn("sequential", tasks, tmp_path, order=ORDER[::-1])
    assert turned.tasks == ORDER[::-1]
    assert turned.matrix[0][0] == learn("sequential", tasks, tmp_path / "own", order=("scope",)).matrix[0][0]


def test_another_seed_gives_other_numbers(tasks, tmp_path):
    assert learn("er", tasks, tmp_path / "0").matrix != learn("er", tasks, tmp_path / "1", seed=1).matrix


def test_an_outcome_has_every_metric_of_every_task_and_the_unseen_set(tasks, tmp_path):
    outcome = learn("sequential", tasks, tmp_path)
    assert set(outcome.final) == set(METRICS)
    assert set(outcome.final["dice"]) == set(ORDER)
    assert outcome.unseen["ct"].images == 3
    assert outcome.unseen["ct"].unknown_rate is None
    assert set(outcome.seconds) == {"heart-centre", "scope"}
    assert outcome.scalars()["accuracy"] is None


def test_joint_takes_the_steps_of_all_tasks_on_the_images_of_all_tasks(tasks, monkeypatch):
    seen: list[str] = []
    draw = shared_layer.batch_at

    def watched(images, step, size, seed):
        chosen = draw(images, step, size, seed)
        seen.append(len(images))
        return chosen

    monkeypatch.setattr(shared_layer, "batch_at", watched)
    outcome = learn_pooled(tasks, 0, lambda text: None)
    sizes = [len(task.images) for task in tasks.by_name.values()]
    assert seen == [sum(sizes)] * sum(total_steps(size, METHOD) for size in sizes)
    assert outcome.matrix is None
    assert outcome.scalars()["ff"] is None


def test_plain_sam_forgets_nothing_and_gains_nothing(tasks):
    numbers = plain_sam(tasks, ORDER, 0).scalars()
    assert (numbers["ff"], numbers["fwt"]) == (0, 0)
    assert numbers["last"] == pytest.approx(sum(tasks.zero_shot[name].scores["iou"] for name in ORDER) / 2)


def test_a_layer_that_is_the_identity_scores_as_plain_sam_does(tasks):
    from casam_fed.method.alignment import AlignmentLayer

    layer = AlignmentLayer(tasks.backbone.geometry.channels)
    outcome = outcome_through("joint", tasks, 0, layer, {})
    assert outcome.final["iou"] == {name: tasks.zero_shot[name].scores["iou"] for name in ORDER}
    assert outcome.unseen["ct"].iou == outcome.unseen["ct"].zero_shot


def test_a_layer_learns_from_embeddings_without_the_encoder(tasks, tmp_path):
    def refuse(*_: object) -> None:
        raise AssertionError("the encoder ran")

    assert tasks.unseen_zero_shot  # Encodes the unseen set, once.
    hook = tasks.backbone.sam.image_encoder.register_forward_pre_hook(refuse)
    try:
        learn("lwf", tasks, tmp_path)
    finally:
        hook.remove()
    assert not any(parameter.requires_grad for parameter in tasks.backbone.sam.parameters())
    assert torch.get_num_threads() == 1
