"""What is cut out of images and what is sent back to them, for peaks of one layer; both as safetensors on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from safetensors import safe_open
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.errors import check_choice, check_count
from deconv.notebooks import ShownInNotebooks
from deconv.records.boxes import about_centres, lies_inside, recut, shown_side, whole_boxes
from deconv.records.effective import effective_side
from deconv.records.formats import IN_HALVES, Axes, load_tensors, reading, save_tensors
from deconv.records.halves import from_halves, to_halves
from deconv.records.parts import Parts, part_axes, part_tensors, parts_from

FIELDS = ("effective", "full")
"""What pictures may show of a receptive field: its effective part, or all of it."""
DTYPES = ("float32", "float16")
"""How the pixels of reconstructions may be kept."""


@dataclass(frozen=True, eq=False)
class Patches(ShownInNotebooks):
    """Receptive fields cut out of their input images, or what reconstructions show of them.

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
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Patches: {_sizes(self.pixels)}>"

    def of(self, chosen: Shaped[Tensor, " m"]) -> Patches:
        """Return some of the patches, by their numbers from 0 or by a mask (n,)."""
        columns = {name: getattr(self, name)[chosen] for name in PATCH_AXES}
        return dataclasses.replace(self, **columns)

    def cut_to(self, box: Int64[Tensor, "n 4"]) -> Patches:
        """Return what lies in other boxes of one size, one for each patch; what the patch does not hold is outside.

        >>> import torch
        >>> pixels, inside = torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.bool)
        >>> patches = Patches(pixels, inside, torch.tensor([[0, 0, 4, 4]]), torch.tensor([0]))
        >>> patches.cut_to(torch.tensor([[3, 1, 5, 3]])).inside.tolist()
        [[[True, True], [False, False]]]
        """
        pixels, inside = (recut(pictures, self.box, box) for pictures in (self.pixels, self.inside))
        return dataclasses.replace(self, pixels=pixels, inside=inside, box=box)

    @plain_defaults()
    def save(self, path: str | Path) -> Path:
        """Write a safetensors file. Raises BadInput for a name that ends in anything else."""
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
class Reconstructions(ShownInNotebooks):
    """The pixels that a rule gives for peaks of one layer.

    - layer, rule: their names.
    - pixels: signed, in units of the network's input, of C channels; (h, w) is the receptive field's size, and the
      image's along an axis on which the field is longer; zero outside the image.
    - score: the activation, recomputed.
    - box: where the pixels lie.
    - field: the receptive field, whatever the image's size.
    - image, channel, row, col: the peaks.
    - input_size: (H, W) of the input images.
    - parts: what units of lower layers pass on of each activation, for the layers of `through`.
    - rounding: how far a pixel is off at most, as a share of the largest of its picture, because a file kept it as
      float16; 0 for those that no such file was.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
    >>> recon = deconv.project(network, torch.randn(2, 1, 8, 8), "1", [0, 1], [3, 3], [0, 5], [2, 2])
    >>> recon
    <Reconstructions: 1 by deconvnet, 2 of 1 x 3 x 3 pixels>
    >>> recon.box[1].tolist(), recon.paste().shape, recon.effective_field
    ([5, 2, 8, 5], torch.Size([2, 1, 8, 8]), 3)
    """

    layer: str
    rule: str
    pixels: Float[Tensor, "n C h w"]
    score: Float[Tensor, " n"]
    box: Int64[Tensor, "n 4"]
    field: Int64[Tensor, "n 4"]
    image: Int64[Tensor, " n"]
    channel: Int64[Tensor, " n"]
    row: Int64[Tensor, " n"]
    col: Int64[Tensor, " n"]
    input_size: tuple[int, int]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    parts: Parts = dataclasses.field(default_factory=Parts)
    rounding: float = 0.0

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        return f"<Reconstructions: {self.layer} by {self.rule}, {_sizes(self.pixels)}>"

    def of(self, chosen: Shaped[Tensor, " m"]) -> Reconstructions:
        """Return some of the reconstructions, by their numbers from 0 or by a mask (n,)."""
        columns = {name: getattr(self, name)[chosen] for name in RECONSTRUCTION_AXES}
        return dataclasses.replace(self, **columns, parts=self.parts.of(chosen) if self.parts else self.parts)

    @property
    @plain_defaults()
    def inside(self) -> Bool[Tensor, "n h w"]:
        """Which pixels lie in the image."""
        return lies_inside(self.box[:, :2], self.pixels.shape[2:], self.input_size)

    @plain_defaults()
    def paste(self) -> Float[Tensor, "n C H W"]:
        """Return the same pixels where they lie in the whole image, zero elsewhere."""
        return recut(self.pixels, self.box, whole_boxes(len(self), self.input_size))

    @cached_property
    def effective_field(self) -> int:
        """The side, in pixels, of the effective field: the square about the receptive fields' centres that holds 95 %
        of the reconstructions' energy, in the mean over them.

        It is a number of all reconstructions together; without any energy it is the field's longer side.
        """
        return effective_side(self.pixels, self.box, self.field)

    @cached_property
    def zoomed_side(self) -> int:
        """The side, in pixels, of what `zoomed` shows if none is asked for."""
        return shown_side(self.effective_field, (self.field[0, 2:] - self.field[0, :2]).tolist())

    @plain_defaults()
    def zoomed(self, side: int | None = None) -> Reconstructions:
        """Return the same cut to a square of `side` pixels about the centre of each receptive field.

        None is the effective field, or all of the field where the effective one is longer than three quarters of it.
        Along an axis on which that is longer than the image, the image alone is kept; `field` stays what it was.
        """
        if not len(self):
            return self
        side = self.zoomed_side if side is None else check_count("side", side)
        box = about_centres(self.field, side, self.input_size)
        if torch.equal(box, self.box):
            return self
        return dataclasses.replace(self, pixels=recut(self.pixels, self.box, box), box=box)

    def save(self, path: str | Path, dtype: str = "float32") -> Path:
        """Write a safetensors file.

        dtype: how pixels are kept: "float32", or "float16" in half as many bytes. Each picture then has a scale, a
        power of two, so that a pixel keeps 11 bits however small all of them are: one of at least 2**-29 of the
        largest of its picture is off by at most 1/2048 of itself. The worst error is measured and kept: `rounding`.

        Raises BadInput for a name that ends in anything else, UnknownName for another dtype.

        >>> import torch, deconv
        >>> from tempfile import mkdtemp
        >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU()), (1, 8, 8))
        >>> recon = deconv.project(network, torch.rand(2, 1, 8, 8), "1", [0, 1], [3, 3], [0, 5], [2, 2], "gradient")
        >>> loaded = deconv.Reconstructions.load(recon.save(mkdtemp() + "/recon.safetensors", dtype="float16"))
        >>> loaded.pixels.dtype, loaded.rounding < 1 / 2048, torch.allclose(loaded.pixels, recon.pixels, rtol=1 / 2048)
        (torch.float32, True, True)
        """
        check_choice("dtype", dtype, DTYPES)
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in RECONSTRUCTION_AXES}
        fields = {
            "layer": self.layer,
            "rule": self.rule,
            "input_size": list(self.input_size),
            "effective_field": self.effective_field,
            "provenance": self.provenance,
        } | ({"through": list(self.parts)} if self.parts else {})
        fields |= {"rounding": self.rounding} if self.rounding else {}
        tensors |= part_tensors(self.parts)
        if dtype == "float32":
            return save_tensors(path, "reconstructions", tensors, _axes_of(tensors), fields)
        tensors["pixels"], tensors["scale"] = to_halves(self.pixels)
        off = from_halves(tensors["pixels"], tensors["scale"]).sub_(self.pixels).abs_()
        largest = self.pixels.abs().amax(dim=(1, 2, 3)).clamp_min(torch.finfo(torch.float32).tiny)
        worst = float((off.amax(dim=(1, 2, 3)) / largest).max()) if len(self) else 0.0
        fields["rounding"] = max(worst, self.rounding)
        return save_tensors(path, "reconstructions", tensors, _axes_of(tensors), fields, version=IN_HALVES)

    @staticmethod
    def load(path: str | Path) -> Reconstructions:
        """Read what `save` wrote. Raises BadInput for a file that is missing, damaged, of another kind or newer."""
        with reading(path):
            tensors, saved = load_tensors(path, "reconstructions", _axes_of, older={"field": "box"})
            _check_boxes(tensors)
            layer, rule, (height, width), provenance = (
                saved[name] for name in ("layer", "rule", "input_size", "provenance")
            )
            kinds = [type(value) for value in (layer, rule, height, width, provenance)]
            if kinds != [str, str, int, int, dict] or min(height, width) < 1:
                raise ValueError("its layer, rule, input size or provenance is of another kind")
            parts, rounding = parts_from(tensors, saved.get("through", []), provenance), float(saved.get("rounding", 0))
            if "scale" in tensors:
                tensors["pixels"] = from_halves(tensors["pixels"], tensors.pop("scale"))
            return Reconstructions(
                layer,
                rule,
                **tensors,
                input_size=(height, width),
                provenance=provenance,
                parts=parts,
                rounding=rounding,
            )


