"""What a notebook shows: well-formed HTML of bounded size, without scripts, every word escaped."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.figures import html
from deconv.figures.pictures import on_grid, patch_tiles, recon_tiles
from deconv.records import Parts, Peaks
from tests.samples import images, network

VOID = ("img", "br")


class Reader(HTMLParser):
    """Collects cells, captions, notes and pictures; fails on a tag that is not closed in its turn, or runs."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[tuple[str, str]] = []
        self.pictures: list[np.ndarray] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert tag not in ("script", "iframe", "object", "link") and not [n for n, _ in attributes if n[:2] == "on"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            said = dict(attributes)
            kind, _, text = said["src"].partition(";base64,")
            picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
            assert kind == f"data:image/{(picture.format or '').lower()}" and said["alt"]
            assert picture.size == (int(said["width"]), int(said["height"]))
            self.pictures.append(np.asarray(picture))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1], data))

    def all(self, tag: str) -> list[str]:
        return [word for inside, word in self.words if inside == tag]


def read(shown: Any, most: int = 100_000) -> Reader:
    text, reader = shown._repr_html_(), Reader()
    assert len(text) < most
    reader.feed(text)
    assert reader.open == []
    assert "background" not in text and not re.search(r"[^-]color:", text)  # the page's own, light or dark
    return reader


def cells(reader: Reader) -> list[list[str]]:
    across = len(reader.all("th"))
    return np.array(reader.all("td")).reshape(-1, across).tolist()


def test_a_network_shows_its_layers_and_what_its_rules_refuse() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.SiLU(), nn.Flatten())
    reader = read(deconv.Network(net.append(nn.Linear(150, 5)), (3, 16, 16), {"first": "1"}))
    assert cells(reader) == [
        ["first = 1", "4", "14 x 14", "3 x 3", "1 x 1", "every rule"],
        ["4", "6", "5 x 5", "8 x 8", "2 x 2", "gradient, deconvnet_beyond, guided_beyond"],
        ["6", "5", "1 x 1", "16 x 16", "–", "gradient, deconvnet_beyond, guided_beyond"],
    ]
    quoted = "\n".join(reader.all("p"))
    assert "4 and 1 more: 'deconvnet' has no way back through 'silu' in 4" in quoted
    assert (
        "rule={'activation': 'rectify'} would carry it, in the shell rule.activation=rectify; " in quoted
        and "'guided' has no way back" in quoted
    )


def test_a_network_of_many_layers_shows_the_first() -> None:
    net = nn.Sequential(*(layer for _ in range(50) for layer in (nn.Conv2d(1, 1, 1), nn.ReLU())))
    reader = read(deconv.Network(net, (1, 4, 4)))
    assert len(cells(reader)) == html.MOST_ROWS
    assert reader.all("p") == ["… and 10 more layers, which network.layers lists"]


def test_peaks_show_the_strongest_unit_of_each_layer() -> None:
    mined = deconv.mine(network(), images(7), ["one", "two"], k=3)
    rows = cells(read(mined))
    for name, units, k, dead, unit, score, key in rows:
        peaks = mined[name]
        assert [units, k] == [str(side) for side in peaks.score.shape]
        assert int(dead) == int((~peaks.found.any(dim=1)).sum())
        strongest = float(peaks.score[peaks.found].max())
        assert score == f"{strongest:.4g}" and float(peaks.score[int(unit), 0]) == strongest
        assert key == mined.image_keys[int(peaks.image[int(unit), 0])]
    assert [row[0] for row in rows] == ["one", "two"]
    assert f"; of 7 images, {len(mined.image_keys)} hold a peak" in "".join(read(mined).all("p"))


def test_one_layer_shows_its_strongest_units_and_a_source_its_first_images() -> None:
    mined = deconv.mine(network(), images(7), ["one"], k=3)["one"]
    rows = cells(read(mined))
    firing = mined.score[mined.found[:, 0], 0].sort(descending=True).values
    assert [row[1] for row in rows] == [f"{score:.4g}" for score in firing.tolist()]
    assert [mined.image[int(unit), 0] for unit, *_ in rows] == [int(row[2]) for row in rows]
    source = deconv.bundled()
    rows = cells(read(source))
    assert [row[1] for row in rows] == list(source.keys[: html.MOST_KEYS])
    assert read(source).all("p")[-1] == f"… and {len(source) - html.MOST_KEYS} more images"


