"""What ships is found by name, in a checkout and in a wheel; a file of that name goes first."""

from pathlib import Path

import pytest

from casam_fed.errors import ConfigError
from simulations.shipped import found, shipped

CONFIGS = Path(__file__).parents[2] / "configs"


def test_what_ships_is_what_configs_hold():
    assert shipped("streams") == {name: CONFIGS / f"streams/{name}.yaml" for name in ("demo", "nine", "nuclei")}
    assert shipped("methods") == {name: CONFIGS / f"{name}.yaml" for name in ("paper", "vit_b")}


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found(Path("demo"), "streams") == CONFIGS / "streams/demo.yaml"
    (tmp_path / "demo").write_text("")
    assert found(Path("demo"), "streams") == Path("demo")


def test_a_name_that_is_neither_is_told_what_there_is():
    with pytest.raises(ConfigError, match="no file dema, and none of the streams that ship: demo, nine, nuclei"):
        found(Path("dema"), "streams")
