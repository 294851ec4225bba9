"""What a unit of a lower layer passes on of an activation: what comes back to it, times what it answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import bad_value, check_list
from deconv.network import Network, as_map
from deconv.network.graph import is_activation
from deconv.network.operations import Add
from deconv.projection.dominators import dominators
from deconv.projection.rules import Rule
from deconv.projection.tapered import Maps
from deconv.projection.ways import carrying

ByLayer = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""Shares (N, units), positions (N, units, 2) and what goes around (N,) by the name of their layer."""


@dataclass(frozen=True, eq=False)
class Part:
    """Of N activations, the share of every unit of a node, and the position (row, col) where it gives most of it."""

    share: Float[Tensor, "N units"]
    position: Int[Tensor, "N units 2"]


def part_of(index: int, signal: Tensor, value: Tensor, score: Float[Tensor, " N"], maps: Maps, rule: Rule) -> Part:
    """Return the part that a node has in activations `score`, of the signals that come back to it and its values.

    signal, value: (N, *shape), on `maps`.  A share is for an activation of one that is sent back: it is divided by the
    score, of which the signal is a multiple, and zero where that is zero. What comes back by a rule that shares
    relevance out is a share already. Of equal positions the first in reading order is taken.
    """
    precision = torch.promote_types(signal.dtype, torch.float32)
    is_share = rule.linear != "transpose"
    product = signal.to(precision) if is_share else signal.to(precision) * value.to(precision)
    products = as_map(maps.zero_outside(index, product))
    total = products.sum(dim=(2, 3))
    towards = products * total.sign()[:, :, None, None]
    best, across = towards.flatten(2).argmax(dim=2), products.shape[3]
    first = maps.span(index).starts(maps.positions)[:, None]
    position = torch.stack([best // across, best % across], dim=2) + first
    score = score.to(precision)[:, None]
    share = total if is_share else torch.where(score != 0, total / score, 0)
    return Part(share, position.where((share != 0)[:, :, None], -1))


def layers_below(
    network: Network, layer: str, rules: Sequence[Rule], size: tuple[int, int] | None = None
) -> dict[str, int]:
    """Return the nodes of the layers below one, by their names in forward order; of one with an alias by that.

    A layer is below if every rule sends signals through it on the way back from `layer`.
    """
    graph = network.graph_at(size)
    names = {node: name for name, node in graph.layers.items()}
    names |= {network.node(alias, size): alias for alias in network.aliases}
    reached = _reached(network, layer, rules, size)
    return {names[node]: node for node in sorted(names) if node in reached}


def dominators_below(
    network: Network, layer: str, rules: Sequence[Rule], size: tuple[int, int] | None = None
) -> dict[str, int]:
    """Return the layers below one that no path leads around, and sums that none does, as `layers_below`.

    They are what a unit can be taken apart into with nothing left out (`deconv.projection.dominators`): of a residual
    block its output, not the layers within. A sum counts where paths meet in it and no activation follows that serves:
    most blocks end in one, but not those with an inverted bottleneck, nor those that begin with an activation.
    """
    graph, target = network.graph_at(size), network.node(layer, size)
    everywhere = set.intersection(*(dominators(graph, target, rule) for rule in rules))
    activated = {
        source
        for node in everywhere
        if is_activation(graph.nodes[node]) and node in {*graph.layers.values(), target}
        for source in graph.nodes[node].inputs
    }
    sums = {
        name: node
        for name, node in graph.values.items()
        if isinstance(graph.nodes[node].operation, Add)
        and len({*graph.nodes[node].inputs} & {*graph.ancestors([target])}) > 1
        and node not in activated
    }
    names = {node: name for name, node in (sums | graph.layers).items()}
    names |= {network.node(alias, size): alias for alias in network.aliases}
    return {names[node]: node for node in sorted(names) if node in everywhere - {target}}


def check_through(
    network: Network,
    layer: str,
    through: Sequence[str],
    rules: Sequence[Rule],
    size: tuple[int, int] | None = None,
    argument: str = "through",
    remedy: str = "",
) -> dict[str, int]:
    """Return the nodes of lower layers by their names. Raises UnknownName, and BadInput unless they are below.

    argument: what the caller calls `through`.  remedy: what it says to do in that error.
    """
    nodes = {name: network.node(name, size) for name in check_list(argument, through, "names of lower layers")}
    reached = _reached(network, layer, rules, size) if nodes else set()
    for name, node in nodes.items():
        if node not in reached:
            below = ", ".join(layers_below(network, layer, rules, size)) or "of which there are none"
            expected = f"layers that {rules[0].name!r} passes on its way back from {layer}, {below}"
            raise bad_value(argument, name, expected, remedy)
    return nodes


def _reached(network: Network, layer: str, rules: Sequence[Rule], size: tuple[int, int] | None) -> set[int]:
    graph, target = network.graph_at(size), network.node(layer, size)
    return set.intersection(*({*carrying(graph, target, rule)} for rule in rules)) - {target}


def empty_parts(network: Network, nodes: Mapping[str, int], count: int) -> ByLayer:
    """Return room for the parts of `count` activations."""
    units = {name: network.channels(name) for name in nodes}
    shares = {name: torch.zeros((count, units[name])) for name in nodes}
    positions = {name: torch.full((count, units[name], 2), -1) for name in nodes}
    return shares, positions, {name: torch.zeros(count) for name in nodes}


def fill_parts(
    parts: ByLayer, nodes: Mapping[str, int], chunk: Tensor, sent: Mapping[int, Part], sent_around: Mapping[int, Tensor]
) -> None:
    """Write the parts that some activations, by their numbers (n,), have where there is room for them."""
    shares, positions, around = parts
    for name, node in nodes.items():
        if node in sent_around:  # else no path leads around it
            around[name][chunk] = sent_around[node].float().cpu()
        if node in sent:  # else no signal came back
            shares[name][chunk] = sent[node].share.float().cpu()
            positions[name][chunk] = sent[node].position.cpu()
