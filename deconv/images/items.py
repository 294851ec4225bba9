"""The items of a Dataset as images: pictures, arrays and tensors, alone or with a label.

An item is an image, a tuple that begins with one, or a mapping that has one:

- a PIL picture becomes RGB as a picture file does: grey and palette keep their colours, transparency is laid on white;
  it is not turned by its EXIF, for what a Dataset gives is taken to be what it means;
- an array or a tensor of uint8 is (H, W, 3), (3, H, W), (H, W) or one of these with a single channel; where both
  readings fit, an array has its channels last and a tensor first;
- floats are read as the bytes that they were where they are 0/255, 1/255, ... 255/255, as ToTensor makes them; others
  were normalised or resized, are no picture any more, and are refused.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from deconv.errors import BadInput, UnreadableImage, bad_value, shown
from deconv.images.decoding import SUFFIXES, pillow_pixels, reason_of
from deconv.images.members import Member

IMAGE_KEYS = ("image", "img", "jpg", "png", "webp")
LABEL_KEYS = ("label", "labels", "fine_label", "cls")
"""Keys of a mapping under which its image and its label are looked for, in this order."""
NEAR_A_BYTE = 1e-3
"""How far 255 times a float may be from a whole number: float32 rounds to within 2e-5."""
UNREADABLE = b"unreadable"
PICTURES = "a PIL image, or uint8 of shape (H, W, 3), (3, H, W) or (H, W)"


@runtime_checkable
class MapDataset(Protocol):
    """A map-style Dataset: it has a length, and an item for each number below that."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(eq=False)
