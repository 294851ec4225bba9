"""A new head for a trained network, how right it is, and the chart of Table 4."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from sklearn.metrics import balanced_accuracy_score
from torch import nn

import deconv
from deconv.analyses.transfer import PAPER, class_accuracy, with_new_head
from deconv.errors import BadInput
from deconv.figures.transfer import transfer_figure
from deconv.training.data import Labelled
from tests.drawn import axes_of


def test_a_new_head_changes_the_last_layer_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed = with_new_head(model, 7)
    kept, new = changed.state_dict()["0.weight"], changed.state_dict()["4.weight"]
    assert changed(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert torch.equal(kept, before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(new, with_new_head(model, 7).state_dict()["4.weight"])
    assert not torch.equal(new, with_new_head(model, 7, seed=1).state_dict()["4.weight"])


def test_a_convolution_can_be_the_head_and_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert with_new_head(model, 5)(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    with pytest.raises(BadInput, match="no linear or convolutional layer"):
        with_new_head(nn.Sequential(nn.ReLU()), 5)
    with pytest.raises(BadInput, match="a single layer"):
        with_new_head(nn.Linear(3, 2), 5)
    with pytest.raises(BadInput, match="classes: given 1"):
        with_new_head(model, 1)


def test_accuracy_counts_every_class_alike() -> None:
    images = torch.zeros(5, 4, 4, 3, dtype=torch.uint8)
    images[4] = 255
    preprocessing = deconv.Preprocessing((4, 4), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2, bias=False))
    model[2].weight.data = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])  # bright is class 0, dark class 1
    truth = torch.tensor([1, 1, 1, 0, 0])
    assert class_accuracy(model, Labelled(images, truth, preprocessing)) == pytest.approx((1 + 0.5) / 2)
    assert balanced_accuracy_score(truth, [1, 1, 1, 1, 0]) == pytest.approx(0.75)


def test_the_chart_has_a_bar_for_each_regime_and_for_each_of_the_papers() -> None:
    figure = transfer_figure({"frozen": [0.5, 0.7], "scratch": [0.25]}, "a network")
    ours, paper = axes_of(figure)
    assert [bar.get_height() for bar in ours.patches] == pytest.approx([60, 25])
    assert [bar.get_height() for bar in paper.patches] == [mean for mean, _ in PAPER.values()]
    assert [label.get_text() for label in ours.get_xticklabels()] == ["frozen", "scratch"]
    assert [text.get_text() for text in ours.texts] == ["60.0 ± 10.0", "25.0"]
    (whiskers,) = (lines.get_segments() for lines in ours.collections if isinstance(lines, LineCollection))
    assert np.allclose(np.diff(whiskers[0][:, 1]), 20) and np.allclose(np.diff(whiskers[1][:, 1]), 0)
    colours = {bar.get_facecolor() for bar in ours.patches}, {bar.get_facecolor() for bar in paper.patches}
    assert len(colours[0]) == len(colours[1]) == 1 and not colours[0] & colours[1]
