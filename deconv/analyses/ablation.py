"""Networks with layers left out or resized, trained alike and ranked (paper, Tables 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.stats import kendalltau
from torch import nn

from deconv.errors import bad_value, check_count
from deconv.training import evaluate
from deconv.training.data import Labelled


@dataclass(frozen=True)
class ErrorRates:
    """Error rates as shares, 0 to 1: top-1 of the training images, top-1 and top-5 of the validation images."""

    train_top1: float
    val_top1: float
    val_top5: float


def error_rates(model: nn.Module, data: Labelled, validation: Labelled, most: int) -> ErrorRates:
    """The error rates of a trained classifier over whole input images.

    Of the training images it takes at most `most`, evenly spaced.

    Raises BadInput if `most` is below 1.
    """
    check_count("most", most)
    spaced = torch.linspace(0, len(data) - 1, min(most, len(data))).long()
    sample = Labelled(data.images[spaced], data.labels[spaced], data.preprocessing)
    train_top1 = evaluate(model, sample, bfloat16=False)[1]
    _, top1, top5 = evaluate(model, validation, bfloat16=False)
    return ErrorRates(1 - train_top1, 1 - top1, 1 - top5)


def parameters(model: nn.Module) -> int:
    """How many numbers a network has to learn."""
    return sum(parameter.numel() for parameter in model.parameters())


def rank_agreement(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Kendall's tau-b of two columns of errors, -1 to 1, 1 for the same order; None for fewer than two distinct values.

    Raises BadInput for columns of different lengths.
    """
    if len(ours) != len(theirs):
        raise bad_value("theirs", theirs, f"{len(ours)} errors, one for each of ours")
    if len(set(ours)) < 2 or len(set(theirs)) < 2:
        return None
    return float(kendalltau(ours, theirs).statistic)
