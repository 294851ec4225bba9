"""Three ways to send peaks of one layer to pixels, all with the same result; the cheapest is chosen by counting work.

- "window": up and down on the receptive-field window of each peak;
- "shared": one pass up a whole image serves all of its peaks, each then goes down its own window;
- "whole": up and down on whole maps; the only way for units that see the whole image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from deconv.errors import BadInput, UnknownName
from deconv.network import as_map
from deconv.network.graph import Graph
from deconv.network.operations import Operation
from deconv.network.receptive_field import Cone
from deconv.network.spatial import Convolution, MaxPool
from deconv.projection.passes import Record, down, up
from deconv.projection.rules import Rule
from deconv.projection.seed import Head, find_head
from deconv.projection.switches import CHOSEN
from deconv.projection.windows import WholeMaps, Windows, cut

WAYS = ("auto", "window", "shared", "whole")
CHUNK_FLOATS = 32 * 2**20 // 4
"""Peaks are worked on in chunks whose largest map stays near 32 MiB: enough to fill the cores, little memory."""


def choose(way: str, graph: Graph, field: Cone, image: Tensor) -> str:
    """The way to take for peaks of images (N,). Raises UnknownName, BadInput for a way that a layer does not allow."""
    if way not in WAYS:
        raise UnknownName(f"way {way!r} is unknown; expected one of {', '.join(WAYS)}.")
    if not field.windowable:
        if way in ("window", "shared"):
            raise BadInput(f"way {way!r} needs a layer that sees a window; this one needs the whole image. Use 'auto'.")
        return "whole"
    if way != "auto":
        return way
    window, whole = _work(graph, field)
    share = len(image.unique()) / max(len(image), 1)
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
class Loaded:
    """Preprocessed images (M, 3, H, W), and for each of N peaks which of them is its own."""

    images: Tensor
    which: Tensor

    def to(self, device: torch.device) -> Loaded:
        return Loaded(self.images, self.which.to(device))


@dataclass(frozen=True, eq=False)
class Places:
    """N places (row, col) of a layer, (N, 2), in images of their own, and in those that lend their switches.

    starts: (N, 2) first row and column of each receptive field; size: its (h, w).
    """

    own: Loaded
    lent: Loaded | None
    at: Tensor
    starts: Tensor
    size: tuple[int, int]


Asked = tuple[Rule, Tensor]
"""A rule, and the units (N,) that it is to send down from N places."""


def send_down(
    way: str, graph: Graph, field: Cone, places: Places, asked: Sequence[Asked]
) -> list[tuple[Tensor, Tensor]]:
    """(scores (N,), pixels (N, 3, h, w)) of each rule and its units. What is below them all goes up once."""
    if way == "whole":
        return _whole(graph, field.target, places, asked)
    maps, head = Windows(graph, field, places.at), find_head(graph, field.target)
    top = head.base if head else field.target
    rules = [rule for rule, _ in asked]
    value, record = _up_in_windows(way, graph, top, places.own, rules, maps)
    lent = None if places.lent is None else _up_in_windows(way, graph, top, places.lent, [Rule()], maps)[1]
    if head is not None:
        value = maps.read(head.position, top, value)
    found = []
    for rule, channel in asked:
        taken = _with_switches(record, graph, rule, maps, lent, value.device)
        score, seed = _seed(value, channel) if head is None else _seed_below(head, value, channel, rule, maps)
        found.append((score, down(graph, top, seed, taken, rule, maps)))
    return found


def _seed(value: Tensor, channel: Tensor) -> tuple[Tensor, Tensor]:
    """Of windows (N, C, 1, 1) the activations (N,) of unit channel[n], and these alone among zeros."""
    each = torch.arange(len(channel), device=channel.device)
    score, seed = value[each, channel, 0, 0], value.new_zeros(value.shape)
    seed[each, channel, 0, 0] = score
    return score, seed


def _seed_below(head: Head, read: Tensor, channel: Tensor, rule: Rule, maps: Windows) -> tuple[Tensor, Tensor]:
    """The activations (N,) of unit channel[n], and what they send to the base of the head, whose windows it reads."""
    score, memories = head.up(read, channel, rule)
    seed = head.down(score, channel, memories, rule, maps.needed(head.position).size)
    return score, maps.returned(head.position, head.base, seed, None)


def _with_switches(
    record: Record, graph: Graph, rule: Rule, maps: WholeMaps | Windows, lent: Record | None, device: torch.device
) -> Record:
    """The record with the switches that the rule takes."""
    if rule.switches in CHOSEN:
        return record.choosing_switches(graph, rule, maps, device)
    return record.borrowing_switches(graph, lent) if rule.switches == "other" and lent else record


def _up_in_windows(
    way: str, graph: Graph, top: int, loaded: Loaded, rules: Sequence[Rule], maps: Windows
) -> tuple[Tensor, Record]:
    """Windows of node `top` for each peak, and the record of the way there."""
    if way == "window":
        seen = maps.span(0)
        return up(graph, top, cut(loaded.images, loaded.which, maps.start(seen), seen.size), rules, maps)
    used, which = loaded.which.unique(return_inverse=True)
    value, record = up(graph, top, loaded.images[used], rules, WholeMaps())
    span = maps.span(top)
    return cut(value, which, maps.start(span), span.size), _cut_record(graph, record, which, maps)


def _whole(graph: Graph, target: int, places: Places, asked: Sequence[Asked]) -> list[tuple[Tensor, Tensor]]:
    each, (row, col) = torch.arange(len(places.at), device=places.at.device), places.at.unbind(1)
    value, record = _up_whole(graph, target, places.own, [rule for rule, _ in asked])
    value = as_map(value)
    lent = None if places.lent is None else _up_whole(graph, target, places.lent, [Rule()])[1]
    found = []
    for rule, channel in asked:
        score = value[each, channel, row, col]
        seed = value.new_zeros(value.shape)
        seed[each, channel, row, col] = score
        taken = _with_switches(record, graph, rule, WholeMaps(), lent, value.device)
        pixels = down(graph, target, seed.reshape(-1, *graph.nodes[target].shape), taken, rule, WholeMaps())
        found.append((score, cut(pixels, each, places.starts, places.size)))
    return found


def _up_whole(graph: Graph, target: int, loaded: Loaded, rules: Sequence[Rule]) -> tuple[Tensor, Record]:
    """The target's maps for each peak, and the record of the way there; each image goes up once."""
    used, which = loaded.which.unique(return_inverse=True)
    value, record = up(graph, target, loaded.images[used], rules, WholeMaps())
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
    if isinstance(operation, MaxPool) and parts:
        span = maps.span(position)
        width = graph.nodes[graph.nodes[position].inputs[0]].shape[2]
        taps = cut(operation.taps(parts[0], width), which, maps.start(span), span.size)
        return (operation.unpadded().switches(taps, maps.needed(position).size[1]),)
    needed = maps.needed(position)
    flat = (part.reshape(len(part), -1, *part.shape[-2:]) for part in parts)  # channels of any number of axes
    windows = [cut(part, which, maps.start(needed), needed.size) for part in flat]
    return tuple(w.reshape(len(which), *part.shape[1:-2], *needed.size) for w, part in zip(windows, parts, strict=True))
