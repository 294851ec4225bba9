"""Directions beside channels: each metric's mean over the units of every set, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconv.compare.measuring import METRICS

SHOWN = (
    *("pearson_grey", "pearson_edges", "ssim_edges", "area50", "insertion_blur", "deletion_blur"),
    *("reactivation", "rank", "grouping", "patches_grouping", "other_unit", "between"),
)
"""The metrics that have a panel, in its order; all are in summary.json."""
PATCHES_GROUPING = "grouping of\nthe patches"
BETTER = {1: "higher is better", -1: "lower is better"}
COLOURS = {"channels": "black", "random": "tab:gray"}
OTHERS = ("tab:red", "tab:blue", "tab:green", "tab:orange", "tab:purple", "tab:brown")
ACROSS = 4


def directions_figure(sets: Mapping[str, Mapping[str, Any]], heading: str) -> Figure:
    """Draw a panel for each metric: a row a set, its mean over units and the 95 % interval; shaded is the channels'.

    sets: {set: {metric: {"mean", "low", "high"}}}, the channels first.
    """
    down = math.ceil(len(SHOWN) / ACROSS)
    figure = Figure(figsize=(3 * ACROSS, down * (1.1 + 0.24 * len(sets)) + 0.5), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    panels = figure.subplots(down, ACROSS, sharey=True)
    for axes, name in zip(panels.flat, SHOWN, strict=True):
        _panel(axes, name, sets)
    return figure


def _panel(axes: Axes, name: str, sets: Mapping[str, Mapping[str, Any]]) -> None:
    metric = METRICS.get(name)
    label, better = (PATCHES_GROUPING, 1) if metric is None else (metric.label, metric.better)
    axes.set_title(f"{label.replace(chr(10), ' ')}\n{BETTER.get(better, '')}", fontsize=9)
    others = iter(OTHERS * len(sets))
    for row, (each, metrics) in enumerate(sets.items()):
        colour = COLOURS.get(each) or next(others)
        numbers = metrics[name]
        if numbers["mean"] is None:
            axes.text(0.5, row, "none", ha="center", va="center", fontsize=8, transform=axes.get_yaxis_transform())
            continue
        axes.plot([numbers["low"], numbers["high"]], [row, row], color=colour, linewidth=2)
        axes.plot([numbers["mean"]], [row], "o", color=colour, markersize=5)
        if row == 0:
            axes.axvspan(numbers["low"], numbers["high"], color="0.9", zorder=0)
    axes.set_yticks(range(len(sets)), list(sets), fontsize=9)
    axes.set_ylim(len(sets) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.92")
