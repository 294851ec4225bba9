"""Layer-wise relevance propagation (LRP): an activation is shared out among what added up to it, layer by layer.

A rule's `linear` says how. Where a signal is sent through transposed weights otherwise, each input gets of an output's
relevance R the share that its term had in the output z, so that relevance adds up to what it was:

- "epsilon" (Bach et al. 2015, doi 10.1371/journal.pone.0130140, eq. 58): x * w^T (R / (z + epsilon * sign(z)));
- "z_plus" (Montavon et al. 2017, arXiv 1512.02479): only positive terms take part, at convolutions and matrix products;
  where the input is negative too, as pixels are, these are x+ * w+ + x- * w- (alpha 1, beta 0 of Bach et al., eq. 60).
  A bias takes its share too, in "z_plus" where it is positive. Other operations have no weights: there it is "epsilon".

It wraps the cells of the table, so that it runs on windows and whole maps, and goes wherever its rule does: x times the
transpose of R / z is what a share is for whatever is affine in x. What only moves numbers about (reshaping,
concatenation, padding, the switches of a max-pool) moves relevance likewise, and `relu` is "none": a rectifier's output
passes its relevance on. A batch normalisation is folded into the convolution before it, as LRP demands, or else is an
affine operation of its own; a sum is shared out by its terms; a gate, held constant, leaves all to what it gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from deconv.network import operations as ops
from deconv.network.graph import Node
from deconv.network.spatial import Convolution, MaxPool, Pad
from deconv.projection.rules import Rule
from deconv.projection.table import LEFT_OUT, Backward, Memory, Shapes, forward_keeping_inputs

MOVING = ops.Rectifier | MaxPool | Pad | ops.Concatenate | ops.Reshape | ops.Cast | ops.Overwrite | ops.Detached
"""What sends relevance back as it does any signal."""
WEIGHTED = frozenset(
    "linear matmul mm bmm addmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
"""Calls that multiply their input by weights, of which "z_plus" takes the signs apart."""


def sharing(node: Node, cell: Backward, rule: Rule, carriers: Sequence[int] | None = None) -> Backward:
    """Return the cell that shares relevance out where `cell` sends a signal back; `cell` itself where that moves it.

    carriers: the inputs of the node that `cell` sends something to, the others being constants; None for all.
    """
    if rule.linear == "transpose" or isinstance(node.operation, MOVING) or cell is LEFT_OUT:
        return cell
    weighted = isinstance(node.operation, Convolution) or (
        isinstance(node.operation, ops.LinearCall) and node.kind in WEIGHTED
    )
    if rule.linear == "z_plus" and weighted:
        return Backward(forward_keeping_inputs, partial(_by_positive_terms, cell, rule.epsilon), remembers=True)
    return Backward(forward_keeping_inputs, partial(_by_terms, cell, rule.epsilon, carriers), remembers=True)


def share_out(relevance: Tensor, taps: Tensor, weight: Tensor, bias: Tensor | None, rule: Rule) -> Tensor:
    """Return the relevance (N,) of N outputs of a convolution, shared out among what each reads.

    taps, weight: (N, C, kh, kw), what an output reads and by what it is multiplied.  bias: (N,).
    """
    terms = taps * weight
    if rule.linear == "z_plus":
        terms, bias = terms.clamp(min=0), None if bias is None else bias.clamp(min=0)
    total = terms.sum(dim=(1, 2, 3))
    quotient = relevance / stabilised(total if bias is None else total + bias, rule.epsilon)
    return terms * quotient.view(-1, 1, 1, 1)


def stabilised(z: Tensor, epsilon: float) -> Tensor:
    """Return z moved away from zero by epsilon; zero itself becomes epsilon."""
    return z + torch.where(z < 0, -epsilon, epsilon).to(z.dtype)


def _by_terms(
    cell: Backward,
    epsilon: float,
    carriers: Sequence[int] | None,
    operation: Any,
    relevance: Tensor,
    inputs: Memory,
    shapes: Shapes,
) -> tuple[Tensor | None, ...]:
    quotient = relevance / stabilised(operation.forward(*inputs), epsilon)
    shares = cell.backward(operation, quotient, inputs if cell.remembers else (), shapes)
    carried = inputs if carriers is None else [inputs[carrier] for carrier in carriers]
    return tuple(None if share is None else x * share for x, share in zip(carried, shares, strict=True))


def _by_positive_terms(
    cell: Backward, epsilon: float, operation: Any, relevance: Tensor, inputs: Memory, shapes: Shapes
) -> tuple[Tensor, ...]:
    (x,) = inputs
    halves = [(x.clamp(min=0), _with_weights(operation, 0.0, None))]
    if bool((x < 0).any()):
        halves.append((x.clamp(max=0), _with_weights(operation, None, 0.0)))
    (positive, first), *negative = halves
    z = first.forward(positive)
    for half, second in negative:
        z += second.forward(half) - second.forward(torch.zeros_like(half[:1]))  # without what its bias would add
    quotient = relevance / stabilised(z, epsilon)
    shares = [half * cell.backward(each, quotient.clone(), (), shapes)[0] for half, each in halves]
    return (shares[0] if len(shares) == 1 else shares[0] + shares[1],)


def _with_weights(operation: Any, low: float | None, high: float | None) -> Any:
    """The same operation with its weights and its bias clamped."""

    def clamped(value: Any) -> Any:
        return value.clamp(low, high) if isinstance(value, Tensor) else value

    if isinstance(operation, Convolution):
        return replace(operation, weight=clamped(operation.weight), bias=clamped(operation.bias))
    keywords = {name: clamped(value) for name, value in operation.keywords.items()}
    return replace(operation, arguments=tuple(map(clamped, operation.arguments)), keywords=keywords)
