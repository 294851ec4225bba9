"""What writing in place does to other tensors in the same memory, as operations on values."""

from __future__ import annotations

import torch
from torch import Tensor

from deconv.network.operations import Operation, Overwrite
from deconv.network.tracing.calls import Geometry, Overwriting
from deconv.network.tracing.requests import Request, reshape_of


def lay_over(written: Overwriting, request: Request) -> tuple[Operation, tuple[int, ...]]:
    """The operation that gives `below` after `above` was written, and its inputs. Raises UnsupportedOperation."""
    below, above = written.below, written.above
    if not below.shape or below.shape[:1] != above.shape[:1] or below.stride[0] != above.stride[0]:
        raise request.refused("writes in place across the images of a batch; expected them to stay apart")
    base = min(below.offset, above.offset)
    lower, upper = _elements(below, base), _elements(above, base)
    if max(int(lower.max()), int(upper.max())) >= max(below.stride[0], 1) and below.shape[0] > 1:
        raise request.refused("writes in place to memory that images of a batch share; expected them to stay apart")
    order = upper.argsort(stable=True)
    at = torch.searchsorted(upper[order], lower).clamp_max(len(upper) - 1)
    covered = upper[order][at] == lower
    targets, sources = covered.nonzero().flatten(), order[at[covered]]
    shape = request.shape
    if not bool(covered.all()):
        return Overwrite(targets, sources, shape), request.inputs
    if len(sources) == len(upper) and torch.equal(sources, torch.arange(len(sources))):
        return reshape_of(request.input_shape(1), shape), request.inputs[1:]
    return Overwrite(targets, sources, shape), request.inputs[1:]


def _elements(geometry: Geometry, base: int) -> Tensor:
    """Where in memory each element of the first image lies, flat, counted from `base`."""
    places = torch.tensor(geometry.offset - base)
    for size, step in zip(geometry.shape[1:], geometry.stride[1:], strict=True):
        places = places.unsqueeze(-1) + torch.arange(size) * step
    return places.flatten()
