"""Wrong YAML is refused with one sentence: where it is wrong, and what would be right."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from casam_fed.config import MethodConfig, from_mapping, read_yaml
from casam_fed.errors import ConfigError
from casam_fed.forms import STRICT


@dataclass(frozen=True, config=STRICT)
class Inner:
    path: str
    unit: str = "class"


@dataclass(frozen=True, config=STRICT)
class Place:
    town: str = ""


@dataclass(frozen=True, config=STRICT)
class Disc:
    kind: Literal["disc"]
    radius: float


@dataclass(frozen=True, config=STRICT)
class Ring:
    kind: Literal["ring"]
    radii: float


@dataclass(frozen=True, config=STRICT)
class Outer:
    seed: int
    parts: Annotated[tuple[Inner, ...], Field(min_length=1)] = (Inner("x"),)
    place: Place | None = None
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)
    shape: Annotated[Disc | Ring, Field(discriminator="kind")] | None = None
    path_of_all: str = ""


def refusal(values: dict[object, object], kind: type = Outer) -> str:
    with pytest.raises(ConfigError) as caught:
        from_mapping(kind, values, "stream.yaml")
    return str(caught.value)


def test_defaults_fill_what_is_not_given():
    assert from_mapping(MethodConfig, {}, "here") == MethodConfig()
    given = from_mapping(Outer, {"seed": 3, "parts": [{"path": "a"}], "place": {"town": "Bonn"}}, "here")
    assert given == Outer(3, (Inner("a"),), Place("Bonn"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"epoch": 3}, "unknown key 'epoch' in stream.yaml; did you mean 'epochs'?"),
        ({"batchsize": 3}, "unknown key 'batchsize' in stream.yaml; did you mean 'batch_size'?"),
        ({"learning-rate": 3}, "unknown key 'learning-rate' in stream.yaml; did you mean 'learning_rate'?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_valid_one(values, sentence):
    assert refusal(values, MethodConfig) == sentence


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"sed": 1}, "sed", "seed"),
        ({"parts": [{"path": "a", "units": "x"}]}, "parts.0.units", "unit"),
        ({"parts": [{"path": "a"}, {"path": "a", "pathh": "x"}]}, "parts.1.pathh", "path"),
        ({"place": {"twn": "Bonn"}}, "place.twn", "town"),
        ({"named": {"left": {"path": "a", "unti": "x"}}}, "named.left.unti", "unit"),
        ({"shape": {"kind": "ring", "radii": 1, "radius": 1}}, "shape.ring.radius", "radii"),
    ],
)
def test_keys_of_nested_blocks_are_answered_too(values, key, nearest):
    assert refusal({"seed": 1, **values}) == f"unknown key '{key}' in stream.yaml; did you mean '{nearest}'?"


@pytest.mark.parametrize(
    ("values", "nearest"),
    [
        ({"parts": [{"path": "a", "seeds": 3}]}, {"path", "unit"}),
        ({"place": {"path": "a"}}, {"town"}),
        ({"town": "Bonn"}, {"seed", "parts", "place", "named", "shape", "path_of_all"}),
    ],
)
def test_the_key_that_is_proposed_is_valid_at_that_place(values, nearest):
    """A key that exists in another block would be refused as well."""
    assert refusal({"seed": 1, **values}).split("did you mean '")[1].removesuffix("'?") in nearest


def test_a_missing_key_is_named():
    assert refusal({}) == "key 'seed' is missing in stream.yaml; add it"
    assert refusal({"seed": 1, "parts": [{}]}) == "key 'parts.0.path' is missing in stream.yaml; add it"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "'epochs' in stream.yaml cannot be 0: input should be greater than or equal to 1; mend that"),
        ({"epochs": "many"}, "'epochs' in stream.yaml cannot be 'many': input should be a valid integer"),
        ({"start": "warm"}, "'start' in stream.yaml cannot be 'warm': input should be 'identity' or 'paper'"),
        ({"learning_rate": float("nan")}, "'learning_rate' in stream.yaml cannot be nan"),
        ({"learning_rate": float("inf")}, "'learning_rate' in stream.yaml cannot be inf"),
        ({"percentile": 101}, "'percentile' in stream.yaml cannot be 101"),
        ({"folds": 1}, "'folds' in stream.yaml cannot be 1"),
        ({"backbone": None}, "'backbone' in stream.yaml cannot be None"),
        ({"fit": ["pad"]}, "'fit' in stream.yaml cannot be"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named_with_the_reason(values, words):
    sentence = refusal(values, MethodConfig)
    assert sentence.startswith(words)
    assert "\n" not in sentence


def test_a_key_that_is_no_word_is_refused():
    assert refusal({"seed": 1, 3: 4}) == "'3' in stream.yaml cannot be 3: keys should be strings; mend that value"


def test_a_block_that_should_have_keys_is_refused():
    assert refusal({"seed": 1, "place": "Bonn"}).startswith("'place' in stream.yaml cannot be 'Bonn'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"- a\n- b\n", "holds a list, not keys and values; write `key: value` lines"),
        (b"just words", "holds a str, not keys and values"),
        (b"a: 1\nb: [1, 2\nc: 3\n", "is not valid YAML near line 3; mend it there"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not valid YAML near line 1"),
        (b"a: \xff\xfe\n", "cannot read"),
        (b"a: 1\x00\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content, words):
    path = tmp_path / "stream.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cannot read .*: no such file or directory; give the path of a readable YAML file"
    ):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"cannot read .*: is a directory; give the path of a readable YAML file"):
        read_yaml(tmp_path)


def test_an_empty_file_changes_nothing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_the_paper_preset_sets_every_choice_of_the_method_that_the_paper_makes():
    preset = read_yaml(Path(__file__).parents[2] / "configs" / "paper.yaml")
    method = from_mapping(MethodConfig, preset.get("method", preset), "paper.yaml")
    paper = {
        "fit": "stretch",
        "score_at": "square",
        "unit": "class",
        "start": "paper",
        "blocks": 3,
        "epochs": 24,
        "min_steps": 0,
        "batch_size": 6,
        "masks_per_image": 5,
        "learning_rate": 1e-4,
        "box_jitter": 5.0,
        "router": "vae",
        "vae_sampled": True,
        "folds": 5,
        "folds_by": "image",
        "percentile": 97.0,
    }
    assert {name: getattr(method, name) for name in paper} == paper
