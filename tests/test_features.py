"""Figure 2 and `draw`: which tiles stand where, how a figure is labelled, which file is written; its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from deconv.analyses.features import classes_of_units, shared_classes
from deconv.errors import BadInput
from deconv.figures import features, save_pages
from deconv.figures.page import MARGIN, TILE
from deconv.figures.pictures import patch_tiles, recon_tiles
from deconv.images import Source
from deconv.images.members import Member
from deconv.records import LayerPeaks, Patches, Reconstructions


def records(units: int = 3, k: int = 4, size: int = 9, channels: int = 3) -> tuple[Reconstructions, Patches]:
    torch.manual_seed(0)
    n = units * k
    channel = torch.arange(units).repeat_interleave(k)
    image, place = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    box = torch.stack([place - 2, place, place - 2 + size, place + size], dim=1)
    pixels = torch.randn(n, channels, size, size)
    peaks = (image, channel, place, place)
    recon = Reconstructions("conv1", "deconvnet", pixels, torch.rand(n), box, box, *peaks, (32, 32))
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


def test_a_unit_is_called_by_its_title_and_its_note_stands_in_place_of_its_activation() -> None:
    recon, patches = records()
    panels = features.unit_panels(recon, patches, 4, None, {0: "lesser panda 3 of 4"}, {0: "as strong", 1: "weak"})
    strongest = [f"activation {float(recon.score[4 * unit : 4 * unit + 4].max()):.3g}" for unit in range(3)]
    assert [panel.label for panel in panels] == [
        "unit 0: lesser panda 3 of 4\nas strong",
        "unit 1, weak",
        f"unit 2, {strongest[2]}",
    ]


@pytest.mark.parametrize(("k", "abreast"), [(1, 6), (4, 3), (9, 2), (16, 1)])
def test_as_many_units_stand_abreast_as_there_is_room_for(k: int, abreast: int) -> None:
    recon, patches = records(units=7, k=k)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, k))
    assert layer.abreast == abreast and layer.width <= features.WIDEST
    assert replace(layer, widest=1).abreast == 1 and replace(layer, units=layer.units[:1]).abreast == 1
    assert TILE >= 96


def test_long_labels_keep_to_their_own_units() -> None:
    recon, patches = records(units=4)
    titles = {0: "WIDE MAMMALS, " * 6 + "$5 and $6", 1: "a short one", 3: "x" * 200}
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4, None, titles), widest=900)
    figure = features.features_figure([layer], "title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    down, across = layer.pitch
    pixels = np.asarray(figure.axes[0].get_images()[0].get_array())
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text().startswith("unit ")]
    assert len(boxes) == 4 and layer.abreast == 2
    for n, box in enumerate(boxes):
        left = MARGIN + n % 2 * across
        assert left - 1 <= box.x0 and box.x1 <= left + across
        beneath = pixels[round(height - box.y1) : round(height - box.y0), round(box.x0) : round(box.x1)]
        assert (beneath == 255).all(), n
    assert boxes[0].y1 - boxes[2].y1 == pytest.approx(down, abs=2)


def test_a_figure_labels_each_unit_once_and_keeps_to_its_rows() -> None:
    recon, patches = records(units=6)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4))
    for rows, shown in ((None, 6), (1, 3)):
        figure = features.features_figure([layer], "title", rows)
        texts = [text.get_text() for text in figure.texts]
        assert [text for text in texts if text.startswith("unit ")] == [unit.label for unit in layer.units[:shown]]
        assert "conv1" in texts and "title" in texts


def test_the_second_unit_stands_right_of_the_first_and_the_fourth_below_it() -> None:
    recon, patches = records(units=5)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4))
    figure = features.features_figure([layer], "title")
    (page,) = figure.axes
    pixels = np.asarray(page.get_images()[0].get_array())
    width, height = figure.get_size_inches() * figure.dpi
    assert pixels.shape == (round(height), round(width), 3)
    labels = {text.get_text(): text.get_position() for text in figure.texts}
    for unit in (0, 1, 3):
        x, y = labels[layer.units[unit].label]
        left, top = round(x * width), round((1 - y) * height) + layer.above
        block = layer.units[unit].blocks[0]
        assert np.array_equal(pixels[top : top + block.shape[0], left : left + block.shape[1]], block), unit
    (first_x, first_y), (second_x, second_y) = labels[layer.units[0].label], labels[layer.units[1].label]
    assert first_x == pytest.approx(MARGIN / width) and second_x > first_x and second_y == first_y
    assert labels[layer.units[3].label][0] == first_x and labels[layer.units[3].label][1] < first_y


def test_the_caption_is_broken_where_the_page_is_narrow() -> None:
    recon, patches = records(units=1, k=1)
    figure = features.features_figure([features.LayerPanels("conv1", features.unit_panels(recon, patches, 1))], "title")
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text.get_text()


def labels_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text().startswith("unit ")]


def test_pages_have_the_shape_of_a4_and_each_unit_once_in_order() -> None:
    recon, patches = records(units=20, k=9)
    panels = features.unit_panels(recon, patches, 9)
    layers = [features.LayerPanels("conv1", panels[:3]), features.LayerPanels("conv2", panels)]
    pages = features.features_pages(layers, "a network")
    assert len(pages) == 3  # two rows of conv1 and two of conv2, four on each other page
    assert [label for page in pages for label in labels_of(page)] == [unit.label for unit in (*panels[:3], *panels)]
    for number, page in enumerate(pages, start=1):
        width, height = page.get_size_inches()
        texts = [text.get_text() for text in page.texts]
        assert height / width == pytest.approx(297 / 210, abs=0.001)
        assert texts[0] == f"a network, page {number} of 3" and labels_of(page)
        assert ("conv1" in texts, "conv2" in texts, "conv2, continued" in texts) == (
            number == 1,
            number == 1,
            number > 1,
        )
        page.draw_without_rendering()
        boxes = [text.get_window_extent() for text in page.texts]
        assert min(box.y0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= width * page.dpi
    (single,) = features.features_pages(layers, "a network", rows=1)
    assert labels_of(single) == [unit.label for unit in (*panels[:2], *panels[:2])]
    assert single.texts[0].get_text() == "a network"


def test_the_pages_show_what_the_picture_shows() -> None:
    recon, patches = records(units=12, k=9)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 9))
    figures = [features.features_figure([layer], "title"), *features.features_pages([layer], "title")]
    whole, *parts = (np.asarray(figure.axes[0].get_images()[0].get_array()) for figure in figures)
    assert len(parts) == 2
    rows = [page[(page < 255).any(axis=(1, 2))] for page in (whole, *parts)]
    assert np.array_equal(rows[0], np.concatenate(rows[1:]))


def test_pages_are_written_beside_the_picture_the_same_bytes_each_time(tmp_path: Path) -> None:
    recon, patches = records(units=12, k=9)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 9))
    for name in ("a", "b"):
        picture, pages = features.features_figure([layer], "title"), features.features_pages([layer], "title")
        assert save_pages(picture, pages, tmp_path / f"{name}.png") == tmp_path / f"{name}.png"
    for suffix in ("png", "pdf"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    printed = (tmp_path / "a.pdf").read_bytes()
    assert printed.count(b"/Type /Page ") == 2 and b"CreationDate" not in printed
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == tuple((picture.get_size_inches() * picture.dpi).round())


def test_a_page_has_room_for_a_row_however_high_it_is() -> None:
    tower = features.UnitPanel("unit 0, tall", (np.zeros((1200, 60, 3), np.uint8),))
    pages = features.features_pages([features.LayerPanels("conv1", (tower,) * 3, widest=100)], "title")
    assert [labels_of(page) for page in pages] == [["unit 0, tall"]] * 3


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


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 2, 0, 2, 1], "church 3 of 5"),
        ([0, 3, 3, 0, 1], "cat 2, dog 2 of 5"),
        ([3, 0, 0, 3, 1, 1, 0], "cat 3, dog 2 of 7"),
        ([0, 1, 2], ""),
        ([], ""),
        ([1, 1], "a name with more letter… 2 of 2"),
    ],
)
def test_the_classes_that_images_share(labels: list[int], expected: str) -> None:
    names = ("cat", "a name with more letters than a title has room for", "church, church building", "dog")
    assert shared_classes(labels, names) == expected


def test_classes_without_names_are_numbers() -> None:
    assert shared_classes([7, 7, 7, 5]) == "class 7 3 of 4"


def test_an_image_counts_once_for_its_unit_however_many_peaks_it_gives() -> None:
    members = tuple(Member(Path(f"{n}.png")) for n in range(4))
    keys = tuple(str(member.path) for member in members)
    photographs = Source("folder", keys, members, (1, 0, 1, 1), ("cat", "dog"), ids=(10, 11, 12, 13))
    image = torch.tensor([[10, 10, 11], [12, 11, 10], [13, -1, -1]])
    peaks = LayerPeaks(image.float(), image, image, image, torch.zeros(3, 3, 4, dtype=torch.int64))
    assert classes_of_units(photographs, peaks, [2, 1, 0]) == {1: "dog 2 of 3"}
    assert classes_of_units(replace(photographs, labels=None), peaks, [0, 1, 2]) == {}
