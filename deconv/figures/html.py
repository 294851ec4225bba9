"""Networks and records as HTML for a notebook: a table or pictures, of bounded size, without scripts.

Colours are the notebook's own, so that what is written can be read on a light and on a dark page.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, singledispatch
from typing import Any

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from deconv.errors import UnsupportedOperation, counted
from deconv.figures.pictures import on_grid, patch_tiles, recon_tiles
from deconv.images import Source, StreamedSource
from deconv.images.class_names import spoken
from deconv.network import Network
from deconv.projection import check_rules
from deconv.projection.rules import RULES
from deconv.records import LayerPeaks, Parts, Patches, Peaks, Reconstructions

MOST_ROWS = 40
"""Layers that a table lists; of more it lists the first and says how many there are."""
MOST_KEYS = 10
"""Images of a source, and units of a layer, that a table lists."""
MOST_REFUSALS = 6
"""Different refusals that are quoted."""
MOST_UNITS, PER_UNIT, ACROSS_UNIT = 8, 9, 3
"""Units that are shown, the reconstructions of each, and how many of these stand beside each other."""
MOST_PARTS = 5
"""Lower units of each layer that are named."""
MOST_PATCHES, ACROSS = 36, 9
SIDE, GAP = 64, 2
"""Pixels a side of a tile, and between two."""
JPEG_QUALITY = 88
CELL = "padding: .15em .8em"


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in a page.  alt: what it shows, for whoever does not see it."""

    base64: str
    mime: str
    width: int
    height: int
    caption: str
    alt: str


@singledispatch
def html_of(shown: Any) -> str:
    """Return a network or a record as a piece of HTML. Raises TypeError for anything else.

    >>> import torch
    >>> pixels, box = torch.zeros((2, 3, 4, 4), dtype=torch.uint8), torch.tensor([[0, 0, 4, 4], [1, 0, 5, 4]])
    >>> html_of(Patches(pixels, pixels[:, 0] == 0, box, torch.tensor([0, 1]))).count("<img")
    1
    """
    raise TypeError(f"{type(shown).__name__} has no form as HTML")


@html_of.register
def _(network: Network) -> str:
    layers = network.layers
    aliases = {layer: alias for alias, layer in network.aliases.items()}
    refusals: dict[str, list[str]] = {}
    rows = []
    for layer in layers[:MOST_ROWS]:
        field = network.receptive_field(layer)
        refusing = {rule: reason for rule in RULES if (reason := refusal(network, layer, rule))}
        for reason in refusing.values():
            refusals.setdefault(reason, []).append(layer)
        carrying = [rule for rule in RULES if rule not in refusing]
        rows.append(
            (
                f"{aliases[layer]} = {layer}" if layer in aliases else layer,
                network.channels(layer),
                by(network.map_size(layer)),
                by(field.size),
                by(field.stride) if any(field.stride) else "–",
                "every rule" if not refusing else ", ".join(carrying) or "none",
            )
        )
    quoted = [
        f"{refused[0] if len(refused) == 1 else f'{refused[0]} and {len(refused) - 1} more'}: {reason}"
        for reason, refused in list(refusals.items())[:MOST_REFUSALS]
    ]
    return page(
        repr(network),
        head=("layer", "units", "map", "receptive field", "stride", "carried by"),
        rows=rows,
        notes=[
            *([f"followed up to {layers[-1]}: {network.graph.cut_short}"] if network.graph.cut_short else []),
            *more(len(layers) - MOST_ROWS, "layers, which network.layers lists"),
            *quoted,
            *more(len(refusals) - MOST_REFUSALS, "refusals"),
        ],
    )


def refusal(network: Network, layer: str, rule: str) -> str:
    """Return why a rule cannot send a layer back, with what would carry it; "" if it can."""
    try:
        check_rules(network, [layer], [rule])
    except UnsupportedOperation as error:
        return str(error)
    return ""


