"""Figure 2: units, each with its reconstructions and its patches, layer under layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import BadInput
from deconv.figures import check_format, save_as
from deconv.figures.page import CAPTION, HEADING, MARGIN, NOTE, PART_TITLE, TILE, Page, head, text_height, wrapped
from deconv.figures.pictures import PERCENTILE, has_colours, masked_tiles, on_grid, patch_tiles, recon_tiles
from deconv.records import Patches, Reconstructions

GAP = 2
"""Pixels between two tiles of a block; between two blocks of a unit are three times as many."""
WIDEST = 1500
"""Pixels of a page across: as many units stand beside each other as there is room for, and one at least."""
LEAST_WIDTH = 480
"""Pixels of a page across, so that a title beside its numbers is not cut."""
LABEL = NOTE | {"fontsize": 11, "color": "0.1"}
CONTINUED = ", continued"
A4 = 297 / 210
"""How much longer than wide a page is that is printed."""
COLOURED = (
    "Left of each pair: reconstructions, zero at mid-grey, each scaled by the "
    f"{PERCENTILE:g} % percentile of its absolute values. "
    "Right: the patches, in the same order; hatched: outside the image."
)
MASKED = (
    " Third: the patches, pale but for the pixels, outlined, that hold 80 % of the reconstruction's smoothed energy."
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
        """Pixels (down, across) of the blocks beside each other."""
        heights, widths = zip(*(block.shape[:2] for block in self.blocks), strict=True)
        return max(heights), sum(widths) + 3 * GAP * (len(widths) - 1)

    @property
    def title(self) -> str:
        """The label, its lines no longer than the blocks."""
        return wrapped(self.label, self.size[1], LABEL)


@dataclass(frozen=True)
class LayerPanels:
    """One layer of Figure 2: a title, and its units; `widest`: pixels that they may take across."""

    title: str
    units: tuple[UnitPanel, ...]
    widest: int = WIDEST

    @property
    def above(self) -> int:
        """Pixels down of the units' titles, the same for all of them."""
        return max((text_height(unit.title, LABEL) for unit in self.units), default=0)

    @property
    def pitch(self) -> tuple[int, int]:
        """Pixels (down, across) from a unit to the next."""
        sizes = [unit.size for unit in self.units] or [(0, 0)]
        return self.above + max(down for down, _ in sizes) + MARGIN // 2, max(across for _, across in sizes) + MARGIN

    @property
    def abreast(self) -> int:
        """Units in a row."""
        return max(min((self.widest - MARGIN) // self.pitch[1], len(self.units)), 1)

    @property
    def width(self) -> int:
        """Pixels across, with the margins."""
        return MARGIN + self.abreast * self.pitch[1]

    @property
    def height(self) -> int:
        """Pixels down, with the title and the margin below."""
        rows = math.ceil(len(self.units) / self.abreast)
        return text_height(self.title, PART_TITLE) + rows * self.pitch[0] + MARGIN

    def cut(self, rows: int) -> tuple[LayerPanels, LayerPanels]:
        """Return the first rows of the layer, and the others, whose title says that the layer goes on."""
        count, title = rows * self.abreast, self.title.removesuffix(CONTINUED) + CONTINUED
        return replace(self, units=self.units[:count]), replace(self, units=self.units[count:], title=title)


def unit_panels(
    recon: Reconstructions,
    patches: Patches,
    k: int,
    filters: Float[Tensor, "units channels kh kw"] | None = None,
    titles: Mapping[int, str] | None = None,
    notes: Mapping[int, str] | None = None,
    masks: Bool[Tensor, "n h w"] | None = None,
) -> tuple[UnitPanel, ...]:
    """Return a panel for each unit in `recon`, in its order, with room for k peaks.

    - filters: those of the layer; each panel then has its unit's own.
    - titles: {unit: what it is called}, beside its number.
    - notes: {unit: what else is said of it}, in place of its strongest activation.
    - masks: which pixels of each patch the reconstruction is about; each panel then has its patches pale but for these.
    """
    shown = [recon_tiles(recon.pixels, TILE), patch_tiles(patches.pixels, patches.inside, TILE)]
    if masks is not None:
        shown.append(masked_tiles(patches.pixels, patches.inside, masks, TILE))
    across = math.ceil(math.sqrt(k))
    titles, notes = titles or {}, notes or {}
    panels = []
    for unit in dict.fromkeys(recon.channel.tolist()):
        of_unit = (recon.channel == unit).numpy()
        blocks = [on_grid(tiles[of_unit], across, GAP, places=k) for tiles in shown]
        if filters is not None:
            blocks.insert(0, recon_tiles(filters[unit : unit + 1], TILE)[0])
        strongest = float(recon.score[torch.from_numpy(of_unit)].max())
        panels.append(UnitPanel(_label(unit, strongest, titles.get(unit), notes.get(unit)), tuple(blocks)))
    return tuple(panels)


def _label(unit: int, strongest: float, title: str | None, note: str | None) -> str:
    """A unit's number and title, then in a line of its own, or beside a mere number, its note or its activation."""
    numbers = note or score_text(strongest)
    return f"unit {unit}: {title}\n{numbers}" if title else f"unit {unit}, {numbers}"


def score_text(score: float) -> str:
    """Return an activation in words, of three digits at least: "activation 0.102", "activation 2,774"."""
    return f"activation {score:,.0f}" if abs(score) >= 1000 else f"activation {score:.3g}"


def layer_panels(
    recon: Reconstructions,
    patches: Patches,
    k: int,
    numbers: Mapping[str, Any],
    filters: Float[Tensor, "units channels kh kw"] | None = None,
    notes: Mapping[int, str] | None = None,
    masks: Bool[Tensor, "n h w"] | None = None,
    widest: int = WIDEST,
) -> LayerPanels:
    """Return a layer with its units, each called by the classes of its images, under what is to be known of the layer.

    recon: what is shown.  patches: under the reconstructions, or more.  numbers: as
    `deconv.analyses.features.summarise` returns them.  The rest is as for `unit_panels`.
    """
    titles = {unit: text for unit, text in zip(numbers["units"], numbers["classes"], strict=True) if text}
    panels = unit_panels(recon, patches.cut_to(recon.box), k, filters, titles, notes, masks)
    title = layer_title(numbers) + ("; first its filter" if filters is not None else "")
    return LayerPanels(f"{recon.layer}   {title}", panels, widest)


def caption_for(channels: int) -> str:
    """Return how to read tiles of reconstructions of so many channels."""
    return COLOURED if has_colours(channels) else ENERGY.format(channels=channels)


def layer_title(numbers: Mapping[str, Any]) -> str:
    """Return what stands above a layer's units, of the numbers that `deconv.analyses.features.summarise` returns."""
    (rows, cols), shown, dead = numbers["receptive_field"], numbers["shown_field"], numbers["dead_units"]
    part = (
        f", shown: the {shown[0]} x {shown[1]} in its middle that hold 95 % of the energy"
        if tuple(shown) != (rows, cols)
        else ""
    )
    never = f", {dead} never fire" if dead else ""
    return f"{numbers['channels']} units, receptive field {rows} x {cols} pixels{part}{never}"


def features_figure(
    layers: Sequence[LayerPanels], heading: str, rows: int | None = None, caption: str = COLOURED
) -> Figure:
    """Draw Figure 2 as one picture: layer under layer, each a grid of units; at most `rows` rows of each, None for all.

    Texts are broken where the units end.
    """
    layers, width = _laid_out(layers, rows)
    return _page(layers, heading, caption, width)


def features_pages(
    layers: Sequence[LayerPanels], heading: str, rows: int | None = None, caption: str = COLOURED
) -> list[Figure]:
    """Draw the same on pages of the shape of A4, upright, each with the heading; a layer may go on on the next page."""
    layers, width = _laid_out(layers, rows)
    longest = wrapped(f"{heading}, page 99 of 99", width - 2 * MARGIN, HEADING)
    above = head(wrapped(caption, width - 2 * MARGIN, CAPTION), longest)
    least = max((layer.cut(0)[0].height + layer.pitch[0] for layer in layers), default=0)
    height = max(round(width * A4), above + least)
    pages = _divide(layers, height - above)
    if len(pages) == 1:
        return [_page(pages[0], heading, caption, width, height)]
    return [
        _page(page, f"{heading}, page {number} of {len(pages)}", caption, width, height)
        for number, page in enumerate(pages, start=1)
    ]


def _laid_out(layers: Sequence[LayerPanels], rows: int | None) -> tuple[list[LayerPanels], int]:
    """The rows that are drawn of each layer, and the width of a page, which the titles keep to."""
    drawn = [layer if rows is None else layer.cut(rows)[0] for layer in layers]
    width = max([LEAST_WIDTH, *(layer.width for layer in drawn)])
    return [replace(layer, title=wrapped(layer.title, width - 2 * MARGIN, PART_TITLE)) for layer in drawn], width


def _divide(layers: Sequence[LayerPanels], room: int) -> list[list[LayerPanels]]:
    """The layers page by page, each page at most `room` pixels high and every row of units whole."""
    pages: list[list[LayerPanels]] = [[]]
    for layer in layers:
        rest = layer
        while rest.units:
            left = room - sum(part.height for part in pages[-1])
            rows = (left - rest.cut(0)[0].height) // rest.pitch[0]
            if rows < 1:
                pages.append([])
            else:
                part, rest = rest.cut(rows)
                pages[-1].append(part)
    return pages


def _page(layers: Sequence[LayerPanels], heading: str, caption: str, width: int, height: int | None = None) -> Figure:
    """One page: heading, caption, and the layers below them; it is as high as they need if no height is given."""
    heading, caption = (
        wrapped(text, width - 2 * MARGIN, style) for text, style in ((heading, HEADING), (caption, CAPTION))
    )
    y = head(caption, heading)
    page = Page(height or y + sum(layer.height for layer in layers), width, heading, caption)
    for layer in layers:
        page.text(y, MARGIN, layer.title, **PART_TITLE)
        top = y + text_height(layer.title, PART_TITLE)
        for n, unit in enumerate(layer.units):
            down, across = divmod(n, layer.abreast)
            _place_unit(page, top + down * layer.pitch[0], MARGIN + across * layer.pitch[1], unit, layer.above)
        y += layer.height
    return page.finish()


def _place_unit(page: Page, y: int, x: int, unit: UnitPanel, above: int) -> None:
    page.text(y, x, unit.title, **LABEL)
    for block in unit.blocks:
        page.picture(y + above, x, block)
        x += block.shape[1] + 3 * GAP


@plain_defaults()
def draw(recon: Reconstructions, patches: Patches, path: str | Path) -> Path:
    """Draw reconstructions beside their patches, unit by unit, into this file, in the format of its suffix.

    Of receptive fields the effective part is shown (`Reconstructions.zoomed`).

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
    shown = recon.zoomed()
    panels = LayerPanels(recon.layer, unit_panels(shown, patches.cut_to(shown.box), k))
    return save_as(features_figure([panels], recon.rule, caption=caption_for(recon.pixels.shape[1])), path)
