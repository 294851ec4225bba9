"""On a CUDA device: the same peaks and pixels as on the CPU. Skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from torchvision.models import alexnet

import deconv

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LAYERS = ["features.1", "features.7", "features.11"]


def test_mining_and_projection_are_the_same_as_on_the_cpu() -> None:
    torch.manual_seed(0)
    module, images = alexnet(weights=None), torch.randn(12, 3, 224, 224)
    here, there = deconv.Network(module), deconv.Network(copy.deepcopy(module).cuda())
    peaks, on_device = (deconv.mine(network, images, LAYERS, k=3, batch_size=5) for network in (here, there))
    for layer in LAYERS:
        torch.testing.assert_close(peaks[layer].score, on_device[layer].score, rtol=1e-4, atol=1e-4, equal_nan=True)
        places = peaks[layer].of([0, 5, 9])
        for strategy in ("window", "shared", "whole"):
            pixels = [deconv.project(net, images, layer, *places, strategy=strategy).pixels for net in (here, there)]
            assert (pixels[0] - pixels[1]).norm() <= 1e-4 * pixels[0].norm()