@html_of.register
def _(peaks: Peaks) -> str:
    rows = [(layer, *_strength(peaks[layer], peaks.image_keys)) for layer in list(peaks)[:MOST_ROWS]]
    return page(
        "Peaks",
        f"{counted(len(peaks), 'layer')}; {_images_of(peaks)}",
        head=("layer", "units", "peaks a unit", "dead units", "strongest unit", "its score", "on image"),
        rows=rows,
        notes=more(len(peaks) - MOST_ROWS, "layers"),
    )


def _images_of(peaks: Peaks) -> str:
    """What is said of the images that were mined: how many they were, and how many of them hold a peak."""
    holding, mined = len(peaks.image_keys), peaks.provenance.get("source", {}).get("images", len(peaks.image_keys))
    unreadable = len(peaks.provenance.get("unreadable", []))
    skipped = f" ({unreadable} more could not be read)" if unreadable else ""
    return f"of {counted(mined - unreadable, 'image')}{skipped}, {holding} {'holds' if holding == 1 else 'hold'} a peak"


def _strength(peaks: LayerPeaks, keys: dict[int, str]) -> tuple[Any, ...]:
    """What a table says of a layer's peaks."""
    units, k = peaks.score.shape
    dead = int((~peaks.found.any(dim=1)).sum())
    if dead == units:
        return units, k, dead, "–", "–", "–"
    score, unit = peaks.score[:, 0].nan_to_num(float("-inf")).max(dim=0)
    image_id = int(peaks.image[unit, 0])
    return units, k, dead, int(unit), f"{float(score):.4g}", keys.get(image_id, str(image_id))


@html_of.register
def _(recon: Reconstructions) -> str:
    units = list(dict.fromkeys(recon.channel.tolist()))
    pictures = []
    for unit in units[:MOST_UNITS]:
        of_unit = recon.of((recon.channel == unit).nonzero().flatten()[:PER_UNIT])
        shown = of_unit.zoomed(recon.zoomed_side)
        caption = f"unit {unit}, activation {float(of_unit.score.max()):.3g}"
        alt = f"unit {unit}: {len(of_unit)} reconstructions by {recon.rule}"
        pictures.append(picture(recon_tiles(shown.pixels, SIDE), shown.pixels, ACROSS_UNIT, caption, alt))
    return page(
        f"Reconstructions of {recon.layer} by {recon.rule}",
        f"{len(recon)}, of {counted(len(units), 'unit')}; zero at mid-grey, each on its own scale",
        pictures=pictures,
        notes=more(len(units) - MOST_UNITS, f"units; of each unit its first {PER_UNIT} are shown"),
    )


@html_of.register
def _(parts: Parts) -> str:
    rows = []
    for layer in list(parts)[:MOST_ROWS]:
        strongest, around = parts.strongest(layer, MOST_PARTS), parts.around_of_whole(layer)
        others = float(parts.of_whole(layer).sum()) - sum(strongest.values())
        named = ", ".join(f"{unit}: {percent(share)}" for unit, share in strongest.items())
        left = 1 - sum(strongest.values()) - others - around
        rows.append((layer, named, percent(others), percent(around), percent(left)))
    return page(
        "Parts",
        f"of {counted(len(parts.score), 'activation')} together; lower units by what they pass on",
        head=("layer", "strongest units", "all others", "paths around the layer", "biases and the rule"),
        rows=rows,
        notes=more(len(parts) - MOST_ROWS, "layers"),
    )


@html_of.register
def _(patches: Patches) -> str:
    first, pictures = patches.pixels[:MOST_PATCHES], []
    if len(first):
        tiles = patch_tiles(first, patches.inside[:MOST_PATCHES], SIDE)
        pictures.append(picture(tiles, first, ACROSS, "", f"{len(first)} patches"))
    height, width = patches.pixels.shape[2:]
    return page(
        "Patches",
        f"{len(patches.pixels)} of {height} x {width} pixels; hatched: outside the image",
        pictures=pictures,
        notes=more(len(patches.pixels) - MOST_PATCHES, "patches"),
    )


