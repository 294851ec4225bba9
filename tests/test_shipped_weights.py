"""The weights of zfnet64 that travel with the package: the right bytes, and what they say of one photograph."""

from __future__ import annotations

import hashlib

import pytest
import torch

from deconv.command.setup import open_network
from deconv.images import bundled
from deconv.models import shipped
from deconv.network.receptive_field import first_convolution
from tests.test_models import settings

PATH = shipped.WEIGHTS / "zfnet64.safetensors"
PHOTOGRAPH = "skimage/chelsea.png"  # a cat
LARGEST = {"conv1": 5.4909, "conv5": 2.6656}  # the strongest activation of each layer
LIKELIEST = 26  # golden retriever, for a ginger cat: a number of deconv.models.class_names("zfnet64")

# Both are printed by
#   python -c "from tests.test_shipped_weights import seen; print(seen())"


def seen() -> tuple[dict[str, float], int]:
    """The strongest activations and the likeliest class for one bundled photograph, at 64 pixels."""
    network, source = open_network(settings("zfnet64"), seed=0), bundled()
    preprocessing = network.needed_preprocessing()
    frame = source.input_image(source.keys.index(PHOTOGRAPH), preprocessing)[None]
    maps = network.forward(preprocessing.normalize(frame), [*LARGEST, "output"])
    return {layer: round(float(maps[layer].max()), 4) for layer in LARGEST}, int(maps["output"].argmax())


def test_the_file_is_the_one_that_the_code_expects_and_small() -> None:
    assert hashlib.sha256(PATH.read_bytes()).hexdigest() == shipped.SHA256["zfnet64"]
    assert PATH.stat().st_size < 20_000_000


def test_the_weights_see_what_they_saw_when_they_were_shipped() -> None:
    largest, likeliest = seen()
    assert largest == pytest.approx(LARGEST, rel=1e-3) and likeliest == LIKELIEST


def test_layer_1_has_the_filters_of_a_trained_network() -> None:
    """Each within the paper's limit, few of them dead, and most of their energy at low spatial frequencies."""
    network = open_network(settings("zfnet64"), seed=0)
    convolution = first_convolution(network.graph, network.node("conv1"))
    assert convolution is not None
    weight = convolution.weight.float()
    rms = weight.square().mean((1, 2, 3)).sqrt()
    assert rms.max() <= 0.1 * 1.001 and (rms < 0.1 * rms.max()).float().mean() < 0.5
    energy = torch.fft.fft2(weight, s=(32, 32)).abs().square().sum((0, 1))
    cycles = torch.fft.fftfreq(32)
    high = energy[(cycles[:, None].square() + cycles.square()).sqrt() > 0.3].sum() / energy.sum()
    assert high < 0.35  # 0.45 and above for filters that stayed noise
