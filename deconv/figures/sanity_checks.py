"""Curves of a sanity check: how alike reconstructions stay as the network is shuffled block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deconv.compare.similarity import ENTROPY_RISE
from deconv.figures.compare_rules import legend_above, rule_lines, style

SIMILARITY_TITLES = {
    "rank": "rank correlation\n(absolute values)",
    "ssim": "SSIM\n(absolute values)",
    "pearson": "correlation\n(signed)",
    ENTROPY_RISE: "rise of the entropy\n(all: efficient MPRT)",
}
Summary = Mapping[str, Any]


def cascades(layers: Summary, rules: Sequence[str]) -> Figure:
    """Columns are layers, rows measures; solid: shuffled from the layer down, cascading; faint: each block alone.

    layers: {layer: {rule: {"rank/cascade/fire5": {"mean", "low", "high"}, ...}}}. The broken line is the likeness of
    two different units at one place, with nothing shuffled.
    """
    shown = [layer for layer in layers if len(_blocks(layers[layer][rules[0]], "rank", "cascade")) > 1] or list(layers)
    figure = Figure(figsize=(1.3 + 2.5 * len(shown), 10.6), layout="constrained")
    grid = figure.subplots(len(SIMILARITY_TITLES), len(shown), squeeze=False, sharey="row", sharex="col")
    for row, (kind, title) in zip(grid, SIMILARITY_TITLES.items(), strict=True):
        for axes, layer in zip(row, shown, strict=True):
            for rule in rules:
                _draw(axes, layers[layer][rule], kind, style(rule))
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=7.5)
        row[0].set_ylabel(title, fontsize=9.5)
    for top, bottom, layer in zip(grid[0], grid[-1], shown, strict=True):
        names = ["none", *_blocks(layers[layer][rules[0]], "rank", "cascade")]
        top.set_title(f"units of {layer}", fontsize=10, weight="bold")
        bottom.set_xticks(range(len(names)), names, rotation=60, fontsize=7.5)
    lines = [
        *rule_lines(rules),
        Line2D([], [], color="0.3", linestyle="-", label="shuffled from the layer down to here"),
        Line2D([], [], color="0.3", linestyle=":", alpha=0.6, label="this block alone"),
        Line2D([], [], color="0.3", linestyle="--", alpha=0.8, label="another unit"),
    ]
    legend_above(figure, lines)
    figure.supxlabel("last block shuffled, from the layer down to the image", fontsize=9.5)
    return figure


def _blocks(columns: Summary, kind: str, order: str) -> list[str]:
    """The blocks whose weights are shuffled, "cascade" or "alone", from the layer down."""
    return [name.split("/", 2)[2] for name in columns if name.startswith(f"{kind}/{order}/")]


def _draw(axes: Axes, columns: Summary, kind: str, style: Mapping[str, Any]) -> None:
    names = _blocks(columns, kind, "cascade")
    cells = [columns[f"{kind}/cascade/{name}"] for name in names]
    start = 0.0 if kind == ENTROPY_RISE else 1.0  # of a picture beside itself
    mean, low, high = (
        np.array([start, *(cell[key] for cell in cells)], dtype=float) for key in ("mean", "low", "high")
    )
    steps = np.arange(len(mean))
    axes.plot(steps, mean, **style)
    axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    alone = [columns.get(f"{kind}/alone/{name}", {"mean": None})["mean"] for name in names]
    axes.plot(steps[1:], np.array(alone, dtype=float), color=style["color"], linestyle=":", marker=".", alpha=0.6)
    other = columns[f"{kind}/other_unit"]["mean"]
    if other is not None:
        axes.axhline(other, color=style["color"], linestyle="--", linewidth=1, alpha=0.8)
