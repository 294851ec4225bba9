"""Frames and their normalisation, against torchvision's transforms and the formula written out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

import deconv
from deconv.errors import BadInput, UnreadableImage
from deconv.images.preprocessing import Preprocessing
from tests.annotations import jaxtyping_off

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(noise(7, 9)).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (90, 120), (225, 1000)])
def test_frame_equals_torchvisions_resize_and_crop(shape: tuple[int, int]) -> None:
    image = noise(*shape)
    ours = Preprocessing((224, 224), 256, MEAN, STD).input_image(image)
    theirs = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(224)])(torch.from_numpy(image).permute(2, 0, 1))
    assert ours.dtype == torch.uint8 and ours.shape == (3, 224, 224)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(300, 401), (600, 450), (100, 140)])
def test_frame_is_pillows_bilinear_to_a_rounding_step(shape: tuple[int, int]) -> None:
    image = smooth(*shape)
    ours = Preprocessing(None, 128, MEAN, STD).input_image(image).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(image).resize(ours.shape[1::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    resize=st.one_of(st.none(), st.integers(60, 80)),
)
def test_any_image_fills_any_frame(shape: tuple[int, int], size: tuple[int, int], resize: int | None) -> None:
    frame = Preprocessing(size, resize, MEAN, STD).input_image(np.full((*shape, 3), 77, np.uint8))
    assert frame.shape == (3, *size)
    assert (frame == 77).all()  # padding anywhere would show


def test_without_resize_the_frame_is_just_covered() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (100, 400, 3))
    frame = Preprocessing((50, 200), None, MEAN, STD).input_image(ramp)
    assert frame[0, 0, 0] <= 1 and frame[0, 0, -1] >= 254


def test_without_size_the_whole_photograph_remains() -> None:
    assert Preprocessing(None, 64, MEAN, STD).input_image(noise(100, 151)).shape == (3, 64, 96)
    image = noise(30, 40)
    untouched = Preprocessing(None, None, MEAN, STD).input_image(image)
    assert torch.equal(untouched, torch.from_numpy(image).permute(2, 0, 1))


def test_frame_takes_flipped_and_read_only_views() -> None:
    image = noise(40, 50)
    image.flags.writeable = False
    preprocessing = Preprocessing((32, 32), None, MEAN, STD)
    assert torch.equal(preprocessing.input_image(image[:, ::-1]), preprocessing.input_image(image[:, ::-1].copy()))


def test_an_endless_sliver_is_refused_before_it_is_enlarged() -> None:
    with pytest.raises(UnreadableImage, match="1 x 20000 pixels would be enlarged to 227 x"):
        Preprocessing((227, 227), None, MEAN, STD).input_image(np.zeros((1, 20000, 3), np.uint8))


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
)
def test_frame_refuses_what_is_not_rgb(image: np.ndarray) -> None:
    with jaxtyping_off(), pytest.raises(BadInput, match=r"^image: given .* expected RGB \(height, width, 3\) of uint8"):
        Preprocessing((4, 4), None, MEAN, STD).input_image(image)


def test_normalize_is_the_formula() -> None:
    frames = torch.from_numpy(noise(8, 9)).permute(2, 0, 1)[None].repeat(3, 1, 1, 1)
    before = frames.clone()
    result = Preprocessing((8, 9), None, MEAN, STD).normalize(frames)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    assert result.dtype == torch.float32 and result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result.double(), (frames / 255.0 - mean) / std, rtol=0, atol=1e-6)
    assert torch.equal(frames, before)


def test_normalize_keeps_the_scale_of_0_to_255_exactly() -> None:
    means = (123.68, 116.779, 103.939)
    preprocessing = Preprocessing((1, 256), None, tuple(mean / 255 for mean in means), (1 / 255,) * 3)
    frames = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    wanted = torch.arange(256.0).expand(1, 3, 1, 256) - torch.tensor(means).view(1, 3, 1, 1)
    assert torch.equal(preprocessing.normalize(frames), wanted)


def test_normalize_does_not_depend_on_the_batch() -> None:
    frames = torch.from_numpy(np.stack([noise(13, 17, seed) for seed in range(5)])).permute(0, 3, 1, 2)
    preprocessing = Preprocessing((13, 17), None, MEAN, STD)
    alone = torch.cat([preprocessing.normalize(frame[None]) for frame in frames])
    assert torch.equal(preprocessing.normalize(frames), alone)


@pytest.mark.parametrize("frames", [torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_normalize_refuses_other_shapes_and_types(frames: torch.Tensor) -> None:
    with jaxtyping_off(), pytest.raises(BadInput, match=r"^input_images: given .* \(N, 3, H, W\) of torch.uint8"):
        Preprocessing((4, 4), None, MEAN, STD).normalize(frames)


def test_settings_from_lists_survive_json() -> None:
    preprocessing = Preprocessing([224, 224], 256, list(MEAN), list(STD))
    again = json.loads(json.dumps(preprocessing.as_dict()))
    assert again.pop("interpolation") == "bilinear, antialiased"
    assert Preprocessing(**again) == preprocessing == Preprocessing((224, 224), 256, MEAN, STD)
    assert len({preprocessing, Preprocessing(**again)}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (224,)}, "size: given .* two whole numbers"),
        ({"size": (0, 5)}, "size: given 0; expected a whole number, 1 or more"),
        ({"size": 224}, r"size: given 224; expected two whole numbers \(height, width\)"),
        ({"size": ("a", "b")}, "size: given a; expected a whole number"),
        ({"size": (2**13, 2**13)}, "size: given .* at most 33554432 pixels"),
        ({"resize": 0}, "resize: given 0; expected a whole number"),
        ({"resize": 256.5}, "resize: given 256.5; expected a whole number"),
        ({"resize": 200}, "resize: given 200; expected 224 or more, to fill a crop of 224 x 224"),
        ({"std": (1.0, 0.0, 1.0)}, "std: given .* positive finite"),
        ({"mean": (0.5, 0.5)}, "mean: given .* three"),
        ({"mean": 0.5}, "mean: given 0.5; expected a list of one number, or three"),
        ({"mean": ("a", "b", "c")}, "mean: given .* three finite"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean: given .* finite"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict, message: str) -> None:
    with jaxtyping_off(), pytest.raises(BadInput, match=message):
        Preprocessing(**{"size": (224, 224), "resize": 256, "mean": MEAN, "std": STD, **change})


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (
            (123.675, 116.28, 103.53),
            (58.4, 57.1, 57.4),
            r"mean=\(0.485, 0.456, 0.406\) is .* std=\(0.229, 0.2239",
        ),
        (
            (123.68, 116.779, 103.939),
            (1.0, 1.0, 1.0),
            r"mean=\(0.485, 0.458, 0.4076\) .*, and std=\(0.0039, 0.00",
        ),
        (MEAN, (58.0, 57.0, 57.0), r"^std: given \(58.0, 57.0, 57.0\); .*: std=\(0.2275, 0.2235, 0.2235\) is that"),
        (
            (127.5,),
            (0.5,),
            r"^mean: given \(127.5,\); .* on the scale 0 to 1.*mean=\(0.5,\) is that div",
        ),
    ],
)
def test_mean_and_deviation_on_the_scale_0_to_255_are_refused(mean: Any, std: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Preprocessing((8, 8), None, mean, std)


def test_inputs_that_no_photograph_becomes_are_refused() -> None:
    """Those of MEAN and STD lie within some 3 of zero; Caffe's, within 152, whatever the network takes without one."""
    pixels = 255 * torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    usual, caffe = Preprocessing((8, 8), None, MEAN, STD), Preprocessing((8, 8), None, (0.4, 0.4, 0.4), (1 / 255,) * 3)
    caffe.check_range(pixels)
    usual.check_range(pixels / 255 * 6 - 3)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU())
    assert len(deconv.mine(deconv.Network(module, (3, 8, 8)), pixels, ["1"]))
    network = deconv.Network(module, (3, 8, 8), preprocessing=usual)
    with pytest.raises(BadInput, match="images: given values up to 25.*; expected inputs preprocessed as"):
        deconv.mine(network, pixels, ["1"])
    with pytest.raises(BadInput, match="images: given values up to 25"):
        deconv.project(network, pixels, "1", [0], [1], [0], [0])


@pytest.mark.parametrize("size", [96, (96,), [96]])
def test_one_side_is_no_size(size: Any) -> None:
    with (
        jaxtyping_off(),
        pytest.raises(BadInput, match=r"two whole numbers .*: \(96, 96\) for a square"),
    ):
        Preprocessing(size, None, MEAN, STD)
