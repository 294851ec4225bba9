"""How often explanations name the square that lowers their unit more: a panel a question, by layer, beside chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deconv.compare.controls import CONTROLS
from deconv.compare.guesses import BASELINES, QUESTIONS
from deconv.compare.trials import ACTIVATIONS
from deconv.figures.compare_rules import legend_above, style

CHANCE = 0.5
BASELINE_STYLES: dict[str, dict[str, Any]] = {
    BASELINES[0]: {"color": "black", "linestyle": ":", "marker": "o", "linewidth": 2, "markersize": 4},
    BASELINES[1]: {"color": "black", "linestyle": "--", "marker": "x", "linewidth": 1.2, "markersize": 4},
}
MAPS = {
    "max": "the strongest position of its map",
    "mean": "the mean over its map, as in the paper",
    "near": "the strongest position; squares over the peak's field's middle",
}
"""What is asked of a unit, in words."""


def by_layer(layers: Mapping[str, Any], names: Sequence[str]) -> Figure:
    """Rows: the activation that squares lower; columns: how explanations answer; lines: their accuracies by layer.

    Bars are 95 % intervals over units, left out for controls, to be read; the broken grey line is chance.
    layers: {layer: {explanation: {"energy_max": {"mean", "low", "high"}, ...}}}.
    """
    width = max(3.6, 0.55 * len(layers) + 1.6)
    figure = Figure(figsize=(width * len(QUESTIONS), 3.3 * len(ACTIVATIONS) + 1.3), layout="constrained")
    grid = figure.subplots(len(ACTIVATIONS), len(QUESTIONS), squeeze=False, sharey=True)
    for row, activation in zip(grid, ACTIVATIONS, strict=True):
        for axes, (question, words) in zip(row, QUESTIONS.items(), strict=True):
            draw_panel(axes, layers, {name: drawn_as(name) for name in names}, f"{question}_{activation}")
            axes.set_title(f"{words}\n({MAPS[activation]})", fontsize=9)
        row[0].set_ylabel("share of trials named right", fontsize=9)
    legend_above(figure, [Line2D([], [], label=name, **drawn_as(name)) for name in names])
    return figure


def drawn_as(name: str) -> dict[str, Any]:
    """How the line of an explanation, or of a baseline, is drawn."""
    return BASELINE_STYLES[name] if name in BASELINE_STYLES else style(name)


def draw_panel(axes: Axes, layers: Mapping[str, Any], lines: Mapping[str, Mapping[str, Any]], column: str) -> None:
    """Draw a column's accuracies by layer, and chance; lines: how that of each explanation is drawn."""
    shifts = np.linspace(-0.16, 0.16, len(lines))  # so that the intervals do not hide each other
    for (name, drawn), shift in zip(lines.items(), shifts, strict=True):
        cells = [of[name][column] for of in layers.values()]
        mean, low, high = (np.array([cell[key] for cell in cells], dtype=float) for key in ("mean", "low", "high"))
        if np.isnan(mean).all():
            continue
        places = np.arange(len(mean)) + shift
        axes.plot(places, mean, **drawn)
        if name not in CONTROLS:
            axes.vlines(places, low, high, color=drawn["color"], linewidth=1, alpha=0.6)
    axes.axhline(CHANCE, color="0.5", linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xticks(range(len(layers)), list(layers), rotation=45, ha="right", fontsize=7.5)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.25)
