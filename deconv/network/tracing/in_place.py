"""In-place operations of an exported graph as plain ones.

torch does this by tracing the program a second time (run_decompositions), which takes longer than the first time and
loses the modules of views. Nearly always it is enough to rename `relu_` and let what comes after read its output.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import fx
from torch._ops import OpOverload

SILENT_ALIASES = frozenset({"dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"})
"""Give their input itself in eval mode, though their schemas promise memory of their own."""


def without_in_place(program: torch.export.ExportedProgram, views: Collection[str]) -> torch.export.ExportedProgram:
    """Return the program without in-place operations and views other than those named; its graph may be changed."""
    if _renamed(program.graph, views):
        return program
    program.graph_module.recompile()
    return program.run_decompositions({})


def _renamed(graph: fx.Graph, views: Collection[str]) -> bool:
    """Rename in-place operations one by one; False at the first that needs more than another name."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        if node.target._schema.is_mutable:
            if not _rename(node, order):
                return False
        elif _gives_alias(node) and operation_name(node) not in views:
            return False
    return True


def _rename(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    """Let the plain operation stand for the in-place one, if nothing but its argument shares the memory written to."""
    written, in_place = node.args[0], node.target
    plain = _plain(in_place) if isinstance(in_place, OpOverload) else None
    if plain is None or not isinstance(written, fx.Node):
        return False
    writes = operation_name(node).removesuffix("_") not in SILENT_ALIASES
    shared = _gives_alias(written) or any(order[user] < order[node] and _gives_alias(user) for user in written.users)
    if writes and shared:
        return False
    node.target = plain
    written.replace_all_uses_with(node, delete_user_cb=lambda user: order.get(user, len(order)) > order[node])
    return True


def _plain(in_place: OpOverload) -> OpOverload | None:
    """`aten.relu` for `aten.relu_`; None where there is none, or where more than the first argument is written to."""
    written = [a for a in in_place._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    name = in_place._schema.name.removeprefix("aten::")
    if written != in_place._schema.arguments[:1] or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    return getattr(packet, in_place._overloadname, None)


def _gives_alias(node: fx.Node) -> bool:
    """Whether the output may be the memory of an input."""
    if not isinstance(node.target, OpOverload):
        return node.op == "call_function"
    aliased = any(returned.alias_info is not None for returned in node.target._schema.returns)
    return aliased or operation_name(node) in SILENT_ALIASES


def operation_name(node: fx.Node) -> str:
    """Return the name of the ATen operation that a node calls, as "relu" for aten.relu.default."""
    return str(node.target).removeprefix("aten.").split(".")[0]
