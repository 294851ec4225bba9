"""The pictures: scaling for display, tiles, and how many panels a figure has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deconv import figures
from deconv.errors import BadInput
from deconv.figures import features
from deconv.records import Patches, Reconstructions


def records(units: int = 3, k: int = 4, size: int = 9) -> tuple[Reconstructions, Patches]:
    torch.manual_seed(0)
    n = units * k
    channel = torch.arange(units).repeat_interleave(k)
    image, place = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    box = torch.stack([place - 2, place, place - 2 + size, place + size], dim=1)
    recon = Reconstructions(
        "conv1", "deconvnet", torch.randn(n, 3, size, size), torch.rand(n), box, image, channel, place, place, (32, 32)
    )
    inside = torch.ones(n, size, size, dtype=torch.bool)
    inside[:, :2] = False
    pixels = torch.randint(1, 255, (n, 3, size, size), dtype=torch.uint8) * inside[:, None]
    return recon, Patches(pixels, inside, box, image)


def test_display_is_symmetric_about_mid_grey_and_scaled_for_each_reconstruction() -> None:
    signed = torch.linspace(-1, 1, 300).view(1, 3, 10, 10)
    both = torch.cat([signed, 1000 * signed])
    shown = figures.display(both)
    assert torch.allclose(shown[0], shown[1], atol=1e-6)
    assert torch.allclose(shown + figures.display(-both), torch.ones_like(shown), atol=1e-6)
    assert shown.min() == 0 and shown.max() == 1


def test_display_of_nothing_is_mid_grey_and_of_one_pixel_is_that_pixel() -> None:
    pixels = torch.zeros(2, 3, 50, 50)
    pixels[1, 0, 3, 4] = -2.0
    shown = figures.display(pixels)
    assert (shown[0] == 0.5).all()
    assert shown[1, 0, 3, 4] == 0 and (shown[1] != 0.5).sum() == 1


def test_small_tiles_are_enlarged_without_smoothing() -> None:
    picture = torch.rand(1, 3, 2, 2)
    tile = figures.tiles(picture, side=8)[0]
    assert np.array_equal(np.unique(tile.reshape(-1, 3), axis=0), np.unique(picture[0].flatten(1).T.numpy(), axis=0))


def test_oblong_receptive_fields_keep_their_shape() -> None:
    tile = figures.tiles(torch.zeros(1, 3, 4, 2), side=8)[0]
    assert (tile[:, :2] == 1).all() and (tile[:, 2:6] == 0).all() and (tile[:, 6:] == 1).all()


def test_what_lies_outside_the_image_is_hatched_and_the_rest_is_the_patch() -> None:
    _, patches = records()
    shown = figures.patch_tiles(patches, side=9)
    assert set(np.unique(shown[:, :2])) == {0.62, 0.86}
    assert np.allclose(shown[:, 2:], patches.pixels.permute(0, 2, 3, 1).numpy()[:, 2:] / 255)


def test_a_unit_panel_holds_its_own_reconstructions_and_patches_in_order() -> None:
    recon, patches = records()
    panels = features.unit_panels(recon, patches, k=4)
    assert [panel.label.split()[1].strip(",") for panel in panels] == ["0", "1", "2"]
    first = figures.tiles(figures.display(recon.pixels[4:5]))[0]
    assert np.array_equal(panels[1].blocks[0][: figures.TILE, : figures.TILE], first)
    assert len(panels[0].blocks) == 2
    with_filters = features.unit_panels(recon, patches, 4, torch.randn(3, 3, 5, 5))
    assert len(with_filters[0].blocks) == 3


def test_a_figure_labels_each_unit_once_and_keeps_to_its_rows() -> None:
    recon, patches = records(units=6)
    layer = features.LayerPanels("conv1", features.unit_panels(recon, patches, 4))
    for rows, shown in ((None, 6), (1, 4)):
        texts = [text.get_text() for text in features.feature_figure([layer], "title", rows).axes[0].texts]
        assert len([text for text in texts if text.startswith("unit ")]) == shown
        assert "conv1" in texts and "title" in texts


def test_pictures_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    recon, patches = records()
    pictures = [features.draw(recon, patches, tmp_path / f"{name}.png") for name in "ab"]
    for suffix in (".png", ".pdf"):
        first, second = (picture.with_suffix(suffix).read_bytes() for picture in pictures)
        assert first == second and len(first) > 1000


def test_patches_of_other_peaks_are_refused() -> None:
    recon, patches = records()
    other = Patches(patches.pixels, patches.inside, patches.box, patches.image + 1)
    with pytest.raises(BadInput, match="patches_of"):
        features.draw(recon, other, "never.png")
