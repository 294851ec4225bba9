"""Records as tiles: scaling for display, size, hatching, colours, and tiles on a grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deconv.figures import pictures


def test_display_is_symmetric_about_mid_grey_and_scaled_for_each_reconstruction() -> None:
    signed = torch.linspace(-1, 1, 300).view(1, 3, 10, 10)
    both = torch.cat([signed, 1000 * signed])
    shown = pictures.display(both)
    assert torch.allclose(shown[0], shown[1], atol=1e-6)
    assert torch.allclose(shown + pictures.display(-both), torch.ones_like(shown), atol=1e-6)
    assert shown.min() == 0 and shown.max() == 1


def test_display_of_nothing_is_mid_grey_and_of_one_pixel_is_that_pixel() -> None:
    pixels = torch.zeros(2, 3, 50, 50)
    pixels[1, 0, 3, 4] = -2.0
    shown = pictures.display(pixels)
    assert (shown[0] == 0.5).all()
    assert shown[1, 0, 3, 4] == 0 and (shown[1] != 0.5).sum() == 1


def test_small_tiles_are_enlarged_without_smoothing() -> None:
    picture = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8)
    tile = pictures.tiles(picture, side=8)[0]
    assert np.array_equal(tile[::4, ::4], picture[0].permute(1, 2, 0).numpy())
    assert np.array_equal(np.unique(tile.reshape(-1, 3), axis=0), np.unique(picture[0].flatten(1).T.numpy(), axis=0))


def test_oblong_receptive_fields_keep_their_shape() -> None:
    tile = pictures.tiles(torch.zeros(1, 3, 4, 2, dtype=torch.uint8), side=8)[0]
    assert (tile[:, :2] == 255).all() and (tile[:, 2:6] == 0).all() and (tile[:, 6:] == 255).all()


def test_what_lies_outside_the_image_is_hatched_and_the_rest_is_the_patch() -> None:
    inside = torch.ones(5, 9, 9, dtype=torch.bool)
    inside[:, :2] = False
    patch = torch.randint(1, 256, (5, 3, 9, 9), dtype=torch.uint8) * inside[:, None]
    shown = pictures.patch_tiles(patch, inside, side=72)
    assert set(np.unique(shown[:, :16])) == {pictures.HATCH_LINE, pictures.HATCH_GROUND}
    assert np.array_equal(shown[:, 16::8, ::8], patch.permute(0, 2, 3, 1).numpy()[:, 2:])


@pytest.mark.parametrize("size", [(11, 11), (48, 31), (163, 163), (201, 240)])
def test_a_patch_is_hatched_at_any_size_where_it_lies_outside(size: tuple[int, int]) -> None:
    inside = torch.ones(1, *size, dtype=torch.bool)
    inside[0, : size[0] // 2] = False
    shown = pictures.patch_tiles(torch.zeros(1, 3, *size, dtype=torch.uint8), inside, side=96)[0, :, 48, 0]
    long = 96 / max(size)
    first, edge = round((96 - size[0] * long) / 2), round((96 - size[0] * long) / 2 + size[0] // 2 * long)
    assert (shown[first : edge - 1] >= pictures.HATCH_LINE).all() and (shown[edge + 1 : 96 - first] == 0).all()


def test_one_channel_is_drawn_grey_and_five_as_their_energy() -> None:
    one = torch.randn(2, 1, 6, 6)
    (grey,) = np.split(pictures.recon_tiles(one, 6), 1)
    assert np.array_equal(grey[..., 0], pictures.as_bytes(pictures.display(one))[:, 0].numpy())
    assert (grey[..., 0] == grey[..., 1]).all() and (grey[..., 0] == grey[..., 2]).all()
    five = torch.zeros(1, 5, 6, 6)
    five[0, :, 2, 3] = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0])
    five[0, 1, 0, 0] = 2.5
    shown = pictures.recon_tiles(five, 6)[0, ..., 0]
    assert shown[2, 3] == 255 and shown[0, 0] == 128 and np.count_nonzero(shown) == 2
    inside = torch.ones(1, 6, 6, dtype=torch.bool)
    patch = pictures.patch_tiles(torch.full((1, 2, 6, 6), 100, dtype=torch.uint8), inside, 6)
    assert patch.shape == (1, 6, 6, 3) and (patch == 100).all()


def test_tiles_on_a_grid_stand_row_by_row_with_white_between_them_and_where_one_is_missing() -> None:
    tiles = np.stack([np.full((4, 4, 3), grey, np.uint8) for grey in (10, 20, 30)])
    page = pictures.on_grid(tiles, across=2, gap=1)
    assert page.shape == (9, 9, 3)
    assert (page[:4, :4] == 10).all() and (page[:4, 5:] == 20).all() and (page[5:, :4] == 30).all()
    assert (page[5:, 5:] == 255).all() and (page[4] == 255).all() and (page[:, 4] == 255).all()
    assert pictures.on_grid(tiles, across=2, gap=1, places=5).shape == (14, 9, 3)
    assert pictures.on_grid(tiles, across=1, gap=1, places=2).shape == (9, 4, 3)
