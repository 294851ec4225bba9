"""The operations that a traced ConvNet is made of, each able to run forward; the spatial ones are in `spatial`.

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
    """max(x, 0), or with a ceiling (ReLU6) min(max(x, 0), ceiling). Its maps have any shape."""

    ceiling: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified map."""
        return torch.relu(x) if self.ceiling is None else x.clamp(0, self.ceiling)

    def forward_in_place(self, x: Tensor) -> Tensor:
        """Return x itself, rectified."""
        return torch.relu_(x) if self.ceiling is None else x.clamp_(0, self.ceiling)

    def passes(self, output: Tensor) -> Tensor:
        """Return where the derivative is 1, from the output: bool, of the output's shape."""
        return output > 0 if self.ceiling is None else (output > 0) & (output < self.ceiling)


@dataclass(frozen=True, eq=False)
class ChannelScale:
    """x * scale + shift for each channel: batch normalisation in eval mode. scale and shift are (C,)."""

    scale: Tensor
    shift: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled map; x is (N, C) or (N, C, ...)."""
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
        """Return the normalised map (N, C, H, W)."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)


@dataclass(frozen=True)
class Concatenate:
    """The inputs side by side along the channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        """Join maps (N, C_i, ...) to one of the sum of their channels."""
        return torch.cat(xs, dim=1)


@dataclass(frozen=True)
class Add:
    """The sum of two maps of one shape."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the sum, of the inputs' shape."""
        return a + b


@dataclass(frozen=True)
class Reshape:
    """A view; `shape` leaves out the batch. With `spatial`, the last two axes stay what they are at any size."""

    shape: tuple[int, ...]
    spatial: bool

    def forward(self, x: Tensor) -> Tensor:
        """Return x (N, ...) as (N, *shape)."""
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

    arguments, keywords: those of the call, with a `Slot` for each input and a `BatchSize` for the number of images.
    pointwise: whether each position of the last two axes depends on that position alone.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    pointwise: bool

    def forward(self, *xs: Tensor) -> Tensor:
        """Run the call on inputs, each (N, ...), and return its output (N, ...)."""

        def fill(value: Any) -> Any:
            if isinstance(value, Slot):
                return xs[value.number]
            if isinstance(value, BatchSize):
                return xs[0].shape[0]
            return type(value)(map(fill, value)) if isinstance(value, list | tuple) else value

        return self.function(*map(fill, self.arguments), **{name: fill(value) for name, value in self.keywords.items()})


class LinearCall(Call):
    """A call that is affine in its inputs, so that every rule sends it back by its transpose."""


Operation = Input | Spatial | Rectifier | ChannelScale | LocalResponseNorm | Concatenate | Add | Reshape | Call


def keeps_positions(operation: Operation) -> bool:
    """Return whether the operation is spatial or works position by position: receptive fields pass through it."""
    if isinstance(operation, Call):
        return operation.pointwise
    return operation.spatial if isinstance(operation, Reshape) else True


def windowable(operation: Operation) -> bool:
    """Return whether the operation gives the same on a window cut out of its map as on the map whole."""
    return keeps_positions(operation) and not (isinstance(operation, AveragePool) and not operation.uniform)
