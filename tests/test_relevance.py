"""deconv/projection/relevance.py: relevance adds up; with rectifiers alone it is a known product; it is zennit's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Norm, Pass, ZPlus
from zennit.types import Activation, AvgPool, Linear

import deconv
from deconv.errors import BadInput, UnsupportedOperation
from deconv.network import Network
from deconv.projection import project
from deconv.projection.relevance import stabilised
from deconv.projection.rules import EPSILON, NAMED, Rule
from tests.oracle import relative_error
from tests.peaks import project_at, random_positions, strategies_of
from tests.random_networks import SAME_WARNS, SETTINGS, networks, randomised

STRATEGIES = ("whole", "shared", "window")
LRP = ("lrp_epsilon", "lrp_z_plus")


def test_two_layers_by_hand() -> None:
    """Inputs (1, 2) and hidden units 1 * 1 + 2 * 1 = 3, 1 * 2 - 2 * .5 = 1; the unit is 2 * 3 - 1 = 5 with bias 0.

    epsilon: the hidden units get 6 and -1, the inputs 6 * 1/3 - 1 * 2/1 = 0 and 6 * 2/3 - 1 * (-1)/1 = 5.
    z+: the first hidden unit gets all, the inputs 5 * 1/3 and 5 * 2/3.
    """
    last = nn.Conv2d(2, 1, 1)
    module = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.ReLU(), last, nn.ReLU()).double()
    bias = nn.Parameter(torch.zeros(1).double())
    last.bias = bias
    module[0].weight.data = torch.tensor([[1.0, 1], [2, -0.5]]).double().view(2, 2, 1, 1)
    last.weight.data = torch.tensor([[2.0, -1]]).double().view(1, 2, 1, 1)
    image = torch.tensor([1.0, 2]).double().view(1, 2, 1, 1)
    network = Network(module, (2, 1, 1))
    for rule, expected in (("lrp_epsilon", [0.0, 5.0]), ("lrp_z_plus", [5 / 3, 10 / 3])):
        recon = project(network, image, "3", [0], [0], [0], [0], rule)
        assert recon.score.item() == 5 and recon.rule == rule
        torch.testing.assert_close(recon.pixels.flatten(), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    # with a bias of 1 the activation is 6, of which the bias keeps 1 by epsilon, and 1/7 by z+
    bias.data.fill_(1)
    network = Network(module, (2, 1, 1))
    for rule, kept in (("lrp_epsilon", 5.0), ("lrp_z_plus", 6 * 6 / 7)):
        recon = project(network, image, "3", [0], [0], [0], [0], rule)
        torch.testing.assert_close(recon.pixels.sum().item(), kept, atol=1e-5, rtol=1e-5)
    # an epsilon of 1 divides by 7, by 4 and by 2: hidden units get 6 * 6/7 and 6 * -1/7
    recon = project(network, image, "3", [0], [0], [0], [0], {"relu": "none", "linear": "epsilon", "epsilon": 1.0})
    first, second = 36 / 7, -6 / 7
    expected = [first / 4 + 2 * second / 2, 2 * first / 4 - second / 2]
    torch.testing.assert_close(recon.pixels.flatten(), torch.tensor(expected))
    assert recon.rule == "relu=none,linear=epsilon,epsilon=1.0"


class Branches(nn.Module):
    """What LRP meets beside convolutions: a residual sum, a concatenation, pools, a normalisation, a mean."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 6, 3, 2, 1, bias=bias), nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.third, self.last = nn.Conv2d(12, 8, 3, bias=bias), nn.Conv2d(8, 5, 1, groups=1, bias=bias)
        self.norm, self.pool = nn.BatchNorm2d(6), nn.MaxPool2d(3, 1, 1)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        summed = (self.pool(x) + self.second(x)).relu()
        if self.bias:
            summed = nn.functional.local_response_norm(self.norm(summed), 3)
        x = self.third(torch.cat([summed, nn.functional.avg_pool2d(x, 3, 1, 1)], 1)).relu()
        return self.last(x).relu()


