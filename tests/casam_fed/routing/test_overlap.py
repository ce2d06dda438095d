"""What a new router would take: honest neighbours stay within the limits, a router that claims everything does not."""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from casam_fed.backbone.preparation import prepare
from casam_fed.data.dataset import PhantomData, open_dataset
from casam_fed.errors import BankError, DataError, TrainingError
from casam_fed.routing import overlap
from casam_fed.routing.background import background_of
from casam_fed.routing.calibration import Threshold
from casam_fed.routing.gaussian import Background, GaussianStatistics
from casam_fed.routing.neighbours import Neighbours
from casam_fed.routing.overlap import LIMITS, Claim, OverlapLimits, OverlapTable, measure_overlap, probe_features
from casam_fed.routing.pooling import pool
from casam_fed.routing.state import RouterState, build_router, fit_routers
from casam_fed.routing.vae import vae_shapes

C = 8
BACKGROUND = Background(torch.zeros(C, dtype=torch.float64), torch.full((C,), 3.0, dtype=torch.float64))
KINDS = ("gaussian", "vae")
ANYTHING = Threshold(0.0, 1e12)


def noise(seed: int, count: int) -> Tensor:
    return torch.randn(count, C, generator=torch.Generator().manual_seed(seed))


def task_features(seed: int, count: int = 40) -> Tensor:
    """A task's images: a cloud around a place of its own."""
    return noise(seed, count) + 6 * noise(1000 + seed, 1)


PROBES = {
    "blank": torch.linspace(-40, 40, 24)[:, None].expand(24, C).contiguous(),
    "drawn": 3 * noise(99, 24),
}


@pytest.fixture(scope="module")
def states() -> dict[str, RouterState]:
    patients = [f"p{index // 2}" for index in range(40)]
    return {name: fit_routers(task_features(seed), patients, BACKGROUND) for seed, name in enumerate("abcd")}


@pytest.fixture(scope="module")
def bank(states) -> dict[str, RouterState]:
    return {name: states[name] for name in "abc"}


def measured(
    state: RouterState, bank: Mapping[str, RouterState], probes: Mapping[str, Tensor] = PROBES
) -> OverlapTable:
    return measure_overlap(Neighbours.of(bank, BACKGROUND).meet("new", state), probes)


def with_gaussian(state: RouterState, mean: Tensor, covariance: Tensor, limit: Threshold) -> RouterState:
    return replace(
        state,
        gaussian=GaussianStatistics(state.gaussian.count, mean, covariance),
        thresholds={**state.thresholds, "gaussian": limit},
    )


def with_thresholds(state: RouterState, **limits: Threshold) -> RouterState:
    return replace(state, thresholds={**state.thresholds, **limits})


def reconstructing_vae() -> dict[str, Tensor]:
    """A VAE that passes on every channel and whose KL is nothing: GELU is linear far from zero, latents are tiny."""
    state = {name: torch.zeros(shape) for name, shape in vae_shapes(C).items()}
    hidden, latent = state["encoder.bias"].numel(), state["mu_head.bias"].numel()
    state["encoder.weight"] = torch.eye(hidden, C)
    state["encoder.bias"] += 100.0
    state["mu_head.weight"] = torch.eye(latent, hidden) * 1e-3
    state["mu_head.bias"] -= 0.1
    state["decoder1.weight"] = torch.eye(hidden, latent) * 1e3
    state["decoder1.bias"] += 100.0
    state["decoder2.weight"] = torch.eye(C, hidden)
    state["decoder2.bias"] -= 100.0
    return state


def test_an_honest_task_takes_little(states, bank):
    table = measured(states["d"], bank)
    assert table.beyond() is None
    for kind in KINDS:
        own = table.kinds[kind].own
        assert list(table.kinds[kind].claimed) == ["task a", "task b", "task c", "probe blank", "probe drawn"]
        assert list(own) == ["task a", "task b", "task c", "task new"]
        assert own["task new"] > 0.8
        assert sum(own.values()) + table.kinds[kind].unknown == pytest.approx(1)


