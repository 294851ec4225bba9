"""Curves of a sanity check: how alike reconstructions stay as the network is shuffled block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deconv.compare.sanity_checks import OTHER_UNIT
from deconv.compare.similarity import ENTROPY_RISE
from deconv.figures.compare_rules import legend_above, note_below, rule_lines, style

SIMILARITY_TITLES = {
    "rank": "rank correlation\n(absolute values)",
    "ssim": "SSIM\n(absolute values)",
    "pearson": "correlation\n(signed)",
    ENTROPY_RISE: "rise of the entropy\n(all: efficient MPRT)",
}
COUNTED = "In brackets: the units that points are means over. Units that the shuffling leaves dead are left out."
NOTHING_BELOW = "Not shown: {layer}, below which no block is left to shuffle; the numbers of the run have it."
Summary = Mapping[str, Any]


def cascades(layers: Summary, rules: Sequence[str]) -> Figure:
    """Columns are layers, rows measures; solid: shuffled from the layer down, cascading; faint: each block alone.

    layers: {layer: {rule: {"rank/cascade/fire5": {"mean", "low", "high", "units"}, ...}}}. The broken line is the
    likeness of two different units at one place, with nothing shuffled. Below each step stands how many units its
    points are means over. Of several layers, one below which no block is left to shuffle has no column, and is named.
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
        steps = _steps(layers[layer], rules)
        top.set_title(f"units of {layer}", fontsize=10, weight="bold")
        bottom.set_xticks(range(len(steps)), steps, rotation=60, fontsize=7.5)
    lines = [
        *rule_lines(rules),
        Line2D([], [], color="0.3", linestyle="-", label="shuffled from the layer down to here"),
        Line2D([], [], color="0.3", linestyle=":", alpha=0.6, label="this block alone"),
        Line2D([], [], color="0.3", linestyle="--", alpha=0.8, label="another unit"),
    ]
    legend_above(figure, lines)
    notes = [COUNTED, *(NOTHING_BELOW.format(layer=layer) for layer in layers if layer not in shown)]
    note_below(figure, "last block shuffled, from the layer down to the image", notes)
    return figure


def _steps(columns: Mapping[str, Summary], rules: Sequence[str]) -> list[str]:
    """What stands below each step: the block, and how many units its points are means over."""
    names = _blocks(columns[rules[0]], "rank", "cascade")
    steps = [f"none (another unit {_units(columns, rules, OTHER_UNIT)})"]
    for name in names:
        units, alone = (_units(columns, rules, f"{order}/{name}") for order in ("cascade", "alone"))
        steps.append(f"{name} ({units}, alone {alone})" if alone else f"{name} ({units})")
    return steps


def _units(columns: Mapping[str, Summary], rules: Sequence[str], column: str) -> str:
    """How many units a column's means are over: "6", or "2-6" where rules or measures differ; "" without the column."""
    cells = [columns[rule].get(f"{kind}/{column}") for rule in rules for kind in SIMILARITY_TITLES]
    counts = {cell["units"] for cell in cells if cell is not None}
    return "-".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else ""


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
    other = columns[f"{kind}/{OTHER_UNIT}"]["mean"]
    if other is not None:
        axes.axhline(other, color=style["color"], linestyle="--", linewidth=1, alpha=0.8)
