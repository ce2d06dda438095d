"""Penalties of the shared layer, against slow and plain versions of themselves."""

import copy

import numpy as np
import pytest
import torch

from casam_fed.config import MethodConfig
from casam_fed.data.folder import open_folder
from casam_fed.method.alignment import AlignmentLayer
from casam_fed.method.embeddings import EmbeddingStore
from casam_fed.method.fitting import draw_batch, forward
from casam_fed.method.task_data import encode_task
from simulations.methods.regularisers import Consolidation, distillation, fisher_diagonal

CONFIG = MethodConfig(epochs=1, min_steps=2, batch_size=4, masks_per_image=2, threads=1, point_share=0.0)


@pytest.fixture
def store(tiny_backbone, tmp_path):
    return EmbeddingStore(tmp_path / "store", tiny_backbone)


@pytest.fixture
def images(blobs, store):
    reader = open_folder(blobs, ["disc"], "instances")
    return encode_task(reader, reader.records(), store, CONFIG).with_targets


def a_layer(seed: int) -> AlignmentLayer:
    return AlignmentLayer(32, blocks=1, start="paper", seed=seed)


def random_fisher(layer, seed):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(value.shape, generator=generator) for name, value in layer.named_parameters()}


def test_two_numbers_a_weight_pull_as_the_penalties_of_all_tasks_do():
    anchors = [a_layer(seed) for seed in (1, 2, 3)]
    fishers = [random_fisher(anchor, seed) for seed, anchor in enumerate(anchors)]
    memory = Consolidation()
    for anchor, fisher in zip(anchors, fishers, strict=True):
        memory.learn(anchor, fisher)
    layer = a_layer(4)
    fast = torch.autograd.grad(memory.penalty(7.0)(layer, None, None), list(layer.parameters()))
    slow = sum(
        3.5 * (fisher[name] * (parameter - dict(anchor.named_parameters())[name].detach()).square()).sum()
        for anchor, fisher in zip(anchors, fishers, strict=True)
        for name, parameter in layer.named_parameters()
    )
    for one, other in zip(fast, torch.autograd.grad(slow, list(layer.parameters())), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_where_a_single_task_was_learned_nothing_pulls():
    layer, memory = a_layer(1), Consolidation()
    memory.learn(layer, random_fisher(layer, 0))
    assert memory.penalty(100.0)(layer, None, None).item() == pytest.approx(0, abs=1e-9)
    assert memory.penalty(100.0)(a_layer(2), None, None).item() > 0


def test_a_weight_without_information_is_free():
    layer, memory = a_layer(1), Consolidation()
    memory.learn(layer, {name: torch.zeros_like(value) for name, value in layer.named_parameters()})
    assert memory.penalty(100.0)(a_layer(2), None, None).item() == 0


def test_the_fisher_diagonal_is_the_mean_square_of_single_image_gradients(tiny_backbone, store, images):
    layer = a_layer(1)
    found = fisher_diagonal(tiny_backbone, store, layer, images[:3], CONFIG, seed=5)
    expected = {name: torch.zeros_like(value) for name, value in layer.named_parameters()}
    for index in range(3):
        copied = copy.deepcopy(layer)
        loss, _ = forward(tiny_backbone, copied, draw_batch(store, [images[index]], CONFIG, rng_of(5, index)))
        loss.backward()
        for name, parameter in copied.named_parameters():
            expected[name] += parameter.grad**2 / 3
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-10) for name in expected)
    assert sum(value.sum() for value in found.values()) > 0


def rng_of(seed, index):
    return np.random.default_rng((seed, 5, index))


def test_distillation_pulls_a_layer_back_to_what_it_answered(tiny_backbone, store, images):
    layer = a_layer(1)
    penalty = distillation(tiny_backbone, layer, strength=2.0, temperature=2.0)
    batch = draw_batch(store, images[:2], CONFIG, np.random.default_rng(0))
    _, logits = forward(tiny_backbone, layer, batch)
    leaf = logits.detach().requires_grad_(True)
    at_home = penalty(layer, batch, leaf)
    (gradient,) = torch.autograd.grad(at_home, leaf)
    assert gradient.abs().max() < 1e-7
    away = (logits.detach() + 1.0).requires_grad_(True)
    farther = penalty(layer, batch, away)
    assert farther > at_home
    assert (torch.autograd.grad(farther, away)[0] > 0).all()


def test_distillation_keeps_the_layer_as_it_was(tiny_backbone, store, images):
    layer = a_layer(1)
    penalty = distillation(tiny_backbone, layer, 1.0, 1.0)
    batch = draw_batch(store, images[:2], CONFIG, np.random.default_rng(0))
    _, logits = forward(tiny_backbone, layer, batch)
    before = penalty(layer, batch, logits.detach()).item()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0)
    assert penalty(layer, batch, logits.detach()).item() == before
