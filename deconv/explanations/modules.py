"""The user's own module, lent to tools that explain modules: captum and zennit know no traced graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.network import Network, as_map

TOLERANCE = 1e-3
"""How far what a module gives may be from the layer's maps, as a fraction of the largest of these."""


@contextmanager
def lent(network: Network, inputs: Float[Tensor, "N C H W"], layer: str) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Lend `network.module` and the module in it whose output is a layer, in eval mode, and nothing of it in place.

    The hooks of such tools do not go with what works in place. Afterwards all is as it was, but for what the borrower
    changed. Raises UnsupportedOperation, naming the layer, where it is the output of no module: of a function, a
    module that runs several times, directions, or one whose weights are others now than the network's.

    >>> import deconv, torch
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(inplace=True)), (3, 8, 8))
    >>> with lent(network, torch.rand(1, 3, 8, 8), "1") as (module, rectifier):
    ...     rectifier
    ReLU()
    """
    module, size = network.module, (inputs.shape[2], inputs.shape[3])
    path = network.graph_at(size).nodes[network.node(layer, size)].path
    before = [(each, each.training, getattr(each, "inplace", None)) for each in module.modules()]
    try:
        for each, _, in_place in before:
            each.training = False
            if in_place:
                each.inplace = False  # type: ignore[assignment]
        yield module, _checked(network, inputs, layer, path)
    finally:
        for each, training, in_place in before:
            each.training = training
            if in_place:
                each.inplace = in_place


def _checked(network: Network, inputs: Tensor, layer: str, path: str) -> nn.Module:
    """The module at a path, if what it gives for the inputs are the layer's maps."""
    outputs: list[Tensor] = []
    submodule = network.module.get_submodule(path)
    handle = submodule.register_forward_hook(lambda _, __, output: outputs.append(output))
    try:
        with torch.no_grad():
            network.module(inputs)
    finally:
        handle.remove()
    maps = network.forward(inputs, [layer])[layer].to(inputs)
    reason = ""
    if not path:
        reason = "the network itself computes it, by a function"
    elif len(outputs) != 1:
        reason = f"{path} runs {len(outputs)} times"
    elif not isinstance(outputs[0], Tensor) or outputs[0].dim() not in (2, 4):
        reason = f"{path} gives no map (N, C, H, W) and no vector (N, C)"
    elif as_map(outputs[0]).shape != maps.shape or not torch.allclose(
        as_map(outputs[0]), maps, atol=TOLERANCE * float(maps.abs().max()), rtol=0
    ):
        reason = f"{path} gives something else, or its weights have changed since"
    if reason:
        expected = "expected a layer that is the output of a module of its own, for captum and zennit know no others"
        raise UnsupportedOperation(f"{layer} is not one: {reason}; {expected}: use a rule, or another layer")
    return submodule


def answers(output: Tensor, channel: Tensor, row: Tensor, col: Tensor) -> Float[Tensor, " N"]:
    """Return the activations of units channel[n] at (row[n], col[n]) in what a module gives, (N, C, H, W) or (N, C)."""
    return as_map(output)[torch.arange(len(output), device=output.device), channel, row, col]
