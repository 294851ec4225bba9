"""Charts of measured reconstructions: metrics by layer, the table, insertion and deletion curves, units as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from deconv.compare.controls import CONTROLS
from deconv.compare.measuring import METRICS, Metric, curve_column
from deconv.compare.sufficiency import CURVES, FILLS, SHARES
from deconv.figures import DPI
from deconv.figures.page import CAPTION, MARGIN, wrapped
from deconv.figures.pictures import as_bytes, on_grid, recon_tiles, tiles

RULE_COLOURS = {
    "deconvnet": "tab:red",
    "guided": "tab:blue",
    "gradient": "tab:green",
    "deconvnet_beyond": "firebrick",
    "guided_beyond": "navy",
    "lrp_epsilon": "darkgreen",
    "lrp_z_plus": "darkorange",
}
EXPLANATION_COLOURS = {
    "activation_map": "goldenrod",
    "grad_cam": "sienna",
    "smoothgrad": "limegreen",
    "integrated_gradients": "teal",
    "occlusion": "deeppink",
}
OTHER_COLOURS = ("tab:purple", "indigo", "coral", "slateblue", "darkkhaki", "orchid")
"""The colours of rules that have no name, and of a user's own functions, by their names."""
CONTROL_COLOURS = ("tab:brown", "tab:pink", "tab:gray", "tab:olive", "tab:cyan", "tab:orange", "darkgray", "black")
CONTROL_MARKERS = "sv^<>Dxo"
EXTREMES = ("best", "median", "worst")
UNIT_SIDE, UNIT_GAP = 120, 4
"""Pixels a side of a tile on the page of units, and between the two of a unit; the page shows them about as large."""
BETTER = {1: "higher is better", -1: "lower is better", 0: ""}
CURVE_TITLES = {
    ("insertion", "blur"): "only the strongest pixels,\non the blurred patch",
    ("insertion", "mean"): "only the strongest pixels,\non its mean colour",
    ("deletion", "blur"): "strongest pixels\nblurred",
    ("deletion", "mean"): "strongest pixels set to\nthe mean colour",
}
ACROSS = 5
DOWN = -(-len(METRICS) // ACROSS)
"""Panels of metrics in a row, and rows of them."""
Summary = Mapping[str, Any]
TITLE_LENGTH = 88
"""Letters of a bold title of 11 points that the page of a layer's examples has room for."""


def style(rule: str) -> dict[str, Any]:
    """How an explanation is drawn: rules by thick lines, functions by dash and dot, controls thin and broken."""
    if rule in CONTROLS:
        n = list(CONTROLS).index(rule)
        return {
            "color": CONTROL_COLOURS[n],
            "marker": CONTROL_MARKERS[n],
            "linestyle": "--",
            "linewidth": 1,
            "markersize": 4,
        }
    other = OTHER_COLOURS[crc32(rule.encode()) % len(OTHER_COLOURS)]
    return {
        "color": (RULE_COLOURS | EXPLANATION_COLOURS).get(rule, other),
        "linestyle": "-" if rule in RULE_COLOURS else "-.",
        "marker": "o",
        "linewidth": 2.2,
        "markersize": 4.5,
        "zorder": 3,
    }


def rule_lines(rules: Sequence[str]) -> list[Line2D]:
    """Return a line for each rule and control, as a legend has them."""
    return [Line2D([], [], label=rule, **style(rule)) for rule in rules]


def legend_above(figure: Figure, lines: Sequence[Line2D]) -> None:
    """Put a legend above the charts, in as many columns as fit; the longest label is 2.5 inches wide."""
    columns = min(max(int(figure.get_figwidth() / 2.5), 1), 6)
    figure.legend(handles=list(lines), loc="outside upper center", ncols=columns, fontsize=9, frameon=False)


def note_below(figure: Figure, label: str, notes: Sequence[str]) -> None:
    """Put the label of all charts' axes below them, and under it notes, their lines broken to the figure's width."""
    width = round(figure.get_figwidth() * DPI) - 2 * MARGIN
    figure.supxlabel("\n".join([label, *(wrapped(note, width, CAPTION) for note in notes)]), fontsize=9.5)


def by_layer(layers: Summary, rules: Sequence[str], patches: str) -> Figure:
    """One panel a metric: means over units by layer, with 95 % intervals for the rules (controls without, to be read).

    Of one layer each rule and control has a row of its own, and all have intervals.
    layers: {layer: {rule: {metric: {"mean", "low", "high"}}}};  patches: the name under which patches are grouped.
    """
    if len(layers) == 1:
        return _of_one_layer(*next(iter(layers.items())), rules, patches)
    figure = Figure(figsize=(3.1 * ACROSS, 2.35 * DOWN + 1.2), layout="constrained")
    for axes, (name, metric) in zip(figure.subplots(DOWN, ACROSS).flat, METRICS.items(), strict=True):
        for rule in rules:
            _line(axes, layers, rule, name, **style(rule), band=rule not in CONTROLS)
        _line(axes, layers, patches, name, color="black", linewidth=2, linestyle=":", band=False)
        axes.set_title(_title(metric), fontsize=9)
        axes.set_xticks(range(len(layers)), layers, rotation=60, fontsize=7)
        axes.tick_params(axis="y", labelsize=7)
        axes.grid(alpha=0.25)
    legend_above(figure, [*rule_lines(rules), _patches_line()])
    return figure


def _of_one_layer(layer: str, cells: Summary, rules: Sequence[str], patches: str) -> Figure:
    """One panel a metric: in each row the mean over units of a rule or control, and its 95 % interval.

    The band that goes through all rows is the interval of the first rule, which is under test.
    """
    figure = Figure(figsize=(2.6 * ACROSS + 1.6, (0.19 * len(rules) + 0.75) * DOWN + 1.2), layout="constrained")
    figure.suptitle(f"Units of {layer}: means and 95 % intervals", fontsize=11, weight="bold")
    grid = figure.subplots(DOWN, ACROSS, sharey=True)
    for axes, (name, metric) in zip(grid.flat, METRICS.items(), strict=True):
        for row, rule in enumerate(rules):
            cell = cells[rule].get(name)
            if cell is not None and cell["mean"] is not None:
                drawn = style(rule) | {"linestyle": "none"}
                axes.plot(cell["mean"], row, **drawn)
                axes.hlines(row, cell["low"], cell["high"], color=drawn["color"], linewidth=1.6)
        tested, of_patches = cells[rules[0]].get(name), cells[patches].get(name)
        if tested is not None and tested["mean"] is not None:
            axes.axvspan(tested["low"], tested["high"], color=style(rules[0])["color"], alpha=0.12, linewidth=0)
        if of_patches is not None and of_patches["mean"] is not None:
            axes.axvline(of_patches["mean"], color="black", linewidth=2, linestyle=":")
        axes.set_title(_title(metric), fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.tick_params(axis="y", labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(alpha=0.25)
    grid[0, 0].set_yticks(range(len(rules)), rules)
    grid[0, 0].set_ylim(len(rules) - 0.5, -0.5)  # the first on top; the panels share it
    band = Patch(color=style(rules[0])["color"], alpha=0.12, label=f"interval of {rules[0]}")
    figure.legend(handles=[band, _patches_line()], loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure


def _title(metric: Metric) -> str:
    """What a panel is called: the metric, and below it which way is better."""
    return metric.label.replace("\n", " ") + "\n" + BETTER[metric.better]


def _patches_line() -> Line2D:
    return Line2D([], [], color="black", linewidth=2, linestyle=":", label="the patches themselves")


def _line(axes: Axes, layers: Summary, rule: str, metric: str, band: bool, **style: Any) -> None:
    rows = [layers[layer][rule].get(metric, {"mean": None, "low": None, "high": None}) for layer in layers]
    mean, low, high = (np.array([row[key] for row in rows], dtype=float) for key in ("mean", "low", "high"))
    if np.isnan(mean).all():
        return
    axes.plot(np.arange(len(mean)), mean, **style)
    if band:
        axes.fill_between(np.arange(len(mean)), low, high, color=style["color"], alpha=0.15, linewidth=0)


def rule_table(summary: Summary, rules: Sequence[str]) -> Figure:
    """The table metric x rule: the mean over units of all layers, under it its 95 % interval; greener is better."""
    left, top = 1.95, 1.25  # in cells
    width, height = len(rules) + left, len(METRICS) + top
    figure = Figure(figsize=(1.12 * width, 0.43 * height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-left, len(rules)), ylim=(len(METRICS) + 0.1, -top))
    axes.set_axis_off()
    for row, (name, metric) in enumerate(METRICS.items()):
        arrow = {1: "↑", -1: "↓", 0: ""}[metric.better]
        label = f"{metric.label} {arrow}".replace("\n", " ")
        axes.text(-0.06, row + 0.5, label, ha="right", va="center", fontsize=9)
        _row(axes, row, [summary[rule].get(name) for rule in rules], metric.better)
    for column, rule in enumerate(rules):
        weight = "normal" if rule in CONTROLS else "bold"
        label = rule.replace("_", "\n", 1).replace("_", " ")
        axes.text(column + 0.5, -0.08, label, ha="center", va="bottom", fontsize=9, weight=weight)
    note = "Means over units of all layers,\n95 % intervals beneath them.\nBold: not a control. ↑ higher is better."
    axes.text(-left + 0.03, -top + 0.1, note, va="top", fontsize=7.5, color="0.3")
    return figure


def _row(axes: Axes, row: int, cells: Sequence[Any], better: int) -> None:
    means = np.array([np.nan if cell is None else cell["mean"] for cell in cells], dtype=float)
    low, spread = np.nanmin(means), np.nanmax(means) - np.nanmin(means)
    for column, (cell, mean) in enumerate(zip(cells, means, strict=True)):
        if np.isnan(mean):
            axes.text(column + 0.5, row + 0.5, "none", ha="center", va="center", fontsize=7.5, color="0.5")
            continue
        share = (mean - low) / spread if spread > 0 else 0.5
        shade = 0.15 + 0.7 * (share if better > 0 else 1 - share)  # without the darkest, on which no text is read
        fill = matplotlib.colormaps["RdYlGn"](shade) if better else "0.94"
        axes.fill([column, column + 1, column + 1, column], [row, row, row + 1, row + 1], color=fill, alpha=0.55, lw=0)
        axes.text(column + 0.5, row + 0.36, f"{mean:.3g}", ha="center", va="center", fontsize=9)
        interval = f"{cell['low']:.2g} to {cell['high']:.2g}"
        axes.text(column + 0.5, row + 0.77, interval, ha="center", va="center", fontsize=6.5, color="0.25")


def curves(layers: Summary, rules: Sequence[str], most: int = 5) -> Figure:
    """What is left of the activation when only, or all but, the strongest pixels are shown; at most `most` layers."""
    picked = [list(layers)[n] for n in np.unique(np.linspace(0, len(layers) - 1, most).round().astype(int))]
    figure = Figure(figsize=(2.9 * len(picked) + 0.6, 10.2), layout="constrained")
    grid = figure.subplots(4, len(picked), squeeze=False, sharex=True)
    shares = [0.0, *SHARES, 1.0]
    kinds = [(curve, fill) for curve in CURVES for fill in FILLS]
    for row, (curve, fill) in zip(grid, kinds, strict=True):
        for axes, layer in zip(row, picked, strict=True):
            for rule in rules:
                means = [layers[layer][rule][curve_column(curve, fill, share)]["mean"] for share in shares]
                axes.plot(np.sqrt(shares), np.array(means, dtype=float), **style(rule))
            axes.grid(alpha=0.25)
            axes.tick_params(labelsize=7)
        row[0].set_ylabel(CURVE_TITLES[curve, fill], fontsize=9)
    for axes, layer in zip(grid[0], picked, strict=True):
        axes.set_title(layer, fontsize=10, weight="bold")
    for axes in grid[-1]:
        axes.set_xticks(np.sqrt(shares), [f"{100 * share:g}" for share in shares])
        axes.set_xlabel("share of pixels, %", fontsize=8)
    legend_above(figure, rule_lines(rules))
    figure.supylabel("activation, as a part of the whole patch's", fontsize=10)
    return figure


@dataclass(frozen=True)
class Extremes:
    """The best, the median and the worst unit by one metric: (unit, value) each."""

    metric: str
    picks: tuple[tuple[int, float], ...]


def extremes(columns: Mapping[str, np.ndarray], metrics: Sequence[str]) -> list[Extremes]:
    """Return the extremes by each metric that any unit has a value of; units without one are left out.

    columns: {"unit": (U,), metric: (U,)}.
    """
    rows = []
    for name in metrics:
        measured = np.flatnonzero(np.isfinite(columns[name]))
        if len(measured):
            ranked = measured[np.argsort(-METRICS[name].better * columns[name][measured], kind="stable")]
            chosen = ranked[[0, len(ranked) // 2, len(ranked) - 1]]
            picks = zip(columns["unit"][chosen].tolist(), columns[name][chosen].tolist(), strict=True)
            rows.append(Extremes(name, tuple(picks)))
    return rows


def unit_page(
    layer: str,
    rule: str,
    rows: Sequence[Extremes],
    reconstructions: Mapping[int, np.ndarray],
    patches: Mapping[int, np.ndarray],
) -> Figure:
    """Row by row a metric, side by side its best, median and worst unit, each reconstruction beside its patch.

    {unit: (3, h, w)}: reconstructions signed, each on its own scale; patches in 0..1.
    """
    figure = Figure(figsize=(9.4, 1.6 * len(rows) + 0.8))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    title = f"{layer}, {rule}: each unit's strongest reconstruction, and its patch (black: outside the image)"
    size = min(11.0, 11 * TITLE_LENGTH / len(title))  # a long name of a layer must not cost the end
    figure.suptitle(title, x=0.01, ha="left", fontsize=size, weight="bold")
    grid = figure.subplots(len(rows), len(EXTREMES), squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        label = METRICS[row.metric].label
        axes_row[0].set_ylabel(label, fontsize=9.5, rotation=0, ha="right", va="center")
        for axes, (unit, value) in zip(axes_row, row.picks, strict=True):
            axes.imshow(_pair(reconstructions[unit], patches[unit]), interpolation="nearest")
            axes.set_title(f"unit {unit}: {value:.3g}", fontsize=8.5, pad=2)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    above_title = {"xy": (0.5, 1), "xycoords": "axes fraction", "xytext": (0, 16), "textcoords": "offset points"}
    for axes, kind in zip(grid[0], EXTREMES, strict=True):
        axes.annotate(kind, **above_title, ha="center", fontsize=10.5, weight="bold")
    return figure


def _pair(reconstruction: np.ndarray, patch: np.ndarray) -> np.ndarray:
    """Two tiles (side, 2 * side + gap, 3), beside each other."""
    recon = recon_tiles(torch.from_numpy(np.asarray(reconstruction)).float()[None], UNIT_SIDE)
    cut = tiles(as_bytes(torch.from_numpy(np.asarray(patch)).float()[None]), UNIT_SIDE)
    return on_grid(np.concatenate([recon, cut]), across=2, gap=UNIT_GAP)
