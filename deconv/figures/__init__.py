"""Arrays to pictures: the one place that scales for display.

A reconstruction is signed. It is shown symmetric about mid-grey: zero is mid-grey, and the PERCENTILE-th percentile of
its absolute values, over the whole reconstruction, is full black or white. Each reconstruction has its own scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from deconv.errors import BadInput
from deconv.records import Patches, Reconstructions
from deconv.runs import write_whole

PERCENTILE = 99.0
TILE = 88
"""Pixels a side of one reconstruction or patch; smaller receptive fields are enlarged without smoothing."""
GAP, MARGIN, LABEL, TITLE = 2, 20, 20, 64
COLUMNS = 4
DPI = 100
CAPTION = (
    "Left of each pair: reconstructions, zero at mid-grey, each scaled by the "
    f"{PERCENTILE:g} % percentile of its absolute values. "
    "Right: the patches, in the same order; hatched: outside the image."
)


def display(reconstructions: Tensor) -> Tensor:
    """Signed (N, 3, h, w) to (N, 3, h, w) in 0..1, zero at 0.5, each on its own scale; all-zero is mid-grey."""
    flat = reconstructions.abs().flatten(1)
    rank = max(round(flat.shape[1] * PERCENTILE / 100), 1)
    scale = flat.kthvalue(rank, dim=1).values
    scale = torch.where(scale > 0, scale, flat.amax(dim=1))  # only a few pixels are set
    scale = torch.where(scale > 0, scale, 1.0)
    return (0.5 + 0.5 * reconstructions / scale.view(-1, 1, 1, 1)).clamp(0, 1)


def tiles(pictures: Tensor, side: int = TILE) -> np.ndarray:
    """(N, 3, h, w) in 0..1 as (N, side, side, 3): the long side fills the tile, the rest is white."""
    height, width = pictures.shape[2:]
    factor = side / max(height, width)
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    if factor >= 1:
        shown = F.interpolate(pictures, size, mode="nearest-exact")
    else:
        shown = F.interpolate(pictures, size, mode="bilinear", antialias=True).clamp(0, 1)
    tile = torch.ones(len(pictures), 3, side, side)
    top, left = (side - size[0]) // 2, (side - size[1]) // 2
    tile[:, :, top : top + size[0], left : left + size[1]] = shown
    return tile.permute(0, 2, 3, 1).numpy()


def patch_tiles(patches: Patches, side: int = TILE) -> np.ndarray:
    """Patches as tiles (N, side, side, 3), hatched where they lie outside the image."""
    shown = tiles(patches.pixels.float() / 255, side)
    outside = tiles((~patches.inside).float()[:, None].expand(-1, 3, -1, -1), side) > 0.5
    inside_tile = tiles(torch.zeros_like(patches.pixels, dtype=torch.float32), side) < 0.5
    ys, xs = np.mgrid[:side, :side]
    hatch = np.where((ys + xs) // 3 % 3 == 0, 0.62, 0.86)[None, :, :, None]
    return np.where(outside & inside_tile, hatch, shown)


def block(shown: np.ndarray, k: int) -> np.ndarray:
    """Up to k tiles (n, s, s, 3) as one square block, row by row; missing ones stay white."""
    side, across = shown.shape[1], max(1, round(np.ceil(np.sqrt(k))))
    down = -(-k // across)
    out = np.ones((down * (side + GAP) - GAP, across * (side + GAP) - GAP, 3))
    for n, tile in enumerate(shown[:k]):
        y, x = n // across * (side + GAP), n % across * (side + GAP)
        out[y : y + side, x : x + side] = tile
    return out


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


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG and, beside it, as PDF; the same bytes for the same figure. Returns the PNG's path."""
    path = Path(path)
    fixed = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    for kind in ("pdf", "png"):
        written = path.with_suffix(f".{kind}")
        write_whole(written, lambda file, kind=kind: figure.savefig(file, format=kind, dpi=DPI, metadata=fixed[kind]))  # type: ignore[misc]
    return path.with_suffix(".png")
