"""deconv/network/receptive_field.py: boxes against those measured by which pixels change the output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from deconv.network import Network
from deconv.network.receptive_field import ReceptiveField, first_convolution
from tests.random_networks import SAME_WARNS, SETTINGS, networks, randomised

SIZE = (37, 33)


def measured_spans(trunk: nn.Module, size: tuple[int, int], axis: int) -> tuple[Tensor, Tensor]:
    """For each position of an all-positive trunk's map: the first and last row (axis 0) or column that changes it."""
    images = torch.ones((size[axis] + 1, 2, *size), dtype=torch.float64)
    for line in range(size[axis]):
        images[line].select(1 + axis, line).fill_(1e40)
    with torch.no_grad():
        maps = trunk(images).sum(1)
    changed = maps[:-1] > maps[-1] * (1 + 1e-6)
    lines = torch.arange(size[axis])[:, None, None]
    return lines.where(changed, 10**6).amin(0), lines.where(changed, -1).amax(0)


def check_field(field: ReceptiveField, trunk: nn.Module, size: tuple[int, int]) -> int:
    """Compare every position of the map; return how many boxes lay inside the image and so had to be equal."""
    (top, bottom), (left, right) = measured_spans(trunk, size, 0), measured_spans(trunk, size, 1)
    inside = 0
    for row, col in torch.ones_like(top).nonzero().tolist():
        y0, x0, y1, x1 = field.box(row, col)
        spans = [(y0, y1, top, bottom, size[0]), (x0, x1, left, right, size[1])]
        for low, high, first, last, length in spans:
            if low >= 0 and high <= length and bool((bottom[row, col] >= 0) & (right[row, col] >= 0)):
                assert (int(first[row, col]), int(last[row, col]) + 1) == (low, high)
                inside += 1
            elif last[row, col] >= 0:
                assert max(low, 0) <= first[row, col] and last[row, col] < min(high, length)
    return inside


@pytest.mark.filterwarnings(SAME_WARNS)
@SETTINGS
@given(module=networks(), seed=st.integers(0, 2**16))
def test_boxes_of_random_networks_equal_the_measured_ones(module: nn.Sequential, seed: int) -> None:
    trunk = randomised(module, seed, positive=True).eval()
    try:
        trunk(torch.ones((1, 2, *SIZE), dtype=torch.float64))
    except RuntimeError:
        assume(False)  # the map became smaller than a kernel
    network = Network(trunk, (2, *SIZE))
    names = [name for name in network.layers if name.isdigit()]
    assert names == [str(i) for i in range(1, len(module), 2)]
    inside = [check_field(network.receptive_field(name), module[: int(name) + 1], SIZE) for name in names]
    assert inside[0] > 0


STACK = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 3, 3))


@pytest.mark.parametrize(
    ("module", "size", "stride", "start"),
    [
        (nn.Conv2d(2, 3, 5), (5, 5), (1, 1), (0, 0)),
        (nn.Conv2d(2, 3, (3, 5), (2, 1), (1, 0)), (3, 5), (2, 1), (-1, 0)),
        (nn.Conv2d(2, 3, 3, dilation=4), (9, 9), (1, 1), (0, 0)),
        (nn.Conv2d(2, 3, 4, padding="same"), (4, 4), (1, 1), (-1, -1)),
        (nn.Sequential(nn.ZeroPad2d((1, 2, 3, 0)), nn.Conv2d(2, 3, 3)), (3, 3), (1, 1), (-3, -1)),
        (STACK, (15, 15), (4, 4), (-3, -3)),
    ],
    ids=["plain", "uneven", "dilated", "same", "padded", "stack"],
)  # fmt: skip
def test_boxes_worked_by_hand(module: nn.Module, size: object, stride: object, start: object) -> None:
    network = Network(nn.Sequential(module, nn.ReLU()), (2, 20, 24))
    field = network.receptive_field("1")
    assert (field.size, field.stride, field.start) == (size, stride, start)
    y0, x0, y1, x1 = field.box(2, 3)
    assert field.boxes(torch.tensor([[0, 0], [2, 3]])).tolist() == [list(field.box(0, 0)), [y0, x0, y1, x1]]
    assert (y0, x0) == (field.start[0] + 2 * field.stride[0], field.start[1] + 3 * field.stride[1])
    assert (y1 - y0, x1 - x0) == field.size


def test_alexnets_fields_are_the_published_ones() -> None:
    """Sizes and strides as in Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        network = Network(alexnet().features, (3, 224, 224))
    fields = [network.receptive_field(name) for name in ("1", "4", "7", "9", "11")]
    assert [field.size[0] for field in fields] == [11, 51, 99, 131, 163]
    assert [field.stride[0] for field in fields] == [4, 8, 16, 16, 16]


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.pool(self.trunk(x))
        return self.linear(gates.flatten(1))


def test_a_fully_connected_unit_sees_the_whole_image() -> None:
    network = Network(Head(), (3, 10, 12))
    field = network.receptive_field("linear")
    assert (field.size, field.stride, field.start) == ((10, 12), (0, 0), (0, 0))
    assert field.box(0, 0) == (0, 0, 10, 12)
    assert network.receptive_field("linear", (14, 9)).size == (14, 9)


class Crossed(nn.Module):
    """A stride of two against one, brought to the same size: the two reads move apart along the map."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(x[:, :, :6, :6] + nn.functional.max_pool2d(x, 2))


def test_branches_that_move_apart_need_what_the_farthest_position_sees() -> None:
    """Position i sees i by one branch, 2i and 2i + 1 by the other."""
    field = Network(Crossed(), (3, 12, 12)).receptive_field("relu")
    assert field.size == (7, 7)
    assert [field.box(i, i)[:3:2] for i in range(6)] == [(i, i + 7) for i in range(6)]


def test_first_convolution_is_found_only_for_first_layers() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    graph = Network(trunk.eval(), (3, 12, 12)).graph
    first = first_convolution(graph, graph.layers["2"])
    assert first is not None and first.weight.shape == (4, 3, 5, 5)
    assert first_convolution(graph, graph.layers["4"]) is None
