"""Fields larger than the image, the part of a field that pictures show, and what in it the unit answers to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import deconv
from deconv.errors import BadInput, UnknownName
from deconv.figures.pictures import OUTLINE, masked_tiles, patch_tiles
from deconv.projection import project_together
from deconv.records import Reconstructions, about_centres

STRATEGIES = ("window", "shared", "whole")


def module() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 4, (7, 5), 2, 2), nn.ReLU(), nn.Conv2d(4, 5, (7, 5), 2, 3), nn.ReLU()]
    convolutions += [nn.Conv2d(5, 6, (5, 5), 1, 2), nn.ReLU(), nn.Conv2d(6, 5, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*convolutions)


def deep() -> deconv.Network:
    """A layer "7" whose field is taller and wider than the 32 x 24 image."""
    return deconv.Network(module(), (3, 32, 24))


def reconstructions(pixels: Tensor, box: list[int], field: list[int], size: tuple[int, int]) -> Reconstructions:
    n = len(pixels)
    places = torch.arange(n)
    boxes, fields = torch.tensor([box]).expand(n, 4), torch.tensor([field]).expand(n, 4)
    peaks = (places, places, places, places)
    return Reconstructions("l", "deconvnet", pixels, torch.ones(n), boxes, fields, *peaks, size)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_a_field_larger_than_the_image_the_image_is_kept_and_nothing_is_lost(strategy: str) -> None:
    network, images = deep(), torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(1))
    field = network.receptive_field("7")
    assert field.size[0] > 32 and field.size[1] > 24
    peaks = ([0, 1, 1], [0, 0, 5], [0, 3, 1])
    cut, whole = (
        project_together(network, images, "7", *peaks, [("gradient", [0, 4, 2])], strategy, None, cut_to_image)[0]
        for cut_to_image in (True, False)
    )
    assert cut.pixels.shape == (3, 3, 32, 24) and whole.pixels.shape == (3, 3, *field.size)
    assert cut.box.tolist() == [[0, 0, 32, 24]] * 3
    assert cut.field.tolist() == whole.box.tolist() == [list(field.box(r, c)) for _, r, c in zip(*peaks, strict=True)]
    assert torch.equal(cut.paste(), whole.paste()) and torch.equal(cut.pixels, cut.paste())
    x = images[[0, 1, 1]].requires_grad_()
    score = module()(x)[[0, 1, 2], [0, 4, 2], peaks[1], peaks[2]]
    (derivative,) = torch.autograd.grad(score.sum(), x)
    torch.testing.assert_close(cut.pixels, derivative * score.detach()[:, None, None, None])


def test_along_one_axis_alone_the_field_is_cut_there_alone() -> None:
    torch.manual_seed(0)
    thin = nn.Sequential(nn.Conv2d(1, 2, (9, 3), padding=(4, 1)), nn.ReLU(), nn.Conv2d(2, 2, (9, 3), padding=(4, 1)))
    network = deconv.Network(thin.append(nn.ReLU()), (1, 12, 12))
    recon = deconv.project(network, torch.rand(1, 1, 12, 12), "3", [0], [1], [2], [3])
    assert recon.field.tolist() == [[-6, 1, 11, 6]] and recon.box.tolist() == [[0, 1, 12, 6]]
    assert recon.pixels[0, 0, 11:].abs().max() == 0  # of the image, but beyond the field


def test_the_effective_field_is_the_least_square_that_holds_the_share_of_the_energy_in_the_mean() -> None:
    pixels = torch.zeros(3, 2, 9, 9)
    pixels[0, :, 4, 4] = 7.0  # all at the centre
    pixels[1, 0, 4, 4], pixels[1, 1, 1, 4] = 3.0, 1.0  # a tenth three pixels away: sides of 6 on reach that row
    both = reconstructions(pixels, [0, 0, 9, 9], [0, 0, 9, 9], (20, 20))
    assert both.effective_field == 1  # the third has no energy; (1 + .9) / 2 is just enough
    pixels[1, 1, 1, 4] = 1.1
    assert reconstructions(pixels, [0, 0, 9, 9], [0, 0, 9, 9], (20, 20)).effective_field == 6
    assert reconstructions(torch.zeros(1, 3, 9, 7), [0, 0, 9, 7], [0, 0, 9, 7], (20, 20)).effective_field == 9


def test_the_centre_is_the_fields_not_the_pictures() -> None:
    pixels = torch.zeros(1, 1, 10, 10)
    pixels[0, 0, 8, 2] = 1.0
    field = [-2, -8, 19, 13]  # 21 x 21 about (8, 2); the picture is the whole image
    recon = reconstructions(pixels, [0, 0, 10, 10], field, (10, 10))
    assert recon.effective_field == 1
    shown = recon.zoomed()
    assert shown.box.tolist() == [[8, 2, 9, 3]] and shown.pixels.tolist() == [[[[1.0]]]]
    assert shown.field.tolist() == [field]
    assert recon.zoomed(5).box.tolist() == [[6, 0, 11, 5]] and recon.zoomed(5).pixels[0, 0, 4].abs().max() == 0
    assert recon.zoomed(21) is recon and recon.zoomed(15) is recon  # longer than the image: the image
    with pytest.raises(BadInput, match="side: given 0"):
        recon.zoomed(0)


def test_a_field_that_is_nearly_all_effective_is_shown_whole() -> None:
    pixels = torch.ones(1, 1, 8, 8)
    recon = reconstructions(pixels, [0, 0, 8, 8], [0, 0, 8, 8], (20, 20))
    assert recon.effective_field == 8 and recon.zoomed() is recon
    empty = reconstructions(pixels[:0], [0, 0, 8, 8], [0, 0, 8, 8], (20, 20))
    assert empty.zoomed() is empty and empty.effective_field == 8


def test_patches_are_cut_to_what_the_reconstructions_show() -> None:
    network = deep()
    photographs = torch.randint(0, 256, (2, 3, 32, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    recon = deconv.project(network, photographs.float() / 255, "7", [0, 1], [0, 2], [0, 4], [0, 5])
    shown = recon.zoomed(9)
    patches = deconv.cut_patches(photographs, recon.image, recon.box).cut_to(shown.box)
    direct = deconv.cut_patches(photographs, recon.image, shown.box)
    assert torch.equal(patches.pixels, direct.pixels) and torch.equal(patches.inside, direct.inside)
    assert torch.equal(shown.box, about_centres(recon.field, 9, (32, 24))) and not patches.inside.all()


def test_a_record_keeps_the_effective_field_and_the_field(tmp_path: Path) -> None:
    recon = deconv.project(deep(), torch.rand(1, 3, 32, 24), "7", [0], [0], [2], [2])
    loaded = Reconstructions.load(recon.save(tmp_path / "r.safetensors"))
    assert torch.equal(loaded.field, recon.field) and loaded.effective_field == recon.effective_field
    assert f'\\"effective_field\\": {recon.effective_field}'.encode() in (tmp_path / "r.safetensors").read_bytes()


def test_a_mask_covers_the_fewest_pixels_that_hold_the_share() -> None:
    pixels = torch.zeros(2, 3, 6, 6)
    pixels[0, 1, 2:4, 2:4] = torch.tensor([[4.0, -3.0], [2.0, 1.0]])  # energies 16, 9, 4, 1 of 30
    recon = reconstructions(pixels, [0, 0, 6, 6], [0, 0, 6, 6], (6, 6))
    for share, count in ((0.5, 1), (0.8, 2), (0.9, 3), (0.99, 4)):
        mask = deconv.mask_of(recon, share, sigma=0)
        assert int(mask[0].sum()) == count and bool(mask[0, 2, 2]), share
        assert not mask[1].any()  # no energy at all
    assert int(deconv.mask_of(recon, 0.5, sigma=1.5)[0].sum()) > 4
    beyond = replace(recon, box=recon.box - torch.tensor([2, 0, 2, 0]))  # two rows lie above the image
    smoothed = deconv.mask_of(beyond, 0.99, sigma=2.0)[0]
    assert (
        not smoothed[:2].any() and smoothed[2:].any() and not beyond.inside[:, :2].any() and beyond.inside[:, 2:].all()
    )
    with pytest.raises(BadInput, match="share: given 1.0; expected a number between 0 and 1"):
        deconv.mask_of(recon, 1.0)
    with pytest.raises(BadInput, match="sigma: given -1"):
        deconv.mask_of(recon, sigma=-1)


def test_masks_are_files_of_the_images_size(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 3, 4, 4)
    pixels[:, :, 3, 3] = 1.0
    recon = reconstructions(pixels, [-1, 2, 3, 6], [-1, 2, 3, 6], (5, 8))
    paths = deconv.save_masks(recon, tmp_path / "masks", sigma=0)
    assert [path.name for path in paths] == ["l.unit-0000.1.png", "l.unit-0001.1.png"]
    with Image.open(paths[0]) as opened:
        mask = np.asarray(opened)
    assert mask.shape == (5, 8) and np.argwhere(mask == 255).tolist() == [[2, 5]] and (mask > 0).sum() == 1


def test_a_masked_patch_keeps_its_colours_under_the_mask_and_is_pale_elsewhere() -> None:
    patch = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    patch[:, 0] = 200
    inside, mask = torch.ones(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True
    tile = masked_tiles(patch, inside, mask, 80)[0]
    assert (tile[:, :38] == patch_tiles(patch, inside, 80)[0][:, :38]).all()
    assert (tile[40, 39] == OUTLINE).all()
    pale = tile[:, 44:]
    assert (pale == pale[..., :1]).all() and pale.min() > 180  # grey, and lighter than any of the patch


@pytest.mark.parametrize("field", ["effective", "full"])
def test_the_atlas_shows_the_effective_field_or_all_of_it(field: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 3, 31, padding=15)
    with torch.no_grad():
        far = first.weight.abs().clone()
        first.weight.mul_(1e-3)
        first.weight[:, :, 14:17, 14:17] = far[:, :, 14:17, 14:17]
    preprocessing = deconv.Preprocessing((24, 24), None, (0.5,) * 3, (0.25,) * 3)
    network = deconv.Network(nn.Sequential(first, nn.ReLU()), (3, 24, 24), {"c": "1"}, preprocessing)
    images = deconv.bundled().part([0, 1, 2])
    peaks = deconv.mine(network, images, ["c"], k=2)
    page = deconv.write_atlas(network, peaks, images, tmp_path / "site", field=field, records=tmp_path / "records")
    text = (page.parent / "01-c/index.html").read_text()
    said = "shown are the 3 × 3 in the middle" in text
    assert said == (field == "effective") and "31 × 31" in text
    with pytest.raises(UnknownName, match="unknown field 'most'"):
        deconv.write_atlas(network, peaks, images, tmp_path / "other", field="most")
