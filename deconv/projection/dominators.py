"""Dominators: the nodes that every path from a node down to the pixels goes through, so that none leads around them.

What comes back to a dominator is all of an activation, but for biases and the rule. In a residual network the sums of
the blocks are dominators, and what lies within a block is none, for the skip connection leads around it.
"""

from __future__ import annotations

from deconv.network.graph import Graph
from deconv.projection.rules import Rule
from deconv.projection.ways import carrying, sources_of


def dominators(graph: Graph, target: int, rule: Rule) -> set[int]:
    """Return the target and the nodes that all paths of the rule's signals from it to the image go through.

    What leads to no pixel, as a constant does, is on no path; where nothing of the target leads to one, nothing is
    bypassed and all that signals reach is returned.
    """
    reached = carrying(graph, target, rule)
    leading = {0}  # to the image, node 0
    for index in sorted(reached):
        if not leading.isdisjoint(sources_of(graph, index, rule)):
            leading.add(index)
    if target not in leading:
        return reached
    through, lowest = set(), target
    for index in sorted(reached & leading, reverse=True):
        if index == lowest:  # inputs come before what reads them, so a path around it would have led below it by now
            through.add(index)
        lowest = min([lowest, *(source for source in sources_of(graph, index, rule) if source in leading)])
    return through


def dominator_below(graph: Graph, target: int, rule: Rule, index: int) -> int | None:
    """Return the nearest dominator below a node that paths lead around; None for a node that is one itself.

    It is a map, a vector or the image, node 0, where such paths and those through the node have met again.
    """
    of_target = dominators(graph, target, rule)
    measurable = {0, *graph.values.values()}
    return None if index in of_target else max(node for node in of_target & measurable if node < index)
