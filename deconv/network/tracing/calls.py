"""What a recording holds: calls, the values that they give, and where these lie in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """One call of one submodule: its path, the full name of its class, and a number of its own."""

    path: str
    class_name: str
    number: int


@dataclass(frozen=True)
class Ref:
    """Stands in a call's arguments for a recorded value."""

    number: int


@dataclass(frozen=True)
class Geometry:
    """Where a tensor's elements lie in its memory."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> Geometry:
        """Return a tensor's own."""
        return Geometry(tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))


@dataclass(frozen=True)
class Overwriting:
    """The function of a call that lays one value over another in the memory that both share.

    It takes (below, above) and gives `below` with the elements that `above` has too replaced by those.
    """

    below: Geometry
    above: Geometry
    __name__ = "copy"


@dataclass(eq=False)
class Called:
    """One recorded call: its function (an ATen overload, `Function.apply` of the user's, or Overwriting).

    arguments, keywords: as given, a Ref for each value that depends on the images.  outputs: the numbers of the values
    that it gave; None for what is no tensor.  several: whether it gave a list or tuple.  frames: the modules around it,
    outermost first.  carries: False where gradients were off.  autocast: the type that autocast computes in, if on.
    """

    function: Any
    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    outputs: tuple[int | None, ...]
    several: bool
    frames: tuple[Frame, ...]
    carries: bool
    autocast: torch.dtype | None

    @property
    def path(self) -> str:
        """The module that makes the call; "" for the network itself."""
        return self.frames[-1].path if self.frames else ""


@dataclass(eq=False)
class Recording:
    """All calls on one batch. `shapes`, `dtypes`: of each value, by number; 0 is the batch itself.

    stopped: why the module could not be followed to its end; None if it could.
    kept: (number, tensor) of what the module returned, or of all values that were still in use where it stopped.
    """

    images: Tensor
    calls: list[Called] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)
    stopped: BaseException | None = None
    kept: list[tuple[int, Tensor]] = field(default_factory=list)

    def new_value(self, shape: Sequence[int], dtype: torch.dtype) -> int:
        """Return the number of one more value."""
        self.shapes.append(tuple(shape))
        self.dtypes.append(dtype)
        return len(self.shapes) - 1


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts, and in the fields of what else a module may return."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_in(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [tensor for item in vars(value).values() for tensor in tensors_in(item)]
    return []


def refs_in(value: Any) -> list[Ref]:
    """All Refs in nested lists, tuples and dicts."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [ref for item in value for ref in refs_in(item)] if isinstance(value, list | tuple) else []


def makers_of(calls: Sequence[Called]) -> dict[int, Called]:
    """The call that gave each value, by the value's number."""
    return {number: call for call in calls for number in call.outputs if number is not None}


def overlap(first: Geometry, second: Geometry) -> bool:
    """Whether two tensors in one memory may share elements, judged by the ranges that they span."""
    (low, high), (other_low, other_high) = _range(first), _range(second)
    return low <= other_high and other_low <= high


def _range(geometry: Geometry) -> tuple[int, int]:
    reach = sum((size - 1) * step for size, step in zip(geometry.shape, geometry.stride, strict=True))
    return geometry.offset, geometry.offset + reach
