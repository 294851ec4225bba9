"""Figure 2 and `draw`: which tiles stand where, how a figure is labelled, and which file is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from deconv.errors import BadInput
from deconv.figures import features
from deconv.figures.page import MARGIN, TILE
from deconv.figures.pictures import patch_tiles, recon_tiles
from deconv.records import Patches, Reconstructions


def records(units: int = 3, k: int = 4, size: int = 9, channels: int = 3) -> tuple[Reconstructions, Patches]:
    torch.manual_seed(0)
    n = units * k
    channel = torch.arange(units).repeat_interleave(k)
    image, place = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    box = torch.stack([place - 2, place, place - 2 + size, place + size], dim=1)
    pixels = torch.randn(n, channels, size, size)
    recon = Reconstructions(
        "conv1", "deconvnet", pixels, torch.rand(n), box, box, image, channel, place, place, (32, 32)
    )
    inside = torch.ones(n, size, size, dtype=torch.bool)
    inside[:, :2] = False
    cut = torch.randint(1, 255, (n, channels, size, size), dtype=torch.uint8) * inside[:, None]
    return recon, Patches(cut, inside, box, image)


def test_a_unit_panel_holds_its_own_reconstructions_and_patches_in_order() -> None:
    recon, patches = records()
    panels = features.unit_panels(recon, patches, k=4)
    assert [panel.label.split()[1].strip(",") for panel in panels] == ["0", "1", "2"]
    assert f"{float(recon.score[4:8].max()):.3g}" in panels[1].label
    shown, cut = recon_tiles(recon.pixels, TILE), patch_tiles(patches.pixels, patches.inside, TILE)
    step = TILE + features.GAP
    for block, tiles in zip(panels[1].blocks, (shown, cut), strict=True):
        for n, (y, x) in enumerate(((0, 0), (0, step), (step, 0), (step, step))):
            assert np.array_equal(block[y : y + TILE, x : x + TILE], tiles[4 + n])
    with_filters = features.unit_panels(recon, patches, 4, torch.randn(3, 3, 5, 5))
    assert [len(panel.blocks) for panel in with_filters] == [3, 3, 3]


def test_what_is_noted_of_a_unit_stands_in_its_label_in_place_of_the_activation() -> None:
    panels = features.unit_panels(*records(), k=4, notes={1: "0.80 of its strongest over 100,000 images"})
    assert panels[1].label == "unit 1, 0.80 of its strongest over 100,000 images"
    assert panels[0].label.startswith("unit 0, activation ") and panels[2].label.startswith("unit 2, activation ")


def test_a_figure_labels_each_unit_once_and_keeps_to_its_rows() -> None:
    recon, patches = records(units=6)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4))
    for rows, shown in ((None, 6), (1, 4)):
        figure = features.features_figure([layer], "title", rows)
        texts = [text.get_text() for text in figure.texts]
        assert [text for text in texts if text.startswith("unit ")] == [unit.label for unit in layer.units[:shown]]
        assert "conv1" in texts and "title" in texts


def test_the_second_unit_stands_right_of_the_first_and_the_fifth_below_it() -> None:
    recon, patches = records(units=5)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4))
    figure = features.features_figure([layer], "title")
    (page,) = figure.axes
    pixels = np.asarray(page.get_images()[0].get_array())
    width, height = figure.get_size_inches() * figure.dpi
    assert pixels.shape == (round(height), round(width), 3)
    labels = {text.get_text(): text.get_position() for text in figure.texts}
    for unit in (0, 1, 4):
        x, y = labels[layer.units[unit].label]
        left, top = round(x * width), round((1 - y) * height) + features.UNIT_LABEL
        block = layer.units[unit].blocks[0]
        assert np.array_equal(pixels[top : top + block.shape[0], left : left + block.shape[1]], block), unit
    (first_x, first_y), (second_x, second_y) = labels[layer.units[0].label], labels[layer.units[1].label]
    assert first_x == pytest.approx(MARGIN / width) and second_x > first_x and second_y == first_y
    assert labels[layer.units[4].label][0] == first_x and labels[layer.units[4].label][1] < first_y


def test_the_caption_is_broken_where_the_page_is_narrow() -> None:
    recon, patches = records(units=1, k=1)
    figure = features.features_figure([features.LayerPanels("conv1", features.unit_panels(recon, patches, 1))], "title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()


@pytest.mark.parametrize(("suffix", "kind"), [(".png", "PNG"), (".jpg", "JPEG"), (".JPEG", "JPEG")])
def test_draw_writes_the_file_that_it_is_told_and_only_that(tmp_path: Path, suffix: str, kind: str) -> None:
    path = features.draw(*records(), tmp_path / f"layer1.0.relu{suffix}")
    assert path == tmp_path / f"layer1.0.relu{suffix}" and list(tmp_path.iterdir()) == [path]
    with Image.open(path) as picture:
        assert picture.format == kind and picture.size[0] > 2 * 3 * TILE


def test_draw_writes_vectors_too(tmp_path: Path) -> None:
    assert features.draw(*records(), tmp_path / "unit.pdf").read_bytes().startswith(b"%PDF")
    assert b"<svg" in features.draw(*records(), tmp_path / "unit.svg").read_bytes()


def test_layers_whose_names_have_dots_get_files_of_their_own(tmp_path: Path) -> None:
    names = ["layer1.0.relu", "layer1.0.relu_1"]
    for name in names:
        recon, patches = records()
        features.draw(replace(recon, layer=name), patches, tmp_path / f"{name}.png")
    assert sorted(path.stem for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("name", ["layer1.0.relu", "unit", "unit.gif"])
def test_a_file_of_no_format_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match=r"^path: given .*; expected .* one of \.png, \.pdf, \.svg, \.jpg, \.jpeg"):
        features.draw(*records(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg", ".jpg"])
def test_pictures_are_the_same_bytes_each_time(tmp_path: Path, suffix: str) -> None:
    recon, patches = records()
    first, second = (features.draw(recon, patches, tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first == second and len(first) > 1000


@pytest.mark.parametrize(("channels", "caption"), [(1, "zero at mid-grey"), (2, "energy"), (5, "of 5 channels")])
def test_any_number_of_channels_is_drawn_and_said(
    channels: int, caption: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return path

    monkeypatch.setattr(features, "save_as", keep)
    features.draw(*records(channels=channels), tmp_path / "unit.png")
    (figure,) = figures
    assert any(caption in text.get_text() for text in figure.texts)
    pixels = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert (pixels[..., 0] == pixels[..., 1]).all() and len(np.unique(pixels)) > 50


def test_patches_of_other_peaks_are_refused() -> None:
    recon, patches = records()
    other = Patches(patches.pixels, patches.inside, patches.box, patches.image + 1)
    with pytest.raises(BadInput, match="patches_of"):
        features.draw(recon, other, "never.png")