@html_of.register
def _(source: Source) -> str:
    names, labels = source.class_names, source.labels
    classes = [str(label) if names is None else spoken(names[label]) for label in (labels or ())[:MOST_KEYS]]
    rows = list(zip(source.ids[:MOST_KEYS], source.keys[:MOST_KEYS], classes or ["–"] * MOST_KEYS, strict=False))
    return page(
        repr(source).strip("<>"),
        head=("image id", "key", "class"),
        rows=rows,
        notes=more(len(source) - MOST_KEYS, "images"),
    )


@html_of.register
def _(source: StreamedSource) -> str:
    rows = list(zip(source.shards.names[:MOST_KEYS], source.shards.addresses, strict=False))
    notes = more(len(source.shards.names) - MOST_KEYS, "shards")
    return page(repr(source).strip("<>"), head=("shard", "address"), rows=rows, notes=notes)


@html_of.register
def _(peaks: LayerPeaks) -> str:
    order = peaks.score[:, 0].nan_to_num(float("-inf")).sort(descending=True, stable=True).indices
    rows = [
        (
            unit,
            f"{float(peaks.score[unit, 0]):.4g}",
            *(int(column[unit, 0]) for column in (peaks.image, peaks.row, peaks.col)),
        )
        for unit in order[:MOST_KEYS].tolist()
        if peaks.found[unit, 0]
    ]
    return page(
        repr(peaks).strip("<>"),
        "the strongest units, by their strongest peaks",
        head=("unit", "score", "image id", "row", "col"),
        rows=rows,
        notes=more(len(peaks.score) - len(rows), "units"),
    )


def picture(tiles: UInt8[np.ndarray, "N side side 3"], pixels: Tensor, across: int, caption: str, alt: str) -> Picture:
    """Return tiles of `pixels` (N, C, h, w) on a grid: as PNG where a pixel is drawn as a square, else as JPEG."""
    grid = on_grid(tiles, min(across, len(tiles)), GAP)
    return embedded(grid, 2 * max(pixels.shape[2:]) <= SIDE, caption, alt)


def embedded(pixels: UInt8[np.ndarray, "H W 3"], sharp: bool, caption: str, alt: str) -> Picture:
    """Return a picture to stand in a page: as PNG if it must stay sharp, else as JPEG, which is a third as large."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **({"format": "PNG"} if sharp else {"format": "JPEG", "quality": JPEG_QUALITY}))
    text = base64.b64encode(file.getvalue()).decode()
    return Picture(text, "image/png" if sharp else "image/jpeg", pixels.shape[1], pixels.shape[0], caption, alt)


def page(
    title: str,
    about: str = "",
    head: Sequence[str] = (),
    rows: Sequence[Sequence[Any]] = (),
    pictures: Sequence[Picture] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a title, a table, pictures and notes, those that there are, as a piece of HTML; all words are escaped."""
    parts = {"title": title, "about": about, "head": head, "rows": rows, "pictures": pictures, "notes": notes}
    return template("shown.html").render(cell=CELL, **parts)


def more(count: int, what: str) -> list[str]:
    """Return the note that there are more of something than is shown; nothing if there are not."""
    return [f"… and {count} more {what}"] if count > 0 else []


def percent(share: float) -> str:
    """Return 0.123 as "12 %", and "not known" for NaN."""
    return "not known" if math.isnan(share) else f"{round(100 * share)} %"


def by(sizes: tuple[int, int]) -> str:
    """Return two numbers as "3 x 5"."""
    return f"{sizes[0]} x {sizes[1]}"


@cache
def template(name: str) -> Template:
    """Return a file of templates/, in which all that is put into it is escaped."""
    options: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined}
    environment = Environment(loader=PackageLoader("deconv.figures"), trim_blocks=True, lstrip_blocks=True, **options)
    return environment.get_template(name)
