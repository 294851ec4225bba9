"""deconv/projection: against captum, against the paper word by word, and the three strategies against each other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import NeuronDeconvolution, NeuronGuidedBackprop
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from deconv.errors import BadInput, RecordMismatch, UnknownName, UnsupportedOperation
from deconv.mining import mine
from deconv.network import Network
from deconv.projection import check_rules, project, project_peaks
from deconv.projection.passes import backward, forward
from deconv.projection.rules import RULES
from deconv.projection.windows import WholeMaps
from tests import reference
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at

CAPTUM_LAYERS = {
    "alexnet": ["features.1", "features.4", "features.9"],
    "vgg11": ["features.1", "features.9"],
    "squeezenet1_1": ["features.1", "features.4.expand3x3_activation", "features.9.squeeze_activation"],
}


def random_peaks(maps: Tensor, count: int, seed: int) -> Tensor:
    """(count, 4) image, channel, row, col that fire: eight at corners, eight on borders, the others anywhere."""
    generator = torch.Generator().manual_seed(seed)
    _, _, height, width = maps.shape
    row, col = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    on_rows, on_cols = (row == 0) | (row == height - 1), (col == 0) | (col == width - 1)
    peaks = []
    for region, n in ((on_rows & on_cols, 8), (on_rows | on_cols, 8), (torch.ones_like(on_rows), count - 16)):
        firing = ((maps > 0) & region).nonzero()
        peaks.append(firing[torch.randint(len(firing), (n,), generator=generator)])
    return torch.cat(peaks)


def project_by_captum(kind: type, module: nn.Module, layer: str, images: Tensor, peaks: Tensor) -> Tensor:
    """Captum seeds with one. All peaks of one call: the images are repeated, each with a neuron of its own."""
    model = copy.deepcopy(module)
    for submodule in model.modules():
        if isinstance(submodule, nn.ReLU):
            submodule.inplace = False
    image, channel, row, col = peaks.T
    attribution = kind(model, model.get_submodule(layer))
    repeated = images[image].requires_grad_()
    with pytest.warns(UserWarning, match="Setting backward hooks on ReLU activations"):
        return attribution.attribute(repeated, lambda maps: maps[torch.arange(len(peaks)), channel, row, col]).detach()


@pytest.mark.parametrize("name", CAPTUM_LAYERS)
def test_deconvnet_guided_and_gradient_equal_captum_and_autograd(name: str) -> None:
    torch.manual_seed(0)
    module = models.get_model(name, weights=None).eval()
    network = Network(module, (3, 64, 64))
    images = torch.randn(3, 3, 64, 64)
    for layer in CAPTUM_LAYERS[name]:
        peaks = random_peaks(network.forward(images, [layer])[layer], 40, seed=len(layer))
        for rule, kind in (("deconvnet", NeuronDeconvolution), ("guided", NeuronGuidedBackprop)):
            recon = project_at(network, images, layer, peaks, rule=rule)
            expected = project_by_captum(kind, module, layer, images, peaks) * recon.score[:, None, None, None]
            assert relative_error(recon.paste(), expected).max() < 1e-5
        recon = project_at(network, images, layer, peaks, rule="gradient")
        score, expected = project_by_autograd(
            create_feature_extractor(module, {layer: "maps"}), images, peaks, "gradient", seed=recon.score
        )
        torch.testing.assert_close(recon.score, score)
        assert relative_error(recon.paste(), expected).max() < 1e-5


def paper_like_trunk() -> nn.Sequential:
    """The kinds of layers of the paper's network: strides, overlapping pools with and without ceil_mode, LRN."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5),
        nn.Conv2d(8, 12, 5, 2, groups=2), nn.BatchNorm2d(12), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(),
    ).eval()  # fmt: skip


@pytest.mark.parametrize(
    "trunk", [paper_like_trunk, lambda: models.alexnet().features[:8].eval()], ids=["paper", "alexnet"]
)
def test_deconvnet_is_what_the_paper_says(trunk: Callable[[], nn.Sequential]) -> None:
    module = trunk().double()
    images = torch.randn(1, 3, 75, 83, dtype=torch.float64)
    network = Network(module, (3, 75, 83))
    layer = network.layers[-1]
    peaks = random_peaks(network.forward(images, [layer])[layer], 20, seed=0)
    found = project_at(network, images, layer, peaks).paste()
    with torch.no_grad():
        slow = torch.stack([reference.deconvnet(module, images[0], (c, r, s)) for _, c, r, s in peaks.tolist()])
    assert relative_error(found, slow).max() < 1e-5


