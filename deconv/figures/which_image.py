"""How often observers who saw pictures of a unit name the image that fires it more: a panel an observer, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deconv.compare.which_image import BASELINES
from deconv.figures.compare_rules import legend_above, style
from deconv.figures.predict import draw_panel

DRAWN: dict[str, dict[str, Any]] = {
    name: {"color": "black", "linestyle": line, "marker": marker, "linewidth": width, "markersize": 4}
    for name, line, marker, width in zip(BASELINES, (":", "-", "--", "-."), "o^sx", (2, 1.2, 1.2, 1.2), strict=True)
}


def by_layer(layers: Mapping[str, Any], names: Sequence[str], ways: Mapping[str, str]) -> Figure:
    """Panels: how answers are found, {column: in words}; lines: the accuracies by layer of those shown.

    Bars are 95 % intervals over units, left out for controls, to be read; the broken grey line is chance.
    layers: {layer: {explanation: {"views": {"mean", "low", "high"}, ...}}}.
    """
    width = max(3.6, 0.55 * len(layers) + 1.6)
    figure = Figure(figsize=(width * len(ways), 5.2), layout="constrained")
    drawn = {name: DRAWN[name] if name in DRAWN else style(name) for name in names}
    (row,) = figure.subplots(1, len(ways), squeeze=False, sharey=True)
    for axes, (column, words) in zip(row, ways.items(), strict=True):
        draw_panel(axes, layers, drawn, column)
        axes.set_title(words, fontsize=9)
    row[0].set_ylabel("share of pairs named right", fontsize=9)
    legend_above(figure, [Line2D([], [], label=name, **how) for name, how in drawn.items()])
    return figure
