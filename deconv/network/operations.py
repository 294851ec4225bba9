"""The operations that a traced ConvNet is made of, each able to run forward; the spatial ones are in `spatial`.

All tensors are (N, C, H, W) unless an operation says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deconv.network.call import BatchSize as BatchSize
from deconv.network.call import Call as Call
from deconv.network.call import ChoosingCall as ChoosingCall
from deconv.network.call import LinearCall as LinearCall
from deconv.network.call import PerImage as PerImage
from deconv.network.call import Selection as Selection
from deconv.network.call import Slot as Slot
from deconv.network.elementwise import ELEMENTWISE
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
        return x * self._divisor(x).pow(-self.beta)

    def transposed(self, signal: Tensor, x: Tensor) -> Tensor:
        """Return a signal at the output times the derivative at x, both (N, C, H, W)."""
        divisor = self._divisor(x)
        scaled = signal * divisor.pow(-self.beta)
        through_divisors = _channel_sums(scaled * x / divisor, (self.size - 1) // 2, self.size // 2)
        return scaled - 2 * self.alpha * self.beta / self.size * x * through_divisors

    def _divisor(self, x: Tensor) -> Tensor:
        """What is raised to beta; F.local_response_norm pools in three dimensions for it, at five times the cost."""
        return _channel_sums(x.square(), self.size // 2, (self.size - 1) // 2) * (self.alpha / self.size) + self.k


def _channel_sums(x: Tensor, before: int, after: int) -> Tensor:
    """For each channel of (N, C, H, W) the sum of itself, as many before and as many after it."""
    total, channels = x.clone(), x.shape[1]
    for step in range(1, min(before, channels - 1) + 1):
        total[:, step:] += x[:, :-step]
    for step in range(1, min(after, channels - 1) + 1):
        total[:, :-step] += x[:, step:]
    return total


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


class _Renumbered(torch.autograd.Function):
    """Another value with the derivative of the old one."""

    @staticmethod
    def forward(ctx: Any, old: Tensor, new: Tensor) -> Tensor:
        return new.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def renumbered(old: Tensor, new: Tensor) -> Tensor:
    """What a tensor holds after numbers were written to it unseen by autograd: those, with the derivative it had."""
    result: Tensor = _Renumbered.apply(old, new)
    return result


def copied(below: Tensor, above: Tensor, non_blocking: bool = False) -> Tensor:
    """What `below.copy_(above)` leaves in `below`, as a new tensor that has a derivative."""
    return above.to(below.dtype).expand_as(below)


@dataclass(frozen=True)
class Cast:
    """Another floating-point type; `source` is the type that its input has."""

    dtype: torch.dtype
    source: torch.dtype

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.dtype)


@dataclass(frozen=True, eq=False)
class Overwrite:
    """One value laid over another that shares its memory: elements `targets` of `below` become `sources` of `above`.

    Both number the elements of one image, flat. Where all of `below` is covered, it is no input.
    """

    targets: Tensor
    sources: Tensor
    shape: tuple[int, ...]

    def forward(self, *xs: Tensor) -> Tensor:
        laid = xs[-1].flatten(1)[:, self.sources.to(xs[-1].device)]
        if len(xs) == 1:
            return laid.reshape(-1, *self.shape)
        below = xs[0].reshape(len(xs[0]), -1)
        return below.index_copy(1, self.targets.to(below.device), laid).reshape(-1, *self.shape)


@dataclass(frozen=True, eq=False)
class Detached:
    """An operation through which no derivative passes, so that no rule sends a signal through it either.

    What is computed with gradients off, `detach` itself, and what gives whole numbers or truth values.
    """

    operation: Any

    def forward(self, *xs: Tensor) -> Tensor:
        value: Tensor = self.operation.forward(*xs)
        return value.detach()


@dataclass(frozen=True, eq=False)
class SpelledRectifier(Rectifier):
    """A rectifier written as other operations, as x * (x > 0) or x.clip(min=0).

    steps: those operations in running order, each with its inputs: 0 is x, n the result of the n-th. Where x is zero or
    at the ceiling, their derivative may be another than a ReLU's.
    """

    steps: tuple[tuple[Any, tuple[int, ...]], ...] = ()

    def spelled(self, x: Tensor) -> Tensor:
        """The rectified map, computed as the user computes it, for autograd."""
        return run_steps(self.steps, x)


def run_steps(steps: tuple[tuple[Any, tuple[int, ...]], ...], x: Tensor) -> Tensor:
    """The result of the last of some operations, of which 0 names x and n the n-th's result as inputs."""
    values = [x]
    for operation, inputs in steps:
        values.append(operation.forward(*(values[number] for number in inputs)))
    return values[-1]


Operation = (
    Input
    | Spatial
    | Rectifier
    | ChannelScale
    | LocalResponseNorm
    | Concatenate
    | Add
    | Reshape
    | Call
    | Cast
    | Overwrite
    | Detached
)


def keeps_positions(operation: Operation) -> bool:
    """Return whether the operation is spatial or works position by position: receptive fields pass through it."""
    if isinstance(operation, Detached):
        return not isinstance(operation.operation, Spatial) and keeps_positions(operation.operation)
    if isinstance(operation, Call):
        return operation.pointwise
    if isinstance(operation, Reshape):
        return operation.spatial
    return not isinstance(operation, Overwrite)


def windowable(operation: Operation) -> bool:
    """Return whether the operation gives the same on a window cut out of its map as on the map whole."""
    return keeps_positions(operation) and not (isinstance(operation, AveragePool) and not operation.uniform)


def keeps_places(operation: Operation, kind: str) -> bool:
    """Return whether an operation from (H, W, C) to (H, W, D) works on the channels of each place alone."""
    if not isinstance(operation, Call):
        return isinstance(operation, Rectifier | Add | Cast)
    if operation.is_laid:
        return False
    if kind in ("layer_norm", "rms_norm"):
        return len(operation.arguments[1]) == 1
    return kind in ELEMENTWISE or kind in "linear slice narrow split split_with_sizes chunk cat concat glu".split()
