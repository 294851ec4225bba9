"""deconv/analyses/cues.py: units of which it is known whether they see colour or shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deconv
from deconv.analyses.cues import CUES, blurred, hues_turned, in_grey, measure_cues, scrambled
from deconv.errors import BadInput
from tests.samples import network as any_network
from tests.samples import photographs, with_preprocessing

GREY, HUES, BLURRED, SCRAMBLED = CUES


def network() -> deconv.Network:
    """Units of 9 x 9 pixels: the mean of all, red less green, an edge of any colour; and one that never fires."""
    filters = torch.zeros(4, 3, 9, 9)
    filters[0] = 1 / 243
    filters[1, 0], filters[1, 1] = 1 / 81, -1 / 81
    filters[2, :, :, :5], filters[2, :, :, 4:] = 1 / 108, -1 / 108
    filters[2, :, :, 4] = 0
    module = nn.Sequential(nn.Conv2d(3, 4, 9), nn.ReLU())
    module[0].load_state_dict({"weight": filters, "bias": torch.tensor([0.0, 0.0, 0.0, -1.0])})
    preprocessing = deconv.Preprocessing((24, 24), None, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return deconv.Network(module, (3, 24, 24), preprocessing=preprocessing)


@pytest.fixture
def images(tmp_path: Path) -> deconv.Source:
    """Two pictures: red on the left and black on the right; grey on the left and black on the right."""
    for name, colour in (("a", (200, 0, 0)), ("b", (90, 90, 90))):
        pixels = np.zeros((24, 24, 3), dtype=np.uint8)
        pixels[:, :12] = colour
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return deconv.folder(tmp_path)


def test_colour_and_shape_are_told_apart(images: deconv.Source) -> None:
    net = network()
    shares = measure_cues(net, images, "1", deconv.mine(net, images, ["1"], k=1)["1"])
    mean, red, edge, dead = torch.stack(list(shares.values()), dim=1)
    named = dict(zip(CUES, range(len(CUES)), strict=True))
    assert mean[[named[GREY], named[HUES], named[BLURRED]]] == pytest.approx(1, abs=0.02)  # of a grey patch
    assert mean[named[SCRAMBLED]] == pytest.approx(1, abs=0.02)  # the mean stays
    assert red[named[GREY]] == 0 and red[named[HUES]] == 0  # grey, and green less blue
    assert red[named[SCRAMBLED]] == pytest.approx(1, abs=0.02) and red[named[BLURRED]] == pytest.approx(1, abs=0.02)
    assert edge[named[HUES]] == pytest.approx(1, abs=0.02)
    assert edge[named[SCRAMBLED]] < 0.7
    assert torch.isnan(dead).all()


def test_what_is_done_to_a_patch() -> None:
    patch = torch.randint(256, (2, 3, 16, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    turned = hues_turned(patch)
    assert torch.equal(turned[:, 1], patch[:, 0]) and torch.equal(turned[:, 2], patch[:, 1])
    grey = in_grey(patch)
    assert torch.equal(grey[:, 0], grey[:, 2]) and grey.shape == patch.shape
    assert blurred(patch).float().std() < 0.7 * patch.float().std()
    smooth = torch.full((1, 3, 5, 5), 7, dtype=torch.uint8)
    assert torch.equal(blurred(smooth), smooth) and torch.equal(scrambled(smooth), smooth)

    def amplitudes(pictures: Tensor) -> Tensor:
        return torch.fft.fft2(pictures.float()).abs()

    soft = patch // 4 + 96  # leaves room, so that nothing is cut
    assert (amplitudes(scrambled(soft)) - amplitudes(soft)).norm() < 0.05 * amplitudes(soft)[..., 1:, 1:].norm()
    assert not torch.equal(scrambled(soft), soft) and torch.equal(scrambled(soft), scrambled(soft))


def test_other_inputs_than_colours_are_refused(images: deconv.Source) -> None:
    grey = deconv.Network(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), (1, 8, 8))
    net = network()
    peaks = deconv.mine(net, images, ["1"], k=1)["1"]
    with pytest.raises(BadInput, match="expected inputs of 3 channels, not 1"):
        measure_cues(grey, images, "1", peaks)


def test_more_peaks_are_averaged_and_layers_that_see_all_are_asked_too(tmp_path: Path) -> None:
    images, net = photographs(tmp_path, 4), with_preprocessing()
    peaks = deconv.mine(net, images, any_network().layers, k=3)
    for layer in peaks:
        shares = measure_cues(net, images, layer, peaks[layer])
        fires = peaks[layer].found.any(dim=1)
        assert all(torch.equal(share.isfinite(), fires) for share in shares.values())
