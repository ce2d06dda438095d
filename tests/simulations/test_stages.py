"""A stream through the real handlers of aggregator and sites: what is learned, what travels, and what is refused."""

import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from aggregator.decisions import Decisions
from aggregator.home import Home
from casam_fed.bank.layer_bank import LayerBank
from casam_fed.bank.release import parse
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.errors import ExchangeError, SimulationError
from casam_fed.host.locks import only_one
from casam_fed.inference.segmenter import Segmenter
from casam_fed.routing.background import background_of
from casam_fed.wire.exchange import HELLO, LOG, Logs, Request, encode_json
from simulations.flower_components import make_simulated_client_app
from simulations.founding import Federation
from simulations.nodes import LEARN, LOOK, NAME, meet
from simulations.run_folder import SeedFolder
from simulations.stages import run_seeds
from simulations.verified import verified
from site_client.outbox import Outbox
from site_client.release_log import ReleaseLog
from site_client.work import SiteWork

from ..loopback import context_of
from ..simulated import Simulated, phantom

SITES = [phantom(modality) for modality in ("endoscopy", "stained_tissue", "abdominal_ct")]
NAMES = [site["name"] for site in SITES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def streamed(folder, cache):
    """Three sites, run once for all tests of this module."""
    return Simulated(folder, SITES).finish()


@pytest.fixture(scope="module")
def collected(streamed):
    return streamed.collected[0]


@pytest.fixture(scope="module")
def home(streamed):
    return Home(streamed.run.folder.seed(0).aggregator)


@pytest.fixture(scope="module")
def bank(home):
    return LayerBank(home.bank)


@pytest.fixture(scope="module")
def works(streamed, folder, cache):
    """The sites' work, in their own folders."""
    method = streamed.run.stream.method
    return {
        site.name: SiteWork(site, method, folder, streamed.site(site.name).work, 0, lambda text: None)
        for site in streamed.run.stream.sites
    }


def test_every_site_adds_one_entry_and_holds_the_same_bank_in_the_end(streamed, collected, bank):
    assert [entry.task for entry in bank.entries()] == NAMES
    assert collected["bank_digest"] == bank.snapshot().digest
    assert {read_snapshot(streamed.site(name).bank).digest for name in NAMES} == {bank.snapshot().digest}


def test_the_bank_is_made_of_the_releases_that_the_sites_train_without_flower(
    streamed, collected, mini_backbone, tmp_path, cache
):
    alone = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, background_of(mini_backbone))
    for site in streamed.run.stream.sites:
        work = SiteWork(site, streamed.run.stream.method, tmp_path, tmp_path / site.name, 0, lambda text: None)
        digest = work.train().digest
        alone.admit(parse((work.folder / "outbox" / f"{digest}.safetensors").read_bytes()))
    assert alone.snapshot().digest == collected["bank_digest"]


def test_every_stage_reports_every_task(collected):
    assert [stage["task"] for stage in collected["stages"]] == NAMES
    for stage in collected["stages"]:
        assert list(stage["reports"]) == NAMES


def test_before_a_task_joins_its_oracle_route_is_plain_sam_and_afterwards_its_layer(collected):
    first = collected["stages"][0]["reports"]
    assert first["stained-tissue"]["oracle"] == first["stained-tissue"]["zero_shot"] | {"decoded": 0}
    assert first["endoscopy"]["oracle"]["scores"] != first["endoscopy"]["zero_shot"]["scores"]


def test_an_image_is_decoded_again_only_when_its_route_is_new(streamed, collected):
    layers_met = dict.fromkeys(NAMES, 0)
    for stage in collected["stages"]:
        for task, report in stage["reports"].items():
            layers_met[task] += sum(report[way]["decoded"] for way in ("zero_shot", "oracle", "gaussian", "vae"))
    for task, left_out in collected["left_out"].items():
        layers_met[task] += sum(report["decoded"] for ways in left_out.values() for report in ways.values())
    for task, decoded in layers_met.items():
        kept = json.loads((streamed.site(task).seeded / "image-scores.json").read_text())
        assert decoded == len(kept) <= 2 * (1 + len(NAMES))


