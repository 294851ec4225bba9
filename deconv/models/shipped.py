"""The networks that this project defines and trains itself, and the weights that travel with it in `weights/`.

Beside the weights of a network lie its strongest peaks, one of each unit, over the images that it was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from deconv.errors import BadInput
from deconv.models.krizhevsky import CAFFE_NAMES, krizhevsky, krizhevsky64
from deconv.models.loading import is_file_name, load_file, load_into, randomly, unknown_weights
from deconv.models.zfnet import ConvNet, zfnet, zfnet64
from deconv.records import Peaks
from deconv.records.provenance import check_same, weights_hash

NETWORKS: dict[str, Callable[..., ConvNet]] = {
    "zfnet64": zfnet64,
    "krizhevsky64": krizhevsky64,
    "zfnet": zfnet,
    "krizhevsky": krizhevsky,
}
PUBLISHED = {"krizhevsky": CAFFE_NAMES}
"""What files from elsewhere call the modules of a network that others trained."""
WEIGHTS = Path(__file__).resolve().parent / "weights"
"""The folder of the weights that travel with the package."""
SHA256 = {
    "zfnet64": "b740d65c5a86d91e4bec450b7961290344f79426ef52a97906c2b14959233867",
}
"""The SHA-256 of weights/<name>.safetensors, for each network that has such a file."""


def build(name: str, weights: str | PathLike[str], seed: int, trunk: bool = False, **options: Any) -> ConvNet:
    """Return the network `name` in eval mode, in float32.

    weights: "shipped", "random", which `seed` decides, or the path of a file.
    trunk: whether to leave the classifier away, for images of any size; a file may then lack it too.
    options: `classes`, `maps`, `widths` and `original` as the network's function takes them.
    Raises UnknownName and BadInput as `deconv.models.build` does.

    >>> build("zfnet64", "shipped", seed=0)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 200])
    """
    choices = [*(["shipped"] if name in SHA256 else []), "random"]
    if weights not in choices and not is_file_name(weights):
        raise unknown_weights(name, weights, choices)
    module = randomly(lambda: NETWORKS[name](**options), seed)
    assert isinstance(module, ConvNet)
    if weights == "shipped":
        load_into(module, _shipped_tensors(name), f"deconv for {name}")
    elif weights != "random":
        alone = module.trunk() if trunk else None
        load_file(module, weights, takes_classes=True, published=PUBLISHED.get(name), trunk=alone)
    return module.trunk().eval() if trunk else module


def reference_path(name: str) -> Path:
    """Return where the strongest peaks of a network with shipped weights lie."""
    return WEIGHTS / f"{name}.peaks.safetensors"


def reference_peaks(name: str, trunk: bool = False) -> Peaks:
    """Return the strongest peak of every unit of `name`, one of SHA256, over the images that it was trained on.

    trunk: whether the trunk is to be compared with them. Its layers are the network's, so that mining it would have
    given the same peaks: their provenance then has the trunk's weights.
    Raises RecordMismatch if they were mined by other weights than those that are shipped; BadInput if they are missing.
    """
    path = reference_path(name)
    peaks, module = Peaks.load(path), build(name, "shipped", seed=0)
    mined, shipped = peaks.provenance.get("weights"), weights_hash(module.state_dict())
    check_same(path, {"weights": mined}, {"weights": shipped}, f"Mine again, as {name}.md beside it tells")
    weights = weights_hash(module.trunk().state_dict()) if trunk else shipped
    return Peaks(peaks.layers, peaks.image_keys, peaks.provenance | {"weights": weights})


def class_names() -> list[str]:
    """Return the 200 classes of Tiny ImageNet in the order of the shipped networks' outputs."""
    return (WEIGHTS / "tiny-imagenet-200.txt").read_text(encoding="utf-8").splitlines()


def _shipped_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the file, in float16; a network that they are copied into has them in float32.

    Raises BadInput for a file that is missing or damaged.
    """
    path = WEIGHTS / f"{name}.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if sha256 != SHA256[name]:
        raise BadInput(
            f"the weights {path} are not the ones that deconv ships (sha256 {sha256}, expected {SHA256[name]}): "
            'install deconvnet again, or give weights="random" or the path of a file'
        )
    return dict(safetensors.torch.load_file(path))
