"""experiments/compare_rules.py, run small through the command; and its charts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from deconv.command.cli import load_experiment, main
from deconv.command.settings import compose_jobs
from deconv.compare.controls import CONTROLS
from deconv.compare.measuring import METRICS, curve_column
from deconv.compare.sufficiency import CURVES, FILLS, SHARES
from deconv.figures import compare_rules as charts
from deconv.figures.compare_rules import extremes
from deconv.figures.pictures import recon_tiles
from deconv.records.formats import read_columns, save_columns
from tests.drawn import assert_drawn, axes_of
from tests.samples import photographs

SETTINGS = {"experiment": "compare_rules", "model": "zfnet64", "model.weights": "random", "model.maps": "[8,8,8,8,8]"}
SETTINGS |= {"model.widths": "[8,8]"}
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
        assert all((finished / "records" / f"{layer}.{name}.safetensors").is_file() for name in rules)
    assert summary["rules"]["deconvnet"]["switches"] == "recorded" and len(summary["provenance"]["weights"]) == 64
    cell = summary["all_layers"]["deconvnet"]["insertion_blur"]
    assert cell["low"] <= cell["mean"] <= cell["high"] and cell["units"] == 4
    assert summary["tested_minus"]["centre"]["reactivation"]["mean"] > 0
    assert_drawn(finished, "compare_rules", "table", "curves", "conv1", "conv2")


def test_a_single_filter_is_known_exactly(finished: Path) -> None:
    """In the first layer all rules give the filter: nothing sets them apart, and the unit knows it."""
    of_layer = summary_of(finished)["layers"]["conv1"]
    for metric in METRICS:
        assert of_layer["deconvnet"][metric] == of_layer["gradient"][metric], metric
    assert of_layer["deconvnet"]["rank"]["mean"] > of_layer["random_weights"]["rank"]["mean"]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished: Path) -> None:
    left = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != "run.log"}
    kept = finished / "records" / "conv1.deconvnet.safetensors"
    before = kept.stat().st_mtime_ns
    for name in ("records/conv1.centre.safetensors", "records/conv2.patches.safetensors", "summary.json", "table.png"):
        (finished / name).unlink()
    assert main(command(finished)) == 0
    assert {path: path.read_bytes() for path in left} == left and kept.stat().st_mtime_ns == before


def test_records_of_something_else_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(finished, n_units="1")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with units" in said[0] and "delete that file to measure again" in said[0]


def test_records_whose_curves_have_other_names_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those are that were written when the curves were called keep and remove."""
    path = finished / "records" / "conv1.edges.safetensors"
    before = path.read_bytes()
    columns, provenance = read_columns(path)
    del provenance["curves"]
    save_columns(path, columns, provenance)
    assert main(command(finished)) == 2
    path.write_bytes(before)
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was made with curves None; this run has ['insertion', 'deletion']" in said[0]