def test_masks_of_earlier_sites_are_bit_identical_after_every_later_stage(works, bank, mini_backbone, tmp_path):
    """The bank grows stage by stage; each time the oracle masks of all earlier sites are decoded anew."""
    growing = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, bank.background)
    seen: dict[str, list[np.ndarray]] = {}
    for entry in bank.entries():
        growing.admit(bank.load(entry.task))
        for task in [entry.task for entry in growing.entries()]:
            evaluator = works[task].evaluator()
            segmenter = Segmenter(mini_backbone, LayerBank(growing.folder), "gaussian")
            masks = [evaluator.compare(segmenter, image, task)[2] for image in evaluator.data.images]
            earlier = seen.setdefault(task, masks)
            assert all(np.array_equal(a, b) for a, b in zip(earlier, masks, strict=True))
    assert all(mask.any() for mask in seen["endoscopy"])


def test_retiring_a_task_changes_no_mask_of_the_others(works, bank, mini_backbone, tmp_path):
    smaller = LayerBank.create(tmp_path / "bank", "mini", mini_backbone.digest, bank.background)
    for entry in bank.entries():
        smaller.admit(bank.load(entry.task))
    evaluator = works["endoscopy"].evaluator()
    image = evaluator.data.images[0]
    before = evaluator.compare(Segmenter(mini_backbone, smaller, "gaussian"), image, "endoscopy")[2]
    smaller.retire("stained-tissue")
    assert np.array_equal(
        evaluator.compare(Segmenter(mini_backbone, smaller, "gaussian"), image, "endoscopy")[2], before
    )


