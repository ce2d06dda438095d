"""One layer for all tasks, learned task after task (sequential, ewc, lwf, er) or from all of them pooled (joint).

The same images, prompts, steps and seeds as the tasks' own layers have. After every stage the layer and what a method
remembers are kept in a file, so that a killed run goes on with the next stage.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from casam_fed.host.files import write_atomically
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.fitting import Penalty, adam, batch_at, fit, total_steps
from casam_fed.method.task_data import EncodedImage
from casam_fed.wire.evaluation_report import METRICS, RouteReport
from simulations.methods.outcome import Outcome, UnseenScores
from simulations.methods.regularisers import Consolidation, distillation, fisher_diagonal
from simulations.methods.replay import buffer_of, mixed_batch
from simulations.methods.tasks import StreamTask, StreamTasks

__all__ = ["learn_pooled", "learn_staged", "outcome_through", "plain_sam"]

Say = Callable[[str], None]


class _Stages:
    """The state of a staged run: the layer, what ewc remembers, and the scores of the stages that are done."""

    def __init__(self, layer: AlignmentLayer) -> None:
        self.layer = layer
        self.consolidation = Consolidation()
        self.done: list[dict[str, dict[str, float]]] = []
        self.seconds: dict[str, float] = {}

    def save(self, path: Path) -> None:
        tensors = {f"layer.{name}": tensor for name, tensor in self.layer.state_dict().items()}
        for part, values in (("precision", self.consolidation.precision), ("pull", self.consolidation.pull)):
            tensors |= {f"{part}.{name}": tensor for name, tensor in values.items()}
        record = json.dumps({"done": self.done, "seconds": self.seconds})
        data = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(path, save(data, {"record": record}))

    def resume(self, path: Path) -> None:
        """Go on from `path`; a file that is absent or damaged means starting anew, which gives the same numbers."""
        try:
            with safe_open(path, framework="pt") as file:
                record = json.loads((file.metadata() or {})["record"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            done, seconds = list(record["done"]), dict(record["seconds"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return
        device = next(self.layer.parameters()).device
        self.layer.load_state_dict(_part(tensors, "layer."))
        for part, values in (("precision.", self.consolidation.precision), ("pull.", self.consolidation.pull)):
            values |= {name: tensor.to(device) for name, tensor in _part(tensors, part).items()}
        self.done, self.seconds = done, seconds


def learn_staged(
    method: str, tasks: StreamTasks, order: Sequence[str], number: int, seed: int, checkpoint: Path, say: Say
) -> Outcome:
    """Learn the tasks one after another into one layer.

    Args:
        method: sequential, ewc, lwf or er.
        tasks: of the stream.
        order: task names.
        number: of the order.
        seed: of initialisation, order of images, masks and prompts.
        checkpoint: file that is written after every stage; the caller removes it when the outcome is kept.
        say: takes a sentence a stage.

    Raises:
        TrainingError: the loss is not finite.
        StorageError: the checkpoint cannot be written.
    """
    state = _Stages(_fresh_layer(tasks, seed))
    state.resume(checkpoint)
    for stage in range(len(state.done), len(order)):
        started = time.monotonic()
        joined = [tasks.by_name[name] for name in order[: stage + 1]]
        _learn_stage(method, tasks, state, joined, seed)
        state.seconds[joined[-1].site] = time.monotonic() - started
        # One task ahead too: forward transfer needs the score just before a task joins.
        scored = {name: tasks.by_name[name].evaluator.through(state.layer) for name in order[: stage + 2]}
        state.done.append({name: dict(report.scores) for name, report in scored.items()})
        state.save(checkpoint)
        mean = sum(state.done[-1][name]["iou"] for name in order[: stage + 1]) / (stage + 1)
        say(f"{order[stage]} learned, mean IoU of {stage + 1} tasks {mean:.3f}")
    matrix = tuple(tuple(row[name]["iou"] if name in row else None for name in order) for row in state.done)
    return _outcome(method, tasks, order, number, seed, state.layer, state.done[-1], matrix, state.seconds)


def learn_pooled(tasks: StreamTasks, seed: int, say: Say) -> Outcome:
    """Learn one layer from the images of all tasks pooled, with as many steps as all tasks together have."""
    layer, config = _fresh_layer(tasks, seed), tasks.config
    images = [image for task in tasks.by_name.values() for image in task.images]
    steps = sum(total_steps(len(task.images), config) for task in tasks.by_name.values())

    def images_of(step: int) -> list[EncodedImage]:
        return batch_at(images, step, config.batch_size, seed)

    def after(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0:
            say(f"step {step + 1} of {steps}, loss {loss:.3f}")

    started = time.monotonic()
    fit(tasks.backbone, tasks.store, layer, adam(layer, config), config, seed, range(steps), images_of, after=after)
    return outcome_through("joint", tasks, seed, layer, {"all sites pooled": time.monotonic() - started})


def outcome_through(
    row: str,
    tasks: StreamTasks,
    seed: int,
    layer: AlignmentLayer,
    seconds: Mapping[str, float],
    bytes_up: Mapping[str, int] | None = None,
) -> Outcome:
    """Return the outcome of a layer that was not learned task after task."""
    names = list(tasks.by_name)
    final = {name: dict(tasks.by_name[name].evaluator.through(layer).scores) for name in names}
    return _outcome(row, tasks, names, 0, seed, layer, final, None, seconds, bytes_up)


def plain_sam(tasks: StreamTasks, order: Sequence[str], number: int) -> Outcome:
    """Return the outcome of plain SAM: every stage scores alike."""
    final = {name: dict(tasks.zero_shot[name].scores) for name in order}
    matrix = (tuple(final[name]["iou"] for name in order),) * len(order)
    return _outcome("zero-shot", tasks, order, number, 0, None, final, matrix, {})


def _fresh_layer(tasks: StreamTasks, seed: int) -> AlignmentLayer:
    config = tasks.config
    return AlignmentLayer(tasks.backbone.geometry.channels, config.blocks, config.start, seed=seed).to(
        tasks.backbone.device
    )


def _learn_stage(method: str, tasks: StreamTasks, state: _Stages, joined: Sequence[StreamTask], seed: int) -> None:
    """Train the layer on the last of the tasks that have joined."""
    config, options, layer = tasks.config, tasks.stream.baselines, state.layer
    images, earlier = joined[-1].images, [task.images for task in joined[:-1]]
    buffer = buffer_of(earlier, options.er_images, seed) if method == "er" and earlier else []
    penalty: Penalty | None = None
    if method == "ewc" and earlier:
        penalty = state.consolidation.penalty(options.ewc_strength)
    if method == "lwf" and earlier:
        penalty = distillation(tasks.backbone, layer, options.lwf_strength, options.lwf_temperature)

    def images_of(step: int) -> list[EncodedImage]:
        return mixed_batch(images, buffer, step, config.batch_size, seed)

    steps = range(total_steps(len(images), config))
    fit(tasks.backbone, tasks.store, layer, adam(layer, config), config, seed, steps, images_of, penalty)
    if method == "ewc":
        fisher = fisher_diagonal(tasks.backbone, tasks.store, layer, images, config, seed)
        state.consolidation.learn(layer, fisher)


def _outcome(
    row: str,
    tasks: StreamTasks,
    order: Sequence[str],
    number: int,
    seed: int,
    layer: AlignmentLayer | None,
    final: Mapping[str, Mapping[str, float]],
    matrix: tuple[tuple[float | None, ...], ...] | None,
    seconds: Mapping[str, float],
    bytes_up: Mapping[str, int] | None = None,
) -> Outcome:
    answers = {
        name: tasks.unseen_zero_shot[name] if layer is None else evaluator.through(layer)
        for name, evaluator in tasks.unseen.items()
    }
    return Outcome(
        row=row,
        seed=seed,
        order=number,
        tasks=tuple(order),
        zero_shot={metric: {name: tasks.zero_shot[name].scores[metric] for name in order} for metric in METRICS},
        final={metric: {name: final[name][metric] for name in order} for metric in METRICS},
        matrix=matrix,
        unseen={name: _unseen(answer, tasks.unseen_zero_shot[name]) for name, answer in answers.items()},
        bytes_up=dict(bytes_up or {}),
        seconds=dict(seconds),
    )


def _unseen(answer: RouteReport, plain: RouteReport) -> UnseenScores:
    return UnseenScores(answer.images, answer.scores["iou"], plain.scores["iou"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
