"""Functions of one value that are spelled as several elementwise operations: which value they read, what they give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.network.elementwise import ELEMENTWISE
from deconv.network.graph import Node, cast_operation
from deconv.network.operations import Add, Call, Detached, Operation, PerImage, Rectifier, run_steps

MOST_STEPS = 24
"""Operations of one function; a tanh approximation of a GELU has eight."""
MOST_POINTS = 2**20
"""Numbers on which a function of the user's own is tried."""
SAMPLE = (-30.0, *(n / 8 for n in range(-64, 65)), 30.0)
"""Numbers at which functions are compared."""
Steps = tuple[tuple[Any, tuple[int, ...]], ...]


def is_elementwise(node: Node) -> bool:
    """Return whether each element of a node's value depends on that element alone of each input, shapes broadcast."""
    if isinstance(node.operation, Rectifier | Add):
        return True
    return node.kind in ELEMENTWISE or (node.kind in ("max", "min") and len(node.inputs) == 2)


def source_of(nodes: Sequence[Node], index: int) -> int | None:
    """Return the nearest value that a node is a function of, element by element.

    None where no single value of its shape, or more than MOST_STEPS operations, would say what it is.
    """
    if not is_elementwise(nodes[index]):
        return None
    sources, steps = set(nodes[index].inputs), 0
    while len(sources) > 1:
        latest = max(sources)
        steps += 1
        if not is_elementwise(nodes[latest]) or steps > MOST_STEPS:
            return None
        sources = (sources - {latest}) | set(nodes[latest].inputs)
    source = next(iter(sources), None)
    return source if source is not None and nodes[source].shape == nodes[index].shape else None


def nodes_between(nodes: Sequence[Node], inputs: tuple[int, ...], source: int) -> list[int]:
    """Return the nodes from a source, itself left out, up to some inputs that are functions of it, in running order."""
    between: set[int] = set()
    pending = list(inputs)
    while pending:
        position = pending.pop()
        if position != source and position not in between:
            between.add(position)
            pending.extend(nodes[position].inputs)
    return sorted(between)


def steps_from(nodes: Sequence[Node], operation: Operation, inputs: tuple[int, ...], source: int) -> Steps:
    """Return the operations from a source up to one that reads `inputs`, that one included, for `run_steps`."""
    order = nodes_between(nodes, inputs, source)
    number = {source: 0} | {position: n for n, position in enumerate(order, 1)}
    steps = [(nodes[p].operation, nodes[p].inputs) for p in order]
    steps.append((operation, inputs))
    return tuple((_of_any_shape(step), tuple(number[i] for i in read)) for step, read in steps)


def values_at(steps: Steps, sample: Sequence[float]) -> Tensor | None:
    """Return what the steps give for some numbers, in float64; None if that may differ from channel to channel."""
    operations = tuple((cast_operation(operation, torch.float64, "cpu"), inputs) for operation, inputs in steps)
    numbers = torch.tensor(sample, dtype=torch.float64)
    try:
        result = run_steps(operations, numbers.view(-1, 1, 1, 1))
    except (RuntimeError, IndexError):  # it has constants of channels or places
        return None
    return result.flatten().double() if result.shape == (len(sample), 1, 1, 1) else None


def _of_any_shape(operation: Any) -> Any:
    """The operation with constants of one value (zeros_like(x)) as that number, so that any shape will do."""
    if isinstance(operation, Detached):
        return Detached(_of_any_shape(operation.operation))
    if not isinstance(operation, Call):
        return operation
    arguments = tuple(map(_as_number, operation.arguments))
    return replace(operation, arguments=arguments, keywords={k: _as_number(v) for k, v in operation.keywords.items()})


def _as_number(value: Any) -> Any:
    constant = value.value if isinstance(value, PerImage) else value
    if isinstance(constant, Tensor) and constant.numel() and not constant.is_meta:
        first = constant.flatten()[0]
        return first.clone() if bool((constant == first).all()) else value
    return value


def named(nodes: Sequence[Node], index: int, source: int) -> str | None:
    """Return torch's name for the activation that a node is of its source, told by its values; None if it is none."""
    node = nodes[index]
    values = values_at(steps_from(nodes, node.operation, node.inputs, source), SAMPLE)
    if values is None:
        return None
    numbers, lowest = torch.tensor(SAMPLE, dtype=torch.float64), float(values[0])
    activations = {
        "silu": F.silu(numbers),
        "gelu": F.gelu(numbers),
        "gelu_tanh": F.gelu(numbers, approximate="tanh"),
        "hardswish": F.hardswish(numbers),
        "mish": F.mish(numbers),
        "softplus": F.softplus(numbers),
        "selu": F.selu(numbers),
        "tanh": torch.tanh(numbers),
        "sigmoid": torch.sigmoid(numbers),
        "hardsigmoid": F.hardsigmoid(numbers),
        "elu": F.elu(numbers, -lowest),
        "leaky_relu": F.leaky_relu(numbers, lowest / SAMPLE[0]),
    }
    return next((name for name, known in activations.items() if torch.allclose(values, known, 1e-5, 1e-7)), None)


def is_own_function(node: Node, nodes: Sequence[Node]) -> bool:
    """Return whether a node is an autograd.Function of the user's that bends each number of one value by itself."""
    operation = node.operation
    own = isinstance(operation, Call) and not hasattr(operation.function, "_schema")
    if not own or len(node.inputs) != 1 or nodes[node.inputs[0]].shape != node.shape or prod(node.shape) > MOST_POINTS:
        return False
    generator = torch.Generator().manual_seed(0)
    points = torch.randn((1, *node.shape), generator=generator, dtype=torch.float64)
    line = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    alone = (-1, *(1 for _ in node.shape))
    in_double = cast_operation(operation, torch.float64, "cpu")
    try:
        with torch.no_grad():
            together, single, values = (in_double.forward(x) for x in (points, points.view(alone), line.view(alone)))
            by_itself = torch.allclose(together, single.view(together.shape))
    except (RuntimeError, TypeError, ValueError, IndexError):  # it does not take numbers alone
        return False
    steps = values.flatten().diff()
    return by_itself and not torch.allclose(steps, steps[:1])
