"""Preprocessings as torchvision, timm and transformers describe them, in the words of this project's own.

Each reader takes what it can say exactly and refuses the rest by name: a picture that is nearly what a network was
trained on would give peaks that nobody can trace back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms._presets import ImageClassification

from deconv.errors import BadInput, UnknownName, bad_value

Described = dict[str, Any]
"""The arguments of a Preprocessing by their names."""
ANSWER = "give deconv.Preprocessing(size, resize, mean, std) its numbers instead"
MOST_APART = 0.2
"""Standard deviations between pixels of two libraries that do the same to the probe, but for rounding."""
PILLOW = {2: "bilinear", 3: "bicubic"}
"""How transformers, and Pillow, number two ways to resize."""


def described_by(other: Any) -> Described:
    """Return the arguments of the Preprocessing that another library describes.

    Raises BadInput for what is no such description, and for a step that a Preprocessing does not have.
    """
    if isinstance(other, ImageClassification):
        return _of_weights(other)
    if isinstance(other, v1.Compose | v2.Compose):
        return _of_steps(other.transforms)
    if isinstance(other, Mapping) and "input_size" in other:
        return _of_timm(other)
    if hasattr(other, "image_mean") and hasattr(other, "do_resize"):
        return _of_transformers(other)
    raise bad_value(
        "other",
        other,
        "the transforms() of weights of torchvision, a Compose of Resize, CenterCrop, ToTensor and Normalize, a data "
        "config of timm, or an image processor of transformers",
        ANSWER,
    )


def probe() -> UInt8[np.ndarray, "h w 3"]:
    """Return a photograph to compare two preprocessings on.

    It is wider than high, and smooth, so that one pixel more or less
    of a crop's margin, which libraries round as they like, makes no difference.
    """
    patches = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(patches).resize((523, 431), Image.Resampling.BICUBIC))


def check_agreement(other: Any, photograph: UInt8[np.ndarray, "h w 3"], pixels: Float32[Tensor, "C H W"]) -> None:
    """Raise BadInput unless what another library makes of a photograph is `pixels`, but for how it rounds.

    It may do more than it says: some image processors of transformers have steps of their own. A data config of timm
    is numbers alone, and not checked.
    """
    if isinstance(other, Mapping):
        return
    picture = Image.fromarray(photograph)
    of_transformers = hasattr(other, "image_mean")
    theirs = other(images=picture, return_tensors="pt")["pixel_values"][0] if of_transformers else other(picture)
    apart = float("inf") if theirs.shape != pixels.shape else float((theirs - pixels).abs().max() / pixels.std())
    if apart > MOST_APART:
        raise BadInput(
            f"{type(other).__name__} makes {tuple(theirs.shape)} of a photograph, up to {apart:.2g} standard "
            f"deviations off the {tuple(pixels.shape)} that its settings tell; expected a resize, a centre crop and a "
            f"normalisation alone: {ANSWER}"
        )


def _of_weights(preset: ImageClassification) -> Described:
    """Describe what the weights of a classification network of torchvision were trained with."""
    resize = _resized(preset.resize_size, _interpolation(preset.interpolation), preset.antialias is not False)
    return resize | {"size": _sides(preset.crop_size), "mean": tuple(preset.mean), "std": tuple(preset.std)}


def _of_steps(steps: Sequence[Any]) -> Described:
    """Describe a chain of torchvision's transforms: at most one resize, one crop, and a normalisation at the end."""
    described: Described = {"size": None, "resize": None}
    for number, step in enumerate(steps):
        name = type(step).__name__
        if name == "Resize" and described["size"] is None:
            described |= _resized(step.size, _interpolation(step.interpolation), step.antialias is not False)
            if isinstance(described["resize"], tuple):
                described |= {"size": described.pop("resize"), "resize": None, "squash": True}
        elif name == "CenterCrop" and "squash" not in described:
            described["size"] = _sides(step.size)
        elif name == "Normalize":
            described |= {"mean": tuple(map(float, step.mean)), "std": tuple(map(float, step.std))}
        elif name not in ("ToTensor", "MaybeToTensor", "PILToTensor", "ConvertImageDtype", "ToImage", "ToDtype"):
            raise BadInput(f"step {number} of the transforms is {name}; expected {_CHAIN}: {ANSWER}")
    if "mean" not in described:
        raise BadInput(f"the transforms have no Normalize; expected {_CHAIN}: {ANSWER}")
    return described


