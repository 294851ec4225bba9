"""How far a network's features move when the picture moves (paper, section 4.1 "Feature Invariance", Fig. 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deconv.analyses.reframing import Move
from deconv.errors import BadInput
from deconv.network import Network
from deconv.network.classes import class_layer, probabilities

KINDS = {"translation": "down", "scale": "scale", "rotation": "degrees"}
"""What may be done to a picture, and which number of a Move says how much."""
UNMOVED = {"translation": 0.0, "scale": 1.0, "rotation": 0.0}


@dataclass(frozen=True, eq=False)
class Response:
    """Of M pictures, for each layer the Euclidean distance (M,) from the reference's features, and the probabilities.

    distance: {layer: (M,) float32}. probability: (M, classes) float32.
    """

    distance: dict[str, Tensor]
    probability: Tensor


def amounts(kind: str, first_last_step: Sequence[float | int]) -> list[float]:
    """The numbers from the first up to the last, by step. Raises BadInput for what is no such range."""
    given = list(first_last_step)
    if len(given) != 3 or given[2] <= 0 or given[1] < given[0] or (kind == "scale" and given[0] <= 0):
        raise BadInput(f"{kind}={given}: expected [first, last, step] with last >= first, step > 0 (and scales > 0).")
    first, last, step = given
    count = math.floor((last - first) / step + 1e-6) + 1
    return [round(float(first + number * step), 9) for number in range(count)]


def moves(kind: str, values: Sequence[float | int]) -> list[Move]:
    """One Move for each amount of one kind of KINDS."""
    return [Move(**{KINDS[kind]: value}) for value in values]


def smallest(kind: str, values: Sequence[float | int]) -> list[int]:
    """Numbers of the amounts that move the picture least, but do move it: -5 and 5 pixels, or 10 and 350 degrees."""
    sizes = [_size_of_move(kind, value) for value in values]
    least = min((size for size in sizes if size > 0), default=0.0)
    return [number for number, size in enumerate(sizes) if size == least > 0]


def _size_of_move(kind: str, value: float | int) -> float:
    away = abs(value - UNMOVED[kind])
    return round(min(away % 360, -away % 360) if kind == "rotation" else away, 9)


def respond(
    network: Network, reference: Tensor, pictures: Tensor, layers: Sequence[str], batch_size: int = 16
) -> Response:
    """How the features of preprocessed pictures (M, 3, H, W) differ from those of one, the reference (3, H, W)."""
    still = {layer: value.flatten(1) for layer, value in network.forward(reference[None], layers).items()}
    away: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    likely: list[Tensor] = []
    scores = class_layer(network)
    for some in pictures.split(batch_size):
        values = network.forward(some, [*layers, scores])
        for layer in layers:
            away[layer].append((values[layer].flatten(1) - still[layer]).norm(dim=1).float().cpu())
        likely.append(probabilities(network, values[scores]))
    return Response({layer: torch.cat(parts) for layer, parts in away.items()}, torch.cat(likely))


def spread(network: Network, pictures: Tensor, layers: Sequence[str]) -> dict[str, float]:
    """{layer: mean Euclidean distance between the features of two different pictures}, of (M, 3, H, W), M at least 2.

    The unit in which moves are told: at 1 a moved picture is as far from itself as another picture is.
    Raises BadInput for fewer pictures, and for a layer in which all are the same.
    """
    if len(pictures) < 2:
        raise BadInput("1 image was given; expected two or more: distances are told in those between different images.")
    features = network.forward(pictures, layers)
    found = {layer: float(torch.pdist(value.flatten(1).float()).mean()) for layer, value in features.items()}
    for layer, distance in found.items():
        if distance == 0:
            raise BadInput(f"layer {layer} is the same for all {len(pictures)} images; choose another layer or images.")
    return found
