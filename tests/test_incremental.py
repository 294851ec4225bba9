"""deconv/network/incremental.py: equal to running each changed image whole, on random networks and real ones."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from deconv.errors import DeconvError
from deconv.network import Network, incremental
from deconv.network.graph import Graph, evaluate
from deconv.network.spatial import Convolution
from tests.random_networks import SAME_WARNS, SETTINGS, Branches, networks, pairs, randomised
from tests.user_networks import CARRIED

SIZE = 18


def both(
    graph: Graph, image: Tensor, size: tuple[int, int], stride: int
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """All nodes' values for a patch at every position, by changes and whole."""
    height, width = image.shape[2:]
    rows, cols = torch.arange(0, height - size[0] + 1, stride), torch.arange(0, width - size[1] + 1, stride)
    start = torch.cartesian_prod(rows, cols)
    patches = torch.randn(len(start), image.shape[1], *size, generator=torch.Generator().manual_seed(2)).to(image)
    images = image.repeat(len(start), 1, 1, 1)
    for one, patch_, (row, col) in zip(images, patches, start.tolist(), strict=True):
        one[:, row : row + size[0], col : col + size[1]] = patch_
    every = range(len(graph.nodes))
    with torch.no_grad():
        unchanged = evaluate(graph, image, every)
        return incremental.forward_changed(graph, unchanged, patches, start, every), evaluate(graph, images, every)


def assert_same(changed: dict[int, Tensor], whole: dict[int, Tensor]) -> None:
    assert changed.keys() == whole.keys()
    for index, value in whole.items():
        assert changed[index].shape == value.shape
        assert float((changed[index] - value).abs().max()) <= 1e-5 * float(value.abs().max().clamp_min(1e-30)), index


@SETTINGS
@pytest.mark.filterwarnings(SAME_WARNS)
@given(networks(), st.integers(0, 9), pairs(1, 7), st.sampled_from([0.6, 2.0]))
def test_random_networks(module: nn.Sequential, seed: int, size: tuple[int, int], most: float) -> None:
    image = torch.randn(1, 2, SIZE, SIZE + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    try:
        graph = Network(randomised(module, seed), (2, SIZE, SIZE + 3)).graph
    except DeconvError:
        assume(False)
    with patch.object(incremental, "MOST", most):  # 2: boxes to the end, however large
        assert_same(*both(graph, image, size, 4))


@pytest.mark.parametrize("name", CARRIED)
def test_networks_as_people_write_them(name: str) -> None:
    torch.manual_seed(0)
    channels = 1 if name == "one_channel_in" else 3
    network = Network(CARRIED[name]().eval(), (channels, 24, 24))
    assert_same(*both(network.graph, torch.randn(1, channels, 24, 24), (5, 5), 6))


def test_float32_of_a_deep_network_to_the_last_layer() -> None:
    torch.manual_seed(0)
    fire = Branches(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), "cat")
    layers = [nn.Conv2d(3, 8, 7, 3, 1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), fire, nn.ReLU()]
    head = [nn.Conv2d(16, 9, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 5)]
    network = Network(nn.Sequential(*layers, *head), (3, 65, 65))
    assert_same(*both(network.graph, torch.randn(1, 3, 65, 65), (9, 9), 8))


def test_only_what_the_patch_reaches_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 5), nn.ReLU()), (3, 40, 40))
    image = torch.randn(1, 3, 40, 40)
    unchanged = evaluate(network.graph, image, range(len(network.graph.nodes)))
    sizes: list[tuple[int, ...]] = []
    real = Convolution.forward

    def spying(self: Convolution, x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return real(self, x)

    monkeypatch.setattr(Convolution, "forward", spying)
    start = torch.tensor([[10, 20], [20, 10]])
    incremental.forward_changed(network.graph, unchanged, torch.randn(2, 3, 6, 6), start, [4])
    # 6 changed pixels are read by 8 outputs of a 3-tap filter, which read 10; those by 12 outputs of 5 taps, reading 16
    assert sizes == [(10, 10), (16, 16)]
