"""Curves of a path check: likeness of the network's answers to picture and patch, and of signals on their way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deconv.compare.controls import CONTROLS
from deconv.compare.path_check import FORWARD, RANDOM, SECOND_PATCH, UNITS, WEIGHTED
from deconv.compare.which_image import OTHER_PATCHES
from deconv.figures.compare_rules import legend_above, note_below, rule_lines, style

BLACK: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 2.2}
PATCHES: dict[str, dict[str, Any]] = {
    SECOND_PATCH: BLACK | {"marker": "*", "markersize": 9, "label": "another patch of the unit"},
    OTHER_PATCHES: BLACK | {"marker": "P", "markersize": 6, "label": "a patch of another unit"},
}
ROWS = (
    "forward: answers to picture and patch,\nhow alike at each layer",
    "forward, each change times the\nunit's derivative: how alike",
    "backward: two signals,\nhow alike at each layer",
)
NOTHING_BETWEEN = "Not shown: {layer}, as none of the layers lies before it; the numbers of the run have it."
Summary = Mapping[str, Any]


def paths(layers: Summary, names: Sequence[str]) -> Figure:
    """Columns are the layers of units; rows: forward, forward as weighted by the unit, and two signals backward.

    layers: {layer: {name: {"forward/conv1": {"mean", "low", "high"}, ...}}}, names and baselines; of several layers,
    one that none is before has no column, and is named. Bands are 95 % intervals over units, left out for controls.
    """
    shown = [layer for layer in layers if len(_steps(layers[layer][names[0]], FORWARD)) > 2] or list(layers)
    figure = Figure(figsize=(1.3 + 3.1 * len(shown), 11.6), layout="constrained")
    grid = figure.subplots(3, len(shown), squeeze=False, sharey="row", sharex="col")
    rules = [name for name in names if _steps(layers[shown[0]][name], RANDOM)]
    for axes_down, layer in zip(grid.T, shown, strict=True):
        cells = layers[layer]
        for axes, kind in zip(axes_down, (FORWARD, WEIGHTED), strict=False):
            for name in names:
                _draw(axes, cells[name], kind, style(name), band=name not in CONTROLS)
            for name, how in PATCHES.items():
                _draw(axes, cells[name], kind, how, band=False)
        for name in rules:
            _draw(axes_down[2], cells[name], RANDOM, style(name), band=True)
            _draw(axes_down[2], cells[name], UNITS, style(name) | {"linestyle": ":", "linewidth": 1.4}, band=False)
        steps = _steps(cells[names[0]], FORWARD)
        axes_down[2].set_xticks(range(len(steps)), steps, rotation=60, fontsize=8)
        axes_down[0].set_title(f"units of {layer}", fontsize=10, weight="bold")
        for axes in axes_down:
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=8)
    for axes, words in zip(grid[:, 0], ROWS, strict=True):
        axes.set_ylabel(words, fontsize=9.5)
    lines = [
        *rule_lines(names),
        *(Line2D([], [], **how) for how in PATCHES.values()),
        Line2D([], [], color="0.3", linestyle="-", linewidth=2.2, label="last row: from two random vectors"),
        Line2D([], [], color="0.3", linestyle=":", label="last row: from two units at the place"),
    ]
    legend_above(figure, lines)
    notes = [NOTHING_BETWEEN.format(layer=layer) for layer in layers if layer not in shown]
    note_below(figure, "layer; forward from left to right, backward from right to left", notes)
    return figure


def _steps(columns: Summary, kind: str) -> list[str]:
    """The image and the layers that a column stands for, in forward order."""
    return [name.removeprefix(f"{kind}/") for name in columns if name.startswith(f"{kind}/")]


def _draw(axes: Axes, columns: Summary, kind: str, style: Mapping[str, Any], band: bool) -> None:
    cells = [columns[f"{kind}/{step}"] for step in _steps(columns, kind)]
    mean, low, high = (np.array([cell[key] for cell in cells], dtype=float) for key in ("mean", "low", "high"))
    steps = np.arange(len(cells))
    axes.plot(steps, mean, **style)
    if band:
        axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
