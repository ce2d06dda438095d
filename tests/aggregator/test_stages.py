"""A stream of sites through the real handlers: what is learned, what travels, and what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from aggregator.dialogue import Dialogue, meet
from aggregator.stages import StreamPlan, run_stream
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.config import MethodConfig
from casam_fed.data.dataset import FolderData, PhantomData
from casam_fed.errors import CasamError, ExchangeError
from casam_fed.inference.segmenter import Segmenter
from casam_fed.routing.background import background_of
from site_client.site import Site
from site_client.site_config import SiteConfig

from ..loopback import LoopbackGrid

METHOD = MethodConfig(threads=1, epochs=1, min_steps=4, batch_size=4, masks_per_image=1)
MODALITIES = ("endoscopy", "stained_tissue", "abdominal_ct")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def cache(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASAM_CACHE", str(folder / "cache"))
        yield folder / "cache"


def site_config(modality: str) -> SiteConfig:
    return SiteConfig(modality.replace("_", "-"), PhantomData("phantom", modality, train=6, test=2, seed=1))


class Streamed:
    """Three sites, run once for all tests of this module."""

    def __init__(self, folder: Path, backbone) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.sites: dict[str, Site] = {}
        configs = [site_config(modality) for modality in MODALITIES]
        self.grid = LoopbackGrid([lambda seed, config=config: self.site(config, seed) for config in configs])
        self.plan = StreamPlan(
            tuple(config.name for config in configs), (0,), "mini", backbone.digest, background_of(backbone), folder
        )
        self.collected = run_stream(self.grid, self.plan, self.said.append)["0"]
        self.bank = LayerBank(folder / "banks" / "seed-0")

    def site(self, config: SiteConfig, seed: int) -> Site:
        if config.name not in self.sites:
            path = self.folder / "sites" / config.name
            self.sites[config.name] = Site(config, METHOD, self.folder, path, seed, self.said.append)
        return self.sites[config.name]


@pytest.fixture(scope="module")
def streamed(folder, cache, mini_backbone):
    return Streamed(folder, mini_backbone)


def test_every_site_adds_one_entry_and_holds_the_same_bank_in_the_end(streamed):
    assert [entry.task for entry in streamed.bank.entries()] == list(streamed.plan.sites)
    assert streamed.collected["bank_digest"] == streamed.bank.snapshot().digest
    for site in streamed.sites.values():
        assert LayerBank(site.folder / "bank").snapshot().digest == streamed.bank.snapshot().digest


def test_every_stage_reports_every_task(streamed):
    assert [stage["task"] for stage in streamed.collected["stages"]] == list(streamed.plan.sites)
    for stage in streamed.collected["stages"]:
        assert list(stage["reports"]) == list(streamed.plan.sites)
    last = streamed.collected["stages"][-1]["reports"]
    assert all(set(report["without"]) == set(streamed.plan.sites) for report in last.values())


def test_before_a_task_joins_its_oracle_route_is_plain_sam_and_afterwards_its_layer(streamed):
    first = streamed.collected["stages"][0]["reports"]
    assert first["stained-tissue"]["oracle"] == first["stained-tissue"]["zero_shot"] | {"decoded": 0}
    assert first["endoscopy"]["oracle"]["scores"] != first["endoscopy"]["zero_shot"]["scores"]


def test_an_image_is_decoded_again_only_when_its_route_is_new(streamed):
    layers_met = dict.fromkeys(streamed.plan.sites, 0)
    for stage in streamed.collected["stages"]:
        for task, report in stage["reports"].items():
            ways = [report["zero_shot"], report["oracle"], report["gaussian"], report["vae"]]
            ways += [way for left_out in report["without"].values() for way in left_out.values()]
            layers_met[task] += sum(way["decoded"] for way in ways)
    for task, decoded in layers_met.items():
        kept = json.loads((streamed.sites[task].folder / "image-scores.json").read_text())
        assert decoded == len(kept) <= 2 * (1 + len(streamed.plan.sites))


def test_masks_of_earlier_sites_are_bit_identical_after_every_later_stage(streamed, mini_backbone, tmp_path):
    """The bank grows stage by stage; each time the oracle masks of all earlier sites are decoded anew."""
    bank = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, streamed.bank.background)
    seen: dict[str, list[np.ndarray]] = {}
    for entry in streamed.bank.entries():
        bank.admit(streamed.bank.load(entry.task))
        for task in [entry.task for entry in bank.entries()]:
            evaluator = streamed.sites[task]._evaluator()
            segmenter = Segmenter(mini_backbone, LayerBank(bank.folder), "gaussian")
            masks = [evaluator.compare(segmenter, image, task)[2] for image in evaluator.data.images]
            earlier = seen.setdefault(task, masks)
            assert all(np.array_equal(a, b) for a, b in zip(earlier, masks, strict=True))
    assert all(mask.any() for mask in seen["endoscopy"])


def test_retiring_a_task_changes_no_mask_of_the_others(streamed, mini_backbone, tmp_path):
    bank = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, streamed.bank.background)
    for entry in streamed.bank.entries():
        bank.admit(streamed.bank.load(entry.task))
    evaluator = streamed.sites["endoscopy"]._evaluator()
    image = evaluator.data.images[0]
    before = evaluator.compare(Segmenter(mini_backbone, bank, "gaussian"), image, "endoscopy")[2]
    bank.retire("stained-tissue")
    assert np.array_equal(evaluator.compare(Segmenter(mini_backbone, bank, "gaussian"), image, "endoscopy")[2], before)


def test_only_what_was_agreed_travels(streamed):
    """Nothing but the declared payloads goes up, and the only array is the release, equal to the entry in the bank."""
    allowed = {
        "query.hello": {"site", "task", "backbone_digest", "config_digest", "versions", "have", "outbox", "logs"},
        "train.submit": {"digest", "seconds", "statement"},
        "query.sync": {"bank_digest", "have", "logs"},
        "evaluate.stage": {"zero_shot", "oracle", "gaussian", "vae", "without", "seconds"},
    }
    releases = []
    for message in streamed.grid.received:
        kind = message.metadata.message_type
        payload = dict(message.content["payload"])
        assert list(payload) == ["json"]
        assert set(json.loads(payload["json"])) == allowed[kind]
        assert set(message.content) == ({"payload", "arrays"} if kind == "train.submit" else {"payload"})
        if kind == "train.submit":
            assert list(message.content["arrays"]) == ["release"]
            releases.append(message.content["arrays"]["release"].numpy().tobytes())
    assert [parse(release).digest for release in releases] == [entry.digest for entry in streamed.bank.entries()]


def test_a_site_is_sent_only_the_objects_it_lacks(streamed):
    sent: dict[int, list[str]] = {}
    for message in streamed.grid.sent:
        sent.setdefault(message.metadata.dst_node_id, []).extend(message.content.get("arrays") or {})
    for digests in sent.values():
        assert len(digests) == len(set(digests)) == 1 + len(streamed.plan.sites)


def test_a_submission_asked_for_again_is_the_same_release(streamed):
    """The outbox makes the exchange idempotent: nothing is trained twice, and the bank gives the entry it has."""
    dialogue, _ = meet(streamed.grid, streamed.plan.sites, 0, streamed.said.append)
    data, submission = dialogue.submit("endoscopy", 0)
    entry = streamed.bank.entries()[0]
    assert submission.digest == parse(data).digest == entry.digest
    assert streamed.bank.admit(parse(data)) == entry


def test_the_same_stream_gives_the_same_bank(streamed, mini_backbone, tmp_path):
    again = Streamed(tmp_path, mini_backbone)
    assert again.collected["bank_digest"] == streamed.collected["bank_digest"]


def test_embeddings_are_reused_across_runs(streamed, mini_backbone, tmp_path, cache):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")}
    site = Site(site_config("endoscopy"), METHOD, tmp_path, tmp_path / "site", 0, streamed.said.append)
    site.release()
    assert site.store.encoded == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.safetensors")} == before


def _failing(tmp_path: Path, config: SiteConfig, method: MethodConfig = METHOD) -> LoopbackGrid:
    return LoopbackGrid([lambda seed: Site(config, method, tmp_path, tmp_path / "site", seed, lambda text: None)])


def test_a_failing_site_sends_a_code_and_keeps_its_reason(tmp_path, caplog, cache):
    """The sentence names a folder of the hospital, so it must not travel."""
    secret = tmp_path / "patients-of-doctor-who"
    grid = _failing(tmp_path, SiteConfig("clinic", FolderData("folder", str(secret), ("polyp",))))
    with pytest.raises(ExchangeError, match="failed with DataError; that site's log says why"):
        meet(grid, ["clinic"], 0, lambda text: None)
    assert "doctor-who" in caplog.text
    assert all("doctor-who" not in str(dict(message.content["payload"])) for message in grid.received)


def test_training_that_fails_stops_the_stream_with_a_code(tmp_path, mini_backbone, cache):
    method = dataclasses.replace(METHOD, learning_rate=1e30)
    grid = _failing(tmp_path, site_config("endoscopy"), method)
    plan = StreamPlan(("endoscopy",), (0,), "mini", mini_backbone.digest, background_of(mini_backbone), tmp_path)
    with pytest.raises(ExchangeError, match="site endoscopy failed with TrainingError"):
        run_stream(grid, plan, lambda text: None)
    assert LayerBank(tmp_path / "banks" / "seed-0").entries() == []


def test_sites_that_are_not_expected_names_are_refused(tmp_path, cache):
    config = site_config("endoscopy")
    twins = LoopbackGrid([lambda seed: Site(config, METHOD, tmp_path, tmp_path / "site", seed, lambda text: None)] * 2)
    with pytest.raises(ExchangeError, match="two nodes say they are site endoscopy"):
        meet(twins, ["endoscopy", "other"], 0, lambda text: None)
    with pytest.raises(ExchangeError, match="no node says it is other"):
        meet(_failing(tmp_path, config), ["other"], 0, lambda text: None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"backbone_digest": "f" * 64}, "runs another backbone"), ({}, "do not share one method configuration")],
)
def test_sites_must_agree_on_backbone_and_method(tmp_path, mini_backbone, cache, change, reason):
    configs = [site_config("endoscopy"), site_config("abdominal_ct")]
    methods = [METHOD, METHOD if change else dataclasses.replace(METHOD, epochs=2)]
    grid = LoopbackGrid(
        [
            lambda seed, config=config, method=method: Site(
                config, method, tmp_path, tmp_path / config.name, seed, lambda text: None
            )
            for config, method in zip(configs, methods, strict=True)
        ]
    )
    plan = StreamPlan(
        tuple(config.name for config in configs),
        (0,),
        "mini",
        mini_backbone.digest,
        background_of(mini_backbone),
        tmp_path,
    )
    with pytest.raises(ExchangeError, match=reason):
        run_stream(grid, dataclasses.replace(plan, **change), lambda text: None)


def test_a_release_other_than_the_announced_one_is_refused(streamed, monkeypatch, tmp_path, mini_backbone):
    honest = Dialogue.submit

    def lying(self, site, seed):
        data, submission = honest(self, site, seed)
        return data, dataclasses.replace(submission, digest="0" * 64)

    monkeypatch.setattr(Dialogue, "submit", lying)
    with pytest.raises(CasamError, match="not the one it announced"):
        Streamed(tmp_path, mini_backbone)


def test_no_trainable_weight_comes_from_the_aggregator_before_training(streamed):
    """Up to its own submission a site receives only the background statistics and what earlier sites released."""
    first_submit = next(m for m in streamed.grid.sent if m.metadata.message_type == "train.submit")
    assert set(first_submit.content) == {"payload"}
    assert json.loads(first_submit.content["payload"]["json"]) == {
        "last": False,
        "logs": None,
        "receipt": None,
        "receipt_envelope": "",
        "seed": 0,
        "snapshot": "",
    }
