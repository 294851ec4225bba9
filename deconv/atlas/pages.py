"""The pages as HTML: this works out what each shows, and templates/ lay it out."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from torch import Tensor

from deconv.analyses.by_class import percent
from deconv.analyses.choosing import describe_share
from deconv.atlas import contents, drawings, sprites
from deconv.atlas.beyond import beyond
from deconv.atlas.by_class import FILE, by_class, first_word, preferred, sort_columns
from deconv.atlas.contents import Atlas, Layer
from deconv.atlas.trust import p_value, trust_column
from deconv.records.firing import CORRELATED

POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
FEATURED = 3
"""Units of a layer on the front page: those that its photographs excite most."""
LINKED = 8
"""Lower units that a unit's page leads to, and units above."""
SHARE = "share of its strongest"
EXAMPLE_SHARE = 30
"""Per cent of the picture that the unit of the front page's example should see: the nearest layer is taken."""
RULES = {
    "deconvnet": "positive signals only, at every layer on the way down",
    "guided": "only positive signals, and only where the layer below fired",
    "gradient": "the plain derivative of the activation",
    "deconvnet_beyond": "positive signals only, at every activation; gates and norms held constant",
    "guided_beyond": "only positive signals, and only where the layer below fired; gates and norms held constant",
    "lrp_epsilon": "the activation shared out among all that added up to it, layer by layer",
    "lrp_z_plus": "the activation shared out among what added to it, layer by layer, without what took away",
}
EXPLANATIONS = {
    "activation_map": "the unit's own map made as large as the photograph: where it fires, not why",
    "grad_cam": "the maps below the unit, added up by what it owes them",
    "gradient_times_input": "the derivative of the activation times the photograph",
    "smoothgrad": "the derivative's mean over photographs with noise on them",
    "integrated_gradients": "the derivative's mean on the way from grey to the photograph, times the photograph",
    "occlusion": "how far the activation falls where a grey square lies",
}
OWN_RULE = "a rule or a function of one's own"


def front_page(atlas: Atlas) -> str:
    """Return the front page: the network as a row of layers, how to read the atlas, and what it was made of."""
    largest = max(side for layer in atlas.layers for side in layer.map_size)
    cards = [_layer_card(atlas, layer, largest) for layer in atlas.layers]
    rules = [(rule, (RULES | EXPLANATIONS).get(rule, OWN_RULE)) for rule in atlas.rules]
    return _render("front.html", atlas, cards=cards, rules=rules, example=_example(atlas))


def layer_page(atlas: Atlas, layer: Layer) -> str:
    """Return the page of a layer, which shows every unit, dead ones at the end.

    The others stand by their shares of their strongest where these are known, else by number.
    """
    more = {**layer.metrics, **trust_column(layer.trust, layer.channels), **sort_columns(layer)}
    sorts = ["strength", "sparsity", "photographs", *([SHARE] if layer.shares else []), *more]
    usual = sorts.index(SHARE) if layer.shares else None
    units = [_thumbnail(layer, unit) | {"sort_values": _sort_values(layer, unit, more)} for unit in _usual_order(layer)]
    shown = {
        "share": _share(layer),
        "before": atlas.layers[layer.number - 2] if layer.number > 1 else None,
        "after": atlas.layers[layer.number] if layer.number < len(atlas.layers) else None,
    }
    return _render("layer.html", atlas, layer=layer, units=units, sorts=sorts, usual=usual, **shown)


def _usual_order(layer: Layer) -> list[int]:
    """Return the units that fire in the order in which the layer's page opens, which its script keeps to."""
    if not layer.shares:
        return layer.firing_units
    share_of = [-math.inf if share is None else share for share in layer.shares]
    return sorted(layer.firing_units, key=lambda unit: -share_of[unit])


def unit_pages(atlas: Atlas, layer: Layer) -> Iterator[tuple[int, str]]:
    """Yield (unit, its page) of every unit that fires."""
    units = layer.firing_units
    for before, unit, after in zip([None, *units], units, [*units[1:], None], strict=False):
        yield unit, _render("unit.html", atlas, layer=layer, before=before, after=after, **_unit(atlas, layer, unit))