def test_the_first_task_of_a_bank_is_measured_too(states):
    table = measured(states["d"], {})
    assert table.beyond() is None
    claim = measured(with_thresholds(states["d"], vae=ANYTHING), {}).beyond()
    assert claim is not None
    assert (claim.kind, claim.share) == ("vae", 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_router_without_a_threshold_is_caught(states, bank, kind):
    claim = measured(with_thresholds(states["d"], **{kind: ANYTHING}), bank).beyond()
    assert claim is not None
    assert (claim.kind, claim.share) == (kind, 1.0)
    assert claim.source.startswith("probe")


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e12])
def test_a_router_with_a_giant_covariance_is_caught(states, bank, scale):
    """Its threshold is what its own images would have given: three standard deviations of their distance."""
    covariance = torch.eye(C, dtype=torch.float64) * scale
    limit = C * torch.log(torch.tensor(scale / 9)).item() + C + 3 * (2 * C) ** 0.5
    greedy = with_gaussian(states["d"], states["d"].gaussian.mean, covariance, Threshold(limit - 1, limit))
    claim = measured(greedy, bank).beyond()
    assert claim is not None
    assert claim.kind == "gaussian"
    assert claim.source.startswith("probe")


def test_a_router_that_describes_the_background_is_caught(states, bank):
    covariance = torch.diag(BACKGROUND.std.square())
    limit = Threshold(C, C + 3 * (2 * C) ** 0.5)
    claim = measured(with_gaussian(states["d"], BACKGROUND.mean, covariance, limit), bank).beyond()
    assert claim is not None
    assert (claim.kind, claim.source) == ("gaussian", "probe drawn")


def test_a_vae_that_reconstructs_everything_is_caught(states, bank):
    greedy = replace(with_thresholds(states["d"], vae=ANYTHING), vae=reconstructing_vae())
    table = measured(greedy, bank)
    assert table.kinds["vae"].claimed == dict.fromkeys(table.kinds["vae"].claimed, 1.0)
    assert table.worst == Claim("vae", "probe blank", 1.0)
    assert table.beyond() is not None


def test_a_router_that_silences_everybody_is_caught(states, bank):
    """It is nearest to every image and claims none, so that all of them are unknown."""
    silent = replace(with_thresholds(states["d"], vae=Threshold(-2.0, -1.0)), vae=reconstructing_vae())
    table = measured(silent, bank)
    assert set(table.kinds["vae"].claimed.values()) == {0.0}
    assert min(table.kinds["vae"].silenced.values()) > 0.8
    claim = table.beyond()
    assert claim is not None
    assert (claim.kind, claim.source) == ("vae", "all tasks")


def test_what_was_unknown_before_cannot_be_silenced(states, bank):
    silent = replace(with_thresholds(states["d"], vae=Threshold(-2.0, -1.0)), vae=reconstructing_vae())
    shy = {name: with_thresholds(state, vae=Threshold(-2.0, -1.0)) for name, state in bank.items()}
    assert set(measured(silent, shy).kinds["vae"].silenced.values()) == {0.0}


def test_a_sharper_copy_of_an_entry_is_caught(states, bank):
    """It takes the entry's images, as they lie nearer than the floor under the variances predicts."""
    victim = states["b"].gaussian
    copy = with_gaussian(states["d"], victim.mean, victim.covariance * 0.7, ANYTHING)
    claim = measured(copy, bank, {}).beyond()
    assert claim is not None
    assert (claim.kind, claim.source) == ("gaussian", "task b")
    scores = build_router("gaussian", [states["b"], copy], BACKGROUND).scores(task_features(1))
    assert (scores[:, 1] < scores[:, 0]).double().mean() > 0.75


def test_an_exact_copy_takes_nothing_because_the_first_task_wins(states, bank):
    table = measured(states["b"], bank)
    assert {claim.share for claim in table.claims if claim.source.startswith("task")} == {0.0}
    assert all(table.kinds[kind].own["task b"] > 0.8 for kind in KINDS)


def test_nothing_global_is_drawn_from(states, bank):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    measured(states["d"], bank)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_limits_apply_per_router_and_source():
    def table(claimed: dict[str, float], silenced: dict[str, float]) -> OverlapTable:
        quiet = overlap.KindOverlap(dict.fromkeys(claimed, 0.0), dict.fromkeys(silenced, 0.0), {}, 0.0)
        return OverlapTable("new", 64, 0, {"gaussian": quiet, "vae": overlap.KindOverlap(claimed, silenced, {}, 0.0)})

    limits = OverlapLimits({"gaussian": 0, "vae": 0.6}, {"gaussian": 0, "vae": 0.4}, {"gaussian": 0, "vae": 0.2})
    assert table({"task a": 0.6, "task b": 0.2, "probe blank": 0.2}, {"task a": 0, "task b": 0}).beyond(limits) is None
    assert table({"task a": 0.5, "task b": 0.0}, {"task a": 0.2, "task b": 0}).beyond(limits) == ("vae", "task a", 0.7)
    spread = table({"task a": 0.5, "task b": 0.25}, {"task a": 0, "task b": 0.25}).beyond(limits)
    assert spread == ("vae", "all tasks", 0.5)
    assert table({"probe blank": 0.25}, {}).beyond(limits) == ("vae", "probe blank", 0.25)


