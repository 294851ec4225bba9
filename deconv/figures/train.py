"""A training's loss and accuracy by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from deconv.figures import save_figure
from deconv.training.metrics import Row


def save_curves(rows: Sequence[Row], folder: Path) -> Path:
    """Write `curves.png` and `curves.pdf` into a training's folder; returns the PNG's path."""
    return save_figure(curves_figure(rows), folder / "curves.png")


def curves_figure(rows: Sequence[Row]) -> Figure:
    """Loss on the left, accuracy on the right, each over the epochs so far: of the training crops and of validation."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    loss.plot(epochs, [row.train_loss for row in rows], ".-", color="C0", label="training crops")
    loss.plot(epochs, [row.val_loss for row in rows], ".-", color="C1", label="validation")
    loss.set(xlabel="epoch", ylabel="cross-entropy (nats)", title="loss")
    accuracy.plot(epochs, [row.train_top1 for row in rows], ".-", color="C0", label="training crops, top-1")
    accuracy.plot(epochs, [row.val_top1 for row in rows], ".-", color="C1", label="validation, top-1")
    accuracy.plot(epochs, [row.val_top5 for row in rows], ".--", color="C1", label="validation, top-5")
    accuracy.set(xlabel="epoch", title=f"accuracy: {rows[-1].val_top1:.1%} top-1, {rows[-1].val_top5:.1%} top-5")
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    accuracy.set_ylim(bottom=0)
    for axes in (loss, accuracy):
        axes.set_xlim(0, len(rows) + 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
