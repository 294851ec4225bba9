"""From two recordings to the nodes of a graph: each call lowered, named and put in its place."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deconv.errors import UnsupportedOperation, first_line
from deconv.network import operations as ops
from deconv.network.call import Layout
from deconv.network.graph import Graph, Node, is_activation, is_layer
from deconv.network.operations import ChannelScale, Operation, Slot
from deconv.network.spatial import Convolution
from deconv.network.tracing import lowering, places
from deconv.network.tracing.calls import Called, Overwriting, Ref, refs_in
from deconv.network.tracing.layouts import layout_of
from deconv.network.tracing.memory import lay_over
from deconv.network.tracing.norms import local_response_norms
from deconv.network.tracing.pairing import Pairing
from deconv.network.tracing.rectifiers import spelled_rectifier
from deconv.network.tracing.requests import Lowered, Request, leaf_paths, map_values, named_arguments, node_name

aten = torch.ops.aten
OWN_TYPES = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "to", "_to_copy", "type_as"})
"""Under autocast these take what they are given, of several types."""


class Builder:
    """Walks the calls once and collects nodes."""

    def __init__(self, pairing: Pairing, module: nn.Module):
        self.pairing, self.recording = pairing, pairing.many
        self.leaves = leaf_paths(module)
        self.nodes: list[Node] = []
        self.dtypes: list[torch.dtype] = []  # of each node
        self.elementwise: set[int] = set()  # nodes whose every element depends on that element alone
        self.bent: set[int] = set()  # those of them that are neither linear in what they read nor a rectifier
        self.states: dict[int, int | UnsupportedOperation] = {}  # of each value its node, or why there is none
        self.layouts: dict[int, Layout | None] = {0: None}  # of each value, where its images lie
        self.laid: list[UnsupportedOperation] = []  # of values with images elsewhere, how they lie
        self.names: Counter[str] = Counter()
        self.used: set[str] = set()
        self.refusals: dict[str, str] = {}
        self.norms = local_response_norms(self.recording.calls)
        self.readers: dict[int, list[Called | None]] = {}
        for call in self.recording.calls:
            for ref in refs_in([call.arguments, call.keywords]):
                self.readers.setdefault(ref.number, []).append(call)
        self.outputs = [number for number, _ in self.recording.kept] if self.recording.stopped is None else []
        for number in self.outputs:
            self.readers.setdefault(number, []).append(None)

    def graph(self) -> Graph:
        """Return the nodes and layers of all that can be carried."""
        self._append("x", "", "x", ops.Input(), (), self.recording.shapes[0][1:], self.recording.dtypes[0])
        self.states[0] = 0
        calls = self.recording.calls
        common = self.pairing.same_calls()
        for call, other in zip(calls[:common], self.pairing.few.calls, strict=False):
            self._call(call, other)
        stopped = self.recording.stopped or self.pairing.few.stopped
        if common < len(calls):
            stopped = UnsupportedOperation(
                "the module does something else for another number of images, as a loop over them; expected one pass"
            )
            for number in (n for call in calls[common:] for n in call.outputs if n is not None):
                self.states[number] = stopped
        if stopped is not None:
            self.refusals[""] = first_line(stopped)
        layers = self._layers()
        return Graph(tuple(self.nodes), layers, self.refusals)

    def reason(self) -> UnsupportedOperation | None:
        """The first thing that could not be carried, or that no layer came after."""
        refused = [state for state in self.states.values() if isinstance(state, UnsupportedOperation)]
        return next(iter([*refused, *self.laid]), None)

    def _layers(self) -> dict[str, int]:
        positions: set[int] = set()
        for position, node in enumerate(self.nodes):
            if is_layer(node, positions):
                positions.add(position)
        for state in (self.states.get(number) for number in self.outputs):
            if isinstance(state, int) and state and self._is_value_of_units(state):
                positions.add(state)
        turned = {position: position for position in positions}
        for position in [n for n, node in enumerate(self.nodes) if node.channels_last and is_activation(node)]:
            turned[position] = self._channels_first(position)
        return {self.nodes[position].name: turned[position] for position in sorted(turned)}

    def _channels_first(self, position: int) -> int:
        """A node that turns an activation's (H, W, C) into a map, which nothing else reads."""
        node, name = self.nodes[position], self._unique(f"{self.nodes[position].name}.permute")
        turn = ops.LinearCall(aten.permute.default, (Slot(0), [0, 3, 1, 2]), {}, False)
        shape, dtype = (node.shape[2], *node.shape[:2]), self.dtypes[position]
        return self._append(name, node.path, "permute", turn, (position,), shape, dtype)

    def _is_value_of_units(self, position: int) -> bool:
        node = self.nodes[position]
        return (node.is_map or len(node.shape) == 1) and self.dtypes[position].is_floating_point

    # -- one call

    def _call(self, call: Called, other: Called) -> None:
        where = self._where(call)
        numbers = [number for number in call.outputs if number is not None]
        try:
            if call in self.norms:
                norm = self.norms[call]
                if norm is not None:
                    self._norm(call, *norm)
                return
            for ref in refs_in([call.arguments, call.keywords]):
                state = self.states[ref.number]
                if isinstance(state, UnsupportedOperation):
                    raise state
            arguments, keywords = self.pairing.arguments(call, other, where)
            for pick, number in enumerate(call.outputs):
                if number is not None and (number in self.readers or not call.several):
                    layouts = self.pairing.layouts(number, where)
                    self.layouts[number] = layouts[0]
                    request = self._request(call, arguments, keywords, number, pick if call.several else None)
                    if request.is_laid and isinstance(call.function, Overwriting):
                        raise request.refused("writes in place where images do not lie along the first axis")
                    if request.is_laid:
                        self.layouts[number] = layout = layout_of(request, layouts)
                        request = replace(request, gives=layout)
                        self.laid.extend([] if layout is None else [self.pairing.refusal(number, where)])
                    self.states[number] = self._placed(call, number, request)
        except UnsupportedOperation as error:
            for number in numbers:
                self.states[number] = error
            name = self._new_name(call, numbers[0]) if numbers else where
            self.refusals[name] = str(error)

    @staticmethod
    def _where(call: Called) -> str:
        return f"'{call.name}' in {call.path or 'the network'}"

    def _norm(self, call: Called, norm: ops.LocalResponseNorm, source: int) -> None:
        (number,) = call.outputs
        state = self.states[source]
        assert number is not None
        self.layouts[number] = None
        if isinstance(state, UnsupportedOperation):
            raise state
        self.states[number] = self._add(call, number, self._detached(call, norm), (state,))

    def _request(
        self, call: Called, arguments: tuple[Any, ...], keywords: dict[str, Any], number: int, pick: int | None
    ) -> Request:
        inputs: list[int] = []
        lays: list[Layout | None] = []
        cast_to = self._autocast_type(call, number)

        def resolve(value: Any) -> Any:
            if isinstance(value, Ref):
                position = self.states[value.number]
                assert isinstance(position, int)
                inputs.append(self._cast(call, position, cast_to))
                lays.append(self.layouts[value.number])
                return Slot(len(inputs) - 1)
            if isinstance(value, Tensor):
                value = value.detach().clone() if value.requires_grad else value  # it is not the copy's own
                return value.to(cast_to) if cast_to is not None and value.is_floating_point() else value
            return value

        named = named_arguments(call.function, arguments, keywords)
        resolved = {name: map_values(value, resolve) for name, value in named.items()}
        return Request(
            call.function, call.name, call.path, resolved, tuple(inputs), self.nodes, self.dtypes,
            self._shape(number), self.recording.dtypes[number], pick, tuple(lays), self.layouts[number],
        )  # fmt: skip

    def _shape(self, number: int) -> tuple[int, ...]:
        """The shape of a value without the batch."""
        shape, layout = self.recording.shapes[number], self.layouts[number]
        return shape[1:] if layout is None else layout.shape(shape)

    def _autocast_type(self, call: Called, number: int) -> torch.dtype | None:
        """The type that autocast brings all arguments to, read from the type of the result."""
        dtype = self.recording.dtypes[number]
        return dtype if call.autocast and dtype.is_floating_point and call.name not in OWN_TYPES else None

    def _cast(self, call: Called, position: int, dtype: torch.dtype | None) -> int:
        source = self.dtypes[position]
        if dtype is None or source == dtype or not source.is_floating_point:
            return position
        node = self.nodes[position]
        name = self._unique(f"{call.path}.to" if call.path else "to")
        cast = self._detached(call, ops.Cast(dtype, source))
        return self._append(name, call.path, "to", cast, (position,), node.shape, dtype)

    def _placed(self, call: Called, number: int, request: Request) -> int:
        """The node of a lowered call."""
        if isinstance(call.function, Overwriting):
            operation, inputs = lay_over(call.function, request)
            return self._add(call, number, self._detached(call, operation), inputs)
        lowered: Lowered = lowering.lower(request)
        if isinstance(lowered, list):
            assert request.pick is not None
            request = lowered[request.pick]
            lowered = lowering.lower(request)
        if isinstance(lowered, int):
            if call.carries:
                return lowered
            lowered = (ops.LinearCall(aten.detach.default, (Slot(0),), {}, True), (lowered,))
        operation, inputs = lowered
        if not inputs:  # a constant for each image: the batch says how many
            return self._add(call, number, ops.Detached(operation), (0,))
        elementwise = lowering.is_elementwise(request)
        bends = isinstance(operation, ops.Call) and not isinstance(operation, ops.LinearCall)
        bent = elementwise and (bends or any(source in self.bent for source in inputs))
        if (
            not _has_derivative(request.dtype)
            or not any(_has_derivative(self.dtypes[source]) for source in inputs)
            or call.name == "detach"
        ):
            operation = ops.Detached(operation)
        elif bent:
            spelled = spelled_rectifier(self.nodes, self.elementwise, operation, inputs, request.shape)
            if spelled is not None:
                (operation, inputs), bent = spelled, False
        position = self._add(call, number, self._detached(call, operation), inputs)
        if elementwise and position == len(self.nodes) - 1:
            self.elementwise.add(position)
            if bent:
                self.bent.add(position)
        return position

    @staticmethod
    def _detached(call: Called, operation: Operation) -> Operation:
        return operation if call.carries or isinstance(operation, ops.Detached) else ops.Detached(operation)

    # -- nodes and their names

    def _add(self, call: Called, number: int, operation: Operation, inputs: tuple[int, ...]) -> int:
        if isinstance(operation, ChannelScale) and self._folds_into(operation, inputs[0]):
            self.nodes[inputs[0]] = fold(self.nodes[inputs[0]], operation)
            return inputs[0]
        shape, dtype = self._shape(number), self.recording.dtypes[number]
        return self._append(self._new_name(call, number), call.path, call.name, operation, inputs, shape, dtype)

    def _new_name(self, call: Called, number: int) -> str:
        readers = [() if reader is None else reader.frames for reader in self.readers.get(number, [])]
        return self._unique(node_name(call.frames, call.name, readers, self.leaves))

    def _unique(self, base: str) -> str:
        count = self.names[base]
        self.names[base] += 1
        name = f"{base}_{count}" if count else base
        while name in self.used:
            self.names[base] += 1
            name = f"{base}_{self.names[base] - 1}"
        self.used.add(name)
        return name

    def _append(
        self,
        name: str,
        path: str,
        kind: str,
        operation: Operation,
        inputs: tuple[int, ...],
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> int:
        is_map = places.gives_map(operation, [self.nodes[source] for source in inputs], shape, self.nodes)
        last = places.gives_channels_last(operation, [self.nodes[source] for source in inputs], shape, kind)
        self.nodes.append(Node(name, path, kind, operation, inputs, shape, is_map, last))
        self.dtypes.append(dtype)
        return len(self.nodes) - 1

    def _folds_into(self, scale: ChannelScale, source: int) -> bool:
        operation = self.nodes[source].operation
        same = [number for number, state in self.states.items() if state == source]
        read_once = all(len(self.readers.get(number, ())) <= 1 for number in same)  # clones and the like included
        return read_once and isinstance(operation, Convolution) and operation.weight.dtype == scale.scale.dtype


def _has_derivative(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def fold(node: Node, scale: ChannelScale) -> Node:
    """The convolution's node with a following batch normalisation multiplied into its weights."""
    convolution = node.operation
    assert isinstance(convolution, Convolution)
    weight = convolution.weight * scale.scale.view(-1, 1, 1, 1)
    bias = scale.shift if convolution.bias is None else torch.addcmul(scale.shift, convolution.bias, scale.scale)
    folded = replace(convolution, weight=weight.contiguous(memory_format=torch.channels_last), bias=bias)
    return replace(node, operation=folded)
