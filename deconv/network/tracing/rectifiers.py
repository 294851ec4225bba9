"""Rectifiers by other names: x * (x > 0), x.clip(min=0), torch.where(x > 0, x, 0), x.masked_fill(x < 0, 0) and so on.

They are known by what they give, not by how they are written: a few elementwise operations that all read one value, and
together give its positive part.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deconv.network.graph import Node, cast_operation
from deconv.network.operations import Call, Detached, Operation, PerImage, SpelledRectifier, run_steps

MOST_STEPS = 8
SAMPLE = (-900.0, -7.0, -2.5, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 3.0, 5.5, 7.0, 900.0)
Steps = tuple[tuple[Any, tuple[int, ...]], ...]


def spelled_rectifier(
    nodes: list[Node], elementwise: set[int], operation: Operation, inputs: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[SpelledRectifier, tuple[int, ...]] | None:
    """The rectifier that an elementwise operation completes, and the value that it rectifies; None if it does not."""
    for source in _sources(nodes, elementwise, inputs):
        if nodes[source].shape != shape:
            continue
        steps = _steps(nodes, operation, inputs, source)
        result = _run(steps, shape)
        if result is None:
            continue
        expected = torch.tensor(SAMPLE, dtype=result.dtype)
        for ceiling in (None, float(result[-1])):
            if (ceiling is None or ceiling > 0) and torch.allclose(result, expected.clamp(0, ceiling), 1e-6, 0):
                return SpelledRectifier(ceiling, steps), (source,)
    return None


def _sources(nodes: list[Node], elementwise: set[int], inputs: tuple[int, ...]) -> list[int]:
    """Values that everything about the operation depends on, the nearest first."""
    seen: set[int] = set()
    pending, roots = list(inputs), set()
    while pending and len(seen) < MOST_STEPS:
        position = pending.pop()
        if position in seen:
            continue
        seen.add(position)
        if position in elementwise:
            pending.extend(nodes[position].inputs)
        else:
            roots.add(position)
    candidates = sorted(seen, reverse=True)
    return [c for c in candidates if _all_through(nodes, elementwise, inputs, c)]


def _all_through(nodes: list[Node], elementwise: set[int], inputs: tuple[int, ...], source: int) -> bool:
    pending = [position for position in inputs if position != source]
    count = 0
    while pending:
        position = pending.pop()
        count += 1
        if position not in elementwise or position < source or count > MOST_STEPS:
            return False
        pending.extend(p for p in nodes[position].inputs if p != source)
    return True


def _steps(nodes: list[Node], operation: Operation, inputs: tuple[int, ...], source: int) -> Steps:
    order: list[int] = []
    pending = list(inputs)
    while pending:
        position = pending.pop()
        if position != source and position not in order:
            order.append(position)
            pending.extend(nodes[position].inputs)
    order.sort()
    number = {source: 0} | {position: n for n, position in enumerate(order, 1)}
    steps = [(nodes[p].operation, nodes[p].inputs) for p in order]
    steps.append((operation, inputs))
    return tuple((_of_any_shape(step), tuple(number[i] for i in read)) for step, read in steps)


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


def _run(steps: Steps, shape: tuple[int, ...]) -> Tensor | None:
    """What the steps give for the sample, in float64; None if they may differ from channel to channel."""
    operations = tuple((cast_operation(operation, torch.float64, "cpu"), inputs) for operation, inputs in steps)
    sample = torch.tensor(SAMPLE, dtype=torch.float64)
    try:
        result = run_steps(operations, sample.view(-1, 1, 1, 1))
    except (RuntimeError, IndexError):  # it has constants of channels or places
        return None
    return result.flatten().double() if result.shape == (len(SAMPLE), 1, 1, 1) else None
