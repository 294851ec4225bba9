"""A grey square over every place of an image: what that does to a map and the classes (paper, section 4.2, Fig. 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network import Network
from deconv.network.classes import class_layer, probabilities
from deconv.network.squares import forward_covered, places
from deconv.progress import track


@dataclass(frozen=True, eq=False)
class Occlusion:
    """What a square of `square` pixels does to one image, wherever it lies.

    rows, cols: the square's first row and column at each position. activity: the unit's activations summed over its
    map. probability: of the classes. activity_before, probability_before: without the square.
    """

    layer: str
    unit: int
    square: int
    rows: Int[Tensor, " R"]
    cols: Int[Tensor, " C"]
    activity: Float[Tensor, "R C"]
    activity_before: float
    probability: Float[Tensor, "R C classes"]
    probability_before: Float[Tensor, " classes"]

    @property
    def drop(self) -> Float[Tensor, "R C"]:
        """How much less active the map is; negative where it is more active."""
        return self.activity_before - self.activity


def strongest_unit(network: Network, image: Float[Tensor, "C H W"], layer: str) -> int:
    """Return the unit of `layer` whose activations on one preprocessed image have the largest sum over its map."""
    return int(network.forward(image[None], [layer])[layer].sum(dim=(2, 3))[0].argmax())


def occlude(
    network: Network,
    image: Float[Tensor, "C H W"],
    layer: str,
    unit: int,
    square: int = 50,
    stride: int = 3,
    colour: Float[Tensor, " C"] | None = None,
    batch_size: int = 64,
    incremental: bool = True,
) -> Occlusion:
    """Lay the square over every position of one preprocessed image and run the network on each.

    colour: of the square, preprocessed; None is zero, the mean colour that preprocessing takes away.
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
    """Return (N,) sums over the unit's map and (N, classes) probabilities."""
    return maps[:, unit].float().sum(dim=(1, 2)).cpu(), probabilities(network, scores)


def _forward_whole(
    network: Network, image: Tensor, layers: Sequence[str], patch: Tensor, starts: Iterable[Tensor]
) -> Iterator[list[Tensor]]:
    """The layers' values for each batch of places, of whole images."""
    square = patch.shape[-1]
    for start in starts:
        images = image.repeat(len(start), 1, 1, 1)
        for occluded, (row, col) in zip(images, start.tolist(), strict=True):
            occluded[:, row : row + square, col : col + square] = patch[0]
        yield list(network.forward(images, layers).values())


def _forward_changed(
    network: Network, image: Tensor, layers: Sequence[str], patch: Tensor, starts: Iterable[Tensor]
) -> Iterator[list[Tensor]]:
    """The layers' values for each batch of places, computing only what the patch reaches."""
    return forward_covered(network, image, layers, ((start, patch.expand(len(start), -1, -1, -1)) for start in starts))


def energy_under(pixels: Float[Tensor, "channels H W"], occlusion: Occlusion) -> Float[Tensor, "R C"]:
    """Return the sum of squares of a reconstruction under the square, at each position of it."""
    sums = F.pad(pixels.double().square().sum(0).cumsum(0).cumsum(1), (1, 0, 1, 0))
    top, left = occlusion.rows[:, None], occlusion.cols
    bottom, right = top + occlusion.square, left + occlusion.square
    return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Return Pearson's correlation over all entries of two maps of one shape; None where a map is flat."""
    a, b = (np.asarray(values, dtype=np.float64).ravel() for values in (one, other))
    flat = bool(np.ptp(a) == 0 or np.ptp(b) == 0)
    return None if flat else float(np.corrcoef(a, b)[0, 1])


def agreement(
    seen: Occlusion, label: int, own: Float[Tensor, "1 C H W"], controls: Float[Tensor, "n C H W"]
) -> dict[str, object]:
    """Return how what the square takes away correlates, over its positions, with the energy of what it covers.

    own: the map's projection on the whole image; controls: those of other units there. In the result "activity" and
    "probability" are the correlations of the fall of the map, and of the class `label`, with the map's own projection;
    "controls" sums up those of the map's fall with the other projections, and has only their number where fewer than
    two of them, or the map's own one, have a correlation.
    """
    fall = seen.probability_before[label] - seen.probability[..., label]
    energy = energy_under(own[0], seen)
    with_own = correlation(seen.drop, energy)
    with_each = [correlation(seen.drop, energy_under(pixels, seen)) for pixels in controls]
    with_others = torch.tensor([value for value in with_each if value is not None], dtype=torch.float64)
    result: dict[str, object] = {"activity": with_own, "probability": correlation(fall, energy)}
    if with_own is None or len(with_others) < 2:
        return result | {"controls": {"units": len(with_others)}}
    spread = {"mean": with_others.mean(), "deviation": with_others.std(), "highest": with_others.max()}
    share_below = (with_others < with_own).double().mean()
    return result | {"controls": {"units": len(with_others), "share_below": share_below, **spread}}
