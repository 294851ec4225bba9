"""Calls on tensors whose first axis does not count the images: windows and heads of attention, queries beside keys.

In the graph each value has its images along the first axis; the operation knows how its function takes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from deconv.network.call import Layout
from deconv.network.graph import cast_operation
from deconv.network.tracing.requests import Request

IMAGES = 3
"""Of the batch on which it is tried which numbers of a result are an image's."""
MOVING = frozenset(
    "view reshape _unsafe_view flatten unflatten view_as reshape_as permute transpose swapaxes movedim unsqueeze "
    "squeeze select slice narrow chunk split split_with_sizes unbind expand expand_as repeat roll flip".split()
)
LINEAR = MOVING | {"linear", "mean", "sum"}
"""Linear in the image if it is alone among the arguments."""
JOINING = frozenset("cat concat concatenate stack add sub".split())
"""Linear in all that it joins."""


def layout_of(request: Request, layouts: Sequence[Layout | None]) -> Layout | None:
    """Return which of some layouts the result of a call has: the one in which another first image changes its own part.

    What does not move numbers keeps the layout of its inputs, if that is among them.
    Raises UnsupportedOperation if it is none, since images mix.
    """
    kept = set(request.lays)
    if request.name not in MOVING and len(kept) == 1 and kept <= set(layouts):
        return kept.pop()
    call = request.as_call(linear=False, pointwise=False)[0]
    operation = replace(cast_operation(call, torch.float64, "cpu"), gives=None)
    generator = torch.Generator().manual_seed(0)
    images = [_numbers(request, number, generator) for number in range(len(request.inputs))]
    others = [torch.cat([x[:1].flip(tuple(range(1, x.dim()))) + 1, x[1:]]) for x in images]
    try:
        with torch.no_grad():
            differs = ~torch.isclose(operation.forward(*images), operation.forward(*others), 0, 0, equal_nan=True)
    except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
        raise request.refused("lays out the images of a batch in a way that cannot be followed") from None
    for layout in layouts:
        axis, inner = (0, 1) if layout is None else (layout.axis, layout.inner)
        changed = differs.movedim(axis, 0).reshape(differs.shape[axis], -1).any(1)
        if torch.equal(changed, torch.arange(len(changed)) // inner % IMAGES == 0):
            return layout
    raise request.refused("mixes the images of a batch; expected them to stay apart along one axis")


def _numbers(request: Request, number: int, generator: torch.Generator) -> Tensor:
    """(IMAGES, *shape) random numbers for an input; zeros where it is of whole numbers, which may be indices.

    Numbers that are only moved may be the same.
    """
    shape, dtype = (IMAGES, *request.input_shape(number)), request.input_dtype(number)
    if request.name in MOVING:
        return torch.zeros(shape, dtype=torch.float64)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64)
    return torch.zeros(shape, dtype=dtype)


def is_linear(request: Request) -> bool:
    """Return whether a call with images elsewhere is known to be linear."""
    floats = all(request.input_dtype(number).is_floating_point for number in range(len(request.inputs)))
    return floats and (request.name in JOINING or (request.name in LINEAR and len(request.inputs) == 1))


def laid_alike(request: Request) -> bool:
    """Return whether an elementwise call may run on images first as well: all it reads is laid out as its result."""
    ranks = {len(request.input_shape(number)) for number in range(len(request.inputs))}
    alike = all(layout == request.gives for layout in request.lays) and ranks == {len(request.shape)}
    return alike and all(isinstance(c, Tensor) and c.dim() == 0 for c in request.constants)
