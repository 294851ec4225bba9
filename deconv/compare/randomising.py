"""Networks with some of their weights shuffled: a picture of what a network learned should not survive that.

Adebayo et al. 2018 (arXiv 1810.03292), section 4: cascading from the top down, and each layer alone. The weights of a
filter change places among themselves and biases stay, so that distributions are kept and most units still fire.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from zlib import crc32

import torch
from torch import nn

from deconv.errors import BadInput
from deconv.network import Network


def blocks(network: Network, layers: Sequence[str]) -> dict[str, list[str]]:
    """Return {layer: paths of the modules that it needs and no layer before it does}, layers in forward order.

    Raises UnknownName for a layer that is not there, BadInput for layers that are not in forward order.
    """
    positions = [network.node(layer) for layer in layers]
    if positions != sorted(set(positions)):
        raise BadInput(f"layers: given {', '.join(layers)}; expected each once, in forward order")
    new_paths: dict[str, list[str]] = {}
    seen: set[str] = set()
    for layer, position in zip(layers, positions, strict=True):
        paths = dict.fromkeys(network.graph.nodes[p].path for p in network.graph.ancestors([position]))
        new_paths[layer] = [path for path in paths if path not in seen]
        seen.update(paths)
    return new_paths


def shuffled(module: nn.Module, paths: Iterable[str], seed: int) -> nn.Module:
    """Return a copy of the module in which the weights of the modules at `paths` are shuffled, filter by filter.

    Modules inside those are left alone. The draw depends on the seed and the parameter's name alone, so that a cascade
    is the sum of its steps.
    """
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for path in paths:
            for name, weight in changed.get_submodule(path).named_parameters(recurse=False):
                if weight.dim() > 1:  # a filter; not a bias, nor the scales of a normalisation
                    weight.copy_(_shuffled(weight, f"{seed}/{path}.{name}"))
    return changed


def _shuffled(weight: torch.Tensor, key: str) -> torch.Tensor:
    """Return weights (units, ...) with each unit's in another order."""
    generator = torch.Generator().manual_seed(crc32(key.encode()))  # torch's generator reads 32 bits of a seed
    flat = weight.flatten(1)
    order = torch.rand(flat.shape, generator=generator).argsort(dim=1)
    return flat.gather(1, order.to(weight.device)).view(weight.shape)


def renewed(network: Network, module: nn.Module) -> Network:
    """Return a network of the same make as `network`, its directions among it, with the weights of `module`."""
    aliases = {alias: layer for alias, layer in network.aliases.items() if layer not in network.directions}
    fresh = Network(module, network.input_shape, aliases, network.preprocessing)
    for directions in network.directions.values():
        name, rectify = directions.name, directions.rectify
        fresh = fresh.with_units(directions.source, directions.weight, directions.bias, name=name, rectify=rectify)
    return fresh
