"""From a photograph to what a network takes: resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as transforms

from deconv.errors import BadInput, UnreadableImage

MAX_FRAME_PIXELS = 2**25
# A sliver of 1 x 5000 pixels, enlarged to a short side of 227, would be a gigabyte.
MAX_ENLARGED_PIXELS = 2**25


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes a network's input; belongs to the network's configuration.

    size: (H, W) of the input image in pixels, or None for the whole photograph, uncropped.
    resize: the short side in pixels before the crop; None: just large enough to cover `size`
    (with `size` None as well: the photograph as it is).
    mean, std: three floats, RGB, on the scale 0..1.
    Raises BadInput for values that cannot be used.
    """

    size: Sequence[int] | None
    resize: int | None
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        # A configuration hands lists over; tuples keep the record hashable.
        for name in ("size", "mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        _check_geometry(self.size, self.resize)
        _check_colours("mean", self.mean, lowest=None)
        _check_colours("std", self.std, lowest=0.0)

    def input_image(self, image: np.ndarray) -> torch.Tensor:
        """The picture that the network sees: uint8 (3, H, W), for one uint8 RGB image (h, w, 3).

        Bilinear with antialiasing, then cut about the centre. Rows and columns of peaks and boxes count this
        picture's pixels. Raises BadInput for another shape or type, UnreadableImage for a sliver too long to enlarge.
        """
        _check_image(image)
        height, width = self._resized_shape(*image.shape[:2])
        # The permuted view is channels_last, for which the uint8 resize has its fast path.
        picture = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)
        if (height, width) != image.shape[:2]:
            picture = transforms.resize(picture, [height, width], antialias=True)
        return picture if self.size is None else transforms.center_crop(picture, list(self.size))

    def normalize(self, input_images: torch.Tensor) -> torch.Tensor:
        """(input_images/255 - mean)/std as float32 (N, 3, H, W) in channels_last memory, for uint8 input images of
        that shape.

        Each pixel is computed by itself, so the result never depends on the batch. Raises BadInput otherwise.
        """
        if input_images.dtype != torch.uint8 or input_images.dim() != 4 or input_images.shape[1] != 3:
            raise BadInput(
                f"normalize was given {input_images.dtype} of shape {tuple(input_images.shape)}; "
                "expected uint8 input images (N, 3, H, W): stack the results of input_image()"
            )
        scale = [1 / (255 * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        rows = input_images.permute(0, 2, 3, 1).contiguous().flatten(2)  # colours innermost: (N, H, W * 3)
        scales, shifts = (_along_a_row(values, rows) for values in (scale, shift))
        pixels = torch.empty(rows.shape, dtype=torch.float32, device=input_images.device)
        for given, image in zip(rows, pixels, strict=True):  # one image at a time stays in the cache
            image.copy_(given).mul_(scales).add_(shifts)
        return pixels.unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    def as_dict(self) -> dict[str, object]:
        """The settings in plain JSON types, for the record of a run."""
        return {
            "size": None if self.size is None else list(self.size),
            "resize": self.resize,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": "bilinear, antialiased",
        }

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """The shape after resizing, rounded down on the long side as torchvision does."""
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


def _along_a_row(values: Sequence[float], rows: torch.Tensor) -> torch.Tensor:
    """One value a colour, for every pixel of a row (W * 3,): broadcasting over 3 colours would not vectorise."""
    return torch.tensor(values, dtype=torch.float32, device=rows.device).repeat(rows.shape[2] // 3)


def _check_geometry(size: Sequence[int] | None, resize: int | None) -> None:
    if size is not None and (len(size) != 2 or not all(_is_count(side) for side in size)):
        raise BadInput(f"size is {size}; expected two positive whole numbers (height, width), or none for no crop")
    if size is not None and size[0] * size[1] > MAX_FRAME_PIXELS:
        raise BadInput(
            f"size is {size}; expected at most {MAX_FRAME_PIXELS} pixels, for all of an input image: give a smaller"
        )
    if resize is not None and not _is_count(resize):
        raise BadInput(f"resize is {resize!r}; expected a positive whole number of pixels, or none")
    if size is not None and resize is not None and resize < max(size):
        raise BadInput(f"resize {resize} cannot fill a crop of {size[0]} x {size[1]}; expected {max(size)} or more")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_colours(name: str, values: Sequence[float], lowest: float | None) -> None:
    usable = len(values) == 3 and all(np.isfinite(value) and (lowest is None or value > lowest) for value in values)
    if not usable:
        wanted = "finite numbers" if lowest is None else "positive finite numbers"
        raise BadInput(f"{name} is {values}; expected three {wanted}, for red, green and blue on the scale 0 to 1")


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise BadInput(
            f"frame was given {image.dtype} of shape {image.shape}; expected a uint8 RGB image (height, width, 3): "
            "read it with a Source, or convert it first"
        )