_CHAIN = "Resize, CenterCrop, ToTensor and Normalize, in this order, the first two if they are wanted"


def _of_timm(config: Mapping[str, Any]) -> Described:
    """Describe a data config of timm; its crop is the share of the resized picture that is kept."""
    channels, *size = config["input_size"]
    mode, share = config.get("crop_mode") or "center", config.get("crop_pct") or 1.0
    described = {
        "size": tuple(size),
        "resize": math.floor(max(size) / share),
        "mean": tuple(config["mean"])[:channels],
        "std": tuple(config["std"])[:channels],
        "interpolation": _named(config.get("interpolation") or "bicubic"),
    }
    if mode == "squash" and share == 1.0:
        return described | {"resize": None, "squash": True}
    if mode != "center" or (size[0] != size[1]):
        raise BadInput(
            f"timm's crop_mode={mode} with crop_pct={share} and input_size={tuple(config['input_size'])} is no centre "
            f"crop of a resized photograph; expected center, of a square, or squash with crop_pct=1: {ANSWER}"
        )
    return described


def _of_transformers(processor: Any) -> Described:
    """Describe an image processor of transformers, whose sizes are mappings: shortest_edge, or height and width."""
    for name in ("do_pad", "do_flip_channel_order", "rescale_offset", "do_convert_grayscale"):
        if getattr(processor, name, None):
            raise BadInput(f"the image processor has {name}=True, which a Preprocessing has not: {ANSWER}")
    factor = getattr(processor, "rescale_factor", 1 / 255)
    if not getattr(processor, "do_rescale", True) or not math.isclose(factor, 1 / 255):
        raise BadInput(f"the image processor scales by {factor}; expected pixels divided by 255: {ANSWER}")
    described: Described = {"size": None, "resize": None, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    if getattr(processor, "do_normalize", True):
        described |= {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    if processor.do_resize:
        described |= _resized_by_transformers(processor)
    if getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None):
        if described.get("squash"):
            raise BadInput(f"the image processor squashes before it crops, which a Preprocessing does not: {ANSWER}")
        described["size"] = _sides(_mapping(processor.crop_size))
    return described


def _resized_by_transformers(processor: Any) -> Described:
    resample = getattr(processor, "resample", 2)
    interpolation = PILLOW.get(int(resample)) if resample is not None else "bilinear"
    size, share = _mapping(processor.size), getattr(processor, "crop_pct", None)
    described: Described = {"interpolation": _named(interpolation or str(resample))}
    edge = size.get("shortest_edge")
    if edge is None:
        return described | {"size": _sides(size), "squash": True}
    if share is None:
        return described | {"resize": edge}
    if edge >= 384:  # ConvNeXt's processor: large pictures are not cut
        return described | {"size": (edge, edge), "squash": True}
    return described | {"size": (edge, edge), "resize": int(edge / share)}


def _resized(size: Any, interpolation: str, antialias: bool) -> Described:
    """Return a resize of torchvision: one number is the short side, two are both."""
    if not antialias:
        raise BadInput(f"the transforms resize without antialiasing; expected antialias=True: {ANSWER}")
    sides = list(size) if isinstance(size, Sequence) else [size]
    return {"resize": sides[0] if len(sides) == 1 else tuple(sides), "interpolation": interpolation}


def _sides(size: Any) -> tuple[int, int]:
    """Return (height, width) of a size as it is given: one number, one or two in a list, or a mapping."""
    if isinstance(size, Mapping):
        if not {"height", "width"} <= size.keys():
            raise BadInput(f"a size of {dict(size)}; expected height and width: {ANSWER}")
        return size["height"], size["width"]
    sides = list(size) if isinstance(size, Sequence) else [size]
    return sides[0], sides[-1]


def _mapping(size: Any) -> dict[str, int]:
    """Return a size of transformers as a plain dict, without what is None."""
    pairs = size.items() if isinstance(size, Mapping) else vars(size).items()
    return {key: value for key, value in pairs if value is not None}


def _interpolation(mode: Any) -> str:
    return _named(mode.value if isinstance(mode, InterpolationMode) else PILLOW.get(mode, str(mode)))


def _named(interpolation: str) -> str:
    """Return the name. Raises UnknownName for an interpolation that a Preprocessing does not have."""
    if interpolation not in PILLOW.values():
        raise UnknownName(f"interpolation {interpolation!r}; expected {' or '.join(PILLOW.values())}: {ANSWER}")
    return interpolation
