"""What units answer to windows that were never photographs: filled, masked, or made of a reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from deconv.network import Network, as_map
from deconv.network.graph import evaluate
from deconv.network.receptive_field import cone
from deconv.projection.passes import up
from deconv.projection.rules import Rule
from deconv.projection.seed import find_head
from deconv.projection.strategies import chunk_size
from deconv.projection.windows import Windows

PLAIN = Rule()


def layer_responses(network: Network, layer: str, windows: Tensor, places: Tensor) -> Tensor:
    """(N, C) activations of all units of a layer, each at its place, seeing only its window.

    windows (N, 3, h, w): the receptive field's pixels as the network's input; what lies outside the image is ignored.
    places (N, 2) int64: row and column. Where units see the whole image, the window is the image.
    """
    return _respond(network, layer, windows, places, None)


def unit_responses(network: Network, layer: str, windows: Tensor, places: Tensor, channel: Tensor) -> Tensor:
    """(N,) activations of unit channel[n]: one column of `layer_responses`, cheaper."""
    return _respond(network, layer, windows, places, channel)


def _respond(network: Network, layer: str, windows: Tensor, places: Tensor, channel: Tensor | None) -> Tensor:
    graph, target = network.graph, network.node(layer)
    if not len(windows):
        return torch.zeros((0, network.channels(layer)) if channel is None else 0)
    field = cone(graph, target)
    most = chunk_size(graph, field, "window" if field.windowable else "whole")
    answers = []
    for some in torch.arange(len(windows)).split(most):
        part = network.check_images(windows[some]).clone()  # windows are worked on in place
        unit = None if channel is None else channel[some].to(part.device)
        with torch.no_grad():
            answers.append(_respond_to(network, target, part, places[some].to(part.device), unit).float().cpu())
    return torch.cat(answers)


def _respond_to(network: Network, target: int, windows: Tensor, places: Tensor, channel: Tensor | None) -> Tensor:
    graph, each = network.graph, torch.arange(len(windows), device=windows.device)
    field = cone(graph, target)
    if not field.windowable:
        maps = as_map(evaluate(graph, windows, [target])[target])
        answers = maps[each, :, places[:, 0], places[:, 1]]
        return answers if channel is None else answers[each, channel]
    cut, head = Windows(graph, field, places), find_head(graph, target)
    if channel is None or head is None:
        answers = up(graph, target, windows, [PLAIN], cut)[0][:, :, 0, 0]
        return answers if channel is None else answers[each, channel]
    below = up(graph, head.base, windows, [PLAIN], cut)[0]
    return head.up(cut.read(head.position, head.base, below), channel, PLAIN)[0]