def test_the_rule_under_test_is_named_or_spelled(tmp_path: Path) -> None:
    compared_rules = load_experiment("compare_rules").compared_rules
    swept = command(
        tmp_path / "run", **{"rule.relu": "forward,both", "rule.lrn": "derivative", "against": "[guided,edges]"}
    )
    spelled = [compared_rules(job.options) for job in compose_jobs(swept, sweep=True)]
    assert [list(rules) for rules in spelled] == [["gradient", "guided", "edges"], ["guided", "edges"]]
    (named,) = compose_jobs(command(tmp_path / "run", rule="guided", against="[edges]"), sweep=False)
    assert compared_rules(named.options) == spelled[1]
    (odd,) = compose_jobs(command(tmp_path / "run", **{"rule.switches": "other", "against": "[]"}), sweep=False)
    assert list(compared_rules(odd.options)) == ["switches=other"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"against": "[guidd]"}, "unknown explanation 'guidd'; expected one of deconvnet, guided"),
        ({"rule.relu": "forwards"}, "'forwards'; expected one of backward, forward, both, none"),
        ({"rule": "guidd"}, "unknown rule 'guidd'; expected one of deconvnet, deconvnet_beyond, gradient"),
        ({"layers": "[conv9]"}, "unknown layer 'conv9'"),
        ({"units": "[99999]"}, "units: given 99999; expected a whole number, 0 to 7"),
        ({"rule": "[a]"}, "unknown rule '[a]'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    changes: dict[str, str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs(tmp_path / "photographs", 1)
    assert main(command(tmp_path / "run", **changes)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and expected in said[0]
    assert not (tmp_path / "run" / "peaks.safetensors").exists()


def test_the_best_the_median_and_the_worst_unit() -> None:
    columns = {"unit": np.array([3, 5, 8, 9]), "area50": np.array([0.1, 0.3, np.nan, 0.2]), "rank": np.full(4, np.nan)}
    (row,) = extremes(columns, ["area50", "rank"])  # of an area the least is best; of a rank no unit has one
    assert row.metric == "area50" and row.picks == ((3, 0.1), (9, 0.2), (5, 0.3))


RULES = ["deconvnet", "gradient", "edges"]


def cells(values: dict[str, float], **more: float) -> dict[str, dict[str, float]]:
    """{metric: its mean and interval} of one rule."""
    return {
        name: {"mean": value, "low": value - 0.1, "high": value + 0.1, "units": 4}
        for name, value in (values | more).items()
    }


def made_up_layers() -> dict[str, dict[str, dict]]:
    """Three layers; each rule's value of each metric is a number of its own."""
    return {
        layer: {
            rule: cells({metric: 100 * n + 10 * m + i for i, metric in enumerate(METRICS)})
            for m, rule in enumerate([*RULES, "patches"])
        }
        for n, layer in enumerate(("conv1", "conv2", "conv3"))
    }


def test_each_panel_has_its_metrics_means_by_layer_in_each_rules_colour() -> None:
    figure = charts.by_layer(made_up_layers(), RULES, "patches")
    assert len(axes_of(figure)) == len(METRICS)
    for i, (axes, metric) in enumerate(zip(axes_of(figure), METRICS.values(), strict=True)):
        assert axes.get_title().startswith(metric.label.replace("\n", " "))
        for m, line in enumerate(axes.lines):
            assert np.asarray(line.get_ydata()).tolist() == [100 * n + 10 * m + i for n in range(3)]
        colours = [line.get_color() for line in axes.lines]
        assert colours == [*(charts.style(rule)["color"] for rule in RULES), "black"]
        assert len(axes.collections) == 2  # the rules' intervals; the control has none
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*RULES, "the patches themselves"]
    known = ["deconvnet", "guided", "gradient", "mine", *CONTROLS]
    assert len({charts.style(rule)["color"] for rule in known}) == len(known)


def test_of_one_layer_each_rule_has_a_row_with_its_interval() -> None:
    layer = made_up_layers()["conv2"]
    del layer["edges"]["rank"]
    figure = charts.by_layer({"conv2": layer}, RULES, "patches")
    assert len(axes_of(figure)) == len(METRICS)
    assert [label.get_text() for label in axes_of(figure)[0].get_yticklabels()] == RULES
    for i, (axes, metric) in enumerate(zip(axes_of(figure), METRICS, strict=True)):
        measured = [m for m, rule in enumerate(RULES) if metric in layer[rule]]
        *points, across = [np.asarray(line.get_xydata()) for line in axes.lines]
        assert [point.tolist() for point in points] == [[[100 + 10 * m + i, m]] for m in measured]
        assert across[:, 0].tolist() == [130 + i] * 2  # the patches
        bars = [bar.get_segments()[0] for bar in axes.collections if isinstance(bar, LineCollection)]
        assert np.allclose(bars, [[[100 + 10 * m + i - 0.1, m], [100 + 10 * m + i + 0.1, m]] for m in measured])
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the rule under test on top


def test_the_table_has_each_rules_mean_in_its_row_and_column_and_greens_the_better() -> None:
    summary = {rule: cells({metric: m + i / 100 for i, metric in enumerate(METRICS)}) for m, rule in enumerate(RULES)}
    del summary["edges"]["rank"]
    (axes,) = axes_of(charts.rule_table(summary, RULES))
    means = [text for text in axes.texts if text.get_fontsize() >= 7.5]  # the intervals are smaller
    written = {tuple(np.floor(text.get_position()).astype(int)): text for text in means}
    for i, metric in enumerate(METRICS):
        for m, rule in enumerate(RULES):
            expected = f"{m + i / 100:.3g}" if metric in summary[rule] else "none"
            assert written[m, i].get_text() == expected, (metric, rule)
    fills = {tuple(np.asarray(patch.get_xy()).min(axis=0).astype(int)): patch.get_facecolor() for patch in axes.patches}
    rows = {metric: n for n, metric in enumerate(METRICS)}
    for metric, better in (("pearson_grey", 1), ("area50", -1)):
        low, high = (fills[column, rows[metric]] for column in (0, 2))
        greener = high[1] - high[0] > low[1] - low[0]
        assert greener == (better > 0), metric
    assert len({fills[column, rows["off_centre"]] for column in range(3)}) == 1


def test_a_curve_has_the_activation_left_at_each_share_of_pixels() -> None:
    shares = [0.0, *SHARES, 1.0]
    kinds = [(curve, fill) for curve in CURVES for fill in FILLS]
    layers = {
        f"conv{n}": {
            rule: {
                curve_column(curve, fill, share): {"mean": 100 * n + 10 * m + row + share}
                for row, (curve, fill) in enumerate(kinds)
                for share in shares
            }
            for m, rule in enumerate(RULES)
        }
        for n in range(7)
    }
    figure = charts.curves(layers, RULES, most=3)
    grid = np.array(axes_of(figure)).reshape(len(kinds), 3)
    assert [axes.get_title() for axes in grid[0]] == ["conv0", "conv3", "conv6"]
    for row in range(len(kinds)):
        for n, axes in zip((0, 3, 6), grid[row], strict=True):
            for m, line in enumerate(axes.lines):
                assert np.allclose(line.get_ydata(), [100 * n + 10 * m + row + share for share in shares])
                assert line.get_color() == charts.style(RULES[m])["color"]


def test_the_page_shows_each_units_pair_under_its_number() -> None:
    generator = np.random.default_rng(0)
    recons = {unit: generator.standard_normal((3, 12, 12)) for unit in (3, 5, 9)}
    patches = {unit: np.full((3, 12, 12), 20 * unit / 255) for unit in (3, 5, 9)}
    rows = [charts.Extremes("area50", ((3, 0.1), (9, 0.2), (5, 0.3)))]
    figure = charts.unit_page("conv2", "deconvnet", rows, recons, patches)
    assert "conv2, deconvnet" in figure.get_suptitle() and len(axes_of(figure)) == 3
    for axes, (unit, value), kind in zip(axes_of(figure), rows[0].picks, ("best", "median", "worst"), strict=True):
        assert axes.get_title() == f"unit {unit}: {value}" and [text.get_text() for text in axes.texts] == [kind]
        pair = np.asarray(axes.get_images()[0].get_array())
        side = charts.UNIT_SIDE
        expected = recon_tiles(torch.from_numpy(recons[unit]).float()[None], side)[0]
        assert np.array_equal(pair[:, :side], expected)
        assert (pair[:, -side:] == 20 * unit).all() and (pair[:, side:-side] == 255).all()
    assert axes_of(figure)[0].get_ylabel() == METRICS["area50"].label


EXPLAIN = """
def brightest(network, inputs, layer, channel, row, col):
    return inputs.relu()

def flat(network, inputs, layer, channel, row, col):
    return inputs[:, :1]
"""


def test_functions_of_ones_own_are_measured_beside_rules(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(EXPLAIN)
    photographs(tmp_path / "photographs", 6)
    said = {"against": "[occlusion,mine,guided,centre]", "explanations.mine": f"{tmp_path}/own.py:brightest"}
    assert main(command(tmp_path / "run", **said, layers="[conv2]")) == 0
    summary = summary_of(tmp_path / "run")
    assert set(summary["layers"]["conv2"]) == {"deconvnet", "occlusion", "mine", "guided", "centre", "patches"}
    assert summary["rules"]["mine"]["function"] == "own:brightest" and len(summary["rules"]["mine"]["sha256"]) == 64
    assert summary["rules"]["occlusion"]["function"] == "deconv.explanations.occlusion:occlusion"
    before = summary_of(finished)["layers"]["conv2"]
    assert summary["layers"]["conv2"]["guided"] == before["guided"]  # whatever stands beside it
    assert summary["layers"]["conv2"]["mine"]["colour"]["mean"] > before["edges"]["colour"]["mean"]
    (tmp_path / "own.py").write_text(EXPLAIN + "\n")
    capsys.readouterr()
    assert main(command(tmp_path / "run", **said, layers="[conv2]")) == 2
    assert "mine.safetensors was made with rule.sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"explanations.mine": "own.py:faint"}, "explanations.mine: given own.py:faint; expected a function of own.py"),
        ({"explanations.mine": "brightest"}, "explanations.mine: given brightest; expected package.module:function"),
        ({"explanations.guided": "own.py:flat"}, "explanation called guided: given "),
        ({"explanations.centre": "own.py:flat"}, "explanation called centre: given "),
        ({"explanations.patches": "own.py:flat"}, "expected names other than patches, always asked"),
        (
            {"explanations.mine": "own.py:flat", "against": "[mine]"},
            "explanation mine: given conv1, 1 input; expected",
        ),
    ],
)
def test_a_mistaken_function_is_one_line(
    changes: dict[str, str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own.py").write_text(EXPLAIN)
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "photographs", 3)
    assert main(command(tmp_path / "run", **changes, layers="[conv1]")) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert expected in said[-1]
