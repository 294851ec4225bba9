"""Tables 2 and 3: the error rates of networks with layers left out or resized, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from deconv.analyses.ablation import ErrorRates


def ablation_figure(
    rates: Mapping[str, ErrorRates],
    paper: Mapping[str, Sequence[float] | None],
    titles: Mapping[str, str],
    heading: str,
) -> Figure:
    """Draw our error rates and the paper's beside each other, a row a variant in the order of `rates`.

    paper: {variant: (top-1, top-5) in percent, or None where the paper has no such variant}. titles: {variant: its
    name in the figure}.
    """
    figure = Figure(figsize=(11, 1.9 + 0.36 * len(rates)), layout="constrained")
    ours, theirs = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(rates))
    _dots(ours, rows, [each.val_top1 for each in rates.values()], "o", "C0", "validation, top-1")
    _dots(ours, rows, [each.val_top5 for each in rates.values()], "o", "C0", "validation, top-5", hollow=True)
    _dots(ours, rows, [each.train_top1 for each in rates.values()], "|", "C1", "training images, top-1")
    percents = {row: percent for row, name in enumerate(rates) if (percent := paper.get(name))}
    _dots(theirs, list(percents), [top1 / 100 for top1, _ in percents.values()], "o", "0.3", "validation, top-1")
    _dots(
        theirs,
        list(percents),
        [top5 / 100 for _, top5 in percents.values()],
        "o",
        "0.3",
        "validation, top-5",
        hollow=True,
    )
    ours.set_yticks(rows, [titles[name] for name in rates])
    ours.set_ylim(len(rates) - 0.5, -0.7)  # the numbers stand above their points
    for axes, title in ((ours, "here"), (theirs, "the paper, ImageNet, trained to the end")):
        axes.set(title=title, xlabel="error")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    figure.suptitle(heading)
    return figure


def _dots(
    axes: Axes,
    rows: Sequence[int] | np.ndarray,
    values: Sequence[float],
    marker: str,
    colour: str,
    label: str,
    hollow: bool = False,
) -> None:
    face = "white" if hollow else colour
    axes.plot(values, rows, marker, color=colour, label=label, markersize=8, linestyle="none", markerfacecolor=face)
    for row, value in zip(rows, values, strict=True):
        if marker != "|":
            axes.annotate(
                f"{100 * value:.1f}", (value, row), (0, 7), textcoords="offset points", ha="center", fontsize=7
            )
