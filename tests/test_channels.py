"""Networks of one, two, four or twelve channels: mined, projected, saved, cut, drawn and shown like those of three."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.errors import BadInput
from deconv.images.cached import cached
from tests.annotations import jaxtyping_off
from tests.promises import REFUSED

SIZE = 24
GREY = deconv.Preprocessing((SIZE, SIZE), None, [0.5], [0.25])


def network(channels: int, preprocessing: deconv.Preprocessing | None = None) -> deconv.Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU()]
    return deconv.Network(
        nn.Sequential(*layers).eval(), (channels, SIZE, SIZE), {"one": "1", "two": "4"}, preprocessing
    )


def photographs(folder: Path, count: int = 4) -> deconv.images.Source:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for n in range(count):
        small = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        small.resize((30 + n, 28), Image.Resampling.BICUBIC).save(folder / f"{n}.png")
    return deconv.folder(folder)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_tensors_of_any_number_of_channels_go_all_the_way(tmp_path: Path, channels: int) -> None:
    net, images = network(channels), torch.rand(5, channels, SIZE, SIZE)
    peaks = deconv.mine(net, images, ["one", "two"], k=2)
    recon = deconv.project_peaks(net, images, "two", peaks["two"], [0, 1, 4])
    assert recon.pixels.shape[1] == channels
    loaded = deconv.Reconstructions.load(recon.save(tmp_path / "r.safetensors"))
    assert torch.equal(loaded.pixels, recon.pixels) and torch.equal(loaded.paste(), recon.paste())
    patches = deconv.cut_patches((images * 255).to(torch.uint8), recon.image, recon.box)
    again = deconv.records.Patches.load(patches.save(tmp_path / "p.safetensors"))
    assert torch.equal(again.pixels, patches.pixels)
    drawn = deconv.draw(recon, patches, tmp_path / "d.png")
    with Image.open(drawn) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colours = bool((pixels.max(axis=2) - pixels.min(axis=2) > 40).any())
    assert colours == (channels == 3)  # one channel is grey, several are an energy map


@pytest.mark.parametrize(("channels", "said"), [(1, False), (2, True), (3, False), (4, True), (12, True)])
def test_the_caption_says_that_a_picture_is_an_energy_map(tmp_path: Path, channels: int, said: bool) -> None:
    net, images = network(channels), torch.rand(2, channels, SIZE, SIZE)
    recon = deconv.project(net, images, "one", [0, 1], [1, 1], [3, 4], [5, 6])
    patches = deconv.cut_patches((images * 255).to(torch.uint8), recon.image, recon.box)
    text = deconv.draw(recon, patches, tmp_path / "d.svg").read_text()
    caption = " ".join(re.findall(r"<!-- (.*?) -->", text))  # matplotlib draws letters as paths, and says which
    assert "reconstructions" in caption
    assert (f"reconstructions of {channels} channels, as energy" in " ".join(caption.split())) == said


# --- photographs for a network that takes grey ----------------------------------------------------------------------


def test_grey_is_pillows_luma(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    found = deconv.Preprocessing(None, None, [0.5], [0.25]).input_image(image)
    assert found.shape == (1, 9, 11)
    assert np.array_equal(found[0].numpy(), np.asarray(Image.fromarray(image).convert("L")))
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found[0].numpy() - luma).max() <= 0.51


@pytest.mark.parametrize(("kind", "top"), [("uint8", 255), ("uint16", 65535)])
def test_a_grey_photograph_keeps_its_scale(tmp_path: Path, kind: str, top: int) -> None:
    levels = np.linspace(0, top, 256).round().astype(kind).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    found = deconv.folder(tmp_path).input_image(0, deconv.Preprocessing(None, None, [0.5], [0.25]))
    assert found.flatten().tolist() == list(range(256))


def test_normalize_of_grey_is_the_formula() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (images.double() / 255 - 0.5) / 0.25
    torch.testing.assert_close(GREY.normalize(images).double(), expected, rtol=0, atol=1e-6)


def test_a_grey_preprocessing_survives_json_and_says_what_grey_is() -> None:
    said = json.loads(json.dumps(GREY.as_dict()))
    assert said.pop("grey") == "ITU-R 601 luma" and said.pop("interpolation") == "bilinear, antialiased"
    assert deconv.Preprocessing(**said) == GREY
    assert "grey" not in deconv.Preprocessing(None, None, [0.5] * 3, [0.2] * 3).as_dict()


def test_a_folder_is_mined_by_a_grey_network_as_its_luma_is(tmp_path: Path) -> None:
    net, images = network(1, GREY), photographs(tmp_path / "photographs")
    inputs = torch.stack([images.input_image(n, GREY) for n in range(len(images))])
    by_folder, by_tensor = (deconv.mine(net, given, ["one", "two"], k=3) for given in (images, GREY.normalize(inputs)))
    for layer in ("one", "two"):
        assert torch.equal(by_folder[layer].image, by_tensor[layer].image)
        assert torch.equal(by_folder[layer].score.nan_to_num(), by_tensor[layer].score.nan_to_num())


def test_peaks_of_a_folder_are_projected_cut_and_drawn_grey(tmp_path: Path) -> None:
    net, images = network(1, GREY), photographs(tmp_path / "photographs")
    peaks = deconv.mine(net, images, ["two"], k=3)
    recon = deconv.project_peaks(net, images, "two", peaks["two"], [0, 2, 3])
    patches = deconv.patches_of(net, images, recon)
    assert recon.pixels.shape[1] == patches.pixels.shape[1] == 1
    for n, (y0, x0, y1, x1) in enumerate(recon.box.tolist()):
        if patches.inside[n].all():
            whole = images.input_image(int(recon.image[n]), GREY)
            assert torch.equal(patches.pixels[n], whole[:, y0:y1, x0:x1])
    with Image.open(deconv.draw(recon, patches, tmp_path / "two.png")) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 40  # of text smoothed in colour, if at all


def test_an_atlas_of_a_grey_network(tmp_path: Path) -> None:
    net, images = network(1, GREY), photographs(tmp_path / "photographs")
    peaks = deconv.mine(net, images, ["one", "two"], k=2)
    page = deconv.write_atlas(net, peaks, images, tmp_path / "site", rules=("deconvnet", "guided"), title="grey")
    written = sorted(page.parent.glob("images/*.jpg"))
    assert page.is_file() and written
    with Image.open(written[0]) as picture:
        assert picture.mode == "L" and picture.size == (SIZE, SIZE)


def test_cached_photographs_of_one_channel(tmp_path: Path) -> None:
    images = photographs(tmp_path / "photographs")
    kept = cached(images, GREY, tmp_path / "cache")
    assert kept.input_images.shape == (4, SIZE, SIZE, 1)
    assert all(torch.equal(kept.input_image(n, GREY), images.input_image(n, GREY)) for n in range(4))
    net = network(1, GREY)
    assert torch.equal(deconv.mine(net, kept, ["two"])["two"].image, deconv.mine(net, images, ["two"])["two"].image)


THREE = deconv.Preprocessing((SIZE, SIZE), None, [0.5] * 3, [0.25] * 3)


@REFUSED
@pytest.mark.parametrize(
    ("channels", "preprocessing", "said"),
    [
        (1, THREE, r"mean: given \[0.5, 0.5, 0.5\]; expected one number, for grey, as many as the network has"),
        (3, GREY, r"mean: given \[0.5\]; expected three numbers, for red, green and blue"),
        (2, None, r"inputs of 2 channels, which photographs do not have; .*tensor \(N, 2, H, W\)"),
        (4, THREE, r"inputs of 4 channels, .*a float tensor \(N, 4, H, W\), in place of a Source"),
        (12, GREY, r"inputs of 12 channels"),
    ],
)
def test_photographs_do_not_fit_every_network(
    tmp_path: Path, channels: int, preprocessing: deconv.Preprocessing | None, said: str
) -> None:
    if preprocessing is not None:  # told when the network is made, and by whoever reads photographs if it is set later
        with pytest.raises(BadInput, match=said):
            network(channels, preprocessing)
    net, images = network(channels, None), photographs(tmp_path / "photographs")
    net.preprocessing = preprocessing
    with pytest.raises(BadInput, match=said):
        deconv.mine(net, images, ["one"])
    with pytest.raises(BadInput, match=said):
        deconv.project(net, images, "one", [0], [0], [0], [0])


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ([0.5, 0.5], [0.2, 0.2], r"mean: given .*three finite numbers, .*or one, for grey: inputs of other channels"),
        ([0.5] * 4, [0.2] * 4, "mean: given .*or one, for grey"),
        ([0.5], [0.2] * 3, "std: given .*as many numbers as mean has, 1"),
        ([0.5] * 3, [0.2], "std: given .*as many numbers as mean has, 3"),
        ([], [], "mean: given .*or one"),
        (0.5, 0.2, "mean: given 0.5; expected a list of one number, or three"),
    ],
)
def test_other_numbers_of_means_are_refused(mean: object, std: object, said: str) -> None:
    with jaxtyping_off(), pytest.raises(BadInput, match=said):
        deconv.Preprocessing((8, 8), None, mean, std)  # type: ignore[arg-type]