def branches(bias: bool) -> tuple[Network, Tensor]:
    torch.manual_seed(4)
    module = Branches(bias).double().eval()
    for values in (module.norm.running_mean, module.norm.running_var, module.norm.weight.data, module.norm.bias.data):
        assert values is not None
        values.uniform_(0.5, 2)
    images = torch.randn(3, 2, 21, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Network(module, (2, 21, 18)), images


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", LRP)
def test_pixels_add_up_to_the_activation_where_there_is_no_bias(rule: str, strategy: str) -> None:
    network, images = branches(bias=False)
    peaks = random_positions(network.forward(images, ["relu_3"])["relu_3"], 30)
    tiny = {**NAMED[rule].options(), "epsilon": 1e-12}
    recon = project_at(network, images, "relu_3", peaks, rule=tiny, strategy=strategy)
    assert (recon.score > 0).sum() > 5
    torch.testing.assert_close(recon.pixels.sum(dim=(1, 2, 3)), recon.score, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rule", LRP)
def test_the_parts_of_a_layer_are_its_units_relevance(rule: str, strategy: str) -> None:
    """Through `relu_1` goes less than all, through `relu_2`, the layer just below, all: its parts add up."""
    network, images = branches(bias=False)
    peaks = random_positions(network.forward(images, ["relu_3"])["relu_3"], 30)
    tiny: Any = {**NAMED[rule].options(), "epsilon": 1e-12}
    recon = project_at(network, images, "relu_3", peaks, rule=tiny, strategy=strategy, through=["relu_1", "relu_2"])
    torch.testing.assert_close(recon.parts["relu_2"].sum(dim=1), recon.score, rtol=1e-4, atol=1e-5)
    if rule == "lrp_z_plus":
        assert (recon.parts["relu_2"] >= 0).all()
    weight = network.module.last.weight[:, :, 0, 0].detach()  # type: ignore[union-attr, index]
    below = network.forward(images, ["relu_2"])["relu_2"][peaks[:, 0], :, peaks[:, 2], peaks[:, 3]]
    terms = weight[peaks[:, 1]] * below * (recon.score > 0)[:, None]
    if rule == "lrp_epsilon":
        torch.testing.assert_close(recon.parts["relu_2"], terms.float(), rtol=1e-4, atol=1e-5)
    assert recon.parts["relu_1"].any()


@pytest.mark.parametrize("rule", [*LRP, "lrp_epsilon by the derivative of what normalises"])
def test_the_strategies_agree_where_branches_meet(rule: str) -> None:
    network, images = branches(bias=True)
    peaks = random_positions(network.forward(images, ["relu_3"])["relu_3"], 20)
    options: Any = NAMED[rule] if rule in NAMED else Rule(relu="none", linear="epsilon", lrn="derivative")
    whole, *others = (project_at(network, images, "relu_3", peaks, rule=options, strategy=each) for each in STRATEGIES)
    assert whole.pixels.any()
    for other in others:
        assert relative_error(other.pixels, whole.pixels).max() < 1e-5


@pytest.mark.filterwarnings(SAME_WARNS)
@SETTINGS
@given(module=networks(), seed=st.integers(0, 2**16), size=st.tuples(st.integers(5, 40), st.integers(5, 40)))
def test_on_networks_of_rectifiers_epsilon_is_the_gradient_times_the_input(
    module: nn.Sequential, seed: int, size: tuple[int, int]
) -> None:
    """Ancona et al. 2018, arXiv 1711.06104, proposition 1: with epsilon to zero, biases or not.

    Of a local response normalisation that is by its derivative too.
    """
    trunk = randomised(module, seed).eval()
    images = torch.randn((3, 2, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    try:
        maps = trunk(images).detach()
    except RuntimeError:
        assume(False)  # the map became smaller than a kernel
    assume(bool((maps > 0).any()))
    network = Network(trunk, (2, *size))
    layer, peaks = network.layers[-1], random_positions(maps, 12, seed)
    gradient = project_at(network, images, layer, peaks, rule="gradient")  # of the activation, times it
    score = torch.where(gradient.score > 0, gradient.score, 1)[:, None, None, None]
    expected = gradient.paste() / score * images[peaks[:, 0]].float()
    for strategy in strategies_of(network, layer, size):
        tiny = {**NAMED["gradient"].options(), "linear": "epsilon", "epsilon": 1e-13}
        recon = project_at(network, images, layer, peaks, rule=tiny, strategy=strategy)
        assert relative_error(recon.paste(), expected).max() < 1e-4, strategy


def trunk() -> nn.Sequential:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 6, 5, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 3, groups=2)]
    layers += [nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 7), nn.ReLU(), nn.Linear(7, 4)]
    module = nn.Sequential(*layers).double().eval()
    norm = module[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize(("rule", "theirs"), [("lrp_epsilon", Epsilon), ("lrp_z_plus", ZPlus)])
@pytest.mark.parametrize("layer", ["5", "10"])
def test_relevance_is_zennits(rule: str, theirs: type, layer: str) -> None:
    module, images = trunk(), torch.randn(2, 3, 31, 33, dtype=torch.float64)
    network = Network(module, (3, 31, 33))
    peaks = random_positions(network.forward(images, [layer])[layer], 6)
    recon = project_at(network, images, layer, peaks, rule=rule)
    layer_map = [(Activation, Pass()), (AvgPool, Norm()), (Linear, theirs())]
    composite = LayerMapComposite(layer_map, canonizers=[SequentialMergeBatchNorm()])
    inputs = images[peaks[:, 0]].requires_grad_()
    with composite.context(module[: int(layer) + 1]) as modified:
        maps = modified(inputs)
        maps = maps[:, :, None, None] if maps.dim() == 2 else maps
        score = maps[torch.arange(len(inputs)), peaks[:, 1], peaks[:, 2], peaks[:, 3]]
        (expected,) = torch.autograd.grad(score, inputs, score.detach())
    assert recon.pixels.any()
    torch.testing.assert_close(recon.paste(), expected.float(), rtol=1e-4, atol=1e-6)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 6, 3, bias=False), nn.Conv2d(6, 4, 3, bias=False)
        self.squeeze = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(x))
        x = x * self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()
        return self.last(x).relu()


