"""deconv/network/directions.py: weighted sums of a layer's channels are a layer like any other."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deconv
from deconv.compare.randomising import blocks, renewed
from deconv.errors import BadInput, UnknownName, UnsupportedOperation
from deconv.network.classes import class_layer, top_layer
from deconv.projection import project_together
from tests.samples import images, network, photographs, with_preprocessing

ONE_HOT = torch.eye(6)[[4, 1, 3]]
RULES = ("deconvnet", "guided", "gradient")
MIXED = torch.randn(3, 6, generator=torch.Generator().manual_seed(5))


class Classifier(nn.Module):
    """Maps, pooled, of two groups of channels side by side, and class scores of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.wide, self.point = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 5, 1)
        self.hidden, self.scores = nn.Linear(9 * 81, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv(x)), 2)
        x = torch.cat([torch.relu(self.wide(x)), torch.relu(self.point(x))], 1)
        return self.scores(torch.relu(self.hidden(x.flatten(1))))


@pytest.fixture(scope="module")
def classifier() -> deconv.Network:
    return deconv.Network(Classifier(), (3, 20, 20), {"joined": "cat", "hidden": "relu_3"})


def same_peaks(mined: deconv.Peaks, layer: str, source: str, channels: list[int]) -> bool:
    made, own = mined[layer], mined[source]
    return all(
        torch.equal(getattr(made, axis), getattr(own, axis)[channels]) for axis in ("image", "row", "col", "box")
    ) and torch.allclose(made.score, own.score[channels], rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("layer", ["one", "two"])
def test_one_hot_directions_have_their_channels_peaks_and_pictures(layer: str) -> None:
    plain, pixels = network(), images(8)
    channels = [4, 1, 3]
    wide = plain.with_units(layer, torch.eye(plain.channels(layer))[channels], name="hot")
    made = f"{layer}@hot"
    mined = deconv.mine(wide, pixels, [layer, made], k=3)
    assert same_peaks(mined, made, layer, channels) and mined[made].found.any()
    for rule in RULES:
        by_direction = deconv.project_peaks(wide, pixels, made, mined[made], [0, 1, 2], rule)
        by_channel = deconv.project_peaks(plain, pixels, layer, mined[layer], channels, rule)
        assert by_direction.pixels.abs().max() > 0
        torch.testing.assert_close(by_direction.pixels, by_channel.pixels, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_sum_add_and_are_autograds(classifier: deconv.Network) -> None:
    weights = torch.randn(2, 9, generator=torch.Generator().manual_seed(1))
    wide, pixels = classifier.with_units("joined", weights, torch.tensor([0.3, 9.0]), name="mix"), images(4)
    where: dict[str, Any] = {"image": [0, 3, 2], "row": [4, 0, 8], "col": [2, 8, 5]}
    sums = wide.forward(pixels, ["cat@mix"])["cat@mix"][where["image"], 1, where["row"], where["col"]]
    assert bool((sums > 0).all())
    mixed = deconv.project(wide, pixels, "joined@mix", channel=[1, 1, 1], rule="gradient", **where)
    parts = [
        deconv.project(wide, pixels, "joined", channel=[c] * 3, rule="gradient", **where).pixels * weight
        for c, weight in enumerate(weights[1].tolist())
    ]
    # A projection begins with the activation: a gradient times it, for the direction and for each channel.
    scores = [
        wide.forward(pixels, ["joined"])["joined"][where["image"], c, where["row"], where["col"]] for c in range(9)
    ]
    slopes = sum(
        part / score.where(score != 0, torch.ones(()))[:, None, None, None]
        for part, score in zip(parts, scores, strict=True)
    )
    torch.testing.assert_close(mixed.pixels, slopes * sums[:, None, None, None], rtol=1e-4, atol=1e-5)

    kept: list[Tensor] = []
    module = classifier.module.eval()
    inputs = pixels.clone().requires_grad_()
    joined: list[Tensor] = []
    handles = [
        module.get_submodule(name).register_forward_hook(lambda _, __, value: joined.append(torch.relu(value)))
        for name in ("wide", "point")
    ]
    try:
        module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    maps = torch.cat(joined, 1)
    direction = torch.relu(torch.einsum("nchw,c->nhw", maps, weights[1]) + 9.0)
    for image, row, col in zip(where["image"], where["row"], where["col"], strict=True):
        (slope,) = torch.autograd.grad(direction[image, row, col], inputs, retain_graph=True)
        kept.append(slope[image] * direction[image, row, col].detach())
    for picture, box, expected in zip(mixed.pixels, mixed.box.tolist(), kept, strict=True):
        y0, x0, y1, x1 = box
        inside = picture[:, max(0, -y0) : 20 - y0, max(0, -x0) : 20 - x0]
        torch.testing.assert_close(inside, expected[:, max(y0, 0) : y1, max(x0, 0) : x1], rtol=1e-4, atol=1e-5)


def test_the_layer_is_what_its_weights_say() -> None:
    plain, pixels, bias = network(), images(3), torch.tensor([0.2, -0.1, 0.0])
    maps = plain.forward(pixels, ["one"])["one"]
    sums = torch.einsum("nchw,uc->nuhw", maps, MIXED) + bias[:, None, None]
    assert bool((sums < 0).any())
    wide = plain.with_units("one", MIXED, bias, name="a").with_units("one", MIXED, bias, name="b", rectify=False)
    values = wide.forward(pixels, ["one@a", "one@b", "two", "1@a.sum"])
    torch.testing.assert_close(values["one@a"], sums.relu())
    torch.testing.assert_close(values["one@b"], sums)
    torch.testing.assert_close(values["1@a.sum"], sums)
    torch.testing.assert_close(values["two"], plain.forward(pixels, ["two"])["two"])
    assert wide.rectified("one@a") and not wide.rectified("one@b")


def test_names_order_and_fields() -> None:
    plain = network()
    wide = plain.with_units("one", MIXED, name="a").with_units("1", MIXED, name="b")
    wide = wide.with_units("one@a", torch.eye(3)[:2], name="c")
    assert wide.layers == ["1", "1@a", "1@a@c", "1@b", "3"] and plain.layers == ["1", "3"]
    assert list(wide.aliases) == ["one", "two", "one@a", "one@b", "one@a@c"] and list(plain.directions) == []
    assert [wide.channels(layer) for layer in wide.layers] == [6, 3, 2, 3, 5]
    for size in ((20, 20), (31, 26)):
        assert wide.map_size("one@a@c", size) == plain.map_size("one", size)
        assert wide.receptive_field("one@a@c", size) == plain.receptive_field("one", size)
    torch.testing.assert_close(
        wide.forward(images(2), ["one@a@c"])["one@a@c"], wide.forward(images(2), ["one@a"])["one@a"][:, :2]
    )


def test_a_layer_without_maps(classifier: deconv.Network) -> None:
    wide, pixels = classifier.with_units("hidden", torch.eye(7)[[5, 2]], name="hot"), images(6)
    mined = deconv.mine(wide, pixels, ["hidden", "hidden@hot"], k=2)
    assert same_peaks(mined, "hidden@hot", "hidden", [5, 2]) and mined["hidden@hot"].found.any()
    for rule in RULES:
        pair = [
            deconv.project_peaks(wide, pixels, layer, mined[layer], units, rule).pixels
            for layer, units in (("hidden@hot", [0, 1]), ("hidden", [5, 2]))
        ]
        assert pair[0].abs().max() > 0
        torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)
    assert not wide.graph_at((24, 24)).layers.get("relu_3@hot")  # there the module cannot run on
    with pytest.raises(
        UnsupportedOperation, match="^layer 'relu_3@hot' cannot be traced for an input of .3, 24, 24.: m"
    ):
        wide.node("hidden@hot", (24, 24))


def test_class_scores_stay_the_last_layer(classifier: deconv.Network) -> None:
    wide = classifier.with_units("scores", torch.randn(3, 4), name="odd")
    assert wide.layers[-2:] == ["scores", "scores@odd"]
    assert class_layer(wide) == "scores" and top_layer(wide) == "hidden" == top_layer(classifier)


def test_a_layer_of_another_type_than_the_weights() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return torch.relu(self.conv(x))

    half = deconv.Network(Half(), (3, 12, 12))
    wide = half.with_units("relu", ONE_HOT, name="hot")
    values = wide.forward(torch.randn(2, 3, 12, 12), ["relu", "relu@hot"])
    torch.testing.assert_close(values["relu@hot"], values["relu"][:, [4, 1, 3]])


def test_activations_that_are_laid_out_channels_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 6)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.linear(x.permute(0, 2, 3, 1))).mean((1, 2))

    wide = deconv.Network(Last(), (3, 6, 6)).with_units("relu", ONE_HOT, name="hot")
    values = wide.forward(torch.randn(2, 3, 6, 6), ["relu", "relu@hot"])
    torch.testing.assert_close(values["relu@hot"], values["relu"][:, [4, 1, 3]])


