"""The networks' map sizes against the paper's Figure 3, their parameter counts and their first weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from deconv.errors import BadInput
from deconv.models.krizhevsky import krizhevsky, krizhevsky64
from deconv.models.zfnet import ConvNet, zfnet, zfnet64


def map_sizes(network: ConvNet, size: int) -> list[int]:
    """The side of every map that a convolution or a pool makes, in forward order."""
    maps, sizes = torch.zeros(1, 3, size, size), []
    with torch.no_grad():
        for layer in network.features:
            maps = layer(maps)
            if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
                assert maps.shape[2] == maps.shape[3]
                sizes.append(maps.shape[2])
    return sizes


def parameters(module: nn.Module) -> int:
    return sum(weights.numel() for weights in module.parameters())


def test_zfnet_has_the_map_sizes_of_figure_3() -> None:
    assert map_sizes(zfnet(classes=2, widths=()), 224) == [110, 55, 26, 13, 13, 13, 13, 6]


def test_other_map_sizes_are_those_of_the_docstrings() -> None:
    assert map_sizes(zfnet64(), 64) == [30, 15, 15, 7, 7, 7, 7, 3]
    assert map_sizes(krizhevsky(classes=2, widths=()), 224) == [55, 27, 27, 13, 13, 13, 13, 6]
    assert map_sizes(krizhevsky64(), 64) == [15, 15, 7, 7, 7, 7, 3]


@pytest.mark.parametrize("make", [zfnet64, krizhevsky64])
def test_crops_of_56_pixels_fit_the_64_pixel_networks(make: Callable[[], ConvNet]) -> None:
    assert make()(torch.zeros(2, 3, 56, 56)).shape == (2, 200)


def test_zfnet_has_as_many_parameters_as_figure_3_says() -> None:
    convolutions = [(3, 96, 7), (96, 256, 5), (256, 384, 3), (384, 384, 3), (384, 256, 3)]
    expected = sum(c_in * c_out * side**2 + c_out for c_in, c_out, side in convolutions)
    expected += sum(n_in * n_out + n_out for n_in, n_out in [(6 * 6 * 256, 4096), (4096, 4096), (4096, 1000)])
    with torch.device("meta"):
        assert parameters(zfnet()) == expected == 62_357_608


def test_zfnet64_fits_twenty_megabytes_in_float16() -> None:
    assert parameters(zfnet64()) == 8_572_744
    assert 2 * parameters(zfnet64()) < 20e6


@pytest.mark.parametrize("make", [zfnet64, krizhevsky64])
def test_layer_1_starts_as_in_the_paper_and_the_others_wider(make: Callable[[], ConvNet]) -> None:
    convolutions = [layer for layer in make().features if isinstance(layer, nn.Conv2d)]
    assert convolutions[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert convolutions[1].weight.std().item() == pytest.approx((2 / (96 * 25)) ** 0.5, rel=0.05)
    assert all(layer.bias is not None and not layer.bias.any() for layer in convolutions)


def test_variants_of_table_3_drop_and_widen_layers() -> None:
    without_3_4_6_7 = zfnet64(maps=(96, 256, 256), widths=())
    assert [layer.out_channels for layer in without_3_4_6_7.features if isinstance(layer, nn.Conv2d)] == [96, 256, 256]
    assert without_3_4_6_7(torch.zeros(1, 3, 64, 64)).shape == (1, 200)
    assert map_sizes(zfnet64(maps=(96, 256, 512, 1024, 512)), 64) == [30, 15, 15, 7, 7, 7, 7, 3]


def test_local_response_normalisation_follows_pools_1_and_2() -> None:
    names = [type(layer).__name__ for layer in zfnet64(lrn=True).features]
    assert [names[place - 1] for place, name in enumerate(names) if name == "LocalResponseNorm"] == ["MaxPool2d"] * 2


def test_a_trunk_takes_any_size_and_gives_the_last_pools_maps() -> None:
    network = zfnet64(classes=3, widths=(8,)).eval()
    images = torch.randn(2, 3, 100, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.trunk()(images), network.features(images))


def test_a_classifier_takes_its_size_only_and_says_so() -> None:
    with pytest.raises(BadInput, match=r"images of 192 x 100 pixels .* it takes 2304: .* trunk=True"):
        zfnet64(classes=3, widths=(8,))(torch.zeros(1, 3, 192, 100))
