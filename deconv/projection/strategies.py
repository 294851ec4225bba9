"""Three strategies to send peaks of one layer to pixels, all with the same result; the one with least work is chosen.

- "window": forward and backward on the receptive-field window of each peak;
- "shared": one forward pass over a whole image serves all of its peaks; each then goes back through its own windows as
  long as these are smaller than the maps, and through whole maps from there on;
- "whole": forward and backward on whole maps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from deconv.errors import bad_value, check_choice
from deconv.network import as_map
from deconv.network.graph import Graph
from deconv.network.operations import Operation
from deconv.network.receptive_field import Cone, ReceptiveField, Span, cone, field_at
from deconv.network.spatial import Convolution, MaxPool
from deconv.projection.dominators import dominator_below
from deconv.projection.parts import Part, part_of
from deconv.projection.passes import Tape, backward, forward, with_switches
from deconv.projection.rules import Rule
from deconv.projection.seed import SeedConvolution, seed_convolution
from deconv.projection.tapered import Maps, Tapered, places, windowed_nodes
from deconv.projection.windows import WholeMaps, cut

STRATEGIES = ("auto", "window", "shared", "whole")
CHUNK_FLOATS = 32 * 2**20 // 4
"""Peaks are worked on in chunks whose largest map stays near 32 MiB: enough to fill the cores, little memory."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How peaks of one layer are sent back, by a strategy other than "auto".

    field: the receptive field.  shown: the pixels that are returned, the field or what is left of it in the image.
    """

    graph: Graph
    cone: Cone
    field: ReceptiveField
    shown: ReceptiveField
    strategy: str

    @cached_property
    def windowed(self) -> frozenset[int]:
        """The nodes that are worked on in windows, at least on the way back; the others are on whole maps."""
        return nodes_in_windows(self.graph, self.cone, self.strategy)

    @cached_property
    def chunk_size(self) -> int:
        """How many peaks are worked on at once."""
        return chunk_size(self.graph, self.cone, self.strategy)


def plan(graph: Graph, target: int, strategy: str, image: Tensor, positions: Tensor, cut_to_image: bool) -> Plan:
    """Return the plan for peaks of node `target` in images (N,) at positions (N, 2).

    The field is the layer's, or the whole image where one of the positions sees pixels outside its own box.
    cut_to_image: whether of a field larger than the image the image alone is returned.
    Raises UnknownName for an unknown strategy, BadInput for one that the layer does not allow.
    """
    cone_of_layer = cone(graph, target)
    chosen = choose(strategy, graph, cone_of_layer, image)
    field = field_at(graph, target, positions)
    shown = field.cut_to(graph.nodes[0].map_size) if cut_to_image else field
    return Plan(graph, cone_of_layer, field, shown, chosen)


def choose(strategy: str, graph: Graph, cone: Cone, image: Tensor) -> str:
    """Return the strategy to take for peaks in images (N,): the one asked for, or for "auto" that of least work."""
    check_choice("strategy", strategy, STRATEGIES)
    if strategy == "window" and not cone.windowable:
        expected = "another one for a layer whose units need the whole image"
        raise bad_value("strategy", strategy, expected, "leave it out")
    if strategy != "auto":
        return strategy
    window, tapered, whole = _work(graph, cone)
    images_per_peak = len(image.unique()) / max(len(image), 1)
    costs = {"whole": whole * (1 + images_per_peak), "shared": tapered + whole * images_per_peak}
    if cone.windowable:
        costs["window"] = 2 * window
    return min(costs, key=lambda name: costs[name])  # of equals the first, which is the simplest


def _work(graph: Graph, cone: Cone) -> tuple[float, float, float]:
    """Multiplications of a pass to or from one peak: by windows, by windows where they are smaller, by whole maps."""
    window = tapered = whole = 0.0
    windowed = windowed_nodes(graph, cone)
    for index in cone.order:
        node, span = graph.nodes[index], cone.spans[index]
        if len(node.shape) == 3:
            per_position = _work_per_position(node.operation) * node.shape[0]
            of_map = per_position * prod(node.map_size)
            of_window = of_map if span is None else per_position * prod(span.size)
            window, whole = window + of_window, whole + of_map
            tapered += of_window if index in windowed else of_map
    return window, tapered, whole


def _work_per_position(operation: Operation) -> int:
    if isinstance(operation, Convolution):
        return operation.weight[0].numel()
    return prod(operation.window.kernel) if isinstance(operation, MaxPool) else 1


def chunk_size(graph: Graph, cone: Cone, strategy: str) -> int:
    """Return how many peaks are worked on at once."""
    windowed = nodes_in_windows(graph, cone, strategy)

    def floats(index: int) -> int:
        shape, span = graph.nodes[index].shape, cone.spans[index]
        return prod((*shape[:-2], *span.size) if index in windowed and span else shape)

    return max(1, CHUNK_FLOATS // max(floats(index) for index in cone.order))


def nodes_in_windows(graph: Graph, cone: Cone, strategy: str) -> frozenset[int]:
    """Return the nodes that a strategy, other than "auto", works on in windows on the way back."""
    if strategy == "shared":
        return windowed_nodes(graph, cone)
    return frozenset(cone.order if strategy == "window" else ())


@dataclass(frozen=True, eq=False)
class PeakImages:
    """The images that N peaks lie in: pixels (M, C, H, W), preprocessed, and index (N,), which of them each lies in.

    The index is on the CPU, for windows are cut there one by one.
    """

    pixels: Tensor
    index: Tensor


Request = tuple[Rule, Tensor]
"""A rule, and the units (N,) whose activations it sends back from N positions."""


@dataclass(frozen=True, eq=False)
class Sent:
    """What a request gives: score (N,), pixels (N, C, h, w) of the plan's `shown`, and parts by their node.

    around: (N,) what paths around a node carry, by each of these nodes that there are such paths around.
    """

    score: Tensor
    pixels: Tensor
    parts: dict[int, Part]
    around: dict[int, Tensor]


def send_back(
    plan: Plan,
    positions: Tensor,
    images: PeakImages,
    lenders: PeakImages | None,
    requests: Sequence[Request],
    through: Collection[int] = (),
) -> list[Sent]:
    """Return what each request gives, with the parts that the nodes `through` have in it.

    positions: (N, 2) row and col.  lenders: the images that lend their switches to rules with switches "other".
    What the units of all requests depend on runs forward once.
    """
    graph, target = plan.graph, plan.cone.target
    maps = Tapered(graph, plan.cone, positions, plan.windowed)
    seed = _seed(plan, through)
    top = target if seed is None else seed.source

    met_below = [{node: dominator_below(graph, target, rule, node) for node in through} for rule, _ in requests]
    kept = {*through, *(meeting for of_rule in met_below for meeting in of_rule.values() if meeting is not None)}
    value, tape, values = _forward(plan.strategy, graph, top, images, [rule for rule, _ in requests], maps, kept)
    lent_tape = None
    if lenders is not None:
        borrowing = [rule for rule, _ in requests if rule.switches == "other"]
        lent_tape = _forward(plan.strategy, graph, top, lenders, borrowing, maps)[1]
    if seed is not None:
        value = maps.read(seed.index, top, value)
    results = []
    for (rule, channel), meetings in zip(requests, met_below, strict=True):
        if seed is None:
            score, signal = _plant(value, channel, maps, target)
        else:
            score, signal = _plant_below(seed, value, channel, rule, maps)
        way_down = _WayDown(graph, top, maps, values, score, rule, with_switches(tape, graph, rule, maps, lent_tape))
        around = way_down.around(signal, meetings)
        pixels, parts = way_down.send(signal, through)
        results.append(Sent(score, _cut_out(pixels, plan.shown, maps), parts, around))
    return results


def _seed(plan: Plan, through: Collection[int]) -> SeedConvolution | None:
    """The convolution that the layer ends in, if it is worked on in windows and no map from there on is asked for."""
    target = plan.cone.target
    seed = seed_convolution(plan.graph, target) if target in plan.windowed else None
    return seed if seed is None or {seed.index, *seed.rectifiers}.isdisjoint(through) else None


@dataclass(frozen=True, eq=False)
class _WayDown:
    """The way of one rule's signals from node `top` to the pixels, with what the forward pass kept for it.

    values: those of the nodes whose parts are asked for.  score: (N,) the activations that signals are sent for.
    """

    graph: Graph
    top: int
    maps: Maps
    values: Mapping[int, Tensor]
    score: Tensor
    rule: Rule
    tape: Tape

    def send(
        self, signal: Tensor, nodes: Collection[int], blocked: int | None = None
    ) -> tuple[Tensor, dict[int, Part]]:
        """Return the pixels that a signal gives, which is written over, and the parts that some nodes have in it."""
        parts: dict[int, Part] = {}

        def meet(index: int, signal: Tensor) -> None:
            if index in nodes:
                parts[index] = part_of(index, signal, self.values[index], self.score, self.maps, self.rule)

        on_meeting = meet if nodes else None
        pixels = backward(self.graph, self.top, signal, self.tape, self.rule, self.maps, on_meeting, blocked)
        return pixels, parts

    def around(self, signal: Tensor, meetings: Mapping[int, int | None]) -> dict[int, Tensor]:
        """Return what the paths around nodes carry to `meetings`, by those nodes that there are such paths around."""
        carried = {}
        for node, meeting in meetings.items():
            if meeting is not None:
                _, parts = self.send(signal.clone(), {meeting}, blocked=node)
                carried[node] = parts[meeting].share.sum(dim=1) if meeting in parts else torch.zeros_like(self.score)
        return carried


def _forward(
    strategy: str,
    graph: Graph,
    top: int,
    images: PeakImages,
    rules: Sequence[Rule],
    maps: Tapered,
    through: Collection[int] = (),
) -> tuple[Tensor, Tape, dict[int, Tensor]]:
    """For each peak, on `maps`: the value of node `top`, the tape of the pass, and the values of nodes `through`."""
    if strategy == "window":
        seen = maps.span(0)
        windows = cut(images.pixels, images.index, seen.starts(maps.on_cpu), seen.size)
        return forward(graph, top, windows, rules, maps, through)
    used, index = images.index.unique(return_inverse=True)
    device = images.pixels.device
    seen_images, index_on_device = images.pixels[used.to(device)], index.to(device)
    value, tape, values = forward(graph, top, seen_images, rules, WholeMaps(graph, maps.positions), through)
    index_of = {node: index if node in maps.windowed else index_on_device for node in {top, *tape, *values}}
    tape = {node: maps.take_memory(node, tape[node], index_of[node]) for node in tape}
    values = {node: maps.take(node, values[node], index_of[node]) for node in values}
    return maps.take(top, value, index_of[top]), tape, values


def _plant(value: Tensor, channel: Tensor, maps: Maps, target: int) -> tuple[Tensor, Tensor]:
    """The activations (N,) of unit channel[n] in the target's value (N, *shape), and these alone among zeros."""
    peak, row, col = places(maps, target)
    score, signal = as_map(value)[peak, channel, row, col], value.new_zeros(value.shape)
    as_map(signal)[peak, channel, row, col] = score
    return score, signal


def _plant_below(seed: SeedConvolution, read: Tensor, channel: Tensor, rule: Rule, maps: Maps) -> tuple[Tensor, Tensor]:
    """The activations (N,) of unit channel[n], and what they send to the source of the seed convolution."""
    score, memories = seed.forward(read, channel, rule)
    signal = seed.backward(score, channel, memories, rule, maps.needed(seed.index).size)
    return score, maps.returned(seed.index, seed.source, signal, None)


def _cut_out(pixels: Tensor, shown: ReceptiveField, maps: Tapered) -> Tensor:
    """The pixels that each peak's reconstruction has, cut out of what came back to the image."""
    if maps.span(0) == Span(shown.stride, shown.start, shown.size):
        return pixels
    corner = shown.boxes(maps.on_cpu)[:, :2] - maps.span(0).starts(maps.on_cpu)
    return cut(pixels, torch.arange(len(pixels)), corner, shown.size)