def test_the_hash_tells_directions_apart() -> None:
    plain = network()
    before = plain.weights_hash
    bias = torch.zeros(3)
    kinds = {
        plain.weights_hash,
        plain.with_units("one", MIXED, name="a").weights_hash,
        plain.with_units("one", MIXED, name="b").weights_hash,
        plain.with_units("one", MIXED, bias, name="a").weights_hash,
        plain.with_units("one", MIXED, name="a", rectify=False).weights_hash,
        plain.with_units("one", MIXED.flip(0), name="a").weights_hash,
    }
    assert len(kinds) == 6 and plain.weights_hash == before
    again = network().with_units("one", MIXED.clone(), name="a")
    assert again.provenance() == plain.with_units("1", MIXED, name="a").provenance()


def test_the_weights_are_copied() -> None:
    weights = MIXED.clone()
    wide = network().with_units("one", weights, name="a")
    before = wide.forward(images(1), ["one@a"])["one@a"]
    weights.zero_()
    assert torch.equal(wide.forward(images(1), ["one@a"])["one@a"], before) and before.any()


def test_it_travels_and_is_made_again() -> None:
    wide = network().with_units("one", MIXED, name="a").with_units("one@a", torch.eye(3), name="b", rectify=False)
    copied = pickle.loads(pickle.dumps(wide))
    assert (copied.weights_hash, copied.layers, copied.aliases) == (wide.weights_hash, wide.layers, wide.aliases)
    size = (26, 31)  # which neither of them has met
    pixels = torch.randn(2, 3, *size)
    assert torch.equal(copied.forward(pixels, ["one@a@b"])["one@a@b"], wide.forward(pixels, ["one@a@b"])["one@a@b"])
    again = renewed(wide, wide.module)
    assert (again.weights_hash, again.layers, again.aliases) == (wide.weights_hash, wide.layers, wide.aliases)
    assert blocks(wide, ["one", "one@a", "two"]) == {"one": ["", "0", "1"], "one@a": [], "two": ["2", "3"]}


