"""The class scores of a classification network, and the layer they are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deconv.errors import BadInput
from deconv.network import Network

WEIGHTED = ("conv2d", "linear")


def class_layer(network: Network) -> str:
    """The layer that holds the class scores: the network's output. Raises BadInput if that is none."""
    name = network.layers[-1]
    places, classes = network.map_size(name), network.channels(name)
    read_again = bool(network.graph.consumers[network.node(name)])
    if places != (1, 1) or classes < 2 or read_again:
        found = f"its last layer, {name}, has {classes} maps of {places[0]} x {places[1]}"
        raise BadInput(f"this network has no class outputs: {found}; expected two or more numbers for each image.")
    return name


def name_classes(network: Network, known: Sequence[str]) -> list[str]:
    """A name for each class of the network: the `known` ones if there are as many, else "class 0" and so on."""
    classes = network.channels(class_layer(network))
    return list(known) if len(known) == classes else [f"class {number}" for number in range(classes)]


def top_layer(network: Network, maps_only: bool = False) -> str:
    """The layer that the class scores are computed from: the last with weights after it, by its alias if it has one.

    maps_only: the last of those that has more than one place. Raises BadInput if there is none.
    """
    graph = network.graph
    order = graph.ancestors([network.node(class_layer(network))])
    head = max((position for position in order if graph.nodes[position].kind in WEIGHTED), default=0)
    names = [name for name, position in graph.layers.items() if position in order and position < head]
    names = [name for name in names if not maps_only or network.map_size(name) != (1, 1)]
    if not names:
        raise BadInput("this network has no such layer before its class scores; name one as layers=[...].")
    return alias_of(network, names[-1])


def alias_of(network: Network, layer: str) -> str:
    """The network's own name for a layer, or its short one if it has such."""
    return next((alias for alias, name in network.aliases.items() if name == layer), layer)


def probabilities(network: Network, scores: Tensor) -> Tensor:
    """(N, classes) float32 that sum to 1, of the class scores (N, classes, 1, 1) or (N, classes)."""
    flat = scores.flatten(1).float().cpu()
    given = network.graph.nodes[network.node(class_layer(network))].kind == "softmax"
    return flat if given else torch.softmax(flat, dim=1)
