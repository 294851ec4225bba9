"""Two inputs, or two backward signals, beside each other at every layer: are answers alike, and do signals meet?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import bad_value
from deconv.network import Network, as_map
from deconv.network.receptive_field import cone
from deconv.projection.passes import backward, forward, with_switches
from deconv.projection.responses import window_boxes
from deconv.projection.rules import Rule, as_rule
from deconv.projection.strategies import chunk_size
from deconv.projection.tapered import places
from deconv.projection.windows import WholeMaps, Windows
from deconv.records import recut

IMAGE = "the image"
"""Stands before the layers where pixels themselves are compared."""


def layers_on_the_way(network: Network, layer: str, layers: Sequence[str]) -> list[str]:
    """Return those of some layers that the units of `layer` are computed from, and itself, in forward order.

    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3))
    >>> network = Network(module.extend([torch.nn.ReLU()]), (3, 8, 8))
    >>> layers_on_the_way(network, "1", ["1", "3"]), layers_on_the_way(network, "3", ["3", "1"])
    (['1'], ['1', '3'])
    """
    carrying = network.graph.carrying(network.node(layer))
    return sorted((name for name in layers if network.node(name) in carrying), key=network.node)


def answers_alike(
    network: Network,
    layer: str,
    layers: Sequence[str],
    positions: Int[Tensor, "N 2"],
    plain: Float[Tensor, "N C h w"],
    windows: Float[Tensor, "N C h w"],
    others: Sequence[Float[Tensor, "N C h w"]],
    channel: Int[Tensor, " N"] | None = None,
) -> list[dict[str, Float[Tensor, " N"]]]:
    """Return, for each of `others`, {layer: how alike it and the windows change what the network answers to `plain`}.

    That is the cosine, in [-1, 1], of the two changes of all activations that the unit at positions[n] = (row, col) of
    `layer` is computed from: its cone, or whole maps where it needs these. Where nothing changes it is nan. Before the
    layers stands IMAGE, the same of the pixels.

    - layers: as `layers_on_the_way` gives them.
    - plain, windows, others: what the units see, as the network's input; what lies outside the image is ignored.
    - channel: units, by which each change is weighted: it is multiplied by the derivative of unit channel[n] at the
      windows, so that what does not bear on the unit counts for nothing. None weighs all alike.

    The first layer without its rectifier is linear, so twice the change is the same direction, and the negative of it
    the opposite one:

    >>> _ = torch.manual_seed(0)
    >>> network = Network(torch.nn.Conv2d(3, 4, 3), (3, 8, 8))
    >>> window, plain, position = torch.randn(1, 3, 3, 3), torch.zeros(1, 3, 3, 3), torch.tensor([[2, 2]])
    >>> (layer,) = network.layers
    >>> twice, negative = answers_alike(network, layer, [layer], position, plain, window, [2 * window, -window])
    >>> {name: round(float(value), 4) for name, value in (twice | {"negative": negative[layer]}).items()}
    {'the image': 1.0, ...: 1.0, 'negative': -1.0}
    """
    alike = [_unknown(layers, len(windows)) for _ in others]
    for chunk in _chunks(network, layer, len(windows)):
        base, whole, *changed = (
            _answers(network, layer, layers, positions[chunk], inputs[chunk]) for inputs in (plain, windows, *others)
        )
        weight: Mapping[str, Tensor | float] = dict.fromkeys(whole, 1.0)
        if channel is not None:
            weight = _derivatives(network, layer, layers, positions[chunk], windows[chunk], channel[chunk])
        for of_other, answers in zip(alike, changed, strict=True):
            for name in of_other.keys() & weight.keys():
                first, second = (weight[name] * (each[name] - base[name]) for each in (whole, answers))
                of_other[name][chunk] = _cosine(first, second)
    return alike


def signals_alike(
    network: Network,
    layer: str,
    layers: Sequence[str],
    positions: Int[Tensor, "N 2"],
    windows: Float[Tensor, "N C h w"],
    pairs: Sequence[tuple[Float[Tensor, "N units"], Float[Tensor, "N units"]]],
    rule: Rule,
) -> list[dict[str, Float[Tensor, " N"]]]:
    """Return, for each of `pairs`, {layer: how alike two signals are that a rule sends back from one position}.

    That is their cosine, in [-1, 1], over all that comes back to the layer; nan where nothing does. At `layer` itself
    it is that of the two vectors that they begin with, which all units at positions[n] = (row, col) have; IMAGE is that
    of the pixels. Raises BadInput for a rule that takes its switches from another image.

    - layers: as `layers_on_the_way` gives them.
    - windows: what the units see, as the network's input.

    By the gradient of a linear layer they are the cosines of the filters themselves:

    >>> _ = torch.manual_seed(0)
    >>> convolution = torch.nn.Conv2d(3, 2, 3)
    >>> network = Network(convolution, (3, 8, 8))
    >>> (layer,), position, window = network.layers, torch.tensor([[2, 2]]), torch.randn(1, 3, 3, 3)
    >>> units = torch.eye(2)[:, None]  # one signal from each of the two units
    >>> (alike,) = signals_alike(network, layer, [layer], position, window, [(units[0], units[1])], Rule("forward"))
    >>> first, second = convolution.weight.detach().flatten(1)
    >>> bool((alike["the image"] - torch.cosine_similarity(first, second, dim=0)).abs() < 1e-6), alike[layer].item()
    (True, 0.0)
    """
    if rule.switches == "other":
        raise bad_value("rule", rule.name, "a rule with switches of its own image", "switches=recorded")
    alike = [_unknown(layers, len(windows)) for _ in pairs]
    for chunk in _chunks(network, layer, len(windows)):
        signals = Signals(network, layer, layers, positions[chunk], windows[chunk], rule)
        for of_pair, vectors in zip(alike, pairs, strict=True):
            first, second = (signals.sent(vector[chunk]) for vector in vectors)
            for name in of_pair.keys() & first.keys() & second.keys():
                of_pair[name][chunk] = _cosine(first[name], second[name])
    return alike


class Signals:
    """The way back from positions (n, 2) of a layer by one rule; the forward pass to windows is made once."""

    def __init__(
        self, network: Network, layer: str, layers: Sequence[str], positions: Tensor, windows: Tensor, rule: Rule
    ):
        self.graph, self.target, self.rule = network.graph, network.node(layer), rule
        self.names = {network.node(name): name for name in layers}
        inputs, self.maps = _on_maps(network, layer, windows, positions)
        with torch.no_grad():
            self.value, tape, _ = forward(self.graph, self.target, inputs, [rule], self.maps)
        self.tape = with_switches(tape, self.graph, rule, self.maps, None)

    def sent(self, vector: Float[Tensor, "n units"]) -> dict[str, Float[Tensor, "n values"]]:
        """Return what comes back of a vector at each position, all else zero: {layer, or IMAGE: signal}."""
        met: dict[str, Tensor] = {}

        def meet(index: int, signal: Tensor) -> None:
            if index in self.names:  # a copy, for the signal is written over
                met[self.names[index]] = self.maps.zero_outside(index, signal).flatten(1).clone()

        signal = torch.zeros_like(self.value)
        peak, row, col = places(self.maps, self.target)
        as_map(signal)[peak, :, row, col] = vector.to(signal)
        with torch.no_grad():
            pixels = backward(self.graph, self.target, signal, self.tape, self.rule, self.maps, meet)
        return {IMAGE: pixels.flatten(1), **met}


def _derivatives(
    network: Network, layer: str, layers: Sequence[str], positions: Tensor, windows: Tensor, channel: Tensor
) -> dict[str, Float[Tensor, "n values"]]:
    """The derivatives of units by what they are computed from, as `_answers` has it; there is none of their layer."""
    lower = [name for name in layers if network.node(name) != network.node(layer)]
    signals = Signals(network, layer, lower, positions, windows, as_rule("gradient"))
    return signals.sent(torch.nn.functional.one_hot(channel, network.channels(layer)).float())


def _unknown(layers: Sequence[str], count: int) -> dict[str, Float[Tensor, " N"]]:
    return {name: torch.full((count,), torch.nan) for name in (IMAGE, *layers)}


def _chunks(network: Network, layer: str, count: int) -> tuple[Tensor, ...]:
    cone_of_layer = cone(network.graph, network.node(layer))
    kind = "window" if cone_of_layer.windowable else "whole"
    return torch.arange(count).split(chunk_size(network.graph, cone_of_layer, kind))


def _on_maps(network: Network, layer: str, windows: Tensor, positions: Tensor) -> tuple[Tensor, WholeMaps | Windows]:
    """Inputs that may be written over, and the maps on which they are worked on: windows where the cone allows it."""
    graph, on_device = network.graph, positions.to(network.device)
    cone_of_layer = cone(graph, network.node(layer))
    if cone_of_layer.windowable:
        return network.check_images(windows).clone(), Windows(graph, cone_of_layer, on_device)
    images = recut(windows, *window_boxes(network, layer, positions, None))
    return network.check_images(images).clone(), WholeMaps(graph, on_device)


def _answers(
    network: Network, layer: str, layers: Sequence[str], positions: Tensor, windows: Tensor
) -> dict[str, Float[Tensor, "N values"]]:
    """What of each layer the units are computed from, zero outside its map; of their own, what all units answer."""
    inputs, maps = _on_maps(network, layer, windows, positions)
    target, nodes = network.node(layer), {name: network.node(name) for name in layers}
    answers = {IMAGE: maps.zero_outside(0, inputs).flatten(1).clone()}  # a copy, for inputs are written over
    with torch.no_grad():
        value, _, values = forward(network.graph, target, inputs, [], maps, set(nodes.values()) - {target})
    peak, row, col = places(maps, target)
    for name, node in nodes.items():
        of_node = as_map(value)[peak, :, row, col] if node == target else maps.zero_outside(node, values[node])
        answers[name] = of_node.flatten(1)
    return answers


def _cosine(first: Float[Tensor, "N values"], second: Float[Tensor, "N values"]) -> Float[Tensor, " N"]:
    first, second = (torch.nn.functional.normalize(each.double().cpu()) for each in (first, second))
    both = first.any(dim=1) & second.any(dim=1)
    return torch.where(both, (first * second).sum(dim=1), torch.nan).float()
