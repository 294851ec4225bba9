"""Table 7: how well linear classifiers tell classes apart by the features of each layer, beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconv.analyses.layers import PAPER, Score

LABELS = {"svm": "linear SVM", "softmax": "softmax"}
COLOUR_OF = {"svm": "C0", "softmax": "C1"}


def layers_figure(
    layers: list[str], scores: Mapping[tuple[str, str], list[Score]], heading: str, chance: float
) -> Figure:
    """Draw accuracy by layer on the left, the paper's on the right, on one scale; whiskers are deviations over splits.

    scores: {(classifier, layer): a score for each split}. chance: the accuracy of guessing, 0 to 1.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(max(len(layers), 3), len(PAPER["svm"])))
    for name in LABELS:
        _draw_line(
            ours, name, layers, {layer: _percent(scores[name, layer]) for layer in layers if (name, layer) in scores}
        )
        _draw_line(paper, name, list(PAPER["svm"]), PAPER[name])
    ours.axhline(100 * chance, color="0.6", linestyle=":", label="chance")
    ours.set_title(heading, fontsize=10.5)
    ours.set(ylim=(0, 100), ylabel="mean accuracy of the classes (%)", xlabel="layer; bars: std over splits")
    paper.set_title("the paper's Table 7: Caltech-101, 30 a class", fontsize=10.5)
    paper.set_xlabel("layer")
    ours.legend(loc="lower right")
    return figure


def _percent(scores: Sequence[Score]) -> tuple[float, float]:
    """Mean and spread over the splits."""
    accuracies = [100 * score.accuracy for score in scores]
    return float(np.mean(accuracies)), float(np.std(accuracies))


def _draw_line(axes: Axes, name: str, layers: Sequence[str], values: Mapping[str, tuple[float, float]]) -> None:
    """One classifier's accuracies, each with its number: the SVM's above, the softmax's below."""
    at, means = [layers.index(layer) for layer in values], [mean for mean, _ in values.values()]
    above = name == "svm"
    style: dict[str, Any] = {"color": COLOUR_OF[name], "fmt": "o-" if above else "s--", "markersize": 5, "capsize": 3}
    axes.errorbar(at, means, [std for _, std in values.values()], label=LABELS[name], **style)
    for x, y in zip(at, means, strict=True):
        place: dict[str, Any] = {"xytext": (0, 9 if above else -17), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{y:.1f}", (x, y), fontsize=8.5, color=COLOUR_OF[name], **place)
    axes.set_xticks(range(len(layers)), layers)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
