"""Hospitals join over TLS, and what they end with is what the simulation ends with."""

import json

import numpy as np
import pytest
from PIL import Image

from casam_fed.audit.keys import fingerprint, public_key
from casam_fed.bank.snapshot import read_snapshot
from casam_fed.data.phantoms import PhantomReader
from casam_fed.data.prompts import targets_of, tight_boxes

from ..simulated import Simulated, phantom
from .federation import METHOD, Federation, run

MODALITIES = {"north": "endoscopy", "south": "stained_tissue", "west": "breast_ultrasound"}


@pytest.fixture(scope="module")
def joined(tmp_path_factory, cache):
    """Three sites that have joined one after the other, the first of them serving all the time."""
    federation = Federation(tmp_path_factory.mktemp("three"))
    federation.start()
    sites = {name: federation.site(name, modality) for name, modality in MODALITIES.items()}
    with sites["north"].joining("--keep-serving") as serving:
        serving.wait_for("serving later stages")
        printed = {name: sites[name].join() for name in ("south", "west")}
        serving.wait_for("the bank has 3 tasks")
        serving.wait_for(f"scored the test images under bank {federation.bank()['digest'][:12]}")
        printed["north"] = serving.said()
    yield federation, sites, printed
    assert federation.stop() == 0


def test_every_site_has_one_entry_and_the_order_is_that_of_joining(joined):
    federation, _, _ = joined
    assert [(entry["site"], entry["sequence"]) for entry in federation.bank()["entries"]] == [
        ("north", 0),
        ("south", 1),
        ("west", 2),
    ]


def test_every_site_was_told_so_and_shown_its_stage(joined):
    _, _, printed = joined
    for stage, name in enumerate(MODALITIES, start=1):
        assert "the aggregator says: admitted A001" in printed[name]
        assert f"stage {stage}, {name}: IoU plain SAM" in printed[name]


def test_a_site_that_serves_gets_what_others_add(joined):
    federation, sites, _ = joined
    assert read_snapshot(sites["north"].home / "work" / "seed-0" / "bank").digest == federation.bank()["digest"]


def test_the_bank_is_that_of_the_simulation_to_the_bit(joined, tmp_path):
    federation, _, _ = joined
    sites = [{**phantom(modality, train=12, test=10), "name": name} for name, modality in MODALITIES.items()]
    simulated = Simulated(tmp_path, sites, method={**METHOD, "threads": 1}).finish()
    assert simulated.collected[0]["bank_digest"] == federation.bank()["digest"]


def test_the_aggregator_knows_the_scores_of_the_last_stage(joined):
    federation, sites, _ = joined
    status = json.loads(federation.aggregator("status", federation.home, "--json"))
    assert status["up"] is True
    assert {name: row["online"] for name, row in status["sites"].items()}.keys() == sites.keys()
    assert status["sites"]["west"]["iou"] is not None


def test_only_releases_and_aggregates_went_out_and_the_log_says_so(joined):
    _, sites, _ = joined
    for site in sites.values():
        kinds = site.answered()
        assert kinds.count("train.submit") == 1
        assert set(kinds) <= {"query.hello", "train.submit", "query.sync", "evaluate.stage"}
        assert not any(event.event == "withheld" for event in site.events())


def test_an_auditor_can_verify_what_each_end_has_logged(joined):
    federation, sites, _ = joined
    for site in sites.values():
        assert "admitted" in site.audited()
    out = federation.folder / "bank-export"
    run("casam-audit", "export", federation.home, out)
    keys = [word for site in sites.values() for word in ("--site-key", site.home / "keys" / "signing.pub")]
    bank = federation.home / "keys" / "signing.pub"
    assert run("casam-audit", "verify", out, "--bank-key", bank, *keys).count("admitted") >= len(sites)
    first = federation.folder / f"{next(iter(sites))}-export"
    assert "one history" in run("casam-audit", "diff", first, out)


def test_a_site_segments_an_image_of_its_own_with_the_bank_it_holds(joined, tmp_path):
    _, sites, _ = joined
    reader = PhantomReader(MODALITIES["south"], 12, 10, seed=1)
    sample = reader.read(next(record for record in reader.records() if record.split == "test"))
    Image.fromarray(sample.image).save(tmp_path / "new.png")
    targets = targets_of(sample, "class")
    x0, y0, x1, y1 = tight_boxes(targets)[0]
    (tmp_path / "boxes.csv").write_text(f"class,x0,y0,x1,y1\n{targets.targets[0].class_name},{x0},{y0},{x1},{y1}\n")
    arguments = ("--boxes", tmp_path / "boxes.csv", "--out", tmp_path / "masks")
    printed = sites["south"].run("segment", tmp_path / "new.png", *arguments)
    assert "new.png: south of south, which is asked first, claims it" in printed
    mask = np.asarray(Image.open(tmp_path / "masks/new.mask.png"))
    assert mask.shape == sample.image.shape[:2]
    assert mask.any()
    blind = sites["south"].run("segment", tmp_path / "new.png", *arguments, "--blind", "--overwrite")
    assert "asked first" not in blind


def test_a_site_with_new_keys_goes_on_and_an_auditor_follows_both(joined):
    _, sites, _ = joined
    site = sites["west"]
    earlier = public_key((site.home / "keys" / "signing.pub").read_text(), "west")
    site.rotate()
    assert "stage" in site.run("sync", "--yes")
    new, old = site.home / "keys" / "signing.pub", site.home / "keys-old-1" / "signing.pub"
    site.audited(new, old)
    assert "admitted" in site.audited(old, new, log=fingerprint(earlier)[:12])
