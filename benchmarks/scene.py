"""What is measured on: networks with seeded random weights, photographs as JPEG files, images in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from deconv import models
from deconv.images import Source, bundled, folder
from deconv.images.batches import batches
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network

K = 9
SEED = 0
SIZE = (224, 224)
PREPROCESSING = Preprocessing(SIZE, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CROP = (500, 375)
"""Width and height in pixels of the crops that stand in for photographs: the usual size in ImageNet."""

# Five layers of each network, as deconv names them, and how many modules of `features` lead to the last.
LAYERS = {
    "alexnet": ("features.1", "features.4", "features.7", "features.9", "features.11"),
    "squeezenet1_1": ("features.1", "features.4.cat", "features.7.cat", "features.10.cat", "features.12.cat"),
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
}
TRUNK = {"alexnet": 12, "squeezenet1_1": 13, "vgg16": 30}


@dataclass(frozen=True)
class Subject:
    """A torchvision network with random weights, and the part of it that leads to its last mined layer."""

    arch: str
    module: nn.Module
    network: Network

    @property
    def layers(self) -> tuple[str, ...]:
        return LAYERS[self.arch]

    @property
    def hooked(self) -> dict[str, str]:
        """For each layer the module of `trunk` whose output it is."""
        return {layer: layer.removeprefix("features.").removesuffix(".cat") for layer in self.layers}

    def trunk(self, layout: torch.memory_format = torch.contiguous_format) -> nn.Sequential:
        """A copy of the modules up to the last mined layer."""
        features = self.module.get_submodule("features")
        assert isinstance(features, nn.Sequential)
        return copy.deepcopy(features[: TRUNK[self.arch]]).to(memory_format=layout)


def subject(arch: str, device: str = "cpu") -> Subject:
    """A network of LAYERS with random weights, always the same ones."""
    module = models.build("torchvision", "random", SEED, arch=arch).requires_grad_(False).to(device)
    return Subject(arch, module, Network(module, (3, *SIZE), preprocessing=PREPROCESSING))


@dataclass(frozen=True)
class Scene:
    """How much is measured, and on which photographs.

    repeats: laps of each work. images: photographs of the large rows. photographs: a folder, or None for those inside
    installed packages. scratch: a folder for what is written meanwhile.
    """

    photographs: Path | None
    scratch: Path
    quick: bool = False
    repeats: int = 5

    @property
    def many(self) -> int:
        return 60 if self.quick else 600

    def source(self, count: int) -> Source:
        """`count` photographs as files: the folder's own, or, if it has too few, JPEG crops of them."""
        photographs = folder(self.photographs) if self.photographs else bundled()
        if self.photographs and len(photographs) >= count:
            return Source(photographs.name, photographs.keys[:count], photographs.members[:count])
        return self.crops(count)

    def crops(self, count: int) -> Source:
        """`count` crops of the photographs, CROP pixels, as JPEG files."""
        home = self.scratch / f"crops-{count}"
        if not home.exists():
            home.mkdir(parents=True)
            photographs = folder(self.photographs) if self.photographs else bundled()
            for n, crop in enumerate(_crops(photographs, count)):
                crop.save(home / f"{n:05}.jpg", quality=90)
        return folder(home)

    def images(self, count: int) -> Tensor:
        """`count` preprocessed images (count, 3, 224, 224), channels last, in memory."""
        return _images(self, count)

    def says(self) -> str:
        """Where the photographs come from, for the record."""
        return str(self.photographs) if self.photographs else "crops of the photographs in installed packages"


@cache
def _images(scene: Scene, count: int) -> Tensor:
    parts = [
        PREPROCESSING.normalize(input_images) for _, input_images in batches(scene.source(count), PREPROCESSING, 64)
    ]
    return torch.cat(parts).contiguous(memory_format=torch.channels_last)


def _crops(photographs: Source, count: int) -> Iterator[Image.Image]:
    """Seeded crops of half to all of each photograph's size, one photograph after the other."""
    random = np.random.default_rng(SEED)
    pictures = [Image.fromarray(photographs.image(n)) for n in range(min(len(photographs), count))]
    for n in range(count):
        picture = pictures[n % len(pictures)]
        scale = min(picture.width / CROP[0], picture.height / CROP[1]) * random.uniform(0.5, 1)
        width, height = scale * CROP[0], scale * CROP[1]
        x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
        yield picture.resize(CROP, Image.Resampling.BICUBIC, (x, y, x + width, y + height))
