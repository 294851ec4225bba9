"""Path check: answers and signals by layer against matrices by hand, then the experiment's measures and its chart."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.lines import Line2D
from torch import Tensor, nn

import deconv
from deconv.compare.controls import Opened
from deconv.compare.path_check import BASELINES, FORWARD, RANDOM, UNITS, WEIGHTED, PathStudy, summarise
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.explanations.fields import Fields
from deconv.explanations.functions import Explanation
from deconv.figures.compare_rules import style
from deconv.figures.path_check import PATCHES, paths
from deconv.network import Network
from deconv.projection.by_layer import IMAGE, answers_alike, layers_on_the_way, signals_alike
from deconv.projection.passes import backward, forward
from deconv.projection.rules import NAMED, Rule, as_rule
from deconv.projection.windows import WholeMaps
from deconv.views.path_check import followed
from tests import samples

POINT = torch.zeros(1, 2, dtype=torch.int64)
"""The position of a network's only unit, row and column."""


def linear(*weights: Tensor) -> Network:
    """A network of pixels that see only themselves: each layer is a matrix (out, in)."""
    layers = [nn.Conv2d(weight.shape[1], weight.shape[0], 1) for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data, layer.bias.data = weight[:, :, None, None], torch.zeros(len(weight))  # type: ignore[union-attr]
    return Network(nn.Sequential(*layers), (3, 1, 1))


def matrices(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(out, into, generator=generator) for into, out in zip(sizes, sizes[1:], strict=False)]


def cosine(first: Tensor, second: Tensor) -> float:
    return float(torch.dot(first, second) / first.norm() / second.norm())


# --- backward ---------------------------------------------------------------------------------------------------------


def test_signals_are_the_matrices_transposed() -> None:
    first, second = matrices(3, 4, 5)
    vectors = torch.randn(2, 1, 5, generator=torch.Generator().manual_seed(1))
    (alike,) = signals_alike(
        linear(first, second), "1", ["0", "1"], POINT, torch.ones(1, 3, 1, 1), [(vectors[0], vectors[1])], Rule()
    )
    a, b = vectors[:, 0]
    assert alike["1"].item() == pytest.approx(cosine(a, b), abs=1e-6)
    assert alike["0"].item() == pytest.approx(cosine(a @ second, b @ second), abs=1e-6)
    assert alike[IMAGE].item() == pytest.approx(cosine(a @ second @ first, b @ second @ first), abs=1e-6)


def test_signals_meet_below_a_matrix_of_rank_one_and_stay_so() -> None:
    first, _ = matrices(3, 4, 5)
    second = torch.outer(torch.rand(5), torch.rand(4))
    units = torch.eye(5)[:, None]
    (alike,) = signals_alike(
        linear(first, second), "1", ["0", "1"], POINT, torch.ones(1, 3, 1, 1), [(units[1], units[3])], Rule()
    )
    assert alike["1"].item() == 0
    assert [alike["0"].item(), alike[IMAGE].item()] == pytest.approx([1, 1], abs=1e-6)


def test_random_signals_are_alike_by_one_pi_th_behind_the_rectifier_of_deconvnet() -> None:
    """Of two rectified normal numbers the mean product is 1 / 2 pi, and the mean square a half."""
    units = 2000
    identity = nn.Conv2d(units, units, 1, groups=units, bias=False)
    identity.weight.data.fill_(1)
    network = Network(nn.Sequential(identity, nn.ReLU()), (units, 1, 1))
    vectors = torch.randn(2, 1, units, generator=torch.Generator().manual_seed(0))
    window, pair = torch.ones(1, units, 1, 1), [(vectors[0], vectors[1])]
    by_rule = {
        name: signals_alike(network, "1", ["1"], POINT, window, pair, as_rule(name))[0]
        for name in ("deconvnet", "gradient")
    }
    assert by_rule["deconvnet"][IMAGE].item() == pytest.approx(1 / math.pi, abs=0.04)
    assert by_rule["gradient"][IMAGE].item() == pytest.approx(0, abs=0.06)


def test_signals_on_windows_are_those_of_whole_images() -> None:
    network = samples.network()
    inputs, positions = samples.images(3), torch.tensor([[0, 0], [4, 5], [9, 9]])  # two at borders
    fields = Fields(network, inputs, "two", torch.zeros(3, dtype=torch.int64), *positions.T)
    first, second = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3))
    for rule in NAMED.values():
        (alike,) = signals_alike(network, "two", ["one", "two"], positions, fields.windows, [(first, second)], rule)
        for n, (row, col) in enumerate(positions.tolist()):
            kept = [_sent(network, inputs[n : n + 1], vector[n], row, col, rule) for vector in (first, second)]
            assert alike[IMAGE][n].item() == pytest.approx(cosine(*kept), abs=1e-4, nan_ok=True), rule.name
        assert alike[IMAGE].isfinite().any(), rule.name


