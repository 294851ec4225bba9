"""Rectifiers by other names: x * (x > 0), x.clip(min=0), torch.where(x > 0, x, 0), x.masked_fill(x < 0, 0) and so on.

They are known by what they give, not by how they are written: a few elementwise operations that all read one value, and
together give its positive part.
"""

from __future__ import annotations

import torch

from deconv.network.compositions import steps_from, values_at
from deconv.network.graph import Node
from deconv.network.operations import Operation, SpelledRectifier

MOST_STEPS = 8
SAMPLE = (-900.0, -7.0, -2.5, -1.0, -1e-3, 0.0, 1e-3, 0.5, 1.0, 3.0, 5.5, 7.0, 900.0)


def spelled_rectifier(
    nodes: list[Node], elementwise: set[int], operation: Operation, inputs: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[SpelledRectifier, tuple[int, ...]] | None:
    """The rectifier that an elementwise operation completes, and the value that it rectifies; None if it does not."""
    for source in _sources(nodes, elementwise, inputs):
        if nodes[source].shape != shape:
            continue
        steps = steps_from(nodes, operation, inputs, source)
        result = values_at(steps, SAMPLE)
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
