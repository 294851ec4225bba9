"""What lower units pass on of an activation (`through`): against autograd and a literal deconvnet, and its record."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from deconv.errors import BadInput, UnknownName
from deconv.mining import mine
from deconv.network import Network
from deconv.projection import project, project_peaks, strategies
from deconv.records import Parts, Reconstructions
from tests import reference
from tests.peaks import project_at, random_positions, strategies_of
from tests.residual import Residual

IMAGES = torch.randn(3, 3, 33, 37, generator=torch.Generator().manual_seed(5))


def chain(bias: bool = True) -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 6, 5, 2, 2, bias=bias), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, padding=1, bias=bias),
        nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Conv2d(8, 7, 3, padding=1, groups=1, bias=bias), nn.ReLU(),
        nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(7, 5, bias=bias),
    ).eval()  # fmt: skip


class Branches(nn.Module):
    """Two paths that are laid side by side, then a residual block; the first map reaches the last by four ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow, self.wide = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, 1, 1)
        self.inner, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 3, stride=2)
        self.stem_relu, self.narrow_relu, self.wide_relu = nn.ReLU(), nn.ReLU(), nn.ReLU(inplace=True)
        self.sum_relu, self.last_relu = nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_relu(self.stem(x))
        both = torch.cat([self.narrow_relu(self.narrow(x)), self.wide_relu(self.wide(x))], 1)
        return self.last_relu(self.last(self.sum_relu(self.inner(both) + both)))


def branches() -> Branches:
    torch.manual_seed(9)
    return Branches().eval()


def by_autograd(module: nn.Module, below: str, above: str, peaks: Tensor) -> tuple[Tensor, Tensor]:
    """(share, position) of the outputs of module `below` in peaks of those of `above`: gradient times activation."""
    outputs: dict[str, Tensor] = {}
    modules = dict(module.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda _, __, value, name=name: outputs.update({name: value.clone()}) or
                                            outputs[name])
        for name in (below, above)
    ]  # fmt: skip
    image, channel, row, col = peaks.T
    try:
        module(IMAGES[image])
    finally:
        for hook in hooks:
            hook.remove()
    score = _as_map(outputs[above])[torch.arange(len(peaks)), channel, row, col]
    (gradient,) = torch.autograd.grad(score.sum(), outputs[below])
    products = _as_map(gradient * outputs[below]).detach()
    share = products.sum((2, 3)) * (score != 0)[:, None]
    position = torch.full((*share.shape, 2), -1)
    for n, unit in share.nonzero().tolist():
        towards = products[n, unit] * share[n, unit].sign()
        position[n, unit] = (towards == towards.max()).nonzero()[0]
    return share, position


def _as_map(value: Tensor) -> Tensor:
    return value if value.dim() == 4 else value[:, :, None, None]


CASES = [
    (chain, "7", ["1", "2", "3", "4", "5"]),
    (chain, "4", ["0", "1"]),
    (chain, "7", ["6"]),  # between the last convolution and its rectifier
    (chain, "10", ["1", "7", "9"]),  # sees the whole image
    (branches, "last_relu", ["stem", "stem_relu", "narrow", "narrow_relu", "wide_relu", "inner", "sum_relu"]),
]


