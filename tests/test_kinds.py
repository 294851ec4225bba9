"""What stands between two convolutions, by the rules: autograd of the module itself, or of one with a plain ReLU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deconv.errors import UnsupportedOperation
from deconv.network import Network, as_map
from deconv.projection import check_rules
from deconv.projection.rules import RULES
from tests.kinds import DERIVED, DETACHED, LINEAR, RECTIFIERS, SELECTING, Middle, between
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions, strategies_of

SHAPE = (3, 16, 16)
IMAGES = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2


def compare(module: nn.Module, rules: list[str], reference: nn.Module | None = None) -> Network:
    """The output, and projections from corners and elsewhere by every strategy, are those of autograd."""
    network = Network(module, SHAPE)
    layer = network.layers[-1]
    maps = as_map(module(IMAGES.clone()).detach())
    torch.testing.assert_close(network.forward(IMAGES, [layer])[layer], maps)
    peaks = random_positions(maps, 8)
    for rule in rules:
        oracle_rule = rule if reference is not None else "gradient"
        _, expected = project_by_autograd(reference or module, IMAGES, peaks, oracle_rule)
        for strategy in strategies_of(network, layer, SHAPE[1:]):
            recon = project_at(network, IMAGES, layer, peaks, rule=rule, strategy=strategy)
            assert relative_error(recon.paste(), expected).max() < 1e-5, (rule, strategy)
    return network


@pytest.mark.parametrize("middle", DETACHED.values(), ids=DETACHED)
def test_gradient_is_autograds_through_what_the_module_detaches(middle: Middle) -> None:
    compare(between(middle), ["gradient"])


@pytest.mark.parametrize("middle", DERIVED.values(), ids=DERIVED)
def test_gradient_is_autograds_where_an_operation_has_one(middle: Middle) -> None:
    compare(between(middle), ["gradient"])


@pytest.mark.parametrize("middle", LINEAR.values(), ids=LINEAR)
def test_what_is_linear_goes_back_by_its_transpose_by_every_rule(middle: Middle) -> None:
    """Without a rectifier, deconvnet and guided are the gradient."""
    compare(between(middle), list(RULES))


@pytest.mark.parametrize("middle", SELECTING.values(), ids=SELECTING)
def test_what_chooses_the_largest_goes_back_to_it_by_every_rule(middle: Middle) -> None:
    """As a max-pooling does."""
    compare(between(middle), list(RULES))


def test_what_chooses_the_largest_but_in_no_window_has_no_other_switches() -> None:
    network = Network(between(SELECTING["maxout"]), SHAPE)
    with pytest.raises(UnsupportedOperation, match="'max' in .*: it chooses .*, and switches='random' is for pooling"):
        check_rules(network, ["b"], [{"switches": "random"}])


@pytest.mark.parametrize("name", RECTIFIERS)
def test_rectifiers_by_other_names_are_rectifiers(name: str) -> None:
    reference = between(F.relu6 if "6" in name else F.relu)
    network = compare(between(RECTIFIERS[name]), ["deconvnet", "guided"], reference)
    assert len(network.layers) >= 2 and network.rectified(network.layers[-2])
    compare(between(RECTIFIERS[name]), ["gradient"])


@pytest.mark.parametrize(("name", "share"), [("maximum", 0.5), ("a mask", 0.0), ("threshold", 0.0)])
def test_gradient_of_a_rectifier_at_zero_is_that_of_its_spelling(name: str, share: float) -> None:
    """Where its input is zero, maximum passes half of the gradient, ReLU none."""
    module, black = between(RECTIFIERS[name]), torch.zeros_like(IMAGES)
    module.get_parameter("a.bias").data.zero_()
    peaks = random_positions(module(black).detach(), 8)
    _, expected = project_by_autograd(module, black, peaks, "gradient")
    assert (expected.abs().max() > 0) == (share > 0)
    recon = project_at(Network(module, SHAPE), black, "b", peaks, rule="gradient")
    assert relative_error(recon.paste(), expected).max() < 1e-5


@pytest.mark.parametrize("name", ["straight through", "a detached gate", "no_grad"])
def test_a_detached_path_carries_no_signal_by_any_rule(name: str) -> None:
    """What lies behind it (a rounding, a sigmoid) need not be supported."""
    module = between(DETACHED[name])
    network = Network(module, SHAPE)
    peaks = random_positions(module(IMAGES).detach(), 8)
    if name == "straight through":
        by_rule = [project_at(network, IMAGES, "b", peaks, rule=rule).pixels for rule in RULES]
        assert all(torch.allclose(pixels, by_rule[0]) for pixels in by_rule) and by_rule[0].any()
        return
    with pytest.raises(UnsupportedOperation, match="no way back through 'mul'"):  # the gate itself, not its sigmoid
        project_at(network, IMAGES, "b", peaks)


def test_a_checkpoint_by_a_function_has_the_derivative_of_what_it_runs() -> None:
    """autograd.grad itself refuses it."""
    modules = [between(lambda x: checkpoint(torch.sin, x, use_reentrant=True)), between(torch.sin)]
    peaks = random_positions(modules[1](IMAGES).detach(), 8)
    pixels = [project_at(Network(module, SHAPE), IMAGES, "b", peaks, rule="gradient").pixels for module in modules]
    torch.testing.assert_close(*pixels)


@pytest.mark.parametrize("name", ["a Function", "softmax", "topk", "abs"])
def test_what_is_neither_is_refused_by_name(name: str) -> None:
    module = between((DETACHED | DERIVED)[name])
    network = Network(module, SHAPE)
    with pytest.raises(UnsupportedOperation, match="'deconvnet' has no way back through '.+' in the network itself"):
        project_at(network, IMAGES, "b", torch.zeros((1, 4), dtype=torch.int64))


class Negated(nn.Module):
    """Not affine far from zero, or near it: the numeric test has to see both."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.low = low

    def forward(self, x: Tensor) -> Tensor:
        return F.hardshrink(x, self.low) if self.low < 1 else torch.nan_to_num(x).renorm(2, 1, self.low)


@pytest.mark.parametrize("low", [1e-4, 50.0])
def test_what_bends_far_from_one_is_not_taken_for_linear(low: float) -> None:
    module = between(Negated(low))
    with pytest.raises(UnsupportedOperation):
        network = Network(module, SHAPE)
        project_at(network, IMAGES, network.layers[-1], torch.zeros((1, 4), dtype=torch.int64))