@pytest.mark.parametrize("rule", LRP)
def test_a_gate_leaves_all_to_what_it_gates_and_activations_pass(rule: str) -> None:
    torch.manual_seed(0)
    network, images = Network(Gated().double(), (2, 9, 9)), torch.randn(4, 2, 9, 9, dtype=torch.float64)
    peaks = random_positions(network.forward(images, ["relu"])["relu"], 12)
    with pytest.raises(UnsupportedOperation, match=f"'{rule}' has no way back through .* would carry it"):
        project_at(network, images, "relu", peaks, rule=rule)
    options = {**NAMED[rule].options(), "activation": "rectify", "gate": "constant", "epsilon": 1e-12}
    recon = project_at(network, images, "relu", peaks, rule=options)
    assert (recon.score > 0).any()
    torch.testing.assert_close(recon.pixels.sum(dim=(1, 2, 3)), recon.score, rtol=1e-4, atol=1e-5)


def test_relevance_shares_the_forward_pass_with_other_rules() -> None:
    network, images = branches(bias=True)
    image, channel, row, col = random_positions(network.forward(images, ["relu_3"])["relu_3"], 20).unbind(1)
    rules = ["deconvnet", "lrp_epsilon", "gradient", "lrp_z_plus", "guided"]
    requests = [(NAMED[rule], channel) for rule in rules]
    for strategy in STRATEGIES:
        together = deconv.projection.project_together(network, images, "relu_3", image, row, col, requests, strategy)
        for rule, recon in zip(rules, together, strict=True):
            alone = project(network, images, "relu_3", image, channel, row, col, rule=rule, strategy=strategy)
            assert torch.equal(recon.pixels, alone.pixels), (rule, strategy)


def test_what_is_divided_by_keeps_its_sign_and_its_distance_from_zero() -> None:
    z = torch.tensor([0.0, -0.0, 2.0, -2.0])
    torch.testing.assert_close(stabilised(z, 0.5), torch.tensor([0.5, 0.5, 2.5, -2.5]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"linear": "epsilon", "epsilon": 0.0}, "epsilon: given 0.0; expected a number above zero"),
        ({"linear": "epsilon", "epsilon": float("nan")}, "epsilon: given nan; expected a number above zero"),
        ({"epsilon": 0.1}, "epsilon: given 0.1; expected a rule that divides: choose linear=epsilon"),
        ({"linear": "z_plus", "bias": "subtract"}, "bias: given subtract; expected bias=none with linear=z_plus"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Rule(**options)
    assert Rule(relu="none", linear="epsilon", epsilon=EPSILON).name == "lrp_epsilon"
