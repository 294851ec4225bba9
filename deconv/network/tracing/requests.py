"""One recorded call as a request to lower it: what it is, where it stands in the user's module, what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.network.call import Layout
from deconv.network.graph import Node
from deconv.network.operations import (
    BatchSize,
    Call,
    ChoosingCall,
    LinearCall,
    Operation,
    PerImage,
    Reshape,
    Selection,
    copied,
)
from deconv.network.tracing.calls import Frame

Lowered = tuple[Operation, tuple[int, ...]] | int | list[Any]
"""An operation and its inputs for a new node; a position, or a list of pieces, where none is needed."""


@dataclass(frozen=True)
class Request:
    """One call to lower: its function, its arguments by name, and which of them are nodes of the graph.

    arguments: in the function's order, all of them; a `Slot` stands for a node.  inputs: those nodes' positions.
    shape, dtype: of its result, without the batch.  pick: which of several results it is.
    lays, gives: where the images lie in the inputs and in the result, as in `Call`.
    """

    function: Any
    name: str
    path: str
    arguments: dict[str, Any]
    inputs: tuple[int, ...]
    nodes: list[Node]
    dtypes: list[torch.dtype]
    shape: tuple[int, ...]
    dtype: torch.dtype
    pick: int | None = None
    lays: tuple[Layout | None, ...] = ()
    gives: Layout | None = None

    def input_shape(self, number: int = 0) -> tuple[int, ...]:
        return self.nodes[self.inputs[number]].shape

    def input_dtype(self, number: int = 0) -> torch.dtype:
        return self.dtypes[self.inputs[number]]

    @property
    def is_laid(self) -> bool:
        """Whether the images lie elsewhere than along the first axis of an input or of the result."""
        return self.gives is not None or any(self.lays)

    @property
    def where(self) -> str:
        return self.path or "the network"

    def refused(self, reason: str) -> UnsupportedOperation:
        """The error that says why this call cannot be carried."""
        return UnsupportedOperation(f"'{self.name}' in {self.where} {reason}")

    @property
    def is_aten(self) -> bool:
        """Whether this is a call of torch's own, and no autograd.Function of the user's."""
        schema = getattr(self.function, "_schema", None)
        return self.function is copied or (schema is not None and schema.name.startswith("aten::"))

    @property
    def constants(self) -> list[Tensor | BatchSize]:
        """All that its arguments hold of constants: tensors, one of each `PerImage`, and what counts images."""
        constants = [constant for value in self.arguments.values() for constant in _constants_in(value)]
        return [constant.value if isinstance(constant, PerImage) else constant for constant in constants]

    def as_selection(self) -> tuple[Operation, tuple[int, ...]]:
        """The call as one that chooses among what it reads."""
        call, inputs = self.as_call(linear=False, pointwise=False)
        return Selection(**vars(call)), inputs

    def as_call(self, *, linear: bool, pointwise: bool) -> tuple[Operation, tuple[int, ...]]:
        keyword_only = _keyword_only(self.function)
        keywords = {name: value for name, value in self.arguments.items() if name in keyword_only}
        arguments = tuple(value for name, value in self.arguments.items() if name not in keyword_only)
        types = [self.dtype, *(self.dtypes[source] for source in self.inputs)]
        chooses = any(not dtype.is_floating_point for dtype in types)
        kind = Call if not linear else ChoosingCall if chooses else LinearCall
        lays = self.lays if any(self.lays) else ()
        return kind(self.function, arguments, keywords, pointwise, self.pick, lays, self.gives), self.inputs


def named_arguments(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Any]:
    """Every argument by the name that the operation's schema has for it, in its order, defaults included."""
    schema = getattr(function, "_schema", None)
    if schema is None:  # an autograd.Function, or a view of memory
        return {str(number): value for number, value in enumerate(arguments)} | keywords
    given = dict(zip((a.name for a in schema.arguments), arguments, strict=False)) | keywords
    names = [a.name for a in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return {name: given.get(name, defaults.get(name)) for name in names}


def _keyword_only(function: Any) -> set[str]:
    schema = getattr(function, "_schema", None)
    return {a.name for a in schema.arguments if a.kwarg_only} if schema is not None else set()


def reshape_of(before: tuple[int, ...], after: tuple[int, ...]) -> Reshape:
    """The view of one shape as another; it keeps the last two axes where both shapes have them, and alike."""
    return Reshape(after, spatial=len(before) >= 3 and len(after) >= 3 and before[-2:] == after[-2:])


def map_values(value: Any, change: Any) -> Any:
    """`change` applied to all that is no list, tuple or dict."""
    if isinstance(value, list | tuple):
        return type(value)(map_values(item, change) for item in value)
    if isinstance(value, dict):
        return {name: map_values(item, change) for name, item in value.items()}
    return change(value)


def _constants_in(value: Any) -> list[Tensor | PerImage | BatchSize]:
    """All tensors of an argument that do not depend on the images' values."""
    if isinstance(value, list | tuple):
        return [constant for item in value for constant in _constants_in(item)]
    return [value] if isinstance(value, Tensor | PerImage | BatchSize) else []


def leaf_paths(module: nn.Module) -> frozenset[str]:
    """Modules of torchvision.ops (Conv2dNormActivation, say), which torchvision does not look into for names."""
    return frozenset(
        path
        for path, submodule in module.named_modules()
        if any(base.__module__.startswith("torchvision.ops.") for base in type(submodule).__mro__)
    )


def node_name(frames: tuple[Frame, ...], kind: str, readers: list[tuple[Frame, ...]], leaves: frozenset[str]) -> str:
    """What torchvision.models.feature_extraction calls a node, before numbering; a leaf's output bears its path."""
    for frame in frames:
        if frame.path in leaves and any(frame not in reader for reader in readers):
            return frame.path
    if not frames:
        return kind
    path = frames[-1].path
    if frames[-1].class_name.startswith("torch.nn."):
        return path
    return f"{path}.{kind}" if path else kind
