"""A network that trains in a moment, and images of two classes that it can tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from deconv.images.preprocessing import Preprocessing
from deconv.training.data import Labelled
from deconv.training.recipe import Settings

LOOK = Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
TINY = Settings(
    epochs=4,
    batch_size=16,
    lr=0.05,
    decay_epochs=2.0,
    warmup_epochs=0.5,
    dropout_epochs=3,
    whole_epochs=1,
    bfloat16=False,
    snapshots=(1, 3),
)


def tiny_network(classes: int = 2) -> nn.Module:
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 8, 5, 2)
    head = [nn.ReLU(), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, classes)]
    return nn.Sequential(convolution, *head)


def bright_and_dark(count: int, seed: int = 0) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    noise = torch.randint(100, (count, 16, 16, 3), generator=generator)
    return Labelled((noise + 120 * labels[:, None, None, None]).to(torch.uint8), labels, LOOK)


def folder_of(root: Path, each: int, side: int = 16, classes: tuple[str, ...] = ("bright", "dark")) -> Path:
    """PNG files, `each` in a subfolder for each class, of a brightness of its own."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for image in range(each):
            pixels = generator.integers(0, 60, (side, side, 3), dtype=np.uint8) + np.uint8(190 // (number + 1))
            Image.fromarray(pixels).save(root / name / f"{image:03d}.png")
    return root
