"""Small atlases that the tests of the report write: a tiny network, and images with names meant to break out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

import deconv
from deconv.images import Source
from deconv.records import Peaks

SIZE = 40
HOSTILE = (
    '"><img src=x onerror=alert(1)>.jpg',
    "javascript:alert(1).png",
    "<script>alert(2)<&#x2f;script>.png",
    "größe 東京 {{ 7*7 }}.jpg",
    "a' onmouseover='alert(3).png",
)


def network(layer_name: str = "one", channels: int = 40, seed: int = 0) -> deconv.Network:
    """Two layers; the first has a unit that never fires, number 3."""
    torch.manual_seed(seed)
    first = nn.Conv2d(3, channels, 3, 2, 1)
    with torch.no_grad():
        first.weight[3], first.bias[3] = 0, -1  # type: ignore[index]
    module = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(channels, 6, 9, padding=4), nn.ReLU())
    preprocessing = deconv.Preprocessing((SIZE, SIZE), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return deconv.Network(module, (3, SIZE, SIZE), {layer_name: "1", "two": "4"}, preprocessing)


def photographs(folder: Path, names: tuple[str, ...] = HOSTILE, count: int = 12) -> Source:
    """Some smooth pictures with the names given, and others with plain ones."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*names, *(f"plain-{n}.png" for n in range(count - len(names)))):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((52, 44)).save(folder / name)
    return deconv.folder(folder)


def of_classes(root: Path) -> tuple[Source, Peaks, Path]:
    """An atlas of pictures in three classes, each of a tint: (images, peaks, site). One name wants to break out."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("<b>cat, tabby", "n00000000", "n03028079")):
        (root / "images" / name).mkdir(parents=True)
        for n in range(4):
            coarse = generator.integers(0, 256, (6, 7, 3)) * np.eye(3)[channel] * 0.8 + 40
            Image.fromarray(coarse.astype(np.uint8)).resize((52, 44)).save(root / "images" / name / f"{n}.png")
    net, images = network(channels=8), deconv.folder(root / "images")
    peaks = deconv.mine(net, images, ["one", "two"], k=4, firing=True)
    return images, peaks, deconv.write_atlas(net, peaks, images, root / "site", circuits=False).parent


def stronger(peaks: Peaks, layer: str, times: list[float]) -> Peaks:
    """The same peaks with the scores of each unit of a layer so many times as strong: a reference for them."""
    score = peaks[layer].score * torch.tensor(times)[:, None]
    return replace(peaks, layers={**peaks.layers, layer: replace(peaks[layer], score=score)})


def write(root: Path, layer_name: str = "one", channels: int = 40, **options: object) -> Path:
    """An atlas below `root`; returns its front page."""
    net, images = network(layer_name, channels), photographs(root / "images")
    peaks = deconv.mine(net, images, [layer_name, "two"])
    return deconv.write_atlas(net, peaks, images, root / "site", **options)  # type: ignore[arg-type]
