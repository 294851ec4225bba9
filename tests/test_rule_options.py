"""The options by which a rule goes beyond rectifiers, against autograd on modules whose own backward is replaced."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.network import Network
from deconv.projection import check_rules
from deconv.projection.rules import Rule
from tests import oracle
from tests.beyond_networks import FAMILIES, Holding, Spelled
from tests.oracle import project_by_autograd, relative_error
from tests.peaks import project_at, random_positions, strategies_of

ALL = {"activation": "rectify", "gate": "constant", "norm": "constant"}
OPTIONS: dict[str, dict[str, str]] = {
    "deconvnet": ALL,
    "guided": {"relu": "both", **ALL},
    "unrectified": {"relu": "none", **ALL},
    "derivatives": {"activation": "derivative", "gate": "derivative", "norm": "derivative"},
    "rectified with derivatives": {"relu": "both", "activation": "rectify", "gate": "derivative", "norm": "derivative"},
    "gradient with constants": {"relu": "forward", **ALL},
}
SIZE = (3, 24, 24)
IMAGES = torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def made(name: str) -> nn.Module:
    """A family's network in float64, of seeded weights; the statistics of batch normalisations are random too."""
    torch.manual_seed(len(name))
    module = FAMILIES[name]()
    for state in [*module.parameters(), *module.buffers()]:
        if state.is_floating_point() and state.dim() == 1:
            state.data.uniform_(0.3, 1)
    return module.double().eval()


def held(module: nn.Module, rule: Rule) -> nn.Module:
    """The module with what the rule holds constant detached, and its spelled activations passed as the rule says."""
    module = deepcopy(module)
    for path, inner in module.named_modules():
        statistic = type(inner).__name__ in ("SpelledNorm", "ResponseNorm", "RootMeanSquare", "UnitLength")
        if isinstance(inner, Holding) and (rule.norm if statistic else rule.gate) == "constant":
            inner.hold = oracle.Detach()
        if isinstance(inner, Spelled):
            choice = rule.gate if path.endswith("squash") else rule.activation
            derives = rule.relu == "forward" or choice == "derivative"
            inner.run = oracle.run_plainly if derives else oracle.run_passing(rule.relu)
    return module


def up_to(module: nn.Module, layer: str) -> Callable[[Tensor], Tensor]:
    """The output of a submodule as a function of the images."""

    def run(images: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        handle = module.get_submodule(layer).register_forward_hook(lambda *call: outputs.append(call[2]))
        try:
            module(images)
        finally:
            handle.remove()
        return outputs[0]

    return run


def mode_of(name: str, rule: Rule) -> oracle.BeyondMode:
    return oracle.BeyondMode(rule.relu, rule.activation, rule.norm, squashes=name == "tanh_net")


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_autograd(name: str, options: dict[str, Any]) -> None:
    module, rule = made(name), Rule(**options)
    network, replaced = Network(module, SIZE), held(module, rule)
    paths = {path for path, _ in module.named_modules()}
    layers = [layer for layer in network.layers if layer in paths]
    assert len(layers) >= 2
    if name == "cbam" and rule.gate == "derivative":
        with pytest.raises(
            UnsupportedOperation, match="no way back through 'max' in 3.body.2: .*gate=constant would carry"
        ):
            check_rules(network, layers[-1:], [rule])
        layers = layers[:1]
    for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
        maps = network.forward(IMAGES, [layer])[layer]
        peaks = random_positions(maps, 8)
        score, expected = project_by_autograd(up_to(replaced, layer), IMAGES, peaks, mode_of(name, rule))
        for strategy in strategies_of(network, layer, SIZE[1:]):
            recon = project_at(network, IMAGES, layer, peaks, rule=rule, strategy=strategy)
            torch.testing.assert_close(recon.score, score.float())
            assert expected.abs().sum() > 0
            assert relative_error(recon.paste(), expected).max() < 1e-5, (layer, strategy)
