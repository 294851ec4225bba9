"""deconv/projection/dominators.py: against a search of all paths, and the steps that are taken down real designs."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from deconv.network import Network
from deconv.network.graph import Graph
from deconv.projection import dominators_below, layers_below
from deconv.projection.dominators import dominator_below, dominators
from deconv.projection.rules import Rule, as_rule
from deconv.projection.ways import carrying, sources_of


def leads_to_the_image_without(graph: Graph, target: int, rule: Rule, left_out: int) -> bool:
    pending, met = [target], {left_out}
    while pending:
        index = pending.pop()
        if index == 0:
            return True
        if index not in met:
            met.add(index)
            pending.extend(sources_of(graph, index, rule))
    return False


class Gated(nn.Module):
    """A residual block whose branch is multiplied by a gate, which is computed from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer, self.gate = (nn.Conv2d(n, 4, 1) for n in (3, 4, 4, 4))
        self.relu, self.inner_relu, self.gate_relu, self.out = nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        branch = self.inner_relu(self.inner(x))
        gate = torch.sigmoid(self.gate(self.gate_relu(branch.mean((2, 3), keepdim=True))))
        return self.out((self.outer(branch) + torch.ones(4, 1, 1)) * gate + x)


def network(arch: str) -> Network:
    module = torchvision.models.get_model(arch, weights=None).eval()
    return Network(module, (3, 32, 32))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet_beyond"])
def test_a_dominator_is_what_no_path_avoids(rule: str) -> None:
    for net in (Network(Gated().eval(), (3, 8, 8)), network("mobilenet_v3_small")):
        graph, way = net.graph, as_rule(rule)
        for target in (max(net.graph.layers.values()), net.node(net.layers[len(net.layers) // 2])):
            by_search = {
                index
                for index in carrying(graph, target, way) - {0, target}
                if not leads_to_the_image_without(graph, target, way, index)
            }
            assert dominators(graph, target, way) == by_search | {0, target}
            for index in carrying(graph, target, way) - {0}:
                below = dominator_below(graph, target, way, index)
                assert (below is None) == (index in by_search | {target})
                assert below is None or (below in by_search | {0} and below < index)


def test_a_gate_is_a_path_for_the_rules_that_send_signals_through_it() -> None:
    net = Network(Gated().eval(), (3, 8, 8))
    assert list(dominators_below(net, "out", [Rule(gate="constant", activation="rectify")])) == ["relu"]
    assert list(layers_below(net, "out", [as_rule("deconvnet_beyond")])) == ["relu", "inner_relu"]
    assert list(layers_below(net, "out", [as_rule("gradient")])) == ["relu", "inner_relu", "gate_relu"]


def test_the_dominators_of_residual_networks_are_the_outputs_of_blocks() -> None:
    rules = [as_rule("deconvnet"), as_rule("gradient")]
    resnet = network("resnet18")
    below = dominators_below(resnet, "layer3.0.relu_1", rules)
    assert list(below) == ["relu", *(f"layer{n}.{block}.relu_1" for n in (1, 2) for block in (0, 1))]
    assert {"layer2.0.relu", "layer1.1.relu"} <= layers_below(resnet, "layer3.0.relu_1", rules).keys()
    inverted = list(dominators_below(network("mobilenet_v2"), "features.4.conv.0", rules))
    assert inverted == ["features.0", "features.1.conv.0", "features.2.conv.0", "features.2.conv.1", "features.3.add"]
    joined = list(dominators_below(network("squeezenet1_1"), "features.4.cat", rules))
    assert joined == [
        "features.1",
        *(f"features.{name}" for name in ("3.squeeze_activation", "3.cat", "4.squeeze_activation")),
    ]
