"""The traced graph against the module: the same output for three images, and for one among them alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation
from deconv.network.graph import Graph, evaluate
from deconv.network.tracing.copying import private_copy
from deconv.network.tracing.recording import record

if TYPE_CHECKING:
    from deconv.network.tracing.building import Builder
    from deconv.network.tracing.calls import Recording


def check_graph(graph: Graph, builder: Builder, module: nn.Module) -> None:
    """Raise UnsupportedOperation where the graph gives anything else than the module did."""
    expected = _carried(builder, builder.recording)
    alone = _carried(builder, builder.pairing.few)
    if not expected or _agrees(graph, builder.recording.images, expected, alone):
        return
    if _agrees_in_double(graph, builder, module):
        return
    raise UnsupportedOperation(
        f"{type(module).__name__} cannot be traced: the graph of its operations gives another output than the module "
        "for random images; expected a module whose result for an image depends on that image alone, and not on "
        "chance, on numpy or on what it met before"
    )


def _carried(builder: Builder, recording: Recording) -> dict[int, Tensor]:
    """The module's own values at nodes of the graph, images first."""
    carried: dict[int, Tensor] = {}
    for number, tensor in recording.kept:
        state, layout = builder.states.get(number), builder.layouts.get(number)
        if isinstance(state, int):
            value = tensor.detach()
            carried[state] = value if layout is None else layout.images_first(value, len(recording.images))
    return carried


def _agrees(graph: Graph, images: Tensor, expected: dict[int, Tensor], alone: dict[int, Tensor]) -> bool:
    with torch.no_grad():
        together, single = evaluate(graph, images, expected), evaluate(graph, images[:1], expected)
    for position, value in expected.items():
        if not _close(together[position], value) or not _close(single[position], value[:1]):
            return False
        own = alone.get(position)  # the module's own for one image, of which it may have dropped the batch
        if own is not None and own.numel() == single[position].numel() and not _close(single[position], own):
            return False
    return True


def _close(value: Tensor, expected: Tensor) -> bool:
    """To the rounding of the type: sums in another order, normalisations folded into weights."""
    if value.numel() != expected.numel():
        return False
    if not expected.is_floating_point():
        return torch.equal(value.reshape(expected.shape), expected)
    tolerance = torch.finfo(expected.dtype).eps ** 0.5
    value, expected = value.reshape(expected.shape).double(), expected.double()
    finite = torch.isfinite(expected)
    if not torch.equal(torch.isfinite(value), finite):
        return False
    value, expected = value[finite], expected[finite]
    return not len(value) or bool((value - expected).abs().max() <= tolerance * expected.abs().max())


def _agrees_in_double(graph: Graph, builder: Builder, module: nn.Module) -> bool:
    """The same in float64: in float32, near ties of pooled values choose other inputs by another way of rounding."""
    images = builder.recording.images
    if images.dtype != torch.float32:
        return False
    exact = private_copy(module).double()
    recording = record(exact, images.double())
    if [call.name for call in recording.calls] != [call.name for call in builder.recording.calls]:
        return False
    return _agrees(graph.cast(torch.float64), images.double(), _carried(builder, recording), {})
