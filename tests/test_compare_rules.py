"""experiments/compare_rules.py, run small through the command; and its charts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from deconv.command.cli import load_experiment, main
from deconv.command.settings import compose_jobs
from deconv.compare.controls import CONTROLS
from deconv.compare.measuring import METRICS
from deconv.figures.compare_rules import extremes
from tests.samples import photographs

SETTINGS = {"experiment": "compare_rules", "model": "alexnet", "model.weights": "random", "model.size": "[64,64]"}
SETTINGS |= {"model.resize": "72", "layers": "[conv2,conv1]", "n_units": "2", "k": "3", "source": "folder"}


def command(folder: Path, **changes: str) -> list[str]:
    """The arguments of a small run over the photographs beside its folder, some of them changed."""
    given = SETTINGS | {"source.root": str(folder.parent / "photographs")} | changes | {"folder": str(folder)}
    return [f"{key}={value}" for key, value in given.items()]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    photographs(folder.parent / "photographs", 6)
    assert main(command(folder)) == 0
    return folder


def test_it_leaves_records_numbers_and_pictures(finished: Path) -> None:
    names = {"deconvnet", "guided", "gradient", *CONTROLS}
    summary = summary_of(finished)
    assert set(summary["layers"]) == {"conv1", "conv2"} and summary["tested"] == "deconvnet"
    for layer, rules in summary["layers"].items():
        assert set(rules) == names | {"patches"} and len(summary["units"][layer]) == 2
        assert all(set(METRICS) <= set(rules[name]) for name in names)
        assert all((finished / "records" / f"{layer}.{name}.parquet").is_file() for name in rules)
    assert summary["rules"]["deconvnet"]["switches"] == "recorded" and len(summary["provenance"]["weights"]) == 64
    cell = summary["all_layers"]["deconvnet"]["keep_blur"]
    assert cell["low"] <= cell["mean"] <= cell["high"] and cell["units"] == 4
    assert summary["tested_minus"]["centre"]["reactivation"]["mean"] > 0
    for picture in ("compare_rules", "table", "curves", "conv1", "conv2"):
        assert (finished / f"{picture}.png").stat().st_size > 10_000
        assert (finished / f"{picture}.pdf").stat().st_size > 10_000


def test_a_single_filter_is_known_exactly(finished: Path) -> None:
    """In the first layer all rules give the filter: nothing sets them apart, and the unit knows it."""
    of_layer = summary_of(finished)["layers"]["conv1"]
    for metric in METRICS:
        assert of_layer["deconvnet"][metric] == of_layer["gradient"][metric], metric
    assert of_layer["deconvnet"]["rank"]["mean"] > of_layer["random_weights"]["rank"]["mean"]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path) -> None:
    left = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != "run.log"}
    kept = finished / "records" / "conv1.deconvnet.parquet"
    before = kept.stat().st_mtime_ns
    for name in ("records/conv1.centre.parquet", "records/conv2.patches.parquet", "summary.json", "table.png"):
        (finished / name).unlink()
    assert main(command(finished)) == 0
    assert {path: path.read_bytes() for path in left} == left and kept.stat().st_mtime_ns == before


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, n_units="1")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with units" in said[0] and "delete that file to measure again" in said[0]


def test_the_rule_under_test_is_named_or_spelled(tmp_path: Path) -> None:
    contenders = load_experiment("compare_rules").contenders
    swept = command(
        tmp_path / "run", **{"rule.relu": "forward,both", "rule.lrn": "derivative", "against": "[guided,edges]"}
    )
    spelled = [contenders(job.config) for job in compose_jobs(swept, sweep=True)]
    assert [list(rules) for rules in spelled] == [["gradient", "guided", "edges"], ["guided", "edges"]]
    (named,) = compose_jobs(command(tmp_path / "run", rule="guided", against="[edges]"), sweep=False)
    assert contenders(named.config) == spelled[1]
    (odd,) = compose_jobs(command(tmp_path / "run", **{"rule.switches": "other", "against": "[]"}), sweep=False)
    assert list(contenders(odd.config)) == ["switches=other"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"against": "[guidd]"}, "against 'guidd' is unknown; expected some of deconvnet, guided"),
        ({"rule.relu": "forwards"}, "the rule's relu 'forwards'; expected one of backward, forward, both, none"),
        ({"rule": "guidd"}, "unknown rule 'guidd'; expected one of deconvnet, guided, gradient"),
        ({"layers": "[conv9]"}, "unknown layer 'conv9'"),
        ({"units": "[99999]"}, "unit 99999: layer conv1 has units 0 to 63"),
        ({"rule": "[a]"}, "rule=[a]"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 1)
    assert main(command(tmp_path / "run", **changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0]
    assert not (tmp_path / "run" / "peaks.parquet").exists()


def test_the_best_the_median_and_the_worst_unit() -> None:
    columns = {"unit": np.array([3, 5, 8, 9]), "area50": np.array([0.1, 0.3, np.nan, 0.2]), "rank": np.full(4, np.nan)}
    (row,) = extremes(columns, ["area50", "rank"])  # of an area the least is best; of a rank no unit has one
    assert row.metric == "area50" and row.picks == ((3, 0.1), (9, 0.2), (5, 0.3))
