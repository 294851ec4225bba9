"""Figure 2: units, each with its reconstructions and its patches, layer under layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from deconv.errors import BadInput
from deconv.figures import check_format, save_as
from deconv.figures.page import CAPTION, MARGIN, NOTE, PART_TITLE, TILE, Page, head, text_height, wrapped
from deconv.figures.pictures import PERCENTILE, has_colours, on_grid, patch_tiles, recon_tiles
from deconv.records import Patches, Reconstructions

GAP = 2
"""Pixels between two tiles of a block; between two blocks of a unit are three times as many."""
ABREAST = 4
"""Units beside each other; one fewer where each has its filter too."""
LEAST_WIDTH = 480
"""Pixels of a page across, so that a title beside its numbers is not cut."""
UNIT_LABEL = text_height("unit 1", NOTE)
LAYER_TITLE = text_height("conv1", PART_TITLE)
COLOURED = (
    "Left of each pair: reconstructions, zero at mid-grey, each scaled by the "
    f"{PERCENTILE:g} % percentile of its absolute values. "
    "Right: the patches, in the same order; hatched: outside the image."
)
ENERGY = (
    "Left of each pair: reconstructions of {channels} channels, as energy: the root of the sum of squares over channels"
    f", black at zero, each scaled by its {PERCENTILE:g} % percentile. "
    "Right: the patches' root mean square over channels, in the same order; hatched: outside the image."
)


@dataclass(frozen=True)
class UnitPanel:
    """One unit of Figure 2: a label, and its blocks side by side (reconstructions, patches, for layer 1 its filter)."""

    label: str
    blocks: tuple[np.ndarray, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Pixels (down, across) of the blocks beside each other, under their label."""
        heights, widths = zip(*(block.shape[:2] for block in self.blocks), strict=True)
        return UNIT_LABEL + max(heights), sum(widths) + 3 * GAP * (len(widths) - 1)


@dataclass(frozen=True)
class LayerPanels:
    """One layer of Figure 2: a title, and its units."""

    title: str
    units: tuple[UnitPanel, ...]

    @property
    def abreast(self) -> int:
        """Units in a row."""
        with_filters = any(len(unit.blocks) > 2 for unit in self.units)
        return min(ABREAST - with_filters, max(len(self.units), 1))

    @property
    def pitch(self) -> tuple[int, int]:
        """Pixels (down, across) from a unit to the next."""
        sizes = [unit.size for unit in self.units] or [(0, 0)]
        return max(down for down, _ in sizes) + MARGIN // 2, max(across for _, across in sizes) + MARGIN

    @property
    def height(self) -> int:
        """Pixels down, with the title and the margin below."""
        return LAYER_TITLE + math.ceil(len(self.units) / self.abreast) * self.pitch[0] + MARGIN


def unit_panels(
    recon: Reconstructions,
    patches: Patches,
    k: int,
    filters: Float[Tensor, "units channels kh kw"] | None = None,
    notes: Mapping[int, str] | None = None,
) -> tuple[UnitPanel, ...]:
    """Return a panel for each unit in `recon`, in its order, with room for k peaks; `filters` adds each unit's own.

    notes: what the labels of some units say of them; those of the others have the strongest activation.
    """
    recons, cut = recon_tiles(recon.pixels, TILE), patch_tiles(patches.pixels, patches.inside, TILE)
    across = math.ceil(math.sqrt(k))
    panels = []
    for unit in dict.fromkeys(recon.channel.tolist()):
        of_unit = (recon.channel == unit).numpy()
        blocks = [on_grid(shown[of_unit], across, GAP, places=k) for shown in (recons, cut)]
        if filters is not None:
            blocks.insert(0, recon_tiles(filters[unit : unit + 1], TILE)[0])
        strongest = float(recon.score[torch.from_numpy(of_unit)].max())
        note = (notes or {}).get(unit, f"activation {strongest:.3g}")
        panels.append(UnitPanel(f"unit {unit}, {note}", tuple(blocks)))
    return tuple(panels)


def features_figure(
    layers: Sequence[LayerPanels], heading: str, rows: int | None = None, caption: str = COLOURED
) -> Figure:
    """Draw Figure 2: layer under layer, each a grid of units; at most `rows` rows of each layer, None for all."""
    if rows is not None:
        layers = [replace(layer, units=layer.units[: rows * layer.abreast]) for layer in layers]
    width = max((layer.abreast * layer.pitch[1] for layer in layers), default=0) + MARGIN
    width = max(width, LEAST_WIDTH)
    caption = wrapped(caption, width - 2 * MARGIN, CAPTION)
    y = head(caption)
    page = Page(y + sum(layer.height for layer in layers), width, heading, caption)
    for layer in layers:
        page.text(y, MARGIN, layer.title, **PART_TITLE)
        for n, unit in enumerate(layer.units):
            down, across = divmod(n, layer.abreast)
            _place_unit(page, y + LAYER_TITLE + down * layer.pitch[0], MARGIN + across * layer.pitch[1], unit)
        y += layer.height
    return page.finish()


def _place_unit(page: Page, y: int, x: int, unit: UnitPanel) -> None:
    page.text(y, x, unit.label, **NOTE)
    for block in unit.blocks:
        page.picture(y + UNIT_LABEL, x, block)
        x += block.shape[1] + 3 * GAP


def draw(recon: Reconstructions, patches: Patches, path: str | Path) -> Path:
    """Draw reconstructions beside their patches, unit by unit, into this file, in the format of its suffix.

    Reconstructions of one channel are drawn grey, those of two or more than three as an energy map. Returns the path.
    Raises BadInput if the two do not belong together, or for a suffix that names no format.

    >>> import deconv
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    >>> network, images = deconv.Network(net, input_shape=(3, 16, 16)), torch.randn(2, 3, 16, 16)
    >>> recon = deconv.project(network, images, "1", image=[0, 1], channel=[2, 2], row=[5, 6], col=[7, 8])
    >>> patches = deconv.cut_patches(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), recon.image, recon.box)
    >>> deconv.draw(recon, patches, "1.png").name
    '1.png'
    """
    check_format(path)
    if not torch.equal(recon.box, patches.box) or not torch.equal(recon.image, patches.image):
        raise BadInput("draw: the patches are not those under the reconstructions; cut them with patches_of(...)")
    k = int(recon.channel.unique(return_counts=True)[1].max()) if len(recon) else 1
    channels = recon.pixels.shape[1]
    caption = COLOURED if has_colours(channels) else ENERGY.format(channels=channels)
    panels = LayerPanels(recon.layer, unit_panels(recon, patches, k))
    return save_as(features_figure([panels], recon.rule, caption=caption), path)
