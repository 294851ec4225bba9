"""zennit's composites as explanations; zennit is an extra."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import bad_value, needed
from deconv.explanations.functions import Explain
from deconv.explanations.modules import answers, lent
from deconv.network import Network


def from_zennit(composite: Any, **arguments: Any) -> Explain:
    """Return one of zennit's composites as an explanation: the relevance of the unit's activation.

    - composite: a class of zennit.composites, as EpsilonPlus, or a function that makes a composite.
    - arguments: what it takes, as canonizers=[SequentialMergeBatchNorm()].

    zennit works on modules: a layer must be the output of one (`lent`), and what is no module, as a sum or a function,
    goes back by its derivative; the rules lrp_epsilon and lrp_z_plus share these out too. Raises BadInput for what
    makes no composite, and without zennit; the explanation UnsupportedOperation where the layer is no module's.

    >>> import deconv, torch
    >>> from zennit.composites import EpsilonPlus
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> peak = torch.tensor([2]), torch.tensor([0]), torch.tensor([5])  # channel, row, col
    >>> from_zennit(EpsilonPlus)(network, torch.rand(1, 3, 8, 8), "1", *peak).shape
    torch.Size([1, 3, 8, 8])
    """
    with needed("from_zennit", "zennit", extra="zennit"):
        from zennit.core import Composite
    if not callable(composite) or not isinstance(composite(**arguments), Composite):
        raise bad_value(
            "composite", composite, "a composite's class, or what makes one", "take it from zennit.composites"
        )
    explanation = partial(zennit_relevance, composite=composite, **arguments)
    explanation.__name__ = getattr(composite, "__name__", "composite")  # type: ignore[attr-defined]
    return explanation


def zennit_relevance(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
    composite: Callable[..., Any],
    **arguments: Any,
) -> Float[Tensor, "N C H W"]:
    """Return the relevance that a composite gives the inputs of each peak; the explanation that `from_zennit` makes."""
    outputs: list[Tensor] = []
    points = inputs.detach().clone().requires_grad_()
    with lent(network, inputs, layer) as (module, submodule), composite(**arguments).context(module) as modified:
        handle = submodule.register_forward_hook(lambda _, __, output: outputs.append(output))  # after the composite's
        try:
            modified(points)
        finally:
            handle.remove()
        score = answers(outputs[0], channel, row, col)
        (relevance,) = torch.autograd.grad(score, points, score.detach())
    return relevance
