"""Two recordings of one module, of batches of different sizes, as one: what differs between them is the batch.

So the axis of the images is never guessed: a number that is 3 for three images and 2 for two counts images, and a
tensor whose first axis does not count them is no tensor of single images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconv.errors import UnsupportedOperation
from deconv.network.call import Layout
from deconv.network.operations import BatchSize, PerImage
from deconv.network.tracing.calls import Called, Recording, Ref


class Pairing:
    """What each call of the recording `many` is for any number of images, `few` being the same module on fewer."""

    def __init__(self, many: Recording, few: Recording):
        self.many, self.few = many, few
        self.sizes = len(many.images), len(few.images)

    def same_calls(self) -> int:
        """How many calls the two recordings have in common before they part."""
        pairs = zip(self.many.calls, self.few.calls, strict=False)
        differing = (n for n, (call, other) in enumerate(pairs) if not _is_same_call(call, other))
        return next(differing, min(len(self.many.calls), len(self.few.calls)))

    def arguments(self, call: Called, other: Called, where: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments with BatchSize and PerImage for what counts images. Raises UnsupportedOperation."""
        return self._joined(call.arguments, other.arguments, where), self._joined(call.keywords, other.keywords, where)

    def _joined(self, value: Any, other: Any, where: str) -> Any:
        if isinstance(value, list | tuple):
            if len(value) != len(other):
                raise UnsupportedOperation(f"{where} takes another number of arguments for each number of images")
            return type(value)(self._joined(a, b, where) for a, b in zip(value, other, strict=True))
        if isinstance(value, dict):
            return {name: self._joined(item, other[name], where) for name, item in value.items()}
        if isinstance(value, Tensor) and isinstance(other, Tensor):
            return self._constant(value, other, where)
        if isinstance(value, Ref) or _is_same_value(value, other):
            return value
        many, few = self.sizes
        whole = isinstance(value, int) and isinstance(other, int)
        if whole and value % many == 0 and other % few == 0 and value // many == other // few:
            return BatchSize(value // many)
        raise UnsupportedOperation(
            f"{where} computes with the number of images; expected each image's result to be its own"
        )

    def _constant(self, value: Tensor, other: Tensor, where: str) -> Tensor | PerImage:
        if value is other:
            return value
        many, few = self.sizes
        if value.shape == other.shape and _equal(value, other):
            return value
        if (
            value.shape[1:] == other.shape[1:]
            and (value.shape[0], other.shape[0]) == (many, few)
            and all(_equal(row, other[0]) for row in (*value, *other))
        ):
            return PerImage(value[:1].contiguous())
        raise UnsupportedOperation(
            f"{where} reads a tensor that differs from call to call or from image to image, whatever the images are; "
            "expected constants"
        )

    def layouts(self, number: int, where: str) -> list[Layout | None]:
        """Return where the images may lie in a value, judged by its shapes: [None] where the first axis counts them.

        Raises UnsupportedOperation where no axis, or more than one, counts them: they may mix.
        """
        shape, other = self.many.shapes[number], self.few.shapes[number]
        many, few = self.sizes
        squeezed = few == 1 and other == shape[1:]  # `.squeeze()` takes the batch of one too
        if shape[:1] == (many,) and (other == (few, *shape[1:]) or squeezed):
            return [None]
        pairs = list(zip(shape, other if len(other) == len(shape) else shape, strict=True))
        counting = [axis for axis, (size, fewer) in enumerate(pairs) if size != fewer]
        if len(counting) == 1 < len(shape):
            (axis,) = counting
            times, rest = divmod(pairs[axis][0], many)
            if not rest and pairs[axis][1] == times * few:
                return [Layout(axis, n, times // n) for n in range(1, times + 1) if times % n == 0]
        raise self.refusal(number, where)

    def refusal(self, number: int, where: str) -> UnsupportedOperation:
        """Return the error that says how a value lays out the images."""
        shape, other = self.many.shapes[number], self.few.shapes[number]
        pairs = zip(shape, other if len(other) == len(shape) else shape, strict=True)
        counted = ", ".join(_counted(size, fewer, self.sizes[0]) for size, fewer in pairs)
        return UnsupportedOperation(
            f"{where} makes ({counted}) of a batch of N images; expected them to stay apart along the first axis"
        )


def _counted(size: int, other: int, many: int) -> str:
    """A size as a multiple of the number N of images, if it changes with it."""
    if size == other or size % many:
        return str(size)
    return "N" if size == many else f"{size // many}N"


def _is_same_call(call: Called, other: Called) -> bool:
    return call.name == other.name and call.outputs == other.outputs and call.carries == other.carries


def _is_same_value(value: Any, other: Any) -> bool:
    if value is other or not isinstance(value, bool | int | float | complex | str):
        return True  # types, devices and objects of C++, which count no images
    return bool(value == other or value != value)


def _equal(value: Tensor, other: Tensor) -> bool:
    if value.is_meta or other.is_meta:
        return value.shape == other.shape
    return torch.equal(value, other) or bool(((value == other) | ((value != value) & (other != other))).all())