@pytest.mark.parametrize(("make", "layer", "through"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
def test_by_gradient_a_share_is_gradient_times_activation(make: Any, layer: str, through: list[str]) -> None:
    module = make()
    network = Network(module, (3, 33, 37))
    peaks = random_positions(network.forward(IMAGES, [layer])[layer], 14, seed=1)
    for strategy in strategies_of(network, layer, (33, 37)):
        recon = project_at(network, IMAGES, layer, peaks, rule="gradient", strategy=strategy, through=through)
        assert list(recon.parts) == through
        for name in through:
            share, position = by_autograd(module, name, layer, peaks)
            assert bool(share.any())
            torch.testing.assert_close(recon.parts[name], share, atol=1e-6, rtol=1e-4)
            unclear = share.abs() < 1e-5  # what a place gives is lost in rounding
            assert torch.equal(recon.parts.positions[name][~unclear], position[~unclear]), (strategy, name)


@pytest.mark.parametrize("strategy", ["window", "shared", "whole"])
def test_without_biases_the_shares_of_every_layer_add_up_to_the_activation(strategy: str) -> None:
    network = Network(chain(bias=False), (3, 33, 37))
    peaks = random_positions(network.forward(IMAGES, ["7"])["7"], 14, seed=2)
    below = ["0", "1", "2", "3", "4", "5", "6"]
    recon = project_at(network, IMAGES, "7", peaks, rule="gradient", strategy=strategy, through=below)
    assert int((recon.score > 0).sum()) > 4
    for name in below:
        torch.testing.assert_close(recon.parts[name].sum(1), recon.score, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(recon.parts.rest(name), torch.zeros(14), atol=1e-5, rtol=0)


def test_the_rest_is_what_the_biases_above_give() -> None:
    module = chain()
    network = Network(module, (3, 33, 37))
    peaks = random_positions(network.forward(IMAGES, ["7"])["7"], 14, seed=2)
    recon = project_at(network, IMAGES, "7", peaks, rule="gradient", through=["1", "4"])
    for name, above in (("1", ("3", "6")), ("4", ("6",))):
        biases = [dict(module.named_parameters())[f"{layer}.bias"] for layer in above]
        for n, (image, channel, row, col) in enumerate(peaks.tolist()):
            score = module[:8](IMAGES[image : image + 1])[0, channel, row, col]
            derived = torch.autograd.grad(score, biases)
            given = sum(float((bias.detach() * each).sum()) for bias, each in zip(biases, derived, strict=True))
            assert float(recon.parts.rest(name)[n]) == pytest.approx(given, abs=1e-5)


@pytest.mark.parametrize("strategy", ["window", "shared", "whole"])
@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "lrp_epsilon"])
def test_a_residual_block_hands_on_its_unit_and_the_rest_of_a_branch_is_what_goes_around(
    rule: str, strategy: str
) -> None:
    network, peaks = Network(Residual(), (3, 4, 4)), torch.tensor([[0, 2, 1, 3], [1, 0, 0, 0]])
    images = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 3, 4, 4)
    recon = project_at(network, images, "out", peaks, rule=rule, strategy=strategy, through=["relu", "inner_relu"])
    parts, close = recon.parts, partial(torch.testing.assert_close, atol=1e-5, rtol=0)
    torch.testing.assert_close(recon.score, torch.tensor([17 / 16, 2.0]))
    close(parts["relu"], torch.tensor([[1 / 16, 0, 1], [2, 0, 0]]))
    assert parts.of(torch.tensor([0])).strongest("relu", 1) == {2: pytest.approx(16 / 17, abs=1e-5)}  # 94 %
    assert not parts.around("relu").any() and float(parts.rest("relu").abs().max()) < 1e-5
    close(parts["inner_relu"], torch.tensor([[0, 1 / 16], [0, 0]]))
    close(parts.around("inner_relu"), torch.tensor([1.0, 2.0]))
    close(parts.rest("inner_relu"), parts.around("inner_relu"))
    assert parts.around_of_whole("inner_relu") == pytest.approx(3 / (3 + 1 / 16), abs=1e-5)


def test_biases_are_not_among_what_goes_around() -> None:
    network, images = Network(Residual(bias=0.5), (3, 4, 4)), torch.ones(1, 3, 4, 4)
    recon = project(network, images, "out", [0], [2], [0], [0], "gradient", through=["relu", "inner_relu"])
    assert float(recon.score) == pytest.approx(1 + 0.75 / 4 + 0.5)
    assert float(recon.parts.around("inner_relu")) == pytest.approx(1) and not recon.parts.around("relu").any()
    assert float(recon.parts.rest("inner_relu")) == pytest.approx(1 + 0.5)  # the skip, and the bias above
    assert float(recon.parts.rest("relu")) == pytest.approx(0.5 / 4 + 0.5)


