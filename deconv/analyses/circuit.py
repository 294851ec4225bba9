"""The tree of a unit: the lower units that its peaks are made of, and what those are made of, down to layer 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.analyses.features import classes_of_units
from deconv.errors import bad_value
from deconv.images import Source
from deconv.network import Network
from deconv.projection import check_through, dominators_below, layers_below, project, project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import Patches, Peaks, Reconstructions

Place = tuple[float, float]
"""(y, x) in pixels of the input image."""
Pictures = tuple[Reconstructions, Patches]


@dataclass(frozen=True, eq=False)
class TreeUnit:
    """A unit in a tree, with the strongest of the lower units that its peaks are made of.

    - pictures: reconstructions and patches of its own peaks, strongest first; what is shown of them.
    - classes: what its images share, or "".
    - share: its part of the activations of the unit above it, all peaks together; 1 for the unit that the tree is of.
    - shares_of_peaks: its part of each of those activations.
    - places: where it gave most to each of them, the middle of what it saw there; None where it added nothing.
    - above: its reconstruction and patch in that unit's photograph where it gave most; None for the unit that the tree
        is of.
    - rest: what no unit of the lower layer passes on of its own activations; None where the tree ends.
    - around: how much of that paths around the lower layer carry, as a skip connection does; None where the tree ends.
    - for_half: how many lower units, the strongest first, make half of all that units add.
    - children: the strongest of these.
    """

    layer: str
    unit: int
    pictures: Pictures
    classes: str
    share: float
    shares_of_peaks: tuple[float, ...]
    places: tuple[Place | None, ...]
    above: Pictures | None
    rest: float | None
    around: float | None
    for_half: int | None
    children: tuple[TreeUnit, ...]

    @property
    def held(self) -> float:
        """What the lower units that are in the tree pass on together."""
        return sum(child.share for child in self.children)

    def numbers(self) -> dict[str, Any]:
        """Return all numbers of the unit and of those below it; `others` is what units that are not in the tree do."""
        return {
            "layer": self.layer,
            "unit": self.unit,
            "share": self.share,
            "shares_of_peaks": self.shares_of_peaks,
            "places": self.places,
            "scores": self.pictures[0].score.tolist(),
            "classes": self.classes or None,
            "others": None if self.rest is None else 1 - self.rest - self.held,
            "rest": self.rest,
            "around": self.around,
            "units_for_half": self.for_half,
            "made_of": [child.numbers() for child in self.children],
        }


def steps_of(network: Network, layer: str, layers: Sequence[str] | None, count: int, rule: Rule) -> list[str]:
    """Return the layers that a tree goes through from `layer` down: `layers`, or for None `count` of those below.

    These are ones that no path leads around, as a skip connection leads around what lies within its block, unless
    there are none; they are spread evenly from the first to the nearest one, or are all where there are fewer.
    Raises UnknownName, and BadInput unless each is below the one before it.

    >>> import deconv
    >>> net = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3), torch.nn.ReLU()) for _ in range(6)))
    >>> steps_of(deconv.Network(net, (3, 16, 16)), "5.1", None, 3, Rule())
    ['4.1', '2.1', '0.1']
    """
    if layers is None:
        below = [*reversed(dominators_below(network, layer, [rule]) or layers_below(network, layer, [rule]))]
        number = min(count, len(below))
        steps = [below[round(n * (len(below) - 1) / max(number - 1, 1))] for n in range(number)]
    else:
        steps = sorted(layers, key=network.node, reverse=True)
    if not steps:
        raise bad_value("layer", layer, "one with layers below it, which its units are made of")
    remedy = f"layer={layer} is that of the units, layers=[...] are the lower ones that their tree goes through"
    for upper, lower in zip([layer, *steps], steps, strict=False):
        check_through(network, upper, [lower], [rule], argument="layers", remedy=remedy)
    return steps


def units_for_half(shares: Float[Tensor, " units"]) -> int:
    """Return how many units, the strongest first, make half of all that is added; what is taken away does not count.

    >>> units_for_half(torch.tensor([0.1, 0.6, -0.4, 0.2, 0.2]))
    1
    """
    adding = shares.clamp_min(0).sort(descending=True).values.cumsum(0)
    return int((adding < adding[-1] / 2).sum()) + 1


@dataclass(frozen=True, eq=False)
class _Grown:
    """A unit, whatever stands above it: its peaks with their parts, their pictures, and the strongest lower units."""

    recon: Reconstructions
    pictures: Pictures
    shares: Tensor
    strongest: list[int]


def grow_trees(
    network: Network,
    images: Source,
    peaks: Peaks,
    units: Sequence[int],
    layers: Sequence[str],
    branches: Sequence[int],
    rule: Rule,
) -> tuple[list[TreeUnit], dict[str, Reconstructions]]:
    """Return the trees of some units, and the reconstructions, with their parts, of all units in them by layer.

    layers: that of the units, and those that the trees go through, downwards.  branches: how many lower units a unit of
    each layer but the last has at most; a lower unit is in the tree if its share is positive.
    Whatever hangs below a unit is made of that unit's own peaks, wherever the unit stands.
    """
    made: dict[str, Reconstructions] = {}
    levels: list[dict[int, _Grown]] = []
    seen: list[dict[tuple[int, int], Pictures]] = []
    wanted = sorted(set(units))
    for depth, layer in enumerate(layers):
        lower = layers[depth + 1] if depth + 1 < len(layers) else None
        recon = project_peaks(network, images, layer, peaks[layer], wanted, rule, through=[lower] if lower else ())
        made[layer] = recon
        side = recon.zoomed_side if len(recon) else 1
        seen.append(_in_photographs_above(network, images, levels[-1], layer, rule, side) if levels else {})
        shown = recon.zoomed(side)
        patches, level = patches_of(network, images, shown), {}
        for unit in wanted:
            mask = recon.channel == unit
            shares, strongest = torch.zeros(0), []
            if lower:
                shares = recon.of(mask).parts.of_whole(lower)
                order = shares.sort(descending=True, stable=True).indices[: branches[depth]].tolist()
                strongest = [child for child in order if shares[child] > 0 and peaks[lower].found[child, 0]]
            level[unit] = _Grown(recon.of(mask), (shown.of(mask), patches.of(mask)), shares, strongest)
        levels.append(level)
        wanted = sorted({child for grown in level.values() for child in grown.strongest})
    classes = [classes_of_units(images, peaks[layer], list(level)) for layer, level in zip(layers, levels, strict=True)]

    def assemble(depth: int, unit: int, parent: _Grown | None, above: Pictures | None) -> TreeUnit:
        grown, layer = levels[depth][unit], layers[depth]
        children = [assemble(depth + 1, child, grown, seen[depth + 1][unit, child]) for child in grown.strongest]
        count, last = len(grown.recon), depth + 1 == len(layers)
        share, of_peaks = 1.0, [1.0] * count
        places: list[Place | None] = [None] * count
        if parent is not None:
            share = float(parent.shares[unit])
            of_peaks = (parent.recon.parts[layer][:, unit] / parent.recon.score).tolist()
            places = places_in(network, parent.recon, layer, unit)
        return TreeUnit(
            layer=layer,
            unit=unit,
            pictures=grown.pictures,
            classes=classes[depth].get(unit, ""),
            share=share,
            shares_of_peaks=tuple(of_peaks),
            places=tuple(places),
            above=above,
            rest=None if last else float(1 - grown.shares.sum()),
            around=None if last else grown.recon.parts.around_of_whole(layers[depth + 1]),
            for_half=None if last else units_for_half(grown.shares),
            children=tuple(children),
        )

    return [assemble(0, unit, None, None) for unit in units], made


def places_in(network: Network, recon: Reconstructions, layer: str, unit: int) -> list[Place | None]:
    """Return where a lower unit gave most to each activation, the middle of its field; None where it added nothing."""
    field, places = network.receptive_field(layer), []
    parts = zip(recon.parts[layer][:, unit].tolist(), recon.parts.positions[layer][:, unit].tolist(), strict=True)
    for share, (row, col) in parts:
        y0, x0, y1, x1 = field.box(max(row, 0), max(col, 0))
        places.append(((y0 + y1) / 2, (x0 + x1) / 2) if share > 0 else None)
    return places


def _in_photographs_above(
    network: Network, images: Source, upper: Mapping[int, _Grown], layer: str, rule: Rule, side: int
) -> dict[tuple[int, int], Pictures]:
    """By (unit, lower unit), the lower one sent back from where it gave most to any peak of the upper one."""
    pairs = [(unit, child) for unit, grown in upper.items() for child in grown.strongest]
    if not pairs:
        return {}
    image, row, col = [], [], []
    for unit, child in pairs:
        recon = upper[unit].recon
        peak = int(recon.parts[layer][:, child].argmax())
        image.append(int(recon.image[peak]))
        row.append(int(recon.parts.positions[layer][peak, child, 0]))
        col.append(int(recon.parts.positions[layer][peak, child, 1]))
    channel = [child for _, child in pairs]
    shown = project(network, images, layer, image, channel, row, col, rule).zoomed(side)
    patches = patches_of(network, images, shown)
    numbers = torch.arange(len(pairs)).split(1)
    return {pair: (shown.of(n), patches.of(n)) for pair, n in zip(pairs, numbers, strict=True)}
