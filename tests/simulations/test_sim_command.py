"""`casam sim run` on a run that is finished: what it prints at last."""

import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from simulations.sim_command import sim
from simulations.stream_config import read_stream
from simulations.sweep.folder import SweepFolder

from .report.synthetic_results import collect, stream_of, synthetic_results


@pytest.mark.parametrize(
    ("sentences", "last"),
    [
        (["verified: 3 exports (bank, 2 sites)"], "verified: 3 exports (bank, 2 sites)"),
        (["verified: 3 exports"] * 3, "verified: 3 exports in each of 3 runs"),
        (["verified: 3 exports", "verified: 2 exports"], "verified: 3 exports; verified: 2 exports"),
        (["", ""], None),
    ],
)
def test_the_last_line_says_what_was_verified(tmp_path, sentences, last):
    results = synthetic_results(2, seeds=len(sentences))
    for values, sentence in zip(results["seeds"].values(), sentences, strict=True):
        values["verified"] = sentence
    (tmp_path / "stream.yaml").write_text(json.dumps(asdict(stream_of(results))))  # JSON is YAML.
    SweepFolder.open(tmp_path / "out", read_stream(tmp_path / "stream.yaml"), tmp_path, overwrite=False)
    collect(results, tmp_path / "out")
    done = CliRunner().invoke(sim, ["run", str(tmp_path / "stream.yaml"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    report = f"report: {tmp_path / 'out' / 'report.md'}"
    assert done.output.splitlines()[-1] == (last or report)
    assert report in done.output
