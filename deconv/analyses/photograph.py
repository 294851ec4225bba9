"""One photograph: what a network's units find in it, layer by layer, and what the network takes it for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from deconv.analyses.choosing import listed_shares
from deconv.errors import BadInput
from deconv.network import Network
from deconv.network.classes import class_layer, probabilities
from deconv.records import LayerPeaks, Patches, Reconstructions

ANSWERS, LEAST_PROBABLE = 5, 0.01
"""Classes that are named, at most, and how probable each of them is at least, but for the first."""


@dataclass(frozen=True, eq=False)
class SeenLayer:
    """What some units of a layer answer to in one photograph, beside what they answer to most elsewhere.

    - layer: its name.
    - here: one reconstruction a unit, where it is strongest on the photograph.
    - maps: each of these units' own map, as large as the photograph.
    - best: reconstructions and patches of these units' strongest peaks over other images; none of a unit dead there.
    - numbers: as `deconv.analyses.features.summarise` returns them, with those of `numbers_here`.
    - k: how many peaks a unit has room for.
    """

    layer: str
    here: Reconstructions
    maps: Float[Tensor, "n H W"]
    best: tuple[Reconstructions, Patches]
    numbers: dict[str, Any]
    k: int


def numbers_here(here: LayerPeaks, reference: LayerPeaks, recon: Reconstructions) -> dict[str, Any]:
    """Return how strongly one photograph excites a layer, and the units that are shown of it.

    here: the strongest peak on it of every unit.  reference: peaks of the same units over many images.  recon: of the
    units that are shown, at their peaks on the photograph. In the result `firing_here` counts units, `half_here` those
    that reach half of their strongest; `share_of_strongest` is None for a unit that is dead in the reference.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
    >>> images = torch.randn(6, 1, 8, 8)
    >>> many, here = deconv.mine(network, images, ["1"], k=1)["1"], deconv.mine(network, images[:1], ["1"], k=1)["1"]
    >>> recon = deconv.project_peaks(network, images[:1], "1", here, [3])
    >>> sorted(numbers_here(here, many, recon))
    ['firing_here', 'half_here', 'positions_here', 'scores_here', 'share_of_strongest']
    """
    shares = listed_shares(here, reference)
    return {
        "firing_here": int(here.found.any(dim=1).sum()),
        "half_here": sum(share is not None and share >= 0.5 for share in shares),
        "share_of_strongest": [shares[unit] for unit in recon.channel.tolist()],
        "scores_here": [round(score, 6) for score in recon.score.tolist()],
        "positions_here": [list(position) for position in zip(recon.row.tolist(), recon.col.tolist(), strict=True)],
    }


def answers(network: Network, photograph: UInt8[Tensor, "C H W"], names: Sequence[str]) -> list[tuple[str, float]]:
    """Return the classes that a network finds most probable, with their probabilities; none where it has no classes.

    photograph: the input image, before normalisation.  names: of all classes; those of another number are not theirs.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten())
    >>> preprocessing = deconv.Preprocessing((8, 8), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> network = deconv.Network(module, (3, 8, 8), preprocessing=preprocessing)
    >>> named = answers(network, torch.zeros(3, 8, 8, dtype=torch.uint8), ["cat", "dog"])
    >>> sorted(name for name, _ in named), round(sum(probability for _, probability in named), 3)
    (['cat', 'dog'], 1.0)
    """
    scored = outputs(network, names)
    if scored is None:
        return []
    layer, classes = scored
    scores = network.forward(network.needed_preprocessing().normalize(photograph[None]), [layer])[layer]
    likely = probabilities(network, scores)[0].sort(descending=True, stable=True)
    named = zip(likely.indices[:ANSWERS].tolist(), likely.values.tolist(), strict=False)
    return [(classes[n], p) for rank, (n, p) in enumerate(named) if rank == 0 or p >= LEAST_PROBABLE]


def outputs(network: Network, names: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the layer that holds the class scores, and a name for each class; None where there is none, or no names.

    >>> import deconv, torch
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 8), torch.nn.Flatten()), (3, 8, 8))
    >>> outputs(network, ["cat", "dog"]), outputs(network, ["cat"])
    (('1', ['cat', 'dog']), None)
    """
    try:
        layer = class_layer(network)
    except BadInput:  # it has no class scores
        return None
    return (layer, list(names)) if network.channels(layer) == len(names) else None