def test_a_table_survives_its_json(states, bank):
    table = measured(states["d"], bank)
    text = table.to_json()
    assert OverlapTable.from_json(text) == table
    assert text.isascii()
    assert json.loads(text)["kinds"]["vae"]["unknown"] == table.kinds["vae"].unknown


DAMAGE = {
    "empty": lambda text: "",
    "not json": lambda text: text[:-1],
    "spaces": lambda text: text.replace(":", ": "),
    "more in it": lambda text: text.replace("{", '{"more":1,', 1),
    "a share above one": lambda text: text.replace('"unknown":0', '"unknown":7', 1),
    "a negative share": lambda text: text.replace('"unknown":0', '"unknown":-0', 1).replace("-0.", "-5."),
    "not a number": lambda text: text.replace('"samples":64', '"samples":NaN'),
    "a number as text": lambda text: text.replace('"samples":64', '"samples":"64"'),
    "no samples": lambda text: text.replace('"samples":64', '"samples":0'),
    "another router": lambda text: text.replace('"vae":', '"oracle":'),
    "one router": lambda text: json.dumps(
        {**json.loads(text), "kinds": {"vae": json.loads(text)["kinds"]["vae"]}}, sort_keys=True, separators=(",", ":")
    ),
    "a source of another form": lambda text: text.replace('"task a"', '"task \\u001b[2J"'),
    "a source of no kind": lambda text: text.replace('"task a"', '"a"'),
    "a name with a slash": lambda text: text.replace('"new"', '"../new"'),
    "nested": lambda text: "[" * 100_000,
    "too long": lambda text: " " * (9 << 20),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_table_is_refused(states, bank, damage):
    text = measured(states["d"], bank).to_json()
    assert DAMAGE[damage](text) != text
    with pytest.raises(BankError):
        OverlapTable.from_json(DAMAGE[damage](text))


def test_what_has_no_scores_is_told_by_an_error_of_ours(states, bank):
    broken = {name: tensor.clone() for name, tensor in states["d"].vae.items()}
    broken["encoder.weight"][0, 0] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        measured(replace(states["d"], vae=broken), bank)
    flat = with_gaussian(states["d"], states["d"].gaussian.mean, torch.zeros(C, C, dtype=torch.float64), ANYTHING)
    with pytest.raises(TrainingError, match="without a usable spread"):
        measured(flat, bank)


def test_probes_are_features_of_some_dozen_images_and_always_the_same(tiny_backbone):
    probes = probe_features(tiny_backbone)
    assert {name: (tuple(each.shape), each.dtype) for name, each in probes.items()} == dict.fromkeys(
        ("blank", "noise", "drawn"), ((24, 32), torch.float32)
    )
    again = probe_features(tiny_backbone)
    for name, features in probes.items():
        assert torch.equal(features, again[name])
        assert torch.isfinite(features).all()
        assert len(features.unique(dim=0)) == 24


MODALITIES = ("cardiac_mr", "stained_tissue", "prostate_msd", "prostate_promise12")


@pytest.fixture(scope="module")
def honest(mini_backbone, tmp_path_factory) -> dict[str, RouterState]:
    """Four tasks of 12 drawn images, two of them sisters, through the backbone that ships."""
    background, square = background_of(mini_backbone), mini_backbone.geometry.image_size
    found = {}
    for seed, modality in enumerate(MODALITIES):
        folder = tmp_path_factory.mktemp(modality)
        dataset = open_dataset(PhantomData("phantom", modality, train=12, test=2, seed=seed), folder)
        images = [prepare(dataset.reader.read(record).image, square, "pad") for record in dataset.train]
        features = torch.cat([pool(mini_backbone.embed([image.pixels])) for image in images])
        found[modality] = fit_routers(features, [record.patient for record in dataset.train], background)
    return found


def test_honest_tasks_stay_within_the_limits_and_greedy_ones_do_not(honest, mini_backbone):
    background, probes = background_of(mini_backbone), probe_features(mini_backbone)
    for name, state in honest.items():
        others = {other: each for other, each in honest.items() if other != name}
        neighbours = Neighbours.of(others, background)
        table = measure_overlap(neighbours.meet(name, state), probes)
        assert table.beyond(LIMITS) is None
        for kind in KINDS:
            greedy = with_thresholds(state, **{kind: ANYTHING})
            claim = measure_overlap(neighbours.meet(name, greedy), probes).beyond()
            assert claim is not None
            assert claim.kind == kind