def test_unpooling_that_overwrites_does_not_agree() -> None:
    """torch's MaxUnpool2d keeps one of the values that share a switch; overlapping pools need their sum."""
    trunk = paper_like_trunk()
    image = torch.randn(3, 75, 83)
    with torch.no_grad():
        maps = trunk(image[None])
        channel, row, col = (maps[0] == maps.max()).nonzero()[0].tolist()
        adding = reference.deconvnet(trunk, image, (channel, row, col))
        overwriting = reference.deconvnet(trunk, image, (channel, row, col), overwrite=True)
    found = project(Network(trunk, (3, 75, 83)), image[None], "9", [0], [channel], [row], [col]).paste()
    assert relative_error(found, adding[None]).item() < 1e-5
    assert relative_error(found, overwriting[None]).item() > 0.05


def test_unpooling_references_differ_only_where_switches_meet() -> None:
    maps = torch.tensor([[[[0.0, 1, 0, 0, 0], [2, 0, 9, 0, 3], [0, 0, 0, 0, 0]]]])
    _, switches = nn.functional.max_pool2d(maps, 3, 2, return_indices=True)
    signal = torch.tensor([[[[5.0, 7.0]]]])
    added = reference.unpool_adding(signal, switches, maps.shape)
    kept = reference.unpool_overwriting(signal, switches, maps.shape)
    assert added[0, 0, 1, 2] == added.sum() == 12
    assert kept[0, 0, 1, 2] == kept.sum() and kept.sum() in (5, 7)
    assert nn.MaxUnpool2d(3, 2)(signal, switches, output_size=maps.shape[2:]).sum() in (5, 7)


def small_trunk() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(3), nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Network:
    return Network(small_trunk(), (3, 41, 45))


