"""What an analysis looks at: layers and units, some images of a source, and the class that each of them shows.

Which units some images really excite is told by a reference: the peaks of the same network over many more images.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from deconv.errors import BadInput, RecordMismatch, UnknownName, bad_value, check_indices, counted, nearest, unknown
from deconv.images import Source
from deconv.images.class_names import spoken
from deconv.network import Network
from deconv.network.classes import alias_of, top_layer
from deconv.projection import said_of_unserved, served_layers
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Peaks
from deconv.records.provenance import check_same

log = logging.getLogger("deconv")


def last_maps(network: Network, count: int, rules: Iterable[Rule] = ()) -> list[str]:
    """Return the last layer of each of the last `count` sizes of map, in forward order: where a network ends a stage.

    Layers count that have an alias, by that, or all where none has; not those of a single position, nor directions, nor
    maps that are class scores already.  rules: what is to send them back; layers that one of them cannot send back do
    not count, unless there is no other. Raises BadInput if there is none.

    >>> import deconv
    >>> pooled = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(4, 5, 3)]
    >>> last_maps(deconv.Network(torch.nn.Sequential(*pooled, torch.nn.ReLU()), (3, 16, 16)), 3)
    ['1', '4']
    """
    try:
        last = network.node(top_layer(network, maps_only=True))
    except BadInput:  # it has no class scores
        last = len(network.graph.nodes)
    names = [n for n in network.aliases or network.layers if network.aliases.get(n, n) not in network.directions]
    indices = sorted({network.node(name): name for name in names}.items())
    layers = [name for index, name in indices if index <= last and network.map_size(name) != (1, 1)]
    layers = served_layers(network, layers, rules) or layers
    of_size = {network.map_size(name): name for name in layers}
    if not of_size:
        raise BadInput(
            "this network has no layer of maps before its class scores; expected the name of a layer: network.layers "
            "lists them, and the name of any other map serves"
        )
    last_ones = sorted(of_size.values(), key=network.node)[-count:]
    return [alias_of(network, name) for name in last_ones]


def chosen_maps(network: Network, count: int, rule: Rule) -> tuple[list[str], str]:
    """Return `last_maps` for a rule, and what is to be said of those left out because it cannot send them back.

    That is "" where none is, or where it can send none back and whoever checks the rule says so.

    >>> import deconv
    >>> layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.SiLU()]
    >>> chosen_maps(deconv.Network(torch.nn.Sequential(*layers), (3, 16, 16)), 3, Rule())
    (['1'], "left out 3, to which 'deconvnet' has no way back; rules that have one: gradient, ...")
    """
    layers = last_maps(network, count, [rule])
    if not served_layers(network, layers, [rule]):
        return layers, ""
    left_out = [name for name in last_maps(network, count) if not served_layers(network, [name], [rule])]
    return layers, said_of_unserved(network, left_out, [rule])


def check_units(network: Network, layers: Iterable[str], units: Sequence[int] | None) -> None:
    """Raise BadInput for a unit that a layer does not have; None stands for no unit in particular."""
    for layer in layers:
        check_indices("units", [] if units is None else units, network.channels(layer), f"units of {layer}")


def choose_units(peaks: LayerPeaks, units: Sequence[int] | None, n_units: int, seed: int) -> list[int]:
    """Return the units that were asked for, or a draw of units that fire, in ascending order.

    units: numbers from 0 up, returned as they are, dead ones among them; None draws `n_units` by the seed from the
    units that fire on some image: those with most of the k peaks first, and among equals at random.
    """
    if units is not None:
        return [int(unit) for unit in units]
    images_fired_on = peaks.found.sum(dim=1)
    shuffled = torch.randperm(len(images_fired_on), generator=torch.Generator().manual_seed(seed))
    by_count = shuffled[torch.argsort(images_fired_on[shuffled], descending=True, stable=True)]
    return sorted(by_count[images_fired_on[by_count] > 0][:n_units].tolist())


def spread_units(peaks: LayerPeaks, n_units: int) -> list[int]:
    """Return up to `n_units` units, the strongest first: the strongest of each of `n_units` equal parts of the layer.

    The parts divide its units in order of their strongest peaks, so that units of every strength come up and none is
    picked for its looks. Those count that have as many peaks as any, or all that fire where these are too few; dead
    ones never do.

    >>> score = torch.tensor([[2.0], [5.0], [torch.nan], [4.0], [3.0]])
    >>> image, box = torch.where(score.isnan(), -1, 0), torch.zeros(5, 1, 4, dtype=torch.int64)
    >>> spread_units(LayerPeaks(score, image, image, image, box), 2)
    [1, 4]
    """
    count = peaks.found.sum(dim=1)
    most = count == count.max()
    counted = (most if int(most.sum()) >= n_units else torch.ones_like(most)) & (count > 0)
    units = counted.nonzero().flatten()
    ordered = units[torch.argsort(peaks.score[units, 0], descending=True, stable=True)].tolist()
    shown = min(n_units, len(ordered))
    return [ordered[n * len(ordered) // shown] for n in range(shown)]


def firing_units(layer: str, peaks: LayerPeaks, units: Sequence[int] | None, n_units: int, seed: int) -> list[int]:
    """Return those of `choose_units` that fire, in ascending order, and tell the others. Raises BadInput if none."""
    firing = peaks.found.any(dim=1)
    asked = sorted(choose_units(peaks, units, n_units, seed))
    chosen = [unit for unit in asked if firing[unit]]
    if not chosen:
        raise BadInput(f"layer {layer}: none of the units asked for fires on any image; choose others")
    if dead := [unit for unit in asked if not firing[unit]]:
        log.warning("%s: left out, as they never fire on these images: units %s", layer, ", ".join(map(str, dead)))
    return chosen


def as_reference(network: Network, layers: Iterable[str], reference: Peaks) -> Peaks:
    """Return the reference with these layers alone, by these names; there each may have its alias or its own name.

    The input size may be another. Raises RecordMismatch, naming the difference, for peaks of other weights, of inputs
    normalised in another way, or with another number of units in a layer; UnknownName for a layer that the reference
    lacks; BadInput for what is no Peaks.

    >>> import deconv
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    >>> network = deconv.Network(module, (1, 8, 8), {"conv1": "1"})
    >>> reference = deconv.mine(network, torch.randn(20, 1, 8, 8), ["1"], k=1)
    >>> as_reference(network, ["conv1"], reference)
    <Peaks: conv1 (4 units), 1 peaks each>
    """
    if not isinstance(reference, Peaks):
        raise bad_value("reference", reference, "Peaks", "Peaks.load(path) reads them from a file")
    mined, own = reference.provenance, network.provenance()
    remedy = "Give the peaks of a larger mining by this very network"
    check_same("the reference", {"weights": mined.get("weights")}, {"weights": own["weights"]}, remedy)
    check_same("the reference", _normalisation(mined), _normalisation(own), remedy)
    by_node = {network.node(name): name for name in reference if name in (*network.aliases, *network.layers)}
    chosen = {}
    for layer in layers:
        if network.node(layer) not in by_node:
            raise unknown("layer of the reference", layer, reference, "mine it too")
        chosen[layer] = reference[by_node[network.node(layer)]]
        units = len(chosen[layer].score)
        if units != network.channels(layer):
            raise RecordMismatch(
                f"the reference has {units} units in {layer}; expected {network.channels(layer)}. {remedy}"
            )
    return Peaks(chosen, reference.image_keys, reference.provenance)


def _normalisation(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two minings must share beside the weights for their scores to be comparable."""
    preprocessing = provenance.get("preprocessing") or {}
    return {key: preprocessing.get(key) for key in ("mean", "std")}


