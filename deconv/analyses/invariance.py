"""How far a network's features move when the picture moves (paper, section 4.1 "Feature Invariance", Fig. 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.analyses.reframing import Move
from deconv.errors import BadInput, bad_value
from deconv.network import Network
from deconv.network.classes import class_layer, probabilities

KINDS = {"translation": "down", "scale": "scale", "rotation": "degrees"}
"""What may be done to a picture, and which number of a Move says how much."""
UNMOVED = {"translation": 0.0, "scale": 1.0, "rotation": 0.0}


@dataclass(frozen=True, eq=False)
class Response:
    """How the network answers M pictures.

    distance: for each layer, the Euclidean distance of their features from those of the reference. probability: that
    of the classes.
    """

    distance: dict[str, Float[Tensor, " M"]]
    probability: Float[Tensor, "M classes"]


def amounts(kind: str, first_last_step: Sequence[float | int]) -> list[float]:
    """Return the numbers from the first up to the last, by step. Raises BadInput for what is no such range."""
    limits = list(first_last_step)
    if len(limits) != 3 or limits[2] <= 0 or limits[1] < limits[0] or (kind == "scale" and limits[0] <= 0):
        raise bad_value(kind, limits, "[first, last, step] with last >= first, step > 0 (and scales > 0)")
    first, last, step = limits
    count = math.floor((last - first) / step + 1e-6) + 1
    return [round(float(first + number * step), 9) for number in range(count)]


def moves(kind: str, values: Sequence[float | int]) -> list[Move]:
    """Return a Move for each amount of one kind of KINDS."""
    return [Move(**{KINDS[kind]: value}) for value in values]


def smallest(kind: str, values: Sequence[float | int]) -> list[int]:
    """Return which amounts move the picture least, but do move it: those of -5 and 5 pixels, or 10 and 350 degrees."""
    sizes = [_size_of_move(kind, value) for value in values]
    least = min((size for size in sizes if size > 0), default=0.0)
    return [number for number, size in enumerate(sizes) if size == least > 0]


def _size_of_move(kind: str, value: float | int) -> float:
    away = abs(value - UNMOVED[kind])
    return round(min(away % 360, -away % 360) if kind == "rotation" else away, 9)


def respond(
    network: Network,
    reference: Float[Tensor, "C H W"],
    pictures: Float[Tensor, "M C H W"],
    layers: Sequence[str],
    batch_size: int = 16,
) -> Response:
    """Return how the features of preprocessed pictures differ from those of one of them, the reference."""
    still = {layer: value.flatten(1) for layer, value in network.forward(reference[None], layers).items()}
    away: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    likely: list[Tensor] = []
    scores = class_layer(network)
    for batch in pictures.split(batch_size):
        values = network.forward(batch, [*layers, scores])
        for layer in layers:
            away[layer].append((values[layer].flatten(1) - still[layer]).norm(dim=1).float().cpu())
        likely.append(probabilities(network, values[scores]))
    return Response({layer: torch.cat(parts) for layer, parts in away.items()}, torch.cat(likely))


def spread(network: Network, pictures: Float[Tensor, "M C H W"], layers: Sequence[str]) -> dict[str, float]:
    """Return {layer: mean Euclidean distance between the features of two different pictures}, of two or more of them.

    This is the unit of a moved picture's distances: at 1 it is as far from itself as another picture is.
    Raises BadInput for fewer pictures, and for a layer in which all are the same.
    """
    if len(pictures) < 2:
        raise BadInput("given 1 image; expected two or more: distances are in units of those between different images")
    features = network.forward(pictures, layers)
    distances = {layer: float(torch.pdist(value.flatten(1).float()).mean()) for layer, value in features.items()}
    for layer, distance in distances.items():
        if distance == 0:
            raise BadInput(f"layer {layer} is the same for all {len(pictures)} images; choose another layer or images")
    return distances
