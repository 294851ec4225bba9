"""Networks with layers left out or resized, trained alike and ranked (paper, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy.stats import kendalltau
from torch import nn

from deconv.errors import BadInput
from deconv.training import evaluate
from deconv.training.data import Labelled


@dataclass(frozen=True)
class Errors:
    """Errors as shares, 0 to 1: top-1 of the training images, top-1 and top-5 of the validation images."""

    train_top1: float
    val_top1: float
    val_top5: float


def errors(model: nn.Module, data: Labelled, validation: Labelled, most: int) -> Errors:
    """The errors of a trained classifier over whole input images; of the training images at most `most`, evenly spaced.

    Raises BadInput if `most` is below 1.
    """
    if most < 1:
        raise BadInput(f"train_sample={most}: expected 1 or more training images to tell the training error of")
    some = torch.linspace(0, len(data) - 1, min(most, len(data))).long()
    seen = Labelled(data.images[some], data.labels[some], data.preprocessing)
    train_top1 = evaluate(model, seen, bfloat16=False)[1]
    _, top1, top5 = evaluate(model, validation, bfloat16=False)
    return Errors(1 - train_top1, 1 - top1, 1 - top5)


def parameters(model: nn.Module) -> int:
    """How many numbers a network has to learn."""
    return sum(parameter.numel() for parameter in model.parameters())


def rank_agreement(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Kendall's tau-b of two columns of errors, -1 to 1, 1 for the same order; None for fewer than two distinct values.

    Raises BadInput for columns of different lengths.
    """
    if len(ours) != len(theirs):
        raise BadInput(f"{len(ours)} errors beside {len(theirs)}; expected one for each variant in both columns")
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return float(kendalltau(ours, theirs).statistic)


def table_figure(
    found: Mapping[str, Errors], paper: Mapping[str, Sequence[float] | None], titles: Mapping[str, str], heading: str
) -> Figure:
    """Our errors and the paper's beside each other, a row a variant in the order of `found`; `paper`: {name: (top-1,
    top-5)} in percent, None where the paper has no such variant."""
    figure = Figure(figsize=(11, 1.9 + 0.36 * len(found)), layout="constrained")
    ours, theirs = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(found))
    _dots(ours, rows, [each.val_top1 for each in found.values()], "o", "C0", "validation, top-1")
    _dots(ours, rows, [each.val_top5 for each in found.values()], "o", "C0", "validation, top-5", hollow=True)
    _dots(ours, rows, [each.train_top1 for each in found.values()], "|", "C1", "training images, top-1")
    known = [row for row, name in enumerate(found) if paper.get(name)]
    values = [paper[name] for name in found if paper.get(name)]
    _dots(theirs, known, [value[0] / 100 for value in values if value], "o", "0.3", "validation, top-1")
    _dots(theirs, known, [value[1] / 100 for value in values if value], "o", "0.3", "validation, top-5", hollow=True)
    ours.set_yticks(rows, [titles[name] for name in found])
    ours.set_ylim(len(found) - 0.5, -0.7)  # the numbers stand above their points
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
