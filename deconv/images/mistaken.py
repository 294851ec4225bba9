"""What is handed over as images in place of a source or a tensor, and what makes one of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from deconv.errors import BadInput, bad_value

_TARS = (".tar", ".tar.gz", ".tgz")


def no_images(images: Any, expected: str, takes_tensors: bool) -> BadInput:
    """Return the error of something that is no source of images, with what makes one of it.

    takes_tensors: whether a tensor of preprocessed images would have done as well.
    """
    remedy = _as_tensor(images) if takes_tensors else ""
    return bad_value("images", _named(images), expected, remedy or _as_source(images))


def check_tensor(images: Tensor, channels: int) -> None:
    """Raise BadInput, with what makes them so, unless these are images (M, C, H, W) of floating point."""
    expected = f"preprocessed images, a float tensor (M, {channels}, H, W)"
    if images.dim() == 3 and images.shape[0] == channels:
        raise bad_value("images", images, expected, "images[None] for a single one")
    if images.dim() == 3:
        raise bad_value("images", images, expected, "images[:, None] where these are images of one channel")
    if images.dim() == 4 and images.shape[1] != channels and images.shape[3] == channels:
        raise bad_value("images", images, expected, "images.permute(0, 3, 1, 2) puts the channels first")
    if images.dim() == 4 and images.shape[1] == channels and not images.is_floating_point():
        remedy = "preprocessing.normalize(images) makes them of pictures in uint8"
        raise bad_value("images", images, expected, remedy if channels in (1, 3) else "images.float(), normalised")
    if images.dim() != 4 or images.shape[1] != channels:
        raise bad_value("images", images, expected)


def _named(images: Any) -> Any:
    if isinstance(images, list | tuple):
        kinds = sorted({type(item).__name__ for item in images})
        return f"a {type(images).__name__} of {len(images)} {' and '.join(kinds)}".rstrip()
    if images is None or isinstance(images, str | PathLike | np.ndarray | Tensor | int | float):
        return images
    return f"a {type(images).__name__}"  # its own words may hold a memory address


def _as_source(images: Any) -> str:
    if isinstance(images, str | PathLike):
        path = Path(fspath(images))
        if path.name.endswith(_TARS):
            return f"deconv.webdataset({str(path)!r}) reads it"
        if path.suffix == ".zip":
            return "unpack it: deconv.folder(path) reads the images below a folder"
        return f"deconv.folder({str(path.parent if path.is_file() else path)!r}) reads the images below a folder"
    if isinstance(images, Mapping) and images and all(hasattr(part, "column_names") for part in images.values()):
        return f"images[{next(iter(images))!r}] is one of its parts"
    pictures = next((name for name in images if _are_pictures(images[name])), None) if _has_columns(images) else None
    if pictures is not None:
        return f"deconv.dataset(list(images[{pictures!r}])) takes its pictures"
    if hasattr(images, "column_names") and hasattr(images, "take"):  # a stream of Hugging Face's
        return "datasets.Dataset.from_list(list(images.take(500))) has its first 500 images"
    if _are_pictures(images):
        return "deconv.dataset(images) takes such pictures"
    if isinstance(images, list | tuple) and images and all(isinstance(item, str | PathLike) for item in images):
        return f"deconv.folder({str(Path(fspath(images[0])).parent)!r}) reads all images below a folder"
    if isinstance(images, Tensor | np.ndarray | Iterable) and not isinstance(images, Mapping):
        return "save them as picture files, and read these with deconv.folder(path)"
    return "deconv.folder(path) reads the images below a folder, deconv.bundled() has some"


def _has_columns(images: Any) -> bool:
    """Whether these are lists by their names, in a dict or in a table of pandas."""
    return isinstance(images, Mapping) or (hasattr(images, "iloc") and hasattr(images, "columns"))


def _are_pictures(images: Any) -> bool:
    """Whether these are PIL images, or arrays or tensors of bytes, that `deconv.dataset` takes one by one."""
    images = images.tolist() if hasattr(images, "iloc") and hasattr(images, "tolist") else images  # a pandas column
    if isinstance(images, Tensor | np.ndarray):
        return str(images.dtype).endswith("uint8") and len(images.shape) in (3, 4)
    return (
        isinstance(images, list | tuple)
        and bool(images)
        and all(isinstance(item, Image.Image) or str(getattr(item, "dtype", "")).endswith("uint8") for item in images)
    )


def _as_tensor(images: Any) -> str:
    """What makes a tensor of it; "" where a source is nearer."""
    if isinstance(images, np.ndarray):
        pictures = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in (1, 3)
        made = "torch.from_numpy(images)"
        return f"preprocessing.normalize({made}.permute(0, 3, 1, 2))" if pictures else f"{made} makes one of an array"
    if isinstance(images, Image.Image):
        return "deconv.dataset([images]) makes a source of it"
    if isinstance(images, DataLoader):
        return "torch.cat([batch[0] for batch in images]) where memory holds them; deconv.folder(path) reads files"
    if isinstance(images, list | tuple) and images and not _are_pictures(images):
        if all(isinstance(item, Tensor) for item in images):
            return "torch.stack(images), of one shape each" if images[0].dim() < 4 else "torch.cat(images)"
        if all(isinstance(item, np.ndarray) for item in images):
            return "torch.from_numpy(np.stack(images))"
    if isinstance(images, Iterator | IterableDataset):
        return "torch.stack(list(images)) where it gives tensors (C, H, W)"
    return ""
