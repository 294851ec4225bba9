"""Table 4: networks put to other classes, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from deconv.analyses.transfer import PAPER


def transfer_figure(accuracies: Mapping[str, Sequence[float]], heading: str) -> Figure:
    """Bars of accuracies on the left, the paper's on the right, on one scale; whiskers are deviations over the splits.

    accuracies: {label of a bar: the accuracy, 0 to 1, on each split}.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(max(len(accuracies), 2), 2))
    drawn = {label: (100 * float(np.mean(a)), 100 * float(np.std(a))) for label, a in accuracies.items()}
    for axes, values, colour in ((ours, drawn, "C0"), (paper, PAPER, "C3")):
        bars = axes.bar(
            list(values),
            [mean for mean, _ in values.values()],
            0.6,
            yerr=[std for _, std in values.values()],
            capsize=4,
            color=colour,
        )
        axes.bar_label(
            bars, [f"{mean:.1f}" + (f" ± {std:.1f}" if std else "") for mean, std in values.values()], padding=3
        )
        axes.spines[["top", "right"]].set_visible(False)
    ours.set_xlim(-0.6, max(len(accuracies), 2) - 0.4)  # one bar alone would fill the chart
    ours.set(title=heading, ylim=(0, 100), ylabel="mean accuracy of the classes (%)")
    paper.set_title("the paper (Table 4), 15 a class")
    return figure
