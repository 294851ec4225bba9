"""experiment=photograph: units in the order of known shares, a page that needs nothing else, and its mistakes."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import deconv
from deconv.analyses.photograph import answers, numbers_here, outputs
from deconv.command.cli import main
from deconv.figures.photograph import lit
from deconv.records import LayerPeaks, Peaks, Reconstructions
from tests import small
from tests.commands import refusal, words
from tests.drawn import assert_drawn

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
COLOURS = """
import torch
from torch import nn

def network():
    "Two layers of red, green and blue, a hundred times as large in green; above them which of the colours is there."
    first, second = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
    first.weight.data = torch.diag(torch.tensor([1.0, 100.0, 1.0]))[:, :, None, None]
    second.weight.data = torch.eye(3)[:, :, None, None]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
"""
KEPT = ["conv1", "conv2"]


def flat(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), colour, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def colours(tmp_path: Path) -> list[str]:
    """Red is at most 250 in the images, green 250 and blue never; the photograph has less green, and blue."""
    flat(tmp_path / "photos/red.png", (250, 0, 0))
    flat(tmp_path / "photos/green.png", (0, 250, 0))
    flat(tmp_path / "mine/<i>&.png", (200, 50, 100))
    (tmp_path / "net.py").write_text(COLOURS)
    model = ["model=python", f"model.target={tmp_path / 'net.py'}:network", "model.size=[8,8]"]
    model += ["model.mean=[0.0,0.0,0.0]", "model.std=[1.0,1.0,1.0]", "layers=['1']", "k=1"]
    images = ["source=folder", f"source.root={tmp_path / 'photos'}"]
    return ["experiment=photograph", *model, *images, f'image="{tmp_path}/mine/<i>&.png"', "n_units=3"]


def test_units_come_by_the_share_of_their_strongest_and_not_by_activation(colours: list[str], tmp_path: Path) -> None:
    assert main([*colours, f"folder={tmp_path / 'run'}"]) == 0
    numbers = json.loads((tmp_path / "run/summary.json").read_text())["layers"]["1"]
    assert numbers["units"] == [0, 1, 2]  # red, then green, whose activation is 25 times as large; blue is dead there
    assert numbers["share_of_strongest"] == [0.8, 0.2, None]
    assert numbers["scores_here"] == pytest.approx([200 / 255, 5000 / 255, 100 / 255], rel=1e-5)
    assert (numbers["firing_here"], numbers["half_here"], numbers["dead_units"]) == (3, 1, 1)
    here = Reconstructions.load(tmp_path / "run/1.photograph.reconstructions.safetensors")
    assert here.channel.tolist() == [0, 1, 2] and here.pixels.shape == (3, 3, 1, 1)
    best = Reconstructions.load(tmp_path / "run/1.reconstructions.safetensors")
    peaks = Peaks.load(tmp_path / "run/peaks.safetensors")
    keys = [peaks.image_keys[image] for image in best.image.tolist()]
    assert best.channel.tolist() == [0, 1] and keys == ["red.png", "green.png"]
    page = (tmp_path / "run/photograph.html").read_text()
    for words_of_page in (
        "What net.py:network sees in &lt;i&gt;&amp;.png",
        "0.80 of its strongest over 2 images",
        "0.20 of its strongest over 2 images",
        "dead over 2 images, and fires here",
        "3 fire here, 1 with half of their strongest or more",
        "among 2 images, so that their shares",
    ):
        assert words_of_page in page, words_of_page


def test_where_no_shown_unit_has_a_peak_the_page_stands(colours: list[str], tmp_path: Path) -> None:
    flat(tmp_path / "mine/<i>&.png", (0, 0, 90))
    assert main([*colours, f"folder={tmp_path / 'run'}"]) == 0
    numbers = json.loads((tmp_path / "run/summary.json").read_text())["layers"]["1"]
    assert numbers["units"] == [2] and numbers["share_of_strongest"] == [None]
    assert len(Reconstructions.load(tmp_path / "run/1.reconstructions.safetensors")) == 0


class Parsed(HTMLParser):
    """The elements of a page, and whether each is closed in its turn."""

    def __init__(self, text: str):
        super().__init__()
        self.opened: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return small.said("photograph", tmp_path_factory.mktemp("photograph"))


@pytest.fixture(scope="module")
def finished(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main([*said, f"folder={folder}"]) == 0
    return folder


def test_the_page_holds_all_that_it_shows_and_no_script(finished: Path) -> None:
    page = Parsed((finished / "photograph.html").read_text())
    pictures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 1 + 2 * 2 * 5  # the photograph; two layers, two units of each
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") and picture["alt"] for picture in pictures)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe"}
    named = {attributes.get("id") for _, attributes in page.elements}
    assert {str(a["href"])[1:] for tag, a in page.elements if tag == "a"} == {"layer-1", "layer-2"} <= named
    assert_drawn(finished, "photograph")


def test_of_a_mined_photograph_the_strongest_are_the_patches_themselves(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    for layer in KEPT:
        here = Reconstructions.load(finished / f"{layer}.photograph.reconstructions.safetensors")
        best = Reconstructions.load(finished / f"{layer}.reconstructions.safetensors")
        assert summary["layers"][layer]["share_of_strongest"] == [1.0, 1.0]  # it is one of the three images
        for unit in here.channel.tolist():
            first = best.of((best.channel == unit).nonzero().flatten()[:1])
            assert int(first.image) == 1
            torch.testing.assert_close(first.pixels, here.of(here.channel == unit).pixels, rtol=1e-4, atol=1e-6)


def test_what_was_mined_serves_the_next_photograph(said: list[str], finished: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    shutil.copy(finished / "peaks.safetensors", kept)
    other = next(Path(word.partition("=")[2]).with_name("0.png") for word in said if word.startswith("image="))
    before = kept.stat().st_mtime_ns
    assert main([*words(said, [f"image={other}", f"peaks={kept}"]), f"folder={tmp_path / 'run'}"]) == 0
    assert kept.stat().st_mtime_ns == before and not (tmp_path / "run/peaks.safetensors").exists()
    numbers = json.loads((tmp_path / "run/summary.json").read_text())["layers"]["conv1"]
    best = Reconstructions.load(tmp_path / "run/conv1.reconstructions.safetensors")
    assert numbers["share_of_strongest"] == [1.0, 1.0] and best.image[0] == 0


def test_a_network_with_classes_says_what_it_takes_the_photograph_for(tmp_path: Path) -> None:
    model = ["model=zfnet64", "model.classes=null", "model.maps=[4,4,4,4,4]", "layers=[conv1,output]"]
    said = words(small.said("photograph", tmp_path), model, [f"folder={tmp_path / 'run'}"])
    assert main(said) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    page = (tmp_path / "run/photograph.html").read_text()
    assert 1 <= len(summary["answers"]) <= 5 and "What the network takes it for" in page
    network = deconv.load("zfnet64", weights="random", maps=[4, 4, 4, 4, 4], widths=[8, 8])
    recon = deconv.project_strongest(network, None, str(tmp_path / "photos/1.png"), "output", n_units=1)
    names = deconv.models.class_names("zfnet64")
    assert answers(network, recon.photograph, names)[0][0] == names[int(recon.channel)] == summary["answers"][0][0]
    for unit in summary["layers"]["output"]["units"]:
        assert f"unit {unit}, {names[unit]}" in page.replace("&#39;", "'")
    assert outputs(network, names[1:]) is None


def test_the_numbers_of_a_layer() -> None:
    zeros, box = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1, 4, dtype=torch.int64)
    here, many = torch.tensor([[2.0], [3.0], [torch.nan]]), torch.tensor([[8.0], [2.5], [4.0]])
    peaks = LayerPeaks(here, torch.where(here.isnan(), -1, 0), zeros, zeros, box)
    one, row = torch.tensor([1]), torch.tensor([5])
    pixels, boxes = torch.zeros(1, 1, 1, 1), torch.tensor([[0, 0, 1, 1]])
    recon = Reconstructions("1", "deconvnet", pixels, here[1], boxes, boxes, zeros[0], one, row, one, (8, 8))
    expected = {
        "firing_here": 2,
        "half_here": 1,
        "share_of_strongest": [1.2],
        "scores_here": [3.0],
        "positions_here": [[5, 1]],
    }
    assert numbers_here(peaks, LayerPeaks(many, zeros, zeros, zeros, box), recon) == expected


def test_the_photograph_has_its_colours_where_a_unit_fires() -> None:
    photograph = torch.randint(256, (3, 4, 4), dtype=torch.uint8)
    maps = torch.stack([torch.ones(4, 4), torch.zeros(4, 4), -torch.ones(4, 4)])
    bright, *pale = lit(photograph, maps)
    assert torch.equal(bright, photograph)
    for each in pale:
        assert torch.equal(each[0], each[1]) and torch.equal(each[0], each[2]) and int(each.min()) >= 255 * 0.7 - 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["image=none.png"], "image: given none.png; expected the file of a photograph: there is no such file"),
        (["image=."], "image: given .; expected the file of a photograph"),
        ([f"image={__file__}"], "test_photograph.py cannot be read (not an image"),
        (["n_units=0"], "n_units=0: expected 1 or more"),
        (["layers=[conv9]"], "unknown layer 'conv9'"),
        (["rule=deconvnt"], "unknown rule 'deconvnt'"),
        (["units=[3]"], "experiment=photograph has no units; it has n_units"),
        (["reference=none.safetensors"], "none.safetensors"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], expected: str, said: list[str], tmp_path: Path, capsys: Any
) -> None:
    assert expected in refusal(words(said, arguments), tmp_path, capsys)


def test_it_must_be_told_which_photograph_and_refuses_peaks_of_others(
    said: list[str], finished: Path, tmp_path: Path, capsys: Any
) -> None:
    without = [word for word in said if not word.startswith("image=")]
    assert "image" in refusal(without, tmp_path, capsys)
    kept = finished / "peaks.safetensors"
    line = refusal(words(said, [f"peaks={kept}", "k=3"]), tmp_path, capsys)
    assert f"{kept} was made with k 2; this run has 3" in line


def test_a_dry_run_says_what_is_mined_and_writes_nothing(said: list[str], tmp_path: Path, capsys: Any) -> None:
    kept = tmp_path / "kept.safetensors"
    assert main(["--dry-run", *said, f"peaks={kept}", f"folder={tmp_path / 'run'}"]) == 0
    assert f"in {kept.name}" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_it_opens_by_double_click_on_a_phone_too_and_is_accessible(finished: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    wrong: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for scheme, width in (("light", 1250), ("dark", 390)):
            context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 844})
            page = context.new_page()
            page.on("console", lambda message: wrong.append(message.text))
            page.on("request", lambda request: asked.append(request.url))
            page.goto((finished / "photograph.html").as_uri())
            assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not wrong and {url.split(":")[0] for url in asked} <= {"file", "data"}
            report = axe.Axe().run(page)
            assert report.violations_count == 0, report.generate_report()
            context.close()
        browser.close()