def test_look_and_one_photograph(tmp_path: Path) -> None:
    source = photographs(tmp_path)
    wide = with_preprocessing().with_units("one", ONE_HOT, name="hot")
    look = deconv.look(wide, source, "one@hot", k=2)
    assert look.reconstructions["one@hot"].layer == "one@hot" and len(look.peaks["one@hot"].score) == 3
    seen = [
        deconv.project_strongest(wide, source, 0, layer, units)
        for layer, units in (("one@hot", [0, 2]), ("one", [4, 3]))
    ]
    torch.testing.assert_close(seen[0].pixels, seen[1].pixels)


def test_several_rules_at_once_carry_directions() -> None:
    wide, pixels = network().with_units("two", torch.rand(2, 5), name="r"), images(3)
    rules = [(deconv.Rule(), torch.tensor([1])), (deconv.Rule(relu="both"), torch.tensor([1]))]
    image = row = col = torch.tensor([1])
    both = project_together(wide, pixels, "two@r", image, row, col, rules)
    for recon, (rule, channel) in zip(both, rules, strict=True):
        single = deconv.project(wide, pixels, "two@r", image, channel, row, col, rule)
        torch.testing.assert_close(recon.pixels, single.pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": torch.ones(2, 5)},
            "weights: given Tensor of shape (2, 5) and torch.float32; expected numbers of ",
        ),
        (
            {"weights": torch.ones(6)},
            "weights: given Tensor of shape (6,) and torch.float32; expected numbers of shape",
        ),
        ({"weights": torch.ones(0, 6)}, "weights: given Tensor of shape (0, 6)"),
        ({"weights": "nmf"}, "weights: given nmf; expected numbers of shape (directions, 6), one's channels"),
        (
            {"weights": torch.full((2, 6), torch.nan)},
            "weights: given Tensor of shape (2, 6) and torch.float32 with NaN",
        ),
        (
            {"weights": torch.full((2, 6), 1e300, dtype=torch.float64)},
            "infinite values in torch.float32; expected finite",
        ),
        (
            {"weights": torch.ones(2, 6) > 0},
            "weights: given Tensor of shape (2, 6) and torch.bool; expected real numbers",
        ),
        ({"bias": torch.ones(2)}, "bias: given Tensor of shape (2,) and torch.float32; expected numbers of shape (3,)"),
        (
            {"bias": torch.tensor([0.0, torch.inf, 1.0])},
            "bias: given Tensor of shape (3,) and torch.float32 with NaN or",
        ),
        ({"name": ""}, "name: given ; expected letters, digits, dashes and underscores, as 'nmf'"),
        ({"name": "a.b"}, "name: given a.b; expected letters"),
        ({"name": "taken"}, "name: given taken; expected one that is not taken, as '1@taken' is: give another"),
        ({"rectify": 1}, "rectify: given 1; expected True or False"),
    ],
    ids=str,
)
def test_mistakes_are_named(change: dict[str, Any], message: str, unchecked: None) -> None:
    wide = network().with_units("one", MIXED, name="taken")
    with pytest.raises(BadInput) as caught:
        wide.with_units(**{"layer": "one", "weights": MIXED, "name": "new"} | change)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(UnknownName, match="unknown layer 'three'; expected one of one, two, 1, 3"):
        network().with_units("three", MIXED, name="a")
