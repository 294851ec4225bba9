"""deconv/analyses/circuit.py and its experiment: trees whose shares are known beforehand, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deconv
from deconv.analyses.circuit import grow_trees, steps_of
from deconv.command.cli import main
from deconv.errors import BadInput
from deconv.figures.circuit import circuit_figure
from deconv.network import Network
from deconv.projection.rules import Rule
from deconv.records import Reconstructions
from tests import small
from tests.commands import refusal, words
from tests.drawn import assert_drawn
from tests.residual import Residual
from tests.samples import noise

CHAIN = ["high", "middle", "low"]


def known(folder: Path) -> tuple[Network, deconv.Source]:
    """Red, green and blue on the lowest layer; above them sums whose parts are plain from the weights."""
    low, middle, high = (nn.Conv2d(inputs, outputs, 1, bias=False) for inputs, outputs in ((3, 3), (3, 2), (2, 2)))
    state = {
        low: torch.eye(3),
        middle: torch.tensor([[3.0, 1.0, 0.0], [0.0, 1.0, 2.0]]),
        high: torch.tensor([[1.0, 0.0], [2.0, 1.0]]),
    }
    for layer, weight in state.items():
        layer.weight.data = weight[:, :, None, None]
    module = nn.Sequential(low, nn.ReLU(), middle, nn.ReLU(), high, nn.ReLU())
    preprocessing = deconv.Preprocessing((8, 8), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    network = Network(module, (3, 8, 8), {"low": "1", "middle": "3", "high": "5"}, preprocessing)
    return network, deconv.folder(noise(folder / "photos", 4, (8, 8)))


def test_shares_are_those_of_the_weights_and_the_tree_is_grown_of_each_units_own_peaks(tmp_path: Path) -> None:
    network, images = known(tmp_path)
    peaks = deconv.mine(network, images, CHAIN, k=3)
    (plain, sum_), made = grow_trees(network, images, peaks, [0, 1], CHAIN, [2, 2], Rule())
    assert [child.unit for child in plain.children] == [0] and plain.children[0].share == pytest.approx(1)
    assert {child.unit for child in sum_.children} == {0, 1} and sum_.rest == pytest.approx(0, abs=1e-6)
    for tree, unit in ((plain, 0), (sum_, 1)):
        above = peaks["high"].scores_of([unit])
        assert tree.pictures[0].score.tolist() == pytest.approx(above.tolist())
        for child in tree.children:
            weight = float(network.module[4].weight.detach()[unit, child.unit])  # type: ignore[index]
            activation = torch.stack([
                network.forward(inputs_of(network, images, int(image)), ["middle"])["middle"][0, child.unit, row, col]
                for image, row, col in zip(*(peaks["high"].of([unit])[n] for n in (0, 2, 3)), strict=True)
            ])  # fmt: skip
            assert child.share == pytest.approx(float((weight * activation).sum() / above.sum()), rel=1e-4)
            assert child.shares_of_peaks == pytest.approx((weight * activation / above).tolist(), rel=1e-4)
            place = [(row + 0.5, col + 0.5) for row, col in zip(*peaks["high"].of([unit])[2:], strict=True)]
            assert [tuple(map(float, each)) for each in child.places if each] == [tuple(map(float, p)) for p in place]
            assert child.pictures[0].score.tolist() == pytest.approx(peaks["middle"].scores_of([child.unit]).tolist())
            assert child.above is not None and float(child.above[0].score) in [
                pytest.approx(float(a)) for a in activation
            ]
    assert set(made) == set(CHAIN) and list(made["high"].parts) == ["middle"] and not made["low"].parts
    assert plain.children[0].for_half == 1 and plain.children[0].children[0].rest is None
    numbers = sum_.numbers()
    assert numbers["others"] == pytest.approx(0, abs=1e-6) and numbers["made_of"][0]["layer"] == "middle"


def inputs_of(network: Network, images: deconv.Source, image: int) -> torch.Tensor:
    preprocessing = network.needed_preprocessing()
    return preprocessing.normalize(preprocessing.input_image(images.image(image))[None])


def test_strong_peaks_count_for_more_and_a_dead_unit_is_made_of_nothing(tmp_path: Path) -> None:
    network, images = known(tmp_path)
    peaks = deconv.mine(network, images, CHAIN, k=2)
    recon = deconv.project_peaks(network, images, "high", peaks["high"], [1], through=["middle"])
    assert torch.allclose(recon.parts.of_whole("middle"), recon.parts["middle"].sum(0) / recon.score.sum())
    assert not recon.of(recon.channel == 0).parts.of_whole("middle").any()


def test_a_tree_is_drawn_with_a_joint_for_each_lower_unit_and_its_percentage(tmp_path: Path) -> None:
    network, images = known(tmp_path)
    peaks = deconv.mine(network, images, CHAIN, k=2)
    (tree,), _ = grow_trees(network, images, peaks, [1], CHAIN, [2, 2], Rule())
    figure = circuit_figure(tree, "a tree")
    (joints,) = [axes for axes in figure.axes if axes.get_label() == "joints"]
    below = [*tree.children, *(low for child in tree.children for low in child.children)]
    assert len(joints.patches) == len(below)
    assert sorted(text.get_text() for text in joints.texts) == sorted(f"{child.share * 100:.0f} %" for child in below)
    widths = {text.get_text(): joint.get_linewidth() for text, joint in zip(joints.texts, joints.patches, strict=True)}
    assert len(set(widths.values())) > 1
    for text, width in widths.items():
        assert width == pytest.approx(60 * float(text.removesuffix(" %")) / 100 * 0.72, abs=0.3)
    assert any("high unit 1" in text.get_text() for text in figure.texts)


def test_layers_are_spread_or_named(tmp_path: Path) -> None:
    network, _ = known(tmp_path)
    assert steps_of(network, "high", None, 9, Rule()) == ["middle", "low"]
    assert steps_of(network, "high", ["low"], 1, Rule()) == ["low"]
    assert steps_of(network, "high", ["low", "middle"], 2, Rule()) == ["middle", "low"]
    with pytest.raises(
        BadInput,
        match="layers: given high; expected layers that 'deconvnet' passes .* back from middle, low: layer=middle is",
    ):
        steps_of(network, "middle", ["high", "low"], 2, Rule())
    with pytest.raises(BadInput, match="layer: given low; expected one with layers below it"):
        steps_of(network, "low", None, 2, Rule())


def residual(folder: Path) -> tuple[Network, deconv.Source]:
    module = Residual()
    preprocessing = deconv.Preprocessing((8, 8), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Network(module, (3, 8, 8), None, preprocessing), deconv.folder(noise(folder / "photos", 4, (8, 8)))


def test_a_tree_takes_the_outputs_of_residual_blocks_and_says_what_leads_around_a_layer_within(tmp_path: Path) -> None:
    network, images = residual(tmp_path)
    assert steps_of(network, "out", None, 3, Rule()) == ["relu"]
    within = steps_of(network, "out", ["inner_relu", "relu"], 2, Rule())
    peaks = deconv.mine(network, images, ["out", *within], k=2)
    (whole,), _ = grow_trees(network, images, peaks, [2], ["out", "relu"], [2], Rule())
    assert whole.children[0].unit == 2 and whole.children[0].share > 0.9 and whole.around == 0
    assert sum(child.share for child in whole.children) == pytest.approx(1)
    (branch,), _ = grow_trees(network, images, peaks, [2], ["out", *within], [2, 2], Rule())
    assert branch.around == pytest.approx(whole.children[0].share) and branch.rest == pytest.approx(branch.around)
    assert branch.children[0].around == 0 and branch.numbers()["around"] == branch.around
    texts = {tree: " ".join(text.get_text() for text in circuit_figure(tree, "").texts) for tree in (whole, branch)}
    assert f"around {round(100 * whole.children[0].share)} %" in texts[branch] and "skip connection" in texts[branch]
    assert "around" not in texts[whole]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small.said("circuit", tmp_path_factory.mktemp("circuit"))


def test_it_leaves_its_records_pictures_and_numbers(
    said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*said, f"folder={tmp_path / 'run'}"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["layer"] == "conv3" and summary["layers"] == ["conv2", "conv1"] and len(summary["trees"]) == 2
    top = Reconstructions.load(tmp_path / "run/conv3.reconstructions.safetensors")
    for tree in summary["trees"]:
        assert f"unit{tree['unit']}.png" in printed.err
        assert_drawn(tmp_path / "run", f"unit{tree['unit']}")
        shares = top.of(top.channel == tree["unit"]).parts.of_whole("conv2")
        held = [child["share"] for child in tree["made_of"]]
        assert held == pytest.approx(shares.sort(descending=True).values[:2].tolist())
        assert tree["others"] + tree["rest"] + sum(held) == pytest.approx(1)
        assert all(len(child["made_of"]) <= 1 for child in tree["made_of"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["layer=conv1"], "layer: given conv1; expected one with layers below it"),
        (["layer=conv9"], "unknown layer 'conv9'"),
        (
            ["layers=[conv4]"],
            "layers: given conv4; expected layers that 'deconvnet' passes on its way back from conv3",
        ),
        (
            ["layers=[conv3]"],
            "from conv3, conv1, conv2: layer=conv3 is that of the units, layers=[...] are the lower ones",
        ),
        (
            ["layers=[conv1,conv2]", "branches=[3]"],
            "branches: given [3]; expected a number for each layer that the tree",
        ),
        (["branches=[0]"], "branches=[0]: expected 1 or more"),
        (["units=[9999]"], "units: given 9999; expected a whole number, 0 to"),
        (["rule=deconvnt"], "unknown rule 'deconvnt'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path, capsys)
