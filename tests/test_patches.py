"""Patches: the box cut out of its image, and what lies outside marked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import deconv
from deconv.errors import BadInput
from tests.samples import photographs, with_preprocessing


def pictures() -> Tensor:
    return torch.arange(2 * 3 * 8 * 9).remainder(251).add(1).to(torch.uint8).view(2, 3, 8, 9)


@pytest.mark.parametrize(("y0", "x0"), [(2, 3), (-2, 0), (5, 7), (-2, -3), (100, 100), (-50, 0)])
def test_inside_is_the_image_and_outside_is_marked(y0: int, x0: int) -> None:
    box = torch.tensor([[y0, x0, y0 + 5, x0 + 4]])
    patches = deconv.cut_patches(pictures(), torch.tensor([1]), box)
    for row in range(5):
        for col in range(4):
            y, x = y0 + row, x0 + col
            inside = 0 <= y < 8 and 0 <= x < 9
            assert bool(patches.inside[0, row, col]) == inside
            assert patches.pixels[0, :, row, col].tolist() == (pictures()[1, :, y, x].tolist() if inside else [0, 0, 0])


def test_a_box_larger_than_the_image_holds_it_whole() -> None:
    patches = deconv.cut_patches(pictures(), torch.tensor([0]), torch.tensor([[-3, -2, 12, 14]]))
    assert torch.equal(patches.pixels[0, :, 3:11, 2:11], pictures()[0]) and int(patches.inside.sum()) == 72


def test_boxes_of_several_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match="expected one"):
        deconv.cut_patches(pictures(), torch.tensor([0, 0]), torch.tensor([[0, 0, 2, 2], [0, 0, 2, 3]]))


def test_each_image_has_its_box(unchecked: None) -> None:
    with pytest.raises(BadInput, match=r"box: given Tensor of shape \(1, 4\) .*; expected shape \(N, 4\), a box"):
        deconv.cut_patches(pictures(), torch.tensor([0, 0]), torch.tensor([[0, 0, 2, 2]]))


def test_no_peaks_give_no_patches(tmp_path: Path) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    net, source = with_preprocessing(), photographs(tmp_path)
    patches = deconv.patches_of(net, source, deconv.project(net, source, "two", empty, empty, empty, empty))
    assert patches.pixels.shape[:2] == (0, 3) and patches.inside.shape[0] == 0
    assert len(deconv.cut_patches(pictures(), empty, empty.view(0, 4)).pixels) == 0


def test_patches_of_reconstructions_keep_their_order_and_load_each_image_once(tmp_path: Path) -> None:
    net, source = with_preprocessing(), photographs(tmp_path)
    image, line = torch.tensor([3, 0, 3, 4, 1]), torch.tensor([0, 9, 5, 2, 7])
    recon = deconv.project(net, source, "two", image, [0, 1, 2, 3, 4], line, line)
    patches = deconv.patches_of(net, source, recon)
    preprocessing = net.needed_preprocessing()
    shown = torch.stack([preprocessing.input_image(source.image(i)) for i in range(len(source))])
    assert torch.equal(patches.pixels, deconv.cut_patches(shown, image, recon.box).pixels)
    assert torch.equal(patches.box, recon.box) and torch.equal(patches.image, image)


def test_an_image_that_is_gone_is_named_and_shifts_nothing(tmp_path: Path) -> None:
    net, source = with_preprocessing(), photographs(tmp_path)
    image, line = torch.arange(5), torch.full((5,), 4)
    recon = deconv.project(net, source, "two", image, [0, 1, 2, 3, 4], line, line)
    (tmp_path / "1.png").unlink()
    with pytest.raises(BadInput, match=r"gone or damaged: .*1\.png"):
        deconv.patches_of(net, source, recon)
    with pytest.raises(BadInput, match=r"gone or damaged: .*1\.png"):
        deconv.project(net, source, "two", image, [0, 1, 2, 3, 4], line, line)


def test_a_one_pixel_receptive_field() -> None:
    net = deconv.Network(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()), (3, 8, 9))
    recon = deconv.project(net, torch.rand(2, 3, 8, 9), "1", [1], [0], [4], [5])
    patches = deconv.cut_patches(pictures(), recon.image, recon.box)
    assert patches.pixels[0, :, 0, 0].tolist() == pictures()[1, :, 4, 5].tolist()


@pytest.mark.parametrize("image", [-1, 2])
def test_images_that_are_not_there_are_refused(image: int) -> None:
    with pytest.raises(BadInput, match=rf"image: given {image}; expected 0 to 1: leave missing peaks \(-1\) out"):
        deconv.cut_patches(pictures(), torch.tensor([0, image]), torch.tensor([[0, 0, 2, 2], [0, 0, 2, 2]]))


def test_normalised_images_are_no_pictures(unchecked: None) -> None:
    with pytest.raises(BadInput, match="input_images: given Tensor .*float32; expected a uint8 tensor"):
        deconv.cut_patches(pictures().float(), torch.tensor([0]), torch.tensor([[0, 0, 2, 2]]))