@pytest.mark.parametrize(("name", "meet"), [("narrow_relu", "stem_relu"), ("wide_relu", "stem_relu")])
def test_what_goes_around_is_gradient_times_activation_where_paths_meet_again(name: str, meet: str) -> None:
    network, module = Network(branches(), (3, 33, 37)), branches()
    peaks = random_positions(network.forward(IMAGES, ["last_relu"])["last_relu"], 14, seed=6)
    blocked = dict(module.named_modules())[name].register_forward_hook(lambda _, __, value: value.detach())
    share, _ = by_autograd(module, meet, "last_relu", peaks)
    blocked.remove()
    for strategy in ("window", "shared", "whole"):
        recon = project_at(network, IMAGES, "last_relu", peaks, rule="gradient", strategy=strategy, through=[name])
        torch.testing.assert_close(recon.parts.around(name), share.sum(1), atol=1e-6, rtol=1e-4)
        assert bool(recon.parts.around(name).any())


def test_by_deconvnet_a_share_is_what_the_paper_sends_back_times_the_activation() -> None:
    trunk = chain()[:5].insert(2, nn.LocalResponseNorm(3))
    network = Network(trunk, (3, 33, 37))
    peaks = random_positions(network.forward(IMAGES, ["5"])["5"], 8, seed=3)
    for strategy in ("window", "shared", "whole"):
        recon = project_at(network, IMAGES, "5", peaks, strategy=strategy, through=["1", "2", "3"])
        for n, (image, *peak) in enumerate(peaks.tolist()):
            with torch.no_grad():
                maps, signals = reference.deconvnet_signals(trunk, IMAGES[image], tuple(peak))
            for name in ("1", "2", "3"):
                step = int(name) + 1
                for unit, (share, position) in enumerate(
                    reference.parts(maps[step], signals[step], float(maps[-1][tuple(peak)]))
                ):
                    assert float(recon.parts[name][n, unit]) == pytest.approx(share, abs=1e-5, rel=1e-4)
                    if abs(share) > 1e-5:
                        assert tuple(recon.parts.positions[name][n, unit].tolist()) == position


def test_what_does_not_fire_is_made_of_nothing() -> None:
    network = Network(chain(), (3, 33, 37))
    silent = (network.forward(IMAGES, ["4"])["4"] == 0).nonzero()[:3]
    recon = project_at(network, IMAGES, "4", silent, through=["1"])
    assert not recon.parts["1"].any() and bool((recon.parts.positions["1"] == -1).all())
    assert not recon.parts.rest("1").any() and recon.parts.to_arrow().num_rows == 0


