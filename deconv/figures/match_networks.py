"""Units of two networks matched: how far, layer by layer, and some pairs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deconv.figures.features import LayerPanels, UnitPanel, features_figure, unit_panels
from deconv.figures.page import MARGIN
from deconv.figures.pictures import WHITE
from deconv.records import Patches, Reconstructions

ACROSS = 4
STYLES = {
    "best, one-sided": ("tab:blue", "--"),
    "matched one to one": ("black", "-"),
    "with itself": ("tab:red", "-"),
    "largest by chance": ("tab:gray", ":"),
}
"""The lines of a layer, each with its colour and its dashes."""
CAPTION = (
    "Each row is a unit of {network}, on the left, and the unit of {other} that it is matched with, on the right: "
    "of both the reconstructions of the strongest peaks, zero at mid-grey, and their patches, hatched outside the "
    "image. The rows go from the best match of the layer by even steps to the worst; the number is the correlation of "
    "their strongest activations over all images. Mutual: each is the other's best."
)


def correlations_figure(layers: Mapping[str, Mapping[str, np.ndarray]], heading: str) -> Figure:
    """Draw a panel for each layer: correlations of its units, each line sorted by itself, the largest first.

    layers: {layer: {line of STYLES: a value for each unit, nan where it has none}}.
    """
    across = min(ACROSS, len(layers))
    down = math.ceil(len(layers) / across)
    figure = Figure(figsize=(max(3.2 * across, 6), 2.9 * down + 1), layout="constrained")
    figure.suptitle(heading, fontsize=11, parse_math=False)
    panels = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes in panels.flat[len(layers) :]:
        axes.set_axis_off()
    shown = {}
    for axes, (layer, lines) in zip(panels.flat, layers.items(), strict=False):
        for name, values in lines.items():
            ordered = np.sort(values[~np.isnan(values)])[::-1]
            colour, dashes = STYLES[name]
            places = np.linspace(0, 100, len(ordered))
            shown[name] = axes.plot(places, ordered, color=colour, linestyle=dashes, linewidth=1.5)[0]
        axes.set_title(layer, fontsize=10, parse_math=False)
        axes.set_xlabel("units, % of those matched", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("correlation", fontsize=8)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False, fontsize=9)
    return figure


def pairs_figure(
    title: str,
    pairs: Mapping[tuple[int, int], str],
    pictures: Sequence[tuple[Reconstructions, Patches]],
    names: tuple[str, str],
    k: int,
    heading: str,
) -> Figure:
    """Draw pairs of units below each other, both networks' pictures of each side by side.

    pairs: {(unit, other unit): what is said of them}.  pictures: of both networks, what is shown of these units and
    the patches under it.  names: what the networks are called.
    """
    blocks = []
    for (shown, patches), units in zip(pictures, zip(*pairs, strict=True), strict=True):
        panels = unit_panels(shown, patches.cut_to(shown.box), k)
        of_unit = dict(zip(dict.fromkeys(shown.channel.tolist()), (panel.blocks for panel in panels), strict=True))
        blocks.append([of_unit[unit] for unit in units])
    apart = np.full((1, MARGIN, 3), WHITE, dtype=np.uint8)
    rows = tuple(
        UnitPanel(f"unit {unit} and unit {other}: {said}", (*left, apart, *right))
        for ((unit, other), said), left, right in zip(pairs.items(), *blocks, strict=True)
    )
    caption = CAPTION.format(network=names[0], other=names[1])
    widest = 0  # one pair in a row
    return features_figure([LayerPanels(title, rows, widest)], heading, caption=caption)
