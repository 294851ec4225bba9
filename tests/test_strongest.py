"""deconv/views/strongest.py: units on one photograph, as mining that photograph alone finds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.errors import BadInput, RecordMismatch, UnknownName, UnreadableImage
from deconv.figures.pictures import OUTLINE, as_bytes, display
from deconv.figures.strongest import SIDE, outlined, over_photograph
from tests.samples import SIZE, photographs, with_preprocessing


@pytest.fixture
def images(tmp_path: Path) -> deconv.Source:
    return photographs(tmp_path / "photos", 5)


@pytest.mark.parametrize("image", [3, "3.png"])
@pytest.mark.parametrize("layer", ["one", "two"])
def test_it_is_that_image_mined_alone_and_projected(images: deconv.Source, image: int | str, layer: str) -> None:
    network, alone = with_preprocessing(), images.part([3])
    peaks = deconv.mine(network, alone, [layer], k=1)[layer]
    recon = deconv.project_strongest(network, images, image, layer, units=[4, 0, 2])
    expected = deconv.project_peaks(network, alone, layer, peaks, [4, 0, 2])
    for column in ("pixels", "score", "box", "field", "image", "channel", "row", "col"):
        assert torch.equal(getattr(recon, column), getattr(expected, column)), column
    assert recon.image.tolist() == [3, 3, 3] and recon.input_size == expected.input_size
    assert recon.provenance == expected.provenance
    assert torch.equal(recon.photograph, images.input_image(3, network.needed_preprocessing()))
    maps = network.forward(network.needed_preprocessing().normalize(recon.photograph[None]), [layer])[layer][0]
    torch.testing.assert_close(recon.score, maps[[4, 0, 2]].amax(dim=(1, 2)))
    assert repr(recon) == f"<OnPhotograph: units 4, 0, 2 of {layer} on 3.png>"


def test_without_units_the_strongest_come_first(images: deconv.Source) -> None:
    recon = deconv.project_strongest(with_preprocessing(), images, 1, "two", n_units=3, rule="gradient")
    everyone = deconv.project_strongest(with_preprocessing(), images, 1, "two", n_units=99)
    assert recon.score.tolist() == sorted(recon.score.tolist(), reverse=True)
    assert recon.channel.tolist() == everyone.channel.tolist()[:3] and recon.rule == "gradient"
    assert len(set(everyone.channel.tolist())) == len(everyone) <= 5


def test_with_a_reference_they_come_by_the_share_of_their_strongest(images: deconv.Source) -> None:
    network = with_preprocessing()
    many = deconv.mine(network, images, ["3"], k=1)
    recon = deconv.project_strongest(network, images, 1, "two", n_units=99, reference=many)
    shares = recon.score / many["3"].score[recon.channel, 0]
    assert shares.tolist() == sorted(shares.tolist(), reverse=True) and shares[0] <= 1 + 1e-6
    torch.testing.assert_close(recon.peaks.score[recon.channel, 0], recon.score)
    assert not recon.indifferent and len(recon.peaks.score) == 5
    with pytest.raises(BadInput, match="a reference chooses units, and units names them"):
        deconv.project_strongest(network, images, 1, "two", [1], reference=many)
    other = with_preprocessing(seed=1)
    with pytest.raises(RecordMismatch, match="the reference was made with weights"):
        deconv.project_strongest(other, images, 1, "two", reference=many)


def test_a_unit_without_weights_is_as_strong_on_any_image_and_not_chosen(images: deconv.Source) -> None:
    convolution = nn.Conv2d(3, 3, 3)
    convolution.weight.data[1] = 0
    convolution.bias = nn.Parameter(torch.tensor([1.0, 0.5, 1.0]))
    network = deconv.Network(
        nn.Sequential(convolution, nn.ReLU()), (3, SIZE, SIZE), preprocessing=with_preprocessing().preprocessing
    )
    many = deconv.mine(network, images, ["1"], k=1)
    recon = deconv.project_strongest(network, images, 0, "1", reference=many)
    assert sorted(recon.channel.tolist()) == [0, 2] and recon.indifferent == (1,)


def test_an_image_of_a_part_keeps_its_id(images: deconv.Source) -> None:
    part = images.part([4, 2])
    assert deconv.project_strongest(with_preprocessing(), part, 2, "one").image.unique().tolist() == [2]
    assert deconv.project_strongest(with_preprocessing(), part, "4.png", "one").image.unique().tolist() == [4]


def test_a_photograph_of_its_own(images: deconv.Source) -> None:
    network, path = with_preprocessing(), images.members[2].path
    expected = deconv.project_strongest(network, images, 2, "two")
    with Image.open(path) as picture:
        pixels = np.array(picture)
        given = {"path": path, "text": str(path), "picture": picture, "array": pixels}
        for kind, photograph in given.items():
            recon = deconv.project_strongest(network, None, photograph, "two")
            assert torch.equal(recon.pixels, expected.pixels), kind
            assert recon.image.unique().tolist() == [0]
            assert recon.name == (str(path) if kind in ("path", "text") else "")
    grey = deconv.project_strongest(network, None, pixels[:, :, 0], "two")
    assert torch.equal(grey.photograph[0], grey.photograph[2])


def test_units_that_do_not_fire_are_named(images: deconv.Source) -> None:
    convolution = nn.Conv2d(3, 3, 3)
    convolution.bias = nn.Parameter(torch.tensor([-100.0, 100, -100]))
    network = deconv.Network(
        nn.Sequential(convolution, nn.ReLU()), (3, SIZE, SIZE), preprocessing=with_preprocessing().preprocessing
    )
    recon = deconv.project_strongest(network, images, 0, "1", [0, 1])
    assert recon.channel.tolist() == [1] and recon.not_firing == (0,)
    assert any("not firing here: 0" in text.get_text() for text in recon.figure().texts)
    with pytest.raises(BadInput, match=r"layer 1: none of the units \[0, 2\] fires on this photograph"):
        deconv.project_strongest(network, images, 0, "1", [0, 2])


def test_it_lies_on_the_photograph_where_its_box_is(images: deconv.Source, tmp_path: Path) -> None:
    recon = deconv.project_strongest(with_preprocessing(), images, 0, "two", [1])
    (over,) = over_photograph(recon, recon.photograph)
    (y0, x0, y1, x1), grey = recon.box[0].clamp(0, SIZE).tolist(), recon.photograph.float().mean(dim=0)
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[y0:y1, x0:x1] = False
    torch.testing.assert_close(
        over[:, outside].float(), (255 - 0.3 * (255 - grey))[outside].expand(3, -1), atol=1, rtol=0
    )
    row, col = divmod(int(recon.paste()[0].square().sum(dim=0).argmax()), SIZE)
    drawn = as_bytes(display(recon.pixels))[0, :, row - int(recon.box[0, 0]), col - int(recon.box[0, 1])]
    assert torch.equal(over[:, row, col], drawn)  # the photograph is not seen where the reconstruction is strongest
    page = recon._repr_html_()
    assert page.startswith('<div><img alt="OnPhotograph: units 1 of two on 0.png"') and "<script" not in page
    assert recon.picture(tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    assert deconv.Reconstructions.load(recon.save(tmp_path / "one.safetensors")).channel.tolist() == [1]


def test_the_outline_of_a_box() -> None:
    pictures = torch.zeros(1, 3, 56, 112, dtype=torch.uint8)  # twice as wide as high: it lies in the tile's middle rows
    (tile,) = outlined(pictures, torch.tensor([[-10, 10, 28, 40]]))
    coloured = (tile == OUTLINE).all(axis=2)
    rows, cols = coloured.any(axis=1).nonzero()[0], coloured.any(axis=0).nonzero()[0]
    assert tile.shape == (SIDE, SIDE, 3)
    assert (rows[0], rows[-1] + 1, cols[0], cols[-1] + 1) == (56, 112, 20, 80)
    assert not coloured[60:108, 24:76].any()


def test_mistakes_are_one_line(images: deconv.Source, tmp_path: Path, unchecked: None) -> None:
    network = with_preprocessing()
    (tmp_path / "text.png").write_text("no picture")
    mistakes: list[tuple[type[Exception], str, tuple[object, ...]]] = [
        (BadInput, "network: given Sequential; expected a deconv.Network", (network.module, images, 0, "one")),
        (BadInput, "image 9 was asked for; the source folder has images 0 to 4", (network, images, 9, "one")),
        (UnknownName, "image '9.png' is not in the source folder", (network, images, "9.png", "one")),
        (BadInput, "image: given None; expected the id of an image", (network, images, None, "one")),
        (BadInput, "image: given None; expected a path, a picture of Pillow's", (network, None, None, "one")),
        (BadInput, r"item 0 of the dataset .*\(4, 4, 2\)", (network, None, np.zeros((4, 4, 2), np.uint8), "one")),
        (BadInput, "item 0 of the dataset .*float64", (network, None, np.full((4, 4, 3), 7.5), "one")),
        (UnreadableImage, "text.png cannot be read", (network, None, tmp_path / "text.png", "one")),
        (UnreadableImage, "none.png cannot be read", (network, None, tmp_path / "none.png", "one")),
        (UnknownName, "unknown layer 'three'", (network, images, 0, "three")),
        (BadInput, r"units: given 3; .*: \[3\] for one", (network, images, 0, "one", 3)),
        (BadInput, "units: given none; expected at least one", (network, images, 0, "one", [])),
        (BadInput, "images: given photos; expected a Source.*: deconv.folder", (network, "photos", 0, "one")),
    ]
    for kind, message, given in mistakes:
        with pytest.raises(kind, match=message):
            deconv.project_strongest(*given)  # type: ignore[arg-type]
