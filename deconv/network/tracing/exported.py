"""Reading an exported program: what each of its calls is, where it stands in the user's module, what it gives."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from deconv.network.graph import Node
from deconv.network.operations import BatchSize, Call, LinearCall, LocalResponseNorm, Operation, Slot

Lowered = tuple[Operation, tuple[int, ...]] | int | Tensor | BatchSize | list[Any] | Any
"""An operation and its inputs for a new node; a node's index, a constant or a list of pieces where none is needed."""


@dataclass(frozen=True)
class Request:
    """One call to lower: its function, its arguments by name, and which of them are nodes of the graph.

    arguments: all of them, in the function's order; a `Slot` stands for a node.
    inputs: the indices of those nodes.  nodes: the graph so far.  shape: of the output, without the batch.
    """

    function: Any
    name: str
    path: str
    arguments: dict[str, Any]
    inputs: tuple[int, ...]
    nodes: list[Node]
    shape: tuple[int, ...]

    @staticmethod
    def of(node: fx.Node, values: dict[fx.Node, Any], nodes: list[Node]) -> Request:
        """Name every argument by the operation's schema and replace exported nodes by constants and slots."""
        inputs: list[int] = []

        def resolve(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [resolve(item) for item in value]
            if not isinstance(value, fx.Node):
                return value
            known = values[value]
            if type(known) is not int:
                return known
            inputs.append(known)
            return Slot(len(inputs) - 1)

        parameters = node.target._schema.arguments  # type: ignore[union-attr]
        passed = dict(zip((p.name for p in parameters), node.args, strict=False)) | dict(node.kwargs)
        defaults = {p.name: p.default_value for p in parameters if p.has_default_value()}
        arguments = defaults | {name: resolve(value) for name, value in passed.items()}
        path = ".".join(p for p, _ in list(node.meta.get("nn_module_stack", {}).values())[-1:])
        name = str(node.target).removeprefix("aten.").split(".")[0]
        return Request(node.target, name, path, arguments, tuple(inputs), nodes, output_shape(node))

    def input_shape(self, number: int = 0) -> tuple[int, ...]:
        """Return the shape, without the batch, of an input."""
        return self.nodes[self.inputs[number]].shape

    def as_call(self, *, linear: bool, pointwise: bool) -> tuple[Operation, tuple[int, ...]]:
        """Return the call as it stands, for a node of its own.

        linear: whether it is affine in its inputs.  pointwise: whether each position of the last two axes of the
        output depends on that position alone.
        """
        parameters = self.function._schema.arguments
        keywords = {p.name: self.arguments[p.name] for p in parameters if p.kwarg_only}
        arguments = tuple(self.arguments[p.name] for p in parameters if not p.kwarg_only)
        return (LinearCall if linear else Call)(self.function, arguments, keywords, pointwise), self.inputs


def output_shape(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the exported node's output, without the batch; () where it is no tensor."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, list | tuple) else value
    return tuple(int(size) for size in value.shape[1:]) if isinstance(value, Tensor) else ()


def kind(node: fx.Node) -> str:
    """Return the ATen operation as written in the user's code, in-place mark stripped: "relu", "flatten"."""
    origin = node.meta.get("from_node", [])
    target = str(origin[-1].target if origin else node.target)
    match = re.match(r"aten\.(\w+?)_?(\.\w+)?$", target)
    return match.group(1) if match else target


def module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that runs the node: "features.1", "" for the network itself."""
    return _innermost(node)[0]


def leaf_paths(module: nn.Module) -> frozenset[str]:
    """Return the paths of modules of torchvision.ops (Conv2dNormActivation, say), whose insides bear no names there."""
    return frozenset(
        path
        for path, submodule in module.named_modules()
        if any(base.__module__.startswith("torchvision.ops.") for base in type(submodule).__mro__)
    )


def node_name(node: fx.Node, leaves: frozenset[str]) -> str:
    """Return what torchvision.models.feature_extraction calls the node, unnumbered; a leaf's output bears its path."""
    for leaf in _calls(node):
        path = _without_call_number(leaf)
        if path in leaves and any(leaf not in _calls(user) for user in node.users):
            return path
    path, class_name = _innermost(node)
    if class_name.startswith("torch.nn."):
        return path
    return f"{path}.{kind(node)}" if path else kind(node)


def _innermost(node: fx.Node) -> tuple[str, str]:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "", ""
    path, class_name = stack[-1]
    return _without_call_number(path), str(class_name)


def _calls(node: fx.Node) -> list[str]:
    """Paths of the modules that run the node, outermost first; "@1" marks the second call of one."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values()]


def _without_call_number(path: str) -> str:
    return re.sub(r"@\d+", "", path)


NORM_CHAIN = ("pow", "add", "mul", "view", "squeeze", "avg_pool3d", "pad", "view", "mul")


def local_response_norms(graph: fx.Graph) -> dict[fx.Node, tuple[LocalResponseNorm, fx.Node] | None]:
    """Return the ten nodes that export makes of each F.local_response_norm: the last with norm and input, nine None."""
    norms: dict[fx.Node, tuple[LocalResponseNorm, fx.Node] | None] = {}
    for node in graph.nodes:
        inner = _norm_denominator(node)
        if inner:
            power, offset, scale, _, _, pool, *_ = inner
            size, alpha, beta, k = pool.args[1][0], scale.args[1], power.args[1], offset.args[1]  # type: ignore[index]
            norm = LocalResponseNorm(int(size), float(alpha), float(beta), float(k))  # type: ignore[arg-type]
            norms |= dict.fromkeys(inner) | {node: (norm, node.args[0])}
    return norms


def _norm_denominator(node: fx.Node) -> list[fx.Node]:
    """What computes b in a node a / b, if b is (k + alpha * mean of a * a over channels) ** beta; else nothing."""
    if str(node.target) != "aten.div.Tensor":
        return []
    inner: list[fx.Node] = []
    step: Any = node.args[1]
    for name in NORM_CHAIN:
        if not isinstance(step, fx.Node) or not str(step.target).startswith(f"aten.{name}.") or len(step.users) > 1:
            return []
        inner.append(step)
        step = step.args[0]
    numbers = all(isinstance(outer.args[1], int | float) for outer in inner[:3])
    return inner if numbers and inner[-1].args == (node.args[0], node.args[0]) else []
