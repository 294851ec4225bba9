"""deconv/explanations/captum.py, zennit.py: beside the rules that say the same, on one network; what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import (
    IntegratedGradients,
    NeuronDeconvolution,
    NeuronFeatureAblation,
    NeuronGradient,
    NeuronGradientShap,
    NeuronGuidedBackprop,
    NeuronIntegratedGradients,
)
from torch import Tensor, nn
from torchvision.models import resnet18
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Norm, Pass, ZPlus
from zennit.types import Activation, AvgPool, Linear

from deconv.errors import BadInput, UnsupportedOperation
from deconv.explanations import BUILT_IN, as_explanation, explain, from_captum, from_zennit
from deconv.network import Network
from tests.peaks import project_at, random_positions

SIZE = 31
PEAK = ([0], [0], [0], [0])


def module() -> nn.Sequential:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 6, 5, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 7)]
    made = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(7, 4))
    norm = made[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
    norm.running_mean.uniform_(-1, 1)
    return made


NETWORK = Network(module(), (3, SIZE, SIZE))
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def firing(layer: str) -> Tensor:
    """Peaks (N, 4) of units that fire."""
    maps = NETWORK.forward(IMAGES, [layer])[layer]
    peaks = random_positions(maps, 16)
    return peaks[maps[tuple(peaks.T)] > 0]


def asked(explanation: Any, layer: str, peaks: Tensor) -> Tensor:
    image, channel, row, col = peaks.T
    return explain(NETWORK, IMAGES, layer, image, channel, row, col, explanation).paste()


@pytest.mark.parametrize("layer", ["2", "5", "9", "10"])
@pytest.mark.parametrize(
    ("method", "rule"),
    [(NeuronGradient, "gradient"), (NeuronGuidedBackprop, "guided"), (NeuronDeconvolution, "deconvnet")],
)
def test_captums_methods_are_the_rules_of_the_same_name(method: type, rule: str, layer: str) -> None:
    peaks = firing(layer)
    recon = project_at(NETWORK, IMAGES, layer, peaks, rule=rule)  # of the activation, not of one
    expected = recon.paste() / recon.score[:, None, None, None]
    assert expected.any()
    torch.testing.assert_close(asked(from_captum(method), layer, peaks), expected, rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_ours() -> None:
    found = asked(from_captum(NeuronIntegratedGradients, n_steps=20), "5", firing("5"))
    torch.testing.assert_close(found, asked("integrated_gradients", "5", firing("5")), rtol=1e-3, atol=1e-5)


def test_what_is_drawn_is_the_same_whatever_is_beside_it() -> None:
    shap = from_captum(NeuronGradientShap, baselines=torch.zeros(2, 3, SIZE, SIZE), stdevs=0.5, n_samples=4)
    peaks, before, of_numpy = firing("5"), torch.random.get_rng_state(), np.random.get_state(legacy=False)
    together = asked(shap, "5", peaks)
    assert torch.equal(together[1:2], asked(shap, "5", peaks[1:2])) and together.any()
    assert torch.equal(before, torch.random.get_rng_state())
    assert str(of_numpy) == str(np.random.get_state(legacy=False))


def composite() -> LayerMapComposite:
    """What lrp_z_plus does, in zennit's words."""
    return LayerMapComposite(
        [(Activation, Pass()), (AvgPool, Norm()), (Linear, ZPlus())], canonizers=[SequentialMergeBatchNorm()]
    )


@pytest.mark.parametrize("layer", ["2", "5", "10"])
def test_zennits_composite_is_the_rule_that_says_the_same(layer: str) -> None:
    peaks = firing(layer)
    expected = project_at(NETWORK, IMAGES, layer, peaks, rule="lrp_z_plus").paste()
    assert expected.any()
    torch.testing.assert_close(asked(from_zennit(composite), layer, peaks), expected, rtol=1e-3, atol=1e-5)


def test_the_module_is_given_back_as_it_was() -> None:
    lent = NETWORK.module
    lent.train()
    state = {name: value.clone() for name, value in lent.state_dict().items()}
    asked(from_zennit(composite), "5", firing("5"))
    asked(from_captum(NeuronGuidedBackprop), "5", firing("5"))
    assert all(each.training and getattr(each, "inplace", True) for each in lent.modules())
    assert all(torch.equal(state[name], value) for name, value in lent.state_dict().items())
    assert not any(each._forward_hooks or each._forward_pre_hooks or each._backward_hooks for each in lent.modules())


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv(x).relu() - 0.1)


@pytest.mark.parametrize("made", [from_captum(NeuronGradient), from_zennit(EpsilonPlus)], ids=["captum", "zennit"])
def test_a_layer_that_is_no_modules_output_is_refused(made: Any) -> None:
    network, inputs = Network(Functional(), (3, 9, 9)), torch.randn(1, 3, 9, 9)
    with pytest.raises(UnsupportedOperation, match="relu is not one: the network itself computes it, by a function"):
        explain(network, inputs, "relu", *PEAK, explanation=made)
    twice = Network(resnet18().eval(), (3, 32, 32))
    with pytest.raises(UnsupportedOperation, match=r"layer1.0.relu is not one: layer1.0.relu runs 2 times; expected"):
        explain(twice, torch.randn(1, 3, 32, 32), "layer1.0.relu", *PEAK, explanation=made)
    changed = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 9, 9))
    changed.module[0].weight.data.mul_(2)  # type: ignore[index]
    with pytest.raises(UnsupportedOperation, match="1 is not one: 1 gives something else, or its weights have changed"):
        explain(changed, inputs, "1", *PEAK, explanation=made)
    wide = NETWORK.with_units("5", 2 * torch.eye(8), name="twice")
    with pytest.raises(UnsupportedOperation, match="5@twice is not one"):
        explain(wide, IMAGES, "5@twice", *PEAK, explanation=made)


def test_a_rectifier_that_captum_would_pass_by_is_refused() -> None:
    network, inputs = Network(Functional(), (3, 9, 9)), torch.randn(1, 3, 9, 9)
    message = "NeuronGuidedBackprop would pass relu by its derivative, since it is no nn.ReLU; take a rule"
    with pytest.raises(UnsupportedOperation, match=message):
        explain(network, inputs, "relu_1", *PEAK, explanation=from_captum(NeuronGuidedBackprop))


def test_what_is_no_method_is_refused_and_what_is_one_is_recorded() -> None:
    for wrong in (IntegratedGradients, nn.Conv2d):
        with pytest.raises(BadInput, match=r"method: given .*; expected one of captum's neuron methods"):
            from_captum(wrong)
    for wrong in (nn.Identity, composite()):
        with pytest.raises(BadInput, match="composite: given .*; expected a composite's class, or what makes one"):
            from_zennit(wrong)
    canonizer = from_zennit(EpsilonPlus, canonizers=[SequentialMergeBatchNorm()])
    ablation = from_captum(NeuronFeatureAblation, perturbations_per_eval=4)
    for made, name, arguments in (
        (canonizer, "EpsilonPlus", {"composite": "zennit.composites:EpsilonPlus"}),
        (ablation, "NeuronFeatureAblation", {"seed": "0", "perturbations_per_eval": "4"}),
    ):
        explanation = as_explanation(made)
        options = explanation.options()
        assert explanation.name == name and arguments.items() <= options["arguments"].items()
        assert "0x" not in str(options) and pickle.loads(pickle.dumps(explanation)).options() == options
    assert not {"from_captum", "from_zennit"} & set(BUILT_IN)