IMAGES = torch.randn(4, 3, 41, 45, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("rule", RULES)
def test_a_zero_seed_gives_zero_and_a_scaled_seed_the_scaled_result(small: Network, rule: str) -> None:
    target = small.node("8")
    with torch.no_grad():
        maps = WholeMaps(small.graph, torch.zeros((len(IMAGES), 2), dtype=torch.int64))
        value, tape, _ = forward(small.graph, target, small.check_images(IMAGES), [rule], maps)
        seed = torch.where(torch.rand(value.shape) < 0.05, value, 0)

        def send(signal: Tensor) -> Tensor:
            return backward(small.graph, target, signal.clone(), tape, rule, maps)

        once = send(seed)
        assert once.abs().max() > 0
        assert not send(torch.zeros_like(seed)).any()
        torch.testing.assert_close(send(seed * 3.5), once * 3.5)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
def test_a_unit_that_does_not_fire_gives_zero(small: Network, rule: str) -> None:
    silent = (small.forward(IMAGES, ["5"])["5"] == 0).nonzero()[:6]
    recon = project_at(small, IMAGES, "5", silent, rule=rule)
    assert not recon.score.any() and not recon.pixels.any()


@pytest.mark.parametrize("strategy", ["window", "shared", "whole"])
def test_nothing_comes_back_outside_the_receptive_field_or_the_image(small: Network, strategy: str) -> None:
    height, width = small.map_size("8")
    positions = torch.tensor([(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (1, 2)])
    peaks = torch.cat([torch.tensor([[0, 3]]).expand(5, 2), positions], 1)
    recon = project_at(small, IMAGES, "8", peaks, rule="gradient", strategy=strategy)
    field = small.receptive_field("8")
    assert recon.pixels.shape == (5, 3, *field.size)
    assert [tuple(box) for box in recon.box.tolist()] == [field.box(row, col) for row, col in positions.tolist()]
    for pixels, (y0, x0, _, _) in zip(recon.pixels, recon.box.tolist(), strict=True):
        rows, cols = torch.arange(field.size[0]) + y0, torch.arange(field.size[1]) + x0
        inside = ((rows >= 0) & (rows < 41))[:, None] & ((cols >= 0) & (cols < 45))
        assert not pixels[:, ~inside].any()
    # one activation is a hundredth of the others, a small difference of large terms: its rounding is not the pixels'
    score, expected = project_by_autograd(small_trunk()[:9], IMAGES, peaks, "gradient", seed=recon.score)
    torch.testing.assert_close(recon.score, score)
    assert relative_error(recon.paste(), expected).max() < 1e-5


def test_paste_puts_the_pixels_where_the_box_says(small: Network) -> None:
    recon = project(small, IMAGES, "5", [1, 2], [0, 4], [4, 0], [5, 0])
    pasted = recon.paste()
    assert pasted.shape == (2, 3, 41, 45)
    for frame, pixels, (y0, x0, y1, x1) in zip(pasted, recon.pixels, recon.box.tolist(), strict=True):
        outer = torch.zeros(3, 41 + 200, 45 + 200)
        outer[:, 100 + y0 : 100 + y1, 100 + x0 : 100 + x1] = pixels
        torch.testing.assert_close(frame, outer[:, 100:141, 100:145], rtol=0, atol=0)
        assert frame.sum() == pixels.sum()


def test_a_fully_connected_unit_comes_back_to_the_whole_image(small: Network) -> None:
    peaks = torch.tensor([[0, 0, 0, 0], [3, 4, 0, 0], [0, 2, 0, 0]])
    for rule in RULES:
        recon = project_at(small, IMAGES, small.layers[-1], peaks, rule=rule)
        assert recon.pixels.shape == (3, 3, 41, 45) and recon.box.tolist() == [[0, 0, 41, 45]] * 3
        score, expected = project_by_autograd(small_trunk(), IMAGES, peaks, rule)
        torch.testing.assert_close(recon.score, score)
        assert relative_error(recon.pixels, expected).max() < 1e-5


@pytest.mark.parametrize("layer", ["5", "8", "11"])
def test_no_peaks_give_an_empty_record(small: Network, layer: str) -> None:
    recon = project(small, IMAGES, layer, [], [], [], [])
    assert recon.pixels.shape == (0, 3, *small.receptive_field(layer).size)
    assert recon.box.shape == (0, 4) and recon.box.dtype == torch.int64 and len(recon.paste()) == 0


def test_scores_are_checked_against_those_mined(small: Network) -> None:
    peaks = random_peaks(small.forward(IMAGES, ["5"])["5"], 20, seed=5)
    score = project_at(small, IMAGES, "5", peaks).score
    project_at(small, IMAGES, "5", peaks, score=score * 1.0005)
    for wrong in (score * 1.002, score.where(torch.arange(20) != 7, float("nan"))):
        with pytest.raises(RecordMismatch, match=r"5: peak \d+ was mined with score .* Mine again"):
            project_at(small, IMAGES, "5", peaks, score=wrong)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layer": "55"}, UnknownName, "unknown layer '55'; expected one of 1, 5, 8"),
        ({"rule": "lrp"}, UnknownName, "unknown rule 'lrp'; expected one of deconvnet, guided, gradient"),
        ({"strategy": "fast"}, UnknownName, "unknown strategy 'fast'; expected one of auto"),
        ({"image": [4]}, BadInput, "image: given 4; expected 0 to 3"),
        ({"image": [-1]}, BadInput, "image: given -1; expected 0 to 3: -1 marks a missing peak"),
        ({"channel": [8]}, BadInput, "channel: given 8; expected 0 to 7"),
        ({"row": [10]}, BadInput, "row: given 10; expected 0 to 9"),
        (
            {"col": [0, 1]},
            BadInput,
            r"image, row, col, channel: given lengths \[1, 1, 2, 1\]; expected one entry",
        ),
        ({"layer": "11", "strategy": "window"}, BadInput, "expected another one for a layer .* whole image"),
        ({"images": torch.zeros(4, 1, 41, 45)}, BadInput, r"images: given Tensor of shape \(\d, 1, 41, 45\)"),
        ({"images": torch.zeros(4, 3, 41, 45, dtype=torch.uint8)}, BadInput, "preprocessed images"),
        (
            {"images": np.zeros((4, 3, 41, 45))},
            BadInput,
            "images: given ndarray .*expected a Source, a Dataset, or preprocessed",
        ),
        ({"network": nn.ReLU()}, BadInput, "network: given ReLU; expected a deconv.Network"),
        ({"layer": ["5"]}, UnknownName, r"unknown layer \['5'\]"),
        ({"rule": 3}, BadInput, "rule: given 3; expected one of deconvnet"),
        ({"image": 0}, BadInput, "image: given 0; expected a list of whole numbers, one for each peak"),
        ({"channel": [0.5]}, BadInput, r"channel: given \[0.5\]; expected a list of whole numbers"),
        ({"row": "3"}, BadInput, "row: given 3; expected a list of whole numbers"),
        ({"col": torch.zeros(1, 1, dtype=torch.int64)}, BadInput, "col: given Tensor of shape .* expected a list"),
        ({"row": torch.tensor([True])}, BadInput, "row: given Tensor .*bool; expected a list of whole numbers"),
        ({"switches_of": [0]}, BadInput, "switches_of: given images with a rule of switches 'recorded'"),
        ({"switches_of": [9], "rule": {"switches": "other"}}, BadInput, "switches_of: given 9; expected 0 to 3"),
        ({"score": torch.zeros(2)}, BadInput, r"score: given shape \(2,\); expected one for each of 1 peaks"),
    ],
)
def test_mistakes_are_named(
    small: Network, change: dict, error: type[Exception], message: str, unchecked: None
) -> None:
    arguments: dict[str, Any] = {"network": small, "images": IMAGES, "layer": "5"}
    arguments |= {"image": [0], "channel": [0], "row": [0], "col": [0]} | change
    with pytest.raises(error, match=message):
        project(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 3}, r"units: given 3; expected a list of units of 5, 0 to 7: \[3\] for one"),
        ({"units": [500]}, "units: given 500; expected a whole number, 0 to 7"),
        ({"units": [-1]}, "units: given -1; expected a whole number, 0 to 7"),
        ({"units": [1.5]}, "units: given 1.5; expected a whole number, 0 to 7"),
        ({"units": "12"}, "units: given 12; expected a list of units of 5"),
        ({"peaks": {}}, r"peaks: given dict; expected the LayerPeaks of one layer: peaks\['5'\]"),
        ({"images": IMAGES.numpy()}, "images: given ndarray of shape"),
    ],
)
def test_mistakes_about_mined_peaks_are_named(small: Network, change: dict, message: str, unchecked: None) -> None:
    peaks = mine(small, IMAGES, ["5"], k=1)["5"]
    arguments = {"network": small, "images": IMAGES, "layer": "5", "peaks": peaks, "units": [3]} | change
    with pytest.raises(BadInput, match=message):
        project_peaks(**arguments)


