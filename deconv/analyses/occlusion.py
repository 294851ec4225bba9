"""A grey square over every place of an image: what that does to a map and the classes (paper, section 4.2, Fig. 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deconv.errors import BadInput
from deconv.network import Network, as_map
from deconv.network.classes import class_layer, probabilities
from deconv.network.graph import evaluate
from deconv.network.incremental import forward_changed
from deconv.progress import track


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What a square of `square` pixels does to one image, wherever it lies.

    rows (R,), cols (C,) int64: the square's first row and column at each place.
    activity (R, C) float32: the unit's activations summed over its map; activity_before: without the square.
    probability (R, C, classes) float32; probability_before (classes,).
    """

    layer: str
    unit: int
    square: int
    rows: Tensor
    cols: Tensor
    activity: Tensor
    activity_before: float
    probability: Tensor
    probability_before: Tensor

    @property
    def drop(self) -> Tensor:
        """(R, C) how much less active the map is; negative where it is more active."""
        return self.activity_before - self.activity


def places(size: int, square: int, stride: int) -> Tensor:
    """First pixels (n,) int64 of a square that slides by `stride` within `size` pixels; what is left is shared evenly.

    Raises BadInput if the square does not fit, or for a square or a stride below 1.
    """
    if square < 1 or stride < 1:
        raise BadInput(f"square={square}, stride={stride}: expected 1 or more pixels each.")
    if square > size:
        raise BadInput(f"square={square}: the image has only {size} pixels a side; expected a square that fits.")
    return torch.arange((size - square) % stride // 2, size - square + 1, stride)


def strongest_unit(network: Network, image: Tensor, layer: str) -> int:
    """The unit of `layer` whose activations on one preprocessed image (3, H, W) have the largest sum over its map."""
    return int(network.forward(image[None], [layer])[layer].sum(dim=(2, 3))[0].argmax())


def occlude(
    network: Network,
    image: Tensor,
    layer: str,
    unit: int,
    square: int = 50,
    stride: int = 3,
    colour: Tensor | None = None,
    batch_size: int = 64,
    incremental: bool = True,
) -> Occlusion:
    """Lay the square over every place of one preprocessed image (3, H, W) and run the network on each.

    colour (3,): of the square, preprocessed; None is zero, the mean colour that preprocessing takes away.
    incremental: compute again only what the square reaches; the answer is the same to the rounding of sums.
    Raises BadInput for a square that does not fit and a network without class outputs, UnknownName for a layer.
    """
    image = network.check_images(image[None])
    rows, cols = places(image.shape[2], square, stride), places(image.shape[3], square, stride)
    filling = image.new_zeros(image.shape[1]) if colour is None else colour.to(image)
    patch = filling[None, :, None, None].expand(-1, -1, square, square)
    layers = [layer, class_layer(network)]
    forward = _forward_changed if incremental else _forward_whole
    starts = torch.cartesian_prod(rows, cols).split(batch_size)
    before = _measure(network, unit, *network.forward(image, layers).values())
    seen = [_measure(network, unit, *values) for values in forward(network, image, layers, patch, _tracked(starts))]
    activity, probability = (torch.cat(values) for values in zip(*seen, strict=True))
    grid = (len(rows), len(cols))
    after = activity.view(grid), probability.view(*grid, -1)
    return Occlusion(layer, unit, square, rows, cols, after[0], float(before[0]), after[1], before[1][0])


def _tracked(starts: Sequence[Tensor]) -> Iterator[Tensor]:
    return track(starts, "occluding", sum(map(len, starts)), unit="places", size=len)


def _measure(network: Network, unit: int, maps: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) sums over the unit's map and (N, classes) probabilities."""
    return maps[:, unit].float().sum(dim=(1, 2)).cpu(), probabilities(network, scores)


def _forward_whole(
    network: Network, image: Tensor, layers: Sequence[str], patch: Tensor, starts: Iterable[Tensor]
) -> Iterator[list[Tensor]]:
    """The layers' values for each batch of places, of whole images."""
    square = patch.shape[-1]
    for start in starts:
        images = image.repeat(len(start), 1, 1, 1)
        for one, (row, col) in zip(images, start.tolist(), strict=True):
            one[:, row : row + square, col : col + square] = patch[0]
        yield list(network.forward(images, layers).values())


def _forward_changed(
    network: Network, image: Tensor, layers: Sequence[str], patch: Tensor, starts: Iterable[Tensor]
) -> Iterator[list[Tensor]]:
    """As `_forward_whole`, computing only what the patch reaches."""
    size = (image.shape[2], image.shape[3])
    graph, targets = network.graph_at(size), [network.node(layer, size) for layer in layers]
    with torch.no_grad():
        unchanged = evaluate(graph, image, graph.ancestors(targets))
        for start in starts:
            values = forward_changed(graph, unchanged, patch.expand(len(start), -1, -1, -1), start, targets)
            yield [as_map(values[target]) for target in targets]


def energy_under(pixels: Tensor, occlusion: Occlusion) -> Tensor:
    """(R, C): the sum of squares of a reconstruction (3, H, W) under the square, at each place of it."""
    sums = F.pad(pixels.double().square().sum(0).cumsum(0).cumsum(1), (1, 0, 1, 0))
    top, left = occlusion.rows[:, None], occlusion.cols
    bottom, right = top + occlusion.square, left + occlusion.square
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's, over all entries of two maps of one shape; None where a map is flat."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (one, other))
    flat = bool(np.ptp(a) == 0 or np.ptp(b) == 0)
    return None if flat else float(np.corrcoef(a, b)[0, 1])


def agreement(seen: Occlusion, label: int, own: Tensor, controls: Tensor) -> dict[str, object]:
    """Correlation, over places, of what the square takes away with the energy of projections that it covers.

    own (1, 3, H, W): the map's projection on the whole image; controls (n, 3, H, W): those of other units there.
    activity, probability: of the fall of the map, and of the class `label`, with its own projection. controls: of the
    map's fall with the others; only their number where fewer than two, or the own one, have a correlation.
    """
    fall = seen.probability_before[label] - seen.probability[..., label]
    energy = energy_under(own[0], seen)
    ours = correlation(seen.drop, energy)
    found = [correlation(seen.drop, energy_under(pixels, seen)) for pixels in controls]
    others = torch.tensor([value for value in found if value is not None], dtype=torch.float64)
    told: dict[str, object] = {"activity": ours, "probability": correlation(fall, energy)}
    if ours is None or len(others) < 2:
        return told | {"controls": {"units": len(others)}}
    spread = {"mean": others.mean(), "deviation": others.std(), "highest": others.max()}
    return told | {"controls": {"units": len(others), "share_below": (others < ours).double().mean(), **spread}}
