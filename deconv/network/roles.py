"""What the operations do that are neither linear nor rectifiers: activations, gates and normalisations.

An activation is a function of one value, element by element, however it is spelled. A gate is a factor of a product
whose other factor carries the picture; a normalisation divides by a statistic of the image. `deconv.projection.ways`
says what a rule's options make of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from weakref import WeakKeyDictionary

from deconv.network.compositions import is_elementwise, is_own_function, named, nodes_between, source_of
from deconv.network.elementwise import LINEAR_ELEMENTWISE
from deconv.network.graph import Graph, Node
from deconv.network.operations import (
    Add,
    Call,
    Cast,
    ChoosingCall,
    Concatenate,
    Detached,
    LinearCall,
    Rectifier,
    Reshape,
    Slot,
)

NORMS = frozenset("layer_norm group_norm instance_norm rms_norm".split())
"""Normalisations by the image's own statistics that are one operation."""
STATISTICS = frozenset("std var std_mean var_mean norm linalg_vector_norm sqrt rsqrt".split())
MEANS = frozenset("mean var_mean std_mean".split())
SQUASHES = {"sigmoid": 3, "hardsigmoid": 3, "softmax": 3, "_softmax": 3, "tanh": 2, "softsign": 2}
"""What gives a bounded number, and how surely it gates: of tanh(a) * sigmoid(b) the second factor is the gate. A
rectifier with a ceiling (relu6(x + 3) / 6) is as sure as a tanh."""
ACTIVATED = 1
"""How surely any other activation gates: of silu(a) * b the first factor is the gate (Shazeer 2020, GLU Variants)."""
PRODUCTS = frozenset({"mul", "multiply"})
QUOTIENTS = frozenset({"div", "divide"})
MATRIX_PRODUCTS = frozenset("matmul bmm mm einsum".split())
MOVES = frozenset(
    "expand expand_as repeat repeat_interleave tile unsqueeze squeeze transpose swapaxes permute movedim select slice "
    "narrow chunk split split_with_sizes unbind stack index index_select flip roll upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d mean sum dropout".split()
)
"""What a factor may go through after it was squashed: it is copied, moved, cut or averaged."""
COPIES = frozenset("expand expand_as repeat repeat_interleave tile".split())


@dataclass(frozen=True)
class Role:
    """What a node does for its readers.

    option: the option of a rule that decides how a signal passes it: "activation", "gate" or "norm".
    source: of an activation, the node whose value it is a function of; else None.
    carriers: which of the node's inputs carry the picture while the others are held constant; () where the node is
        itself held, being part of a gate or of a statistic, and where no input can be told from the others.
    told: False for a product of which it cannot be told which factor is the gate.
    """

    option: str
    source: int | None = None
    carriers: tuple[int, ...] = ()
    told: bool = True


def roles(graph: Graph) -> dict[int, Role]:
    """Return the role of each node that has one, by index.

    >>> from torch import nn
    >>> import deconv
    >>> network = deconv.Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.GroupNorm(2, 4)), (3, 8, 8))
    >>> {network.graph.nodes[index].kind: role.option for index, role in roles(network.graph).items()}
    {'silu': 'activation', 'group_norm': 'norm'}
    """
    if graph not in _KNOWN:
        _KNOWN[graph] = _Finder(graph).find()
    return _KNOWN[graph]


_KNOWN: WeakKeyDictionary[Graph, dict[int, Role]] = WeakKeyDictionary()
"""What was found of graphs that are in use."""


