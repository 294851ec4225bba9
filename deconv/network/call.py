"""Any other ATen operation of a traced network, run as it was recorded: its arguments, and where the images lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the images lie in a tensor whose first axis does not count them, as attention lays out its values.

    axis: the one that counts outer * N * inner for N images: (3, N, ...) is of axis 1, windows (64 N, ...) of inner 64.
    """

    axis: int
    outer: int = 1
    inner: int = 1

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a tensor's shape for each image: without the images, the first axis of `images_first`."""
        times = (self.outer * self.inner,) if self.outer * self.inner > 1 else ()
        return (*shape[: self.axis], *times, *shape[self.axis + 1 :])

    def images_first(self, x: Tensor, count: int) -> Tensor:
        """Return a tensor of `count` images laid out so with its images along the first axis: (N, *shape)."""
        shape = self.shape(tuple(x.shape))
        apart = x.unflatten(self.axis, (self.outer, count, self.inner))
        return apart.movedim(self.axis + 1, 0).reshape(count, *shape)

    def lay_out(self, x: Tensor) -> Tensor:
        """Return (N, *shape) laid out so again."""
        alone = self.outer * self.inner == 1
        apart = x.unsqueeze(self.axis + 1) if alone else x
        apart = apart.unflatten(self.axis + 1, (self.outer, self.inner)).movedim(0, self.axis + 1)
        return apart.flatten(self.axis, self.axis + 2)


@dataclass(frozen=True)
class Slot:
    """Stands in the arguments of a `Call` for the input of that number."""

    number: int


@dataclass(frozen=True)
class BatchSize:
    """Stands in the arguments of a `Call` for the number of images, or a multiple of it."""

    times: int = 1


@dataclass(frozen=True, eq=False)
class PerImage:
    """Stands in the arguments of a `Call` for a constant (1, ...) that is repeated for each image."""

    value: Tensor


@dataclass(frozen=True, eq=False)
class Call:
    """Any other ATen operation or autograd.Function, run as traced.

    arguments, keywords: those of the call, with a `Slot` for each input, a `BatchSize` for what counts images and a
        `PerImage` for what is repeated for each.
    pointwise: whether each position of the last two axes depends on that position alone.
    pick: which of several tensors that the function gives is this operation's value; None where it gives one.
    lays: how the function takes each input, where that is not images first; () where all are.
    gives: how the function's value is laid out; None where images come first.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    pointwise: bool
    pick: int | None = None
    lays: tuple[Layout | None, ...] = ()
    gives: Layout | None = None

    @property
    def is_laid(self) -> bool:
        """Whether the images lie elsewhere than along the first axis of an input or of the value."""
        return bool(self.lays) or self.gives is not None

    def forward(self, *xs: Tensor) -> Tensor:
        """Return the value (N, *shape) for inputs (N, *shape), whatever the function's own layouts are."""
        result = self._call(len(xs[0]), *(self.laid_out(x, n) for n, x in enumerate(xs)))
        return result if self.gives is None else self.gives.images_first(result, len(xs[0]))

    def laid_out(self, x: Tensor, number: int = 0) -> Tensor:
        """Return the input of that number as the function takes it."""
        layout = self.lays[number] if self.lays else None
        return x if layout is None else layout.lay_out(x)

    def _call(self, count: int, *xs: Tensor) -> Tensor:
        def fill(value: Any) -> Any:
            if isinstance(value, Slot):
                return xs[value.number]
            if isinstance(value, BatchSize):
                return count * value.times
            if isinstance(value, PerImage):
                return value.value.expand(count, *value.value.shape[1:])
            return type(value)(map(fill, value)) if isinstance(value, list | tuple) else value

        keywords = {name: fill(value) for name, value in self.keywords.items()}
        try:
            result = self.function(*map(fill, self.arguments), **keywords)
        except RuntimeError as error:
            if "view" not in str(error) or all(x.is_contiguous() for x in xs):
                raise
            return self._call(count, *(x.contiguous() for x in xs))  # maps are kept channels last, the user's were not
        picked: Tensor = result if self.pick is None else result[self.pick]
        return picked


class LinearCall(Call):
    """A call that is affine in its inputs of floating point, so that every rule sends it back by its transpose."""


class ChoosingCall(LinearCall):
    """A linear call that reads whole numbers (or complex ones) too, so that the way back needs its inputs."""


class Selection(Call):
    """A call that chooses among what it reads, as the largest along an axis; a signal goes back to what was chosen.

    It is what a max-pooling does, but of no window in which other switches could be drawn.
    """
