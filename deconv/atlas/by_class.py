"""What a unit's page says of classes, and the index by which the site is searched for classes and images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from deconv.analyses.by_class import ClassShare
from deconv.atlas import sprites
from deconv.atlas.contents import Atlas, Layer

FILE = "search.js"
"""The index, beside the front page: a script, since a page that is opened from a file may read nothing else."""
LISTED = 5
"""Classes with the largest means that a unit's page lists, beside those of its peaks."""


@dataclass(frozen=True)
class ClassRow:
    """A class, as a unit's page lists it.

    mean: of the unit's strongest activations on its images; None if not known.  bar: beside the largest, in per cent.
    images: how many of its peaks' images are of it.  of_all: its share of all images.
    """

    name: str
    mean: float | None
    bar: int
    images: int
    of_all: float


def by_class(layer: Layer, unit: int) -> dict[str, Any] | None:
    """Return what a unit's page says of classes; None where images have none."""
    if not layer.class_shares:
        return None
    shares, of_classes = layer.class_shares[unit], layer.firing.by_class
    told: dict[str, Any] = {
        "rows": _rows(layer, unit),
        "first": shares[0],
        "index": None,
        "prefers": preferred(layer, unit),
    }
    if of_classes is not None and of_classes.selectivity[unit] is not None:
        told["index"] = of_classes.selectivity[unit]
        told["chance"] = of_classes.chance[unit].item()
        told["classes"] = len(of_classes.images)
        told["others"] = _others(layer, unit)
    return told


def preferred(layer: Layer, unit: int) -> str:
    """Return the class that a unit prefers, by more than it would by chance; nothing where there is none."""
    of_classes = layer.firing.by_class
    if of_classes is None or layer.class_names is None:
        return ""
    index = of_classes.selectivity[unit]
    if index is None or index <= of_classes.chance[unit].item():
        return ""
    return layer.class_names[of_classes.classes.number[of_classes.ranked(unit)[0]]]


def _others(layer: Layer, unit: int) -> float:
    """Return the mean over all classes but the preferred one."""
    of_classes = layer.firing.by_class
    assert of_classes is not None, "asked for"
    means = of_classes.mean[unit].double()
    return float((means.sum() - means.max()) / (len(means) - 1))


def _rows(layer: Layer, unit: int) -> list[ClassRow]:
    """Return the classes with the largest means and those of the peaks, by their means."""
    shares = {share.number: share for share in layer.class_shares[unit]}
    of_classes, names = layer.firing.by_class, layer.class_names
    if of_classes is None or names is None:
        return [ClassRow(share.name, None, 0, share.images, share.of_all) for share in shares.values()]
    place, total = {number: n for n, number in enumerate(of_classes.classes.number)}, int(of_classes.images.sum())
    ranked, means = [of_classes.classes.number[n] for n in of_classes.ranked(unit)], of_classes.mean[unit].tolist()
    return [
        ClassRow(
            names[number],
            means[place[number]],
            round(100 * means[place[number]] / max(*means, 1e-30)),
            shares[number].images if number in shares else 0,
            shares[number].of_all if number in shares else int(of_classes.images[place[number]]) / total,
        )
        for rank, number in enumerate(ranked)
        if rank < LISTED or number in shares
    ]


def first_word(name: str) -> str:
    """Return the first of a class's words between commas, as pages call it; the whole name stands beside it.

    >>> first_word("goldfish, Carassius auratus")
    'goldfish'
    """
    return name.split(",")[0]


def sort_columns(layer: Layer) -> dict[str, list[float | None]]:
    """Return what is known of classes that units can be sorted by, {name: one for each unit}."""
    if not layer.class_shares:
        return {}
    columns: dict[str, list[float | None]] = {}
    of_classes = layer.firing.by_class
    if of_classes is not None and any(index is not None for index in of_classes.selectivity):
        columns["class selectivity"] = list(of_classes.selectivity)
        pairs = zip(of_classes.selectivity, of_classes.chance.tolist(), strict=True)
        columns["class selectivity above chance"] = [
            None if index is None else index - chance for index, chance in pairs
        ]
    columns["photographs of one class"] = [_most(shares) for shares in layer.class_shares]
    return columns


def _most(shares: list[ClassShare]) -> int | None:
    return shares[0].images if shares else None


def search_index(atlas: Atlas) -> str:
    """Return the index as a script: classes, images of peaks, and of each unit its peaks' images and its class.

    Names are texts of JSON in a file of their own, which no page parses as HTML.
    """
    image_ids = sorted(atlas.keys)
    place, names = {image: n for n, image in enumerate(image_ids)}, sorted(set(atlas.classes.values()))
    prefer = [{unit: preferred(layer, unit) for unit in layer.firing_units} for layer in atlas.layers]
    names = sorted({*names, *(name for of_layer in prefer for name in of_layer.values() if name)})
    class_of = {name: n for n, name in enumerate(names)}
    content = {
        "across": sprites.COLUMNS,
        "down": sprites.ROWS,
        "classes": names,
        "images": [[image, atlas.keys[image], class_of.get(atlas.classes.get(image, ""), -1)] for image in image_ids],
        "layers": [
            {
                "name": layer.name,
                "folder": layer.folder,
                "sheets": [sprites.sheet_file("recon", n) for n in range(-(-layer.channels // sprites.SHEET))],
                "units": [
                    [unit, class_of.get(name, -1), _images_of(layer, unit, place)] for unit, name in of_layer.items()
                ],
            }
            for layer, of_layer in zip(atlas.layers, prefer, strict=True)
        ],
    }
    return f"const atlasIndex = {json.dumps(content, separators=(',', ':'))};\n"


def _images_of(layer: Layer, unit: int, place: dict[int, int]) -> list[int]:
    return [place[image] for image in layer.peaks.of([unit])[0].tolist()]