def test_only_what_was_agreed_travels(streamed, bank):
    """Nothing but the declared payloads goes up, and the only array is the release, equal to the entry in the bank."""
    allowed = {
        "query.hello": {"site", "task", "backbone_digest", "config_digest", "versions", "have", "outbox", "logs"},
        "train.submit": {"digest", "seconds", "statement"},
        "query.sync": {"bank_digest", "have", "logs"},
        "evaluate.stage": {"zero_shot", "oracle", "gaussian", "vae", "seconds"},
        NAME: {"site"},
        LEARN: {"site"},
        LOOK: {"site"},
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
    assert [parse(release).digest for release in releases] == [entry.digest for entry in bank.entries()]


def test_a_site_is_sent_only_the_objects_it_lacks(streamed):
    sent: dict[int, list[str]] = {}
    for message in streamed.grid.sent:
        objects = [name for name in message.content.get("arrays") or {} if name != LOG]
        sent.setdefault(message.metadata.dst_node_id, []).extend(objects)
    for digests in sent.values():
        assert len(digests) == len(set(digests)) == 1 + len(NAMES)


def test_nothing_but_questions_reaches_a_site_before_it_has_trained(streamed):
    """Up to its own submission a site receives only what others have released: no weight to train from."""
    submit = next(m for m in streamed.grid.sent if m.metadata.message_type == "train.submit")
    assert set(submit.content) == {"payload"}
    assert json.loads(submit.content["payload"]["json"]) == {"logs": None, "receipt": None, "receipt_envelope": ""}


def test_every_party_has_logged_and_an_auditor_verifies_all_of_it(streamed, collected, home):
    assert collected["verified"] == "verified: 4 exports (bank, 3 sites)"
    events = list(ReleaseLog(streamed.site("endoscopy")).events())
    assert [event.event for event in events[:2]] == ["began", "approved"]
    assert events[1].facts["approved"] == "option"
    assert any(event.event == "receipt" for event in events)
    # Messages that never were on a wire have no digest there, and nobody can say that they were sent.
    intents = [event for event in events if event.event == "intent"]
    assert {(event.facts["request"], str(event.facts["objects"])) for event in intents} == {("", "[]")}
    assert not any(event.event == "sent" for event in events)


def test_what_an_auditor_would_not_verify_stops_the_run_with_the_auditors_code(streamed, home, tmp_path):
    sites = {name: streamed.site(name) for name in NAMES}
    statement = next((sites["endoscopy"].audit / "statements").iterdir())
    before = statement.read_bytes()
    statement.unlink()
    try:
        with pytest.raises(SimulationError, match=r"site-endoscopy does not verify \[statement-missing\]: "):
            verified(SeedFolder(tmp_path), Federation(home, sites))
    finally:
        statement.write_bytes(before)


def test_admission_decided_by_rule_and_its_code_and_overlap_are_kept(collected):
    assert [(each["task"], each["outcome"], each["code"], each["by"]) for each in collected["admissions"]] == [
        (name, "admitted", "A001", "rule") for name in NAMES
    ]
    assert {"kind", "source", "share"} == set(collected["admissions"][-1]["overlap"])


def test_the_device_of_every_site_is_told(collected):
    assert collected["devices"] == dict.fromkeys(NAMES, "cpu")


def test_what_only_a_researcher_sees_is_in_the_folder_of_the_run(streamed, collected):
    assert list(collected["left_out"]) == NAMES
    assert all(list(left_out) == NAMES for left_out in collected["left_out"].values())
    assert collected["counts"] == {name: {"train": 6, "test": 2} for name in NAMES}
    assert all("drawn phantoms" in " ".join(notes) for notes in collected["notes"].values())
    names = sorted(path.name for path in streamed.run.folder.overlays.iterdir())
    assert names == sorted(f"{name}-{number}.png" for name in NAMES for number in (1, 2))


def test_a_second_run_of_a_sweep_trains_nothing_again_and_has_keys_and_approvals_of_its_own(folder, streamed, cache):
    other = Simulated(folder / "other", SITES[:1], sweep=str(streamed.run.folder.path)).finish()
    one, two = streamed.site("endoscopy"), other.site("endoscopy")
    assert other.collected[0]["seconds"]["endoscopy"]["train"] == streamed.collected[0]["seconds"]["endoscopy"]["train"]
    digest = Outbox(one).newest().digest
    assert Outbox(two).newest().digest == digest
    assert (one.keys / "signing.pub").read_text() != (two.keys / "signing.pub").read_text()
    statement = f"{digest}.statement.json"
    assert (one.outbox / statement).read_bytes() != (two.outbox / statement).read_bytes()


def test_a_finished_seed_is_not_run_again(streamed):
    streamed.run.folder.seed(0).results.write_text("{}")
    try:
        assert list(run_seeds(streamed.grid, streamed.run)) == []
    finally:
        streamed.run.folder.seed(0).results.unlink()


def test_two_seeds_are_two_federations_in_one_run(tmp_path, cache):
    both = Simulated(tmp_path, SITES[:1], seeds=[0, 1]).finish()
    keys = {seed: (both.site("endoscopy", seed).keys / "signing.pub").read_text() for seed in (0, 1)}
    assert keys[0] != keys[1]
    assert both.collected[0]["bank_digest"] != both.collected[1]["bank_digest"]
    assert {both.site("endoscopy", seed).settings.seed for seed in (0, 1)} == {0, 1}


def test_what_admission_puts_aside_is_accepted_as_by_a_person_and_counted(tmp_path, cache):
    """A hospital with few images, and one with many of the same kind, which takes what the other has."""
    small, large = phantom("endoscopy", train=6), {**phantom("endoscopy", train=60, seed=2), "name": "large"}
    run = Simulated(tmp_path, [small, large]).finish()
    second = run.collected[0]["admissions"][1]
    assert (second["outcome"], second["code"], second["by"]) == ("quarantined", "Q201", "person")
    assert second["overlap"]["source"] == "task endoscopy"
    home = Home(run.run.folder.seed(0).aggregator)
    assert [entry.task for entry in read_snapshot(home.bank).active] == ["endoscopy", "large"]
    assert [record.accepted != "" for record in Decisions(home).records()] == [False, True]


def test_a_release_that_is_refused_ends_the_run_with_its_code(tmp_path, cache):
    run = Simulated(tmp_path, SITES[:1], minimum_images=50)
    with pytest.raises(SimulationError, match="the release of endoscopy was refused with R119: "):
        run.finish()
    assert read_snapshot(Home(run.run.folder.seed(0).aggregator).bank).active == []


def test_a_failing_site_sends_a_code_and_keeps_its_reason(tmp_path, caplog, cache):
    """The sentence names a folder of the hospital, so it must not travel."""
    secret = tmp_path / "patients-of-doctor-who"
    clinic = {"name": "clinic", "data": {"kind": "folder", "path": str(secret), "classes": ["polyp"]}}
    run = Simulated(tmp_path, [clinic])
    with pytest.raises(ExchangeError, match="failed with DataError; that site's log says why"):
        run.finish()
    assert "doctor-who" in caplog.text
    assert all("doctor-who" not in str(dict(message.content["payload"])) for message in run.grid.received)


def test_training_that_fails_stops_the_stream_with_a_code(tmp_path, cache):
    run = Simulated(tmp_path, SITES[:1], method={"threads": 1, "epochs": 1, "min_steps": 4, "learning_rate": 1e30})
    with pytest.raises(ExchangeError, match="site endoscopy failed with TrainingError"):
        run.finish()
    assert read_snapshot(Home(run.run.folder.seed(0).aggregator).bank).active == []


def test_fewer_sites_than_nodes_ask_for_is_said(tmp_path, cache):
    run = Simulated(tmp_path, SITES[:1])
    with pytest.raises(ExchangeError, match="no node says it is other"):
        meet(run.grid, ["other"])


def question(kind: str) -> Message:
    content = RecordDict({"payload": ConfigRecord({"json": encode_json(Request(logs=Logs()))})})
    return Message(content, dst_node_id=1, message_type=kind)


def ask_often(run_config: dict[str, str], times: int, answers) -> None:
    """What one of Ray's workers does."""
    app = make_simulated_client_app()
    for _ in range(times):
        reply = app(question(HELLO), context_of(1, run_config))
        answers.put("json" in reply.content["payload"])


@pytest.fixture
def founded(tmp_path, cache):
    """A site that was founded, and nothing else."""
    run = Simulated(tmp_path, SITES[:1], minimum_images=50)
    with pytest.raises(SimulationError):
        run.finish()
    return run


def test_two_workers_answer_for_one_site_one_message_at_a_time(founded):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    before = ReleaseLog(founded.site("endoscopy")).size()
    workers = [context.Process(target=ask_often, args=(founded.run_config, 4, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=120) for _ in range(8)] == [True] * 8
    for worker in workers:
        worker.join(60)
    events = list(ReleaseLog(founded.site("endoscopy")).events(before))
    assert [event.event for event in events] == ["intent"] * 8


def test_a_message_waits_until_another_worker_has_answered_for_the_site(founded):
    app, said = make_simulated_client_app(), []
    thread = threading.Thread(target=lambda: said.append(app(question(HELLO), context_of(1, founded.run_config))))
    with only_one(founded.site("endoscopy").path / ".lock"):
        thread.start()
        thread.join(1)
        assert said == []
    thread.join(30)
    assert len(said) == 1


def test_the_hospitals_own_app_knows_no_message_of_the_simulation(founded):
    from site_client.answering import AnsweringSite
    from site_client.egress import WayOut

    way_out = WayOut(AnsweringSite(founded.site("endoscopy")), on_wire=False)
    for kind in (NAME, LEARN, LOOK):
        reply = way_out.answer(question(kind), context_of(1))
        assert dict(reply.content["payload"]) == {"error": "Undeclared"}


def test_paths_of_a_run_are_absolute(folder):
    from casam_fed.errors import ConfigError
    from simulations.stream_run import run_of

    config = {"stream": "a.yaml", "out": "out", "sweep": "", "data": "", "overrides": "", "method": "casam"}
    with pytest.raises(ConfigError, match="give an absolute path"):
        run_of(config)
    with pytest.raises(ConfigError, match="give one of casam, fedavg"):
        run_of({**config, "stream": str(Path("/a.yaml")), "out": "/out", "method": "er"})
