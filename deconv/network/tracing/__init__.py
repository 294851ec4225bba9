"""From an nn.Module to a graph of known operations, by torch.export.

The export keeps ATen operations whole, with the module path of each, so that functional and in-place forms are seen
like modules; in-place operations become plain ones. The batch stays free; the image size is fixed.
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from deconv.errors import UnsupportedOperation
from deconv.network.graph import Graph, Node, is_layer
from deconv.network.operations import Call, ChannelScale, Input, Operation
from deconv.network.spatial import Convolution
from deconv.network.tracing import exported, lowering
from deconv.network.tracing.in_place import without_in_place


def trace(module: nn.Module, weights: dict[str, Tensor], input_shape: tuple[int, int, int]) -> Graph:
    """Return the graph of `module`, in eval mode, for images of `input_shape` (C, H, W), with `weights` by state name.

    Raises UnsupportedOperation if the module cannot be exported or ties images of a batch to each other.
    """
    program = _export(module, input_shape)
    return _Tracer(program, weights, exported.leaf_paths(module)).graph()


def _export(module: nn.Module, input_shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    parameter = next(module.parameters(), torch.zeros(0))
    example = torch.zeros((2, *input_shape), dtype=parameter.dtype, device=parameter.device)
    try:
        with warnings.catch_warnings(), _silenced("torch._subclasses.fake_tensor"):
            warnings.simplefilter("ignore")
            free_batch = ({0: torch.export.Dim.AUTO},)
            program = torch.export.export(module, (example,), dynamic_shapes=free_batch, strict=False)
            return without_in_place(program, lowering.VIEWS)
    except Exception as error:  # torch.export has no common base for what it refuses
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedOperation(
            f"{type(module).__name__} cannot be traced for an input of {tuple(input_shape)}: {reason.rstrip('.')}; "
            "expected a module that takes one image batch (N, C, H, W) and whose path does not depend on pixel values"
        ) from error


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Torch logs the tracebacks of what it goes on to raise."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


class _Tracer:
    """One walk over an exported program that collects the nodes of a graph."""

    def __init__(self, program: torch.export.ExportedProgram, weights: dict[str, Tensor], leaves: frozenset[str]):
        self.program = program
        self.weights = weights
        self.leaves = leaves
        self.nodes: list[Node] = []
        self.values: dict[fx.Node, Any] = {}  # a node's index, a constant, BatchSize or pieces
        self.names: dict[str, int] = {}
        self.batch = ""  # the symbol that export has for the number of images
        self.norm_outputs = exported.local_response_norms(program.graph)

    def graph(self) -> Graph:
        """Return the graph of the whole program."""
        signature = self.program.graph_signature
        states = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, states, signature.inputs_to_lifted_tensor_constants)
            elif node.op == "call_function":
                self._call(node)
        output = self._output()
        layers: set[int] = set()
        for index, node in enumerate(self.nodes):
            if is_layer(node, self.nodes, layers):
                layers.add(index)
        if self.nodes[output].is_map or len(self.nodes[output].shape) == 1:
            layers.add(output)
        return Graph(tuple(self.nodes), {self.nodes[index].name: index for index in sorted(layers)})

    def _placeholder(self, node: fx.Node, states: Mapping[str, str], constants: Mapping[str, str]) -> None:
        if node.name in states:
            self.values[node] = self.weights[states[node.name]]
        elif node.name in constants:
            self.values[node] = self.program.constants[constants[node.name]].detach()
        elif self.nodes:
            raise UnsupportedOperation("the network takes more than one input; expected one image batch (N, C, H, W)")
        else:
            shape = node.meta["val"].shape
            if isinstance(shape[0], int):
                raise UnsupportedOperation(f"the network fixes its batch to {shape[0]} images; expected any number")
            self.batch = str(shape[0])
            self._add(node, Input(), (), name=node.name)

    def _call(self, node: fx.Node) -> None:
        if node in self.norm_outputs:
            norm = self.norm_outputs[node]
            if norm is not None:
                self._add(node, norm[0], (self.values[norm[1]],))
            return
        self._check_batch(node)
        if node.target is operator.getitem:
            source, piece = node.args
            whole = self.values[source]  # type: ignore[index]
            if isinstance(whole, list):
                self._lower(node, whole[piece])  # type: ignore[index]
            elif piece == 0:  # batch norm returns its output and two statistics
                self.values[node] = whole
        elif not isinstance(node.target, torch._ops.OpOverload):
            self.values[node] = str(node.meta["val"])  # arithmetic with the number of images
        else:
            self._lower(node, exported.Request.of(node, self.values, self.nodes))

    def _check_batch(self, node: fx.Node) -> None:
        """Raise UnsupportedOperation where the first axis is no longer that of the images, so that they may mix."""
        value = node.meta.get("val")
        from_images = any(type(self.values.get(source)) in (int, list) for source in node.all_input_nodes)
        if not from_images or not isinstance(value, Tensor) or (value.dim() and str(value.shape[0]) == self.batch):
            return
        raise UnsupportedOperation(
            f"'{exported.kind(node)}' in {exported.module_path(node) or 'the network'} makes "
            f"{tuple(value.shape)} of a batch of {self.batch} images; expected them to stay apart along the first axis"
        )

    def _lower(self, node: fx.Node, request: exported.Request) -> None:
        result = lowering.lower(request)
        if isinstance(result, tuple):
            operation, inputs = result
            if (
                isinstance(operation, Call)
                and isinstance(node.meta.get("val"), list | tuple)
                and node.target is request.function
            ):
                raise UnsupportedOperation(
                    f"'{exported.kind(node)}' in {exported.module_path(node) or 'the network'} "
                    "returns several tensors; expected one"
                )
            self._add(node, operation, inputs)
        else:
            self.values[node] = result

    def _add(self, node: fx.Node, operation: Operation, inputs: tuple[int, ...], name: str | None = None) -> None:
        if isinstance(operation, ChannelScale) and self._folds_into(node, inputs[0]):
            self.nodes[inputs[0]] = fold(self.nodes[inputs[0]], operation)
            self.values[node] = inputs[0]
            return
        path, base = exported.module_path(node), name or exported.node_name(node, self.leaves)
        count = self.names.get(base, 0)
        self.names[base] = count + 1
        shape = exported.output_shape(node)
        is_map = lowering.gives_map(operation, [self.nodes[source] for source in inputs], shape)
        unique = f"{base}_{count}" if count else base
        self.values[node] = len(self.nodes)
        self.nodes.append(Node(unique, path, exported.kind(node), operation, inputs, shape, is_map))

    def _folds_into(self, node: fx.Node, source: int) -> bool:
        same = [other for other, value in self.values.items() if type(value) is int and value == source]
        read_once = all(len(other.users) == 1 for other in same)  # clones and the like included
        return read_once and isinstance(self.nodes[source].operation, Convolution)

    def _output(self) -> int:
        (outputs,) = next(node for node in self.program.graph.nodes if node.op == "output").args
        index = self.values.get(outputs[0])
        if len(outputs) != 1 or not isinstance(index, int):
            raise UnsupportedOperation(
                f"the network returns {len(outputs)} values; expected one tensor that depends on the image"
            )
        return index


def fold(node: Node, scale: ChannelScale) -> Node:
    """Return the convolution's node with the batch normalisation that follows it multiplied into its weights."""
    convolution = node.operation
    assert isinstance(convolution, Convolution)
    weight = convolution.weight * scale.scale.view(-1, 1, 1, 1)
    bias = scale.shift if convolution.bias is None else torch.addcmul(scale.shift, convolution.bias, scale.scale)
    arguments = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    folded = Convolution(weight.contiguous(memory_format=torch.channels_last), bias, *arguments)
    return Node(node.name, node.path, node.kind, folded, node.inputs, node.shape, node.is_map)