def dtype_of(path: str | Path) -> str:
    """Return how a file of reconstructions keeps their pixels, one of DTYPES. Raises BadInput for a damaged file."""
    with reading(path), safe_open(str(path), framework="pt") as file:
        return "float16" if "scale" in file.keys() else "float32"  # noqa: SIM118 - it is no mapping


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
    "field": (torch.int64, "N 4"),
    "image": (torch.int64, "N"),
    "channel": (torch.int64, "N"),
    "row": (torch.int64, "N"),
    "col": (torch.int64, "N"),
}
HALVES_AXES: Axes = {"pixels": (torch.float16, "N C h w"), "scale": (torch.float32, "N")}


def _axes_of(tensors: Mapping[str, Tensor]) -> Axes:
    halves = HALVES_AXES if "scale" in tensors else {}
    return {**RECONSTRUCTION_AXES, **part_axes(tensors), **halves}


def _check_boxes(tensors: dict[str, Tensor]) -> None:
    (top, left, bottom, right), size = tensors["box"].T, tensors["pixels"].shape[2:]
    if not bool((bottom - top == size[0]).all() and (right - left == size[1]).all()):
        raise ValueError(f"a box is not of the {size[0]} x {size[1]} pixels that its picture has")


def _sizes(pixels: Tensor) -> str:
    return f"{len(pixels)} of {' x '.join(map(str, pixels.shape[1:]))} pixels"
