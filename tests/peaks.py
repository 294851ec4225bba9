"""Peaks as rows (image, channel, row, col), chosen at random with corners among them, and their projection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deconv.network import Network, as_map
from deconv.network.receptive_field import cone
from deconv.projection import project
from deconv.records import Reconstructions


def project_at(network: Network, images: Tensor, layer: str, peaks: Tensor, **options: Any) -> Reconstructions:
    """`project` for peaks (N, 4)."""
    image, channel, row, col = peaks.T
    return project(network, images, layer, image, channel, row, col, **options)


def random_positions(maps: Tensor, count: int, seed: int = 0) -> Tensor:
    """(count, 4): the strongest, the four corners, then anywhere, firing or not."""
    maps = as_map(maps)
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.stack([torch.randint(size, (count,), generator=generator) for size in maps.shape], 1)
    bottom, right = maps.shape[2] - 1, maps.shape[3] - 1
    peaks[0] = (maps == maps.max()).nonzero()[0]
    peaks[1:5, 2:] = torch.tensor([[0, 0], [0, right], [bottom, 0], [bottom, right]])
    return peaks


def strategies_of(network: Network, layer: str, size: tuple[int, int]) -> list[str]:
    """All strategies that serve a layer for images of some size."""
    windowable = cone(network.graph_at(size), network.node(layer, size)).windowable
    return ["window", "shared", "whole"] if windowable else ["shared", "whole"]
