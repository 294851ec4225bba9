"""What is cut out of images and what is sent back to them, for peaks of one layer; both as safetensors on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from deconv.records.formats import Axes, load_tensors, reading, save_tensors


@dataclass(frozen=True, eq=False)
class Patches:
    """Receptive fields cut out of their input images.

    - pixels: the input image's, of C channels; zero outside the image.
    - inside: whether a pixel lies in the image.
    - box: where the patch lies.
    - image: the image id.

    >>> import deconv, torch
    >>> photograph, box = torch.full((1, 3, 6, 6), 7, dtype=torch.uint8), torch.tensor([[-1, 2, 2, 5]])
    >>> patches = deconv.cut_patches(photograph, torch.tensor([0]), box)
    >>> patches
    <Patches: 1 of 3 x 3 x 3 pixels>
    >>> patches.pixels[0, 0].tolist(), patches.inside[0, 0].tolist()
    ([[0, 0, 0], [7, 7, 7], [7, 7, 7]], [False, False, False])
    """

    pixels: UInt8[Tensor, "n C h w"]
    inside: Bool[Tensor, "n h w"]
    box: Int64[Tensor, "n 4"]
    image: Int64[Tensor, " n"]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Patches: {_sizes(self.pixels)}>"

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors = {"pixels": self.pixels, "inside": self.inside, "box": self.box, "image": self.image}
        return save_tensors(path, "patches", tensors, PATCH_AXES, self.provenance)

    @staticmethod
    def load(path: str | Path) -> Patches:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            tensors, provenance = load_tensors(path, "patches", PATCH_AXES)
            _check_boxes(tensors)
            return Patches(**tensors, provenance=provenance)


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """The pixels that a rule gives for peaks of one layer.

    - layer, rule: their names.
    - pixels: signed, in units of the network's input, of C channels; (h, w) is the receptive field's size; zero outside
      the image.
    - score: the activation, recomputed.
    - box: where the pixels lie.
    - image, channel, row, col: the peaks.
    - input_size: (H, W) of the input images.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
    >>> recon = deconv.project(network, torch.randn(2, 1, 8, 8), "1", [0, 1], [3, 3], [0, 5], [2, 2])
    >>> recon
    <Reconstructions: 1 by deconvnet, 2 of 1 x 3 x 3 pixels>
    >>> recon.box[1].tolist(), recon.paste().shape
    ([5, 2, 8, 5], torch.Size([2, 1, 8, 8]))
    """

    layer: str
    rule: str
    pixels: Float[Tensor, "n C h w"]
    score: Float[Tensor, " n"]
    box: Int64[Tensor, "n 4"]
    image: Int64[Tensor, " n"]
    channel: Int64[Tensor, " n"]
    row: Int64[Tensor, " n"]
    col: Int64[Tensor, " n"]
    input_size: tuple[int, int]
    provenance: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        return f"<Reconstructions: {self.layer} by {self.rule}, {_sizes(self.pixels)}>"

    def paste(self) -> Float[Tensor, "n C H W"]:
        """Return the same pixels where they lie in the whole image, zero elsewhere."""
        pictures = self.pixels.new_zeros((len(self), self.pixels.shape[1], *self.input_size))
        for picture, pixels, (y0, x0, y1, x1) in zip(pictures, self.pixels, self.box.tolist(), strict=True):
            (rows, box_rows), (cols, box_cols) = clip(y0, y1, self.input_size[0]), clip(x0, x1, self.input_size[1])
            picture[:, rows, cols] = pixels[:, box_rows, box_cols]
        return pictures

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in RECONSTRUCTION_AXES}
        fields = {
            "layer": self.layer,
            "rule": self.rule,
            "input_size": list(self.input_size),
            "provenance": self.provenance,
        }
        return save_tensors(path, "reconstructions", tensors, RECONSTRUCTION_AXES, fields)

    @staticmethod
    def load(path: str | Path) -> Reconstructions:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            tensors, saved = load_tensors(path, "reconstructions", RECONSTRUCTION_AXES)
            _check_boxes(tensors)
            layer, rule, (height, width), provenance = (
                saved[name] for name in ("layer", "rule", "input_size", "provenance")
            )
            kinds = [type(value) for value in (layer, rule, height, width, provenance)]
            if kinds != [str, str, int, int, dict] or min(height, width) < 1:
                raise ValueError("its layer, rule, input size or provenance is of another kind")
            return Reconstructions(layer, rule, **tensors, input_size=(height, width), provenance=provenance)


PATCH_AXES: Axes = {
    "pixels": (torch.uint8, "N C h w"),
    "inside": (torch.bool, "N h w"),
    "box": (torch.int64, "N 4"),
    "image": (torch.int64, "N"),
}
RECONSTRUCTION_AXES: Axes = {
    "pixels": (torch.float32, "N C h w"),
    "score": (torch.float32, "N"),
    "box": (torch.int64, "N 4"),
    "image": (torch.int64, "N"),
    "channel": (torch.int64, "N"),
    "row": (torch.int64, "N"),
    "col": (torch.int64, "N"),
}


def _check_boxes(tensors: dict[str, Tensor]) -> None:
    (top, left, bottom, right), size = tensors["box"].T, tensors["pixels"].shape[2:]
    if not bool((bottom - top == size[0]).all() and (right - left == size[1]).all()):
        raise ValueError(f"a box is not of the {size[0]} x {size[1]} pixels that its picture has")


def _sizes(pixels: Tensor) -> str:
    return f"{len(pixels)} of {' x '.join(map(str, pixels.shape[1:]))} pixels"


def clip(low: int, high: int, size: int) -> tuple[slice, slice]:
    """Return the part of [low, high) that lies in [0, size): counted from 0, and counted from `low`."""
    first, last = min(max(low, 0), size), min(max(high, 0), size)
    return slice(first, last), slice(first - low, last - low)