def _sent(network: Network, image: Tensor, vector: Tensor, row: int, col: int, rule: Rule) -> Tensor:
    """What comes back to the whole image of a vector at one position, on whole maps."""
    maps = WholeMaps(network.graph, torch.tensor([[row, col]]))
    with torch.no_grad():
        value, tape, _ = forward(network.graph, network.node("two"), image.clone(), [rule], maps)
        signal = torch.zeros_like(value)
        signal[0, :, row, col] = vector
        return backward(network.graph, network.node("two"), signal, tape, rule, maps).flatten()


def test_switches_of_another_image_are_refused() -> None:
    first, second = matrices(3, 4, 5)
    vectors = torch.ones(1, 5)
    with pytest.raises(BadInput, match="switches of its own image"):
        signals_alike(
            linear(first, second),
            "1",
            ["1"],
            POINT,
            torch.ones(1, 3, 1, 1),
            [(vectors, vectors)],
            Rule(switches="other"),
        )


# --- forward ----------------------------------------------------------------------------------------------------------


def test_answers_are_the_matrices_and_weighted_by_the_units_row() -> None:
    first, second = matrices(3, 4, 5)
    plain, whole, other = torch.randn(3, 1, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    asked = (linear(first, second), "1", ["0", "1"], POINT, plain, whole, [other, whole, plain])
    (alike, same, nothing) = answers_alike(*asked)
    a, b = ((each - plain).flatten() for each in (whole, other))
    assert alike[IMAGE].item() == pytest.approx(cosine(a, b), abs=1e-6)
    assert alike["0"].item() == pytest.approx(cosine(first @ a, first @ b), abs=1e-6)
    assert alike["1"].item() == pytest.approx(cosine(second @ first @ a, second @ first @ b), abs=1e-6)
    assert [same[name].item() for name in same] == pytest.approx([1, 1, 1]) and list(same) == [IMAGE, "0", "1"]
    assert all(values.isnan().all() for values in nothing.values())
    weighted, *_ = answers_alike(*asked, channel=torch.tensor([2]))
    assert weighted["0"].item() == pytest.approx(cosine(second[2] * (first @ a), second[2] * (first @ b)), abs=1e-5)
    slope = second[2] @ first
    assert weighted[IMAGE].item() == pytest.approx(cosine(slope * a, slope * b), abs=1e-5)


def test_what_a_unit_does_not_read_is_left_out_by_its_weight() -> None:
    first, second = torch.eye(3), torch.tensor([[1.0, 0, 0]])
    plain, whole = torch.zeros(1, 3, 1, 1), torch.tensor([1.0, 2, 0]).view(1, 3, 1, 1)
    asked = (linear(first, second), "1", ["0"], POINT, plain, whole, [torch.tensor([3.0, -5, 4]).view(1, 3, 1, 1)])
    (alike,), (weighted,) = answers_alike(*asked), answers_alike(*asked, channel=torch.tensor([0]))
    assert alike["0"].item() < 0 and weighted["0"].item() == pytest.approx(1)


def test_answers_on_windows_are_those_of_whole_images() -> None:
    """The corner's unit reads four positions of the layer below; what lies outside the map is none of them."""
    network = samples.network()
    inputs, zero = samples.images(2), torch.zeros(1, 3, samples.SIZE, samples.SIZE)
    fields = Fields(network, inputs, "two", torch.zeros(2, dtype=torch.int64), *POINT.expand(2, 2).T)
    windows = fields.windows
    (alike,) = answers_alike(network, "two", ["one", "two"], POINT, windows[:1] * 0, windows[:1], [windows[1:]])
    maps = network.forward(torch.cat([fields.paste(windows), zero]), ["one", "two"])
    a, b = ((maps["one"][n] - maps["one"][2])[:, :2, :2].flatten() for n in (0, 1))
    assert alike["one"].item() == pytest.approx(cosine(a, b), abs=1e-5)
    a, b = ((maps["two"][n] - maps["two"][2])[:, 0, 0] for n in (0, 1))
    assert alike["two"].item() == pytest.approx(cosine(a, b), abs=1e-5)


def test_units_that_need_the_whole_image_have_whole_maps() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5), nn.ReLU())
    network, images = Network(module, (3, 8, 8)), torch.randn(2, 3, 8, 8)
    position = POINT.expand(2, 2)
    (alike,) = answers_alike(network, "4", ["1", "4"], position, images * 0, images, [images.flip(0)])
    maps = network.forward(torch.cat([images, images[:1] * 0]), ["1"])["1"].flatten(1)
    assert alike["1"].tolist() == pytest.approx([cosine(maps[0] - maps[2], maps[1] - maps[2])] * 2, abs=1e-5)
    first, second = torch.eye(5)[:2, None].expand(2, 2, 5)
    (signals,) = signals_alike(network, "4", ["1", "4"], position, images, [(first, second)], as_rule("gradient"))
    assert signals["1"].shape == (2,) and signals["4"].tolist() == [0, 0]


