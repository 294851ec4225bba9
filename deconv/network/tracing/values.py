"""Which recorded value each tensor holds, and what writing in place does to all that share the memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from deconv.network.operations import renumbered
from deconv.network.tracing.calls import Geometry, Overwriting, Ref, overlap

Emit = Callable[[Any, str, tuple[Any, ...], Tensor], int]
"""Records a call of a function, with its name and arguments, that gives a value like the tensor; its number."""


@dataclass(eq=False)
class Memory:
    """What is known of one piece of memory: the tensors that use it, and what was written to it, and when.

    before, held: of a constant that was written to, its elements before that, flat, and a tensor that keeps it.
    """

    users: list[Any] = field(default_factory=list)
    writes: list[tuple[int, Geometry, int, bool]] = field(default_factory=list)
    held: Tensor | None = None
    before: Tensor | None = None

    def is_used(self) -> bool:
        """Return whether any of its tensors is still there, so that the memory is still the same."""
        return self.held is not None or any(user() is not None for user in self.users)


class Values:
    """The tensors of a running module and the numbers of the values that they hold.

    A value is never written to: a tensor that is gets another one. What shares memory with it learns of that when it is
    next read.
    """

    def __init__(self, emit: Emit):
        self.emit = emit
        self.holders: Any = WeakTensorKeyDictionary()  # tensor -> (number of its value, time at which it was so)
        self.memories: dict[int, Memory] = {}
        self.time = 0

    def number(self, tensor: Tensor) -> int | None:
        """Return the number of the value that the tensor holds now; None if it does not depend on the images."""
        memory = self._memory(tensor)
        known = self.holders.get(tensor)
        if known is None:
            known = None if memory is None else self._of_unknown(tensor, memory)
        if known is None:
            return None
        value, since = known
        if memory is not None:
            for written, above, source, unseen in [write for write in memory.writes if write[0] > since]:
                laid = self._laid_over(value, tensor, source, above)
                if unseen and laid != value:
                    laid = self.emit(renumbered, "copy", (Ref(value), Ref(laid)), tensor)
                value, since = laid, written
            self.holders[tensor] = value, self.time
        return int(value)

    def hold(self, tensor: Tensor, number: int) -> None:
        """Note that the tensor holds a value."""
        self.holders[tensor] = number, self.time
        key = _key(tensor)
        if key is None:
            return
        memory = self.memories.get(key)
        if memory is None or not memory.is_used():
            memory = self.memories[key] = Memory()
        if len(memory.users) > 8:
            memory.users = [user for user in memory.users if user() is not None]
        memory.users.append(weakref.ref(tensor))

    def write(self, tensor: Tensor, number: int, before: Tensor | None = None, unseen: bool = False) -> None:
        """Note that a value was written into the tensor.

        before: the memory as it was, of one that was a constant.  unseen: whether autograd does not know of it, so that
        what else shares the memory keeps its derivative.
        """
        self.time += 1  # later than what was read to write it
        self.hold(tensor, number)
        key = _key(tensor)
        if key is not None:
            memory = self.memories[key]
            memory.writes.append((self.time, Geometry.of(tensor), number, unseen))
            if before is not None:
                memory.held, memory.before = tensor, before

    def alive(self) -> list[tuple[int, Tensor]]:
        """Return the numbers of all values that tensors still hold, with these."""
        numbers = [(self.number(tensor), tensor) for tensor in list(self.holders.keys())]
        return [(number, tensor) for number, tensor in numbers if number is not None]

    def _of_unknown(self, tensor: Tensor, memory: Memory) -> tuple[int, int] | None:
        """The value of a tensor that no call gave but that lies in known memory: `x.data`, or a buffer written to."""
        geometry = Geometry.of(tensor)
        for user in (reference() for reference in memory.users):
            if user is not None and user in self.holders and Geometry.of(user) == geometry:
                value = self.emit(torch.ops.aten.detach.default, "detach", (Ref(int(self.number(user) or 0)),), tensor)
                self.hold(tensor, value)
                return value, self.time
        if memory.before is None:
            return None
        before = memory.before.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).clone()
        value = self.emit(torch.ops.aten.clone.default, "clone", (before,), tensor)
        self.hold(tensor, value)
        return value, 0

    def _laid_over(self, value: int, tensor: Tensor, source: int, above: Geometry) -> int:
        below = Geometry.of(tensor)
        if below == above:
            return source
        if not overlap(below, above):
            return value
        return self.emit(Overwriting(below, above), "copy", (Ref(value), Ref(source)), tensor)

    def _memory(self, tensor: Tensor) -> Memory | None:
        key = _key(tensor)
        memory = self.memories.get(key) if key is not None else None
        if key is not None and memory is not None and not memory.is_used():
            del self.memories[key]
            return None
        return memory


def whole_memory(tensor: Tensor) -> Tensor:
    """Return a copy of all elements of the memory in which the tensor lies, flat."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0).clone()


def _key(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without a plain memory
        return None
