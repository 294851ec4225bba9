"""What units answer to windows that were never photographs: filled, masked, or made of a reconstruction."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network import Network, as_map
from deconv.network.graph import Graph, evaluate
from deconv.network.receptive_field import Cone, cone
from deconv.projection.passes import backward, forward
from deconv.projection.rules import Rule, as_rule
from deconv.projection.seed import SeedConvolution, seed_convolution
from deconv.projection.strategies import chunk_size
from deconv.projection.tapered import places
from deconv.projection.windows import WholeMaps, Windows
from deconv.records import recut, whole_boxes

PLAIN = Rule()


def layer_responses(
    network: Network, layer: str, windows: Float[Tensor, "N C h w"], positions: Int[Tensor, "N 2"]
) -> Float[Tensor, "N units"]:
    """Return the activations of all units of a layer, each at its position (row, col), seeing only its window.

    windows: the receptive field's pixels as the network's input; what lies outside the image is ignored. They are left
    as they are, and the activations are on their device.
    """
    return _respond(network, layer, windows, positions, None)


def unit_responses(
    network: Network,
    layer: str,
    windows: Float[Tensor, "N C h w"],
    positions: Int[Tensor, "N 2"],
    channel: Int[Tensor, " N"],
    size: tuple[int, int] | None = None,
    whole: bool = False,
) -> Float[Tensor, " N"]:
    """Return the activation of unit channel[n] alone, column channel[n] of `layer_responses`, with less work.

    size: (H, W) of the images that the windows are cut out of; None is the network's input size. whole: whether the
    windows are the images themselves, also where units do not need all of them.
    """
    return _respond(network, layer, windows, positions, channel, size, whole)


def unit_gradients(
    network: Network,
    layer: str,
    windows: Float[Tensor, "N C h w"],
    positions: Int[Tensor, "N 2"],
    channel: Int[Tensor, " N"],
    size: tuple[int, int] | None = None,
    whole: bool = False,
) -> Float[Tensor, "N C h w"]:
    """Return the derivative of unit channel[n]'s activation by its window, zero outside the image.

    The arguments are those of `unit_responses`. Raises UnsupportedOperation where there is no derivative.
    """
    graph, target = network.graph_at(size), network.node(layer, size)
    cone_of_layer, gradient = cone(graph, target), as_rule("gradient")
    if not whole and not cone_of_layer.windowable:
        boxes, images = window_boxes(network, layer, positions, size)
        gradients = unit_gradients(network, layer, recut(windows, boxes, images), positions, channel, size, whole=True)
        return recut(gradients, images, boxes)
    gradients = torch.empty_like(windows)
    for chunk in _slices(len(windows), chunk_size(graph, cone_of_layer, "whole" if whole else "window")):
        inputs, on_device = network.check_images(windows[chunk]).clone(), positions[chunk].to(network.device)
        maps = WholeMaps(graph, on_device) if whole else Windows(graph, cone_of_layer, on_device)
        with torch.no_grad():
            value, tape, _ = forward(graph, target, inputs, [gradient], maps)
            signal = torch.zeros_like(value)
            peak, row, col = places(maps, target)
            as_map(signal)[peak, channel[chunk].to(network.device), row, col] = 1
            gradients[chunk] = backward(graph, target, signal, tape, gradient, maps).to(gradients)
    return gradients


def window_boxes(
    network: Network, layer: str, positions: Int[Tensor, "N 2"], size: tuple[int, int] | None
) -> tuple[Int[Tensor, "N 4"], Int[Tensor, "N 4"]]:
    """Return where windows lie, and the images that they are cut out of: what a unit does not see may be zero there."""
    images = whole_boxes(len(positions), size or network.input_shape[1:])
    return network.receptive_field(layer, size).boxes(positions.cpu()), images


def _respond(
    network: Network,
    layer: str,
    windows: Tensor,
    positions: Tensor,
    channel: Tensor | None,
    size: tuple[int, int] | None = None,
    whole: bool = False,
) -> Tensor:
    graph, target = network.graph_at(size), network.node(layer, size)
    if not len(windows):
        return torch.zeros((0, network.channels(layer)) if channel is None else 0, device=windows.device)
    cone_of_layer, seed = cone(graph, target), seed_convolution(graph, target)
    if not whole and not cone_of_layer.windowable:
        windows, whole = recut(windows, *window_boxes(network, layer, positions, size)), True
    responses = []
    for chunk in _slices(len(windows), chunk_size(graph, cone_of_layer, "whole" if whole else "window")):
        inputs = network.check_images(windows[chunk]).clone()  # windows are worked on in place
        units = None if channel is None else channel[chunk].to(inputs.device)
        with torch.no_grad():
            places = positions[chunk].to(inputs.device)
            responses.append(_respond_to(graph, cone_of_layer, None if whole else seed, inputs, places, units, whole))
    return torch.cat([response.float().to(windows.device) for response in responses])


def _slices(count: int, most: int) -> list[slice]:
    """All of `count`, up to `most` at a time."""
    return [slice(start, start + most) for start in range(0, count, most)]


def _respond_to(
    graph: Graph,
    cone_of_layer: Cone,
    seed: SeedConvolution | None,
    windows: Tensor,
    positions: Tensor,
    channel: Tensor | None,
    whole: bool,
) -> Tensor:
    target, peak = cone_of_layer.target, torch.arange(len(windows), device=windows.device)
    if whole:
        maps = as_map(evaluate(graph, windows, [target])[target])
        response = maps[peak, :, positions[:, 0], positions[:, 1]]
        return response if channel is None else response[peak, channel]
    cut = Windows(graph, cone_of_layer, positions)
    if channel is None or seed is None:
        response = forward(graph, target, windows, [], cut)[0][:, :, 0, 0]
        return response if channel is None else response[peak, channel]
    below = forward(graph, seed.source, windows, [], cut)[0]
    return seed.forward(cut.read(seed.index, seed.source, below), channel, PLAIN)[0]
