"""What a record was made of."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from importlib import metadata

import torch

DISTRIBUTIONS = ("torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow", "matplotlib", "scikit-image")


def versions() -> dict[str, str]:
    """Return the versions that decide a run's numbers: deconv, python and the libraries below it."""
    own = {"deconv": _version("deconvnet"), "python": platform.python_version()}
    return own | {name: _version(name) for name in DISTRIBUTIONS}


def weights_hash(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256, in hex, of a state_dict: sorted names, dtypes, shapes and bytes, wherever the tensors are."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy())  # as bytes: numpy has no bfloat16
    return total.hexdigest()


@cache
def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