def test_layers_beside_the_way_are_left_out() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.left(x).relu(), self.right(x).relu()
            return torch.cat([self.last(left).relu(), right], dim=1)

    network = Network(Two(), (3, 4, 4))
    left, right, upper = network.layers[:3]
    assert {*layers_on_the_way(network, upper, [left, right, upper])} == {left, upper}


# --- the experiment's measures ----------------------------------------------------------------------------------------


def the_patch(network: Network, inputs: Tensor, layer: str, *unit: Tensor) -> Tensor:
    """The patch less its mean colour: what a perfect reconstruction would be."""
    fields = Fields(network, inputs, layer, *unit)
    return fields.paste(fields.windows - fields.windows.mean(dim=(2, 3), keepdim=True))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> PathStudy:
    """Units that see nothing outside of the image, by the patch itself, a rule, and noise."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
    preprocessing = deconv.Preprocessing((20, 20), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    network = Network(module, (3, 20, 20), {"one": "1", "two": "3"}, preprocessing)
    images = samples.photographs(tmp_path_factory.mktemp("paths") / "photographs", 6)
    peaks = deconv.mine(network, images, ["one", "two"], k=2)
    units = {"one": [0, 1], "two": [n for n in range(6) if peaks["two"].found[n].all()][:3]}
    explanations: dict[str, Opened] = {"gradient": as_rule("gradient"), "random_mask": "random_mask"}
    explanations["the_patch"] = Explanation("the_patch", the_patch)
    return PathStudy(network, images, peaks, units, explanations, None, 0, Local(), None)


@pytest.fixture(scope="module")
def summary(study: PathStudy) -> dict[str, Any]:
    return summarise(study, study.measure())


def test_the_patch_itself_is_alike_everywhere_and_others_less(study: PathStudy, summary: dict[str, Any]) -> None:
    cells = summary["layers"]["two"]
    steps = [f"{FORWARD}/{layer}" for layer in (IMAGE, "one", "two")]
    steps += [f"{WEIGHTED}/{layer}" for layer in (IMAGE, "one")]
    assert list(cells["the_patch"]) == steps and list(cells["second_patch"]) == steps
    for step in steps:
        assert cells["the_patch"][step]["mean"] == pytest.approx(1, abs=1e-4)
        for name in ("random_mask", *BASELINES):
            assert cells[name][step]["units"] == 3 and cells[name][step]["mean"] < 0.95
    assert summary["layers_tested_minus"]["two"]["the_patch"][f"{FORWARD}/one"]["high"] < 0


def test_rules_alone_have_signals_and_they_begin_apart(summary: dict[str, Any]) -> None:
    cells = summary["layers"]["two"]["gradient"]
    for start in (RANDOM, UNITS):
        assert all(0 <= cells[f"{start}/{layer}"]["mean"] <= 1 for layer in (IMAGE, "one", "two"))
    assert cells[f"{UNITS}/two"]["mean"] == 0
    assert [name for name, of in summary["layers"]["two"].items() if f"{RANDOM}/two" in of] == ["gradient"]


def test_where_there_is_no_other_patch_there_is_no_number(study: PathStudy) -> None:
    alone = PathStudy(**vars(study) | {"units": {"two": study.units["two"][:1]}})
    columns = alone.measure()["two"]
    assert np.isnan(columns["other_patches"][f"{FORWARD}/two"]).all()
    assert np.isfinite(columns["second_patch"][f"{FORWARD}/two"]).all()


def test_a_record_of_other_layers_is_refused(study: PathStudy, tmp_path: Path) -> None:
    first = PathStudy(**vars(study) | {"records": tmp_path})
    assert first.measure().keys() == first.measure().keys()
    fewer = PathStudy(**vars(first) | {"units": {"two": study.units["two"]}})
    with pytest.raises(RecordMismatch, match="was made with layers"):
        fewer.measure()


def test_the_chart_has_a_line_for_each_name_in_forward_order(summary: dict[str, Any]) -> None:
    names = ["gradient", "the_patch", "random_mask"]
    figure = paths(summary["layers"], names)
    forward, weighted, backward = figure.axes  # the first layer, which has none below, is not shown
    cells = summary["layers"]["two"]
    for axes, kind, steps in ((forward, FORWARD, (IMAGE, "one", "two")), (weighted, WEIGHTED, (IMAGE, "one"))):
        for name in (*names, *BASELINES):
            colour = (PATCHES[name] if name in PATCHES else style(name))["color"]
            expected = [cells[name][f"{kind}/{step}"]["mean"] for step in steps]
            drawn = [heights(line) for line in axes.lines if line.get_color() == colour]
            assert any(len(line) == len(expected) and np.allclose(line, expected) for line in drawn), (kind, name)
    solid, dotted = (line for line in backward.lines if line.get_color() == style("gradient")["color"])
    expected = [cells["gradient"][f"{RANDOM}/{step}"]["mean"] for step in (IMAGE, "one", "two")]
    assert np.allclose(heights(solid), expected)
    assert dotted.get_linestyle() == ":" and heights(dotted)[-1] == 0
    assert [label.get_text() for label in backward.get_xticklabels()] == [IMAGE, "one", "two"]
    assert "Not shown: one, as none of the layers lies before it" in figure.get_supxlabel().replace("\n", " ")


def test_tables_have_a_block_for_each_kind_and_rules_alone_have_signals(study: PathStudy, tmp_path: Path) -> None:
    found = followed(study)
    mean = found.summary["layers"]["two"]["gradient"][f"{FORWARD}/one"]["mean"]
    blocks = found.table("two").split("\n\n")
    assert [block.splitlines()[1].split()[1:] for block in blocks] == [
        ["the", "image", "one", "two"], ["the", "image", "one"], *[["the", "image", "one", "two"]] * 2
    ]  # fmt: skip
    (row,) = (line for line in blocks[0].splitlines() if line.startswith("gradient "))
    assert f" {mean:.2f} [" in row and [line.split()[0] for line in blocks[3].splitlines()[2:3]] == ["gradient"]
    assert found.table().count("; forward: ") == 2 and found.save(tmp_path / "table.txt").read_text() == f"{found}\n"
    ahead = found.difference("gradient", "the_patch", f"{FORWARD}/one", "two")
    assert ahead == found.summary["layers_tested_minus"]["two"]["the_patch"][f"{FORWARD}/one"]
    rows = found.rows()
    signals = rows["explanation"][np.char.startswith(rows["column"].astype(str), "backward")]
    assert set(signals) == {"gradient"} and len(rows["value"]) == len(rows["unit"])
    with pytest.raises(UnknownName, match="unknown column 'backward_random/one'"):
        found.difference("gradient", "the_patch", f"{RANDOM}/one")
    few = replace(study.peaks, provenance=study.peaks.provenance | {"k": 1})
    with pytest.raises(BadInput, match="peaks: given 1 peaks a unit, 1 an image; expected one an image and two"):
        deconv.path_check(study.network, study.images, few, ["gradient"])


def heights(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata(), dtype=float)