def _unit(atlas: Atlas, layer: Layer, unit: int) -> dict[str, Any]:
    """Return what a unit's page shows of it."""
    plate, firing = sprites.plate_of(layer), layer.firing
    quiet = firing.images - firing.fires_on(unit)
    counts, width = firing.histogram(unit)
    return {
        "unit": unit,
        "plate": plate,
        "peaks": _peaks(atlas, layer, unit, plate),
        "strength": _describe_strength(atlas, layer, unit),
        "quiet": quiet,
        "bars": drawings.histogram(counts, quiet, width),
        "reach": width * len(counts),
        "beyond": beyond(layer, unit, plate),
        "by_class": by_class(layer, unit),
        "alike": [(_thumbnail(layer, other), value) for other, value in firing.most_alike(unit)],
        "correlated": CORRELATED,
        "made_of": _made_of(atlas, layer, unit),
        "part_of": _part_of(atlas, layer, unit),
        "metrics": [(name, values[unit]) for name, values in layer.metrics.items() if values[unit] is not None],
        "other_rules": _other_rules(atlas, plate, unit),
    }


def _made_of(atlas: Atlas, layer: Layer, unit: int) -> dict[str, Any] | None:
    """Return the lower units that pass on most of a unit's activations, with their shares, and what goes around."""
    if layer.made_of is None:
        return None
    lower = next(each for each in atlas.layers if each.name == layer.made_of.layer)
    return _linked(lower, layer.made_of.shares[unit]) | {"around": float(layer.made_of.around[unit])}


def _part_of(atlas: Atlas, layer: Layer, unit: int) -> list[dict[str, Any]]:
    """Return, layer by layer, the units above of whose activations this one passes on most, with its shares."""
    above = [(upper, upper.made_of) for upper in atlas.layers if upper.made_of and upper.made_of.layer == layer.name]
    linked = [_linked(upper, made_of.shares[:, unit]) for upper, made_of in above]
    return [each for each in linked if each["units"]]


def _linked(layer: Layer, shares: Tensor) -> dict[str, Any]:
    """Return the units of a layer with the largest shares, as (thumbnail, share), and what they hold together."""
    order = shares.argsort(descending=True, stable=True)[:LINKED].tolist()
    fires = layer.peaks.found[:, 0]
    units = [(_thumbnail(layer, other), float(shares[other])) for other in order if shares[other] > 0 and fires[other]]
    return {"layer": layer, "units": units, "held": sum(share for _, share in units)}


def _describe_strength(atlas: Atlas, layer: Layer, unit: int) -> str:
    """Return how strong a unit is, in words, beside the reference; nothing where that says nothing."""
    share = layer.shares[unit] if layer.shares else None
    return "" if atlas.reference is None or share is None else describe_share(share, atlas.reference)


def _other_rules(atlas: Atlas, plate: sprites.Plate, unit: int) -> list[tuple[str, str, str]]:
    """Return (file of the plate, name, what it is) of every rule but the first."""
    return [
        (plate.file(unit, n), rule, (RULES | EXPLANATIONS).get(rule, OWN_RULE))
        for n, rule in enumerate(atlas.rules)
        if n
    ]


@dataclass(frozen=True)
class Peak:
    """One peak of a unit, as its page shows it.

    key, label, image: name, class and file of the photograph.  box: (y0, x0, y1, x1) in the input image, what pictures
    show of the receptive field.  tiles: {kind: (x, y) on the unit's plate}.  percent, view, spotlight: see `drawings`.
    square: x, y and side of the square about the box that the reconstruction's tile fills.
    """

    number: int
    score: float
    key: str
    label: str
    image: str
    row: int
    col: int
    box: tuple[int, int, int, int]
    tiles: dict[str, tuple[int, int]]
    percent: int
    view: str
    spotlight: str
    square: tuple[float, float, int]


def _peaks(atlas: Atlas, layer: Layer, unit: int, plate: sprites.Plate) -> list[Peak]:
    count, boxes = int(layer.peaks.found[unit].sum()), layer.boxes
    return [_peak(atlas, layer, plate, unit, rank, boxes) for rank in range(count)]


def _peak(atlas: Atlas, layer: Layer, plate: sprites.Plate, unit: int, rank: int, boxes: Tensor) -> Peak:
    peaks = layer.peaks
    image, row, col = (int(column[unit, rank]) for column in (peaks.image, peaks.row, peaks.col))
    y0, x0, y1, x1 = boxes[unit, rank].tolist()
    box = (y0, x0, y1, x1)
    percent = drawings.pad_percent(box, layer.input_size)
    return Peak(
        number=rank + 1,
        score=peaks.score[unit, rank].item(),
        key=atlas.keys[image],
        label=atlas.classes.get(image, ""),
        image=contents.image_file(image),
        row=row,
        col=col,
        box=box,
        tiles={kind: plate.corner(rank, kind) for kind in sprites.KINDS},
        percent=percent,
        view=drawings.padded_view(layer.input_size, percent),
        spotlight=drawings.spotlight(box, layer.input_size),
        square=_square(box),
    )


