"""From a `data:` block to a reader and its split."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from casam_fed.config import from_mapping
from casam_fed.data.dataset import DataBlock, open_dataset
from casam_fed.data.public_datasets import DATASETS
from casam_fed.errors import ConfigError


def block(**values):
    return from_mapping(DataBlock, {"data": values}, "the test").data


@pytest.fixture
def polyps(tmp_path) -> Path:
    for name in map(str, range(10)):
        mask = np.zeros((20, 30), dtype=np.uint8)
        mask[5:15, 8:20] = 255
        for kind in ("images", "masks"):
            (tmp_path / "kvasir" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "kvasir" / kind / f"{name}.png")
    return tmp_path


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="is of unknown kind 'polip'; did you mean 'polyp'"):
        block(kind="polip", path=".")
    with pytest.raises(ConfigError, match="unknown phantom modality 'cardiac'; did you mean 'cardiac_mr'"):
        open_dataset(block(kind="phantom", modality="cardiac"), Path())


def test_a_public_dataset_is_split_and_compared_with_the_paper(polyps):
    dataset = open_dataset(block(kind="polyp", path="kvasir", test_fraction=0.3), polyps)
    assert (len(dataset.train), len(dataset.test)) == (7, 3)
    assert dataset.reader.classes == DATASETS["polyp"].card.classes
    assert dataset.notes == ("polyp has 7 training and 3 test images here; the paper counts 804 and 196.",)


def test_a_split_is_kept_where_the_site_or_the_block_says(polyps):
    config = block(kind="polyp", path="kvasir")
    first = open_dataset(config, polyps, polyps / "site" / "split.json")
    content = json.loads((polyps / "site" / "split.json").read_text())
    assert content["test"] == [record.patient for record in first.test]
    other = block(kind="polyp", path="kvasir", split_seed=5, split="mine.json")
    second = open_dataset(other, polyps, polyps / "site" / "split.json")
    assert second.test != first.test
    assert json.loads((polyps / "mine.json").read_text())["split_seed"] == 5
    assert open_dataset(block(kind="polyp", path="kvasir", split="mine.json"), polyps).test == second.test


@pytest.mark.parametrize("option", [{"window": [0, 1]}, {"channel": 1}, {"classes": ["a"]}, {"patient": "x"}])
def test_an_option_of_another_kind_is_refused(polyps, option):
    with pytest.raises(ConfigError, match=f"kind polyp has no option '{next(iter(option))}'"):
        open_dataset(block(kind="polyp", path="kvasir", **option), polyps)
