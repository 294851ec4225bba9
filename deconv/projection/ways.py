"""Three ways to send peaks of one layer to pixels, all with the same result; the cheapest is chosen by counting work.

- "window": up and down on the receptive-field window of each peak;
- "shared": one pass up a whole image serves all of its peaks, each then goes down its own window;
- "whole": up and down on whole maps; the only way for units that see the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from deconv.errors import BadInput, UnknownName
from deconv.graph import Graph
from deconv.graph.operations import Operation
from deconv.graph.spatial import Convolution, MaxPool
from deconv.network import as_map
from deconv.projection.head import find_head
from deconv.projection.walk import Record, down, up
from deconv.projection.windows import WholeMaps, Windows, cut
from deconv.receptive_field import Cone
from deconv.rules import Rule

WAYS = ("auto", "window", "shared", "whole")
CHUNK_FLOATS = 16 * 2**20 // 4
"""Peaks are worked on in chunks whose largest map stays near 16 MiB: enough to fill the cores, little memory."""


def choose(way: str, graph: Graph, field: Cone, peaks: Tensor) -> str:
    """The way to take for peaks (N, 4). Raises UnknownName, and BadInput for a way that the layer does not allow."""
    if way not in WAYS:
        raise UnknownName(f"way {way!r} is unknown; expected one of {', '.join(WAYS)}.")
    if not field.windowable:
        if way in ("window", "shared"):
            raise BadInput(f"way {way!r} needs a layer that sees a window; this one needs the whole image. Use 'auto'.")
        return "whole"
    if way != "auto":
        return way
    window, whole = _work(graph, field)
    share = len(peaks[:, 0].unique()) / max(len(peaks), 1)
    costs = {"window": 2 * window, "shared": window + whole * share, "whole": whole * (1 + share)}
    return min(costs, key=lambda name: costs[name])


def _work(graph: Graph, field: Cone) -> tuple[float, float]:
    """Multiplications on the way up to one peak, by windows and by whole maps."""
    window = whole = 0.0
    for position in field.order:
        node, span = graph.nodes[position], field.spans[position]
        if span is not None and len(node.shape) == 3:
            per_place = _work_per_place(node.operation) * node.shape[0]
            window += per_place * span.size[0] * span.size[1]
            whole += per_place * node.shape[1] * node.shape[2]
    return window, whole


def _work_per_place(operation: Operation) -> int:
    if isinstance(operation, Convolution):
        return operation.weight[0].numel()
    return operation.window.kernel[0] * operation.window.kernel[1] if isinstance(operation, MaxPool) else 1


def chunk_size(graph: Graph, field: Cone, way: str) -> int:
    """How many peaks are worked on at once."""

    def floats(position: int) -> int:
        shape, span = graph.nodes[position].shape, field.spans[position]
        return prod((*shape[:-2], *span.size) if way != "whole" and span else shape)

    return max(1, CHUNK_FLOATS // max(floats(position) for position in field.order))


@dataclass(frozen=True, eq=False)
class Places:
    """Peaks (N, 4) = image, channel, row, col, of some images, and whose switches they take.

    images: (M, 3, H, W).  lenders: (N,) images whose switches serve, None for the peaks' own.
    starts: (N, 2) first row and column of each receptive field; size: its (h, w).
    """

    images: Tensor
    peaks: Tensor
    lenders: Tensor | None
    starts: Tensor
    size: tuple[int, int]


def send_down(way: str, graph: Graph, field: Cone, places: Places, rule: Rule) -> tuple[Tensor, Tensor]:
    """(scores (N,), pixels (N, 3, h, w)) of peaks."""
    if way == "whole":
        return _whole(graph, field.target, places, rule)
    image, channel, row, col = places.peaks.unbind(1)
    maps = Windows(graph, field, torch.stack([row, col], dim=1))
    head = find_head(graph, field.target)
    top = head.base if head else field.target
    value, record = _up_in_windows(way, graph, top, places.images, image, rule, maps)
    if places.lenders is not None:
        record.borrow_switches(graph, _up_in_windows(way, graph, top, places.images, places.lenders, rule, maps)[1])
    if head is None:
        each = torch.arange(len(channel), device=channel.device)
        score = value[each, channel, 0, 0]
        seed = value.new_zeros(value.shape)
        seed[each, channel, 0, 0] = score
    else:
        score, memories = head.up(maps.read(head.position, top, value), channel, rule)
        seed = head.down(score, channel, memories, rule, maps.needed(head.position).size)
        seed = maps.returned(head.position, top, seed, None)
    return score, down(graph, top, seed, record, rule, maps)


def _up_in_windows(
    way: str, graph: Graph, top: int, images: Tensor, image: Tensor, rule: Rule, maps: Windows
) -> tuple[Tensor, Record]:
    """Windows of node `top` for each peak, and the record of the way there."""
    if way == "window":
        seen = maps.span(0)
        return up(graph, top, cut(images, image, maps.start(seen), seen.size), rule, maps)
    used, which = image.unique(return_inverse=True)
    value, record = up(graph, top, images[used], rule, WholeMaps())
    span = maps.span(top)
    return cut(value, which, maps.start(span), span.size), _cut_record(graph, record, which, maps)


def _whole(graph: Graph, target: int, places: Places, rule: Rule) -> tuple[Tensor, Tensor]:
    image, channel, row, col = places.peaks.unbind(1)
    each = torch.arange(len(image), device=image.device)
    value, record = _up_whole(graph, target, places.images, image, rule)
    if places.lenders is not None:
        record.borrow_switches(graph, _up_whole(graph, target, places.images, places.lenders, rule)[1])
    value = as_map(value)
    score = value[each, channel, row, col]
    seed = value.new_zeros(value.shape)
    seed[each, channel, row, col] = score
    seed = seed.reshape(-1, *graph.nodes[target].shape)
    pixels = down(graph, target, seed, record, rule, WholeMaps())
    return score, cut(pixels, each, places.starts, places.size)


def _up_whole(graph: Graph, target: int, images: Tensor, image: Tensor, rule: Rule) -> tuple[Tensor, Record]:
    """The target's maps for each peak, and the record of the way there; each image goes up once."""
    used, which = image.unique(return_inverse=True)
    value, record = up(graph, target, images[used], rule, WholeMaps())
    return value[which], _record_of_peaks(record, which)