def _square(box: tuple[int, int, int, int]) -> tuple[float, float, int]:
    y0, x0, y1, x1 = box
    side = max(y1 - y0, x1 - x0)
    return (x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side


def _layer_card(atlas: Atlas, layer: Layer, largest: int) -> dict[str, Any]:
    box = drawings.centred(layer.shown, layer.input_size)
    return {
        "layer": layer,
        "stack": drawings.stack(layer, largest),
        "image": contents.image_file(_most_used(atlas)),
        "box": box,
        "spotlight": drawings.spotlight(box, layer.input_size),
        "featured": [_thumbnail(layer, unit) for unit in layer.most_excited(FEATURED)],
        "share": _share(layer),
    }


def _share(layer: Layer) -> int:
    """Return the per cent of the input image's area that pictures show of what a unit sees."""
    (tall, wide), (height, width) = layer.shown, layer.input_size
    return round(100 * min(tall / height, 1) * min(wide / width, 1))


def _example(atlas: Atlas) -> dict[str, Any] | None:
    """Return the peak by which the front page explains its words: of a unit that sees much of the picture, not all."""
    firing_layers = [layer for layer in atlas.layers if layer.firing_units]
    if not firing_layers:
        return None
    layer = min(reversed(firing_layers), key=lambda layer: abs(_share(layer) - EXAMPLE_SHARE))
    (unit,) = layer.most_excited(1)
    plate = sprites.plate_of(layer)
    return {"layer": layer, "unit": unit, "plate": plate, "peak": _peaks(atlas, layer, unit, plate)[0]}


def _most_used(atlas: Atlas) -> int:
    """Return the image with the most peaks in the last layer that fires; the first image if none does."""
    for layer in reversed(atlas.layers):
        used = Counter(layer.peaks.image[layer.peaks.found].tolist())
        if used:
            return max(used, key=lambda image: (used[image], -image))
    return min(atlas.keys, default=0)


def _thumbnail(layer: Layer, unit: int) -> dict[str, Any]:
    """Return where a unit's square is in its sheets."""
    row, col = sprites.position_in_sheet(unit)
    sheet = unit // sprites.SHEET
    files = {kind: f"{layer.folder}/{sprites.sheet_file(kind, sheet)}" for kind in sprites.KINDS}
    return {"unit": unit, "page": f"{layer.folder}/{contents.unit_page(unit)}", "row": row, "col": col, **files}


def _sort_values(layer: Layer, unit: int, more: Mapping[str, Sequence[float | None]]) -> list[float | int | None]:
    """Return what units can be sorted by, in the order of the layer page's list; more: its last columns."""
    own_values = [layer.peaks.score[unit, 0].item(), layer.firing.sparsity[unit], layer.firing.fires_on(unit)]
    return [*own_values, *(layer.shares[unit : unit + 1]), *(values[unit] for values in more.values())]


def _render(name: str, atlas: Atlas, **shown: Any) -> str:
    return _template(name).render(atlas=atlas, policy=POLICY, **shown)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("deconv.atlas"),
        autoescape=True,  # whatever people have called their files and layers, it is text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": _short, "percent": percent, "first_word": first_word, "breakable": _breakable}
    environment.filters |= {"p_value": p_value}
    environment.globals |= {"unit_page": contents.unit_page, "search_file": FILE, "preferred": preferred}
    return environment.get_template(name)


def _short(number: float | int | None) -> str:
    """Return a number in three digits, a whole number as it is, and a dash for None."""
    if number is None:
        return "–"
    if isinstance(number, int) or abs(number) >= 1000:
        return f"{number:.0f}"
    return f"{number:#.3g}".rstrip(".")


def _breakable(name: str) -> Markup:
    """Return the name of a file or a layer, escaped, whose line may break after a slash, dash, underscore, dot or @."""
    return Markup(re.sub(r"([/_.@-])(?=.)", r"\1<wbr>", str(escape(name))))