class _Finder:
    """Goes through the nodes once, in running order."""

    def __init__(self, graph: Graph):
        self.graph, self.nodes = graph, graph.nodes
        self.roles: dict[int, Role] = {}
        self.squashed: dict[int, int] = {}

    def find(self) -> dict[int, Role]:
        for index, node in enumerate(self.nodes):
            bends = isinstance(node.operation, Call) and not isinstance(node.operation, LinearCall)
            if bends and not self._activation(index):
                self._factor(index)
            if not bends and isinstance(node.operation, LinearCall | Add):
                self._end_of_activation(index)
        return self.roles

    # -- activations

    def _activation(self, index: int) -> bool:
        """Note and return whether a node that bends is a function of one value alone."""
        source = source_of(self.nodes, index)
        if source is None and is_own_function(self.nodes[index], self.nodes):
            source = self.nodes[index].inputs[0]
        if source is None:
            return False
        self._note_activation(index, source)
        return True

    def _end_of_activation(self, index: int) -> None:
        """Note a linear operation that is the end of a known activation, as the half of a GELU."""
        source = source_of(self.nodes, index)
        while source is not None:
            inner = nodes_between(self.nodes, self.nodes[index].inputs, source)
            if any(position in self.roles for position in inner) and named(self.nodes, index, source) is not None:
                self._note_activation(index, source)
                return
            source = source_of(self.nodes, source)

    def _note_activation(self, index: int, source: int) -> None:
        self.roles[index] = Role("activation", source)
        inner = {index, *nodes_between(self.nodes, self.nodes[index].inputs, source)}
        for position in inner:
            rectifies = isinstance(self.nodes[position].operation, Rectifier)
            if rectifies and set(self.graph.consumers[position]) <= inner:
                self.roles[position] = Role("activation")

    # -- factors

    def _factor(self, index: int) -> None:
        """Note a product, a quotient or a normalisation, and what its held factor was made by."""
        node = self.nodes[index]
        if node.kind in NORMS and node.inputs:
            self.roles[index] = Role("norm", carriers=(0,) if len(node.inputs) == 1 else (), told=len(node.inputs) == 1)
        elif node.kind == "glu":
            self.roles[index] = Role("gate", carriers=(0,))
        elif node.kind == "scaled_dot_product_attention":
            value = node.operation.arguments[2] if isinstance(node.operation, Call) else None
            self.roles[index] = Role("gate", carriers=(value.number,) if isinstance(value, Slot) else ())
        elif node.kind in QUOTIENTS and len(node.inputs) == 2:
            self._hold(index, 1)
        elif node.kind in PRODUCTS | MATRIX_PRODUCTS and len(node.inputs) >= 2:
            held = self._held_of(index)
            if held is None:
                self.roles[index] = Role("gate", told=False)
            else:
                self._hold(index, held)

    def _held_of(self, index: int) -> int | None:
        """Which of a product's two inputs is the factor that is held; None if it cannot be told."""
        node = self.nodes[index]
        if len(node.inputs) != 2:
            return None
        detached = [isinstance(self.nodes[source].operation, Detached) for source in node.inputs]
        if any(detached):
            return detached.index(True)
        if node.kind in PRODUCTS:
            whole = [self._size(source) == prod(node.shape) for source in node.inputs]
            if whole.count(True) == 1:
                return whole.index(False)
        first, second = (self._squashed(source) for source in node.inputs)
        return None if first == second else 0 if first > second else 1

    def _hold(self, index: int, held: int) -> None:
        """Note a product or quotient of two inputs of which one is held, and what that one was made by."""
        node = self.nodes[index]
        carrier, factor = node.inputs[1 - held], node.inputs[held]
        gates = node.kind not in QUOTIENTS and self._squashed(factor) > ACTIVATED
        made_by = self._made_by(factor, set(self.graph.ancestors([carrier])), gates)
        statistic = node.kind in QUOTIENTS or (not gates and any(map(self._is_statistic, made_by)))
        option = "norm" if statistic else "gate"
        self.roles[index] = Role(option, carriers=(1 - held,))
        for position in made_by:
            if not (statistic or gates or self.nodes[position].kind in COPIES):
                continue
            known = self.roles.get(position, Role(option))
            if not known.carriers and isinstance(self.nodes[position].operation, Call | Rectifier):
                self.roles[position] = Role(option, known.source)
        mean = self._subtracted_mean(carrier) if statistic else None
        if mean is not None:
            self.roles |= {carrier: Role("norm", carriers=(0,)), mean: Role("norm")}

    def _squashed(self, index: int) -> int:
        """How surely a value gates: by what squashed it last, 0 if nothing did."""
        if index not in self.squashed:
            self.squashed[index] = self._squashed_by(index)
        return self.squashed[index]

    def _squashed_by(self, index: int) -> int:
        node = self.nodes[index]
        operation = node.operation.operation if isinstance(node.operation, Detached) else node.operation
        if isinstance(operation, Rectifier):
            return ACTIVATED if operation.ceiling is None else SQUASHES["tanh"]
        if node.kind in SQUASHES:
            return SQUASHES[node.kind]
        if index in self.roles:
            activated = ACTIVATED if self.roles[index].source is not None else 0
            return self._spelled_squash(index)[0] or activated
        strengths: list[int] = []
        for source in sorted(_passed(node), reverse=True):  # the latest first: a long sum need not be followed
            strengths.append(self._squashed(source))
            if not strengths[-1]:
                break
        return min(strengths, default=0)

    def _spelled_squash(self, index: int) -> tuple[int, int | None]:
        """How surely a sigmoid gates that is written as other operations, and what it is a function of; else 0."""
        source = source_of(self.nodes, index)
        while source is not None:
            strength = SQUASHES.get(named(self.nodes, index, source) or "", 0)
            if strength:
                return strength, source
            source = source_of(self.nodes, source)
        return 0, None

    def _made_by(self, factor: int, carrying: set[int], gates: bool) -> list[int]:
        """The nodes that make a factor of what the carrier knows, or of what was squashed to gate it."""
        made_by: list[int] = []
        pending = [factor]
        while pending:
            index = pending.pop()
            if index in carrying or index in made_by:
                continue
            node = self.nodes[index]
            passed = _passed(node)
            squashes = gates and not passed
            if not (passed or squashes or is_elementwise(node) or self._is_statistic(index)):
                continue
            made_by.append(index)
            if squashes and node.kind not in SQUASHES and index in self.roles:
                source = self._spelled_squash(index)[1]
                made_by.extend([] if source is None else nodes_between(self.nodes, node.inputs, source))
            pending.extend(passed or (() if squashes else node.inputs))
        return made_by

    def _is_statistic(self, index: int) -> bool:
        node = self.nodes[index]
        if node.kind == "pow" and isinstance(node.operation, Call):
            return node.operation.arguments[-1] in (0.5, -0.5)
        divides = node.kind in QUOTIENTS and len(node.inputs) == 2
        return divides or node.kind in STATISTICS or node.kind == "reciprocal"

    def _subtracted_mean(self, index: int) -> int | None:
        """The mean in a difference of a value and its mean; None for anything else."""
        node = self.nodes[index]
        if node.kind not in ("sub", "subtract") or len(node.inputs) != 2 or not isinstance(node.operation, LinearCall):
            return None
        value, mean = node.inputs
        while self.nodes[mean].kind in COPIES:
            mean = self.nodes[mean].inputs[0]
        return mean if self.nodes[mean].kind in MEANS and value in self.nodes[mean].inputs else None

    def _size(self, index: int) -> int:
        """How many different numbers a value has for each image, copies of them not counted."""
        node = self.nodes[index]
        scaled = isinstance(node.operation, LinearCall) and node.kind in LINEAR_ELEMENTWISE and len(node.inputs) == 1
        if node.kind in COPIES or isinstance(node.operation, Reshape | Cast) or scaled:
            return min(self._size(node.inputs[0]), prod(node.shape))
        return prod(node.shape)


def _passed(node: Node) -> tuple[int, ...]:
    """The inputs whose numbers a node hands on, moved, copied, scaled or averaged; () if it does more."""
    operation = node.operation.operation if isinstance(node.operation, Detached) else node.operation
    if node.kind == "expand_as":
        return node.inputs[:1]
    if isinstance(operation, Reshape | Cast | Add | Concatenate):
        return node.inputs
    linear = isinstance(operation, LinearCall) and not isinstance(operation, ChoosingCall)
    return node.inputs if linear and node.kind in MOVES | LINEAR_ELEMENTWISE else ()
