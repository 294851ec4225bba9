"""Maps made large: the unit's own activation map, and Grad-CAM."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.errors import UnsupportedOperation
from deconv.network import Network, as_map
from deconv.network.graph import evaluate


def activation_map(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
) -> Float[Tensor, "N C H W"]:
    """Return the unit's own map made as large as the input, the same in every colour; (row, col) has no part in it.

    Between the centres of the receptive fields of its positions it is interpolated, beyond the outermost it goes on
    (Bau et al. 2017, arXiv 1704.05796, section 2). A unit of one position gives a flat picture.
    """
    maps = network.forward(inputs, [layer])[layer]
    return _enlarged(network, layer, maps[torch.arange(len(maps)), channel], inputs)


def grad_cam(
    network: Network,
    inputs: Float[Tensor, "N C H W"],
    layer: str,
    channel: Int[Tensor, " N"],
    row: Int[Tensor, " N"],
    col: Int[Tensor, " N"],
) -> Float[Tensor, "N C H W"]:
    """Return Grad-CAM of units that see the whole image, such as class scores.

    The maps of the last layer of maps below them are added up, each by the mean of the derivative over its positions;
    what is above zero is made as large as the input, as in `activation_map`. Of a layer of maps it is taken at the
    layer itself, and so is the unit's own map. Source: Selvaraju et al. 2017, arXiv 1610.02391, section 3.
    Raises UnsupportedOperation for a layer that has no layer of maps below it.
    """
    size = (inputs.shape[2], inputs.shape[3])
    graph, target = network.graph_at(size), network.node(layer, size)
    below = set(graph.ancestors([target]))
    names = [name for name, node in graph.layers.items() if node in below and graph.nodes[node].map_size != (1, 1)]
    if graph.nodes[target].map_size != (1, 1):
        names = [layer]
    if not names:
        raise UnsupportedOperation(f"grad_cam: {layer} has no layer of maps below it; choose another explanation")
    source = network.node(names[-1], size)
    with torch.inference_mode(False), torch.enable_grad():
        values = evaluate(graph, network.check_images(inputs).requires_grad_(), {source, target})
        answers = as_map(values[target])[torch.arange(len(inputs)), channel, row, col]
        (derivative,) = torch.autograd.grad(answers.sum(), values[source], materialize_grads=True)
    weights = derivative.mean(dim=(2, 3), keepdim=True)
    return _enlarged(network, names[-1], torch.relu((weights * values[source].detach()).sum(dim=1)), inputs)


def _enlarged(network: Network, layer: str, maps: Tensor, inputs: Tensor) -> Tensor:
    """Maps (N, rows, cols) of a layer as pictures (N, C, H, W)."""
    size = (inputs.shape[2], inputs.shape[3])
    field = network.receptive_field(layer, size)
    spreading = []
    for axis, (positions, pixels) in enumerate(zip(maps.shape[1:], size, strict=True)):
        at = [(position, 0) if axis == 0 else (0, position) for position in range(positions)]
        centres = torch.tensor([field.box(*position)[axis] + (field.size[axis] - 1) / 2 for position in at])
        spreading.append(_interpolation(centres, pixels).to(maps))
    rows, cols = spreading
    return (rows @ maps @ cols.T)[:, None].to(inputs.dtype).expand_as(inputs)


def _interpolation(centres: Tensor, pixels: int) -> Tensor:
    """The matrix (pixels, positions) that interpolates values at centres, rising, linearly; it is flat beyond them."""
    matrix = torch.zeros(pixels, len(centres))
    pixel = torch.arange(pixels).float()
    if len(centres) == 1:
        return matrix + 1
    left = (torch.searchsorted(centres, pixel, right=True) - 1).clamp(0, len(centres) - 2)
    share = ((pixel - centres[left]) / (centres[left + 1] - centres[left]).clamp(min=1e-6)).clamp(0, 1)
    matrix[torch.arange(pixels), left] = 1 - share
    matrix[torch.arange(pixels), left + 1] = share
    return matrix