class Items:
    """The items of a Dataset, one at a time, as it need not bear threads, each compared with what it was.

    - image_key, label_key: where in an item they are; None for the usual places.
    - digests: the SHA-256 of the image of each item that was read, by its number; b"unreadable" for one that failed.
    """

    dataset: MapDataset
    image_key: str | int | None = None
    label_key: str | int | None = None
    digests: dict[int, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no lock, which is its own."""
        return {name: value for name, value in vars(self).items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the state in another process."""
        vars(self).update(state, lock=threading.Lock())

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W 3"], Any]:
        """Return the image of an item, and its label or None.

        Raises UnreadableImage if the Dataset raises; BadInput for an item that is no image, and if it is not the one of
        an earlier reading.
        """
        try:
            with self.lock:
                image, label = self._parts(self.dataset[index], index)
                pixels = pillow_pixels(image) if isinstance(image, Image.Image) else _pixels_of(image, index)
        except BadInput:
            raise
        except Exception as error:  # whatever the Dataset's own code and its decoders raise
            self._compare(index, UNREADABLE)
            raise UnreadableImage(
                f"item {index} of the dataset {self.name} cannot be read ({reason_of(error)}); expected {PICTURES}: "
                "repair or leave out that item"
            ) from error
        self._compare(index, hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest())
        return pixels, label

    def digest(self, index: int) -> bytes:
        """Return the SHA-256 of the shape and the pixels of an item; b"unreadable" if it cannot be read."""
        if index not in self.digests:
            with suppress(UnreadableImage):  # mining names such an image; here it only has to count as different
                self.read(index)
        return self.digests[index]

    @property
    def name(self) -> str:
        """What messages call the Dataset: its class."""
        return type(self.dataset).__name__

    def _compare(self, index: int, digest: bytes) -> None:
        if self.digests.setdefault(index, digest) != digest:
            raise BadInput(
                f"item {index} of the dataset {self.name} is not the image that it was before; expected the same at "
                "every reading: leave random transforms out, or, if you changed it, take it anew by "
                "deconv.dataset(images)"
            )

    def _parts(self, item: Any, index: int) -> tuple[Any, Any]:
        """The image and the label of an item, whatever they are."""
        if isinstance(item, Mapping):
            image: Any = next((key for key in IMAGE_KEYS if key in item), None)
            label: Any = next((key for key in LABEL_KEYS if key in item), None)
            places: Collection[Any] = item
        else:
            item = item if isinstance(item, tuple | list) else (item,)
            image, label, places = 0, 1 if len(item) > 1 else None, range(len(item))
        image, label = self._place("image", image, places, index), self._place("label", label, places, index)
        if image is None:
            raise BadInput(
                f"item {index} of the dataset {self.name} has {', '.join(map(str, places)) or 'nothing'}; expected one "
                f"of {', '.join(IMAGE_KEYS)}: dataset(images, image=KEY) says under which key the image is"
            )
        return item[image], None if label is None else item[label]

    def _place(self, what: str, usual: Any, places: Collection[Any], index: int) -> Any:
        given = self.image_key if what == "image" else self.label_key
        if given is not None and (given not in places or isinstance(given, bool)):
            has = ", ".join(map(str, places))
            raise bad_value(what, given, f"the {what}'s key or place in item {index} of the dataset, one of {has}")
        return usual if given is None else given


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Member):
    """One item of a Dataset; `path` is its key, and no file."""

    items: Items
    index: int

    @property
    def is_in_file(self) -> bool:
        """Whether the file `path` holds the image: it does not."""
        return False

    def absolute(self) -> Member:
        """Return the item: it is the same in another folder and process."""
        return self

    def pixels(self) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image; raises as `Items.read`."""
        return self.items.read(self.index)[0]

    def digest(self) -> bytes:
        """Return the SHA-256 of the image; b"unreadable" if it cannot be read."""
        return self.items.digest(self.index)


def _pixels_of(image: Any, index: int) -> np.ndarray:
    """The pixels of an array or a tensor, copied. Raises BadInput for what is no picture."""
    if not isinstance(image, np.ndarray | Tensor) or 0 in image.shape:
        remedy = "dataset(images, image=KEY) says where in an item it is"
        if isinstance(image, list):  # as Hugging Face's datasets give arrays
            remedy = "make it an array, as images.with_format('numpy') does of Hugging Face's"
        if isinstance(image, PathLike) or (isinstance(image, str) and image.lower().endswith(SUFFIXES)):
            remedy = "open it, as PIL.Image.open(path) does, or read all below a folder with deconv.folder(path)"
        raise BadInput(f"item {index} of the dataset is {shown(image)}; expected {PICTURES}: {remedy}")
    if isinstance(image, Tensor):
        values = (image.detach().float() if image.dtype == torch.bfloat16 else image.detach()).cpu().numpy()
    else:
        values = image
    # Tensor.numpy of a tv_tensor is a plain array; a copy, since a Dataset may use its buffer again
    return _channels_last(_bytes_of(values, image, index), image, index, first=isinstance(image, Tensor)).copy()


def _bytes_of(values: np.ndarray, image: Any, index: int) -> np.ndarray:
    """The values as uint8. Raises BadInput for what was no byte."""
    if values.dtype == np.uint8:
        return values
    given, remedy = shown(image), "make it uint8, 0 to 255"
    if np.issubdtype(values.dtype, np.floating):
        levels = values * np.float32(255)
        whole = np.rint(levels)
        if np.all((whole >= 0) & (whole <= 255) & (np.abs(levels - whole) <= NEAR_A_BYTE)):
            return whole.astype(np.uint8)
        given = f"{given} from {values.min():.3g} to {values.max():.3g}"
        if not np.all((values >= 0) & (values <= 255) & (values == np.rint(values))):
            remedy = (
                "it was normalised or resized, which the network's preprocessing does: take that transform out (as "
                "dataset.transform = None), or give such inputs as one tensor, torch.stack([...])"
            )
    raise BadInput(f"item {index} of the dataset is {given}; expected {PICTURES}: {remedy}")


def _channels_last(values: np.ndarray, image: Any, index: int, first: bool) -> np.ndarray:
    """(H, W, 3) of whatever order of axes; grey is repeated. first: whether channels come first where both would do."""
    if values.ndim == 2:
        values = values[:, :, None]
    else:
        axes = [axis for axis in ((0, -1) if first else (-1, 0)) if values.ndim == 3 and values.shape[axis] in (1, 3)]
        if not axes:
            raise BadInput(f"item {index} of the dataset is {shown(image)}; expected {PICTURES}: reorder its axes")
        values = np.moveaxis(values, axes[0], -1)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values
