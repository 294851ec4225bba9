"""A square laid over an image, wherever it may lie: its places, and what a network then answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import bad_value, check_count
from deconv.network import Network, as_map
from deconv.network.graph import evaluate
from deconv.network.incremental import forward_changed


def places(size: int, square: int, stride: int) -> Int[Tensor, " n"]:
    """Return the first pixels of a square that slides by `stride` within `size` pixels; what is left is shared evenly.

    Raises BadInput if the square does not fit, or for a square or a stride below 1.
    """
    check_count("square", square)
    check_count("stride", stride)
    if square > size:
        raise bad_value("square", square, f"a square that fits into the image of {size} pixels a side")
    return torch.arange((size - square) % stride // 2, size - square + 1, stride)


def forward_covered(
    network: Network,
    image: Float[Tensor, "1 C H W"],
    layers: Sequence[str],
    covers: Iterable[tuple[Tensor, Tensor]],
) -> Iterator[list[Tensor]]:
    """Yield, for each batch of covers, the layers' maps of one preprocessed image with each cover laid over it.

    covers: batches of N, of (first row and column (N, 2), the pixels that lie there (N, C, h, w)). Maps are (N, units,
    rows, cols). Only what a cover reaches is computed again; to the rounding of sums the answer is whole images'.
    """
    size = (image.shape[2], image.shape[3])
    graph, targets = network.graph_at(size), [network.node(layer, size) for layer in layers]
    with torch.no_grad():
        unchanged = evaluate(graph, image, graph.ancestors(targets))
        for start, pixels in covers:
            values = forward_changed(graph, unchanged, pixels, start, targets)
            yield [as_map(values[target]) for target in targets]
