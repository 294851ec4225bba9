"""Whether an operation that no table knows is affine, by numbers: f(ax + by) = a f(x) + b f(y) + (1 - a - b) f(0)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deconv.network.graph import cast_operation

if TYPE_CHECKING:
    from deconv.network.tracing.requests import Request

SCALES = (1e-3, 1.0, 1e4)
"""Of the numbers tried, so that what bends only near zero or far from it is met."""
A, B = 0.7, -1.9
TOLERANCE = 1e-9


def is_affine(operation: Any, request: Request) -> bool:
    """Whether the operation is affine in its inputs together, by seeded numbers in float64 on the CPU.

    One with inputs that are no floating-point numbers is not, nor is an autograd.Function, whose derivative is its own.
    """
    shapes = [request.input_shape(number) for number in range(len(request.inputs))]
    types = [request.input_dtype(number) for number in range(len(shapes))]
    if not request.is_aten or not all(d.is_floating_point or d.is_complex for d in [*types, request.dtype]):
        return False
    generator = torch.Generator().manual_seed(0)

    def numbers(scale: float) -> list[Tensor]:
        return [
            torch.randn((2, *shape), generator=generator, dtype=torch.complex128 if t.is_complex else torch.float64)
            * scale
            for shape, t in zip(shapes, types, strict=True)
        ]

    try:
        in_double = cast_operation(operation, torch.float64, "cpu")
        with torch.no_grad():
            zero = in_double.forward(*numbers(0.0))
            return all(_at_scale(in_double, zero, numbers(scale), numbers(scale)) for scale in SCALES)
    except (RuntimeError, ValueError, TypeError, NotImplementedError):  # what cannot be run alone is not known
        return False


def _at_scale(operation: Any, zero: Tensor, x: list[Tensor], y: list[Tensor]) -> bool:
    mixed = operation.forward(*(A * a + B * b for a, b in zip(x, y, strict=True)))
    expected = A * operation.forward(*x) + B * operation.forward(*y) + (1 - A - B) * zero
    if not bool(torch.isfinite(mixed).all()) or not bool(torch.isfinite(expected).all()):
        return False
    return bool((mixed - expected).abs().max() <= TOLERANCE * expected.abs().max()) if mixed.numel() else True