def test_rules_are_checked_for_whole_layers(small: Network) -> None:
    check_rules(small, small.layers, RULES)
    smooth = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.SiLU()), (3, 8, 8))
    check_rules(smooth, ["1"], ["deconvnet"], size=(9, 12))
    check_rules(smooth, ["3"], ["gradient"])
    with pytest.raises(UnsupportedOperation, match="'deconvnet' has no way back through 'silu' in 3"):
        check_rules(smooth, ["1", "3"], ["gradient", "deconvnet"])


def test_peaks_of_other_images_or_of_another_layer_are_told() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 5, 3), nn.ReLU()]
    network, images = Network(nn.Sequential(*layers), (3, 12, 12)), torch.randn(9, 3, 12, 12)
    peaks = mine(network, images, ["1", "3", "5"], k=9)
    with pytest.raises(RecordMismatch, match=r"lie in image \d among others, and the 3 images have none of"):
        project_peaks(network, images[:3], "3", peaks["3"], [0])
    with pytest.raises(RecordMismatch, match=r"peaks of 4 units; 3 has 5: give peaks\['3'\]"):
        project_peaks(network, images, "3", peaks["1"], [0])
    with pytest.raises(RecordMismatch, match="the layer, weights, images or preprocessing are not those of the record"):
        project_peaks(network, images, "5", replace(peaks["5"], score=peaks["5"].score * 1.5), [0])
    with pytest.raises(RecordMismatch, match=r"these peaks are not of 5 for these images \((row|col): given \d; e"):
        project_peaks(network, images, "5", peaks["3"], [0, 1, 2, 3, 4])


def test_the_peaks_of_a_layer_know_it() -> None:
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()), (3, 12, 12))
    images = torch.randn(4, 3, 12, 12)
    peaks = mine(network, images, ["1", "3"], k=2)
    assert [peaks[name].layer for name in peaks] == ["1", "3"] and repr(peaks["3"]).startswith(
        "<LayerPeaks: 3, 4 units"
    )
    named = project_peaks(network, images, "3", peaks["3"], [2, 0])
    known = project_peaks(network, images, peaks["3"], units=[2, 0])
    assert torch.equal(named.pixels, known.pixels) and named.provenance == known.provenance
    with pytest.raises(BadInput, match=r"peaks: given some that know no layer; expected peaks\[layer\]"):
        project_peaks(network, images, replace(peaks["3"], layer=""), units=[0])
    with pytest.raises(BadInput, match=r"units: given none; expected the numbers of some units"):
        project_peaks(network, images, peaks["3"])  # type: ignore[call-overload]
    with pytest.raises(BadInput, match=r"peaks: given two arguments"):
        project_peaks(network, images, peaks["3"], peaks["3"], units=[0])  # type: ignore[call-overload]