def _record_of_peaks(record: Record, which: Tensor) -> Record:
    """The record of whole images as a record of peaks: peak n takes image which[n]."""
    memory = {position: tuple(part[which] for part in parts) for position, parts in record.memory.items()}
    shapes = {p: [torch.Size((len(which), *shape[1:])) for shape in some] for p, some in record.shapes.items()}
    return Record(memory, shapes)


def _cut_record(graph: Graph, record: Record, which: Tensor, maps: Windows) -> Record:
    """The record of whole images as a record of peaks: peak n takes image which[n], cut to its windows."""
    cut_record = Record()
    for position, parts in record.memory.items():
        node, needed = graph.nodes[position], maps.needed(position)
        inputs = [graph.nodes[source].shape for source in node.inputs]
        cut_record.shapes[position] = [torch.Size((len(which), *shape[:-2], *needed.size)) for shape in inputs]
        cut_record.memory[position] = _cut_memory(graph, position, parts, which, maps)
    return cut_record


def _cut_memory(
    graph: Graph, position: int, parts: tuple[Tensor, ...], which: Tensor, maps: Windows
) -> tuple[Tensor, ...]:
    operation = graph.nodes[position].operation
    if isinstance(operation, MaxPool):
        span = maps.span(position)
        width = graph.nodes[graph.nodes[position].inputs[0]].shape[2]
        taps = cut(operation.taps(parts[0], width), which, maps.start(span), span.size)
        return (operation.unpadded().switches(taps, maps.needed(position).size[1]),)
    needed = maps.needed(position)
    flat = (part.reshape(len(part), -1, *part.shape[-2:]) for part in parts)  # channels of any number of axes
    windows = [cut(part, which, maps.start(needed), needed.size) for part in flat]
    return tuple(w.reshape(len(which), *part.shape[1:-2], *needed.size) for w, part in zip(windows, parts, strict=True))
