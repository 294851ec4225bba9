"""deconv/views/look.py: a look is mining, projecting and cutting by one call, and shows itself."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.analyses.choosing import last_maps, spread_units
from deconv.errors import BadInput, UnknownName, UnsupportedOperation
from deconv.records import LayerPeaks
from tests.labelled import folder_of
from tests.samples import SIZE, photographs, with_preprocessing


@pytest.fixture
def images(tmp_path: Path) -> deconv.Source:
    return photographs(tmp_path / "photos", 6)


def test_a_look_is_what_its_stages_give(images: deconv.Source) -> None:
    network = with_preprocessing()
    look = deconv.look(network, images, ["two", "one"], units=[3, 1], k=2, rule="guided")
    peaks = deconv.mine(network, images, ["one", "two"], k=2)
    assert list(look.peaks) == list(look.reconstructions) == list(look.patches) == ["one", "two"]
    for layer in peaks:
        assert torch.equal(look.peaks[layer].score, peaks[layer].score)
        recon = deconv.project_peaks(network, images, layer, peaks[layer], [3, 1], "guided")
        patches = deconv.patches_of(network, images, recon)
        assert torch.equal(look.reconstructions[layer].pixels, recon.pixels)
        assert torch.equal(look.reconstructions[layer].channel, torch.tensor([3, 3, 1, 1]))
        assert torch.equal(look.patches[layer].pixels, patches.pixels)
        assert look.patches[layer].provenance == patches.provenance
    assert repr(look) == "<Look: one (2 of 6 units), two (2 of 5 units), 2 peaks each, 6 images, guided>"
    assert look.chosen == ()


def test_the_path_of_a_folder_is_its_source_and_its_classes_are_named(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "photos", each=3, side=SIZE)
    look = deconv.look(with_preprocessing(), str(root), "one", k=3)
    assert torch.equal(
        look.peaks["one"].image, deconv.mine(with_preprocessing(), deconv.folder(root), ["one"], 3)["one"].image
    )
    named = [text for text in look.numbers["one"]["classes"] if text]
    texts = [text.get_text() for text in look.figure().texts]
    assert named and all(any(name in text for text in texts) for name in named)


@pytest.mark.parametrize(
    ("n_units", "expected"),
    [(1, [4]), (2, [4, 1]), (3, [4, 0, 1]), (4, [4, 0, 1, 3]), (5, [2, 4, 0, 1, 3]), (9, [2, 4, 0, 1, 3])],
)
def test_units_are_the_strongest_of_equal_parts(n_units: int, expected: list[int]) -> None:
    """Strongest peaks 4, 3, -, 2, 5 of units 0 to 4, unit 2 with one peak of two, unit 5 dead."""
    score = torch.tensor([[4.0, 1], [3, 1], [9, torch.nan], [2, 1], [5, 1], [torch.nan, torch.nan]])
    image = torch.where(score.isnan(), -1, 0)
    peaks = LayerPeaks(score, image, image, image, torch.zeros(6, 2, 4, dtype=torch.int64))
    assert spread_units(peaks, n_units) == expected


def test_layers_are_the_last_of_the_last_sizes() -> None:
    def stage(channels: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]

    pools = [nn.MaxPool2d(2) for _ in range(3)]
    trunk = [*stage(3), pools[0], *stage(4), pools[1], *stage(4), pools[2], *stage(4)]
    scores = [nn.Conv2d(4, 7, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = deconv.Network(nn.Sequential(*trunk), (3, 32, 32))
    assert last_maps(network, 3) == ["8", "13", "18"] and last_maps(network, 1) == ["18"]
    assert last_maps(deconv.Network(nn.Sequential(*trunk, *scores), (3, 32, 32)), 3) == ["8", "13", "18"]
    with_aliases = deconv.Network(nn.Sequential(*trunk), (3, 32, 32), {"a": "3", "b": "6"})
    assert last_maps(with_aliases, 3) == ["a", "b"]
    flat = deconv.Network(nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU()), (3, 2, 2))
    with pytest.raises(BadInput, match="no layer of maps before its class scores; expected the name of a layer"):
        last_maps(flat, 3)


def test_a_plain_module_is_taken_for_one_of_imagenet_and_that_is_said(
    images: deconv.Source, capsys: pytest.CaptureFixture[str]
) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 5, stride=8), nn.ReLU())
    look = deconv.look(module, images, k=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines == [f"deconv.look: {sentence}" for sentence in look.chosen]
    assert lines[0].startswith(
        "deconv.look: a plain Sequential: taken for a network of RGB photographs preprocessed as"
    )
    assert "looking at 1, the last layer" in lines[1]
    assert look.peaks.provenance["preprocessing"]["size"] == [224, 224]
    deconv.look(with_preprocessing(), images, "one")
    assert capsys.readouterr().err == ""
    with pytest.raises(BadInput, match=r"for inputs of 1 channels; .*: deconv.Network\(module, \(1, H, W\), preproc"):
        deconv.look(nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU()), images)
    assert "deconv.Network(module, input_shape, preprocessing=...) says otherwise" in capsys.readouterr().err


def test_it_shows_itself_in_a_notebook_and_saves_one_file(images: deconv.Source, tmp_path: Path) -> None:
    look = deconv.look(with_preprocessing(), images, "two", k=4, n_units=2)
    page = look._repr_html_()
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    width, height = look.figure().get_size_inches() * look.figure().dpi
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (round(width), round(height))
    assert "<script" not in page and 'alt="Sequential: the 4 strongest peaks of each unit, 6 photographs' in page
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "jpg": b"\xff\xd8"}
    for suffix, start in starts.items():
        path = look.save(tmp_path / "looks" / f"look.{suffix}")
        assert path.read_bytes().startswith(start)
    assert len(list((tmp_path / "looks").iterdir())) == len(starts)
    with pytest.raises(BadInput, match=r"path: given .*look\.gif; expected a file whose name ends in one of \.png"):
        look.save(tmp_path / "look.gif")


def test_nothing_opens_in_plain_python() -> None:
    program = (
        "import sys, deconv, torch; net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=9), torch.nn.ReLU());"
        "look = deconv.look(net, deconv.bundled().part(range(3)), k=2); look.figure(); print(look);"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("<Look: 1 (4 of 4 units), 2 peaks each, 3 images, deconvnet>")


def test_peaks_that_are_kept_are_not_mined_again(
    images: deconv.Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deconv.look(with_preprocessing(), images, "one", k=2, keep=tmp_path / "kept")
    monkeypatch.setattr("deconv.mining._search", lambda *given: pytest.fail("mined again"))
    again = deconv.look(with_preprocessing(), images, "one", units=[5], k=2, keep=tmp_path / "kept")
    assert torch.equal(again.peaks["one"].score, first.peaks["one"].score)
    assert set(again.reconstructions["one"].channel.tolist()) == {5}


def test_mistakes_are_one_line_before_the_work(
    images: deconv.Source, monkeypatch: pytest.MonkeyPatch, unchecked: None, tmp_path: Path
) -> None:
    network = with_preprocessing()
    monkeypatch.setattr("deconv.views.look.mine", lambda *given: pytest.fail("mined"))
    smooth = nn.Sequential(nn.Conv2d(3, 4, 5, stride=9), nn.SiLU())
    mistakes: list[tuple[type[Exception], str, tuple[object, ...], dict[str, object]]] = [
        (BadInput, "network: given str; expected a deconv.Network or a torch.nn.Module", ("resnet", images), {}),
        (BadInput, "images: given 3; expected a Source", (network, 3), {}),
        (BadInput, "there is no folder", (network, tmp_path / "none"), {}),
        (UnknownName, "unknown layer 'three'; expected one of one, two", (network, images, "three"), {}),
        (BadInput, "layer: given none; expected the name of a layer", (network, images, []), {}),
        (BadInput, r"units: given 3; expected a list of .*: \[3\] for one", (network, images, "one", 3), {}),
        (BadInput, "units: given none; expected at least one", (network, images, "one", []), {}),
        (BadInput, "units: given 6; expected a whole number, 0 to 5", (network, images, "one", [6]), {}),
        (BadInput, "n_units: given 0", (network, images, "one"), {"n_units": 0}),
        (UnknownName, "unknown rule 'guide'", (network, images, "one"), {"rule": "guide"}),
        (UnsupportedOperation, "'deconvnet' has no way back through 'silu'", (smooth, images, "1"), {}),
        (BadInput, "this network has no preprocessing", (deconv.Network(network.module, (3, 20, 20)), images), {}),
    ]
    for kind, message, given, named in mistakes:
        with pytest.raises(kind, match=message):
            deconv.look(*given, **named)  # type: ignore[arg-type]


def test_units_that_are_dead(images: deconv.Source) -> None:
    convolution = nn.Conv2d(3, 3, 3)
    convolution.bias = nn.Parameter(torch.tensor([-100.0, 100, -100]))
    network = deconv.Network(
        nn.Sequential(convolution, nn.ReLU()), (3, SIZE, SIZE), preprocessing=with_preprocessing().preprocessing
    )
    assert deconv.look(network, images, "1", k=2).numbers["1"]["units"] == [1]
    with pytest.raises(BadInput, match=r"layer 1: none of the units \[0, 2\] fires on any of the 6 images"):
        deconv.look(network, images, "1", units=[0, 2], k=2)


class Pictures(torch.utils.data.Dataset):
    """Items of pictures with labels, from a source."""

    def __init__(self, images: deconv.Source):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images.image(index)), index % 2


def test_a_dataset_is_looked_at_as_its_pictures_are(images: deconv.Source) -> None:
    pictures, network = Pictures(images), with_preprocessing()
    look, of_source = (deconv.look(network, taken, "two", units=[1], k=4) for taken in (pictures, images))
    assert torch.equal(look.reconstructions["two"].pixels, of_source.reconstructions["two"].pixels)
    assert torch.equal(look.patches["two"].pixels, of_source.patches["two"].pixels)
    assert look.numbers["two"]["classes"][0] is not None and of_source.numbers["two"]["classes"] == [None]
    recon = deconv.project_strongest(network, pictures, 3, "two", [1])
    assert torch.equal(recon.pixels, deconv.project_strongest(network, images, 3, "two", [1]).pixels)


def partly_smooth() -> deconv.Network:
    """Two maps that deconvnet can send back, and above them one that it cannot, each of a size of its own."""
    torch.manual_seed(0)
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(2)]
    low = [nn.Conv2d(3, 4, 3), nn.ReLU(), pools[0], nn.Conv2d(4, 4, 3), nn.ReLU(), pools[1]]
    module = nn.Sequential(*low, nn.Conv2d(4, 4, 1), nn.SiLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    return deconv.Network(module, (3, SIZE, SIZE), preprocessing=with_preprocessing().preprocessing)


def test_chosen_layers_are_those_that_the_rule_can_send_back(
    images: deconv.Source, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    network = partly_smooth()
    look = deconv.look(network, images, k=2, n_units=2)
    assert list(look.peaks) == ["1", "4"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"deconv.look: {look.chosen[0]}" and line.endswith(
        "left out 9, to which 'deconvnet' has no way back; rules that have one: gradient, deconvnet_beyond, "
        "guided_beyond"
    )
    assert list(deconv.look(network, images, k=2, n_units=2, rule="deconvnet_beyond").peaks) == ["1", "4", "9"]
    assert "left out" not in capsys.readouterr().err
    with pytest.raises(UnsupportedOperation, match="'silu'"):  # where it was named it is not left out
        deconv.look(network, images, "9")
    with pytest.raises(BadInput, match="there is no folder"):
        deconv.look(nn.Sequential(nn.Conv2d(3, 4, 5, stride=9), nn.SiLU()), tmp_path / "none")
    smooth = deconv.Network(nn.Sequential(nn.Conv2d(3, 4, 5), nn.SiLU()), (3, SIZE, SIZE), None, network.preprocessing)
    with pytest.raises(UnsupportedOperation, match="'silu'"):
        deconv.look(smooth, images)


def test_what_could_not_be_read_is_not_counted(tmp_path: Path) -> None:
    photographs(tmp_path / "photos", 4)
    (tmp_path / "photos" / "cut.png").write_bytes(b"cut")
    look = deconv.look(with_preprocessing(), tmp_path / "photos", "one", k=2)
    assert "4 photographs (1 more could not be read)" in look.heading and ", 4 images, " in repr(look)
