"""Figure 2: units, each with its reconstructions and its patches, layer under layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from deconv.errors import BadInput
from deconv.figures import (
    CAPTION,
    COLUMNS,
    DPI,
    GAP,
    LABEL,
    MARGIN,
    TITLE,
    block,
    display,
    patch_tiles,
    save_figure,
    tiles,
)
from deconv.records import Patches, Reconstructions


@dataclass(frozen=True)
class UnitPanel:
    """One unit of Figure 2: a label, and its blocks side by side (reconstructions, patches, for layer 1 its filter)."""

    label: str
    blocks: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class LayerPanels:
    """One layer of Figure 2: a title, and its units."""

    title: str
    units: tuple[UnitPanel, ...]


def unit_panels(
    recon: Reconstructions, patches: Patches, k: int, filters: Tensor | None = None
) -> tuple[UnitPanel, ...]:
    """Panels of the units in `recon`, in its order; `filters` (C, 3, kh, kw) adds each unit's own."""
    shown, cut = tiles(display(recon.pixels)), patch_tiles(patches)
    panels = []
    for unit in dict.fromkeys(recon.channel.tolist()):
        mine = (recon.channel == unit).numpy()
        blocks = [block(shown[mine], k), block(cut[mine], k)]
        if filters is not None:
            blocks.insert(0, tiles(display(filters[unit : unit + 1]))[0])
        strongest = float(recon.score[torch.from_numpy(mine)].max())
        panels.append(UnitPanel(f"unit {unit}, activation {strongest:.3g}", tuple(blocks)))
    return tuple(panels)


def feature_figure(layers: Sequence[LayerPanels], heading: str, rows: int | None = None) -> Figure:
    """Figure 2: layer under layer, each a grid of units; at most `rows` rows of each layer."""
    shown = [LayerPanels(layer.title, layer.units[: rows and rows * _columns(layer)]) for layer in layers]
    width = max((_grid_width(layer) for layer in shown), default=400) + 2 * MARGIN
    height = sum(_grid_height(layer) for layer in shown) + TITLE + 2 * MARGIN + LABEL
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = np.ones((height, width, 3))
    y = TITLE + MARGIN
    texts: list[tuple[float, float, str, dict[str, Any]]] = [
        (MARGIN, MARGIN, heading, {"fontsize": 15, "weight": "bold"}),
        (MARGIN, MARGIN + 28, CAPTION, {"fontsize": 9.5, "color": "0.3"}),
    ]
    for layer in shown:
        texts.append((MARGIN, y, layer.title, {"fontsize": 12, "weight": "bold"}))
        _place_units(page, texts, layer, y + LABEL + 8)
        y += _grid_height(layer)
    axes = figure.add_axes((0, 0, 1, 1), label="page")
    axes.imshow(page, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    for x, top, text, style in texts:
        axes.text(x, top, text, va="top", ha="left", wrap=False, **style)
    return figure


def _unit_size(layer: LayerPanels) -> tuple[int, int]:
    blocks = layer.units[0].blocks if layer.units else ()
    return max((b.shape[0] for b in blocks), default=0), sum(b.shape[1] + 3 * GAP for b in blocks)


def _columns(layer: LayerPanels) -> int:
    with_filters = bool(layer.units) and len(layer.units[0].blocks) > 2
    return min(COLUMNS - with_filters, max(len(layer.units), 1))


def _grid_width(layer: LayerPanels) -> int:
    return _columns(layer) * (_unit_size(layer)[1] + MARGIN)


def _grid_height(layer: LayerPanels) -> int:
    rows = -(-len(layer.units) // _columns(layer))
    return LABEL + 8 + rows * (_unit_size(layer)[0] + LABEL + MARGIN // 2) + MARGIN


def _place_units(page: np.ndarray, texts: list[Any], layer: LayerPanels, top: int) -> None:
    height, width = _unit_size(layer)
    for n, unit in enumerate(layer.units):
        y = top + n // _columns(layer) * (height + LABEL + MARGIN // 2)
        x = MARGIN + n % _columns(layer) * (width + MARGIN)
        texts.append((x, y, unit.label, {"fontsize": 8.5, "color": "0.25"}))
        for picture in unit.blocks:
            page[y + LABEL : y + LABEL + picture.shape[0], x : x + picture.shape[1]] = picture
            x += picture.shape[1] + 3 * GAP


def draw(recon: Reconstructions, patches: Patches, path: str | Path) -> Path:
    """Reconstructions beside their patches, unit by unit, as PNG and PDF; returns the PNG's path.

    Raises BadInput if the two do not belong together.
    """
    if not torch.equal(recon.box, patches.box) or not torch.equal(recon.image, patches.image):
        raise BadInput("draw: the patches are not those under the reconstructions; cut them with patches_of(...).")
    k = int(recon.channel.unique(return_counts=True)[1].max()) if len(recon) else 1
    return save_figure(feature_figure([LayerPanels(recon.layer, unit_panels(recon, patches, k))], recon.rule), path)
