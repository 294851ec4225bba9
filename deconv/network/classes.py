"""The class scores of a classification network, and the layer they are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.errors import BadInput
from deconv.network import Network
from deconv.network.directions import BETWEEN

WEIGHTED = ("conv2d", "linear")


def class_layer(network: Network) -> str:
    """Return the layer that holds the class scores, the network's output. Raises BadInput if it holds no scores."""
    name = [layer for layer in network.layers if layer not in network.directions][-1]
    (height, width), classes = network.map_size(name), network.channels(name)
    nodes, readers = network.graph.nodes, network.graph.consumers[network.node(name)]
    read_again = any(not nodes[reader].name.startswith(f"{name}{BETWEEN}") for reader in readers)
    if (height, width) != (1, 1) or classes < 2 or read_again:
        raise BadInput(
            f"this network has no class outputs: its last layer, {name}, has {classes} maps of {height} x {width}; "
            "expected two or more numbers for each image"
        )
    return name


def name_classes(network: Network, known: Sequence[str]) -> list[str]:
    """Return a name for each class of the network: the `known` ones if there are as many, else "class 0" and so on."""
    classes = network.channels(class_layer(network))
    return list(known) if len(known) == classes else [f"class {number}" for number in range(classes)]


def top_layer(network: Network, maps_only: bool = False) -> str:
    """Return the layer that the class scores are computed from, by its alias if it has one.

    It is the last layer with weights after it.  maps_only: the last of these that has more than one position.
    Raises BadInput if there is none.
    """
    graph = network.graph
    order = graph.ancestors([network.node(class_layer(network))])
    classifier = max((index for index in order if graph.nodes[index].kind in WEIGHTED), default=0)
    names = [name for name, index in graph.layers.items() if index in order and index < classifier]
    names = [name for name in names if not maps_only or network.map_size(name) != (1, 1)]
    if not names:
        raise BadInput(
            f"this network has no such layer before its class scores; expected one of {', '.join(network.layers)}: "
            "name the layer"
        )
    return alias_of(network, names[-1])


def alias_of(network: Network, layer: str) -> str:
    """Return the alias of a layer, or the layer's own name if it has none."""
    return next((alias for alias, name in network.aliases.items() if name == layer), layer)


def probabilities(
    network: Network, scores: Float[Tensor, "N classes"] | Float[Tensor, "N classes 1 1"]
) -> Float[Tensor, "N classes"]:
    """Return the classes' probabilities, float32, from their scores; scores that are probabilities are kept."""
    flat = scores.flatten(1).float().cpu()
    are_probabilities = network.graph.nodes[network.node(class_layer(network))].kind == "softmax"
    return flat if are_probabilities else torch.softmax(flat, dim=1)
