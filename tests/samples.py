"""A small network, images and photographs that several tests use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import deconv
from deconv.images import Source

SIZE = 20


def network(channels: int = 6, seed: int = 0) -> deconv.Network:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(), nn.Conv2d(channels, 5, 3, padding=1), nn.ReLU()]
    return deconv.Network(nn.Sequential(*layers), (3, SIZE, SIZE), {"one": "1", "two": "3"})


def images(count: int, seed: int = 1) -> Tensor:
    """Some images twice, so that whole rankings tie; each flat in places, so that positions tie."""
    made = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    made[:, :, 12:] = made[:, :1, 12:13, :1]
    made[count // 2 :] = made[: count - count // 2].clone()
    return made


def photographs(folder: Path, count: int = 5) -> Source:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = generator.integers(0, 256, (SIZE + i, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return deconv.folder(folder)


def with_preprocessing(seed: int = 0) -> deconv.Network:
    net = network(seed=seed)
    net.preprocessing = deconv.Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return net


def noise(folder: Path, count: int, size: tuple[int, int], grain: int = 1) -> Path:
    """PNG files of noise, size (H, W), its grains a few pixels wide."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for i in range(count):
        pixels = generator.integers(0, 256, (size[0] // grain, size[1] // grain, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(size[::-1]).save(folder / f"{i}.png")
    return folder
