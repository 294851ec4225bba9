"""What an analysis looks at: layers and units, some images of a source, and the class that each of them shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from deconv.errors import BadInput, UnknownName, bad_value, check_indices, nearest
from deconv.images import Source
from deconv.images.class_names import spoken
from deconv.network import Network
from deconv.records import LayerPeaks


def check_units(network: Network, layers: Iterable[str], units: Sequence[int] | None) -> None:
    """Raise BadInput for a unit that a layer does not have; None stands for no unit in particular."""
    for layer in layers:
        check_indices("units", units or [], network.channels(layer), f"units of {layer}")


def choose_units(peaks: LayerPeaks, units: Sequence[int] | None, n_units: int, seed: int) -> list[int]:
    """Return the units that were asked for, or a draw of units that fire, in ascending order.

    units: numbers from 0 up, returned as they are, dead ones among them; None draws `n_units` by the seed from the
    units that fire on some image: those with most of the k peaks first, and among equals at random.
    """
    if units is not None:
        return list(units)
    images_fired_on = peaks.found.sum(dim=1)
    shuffled = torch.randperm(len(images_fired_on), generator=torch.Generator().manual_seed(seed))
    by_count = shuffled[torch.argsort(images_fired_on[shuffled], descending=True, stable=True)]
    return sorted(by_count[images_fired_on[by_count] > 0][:n_units].tolist())


def firing_units(layer: str, peaks: LayerPeaks, units: Sequence[int] | None, n_units: int, seed: int) -> list[int]:
    """Return those of `choose_units` that fire, in ascending order. Raises BadInput if none does."""
    firing = peaks.found.any(dim=1)
    chosen = sorted(unit for unit in choose_units(peaks, units, n_units, seed) if firing[unit])
    if not chosen:
        raise BadInput(f"layer {layer}: none of the units asked for fires on any image; choose others")
    return chosen


def pick_images(source: Source, images: Sequence[str | int] | None, first: int) -> list[int]:
    """Return the numbers of images that are named by key or number; None takes the `first` of the source.

    Raises UnknownName for a key that is not there, BadInput for a number that is not, for none or for one named twice.
    """
    names: Sequence[str | int] = list(range(min(first, len(source)))) if images is None else images
    numbers = [_image_number(source, name) for name in names]
    if not numbers:
        raise bad_value("images", [], "keys or numbers of images, or None for the first of the source")
    if twice := [source.keys[number] for number in numbers if numbers.count(number) > 1]:
        raise bad_value("images", twice[0], "each image once", "it is named twice")
    return numbers


def _image_number(source: Source, name: str | int) -> int:
    if isinstance(name, int):
        return check_indices("images", [name], len(source), f"images of the source {source.name}")[0]
    if name not in source.keys:
        raise UnknownName(
            f"image {name!r} is not in the source {source.name}, which has {len(source)} images; expected one of their "
            f"keys, as {source.keys[0]!r}, or a number{nearest(name, source.keys)}"
        )
    return source.keys.index(name)


def number_labels(labels: Sequence[str | int] | None, images: int, names: Sequence[str]) -> list[int] | None:
    """Return the class of each of `images` images, given by name or number; None stays None. `names`: of all classes.

    A name may be the id of an ImageNet class, which stands for its name in words.
    Raises BadInput for another number of labels, a number that is no class or a name that several have; UnknownName.
    """
    if labels is None:
        return None
    if len(labels) != images:
        raise bad_value("labels", list(labels), f"one for each of {images} images, or None")
    return [_class_number(label, names) for label in labels]


def _class_number(label: str | int, names: Sequence[str]) -> int:
    if isinstance(label, int):
        return check_indices("labels", [label], len(names), "classes of this network")[0]
    wanted = spoken(label).replace("_", " ").casefold()
    classes = [number for number, name in enumerate(names) if spoken(name).casefold() == wanted]
    if len(classes) > 1:
        raise BadInput(f"label {label!r} is the name of classes {' and '.join(map(str, classes))}; give the number")
    if not classes:
        raise UnknownName(f"label {label!r} is none of this network's {len(names)} classes{nearest(label, names)}")
    return classes[0]