def share_of_strongest(peaks: LayerPeaks, reference: LayerPeaks) -> Float[Tensor, " units"]:
    """Return each unit's strongest score as a share of its strongest in the reference, where that is above zero.

    It may pass 1, as the images need not be among the reference's. It is nan for a unit that is dead in either.

    >>> zeros, box = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1, 4, dtype=torch.int64)
    >>> here, there = torch.tensor([[2.0], [3.0], [1.0]]), torch.tensor([[4.0], [2.5], [torch.nan]])
    >>> peaks, reference = (LayerPeaks(score, zeros, zeros, zeros, box) for score in (here, there))
    >>> share_of_strongest(peaks, reference)
    tensor([0.5000, 1.2000,    nan])
    """
    return peaks.score[:, 0] / _strongest(reference)


def listed_shares(peaks: LayerPeaks, reference: LayerPeaks) -> list[float | None]:
    """Return `share_of_strongest` as a record has it: in four digits after the point, None where there is none."""
    shares = share_of_strongest(peaks, reference).tolist()
    return [None if math.isnan(share) else round(share, 4) for share in shares]


def strongest_units(peaks: LayerPeaks, reference: LayerPeaks, n_units: int) -> list[int]:
    """Return up to `n_units` units that fire, those first that these images excite most beside the reference.

    A unit goes by its `share_of_strongest`: of few images, no more than one or two show what it looks for. A unit that
    is dead in the reference comes last; equals come by number.

    >>> zeros, box = torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1, 4, dtype=torch.int64)
    >>> here, there = torch.tensor([[2.0], [3.0], [1.0]]), torch.tensor([[4.0], [2.5], [1.0]])
    >>> strongest_units(*(LayerPeaks(score, zeros, zeros, zeros, box) for score in (here, there)), n_units=2)
    [1, 2]
    """
    order = torch.argsort(share_of_strongest(peaks, reference).nan_to_num(-math.inf), descending=True, stable=True)
    return order[peaks.found.any(dim=1)[order]][:n_units].tolist()


def _strongest(reference: LayerPeaks) -> Float[Tensor, " units"]:
    """Return each unit's strongest score; nan for one that is dead, or never above zero."""
    strongest = reference.score[:, 0]
    return strongest.masked_fill(strongest <= 0, math.nan)


def describe_share(share: float, reference: Peaks) -> str:
    """Return how strong a unit is here, in words.

    >>> source = {"source": {"name": "webdataset", "images": 100_000}}
    >>> describe_share(0.8, Peaks({}, {}, source))
    '0.80 of its strongest over 100,000 images'
    """
    return f"{share:.2f} of its strongest over {images_of(reference):,} images"


def images_of(reference: Peaks) -> int:
    """Return how many images were mined and could be read."""
    images: int = reference.provenance["source"]["images"]
    return images - len(reference.provenance.get("unreadable", []))


def described_images(peaks: Peaks) -> str:
    """Return how many photographs were mined, of which class if of one, and how many could not be read, in words.

    >>> described_images(Peaks({}, {}, {"source": {"images": 61}, "unreadable": [[7, "cut.jpg", "it is cut"]]}))
    '60 photographs (1 more could not be read)'
    """
    unreadable = len(peaks.provenance.get("unreadable", []))
    more = f" ({unreadable} more could not be read)" if unreadable else ""
    within = peaks.provenance["source"].get("within")
    of_class = "" if within is None else f" of the class {spoken(within).split(',')[0]}"
    return f"{counted(images_of(peaks), 'photograph')}{of_class}{more}"


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
