"""Virtual units: each cluster of a unit's peaks with the lower units it is made of; and what splits gain in a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconv.figures.page import (
    CAPTION,
    HEADING,
    MARGIN,
    NOTE,
    PART_TITLE,
    TILE,
    Page,
    charts,
    head,
    text_height,
    wrapped,
)
from deconv.figures.pictures import on_grid, patch_tiles, recon_tiles
from deconv.records import Patches, Reconstructions

ACROSS = 3
"""Tiles of a block across, and down."""
MOST_SHOWN = ACROSS**2
GAP = 2
"""Pixels between two tiles of a block."""
BLOCK = ACROSS * (TILE + GAP) - GAP
SMALL = 46
"""Pixels a side of a lower unit's tiles: two blocks of them, one above the other, are as high as one of the unit's."""
SMALL_BLOCK = ACROSS * (SMALL + GAP) - GAP
BETWEEN = 24
"""Pixels between a cluster's blocks and those of its lower units."""
CAPTION_TEXT = (
    "A row for each cluster: the reconstructions of its strongest peaks, zero at mid-grey, and the patches under them; "
    "then the strongest of the lower units that its peaks are made of, each with its own strongest peaks: above what "
    "it answers to, below the patches. Under a lower unit's name: its share in this cluster's activations, and in the "
    "unit's others."
)
LOWER_TITLE = NOTE | {"color": "0.1"}
CHART_CAPTION = (
    "How alike two peaks of a unit are, in the mean over pairs. Tick: all its pairs. Dot: pairs within the clusters, "
    "red where that is more than 97.5 % of 1,000 splits by chance into clusters of the same sizes give; grey line: the "
    "middle 95 % of these. Units from the one whose patches gain most to the one whose gain least."
)
PANELS = {
    "patches": "patches: correlation",
    "pictures": "reconstructions: correlation",
    "classes": "images: share of pairs of one class",
}


@dataclass(frozen=True, eq=False)
class LowerUnit:
    """A unit that a cluster's peaks are made of: what it is called, and its own strongest peaks."""

    label: str
    recon: Reconstructions
    patches: Patches


@dataclass(frozen=True, eq=False)
class Cluster:
    """One row of the picture: what it is called, the reconstructions and patches of its peaks, and its lower units."""

    title: str
    recon: Reconstructions
    patches: Patches
    lower: Sequence[LowerUnit]


def virtual_units_figure(clusters: Sequence[Cluster], heading: str, gain: str) -> Figure:
    """Draw a unit's clusters under each other.  gain: what the split gains, in words, to stand under the heading."""
    most = max((len(cluster.lower) for cluster in clusters), default=0)
    width = 2 * MARGIN + 2 * BLOCK + BETWEEN + most * (SMALL_BLOCK + BETWEEN)
    caption = wrapped(f"{gain}\n{CAPTION_TEXT}", width - 2 * MARGIN, CAPTION)
    heading = wrapped(heading, width - 2 * MARGIN, HEADING)
    titles = [wrapped(cluster.title, width - 2 * MARGIN, PART_TITLE) for cluster in clusters]
    heights = [
        text_height(title, PART_TITLE) + _labels(cluster) for title, cluster in zip(titles, clusters, strict=True)
    ]
    y = head(caption, heading)
    page = Page(y + sum(heights) + len(clusters) * (BLOCK + MARGIN), width, heading, caption)
    for cluster, title, above in zip(clusters, titles, heights, strict=True):
        page.text(y, MARGIN, title, **PART_TITLE)
        y += above
        x = MARGIN
        for block in _blocks(cluster.recon, cluster.patches, TILE):
            page.picture(y, x, block)
            x += BLOCK + 3 * GAP
        x += BETWEEN - 3 * GAP
        for unit in cluster.lower:
            page.text(y - _labels(cluster), x, unit.label, **LOWER_TITLE)
            for n, block in enumerate(_blocks(unit.recon, unit.patches, SMALL)):
                page.picture(y + n * (BLOCK - SMALL_BLOCK), x, block)
            x += SMALL_BLOCK + BETWEEN
        y += BLOCK + MARGIN
    return page.finish()


def _labels(cluster: Cluster) -> int:
    """Pixels down of the names of a cluster's lower units."""
    return max((text_height(unit.label, LOWER_TITLE) for unit in cluster.lower), default=0)


def _blocks(recon: Reconstructions, patches: Patches, side: int) -> list[Any]:
    shown = [recon_tiles(recon.pixels[:MOST_SHOWN], side)]
    shown.append(patch_tiles(patches.pixels[:MOST_SHOWN], patches.inside[:MOST_SHOWN], side))
    return [on_grid(tiles, ACROSS, GAP, MOST_SHOWN) for tiles in shown]


def splits_figure(gains: Mapping[int, Mapping[str, Mapping[str, Any]]], heading: str) -> Figure:
    """Draw a row for each unit and a panel for each measure: pairs within clusters beside all pairs and chance.

    gains: {unit: {measure: what `deconv.compare.splits.gain_of_split` returns}}, the measures being those of PANELS, of
    which "classes" may be missing; a unit without numbers has an empty row.
    """
    measures = [name for name in PANELS if all(name in of_unit for of_unit in gains.values())]
    units = sorted(gains, key=lambda unit: -_gained(gains[unit]["patches"]))
    figure = charts(3.6 * len(measures) + 0.8, 1.9 + 0.2 * len(units), heading, CHART_CAPTION)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, measures, strict=True):
        _panel(axes, [gains[unit][name] for unit in units])
        axes.set_title(PANELS[name], fontsize=10)
    panels[0].set_yticks(range(len(units)), [f"unit {unit}" for unit in units], fontsize=8)
    panels[0].set_ylim(len(units) - 0.5, -0.5)
    return figure


def _gained(gain: Mapping[str, Any]) -> float:
    return -1.0 if gain["within"] is None else gain["within"] - gain["unit"]


def _panel(axes: Axes, gains: Sequence[Mapping[str, Any]]) -> None:
    for row, gain in enumerate(gains):
        if gain["within"] is None:
            continue
        axes.plot([gain["low"], gain["high"]], [row, row], color="0.75", linewidth=3, solid_capstyle="butt")
        axes.plot([gain["unit"]], [row], "|", color="black", markersize=7)
        axes.plot(
            [gain["within"]], [row], "o", color="tab:red" if gain["within"] > gain["high"] else "0.35", markersize=5
        )
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.92")
