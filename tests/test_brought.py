"""What people bring beside plain layers: how a module is wrapped, what torch is set to, how things are given."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose, Normalize, ToTensor

import deconv
from deconv.analyses.choosing import check_units, choose_units
from deconv.errors import BadInput, DeconvError, UnknownName, UnsupportedOperation
from deconv.network import as_map
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions
from tests.user_networks import Forward, conv

SHAPE = (3, 12, 12)
IMAGES = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
PICTURES = [np.random.default_rng(n).integers(0, 256, (14, 13, 3), dtype=np.uint8) for n in range(3)]
PREPROCESSING = deconv.Preprocessing((12, 12), None, (0.5,) * 3, (0.25,) * 3)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3), nn.ReLU(), conv(4, 5), nn.ReLU()).eval()


# --- modules that run elsewhere than in their forward -----------------------------------------------------------------


def compiled_in_place() -> nn.Module:
    module = plain()
    module.compile()
    return module


def a_compiled_part() -> nn.Module:
    low, relu, high, last = plain()
    part: Any = torch.compile(nn.Sequential(low, relu))
    return nn.Sequential(part, high, last)


def a_compiled_function() -> nn.Module:
    module = plain()
    rectify = torch.compile(lambda x: x.relu())
    return Forward(lambda m, x: m.last(m.two(rectify(m.one(x)))), one=module[0], two=module[2], last=nn.ReLU())


def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(plain(), (IMAGES,), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize("make", [compiled_in_place, a_compiled_part, a_compiled_function, exported])
def test_modules_that_run_elsewhere_are_what_they_are(make: Callable[[], nn.Module]) -> None:
    network = deconv.Network(make(), SHAPE)
    layer = network.layers[-1]
    torch.testing.assert_close(network.forward(IMAGES, [layer])[layer], plain()(IMAGES).detach())
    assert not any("_orig_mod" in name for name in network.layers)


def quantised(training: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated, and in use
        parts = [quantization.QuantStub(), *plain()[:2], quantization.DeQuantStub()]
        module: Any = nn.Sequential(*parts).train(training)
        engine = "fbgemm" if "fbgemm" in torch.backends.quantized.supported_engines else "qnnpack"
        configured = quantization.get_default_qat_qconfig if training else quantization.get_default_qconfig
        module.qconfig = configured(engine)
        prepared = quantization.prepare_qat(module) if training else quantization.prepare(module)
        prepared(IMAGES)
        return prepared.eval() if training else quantization.convert(prepared)


def test_what_is_quantised_is_mined_and_what_still_observes_is_refused() -> None:
    module = quantised(training=False)
    network = deconv.Network(module, SHAPE)
    layer = network.layers[-1]
    torch.testing.assert_close(network.forward(IMAGES, [layer])[layer], module(IMAGES))
    with pytest.raises(UnsupportedOperation, match="'dequantize' in 3 computes without gradients"):
        deconv.project(network, IMAGES, layer, [0], [0], [0], [0])
    with pytest.raises(UnsupportedOperation, match="fake_quant.* cannot be followed"):
        deconv.Network(quantised(training=True), SHAPE)


def test_a_picture_that_no_gradient_reaches_is_refused() -> None:
    def frozen(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            maps = m.one(x).relu()
        return m.two(maps).relu()

    network = deconv.Network(Forward(frozen, one=conv(3), two=conv()), SHAPE)
    for rule in ("deconvnet", "gradient", "deconvnet_beyond"):
        with pytest.raises(
            UnsupportedOperation, match="no rule has a way back .*'relu' in the network .* gradients on"
        ):
            deconv.project(network, IMAGES, "relu_1", [0], [0], [0], [0], rule=rule)


def test_complex_filters_have_autograds_derivative() -> None:
    filters = nn.Conv2d(3, 4, 3, dtype=torch.complex64)
    module = Forward(lambda m, x: m.filters(x.to(torch.complex64)).abs().relu(), filters=filters)
    network = deconv.Network(module, SHAPE)
    peaks = random_positions(module(IMAGES).detach(), 6)
    _, expected = project_by_autograd(module, IMAGES, peaks, "gradient")
    pixels = project_at(network, IMAGES, "relu", peaks, rule="gradient").paste()
    assert relative_error(pixels, expected).max() < 1e-4


# --- maps that are laid out of rows, groups or volumes ----------------------------------------------------------------


def tokens(m: Any, x: Tensor) -> Tensor:
    maps = m.one(x).relu()
    rows = m.linear(maps.flatten(2).transpose(1, 2)).relu()
    return rows.transpose(1, 2).reshape(len(x), 6, *maps.shape[2:])


LAID_OUT: dict[str, Callable[[], nn.Module]] = {
    "an ensemble": lambda: Forward(
        lambda m, x: torch.stack([m.one(x), m.two(x)]).mean(0).relu(), one=conv(3), two=conv(3)
    ),
    "maxout": lambda: Forward(lambda m, x: m.one(x).view(len(x), 2, 2, 10, 10).amax(2), one=conv(3)),
    "a convolution by unfold": lambda: Forward(
        lambda m, x: m.one(F.unfold(x, 3).transpose(1, 2)).relu().transpose(1, 2).view(len(x), 6, 10, 10),
        one=nn.Linear(27, 6),
    ),
    "fold": lambda: Forward(lambda m, x: F.fold(m.one(x).flatten(2).relu(), (10, 10), 1).relu(), one=conv(3)),
    "tokens": lambda: Forward(tokens, one=conv(3), linear=nn.Linear(4, 6)),
    "rows of positions": lambda: Forward(
        lambda m, x: m.linear(m.one(x).flatten(2)).view(len(x), 4, 10, 10).relu(),
        one=conv(3),
        linear=nn.Linear(100, 100),
    ),
    "a vector": lambda: Forward(
        lambda m, x: m.linear(m.one(x).relu().mean((2, 3))).view(len(x), 6, 2, 2).relu(),
        one=conv(3),
        linear=nn.Linear(4, 24),
    ),
    "a volume": lambda: Forward(
        lambda m, x: m.one(x[:, :, None].expand(-1, -1, 3, -1, -1)).squeeze(2).relu(), one=nn.Conv3d(3, 4, 3)
    ),
}


@pytest.mark.parametrize("name", LAID_OUT)
def test_what_is_laid_out_as_maps_is_a_layer(name: str) -> None:
    torch.manual_seed(0)
    module = LAID_OUT[name]().double()
    network, images = deconv.Network(module, SHAPE), IMAGES.double()
    layer = network.layers[-1]
    maps = module(images).detach()
    torch.testing.assert_close(network.forward(images, [layer])[layer], as_map(maps))
    peaks = random_positions(maps, 6)
    _, expected = project_by_autograd(module, images, peaks, "gradient")
    pixels = project_at(network, images, layer, peaks, rule="gradient").paste()
    assert relative_error(pixels, expected).max() < 1e-5


@pytest.mark.parametrize(
    "turn", [lambda x: x.movedim((1,), (3,)), lambda x: x.moveaxis(1, -1), lambda x: x.swapdims(1, 3), lambda x: x.mT]
)
def test_maps_whose_axes_were_moved_are_no_maps(turn: Callable[[Tensor], Tensor]) -> None:
    network = deconv.Network(Forward(lambda m, x: turn(m.one(x).relu()).relu(), one=conv(3)), SHAPE)
    assert all(network.map_size(layer) == (10, 10) and network.channels(layer) == 4 for layer in network.layers)


# --- one line for what cannot be --------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "volumes": (lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU()), r"its Conv3d takes volumes \(N, C, D, H, W\)"),
    "sequences": (lambda: nn.Conv1d(3, 4, 3), r"its Conv1d takes sequences \(N, C, L\)"),
    "nothing done": (nn.Identity, "no map or vector for each image, but its input as it is"),
    "classes": (lambda: Forward(lambda m, x: x.argmax(1)), r"no map or vector .*, but \(12, 12\) of torch.int64"),
    "a loop over images": (
        lambda: Forward(lambda m, x: torch.stack([m.one(image[None])[0].relu() for image in x]), one=conv(3)),
        "something else for another number of images, as a loop over them",
    ),
    "a program": (lambda: torch.export.export(plain(), (IMAGES,)), r"module.module\(\) is one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_module_that_cannot_be_followed_says_what_it_does(name: str, unchecked: None) -> None:
    make, message = REFUSED[name]
    with pytest.raises(DeconvError, match=message) as refusal:
        deconv.Network(make(), SHAPE)
    assert "\n" not in str(refusal.value)


# --- what the process has set -----------------------------------------------------------------------------------------


class Settings:
    """A process-wide setting of torch, and what it was before."""

    def __init__(self, change: Callable[[Any], None], value: Any, before: Any):
        self.change, self.value, self.before = change, value, before

    def __enter__(self) -> None:
        self.change(self.value)

    def __exit__(self, *ended: object) -> None:
        self.change(self.before)


AROUND: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64 by default": lambda: Settings(torch.set_default_dtype, torch.float64, torch.float32),
    "another device by default": lambda: Settings(torch.set_default_device, "meta", None),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_torch_is_set_to_changes_nothing(name: str) -> None:
    module = plain()  # a module takes what is set when it is made

    def everything() -> tuple[Tensor, Tensor, Tensor]:
        network = deconv.Network(module, SHAPE, preprocessing=PREPROCESSING)
        peaks = deconv.mine(network, deconv.dataset(PICTURES), ["3"], k=2)["3"]
        recon = deconv.project_peaks(network, deconv.dataset(PICTURES), "3", peaks, [0, 1], through=["1"])
        patches = deconv.patches_of(network, deconv.dataset(PICTURES), recon)
        return peaks.score, recon.paste(), patches.pixels

    expected = everything()
    with AROUND[name]():
        actual = everything()
    for value, other in zip(actual, expected, strict=True):
        assert value.dtype == other.dtype and torch.equal(value.nan_to_num(), other.nan_to_num())


def test_networks_are_made_in_many_threads_at_once() -> None:
    outcomes: list[list[str] | Exception] = []

    def make() -> None:
        try:
            outcomes.append(deconv.Network(plain(), SHAPE).layers)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [["1", "3"]] * 6


def test_a_module_that_draws_leaves_the_random_numbers_as_they_were() -> None:
    def noisy(m: Any, x: Tensor) -> Tensor:
        return m.two(m.one(x).relu() + torch.randn(1) + random.random() + np.random.rand())

    module = Forward(noisy, one=conv(3), two=conv())

    def states() -> tuple[Any, ...]:  # of Python's too, but what checks annotations in tests draws from those
        kind, numbers, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), kind, np.asarray(numbers).tolist(), *rest

    before = states()
    assert deconv.Network(module, SHAPE).layers == ["relu"]
    assert states() == before


# --- how things are given ---------------------------------------------------------------------------------------------

NETWORK = deconv.Network(plain(), SHAPE)


def project_units(units: Any) -> deconv.Reconstructions:
    return deconv.project_peaks(NETWORK, IMAGES, "3", deconv.mine(NETWORK, IMAGES, ["3"], k=1)["3"], units)


def mine_layer(layer: Any) -> deconv.Peaks:
    return deconv.mine(NETWORK, IMAGES, [layer], k=1)


def unit_without_a_number() -> Any:
    module = plain()
    with torch.no_grad():
        nn.init.constant_(module[2].get_parameter("bias"), torch.nan)
    return deconv.project(deconv.Network(module, SHAPE), IMAGES, "3", [0], [0], [0], [0])


MISTAKES: dict[str, tuple[Callable[[], Any], type[DeconvError], str]] = {
    "a mask of units": (
        lambda: project_units(torch.tensor([True, True, False])),
        BadInput,
        r"units: given tensor\(True",
    ),
    "an array that masks": (lambda: project_units(np.array([True])), BadInput, "units: given np.True_"),
    "a module as layer": (
        lambda: mine_layer(list(NETWORK.module.children())[3]),
        UnknownName,
        "the module ReLU.*layers go by their names, as '3'",
    ),
    "a number as layer": (lambda: mine_layer(3), UnknownName, "by their names, as '3'"),
    "transforms as preprocessing": (
        lambda: deconv.Network(plain(), SHAPE, preprocessing=Compose([ToTensor(), Normalize([0.5] * 3, [0.2] * 3)])),
        BadInput,
        r"preprocessing: given a Compose; .*deconv.Preprocessing.of\(it\)",
    ),
    "a bias that is no number": (unit_without_a_number, BadInput, "layer 3: an activation is NaN or infinite"),
    "no path": (
        lambda: deconv.mine(NETWORK, IMAGES, ["3"], k=1).save(None),  # type: ignore[arg-type]
        BadInput,
        "path: given None; expected the",
    ),
    "a URL of weights": (
        lambda: deconv.load("zfnet64", weights="https://example.org/a.pth"),
        BadInput,
        "the weights are at https://example.org/a.pth; .*download it",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, unchecked: None) -> None:
    call, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_numbers_are_taken_as_arrays_and_tensors_hold_them(unchecked: None) -> None:
    given = deconv.Preprocessing(np.array([12, 12]), None, torch.tensor([0.5] * 3), np.array([0.25] * 3))  # type: ignore[arg-type]
    assert given == PREPROCESSING and hash(given) == hash(PREPROCESSING)
    network = deconv.Network(plain(), SHAPE)
    units: Any = np.array([1, 0])
    check_units(network, ["3"], units)
    assert choose_units(deconv.mine(network, IMAGES, ["3"], k=1)["3"], units, 9, seed=0) == [1, 0]


GIVEN_AS_IMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a tuple of arrays": (lambda home: tuple(PICTURES), r"deconv.dataset\(images\) takes such pictures"),
    "a dict of pictures": (lambda home: {"photo": PICTURES}, r"deconv.dataset\(list\(images\['photo'\]\)\) takes"),
    "a data frame": (
        lambda home: pd.DataFrame({"label": [0, 1, 2], "photo": [Image.fromarray(each) for each in PICTURES]}),
        r"deconv.dataset\(list\(images\['photo'\]\)\) takes its pictures",
    ),
    "a zip": (lambda home: home / "photos.zip", "unpack it"),
}


@pytest.mark.parametrize("name", GIVEN_AS_IMAGES)
def test_what_makes_a_source_of_it_is_said(name: str, tmp_path: Path, unchecked: None) -> None:
    make, message = GIVEN_AS_IMAGES[name]
    with pytest.raises(BadInput, match=message):
        deconv.mine(deconv.Network(plain(), SHAPE, preprocessing=PREPROCESSING), make(tmp_path), ["3"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (picture for picture in PICTURES), r"list\(images\) is one"),
        (lambda: pd.DataFrame({"photo": PICTURES}), r"list\(images\[COLUMN\]\)"),
        (lambda: [PICTURES[0].tolist()], r"images.with_format\('numpy'\)"),
    ],
)
def test_what_makes_a_dataset_of_it_is_said(make: Callable[[], Any], message: str, unchecked: None) -> None:
    with pytest.raises(BadInput, match=message):
        deconv.dataset(make())


def test_pictures_that_a_folder_leaves_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.ppm", "b.GIF", "c.avif"):
        (tmp_path / name).touch()
    picture = Image.fromarray(PICTURES[0])
    picture.save(tmp_path / "a.ppm")
    source = deconv.folder(tmp_path)
    assert source.keys == ("a.ppm",) and np.array_equal(source.image(0), PICTURES[0])
    assert f"left out of the folder {tmp_path}: 2 pictures of other kinds, the first being b.GIF" in caplog.text
    (tmp_path / "a.ppm").unlink()
    with pytest.raises(BadInput, match="holds no image, but 2 pictures of other kinds, .*b.GIF; expected files"):
        deconv.folder(tmp_path)
    (tmp_path / "photos.zip").touch()
    with pytest.raises(BadInput, match="photos.zip is a file; .* unpacking it makes one"):
        deconv.folder(tmp_path / "photos.zip")


def test_grey_of_16_bits_is_scaled_by_its_range_in_a_pgm_too(tmp_path: Path) -> None:
    levels = np.array([[0, 257 * 128, 65535]], ">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + levels.tobytes())
    assert deconv.folder(tmp_path).image(0)[0, :, 0].tolist() == [0, 128, 255]
