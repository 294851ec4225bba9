"""Figure 2's numbers: those of a layer and of the units that are shown of it, and the classes their images share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from deconv.images import Source, StreamedSource
from deconv.images.class_names import spoken
from deconv.network import Network
from deconv.records import LayerPeaks, Reconstructions

MOST_CLASSES = 2
"""Classes that a unit's title names."""
LONGEST_NAME = 24
"""Letters of a class's name in a title."""


def shared_classes(labels: Sequence[int], names: Sequence[str] | None = None) -> str:
    """Return which classes at least two of some images have, the most frequent first, at most two of them.

    labels: the class of each image, the strongest image first, which decides among equals. names: of all classes; of a
    name such as "church, church building" only what stands before the comma is used, and of an ImageNet id its words.
    "" where no two share a class.

    >>> shared_classes([3, 1, 3, 0, 1, 3], ["ape", "bee", "cat", "dog, domestic dog"])
    'dog 3, bee 2 of 6'
    >>> shared_classes([4, 4, 1]), shared_classes([0, 1, 2])
    ('class 4 2 of 3', '')
    >>> shared_classes([0, 0], ["n03028079"])
    'church 2 of 2'
    """
    counts = Counter(labels).most_common(MOST_CLASSES)
    shared = [f"{_short(names[label] if names else f'class {label}')} {count}" for label, count in counts if count > 1]
    return f"{', '.join(shared)} of {len(labels)}" if shared else ""


def _short(name: str) -> str:
    first = " ".join(spoken(name).split(",")[0].split()) or "no name"
    return first if len(first) <= LONGEST_NAME else f"{first[: LONGEST_NAME - 1].rstrip()}…"


def classes_of_units(images: Source, peaks: LayerPeaks, units: Sequence[int]) -> dict[int, str]:
    """Return {unit: the classes that the images of its peaks share}, each image counted once.

    A unit is left out where no two of its images share one, and every unit is where the source has no labels, or one
    for all.

    >>> import torch
    >>> from dataclasses import replace
    >>> from deconv.images import bundled
    >>> photographs = replace(bundled().part([0, 1, 2]), labels=(1, 0, 1), class_names=("cat", "dog"))
    >>> image = torch.tensor([[0, 2, 0], [0, 1, -1]])
    >>> peaks = LayerPeaks(image.float(), image, image, image, torch.zeros(2, 3, 4, dtype=torch.int64))
    >>> classes_of_units(photographs, peaks, [0, 1])
    {0: 'dog 2 of 2'}
    """
    of_units = {unit: list(dict.fromkeys(peaks.image[unit][peaks.found[unit]].tolist())) for unit in units}
    image_ids = sorted({image_id for of_unit in of_units.values() for image_id in of_unit})
    labels = images.labels_of(image_ids)
    if labels is None or _is_one_class(images, labels):
        return {}
    label_of = dict(zip(image_ids, labels, strict=True))
    classes = {
        unit: shared_classes([label_of[image_id] for image_id in of_unit], images.class_names)
        for unit, of_unit in of_units.items()
    }
    return {unit: shared for unit, shared in classes.items() if shared}


def _is_one_class(images: Source, labels: Sequence[int]) -> bool:
    """Whether all images are of one class; of a streamed source, which is not read for it, whether these are."""
    return len(set(labels)) == 1 and (isinstance(images, StreamedSource) or len(set(images.labels or ())) == 1)


def summarise(
    network: Network,
    images: Source,
    layer: str,
    peaks: LayerPeaks,
    units: Sequence[int],
    recon: Reconstructions,
    shown: Reconstructions,
) -> dict[str, Any]:
    """Return the numbers of a layer and of the units that are shown of it.

    recon: the reconstructions of their peaks.  shown: what pictures show of these.  `classes` in the result: what each
    unit's images share, or None.

    >>> import deconv, torch
    >>> module, images = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), deconv.bundled().part([0, 1])
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> peaks = deconv.mine(network, images, ["1"])["1"]
    >>> recon = deconv.project_peaks(network, images, "1", peaks, [3, 0])
    >>> numbers = summarise(network, images, "1", peaks, [3, 0], recon, recon.zoomed())
    >>> numbers["units"], numbers["channels"], numbers["receptive_field"], numbers["classes"]
    ([3, 0], 4, (3, 3), [None, None])
    """
    field, classes = network.receptive_field(layer), classes_of_units(images, peaks, units)
    return {
        "units": list(units),
        "channels": network.channels(layer),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "effective_field": recon.effective_field,
        "shown_field": tuple(shown.pixels.shape[2:]),
        "stride": field.stride,
        "dead_units": int((~peaks.found.any(dim=1)).sum()),
        "strongest_score": [round(float(peaks.score[unit, 0]), 6) if peaks.found[unit, 0] else None for unit in units],
        "different_images": [int(peaks.image[unit][peaks.found[unit]].unique().numel()) for unit in units],
        "classes": [classes.get(unit) for unit in units],
    }
