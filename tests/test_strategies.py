"""deconv/projection/strategies.py: on windows, from shared whole images, and whole: the same pixels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from deconv.network import Network
from deconv.network.receptive_field import cone
from deconv.projection import strategies
from deconv.projection.rules import RULES
from deconv.projection.tapered import windowed_nodes
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions, strategies_of
from tests.random_networks import SAME_WARNS, SETTINGS, networks, randomised


@pytest.mark.filterwarnings(SAME_WARNS)
@SETTINGS
@given(module=networks(), seed=st.integers(0, 2**16), size=st.tuples(st.integers(5, 40), st.integers(5, 40)))
def test_the_strategies_agree_with_each_other_and_with_autograd(
    module: nn.Sequential, seed: int, size: tuple[int, int]
) -> None:
    trunk = randomised(module, seed).eval()
    images = torch.randn((3, 2, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    try:
        maps = trunk(images).detach()
    except RuntimeError:
        assume(False)  # the map became smaller than a kernel
    assume(bool((maps > 0).any()))
    network = Network(trunk, (2, *size))
    layer = network.layers[-1]
    peaks = random_positions(maps, 12, seed)
    for rule in RULES:
        score, expected = project_by_autograd(trunk, images, peaks, rule)
        for strategy in strategies_of(network, layer, size):
            recon = project_at(network, images, layer, peaks, rule=rule, strategy=strategy)
            torch.testing.assert_close(recon.score, score.float())
            assert relative_error(recon.paste(), expected).max() < 1e-5, (rule, strategy)


def test_windows_smaller_than_the_maps_are_kept_where_the_field_is_larger_than_the_image() -> None:
    """Of seven convolutions the field is 15 x 15 on images of 9 x 12; the windows of the last five are smaller."""
    torch.manual_seed(0)
    blocks = [part for n in range(7) for part in (nn.Conv2d(2 if n == 0 else 3, 3, 3, padding=1), nn.ReLU())]
    trunk, images = nn.Sequential(*blocks).double(), torch.randn(3, 2, 9, 12, dtype=torch.float64)
    network = Network(trunk, (2, 9, 12))
    graph, cone_of_layer = network.graph, cone(network.graph, network.node("13"))
    sizes = [cone_of_layer.spans[index].size[0] for index in sorted(windowed_nodes(graph, cone_of_layer))]  # type: ignore[union-attr]
    assert sizes == [9, 9, 7, 7, 5, 5, 3, 3, 1, 1][-len(sizes) :] and 9 * 9 < 9 * 12 and len(sizes) == 10
    chosen = [strategies.choose("auto", graph, cone_of_layer, torch.tensor(ids)) for ids in ([0, 1, 2], [0, 0, 0, 0])]
    assert chosen == ["window", "shared"]
    peaks = random_positions(trunk(images).detach(), 12, seed=0)
    for rule in RULES:
        _, expected = project_by_autograd(trunk, images, peaks, rule)
        recon = project_at(network, images, "13", peaks, rule=rule, strategy="shared")
        assert relative_error(recon.paste(), expected).max() < 1e-5, rule


@pytest.mark.parametrize("rule", RULES)
def test_the_strategies_agree_on_maps_narrower_than_a_pool(rule: str) -> None:
    torch.manual_seed(6)
    pool = nn.MaxPool2d((3, 5), (1, 2), (1, 2), dilation=(1, 1))
    trunk = nn.Sequential(nn.Conv2d(2, 4, 1, 2), nn.ReLU(), pool, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    images = torch.randn(6, 2, 12, 4)
    peaks = random_positions(trunk(images), 40, seed=0)
    network = Network(trunk, (2, 12, 4))
    score, expected = project_by_autograd(trunk, images, peaks, rule)
    for strategy in ("window", "shared", "whole"):
        recon = project_at(network, images, "4", peaks, rule=rule, strategy=strategy)
        torch.testing.assert_close(recon.score, score)
        torch.testing.assert_close(recon.paste(), expected)


class SquareRootOfBranches(nn.Module):
    """Derivatives that are infinite outside the map, beside a convolution that would spread them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.relu = nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()
        self.norm, self.last = nn.LocalResponseNorm(5, 1.0), nn.Conv2d(8, 4, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.first(x)
        both = torch.cat([maps.abs().sqrt(), nn.functional.max_pool2d(maps, 3, 1, 1)], 1)
        return self.relu(self.last(self.norm(both)))


def test_infinite_derivatives_outside_the_map_do_not_come_in() -> None:
    torch.manual_seed(7)
    module = SquareRootOfBranches()
    images = torch.randn(2, 2, 14, 15)
    peaks = random_positions(module(images), 12, seed=0)
    score, expected = project_by_autograd(module, images, peaks, "gradient")
    network = Network(module, (2, 14, 15))
    for strategy in ("window", "shared", "whole"):
        recon = project_at(network, images, "relu", peaks, rule="gradient", strategy=strategy)
        torch.testing.assert_close(recon.paste(), expected)


def pooled() -> tuple[Network, Tensor]:
    torch.manual_seed(2)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3), nn.ReLU())
    return Network(trunk, (3, 41, 45)), torch.randn(4, 3, 41, 45)


@pytest.mark.parametrize("strategy", ["window", "shared", "whole", "auto"])
def test_chunks_and_the_order_of_peaks_change_nothing(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = pooled()
    peaks = random_positions(network.forward(images, ["4"])["4"], 30)
    together = project_at(network, images, "4", peaks, strategy="whole")
    monkeypatch.setattr(strategies, "CHUNK_FLOATS", 1)
    one_by_one = project_at(network, images, "4", peaks.flip(0), strategy=strategy)
    columns = one_by_one.image, one_by_one.channel, one_by_one.row, one_by_one.col
    assert torch.equal(torch.stack(columns, 1), peaks.flip(0))
    torch.testing.assert_close(one_by_one.score.flip(0), together.score)
    torch.testing.assert_close(one_by_one.pixels.flip(0), together.pixels)


def test_the_strategy_is_chosen_by_work() -> None:
    """One peak in a large image is cheap by its window; a hundred in one small image share the forward pass."""
    network, _ = pooled()
    cone_of_layer = cone(network.graph, network.node("4"))
    one, many = torch.zeros((1, 4), dtype=torch.int64), torch.zeros((1000, 4), dtype=torch.int64)
    assert strategies.choose("auto", network.graph, cone_of_layer, one) == "window"
    assert strategies.choose("auto", network.graph, cone_of_layer, many) == "shared"
    assert strategies.choose("whole", network.graph, cone_of_layer, one) == "whole"