@pytest.mark.parametrize("strategy", ["window", "shared", "whole"])
def test_the_pixels_are_the_same_with_and_without(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(branches(), (3, 33, 37))
    peaks = random_positions(network.forward(IMAGES, ["last_relu"])["last_relu"], 14)
    plain = project_at(network, IMAGES, "last_relu", peaks, strategy=strategy)
    recon = project_at(network, IMAGES, "last_relu", peaks, strategy=strategy, through=["stem_relu", "sum_relu"])
    assert torch.equal(recon.pixels, plain.pixels) and torch.equal(recon.score, plain.score) and not plain.parts
    monkeypatch.setattr(strategies, "CHUNK_FLOATS", 1)
    one_by_one = project_at(network, IMAGES, "last_relu", peaks, strategy=strategy, through=["stem_relu"])
    torch.testing.assert_close(one_by_one.parts["stem_relu"], recon.parts["stem_relu"])


def made(through: tuple[str, ...] = ("low", "3")) -> Reconstructions:
    network = Network(chain(), (3, 33, 37), {"low": "1", "high": "4"})
    peaks = mine(network, IMAGES, ["high"], k=2)["high"]
    return project_peaks(network, IMAGES, "high", peaks, units=[1, 4], rule="gradient", through=through)


def test_they_are_saved_with_the_reconstructions(tmp_path: Path) -> None:
    recon = made()
    loaded = Reconstructions.load(recon.save(tmp_path / "a.safetensors"))
    assert loaded.provenance["through"] == list(loaded.parts) == ["low", "3"]
    for name in ("low", "3"):
        assert torch.equal(loaded.parts[name], recon.parts[name])
        assert torch.equal(loaded.parts.positions[name], recon.parts.positions[name])
        assert torch.equal(loaded.parts.rest(name), recon.parts.rest(name))
        assert torch.equal(loaded.parts.around(name), recon.parts.around(name))
    assert loaded.save(tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()
    without = made(through=()).save(tmp_path / "c.safetensors").read_bytes()
    assert b"through" not in without and b"parts" not in without


def test_they_are_a_table(tmp_path: Path) -> None:
    recon = made()
    table = recon.parts.to_arrow()
    assert table.column_names == ["peak", "image", "layer", "channel", "share", "row", "col"]
    rows = table.to_pylist()
    assert {row["layer"] for row in rows} == {"low", "3"} and all(row["share"] for row in rows)
    for row in rows:
        layer, peak, channel = row["layer"], row["peak"], row["channel"]
        assert row["share"] == float(recon.parts[layer][peak, channel]) and row["image"] == int(recon.image[peak])
        assert [row["row"], row["col"]] == recon.parts.positions[layer][peak, channel].tolist()
    file = pq.ParquetFile(recon.parts.save(tmp_path / "parts.parquet"))
    assert file.read().to_pylist() == rows
    chosen = recon.parts.of(torch.tensor([2]))
    assert torch.equal(chosen.rest("low"), recon.parts.rest("low")[2:3]) and chosen.image.tolist() == [recon.image[2]]
    assert Parts().to_arrow().num_rows == 0 and repr(Parts()) == "<Parts: of 0 activations, no layers>"


def test_a_lower_unit_can_be_sent_back_from_where_it_gives_most() -> None:
    recon = made()
    row = max(recon.parts.to_arrow().to_pylist(), key=lambda each: each["share"] * (each["layer"] == "low"))
    network = Network(chain(), (3, 33, 37), {"low": "1"})
    lower = project(network, IMAGES, "low", [row["image"]], [row["channel"]], [row["row"]], [row["col"]])
    assert float(lower.score) > 0


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)
        self.relu, self.squeezed, self.out = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        gate = torch.sigmoid(self.squeezed(self.gate(x.mean((2, 3), keepdim=True))))
        return self.out(self.last(x * gate))


@pytest.mark.parametrize(
    ("through", "error", "message"),
    [
        (["high"], BadInput, "through: given high; expected layers that 'deconvnet' passes .* back from high, low"),
        (["7"], BadInput, "through: given 7; expected layers that 'deconvnet' passes on its way back from high, low"),
        (["low", "conv9"], UnknownName, "unknown layer 'conv9'"),
        ("low", BadInput, r"through: given low; expected a list of names of lower layers: \['low'\] for one"),
    ],
)
def test_layers_that_are_not_below_are_refused(through: Any, error: type, message: str) -> None:
    network = Network(chain(), (3, 33, 37), {"low": "1", "high": "4"})
    with pytest.raises(error, match=message):
        project(network, IMAGES, "high", [0], [0], [0], [0], through=through)


def test_layers_that_the_rule_sends_nothing_to_are_refused() -> None:
    torch.manual_seed(0)
    network = Network(Gated().eval(), (3, 33, 37))
    recon = project(network, IMAGES, "out", [0], [1], [4], [4], rule="gradient", through=["relu", "squeezed"])
    assert list(recon.parts) == ["relu", "squeezed"]
    with pytest.raises(BadInput, match="given squeezed; expected layers that 'deconvnet_beyond' passes .* out, relu"):
        project(network, IMAGES, "out", [0], [1], [4], [4], rule="deconvnet_beyond", through=["squeezed"])


def test_a_missing_layer_of_parts_is_named() -> None:
    with pytest.raises(UnknownName, match=r"unknown layer of these parts '5'; expected one of low, 3"):
        made().parts["5"]


def test_parts_that_are_not_of_the_named_layers_are_refused(tmp_path: Path) -> None:
    recon = made()
    data = recon.save(tmp_path / "a.safetensors").read_bytes()
    old = b'\\"through\\": [\\"low\\", \\"3\\"]'
    new = b'\\"through\\": [\\"low\\"]'.ljust(len(old))
    assert old in data
    (tmp_path / "b.safetensors").write_bytes(data.replace(old, new))
    with pytest.raises(BadInput, match="its parts are of 2 layers, and it names 1"):
        Reconstructions.load(tmp_path / "b.safetensors")
