"""What units answer to windows that were never photographs: filled, masked, or made of a reconstruction."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.network import Network, as_map
from deconv.network.graph import evaluate
from deconv.network.receptive_field import Cone, cone
from deconv.projection.passes import forward
from deconv.projection.rules import Rule
from deconv.projection.seed import SeedConvolution, seed_convolution
from deconv.projection.strategies import chunk_size
from deconv.projection.windows import Windows
from deconv.records import recut

PLAIN = Rule()


def layer_responses(
    network: Network, layer: str, windows: Float[Tensor, "N C h w"], positions: Int[Tensor, "N 2"]
) -> Float[Tensor, "N units"]:
    """Return the activations of all units of a layer, each at its position (row, col), seeing only its window.

    windows: the receptive field's pixels as the network's input; what lies outside the image is ignored. They are left
    as they are.
    """
    return _respond(network, layer, windows, positions, None)


def unit_responses(
    network: Network,
    layer: str,
    windows: Float[Tensor, "N C h w"],
    positions: Int[Tensor, "N 2"],
    channel: Int[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Return the activation of unit channel[n] alone, column channel[n] of `layer_responses`, with less work."""
    return _respond(network, layer, windows, positions, channel)


def _respond(network: Network, layer: str, windows: Tensor, positions: Tensor, channel: Tensor | None) -> Tensor:
    graph, target = network.graph, network.node(layer)
    if not len(windows):
        return torch.zeros((0, network.channels(layer)) if channel is None else 0)
    cone_of_layer, seed = cone(graph, target), seed_convolution(graph, target)
    most = chunk_size(graph, cone_of_layer, "window" if cone_of_layer.windowable else "whole")
    responses = []
    for chunk in torch.arange(len(windows)).split(most):
        inputs = network.check_images(windows[chunk]).clone()  # windows are worked on in place
        units = None if channel is None else channel[chunk].to(inputs.device)
        with torch.no_grad():
            places = positions[chunk].to(inputs.device)
            responses.append(_respond_to(network, layer, cone_of_layer, seed, inputs, places, units))
    return torch.cat([response.float().cpu() for response in responses])


def _respond_to(
    network: Network,
    layer: str,
    cone_of_layer: Cone,
    seed: SeedConvolution | None,
    windows: Tensor,
    positions: Tensor,
    channel: Tensor | None,
) -> Tensor:
    graph = network.graph
    target, peak = cone_of_layer.target, torch.arange(len(windows), device=windows.device)
    if not cone_of_layer.windowable:  # what a unit does not see may be anything, here zero
        boxes = [network.receptive_field(layer).box(*position) for position in positions.tolist()]
        whole = torch.tensor([0, 0, *network.input_shape[1:]]).expand(len(windows), 4)
        windows = recut(windows, torch.tensor(boxes).view(-1, 4), whole)
        maps = as_map(evaluate(graph, windows, [target])[target])
        response = maps[peak, :, positions[:, 0], positions[:, 1]]
        return response if channel is None else response[peak, channel]
    cut = Windows(graph, cone_of_layer, positions)
    if channel is None or seed is None:
        response = forward(graph, target, windows, [], cut)[0][:, :, 0, 0]
        return response if channel is None else response[peak, channel]
    below = forward(graph, seed.source, windows, [], cut)[0]
    return seed.forward(cut.read(seed.index, seed.source, below), channel, PLAIN)[0]
