"""The errors of trained variants, and how two columns of them are compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deconv.analyses.ablation import ErrorRates, error_rates, parameters, rank_agreement
from deconv.errors import BadInput
from deconv.figures.ablation import ablation_figure
from tests.labelled import bright_and_dark


class Brightness(nn.Module):
    """Tells bright frames from dark ones without being trained; `swapped` is always wrong."""

    def __init__(self, swapped: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0] if swapped else [-1.0, 1.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))[:, None] * self.weight


def test_errors_of_a_network_that_knows_and_of_one_that_never_does() -> None:
    data, validation = bright_and_dark(40), bright_and_dark(20, seed=1)
    assert error_rates(Brightness(), data, validation, most=10) == ErrorRates(0.0, 0.0, 0.0)
    assert error_rates(Brightness(swapped=True), data, validation, most=10) == ErrorRates(1.0, 1.0, 0.0)
    with pytest.raises(BadInput, match="most: given 0; expected a whole number, 1 or more"):
        error_rates(Brightness(), data, validation, most=0)


def test_the_training_error_is_of_evenly_spaced_images() -> None:
    data, validation = bright_and_dark(100), bright_and_dark(20, seed=1)
    data.labels[50:] = 1 - data.labels[50:]  # the second half is labelled wrongly
    assert error_rates(Brightness(), data, validation, most=10).train_top1 == 0.5


def test_rank_agreement() -> None:
    paper = [40.5, 45.4, 40.0, 71.3]
    assert rank_agreement([0.5, 0.6, 0.4, 0.9], paper) == pytest.approx(1)
    assert rank_agreement([0.5, 0.4, 0.6, 0.1], paper) == pytest.approx(-1)
    assert rank_agreement([0.6, 0.5, 0.4, 0.9], paper) == pytest.approx(2 / 3)  # one pair of six the other way
    assert rank_agreement([0.5], [40.0]) is None
    assert rank_agreement([0.5, 0.5], [40.0, 41.0]) is None
    with pytest.raises(BadInput, match="expected 2 errors"):
        rank_agreement([0.5, 0.4], [40.0])


def test_parameters_are_counted() -> None:
    assert parameters(nn.Linear(3, 2)) == 8


def test_the_figure_has_a_row_for_each_variant() -> None:
    rates = {"a": ErrorRates(0.1, 0.4, 0.2), "b": ErrorRates(0.2, 0.5, 0.3)}
    figure = ablation_figure(rates, {"a": (40.5, 18.1), "b": None}, {"a": "first", "b": "second"}, "two variants")
    ours, theirs = figure.axes
    assert [label.get_text() for label in ours.get_yticklabels()] == ["first", "second"]
    top1, top5, train = (np.asarray(line.get_xdata()).tolist() for line in ours.lines)
    assert (top1, top5, train) == ([0.4, 0.5], [0.2, 0.3], [0.1, 0.2])
    assert [np.asarray(line.get_xdata()).item() for line in theirs.lines] == pytest.approx([0.405, 0.181])
    assert np.asarray(theirs.lines[0].get_ydata()).tolist() == [0]
