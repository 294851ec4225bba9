"""deconv/compare: controls, shuffled networks, and units asked about windows that no photograph holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deconv.compare import controls
from deconv.compare.controls import CONTROLS
from deconv.compare.peak_set import PeakSet
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.errors import BadInput, UnknownName
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network
from deconv.projection.responses import layer_responses, unit_gradients, unit_responses
from deconv.projection.rules import Rule
from tests.beyond_networks import ChannelsLastNorm

SIZE = 30
PREPROCESSING = Preprocessing((SIZE, SIZE), None, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


def module() -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(8, 5, 3), nn.ReLU()).eval()


def network(of: nn.Module | None = None) -> Network:
    return Network(of or module(), (3, SIZE, SIZE), {"a": "1", "b": "4", "c": "7"}, PREPROCESSING)


FRAMES = torch.randint(0, 256, (3, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
IMAGE_IDS = torch.tensor([2, 5, 11])


def peak_set(layer: str = "b", random: bool = True) -> PeakSet:
    net = network()
    maps = net.forward(PREPROCESSING.normalize(FRAMES), [layer])[layer]
    firing = (maps > 0).nonzero()
    chosen = firing[torch.randperm(len(firing), generator=torch.Generator().manual_seed(1))[:6]]
    corners = (maps[:, :, :1, :1] > 0).nonzero()[:2]  # fields that reach outside the image
    peaks = torch.cat([chosen, corners])
    peaks[:, 0] = IMAGE_IDS[peaks[:, 0]]
    other = renewed(net, shuffled(module(), ["0", "3", "6"], 0)) if random else None
    return PeakSet(net, layer, FRAMES, IMAGE_IDS, peaks, other)


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_windows_give_what_their_photographs_give(layer: str) -> None:
    found = peak_set(layer)
    maps = found.network.forward(PREPROCESSING.normalize(FRAMES), [layer])[layer]
    image, _, row, col = found.peaks.T.contiguous()
    expected = maps[torch.searchsorted(IMAGE_IDS, image), :, row, col]
    torch.testing.assert_close(layer_responses(found.network, layer, found.windows, found.positions), expected)
    own = unit_responses(found.network, layer, found.windows, found.positions, found.channel)
    torch.testing.assert_close(own, expected[torch.arange(len(own)), found.channel])
    none = found.windows[:0], found.positions[:0], found.channel[:0]
    assert len(unit_responses(found.network, layer, *none)) == 0


def test_units_that_see_the_whole_image_are_asked_too() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 7), nn.ReLU())
    net = Network(trunk, (3, SIZE, SIZE), preprocessing=PREPROCESSING)
    images, positions = PREPROCESSING.normalize(FRAMES), torch.zeros((3, 2), dtype=torch.int64)
    expected = trunk(images).detach()
    torch.testing.assert_close(layer_responses(net, "4", images, positions), expected)
    torch.testing.assert_close(
        unit_responses(net, "4", images, positions, torch.tensor([2, 0, 6])), expected[range(3), [2, 0, 6]]
    )


def test_units_that_see_less_than_the_image_but_cannot_be_given_a_window_alone() -> None:
    """A norm over channels, with those last, is run on whole maps."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1), ChannelsLastNorm(6), nn.Conv2d(6, 5, 3, padding=1), nn.GELU()]
    net = Network(nn.Sequential(*layers).eval(), (3, SIZE, SIZE), preprocessing=PREPROCESSING)
    maps, size = net.forward(PREPROCESSING.normalize(FRAMES), ["3"])["3"], 15
    peaks = torch.tensor([[IMAGE_IDS[n % 3], n % 5, n * size // 9, (8 - n) * size // 9] for n in range(9)])
    of_net = PeakSet(net, "3", FRAMES, IMAGE_IDS, peaks)
    assert of_net.windows.shape[-1] < SIZE
    expected = maps[torch.arange(9) % 3, :, peaks[:, 2], peaks[:, 3]]
    torch.testing.assert_close(layer_responses(net, "3", of_net.windows, of_net.positions), expected)
    images = PREPROCESSING.normalize(FRAMES).requires_grad_()
    of_images = net.module(images)
    for n, gradient in enumerate(unit_gradients(net, "3", of_net.windows, of_net.positions, of_net.channel)):
        _, channel, row, col = peaks[n].tolist()
        (whole,) = torch.autograd.grad(of_images[n % 3, channel, row, col], images, retain_graph=True)
        y0, x0, y1, x1 = net.receptive_field("3").box(row, col)
        expected = torch.nn.functional.pad(whole[n % 3], (8, 8, 8, 8))[:, y0 + 8 : y1 + 8, x0 + 8 : x1 + 8]
        torch.testing.assert_close(gradient, expected)


def test_asking_leaves_the_windows_alone() -> None:
    found = peak_set()
    before = found.windows.clone() + 1
    given = before.clone()
    layer_responses(found.network, "b", given, found.positions)
    assert torch.equal(given, before)


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_draws_what_is_in_the_image_and_the_same_each_time(control: str) -> None:
    found = peak_set()
    pixels = found.reconstruct(control)
    assert pixels.shape == (8, 3, *found.network.receptive_field("b").size) and np.isfinite(pixels).all()
    assert not pixels[np.broadcast_to(~found.inside[:, None], pixels.shape)].any()
    np.testing.assert_array_equal(peak_set().reconstruct(control), pixels)
    some = torch.tensor([6, 1])  # whoever else is looked at
    np.testing.assert_allclose(found.subset(some).reconstruct(control), pixels[some], rtol=1e-5, atol=1e-6)


def test_together_they_are_what_each_is_alone() -> None:
    found, names = peak_set(), ["guided", *CONTROLS, "deconvnet", "gradient"]
    for name, pixels in zip(names, found.reconstruct_all(names), strict=True):
        np.testing.assert_array_equal(pixels, found.reconstruct(name), err_msg=name)


def test_units_are_asked_about_several_windows_each() -> None:
    found = peak_set()
    twice = found.respond(np.concatenate([found.windows.numpy(), 0 * found.windows.numpy()]))
    np.testing.assert_allclose(twice[:8], found.activations[range(8), found.channel], rtol=1e-5)
    np.testing.assert_allclose(twice[8:], found.respond(0 * found.windows.numpy()), rtol=1e-5)


def test_controls_differ_from_the_rule_that_they_are_to_test() -> None:
    found = peak_set()
    rule = found.reconstruct("deconvnet")
    assert all(not np.allclose(found.reconstruct(control), rule) for control in CONTROLS)


def test_gradient_times_input_adds_up_to_the_activation_of_a_network_without_bias() -> None:
    """Euler's theorem: such a network is positively homogeneous."""
    found = peak_set()
    for name, weight in (bare := module()).named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
    bare_set = PeakSet(network(bare), "b", FRAMES, IMAGE_IDS, found.peaks)
    activation = bare_set.activations[range(8), found.channel]
    added = bare_set.reconstruct("gradient_times_input").sum(axis=(1, 2, 3))
    np.testing.assert_allclose(added, activation, rtol=1e-3, atol=1e-6)


def test_other_units_fire_at_the_same_place() -> None:
    found = peak_set()
    others = found.others
    assert torch.equal(others.peaks[:, [0, 2, 3]], found.peaks[:, [0, 2, 3]])
    assert (others.channel != found.channel).all()
    assert (found.activations[range(8), others.channel] > 0).all()


def test_of_a_shuffled_network_only_units_that_fire_are_shown() -> None:
    found = peak_set()
    assert found.random is not None
    shuffled_set = PeakSet(found.random, "b", FRAMES, IMAGE_IDS, found.peaks)
    firing = shuffled_set.firing()
    own = shuffled_set.activations[range(8), found.channel] > 0
    assert not own.all() and torch.equal(firing.channel[own], found.channel[own])
    assert (firing.activations[range(8), firing.channel] > 0).all() and found.reconstruct("random_weights").any(
        (1, 2, 3)
    ).all()
    assert controls.firing_unit(np.zeros(3), (0, 1, 0, 0), 0) == 1


def test_another_unit_where_none_fires_and_where_there_is_none() -> None:
    peak = (0, 1, 0, 0)
    assert controls.another_unit(np.zeros(3), peak, 0) in (0, 2)
    assert controls.another_unit(np.array([0.0, 1, 0, 4]), peak, 0) == 3
    assert controls.another_unit(np.ones(1), (0, 0, 0, 0), 0) == 0


def test_another_image_is_another_if_there_is_one() -> None:
    assert controls.another_image(np.array([2, 5]), (2, 0, 0, 0), 0) == 5
    assert controls.another_image(np.array([2]), (2, 0, 0, 0), 0) == 2
    drawn = {controls.another_image(np.arange(9), (4, 0, row, 0), 0) for row in range(60)}
    assert drawn == set(range(9)) - {4}


def test_switches_of_other_images_are_those_images_own() -> None:
    """Lent by a copy of the photograph, they change nothing."""
    found = peak_set()
    twin = PeakSet(found.network, "b", FRAMES[[0, 0]], torch.tensor([2, 3]), found.peaks[found.peaks[:, 0] == 2])
    assert len(twin.peaks)
    np.testing.assert_array_equal(twin.reconstruct(Rule(switches="other")), twin.reconstruct("deconvnet"))


def test_unknown_controls_and_missing_networks_are_named() -> None:
    with pytest.raises(UnknownName, match="unknown rule or explanation 'edge'"):
        peak_set().reconstruct("edge")
    with pytest.raises(UnknownName, match="'random_weights' needs a network with shuffled weights"):
        peak_set(random=False).reconstruct("random_weights")


def test_blocks_part_the_network_at_the_layers() -> None:
    assert blocks(network(), ["a", "c"]) == {"a": ["", "0", "1"], "c": ["2", "3", "4", "5", "6", "7"]}
    with pytest.raises(BadInput, match="expected each once, in forward order"):
        blocks(network(), ["b", "a"])


def test_shuffling_moves_the_weights_of_each_filter_and_nothing_else() -> None:
    before = module()
    after = shuffled(before, ["3"], seed=0)
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if name != "3.weight":
            assert torch.equal(old, new), name
        else:
            assert not torch.equal(old, new)
            assert torch.equal(old.flatten(1).sort(1).values, new.flatten(1).sort(1).values)
    both = shuffled(before, ["0", "3"], seed=0)  # a cascade is the sum of its steps
    assert torch.equal(_weight(both, 3), _weight(after, 3)) and not torch.equal(_weight(both, 0), _weight(after, 0))
    assert not torch.equal(_weight(shuffled(before, ["3"], seed=1), 3), _weight(after, 3))


def _weight(of: nn.Module, position: int) -> Tensor:
    weight: Tensor = of.get_parameter(f"{position}.weight")
    return weight
