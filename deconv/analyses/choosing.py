"""What an analysis looks at: layers and units, some images of a source, and the class that each of them shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from deconv.errors import BadInput, UnknownName, nearest
from deconv.images import Source
from deconv.network import Network
from deconv.projection.rules import Rule, as_rule
from deconv.records import LayerPeaks


def chosen_rule(given: str | Mapping[str, Any]) -> Rule:
    """The rule of a setting, its name or its options, where no images are at hand that could lend their switches.

    Raises UnknownName for a name, an option or a choice that does not exist, BadInput for switches of other images.
    """
    rule = as_rule(given)
    if rule.switches == "other":
        raise BadInput("rule.switches=other: this experiment has no images to lend them; compare_rules does.")
    return rule


def check_units(network: Network, layers: Iterable[str], units: Sequence[int] | None) -> None:
    """Raise UnknownName for a unit that a layer does not have; None stands for no unit in particular."""
    for layer in layers:
        for unit in units or []:
            if not 0 <= unit < network.channels(layer):
                raise UnknownName(f"unit {unit}: layer {layer} has units 0 to {network.channels(layer) - 1}.")


def draw_units(layer: str, peaks: LayerPeaks, units: Sequence[int] | None, n_units: int, seed: int) -> list[int]:
    """Those of `units` that fire, or n_units drawn by the seed of all that do; rising. Raises BadInput if none does."""
    alive = torch.nonzero(peaks.found.any(dim=1)).flatten()
    if units is not None:
        alive = alive[torch.isin(alive, torch.tensor(list(units)))]
    if not len(alive):
        raise BadInput(f"layer {layer}: none of the units asked for fires on any image; choose others.")
    if units is not None:
        return alive.tolist()
    order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed))
    return sorted(alive[order[:n_units]].tolist())


def pick_images(source: Source, wanted: Sequence[str | int] | None, first: int) -> list[int]:
    """Numbers of the images that `wanted` names by key or number; None takes the `first` of the source.

    Raises UnknownName for a key that is not there, BadInput for a number that is not, for none or for one named twice.
    """
    names: Sequence[str | int] = list(range(min(first, len(source)))) if wanted is None else wanted
    chosen = [_image_number(source, name) for name in names]
    if not chosen:
        raise BadInput("images=[]: expected keys or numbers of images, or null for the first of the source.")
    if twice := [source.keys[number] for number in chosen if chosen.count(number) > 1]:
        raise BadInput(f"images: {twice[0]} is named twice; name each image once.")
    return chosen


def _image_number(source: Source, name: str | int) -> int:
    if isinstance(name, int):
        if not 0 <= name < len(source):
            raise BadInput(f"images: given {name}; the source {source.name} has images 0 to {len(source) - 1}.")
        return name
    if name not in source.keys:
        raise UnknownName(
            f"image {name!r} is not in the source {source.name}, which has {len(source)} images; expected one of their "
            f"keys, as {source.keys[0]!r}, or a number{nearest(name, source.keys)}"
        )
    return source.keys.index(name)


def number_labels(labels: Sequence[str | int] | None, images: int, names: Sequence[str]) -> list[int] | None:
    """The class of each of `images` images, given by name or number; None stays None. `names`: of all classes.

    Raises BadInput for another number of labels, a number that is no class or a name that several have; UnknownName.
    """
    if labels is None:
        return None
    if len(labels) != images:
        raise BadInput(f"labels: given {len(labels)} for {images} images; expected one for each, or null.")
    return [_class_number(label, names) for label in labels]


def _class_number(label: str | int, names: Sequence[str]) -> int:
    if isinstance(label, int):
        if not 0 <= label < len(names):
            raise BadInput(f"label {label}: this network has classes 0 to {len(names) - 1}.")
        return label
    meant = label.replace("_", " ").casefold()
    found = [number for number, name in enumerate(names) if name.casefold() == meant]
    if len(found) > 1:
        raise BadInput(f"label {label!r} is the name of classes {' and '.join(map(str, found))}; give the number.")
    if not found:
        raise UnknownName(f"label {label!r} is none of this network's {len(names)} classes{nearest(label, names)}")
    return found[0]
