"""The features that a layer gives for every image of a source, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from deconv.errors import BadInput
from deconv.images import Source
from deconv.images.batches import batches
from deconv.network import Network
from deconv.progress import track
from deconv.records.provenance import versions


def extract(
    network: Network, images: Source, layers: Iterable[str], folder: str | Path, grid: int = 6, batch_size: int = 16
) -> dict[str, np.ndarray]:
    """{layer: features} of every image, float32 (images, C * h * w), read from `folder` or computed into it.

    A layer's maps are averaged over a grid of at most `grid` x `grid` places, by adaptive average pooling, so that the
    layers are described at one resolution and the first of them, with tens of thousands of places, in some thousand
    numbers. At 6 that is the size of the paper's layer 5 after its pooling. The row of an unreadable image is nan.
    All missing layers are computed in one pass and streamed to disk; the arrays are memory-mapped. A file is named
    after all that decides its content: weights, preprocessing, images, layer, grid and the versions of the libraries.
    Raises BadInput for a grid or batch size below 1, for activations that are nan or infinite, and if more than half
    of the images are unreadable; UnknownName for a layer.
    """
    if grid < 1:
        raise BadInput(f"grid={grid}: expected 1 or more places along a side.")
    files = {layer: Path(folder) / f"{_name(network, images, layer, grid)}.npy" for layer in dict.fromkeys(layers)}
    missing = {layer: path for layer, path in files.items() if not path.exists()}
    if missing:
        _compute(network, images, missing, grid, batch_size)
    return {layer: np.load(path, mmap_mode="r") for layer, path in files.items()}


def _name(network: Network, images: Source, layer: str, grid: int) -> str:
    network.node(layer)
    provenance = {
        "weights": network.weights_hash,
        "preprocessing": network.needed_preprocessing().as_dict(),
        "images": images.content_hash,
        "layer": network.aliases.get(layer, layer),
        "grid": grid,
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(provenance, sort_keys=True).encode()).hexdigest()


def _compute(network: Network, images: Source, files: Mapping[str, Path], grid: int, batch_size: int) -> None:
    """Whole files or none: they are written beside their places and renamed when all are done."""
    parts = {layer: path.with_name(f".{path.name}.{uuid.uuid4().hex}.part") for layer, path in files.items()}
    try:
        arrays = {layer: _new_array(network, layer, grid, len(images), part) for layer, part in parts.items()}
        _stream(network, images, arrays, grid, batch_size)
        for array in arrays.values():
            array.flush()
        for layer, part in parts.items():
            os.replace(part, files[layer])
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _new_array(network: Network, layer: str, grid: int, images: int, path: Path) -> np.memmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = network.map_size(layer)
    columns = network.channels(layer) * min(grid, height) * min(grid, width)
    return np.lib.format.open_memmap(path, "w+", np.float32, (images, columns))


def _stream(network: Network, images: Source, arrays: Mapping[str, np.ndarray], grid: int, batch_size: int) -> None:
    preprocessing, skipped = network.needed_preprocessing(), list[tuple[int, str, str]]()
    input_images = batches(images, preprocessing, batch_size, skipped=skipped)
    for index, batch in track(input_images, "extracting features", len(images), size=lambda part: len(part[0])):
        for layer, maps in network.forward(preprocessing.normalize(batch), arrays).items():
            rows = [images.position(image_id) for image_id in index.tolist()]
            arrays[layer][rows] = _pooled(images, index, layer, maps, grid)
    for array in arrays.values():
        array[[images.position(image_id) for image_id, _, _ in skipped]] = np.nan


def _pooled(images: Source, index: torch.Tensor, layer: str, maps: torch.Tensor, grid: int) -> np.ndarray:
    size = (min(grid, maps.shape[2]), min(grid, maps.shape[3]))
    features = functional.adaptive_avg_pool2d(maps.float(), size).flatten(1).cpu()
    if not bool(features.isfinite().all()):
        bad = int(index[~features.isfinite().all(dim=1)][0])
        raise BadInput(f"layer {layer} has nan or infinite activations on {images.key(bad)}; check the weights.")
    return features.numpy()


def features_provenance(
    network: Network, images: Source, settings: Mapping[str, Any], penalties: Iterable[float]
) -> dict[str, Any]:
    """All that decides the numbers of classifiers on features: `settings` of the run, penalties to choose from."""
    return {
        "weights": network.weights_hash,
        "source": {"name": images.name, "content": images.content_hash, "images": len(images)},
        "preprocessing": network.needed_preprocessing().as_dict(),
        "settings": {key: settings[key] for key in ("splits", "train_per_class", "test_per_class", "seed", "grid")},
        "penalties": list(penalties),
        "versions": versions(),
    }
