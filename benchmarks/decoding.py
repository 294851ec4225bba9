"""JPEG file to network input: ours over PIL decode and resize, both in the same pool of threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms

from benchmarks.rows import Row, faster
from benchmarks.scene import CROP, PREPROCESSING, SIZE, Scene
from benchmarks.timing import compare
from deconv.images import Source
from deconv.images.ahead import WORKERS
from deconv.images.batches import batches
from deconv.images.members import Member

BATCH = 64
CLOSE = 2.0
"""Grey levels that a pixel may differ by, and on average half of one: the two round their bilinear sums differently."""

BY_PIL = transforms.Compose(
    [transforms.Resize(PREPROCESSING.resize), transforms.CenterCrop(SIZE), transforms.ToTensor(),
     transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std)]
)  # fmt: skip


def rows(scene: Scene) -> Iterator[Row]:
    """The photographs as they are, and at ImageNet's usual size if theirs is another."""
    count = 128 if scene.quick else scene.many
    if scene.photographs:
        yield over_pil(scene, scene.source(count), f"files of {scene.photographs.name}")
    yield over_pil(scene, scene.crops(count), f"crops of {CROP[0]} x {CROP[1]} pixels")


def over_pil(scene: Scene, source: Source, name: str) -> Row:
    """All files of a source, batch by batch."""
    apart = check_against_pil(source)
    pair = compare(partial(by_deconv, source), partial(by_pil, source), scene.repeats, len(source), len(source))
    note = f"{len(source)} files, {WORKERS} threads each; pixels equal to {apart:.2f} grey levels on average"
    return faster(f"JPEG file to network input over PIL, {name}", pair, "image", 2, note)


def by_deconv(source: Source) -> Tensor:
    """The last batch; the others were thrown away."""
    for _, input_images in batches(source, PREPROCESSING, BATCH):
        made = PREPROCESSING.normalize(input_images)
    return made


def by_pil(source: Source) -> Tensor:
    """The last batch; the others were thrown away. PIL lets go of Python's lock while it decodes and resizes."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in range(0, len(source), BATCH):
            made = torch.stack(list(pool.map(_read, source.members[start : start + BATCH])))
    return made


def _read(member: Member) -> Tensor:
    with Image.open(member.path) as image:
        made: Tensor = BY_PIL(image.convert("RGB"))
    return made


def check_against_pil(source: Source) -> float:
    """Mean difference in grey levels on the last batch; raises if it is above a half, or a pixel's above CLOSE."""
    levels = 255 * torch.tensor(PREPROCESSING.std)[:, None, None]
    apart = (by_deconv(source) - by_pil(source)).abs() * levels
    if float(apart.mean()) > 0.5 or float(apart.max()) > CLOSE:
        raise AssertionError(
            f"pixels differ from PIL's by {float(apart.mean()):.2f} grey levels on average, {float(apart.max()):.1f} "
            "at most; nothing is timed unless both give the same."
        )
    return float(apart.mean())
