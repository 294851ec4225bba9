"""The operations a traced ConvNet is made of, each able to run forward on a batch; the spatial ones are in `spatial`.

All tensors are (N, C, H, W) unless an operation says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.network.spatial import AveragePool, Spatial


@dataclass(frozen=True)
class Input:
    """The image itself."""


@dataclass(frozen=True)
class Rectifier:
    """max(x, 0), or with a ceiling (ReLU6) min(max(x, 0), ceiling)."""

    ceiling: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) if self.ceiling is None else x.clamp(0, self.ceiling)

    def forward_in_place(self, x: Tensor) -> Tensor:
        return torch.relu_(x) if self.ceiling is None else x.clamp_(0, self.ceiling)

    def passes(self, output: Tensor) -> Tensor:
        """Where the derivative is 1, from the output: bool, the output's shape."""
        return output > 0 if self.ceiling is None else (output > 0) & (output < self.ceiling)


@dataclass(frozen=True, eq=False)
class ChannelScale:
    """x * scale + shift for each channel: batch normalisation in eval mode. scale and shift are (C,)."""

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        axes = (1, -1) + (1,) * (x.dim() - 2)
        return torch.addcmul(self.shift.view(axes), x, self.scale.view(axes))


@dataclass(frozen=True)
class LocalResponseNorm:
    """x / (k + alpha * mean of squares over `size` neighbouring channels) ** beta (Krizhevsky et al. 2012)."""

    size: int
    alpha: float
    beta: float
    k: float

    def forward(self, x: Tensor) -> Tensor:
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)


@dataclass(frozen=True)
class Concatenate:
    """Inputs side by side along the channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, dim=1)


@dataclass(frozen=True)
class Add:
    """Sum of two maps of one shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


@dataclass(frozen=True)
class Reshape:
    """A view; `shape` leaves out the batch. With `spatial`, the last two axes stay what they are at any size."""

    shape: tuple[int, ...]
    spatial: bool

    def forward(self, x: Tensor) -> Tensor:
        shape = self.shape[:-2] + tuple(x.shape[-2:]) if self.spatial else self.shape
        return x.reshape(x.shape[0], *shape)


@dataclass(frozen=True)
class Slot:
    """Stands in the arguments of a `Call` for the input of that number."""

    number: int


@dataclass(frozen=True)
class BatchSize:
    """Stands in the arguments of a `Call` for the number of images."""


@dataclass(frozen=True, eq=False)
class Call:
    """Any other ATen operation, run as traced.

    linear: affine in its inputs, so that every rule sends it back by its transpose.
    pointwise: each place of the last two axes depends on that place alone.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    linear: bool
    pointwise: bool

    def forward(self, *xs: Tensor) -> Tensor:
        def fill(value: Any) -> Any:
            if isinstance(value, Slot):
                return xs[value.number]
            if isinstance(value, BatchSize):
                return xs[0].shape[0]
            return type(value)(map(fill, value)) if isinstance(value, list | tuple) else value

        return self.function(*map(fill, self.arguments), **{name: fill(value) for name, value in self.keywords.items()})


Operation = Input | Spatial | Rectifier | ChannelScale | LocalResponseNorm | Concatenate | Add | Reshape | Call


def keeps_places(operation: Operation) -> bool:
    """Whether the operation is spatial or works place by place, so that receptive fields pass through it."""
    if isinstance(operation, Call):
        return operation.pointwise
    return operation.spatial if isinstance(operation, Reshape) else True


def windowable(operation: Operation) -> bool:
    """Whether the operation gives the same on a window cut out of its map as on the map whole."""
    return keeps_places(operation) and not (isinstance(operation, AveragePool) and not operation.uniform)
