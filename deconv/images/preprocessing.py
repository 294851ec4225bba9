"""From a photograph to what a network takes: grey where it sees no colours, resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from deconv.errors import UnreadableImage, bad_value, check_choice, check_count, check_list
from deconv.images import conventions

INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
"""How a photograph can be resized, always with antialiasing."""
MAX_INPUT_PIXELS = 2**25
# A sliver of 1 x 5000 pixels, enlarged to a short side of 227, would be a gigabyte.
MAX_ENLARGED_PIXELS = 2**25
MOST_STD = 10.0
"""A larger one was told on the scale 0 to 255: on the scale 0 to 1 all inputs would be the same but for a tenth."""
BEYOND, MOST_RANGED = 10.0, 16
"""How many times the range of preprocessed pixels an input must pass to be refused, and the inputs looked at."""


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes a network's input: resized, cut about the centre, normalised.

    - size: (H, W) of the input image in pixels; None for the whole photograph, uncropped.
    - resize: the short side in pixels before the crop; None for just large enough to cover `size` (with `size` None as
      well: the photograph as it is).
    - interpolation: "bilinear" or "bicubic", both with antialiasing.
    - squash: whether a photograph is resized to `size` whatever its shape, and none of it cut off; without `resize`.
    - mean, std: three floats each, RGB, on the scale 0 to 1; or one each, for a network that takes grey: the luma of
      ITU-R 601, (299 R + 587 G + 114 B) / 1000, as Pillow's mode L has it. A grey photograph keeps its values.

    Raises BadInput for values that cannot be used.

    >>> import deconv
    >>> preprocessing = deconv.Preprocessing((224, 224), 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    >>> photograph = deconv.bundled().image(0)
    >>> input_image = preprocessing.input_image(photograph)
    >>> input_image.shape, preprocessing.normalize(input_image[None]).shape
    (torch.Size([3, 224, 224]), torch.Size([1, 3, 224, 224]))
    """

    size: Sequence[int] | None
    resize: int | None
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bilinear"
    squash: bool = False

    @classmethod
    def of(cls, other: Any) -> Preprocessing:
        """Return the preprocessing that another library describes, as far as it can be had exactly.

        other: the transforms() of weights of torchvision; a Compose of its Resize, CenterCrop, ToTensor and Normalize;
        a data config of timm, the dict that timm.data.resolve_model_data_config gives; an image processor of
        transformers. Raises BadInput for another, or for a step that a Preprocessing does not have.

        >>> import deconv
        >>> from torchvision.models import ResNet50_Weights
        >>> theirs = deconv.Preprocessing.of(ResNet50_Weights.IMAGENET1K_V2.transforms())
        >>> theirs.size, theirs.resize, theirs.interpolation
        ((224, 224), 232, 'bilinear')
        """
        preprocessing = cls(**conventions.described_by(other))
        photograph = conventions.probe()
        pixels = preprocessing.normalize(preprocessing.input_image(photograph)[None])[0]
        conventions.check_agreement(other, photograph, pixels)
        return preprocessing

    def __post_init__(self) -> None:
        # A configuration hands lists over; tuples keep the record hashable.
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            if name == "size" and isinstance(value, int):
                raise bad_value(name, value, "two whole numbers (height, width)", f"({value}, {value}) for a square")
            value = value.tolist() if hasattr(value, "tolist") else value  # of an array or a tensor
            of = "whole numbers (height, width)" if name == "size" else "one number, or three"
            object.__setattr__(self, name, value if value is None else tuple(check_list(name, value, of)))
        _check_geometry(self.size, self.resize)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.squash not in (True, False):
            raise bad_value("squash", self.squash, "True or False")
        if self.squash and (self.size is None or self.resize is not None):
            raise bad_value("squash", True, "a size to resize to, and no resize", "leave one of them out")
        _check_colours("mean", self.mean, lowest=None)
        _check_colours("std", self.std, lowest=0.0)
        if len(self.std) != len(self.mean):
            raise bad_value("std", self.std, f"as many numbers as mean has, {len(self.mean)}")
        _check_scale(self.mean, self.std)

    @property
    def channels(self) -> int:
        """The channels of an input image: 1 for grey, 3 for RGB."""
        return len(self.mean)

    def input_image(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[Tensor, "C H W"]:
        """Return the picture that the network sees, not yet normalised; of one channel if there is one mean.

        Rows and columns of peaks and boxes count this picture's pixels.
        Raises BadInput for another shape or type, UnreadableImage for a sliver too long to enlarge.
        """
        _check_image(image)
        height, width = self._resized_shape(*image.shape[:2])
        if self.channels == 1:
            image = np.asarray(Image.fromarray(np.ascontiguousarray(image)).convert("L"))[:, :, None]
        # The permuted view is channels_last, for which the uint8 resize has its fast path.
        picture = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        if (height, width) != image.shape[:2]:
            picture = transforms.resize(picture, [height, width], INTERPOLATIONS[self.interpolation], antialias=True)
        return picture if self.size is None else transforms.center_crop(picture, list(self.size))

    def normalize(self, input_images: UInt8[Tensor, "N C H W"]) -> Float32[Tensor, "N C H W"]:
        """Return (input_images / 255 - mean) / std in channels_last memory.

        Each pixel is computed by itself, so that the result never depends on the batch. Raises BadInput for another
        shape or type.
        """
        channels = self.channels
        if input_images.dtype != torch.uint8 or input_images.dim() != 4 or input_images.shape[1] != channels:
            expected = f"input images (N, {channels}, H, W) of torch.uint8"
            raise bad_value("input_images", input_images, expected, "stack what input_image gives")
        scale = [1 / (255 * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        rows = input_images.permute(0, 2, 3, 1).contiguous().flatten(2)  # colours innermost: (N, H, W * C)
        scales, shifts = (_along_a_row(values, rows) for values in (scale, shift))
        pixels = torch.empty(rows.shape, dtype=torch.float32, device=input_images.device)
        for image_rows, image in zip(rows, pixels, strict=True):  # one image at a time stays in the cache
            image.copy_(image_rows).mul_(scales).add_(shifts)
        return pixels.unflatten(2, (-1, channels)).permute(0, 3, 1, 2)

    def check_range(self, inputs: Float[Tensor, "N C H W"]) -> None:
        """Raise BadInput if the first inputs go far beyond all that this preprocessing makes of any photograph.

        So do pixels that were not normalised, or on the scale 0 to 255.

        >>> import deconv, torch
        >>> preprocessing = deconv.Preprocessing((8, 8), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> preprocessing.check_range(255 * torch.rand(2, 3, 8, 8))
        Traceback (most recent call last):
        deconv.errors.BadInput: images: given values up to 25...; expected inputs preprocessed as the network's, ...
        """
        reach = max(max(abs(0 - mean), abs(1 - mean)) / std for mean, std in zip(self.mean, self.std, strict=True))
        ranged = inputs[:MOST_RANGED]
        largest = max(float(ranged.amax()), -float(ranged.amin())) if inputs.numel() else 0.0
        if largest > BEYOND * reach:
            remedy = "preprocessing.normalize(images) makes them of uint8; or make the Network without a preprocessing"
            expected = f"inputs preprocessed as the network's, which are at most {reach:.3g} away from zero"
            raise bad_value("images", f"values up to {largest:.4g}", expected, remedy)

    def as_dict(self) -> dict[str, object]:
        """Return the settings in plain JSON types, for the provenance of a record."""
        return {
            "size": None if self.size is None else list(self.size),
            "resize": self.resize,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": f"{self.interpolation}, antialiased",
            **({"squash": True} if self.squash else {}),
            **({"grey": "ITU-R 601 luma"} if self.channels == 1 else {}),
        }

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """The shape after resizing, rounded down on the long side as torchvision does."""
        if self.squash and self.size is not None:
            return self.size[0], self.size[1]
        cover = self.size if self.resize is None else (self.resize, self.resize)
        if cover is None:
            return height, width
        if cover[0] * width >= cover[1] * height:
            shape = cover[0], max(cover[1], cover[0] * width // height)
        else:
            shape = max(cover[0], cover[1] * height // width), cover[1]
        if shape[0] * shape[1] > max(MAX_ENLARGED_PIXELS, height * width):
            raise UnreadableImage(
                f"an image of {height} x {width} pixels would be enlarged to {shape[0]} x {shape[1]}; "
                f"expected at most {MAX_ENLARGED_PIXELS} pixels: crop it, or remove it from the source"
            )
        return shape


def _along_a_row(values: Sequence[float], rows: Tensor) -> Tensor:
    """One value a channel, for every pixel of a row (W * C,): broadcasting over 3 colours would not vectorise."""
    return torch.tensor(values, dtype=torch.float32, device=rows.device).repeat(rows.shape[2] // len(values))


def _check_geometry(size: Sequence[int] | None, resize: int | None) -> None:
    if size is not None:
        if len(size) != 2:
            remedy = f"({size[0]}, {size[0]}) for a square" if len(size) == 1 else ""
            raise bad_value("size", size, "two whole numbers (height, width), or None for no crop", remedy)
        for side in size:
            check_count("size", side)
        if size[0] * size[1] > MAX_INPUT_PIXELS:
            raise bad_value("size", size, f"at most {MAX_INPUT_PIXELS} pixels, for all of an input image")
    if resize is not None:
        check_count("resize", resize)
        if size is not None and resize < max(size):
            raise bad_value("resize", resize, f"{max(size)} or more, to fill a crop of {size[0]} x {size[1]}")


def _check_colours(name: str, values: Sequence[float], lowest: float | None) -> None:
    numbers = len(values) in (1, 3) and all(isinstance(value, int | float | np.number) for value in values)
    if not numbers or not all(np.isfinite(value) and (lowest is None or value > lowest) for value in values):
        kind = "finite numbers" if lowest is None else "positive finite numbers"
        expected = f"three {kind}, for red, green and blue on the scale 0 to 1, or one, for grey"
        raise bad_value(name, values, expected, "inputs of other channels are given as tensors")


def _check_scale(mean: Sequence[float], std: Sequence[float]) -> None:
    """Refuse what was told on the scale 0 to 255: no pixel has that mean on the scale 0 to 1, nor that deviation."""
    for name, values, most in (("mean", mean, 1.0), ("std", std, MOST_STD)):
        if max(values) > most:
            divided = f"{name}={tuple(round(value / 255, 4) for value in values)} is that divided by 255"
            if name == "mean" and min(std) >= 1:
                divided += f", and std={tuple(round(value / 255, 4) for value in std)}"
            raise bad_value(name, values, "numbers on the scale 0 to 1, as pixels are here", divided)


def _check_image(image: np.ndarray) -> None:
    shape = image.shape if isinstance(image, np.ndarray) and image.dtype == np.uint8 else ()
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise bad_value("image", image, "RGB (height, width, 3) of uint8", "read it with a Source, or convert it first")
