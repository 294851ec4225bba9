"""Local response normalisation, which is ten calls when it is watched, as one operation."""

from __future__ import annotations

from deconv.network.operations import LocalResponseNorm
from deconv.network.tracing.calls import Called, Ref, makers_of, refs_in

CHAIN = ("pow", "add", "mul", "view", "squeeze", "avg_pool3d", "pad", "view", "mul")


def local_response_norms(calls: list[Called]) -> dict[Called, tuple[LocalResponseNorm, int] | None]:
    """Of each call that is part of F.local_response_norm: of the last its norm and the value it reads, else None."""
    makers = makers_of(calls)
    readers: dict[int, int] = {}
    for call in calls:
        for ref in refs_in([call.arguments, call.keywords]):
            readers[ref.number] = readers.get(ref.number, 0) + 1
    found: dict[Called, tuple[LocalResponseNorm, int] | None] = {}
    for call in calls:
        inner = _denominator(call, makers, readers)
        if inner:
            power, offset, scale, _, _, pool, *_ = inner
            size, alpha, beta, k = pool.arguments[1][0], scale.arguments[1], power.arguments[1], offset.arguments[1]
            norm = LocalResponseNorm(int(size), float(alpha), float(beta), float(k))
            found |= dict.fromkeys(inner) | {call: (norm, call.arguments[0].number)}
    return found


def _denominator(call: Called, makers: dict[int, Called], readers: dict[int, int]) -> list[Called]:
    """What computes b in a call a / b, if b is (k + alpha * mean of a * a over channels) ** beta; else nothing."""
    if call.name != "div" or len(call.arguments) < 2 or not isinstance(call.arguments[0], Ref):
        return []
    inner: list[Called] = []
    value = call.arguments[1]
    for name in CHAIN:
        maker = makers.get(value.number) if isinstance(value, Ref) and readers[value.number] == 1 else None
        if maker is None or maker.name != name:
            return []
        inner.append(maker)
        value = maker.arguments[0]
    numbers = all(isinstance(outer.arguments[1], int | float) for outer in inner[:3])
    return inner if numbers and inner[-1].arguments == (call.arguments[0], call.arguments[0]) else []
