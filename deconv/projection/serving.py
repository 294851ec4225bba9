"""Which layers rules can send back, where nobody named the layers: those that they cannot are left out, and told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deconv.network import Network
from deconv.projection.rules import RULES, Rule
from deconv.projection.ways import blocked_at


def served_layers(network: Network, layers: Iterable[str], rules: Iterable[Rule]) -> list[str]:
    """Return those of some layers that every rule can send back, for images of the network's input size.

    >>> import deconv, torch
    >>> smooth = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.SiLU())
    >>> network = deconv.Network(smooth, (3, 8, 8))
    >>> served_layers(network, network.layers, [Rule()])
    ['1']
    """
    graph, checked = network.graph, list(rules)
    return [layer for layer in layers if all(blocked_at(graph, network.node(layer), rule) is None for rule in checked)]


def said_of_unserved(network: Network, layers: Sequence[str], rules: Iterable[Rule]) -> str:
    """Return the line that says of layers which are left out why, and by which rules they come; "" without any.

    >>> import deconv, torch
    >>> smooth = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.SiLU())
    >>> network = deconv.Network(smooth, (3, 8, 8))
    >>> said_of_unserved(network, ["2"], [Rule()])
    "left out 2, to which 'deconvnet' has no way back; rules that have one: gradient, deconvnet_beyond, guided_beyond"
    """
    if not layers:
        return ""
    refusing = [rule.name for rule in rules if served_layers(network, layers, [rule]) != list(layers)]
    able = [name for name, rule in RULES.items() if served_layers(network, layers, [rule]) == list(layers)]
    have, verb = (" and ".join(map(repr, refusing)), "have" if len(refusing) > 1 else "has")
    return (
        f"left out {', '.join(layers)}, to which {have} {verb} no way back; rules that have one: "
        f"{', '.join(able) or 'none'}"
    )