def test_names_are_text_and_units_that_never_fire_are_told() -> None:
    nowhere = torch.full((2, 3), -1)
    dead = deconv.records.LayerPeaks(
        nowhere / torch.zeros(2, 3) * 0, nowhere, nowhere, nowhere, nowhere[..., None].repeat(1, 1, 4)
    )
    name = "<script>alert('&')</script>"
    assert cells(read(Peaks({name: dead}, {}))) == [[name, "2", "3", "2", "–", "–", "–"]]
    assert read(Peaks({}, {})).all("td") == []


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_reconstructions_and_patches_are_what_the_figures_show(channels: int) -> None:
    torch.manual_seed(0)
    net = deconv.Network(nn.Sequential(nn.Conv2d(channels, 12, 5), nn.ReLU()), (channels, 20, 20))
    given = torch.randn(12, channels, 20, 20)
    recon = deconv.project_peaks(net, given, "1", deconv.mine(net, given, ["1"], k=12)["1"], range(12))
    reader = read(recon, most=400_000)
    assert len(reader.pictures) == html.MOST_UNITS
    first = recon.channel == 0
    expected = on_grid(recon_tiles(recon.zoomed().pixels[first][:9], html.SIDE), 3, html.GAP)
    assert np.array_equal(reader.pictures[0], expected)
    assert reader.all("figcaption")[0] == f"unit 0, activation {float(recon.score[first].max()):.3g}"
    assert reader.all("p")[-1] == "… and 4 more units; of each unit its first 9 are shown"
    patches = deconv.cut_patches((given * 40 + 128).clamp(0, 255).to(torch.uint8), recon.image, recon.box)
    reader = read(patches, most=400_000)
    shown = patch_tiles(patches.pixels[: html.MOST_PATCHES], patches.inside[: html.MOST_PATCHES], html.SIDE)
    assert np.array_equal(reader.pictures[0], on_grid(shown, html.ACROSS, html.GAP))
    assert reader.all("p")[-1] == f"… and {len(patches.pixels) - html.MOST_PATCHES} more patches"


def test_parts_show_the_strongest_lower_units_and_what_they_leave() -> None:
    share, position = torch.tensor([[2.0, -0.5, 1.0]]), torch.zeros((1, 3, 2), dtype=torch.int64)
    of_peak: Any = (torch.tensor([4.0]), torch.tensor([7]), {}, {"<low>": torch.tensor([1.0])})
    shares, positions = {"<low>": share, "old": share}, {"<low>": position, "old": position}
    assert cells(read(Parts(shares, positions, *of_peak))) == [
        ["<low>", "0: 50 %, 2: 25 %, 1: -12 %", "0 %", "25 %", "12 %"],
        ["old", "0: 50 %, 2: 25 %, 1: -12 %", "0 %", "not known", "not known"],
    ]
    many = Parts({"low": torch.ones(1, 9)}, {}, torch.tensor([10.0]), torch.tensor([0]), {}, {"low": torch.zeros(1)})
    assert cells(read(many))[0][1:] == [", ".join(f"{unit}: 10 %" for unit in range(5)), "40 %", "0 %", "10 %"]


def test_large_fields_are_shown_small_and_nothing_is_shown_of_nothing() -> None:
    torch.manual_seed(0)
    net = deconv.Network(nn.Sequential(nn.Conv2d(3, 9, 190), nn.ReLU()), (3, 200, 200))
    given = torch.randn(9, 3, 200, 200)
    recon = deconv.project_peaks(net, given, "1", deconv.mine(net, given, ["1"], k=9)["1"], range(9))
    assert len(read(recon, most=400_000).pictures) == html.MOST_UNITS
    none = deconv.project_peaks(net, given, "1", deconv.mine(net, given, ["1"])["1"], [])
    assert read(none).pictures == []
    patches = deconv.cut_patches(torch.zeros(9, 3, 200, 200, dtype=torch.uint8), none.image, none.box)
    assert read(patches).pictures == []
