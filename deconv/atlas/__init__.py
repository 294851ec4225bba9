"""From peaks to a static site of every unit: what is drawn and written, and what need not be again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from deconv.atlas import contents, pages, sprites
from deconv.atlas.blocks import Block
from deconv.atlas.contents import Atlas, Layer
from deconv.atlas.records import UnitRecords
from deconv.atlas.site import Site
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, RecordMismatch
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_rules
from deconv.projection.rules import Rule, as_rule
from deconv.records import Peaks

BLOCK_BYTES = 2**27
"""Reconstructions of one block of units: what is in memory, and in one file of records, at a time."""
IMAGES_AT_ONCE = 16
DRAWING_VERSION = 3
"""Version of how pictures are drawn: with another one all are drawn again."""
Metrics = Mapping[str, Mapping[str, Sequence[float | None]]]


def write_atlas(
    network: Network,
    peaks: Peaks,
    images: Source,
    folder: str | PathLike[str],
    rules: Sequence[str | Rule | Mapping[str, Any]] = ("deconvnet",),
    title: str = "a ConvNet",
    records: str | PathLike[str] | None = None,
    metrics: Metrics | None = None,
    mined: str | None = None,
    batch_size: int = 64,
    engine: Engine | None = None,
) -> Path:
    """Write the atlas of all layers of `peaks` into `folder`, and return its front page, which opens from there.

    images: the source that the peaks were mined from.  rules: the first is the one that layer pages show.
    records: a folder that keeps reconstructions and patches, to be taken up again; without it they are not kept.
    metrics: {layer: {name: a number, or None, for each unit}}, shown and to sort by.  mined: a day, to be shown.
    engine: where reconstructions are made, by default here; workers of Ray leave them in `records`, which they need.
    A site that is there is brought up to date: only files that change are written, what is left over is removed.

    Raises RecordMismatch for peaks of other weights or images, or records of other peaks; UnknownName and
    UnsupportedOperation for a rule; BadInput for metrics of another length, a folder with other things in it, workers
    without `records`, and another process that works in these.
    """
    chosen = {as_rule(rule).name: as_rule(rule) for rule in rules}
    engine = engine or Local()
    if records is None and not isinstance(engine, Local):
        raise BadInput("records: given none with an engine of other processes; expected the folder they write to.")
    _check(network, peaks, images, chosen, metrics or {})
    known = UnitRecords(network, images, peaks, None if records is None else Path(records))
    with Site(Path(folder)) as site:
        atlas = _atlas(known, chosen, title, metrics or {}, mined, batch_size)
        _draw(site, known, atlas, chosen, engine)
        _put_photographs(site, known, atlas)
        _put_pages(site, atlas)
        site.finish()
    return Path(folder) / "index.html"


def _check(network: Network, peaks: Peaks, images: Source, rules: Mapping[str, Rule], metrics: Metrics) -> None:
    """Everything that can be refused before any work is done."""
    if not len(peaks) or not rules:
        raise BadInput(f"given {len(peaks)} layers of peaks and {len(rules)} rules; expected at least one of each.")
    provenance = peaks.provenance
    if provenance.get("weights") != network.weights_hash:
        raise RecordMismatch("these peaks were mined with other weights than this network has; mine again.")
    if provenance.get("source", {}).get("content") != images.content_hash:
        raise RecordMismatch(f"these peaks are not of the source {images.name} as its images are now; mine again.")
    network.needed_preprocessing()
    check_rules(network, peaks, rules.values())
    for layer, named in metrics.items():
        _check_metrics(layer, len(peaks[layer].score), named)


def _check_metrics(layer: str, units: int, named: Mapping[str, Sequence[float | None]]) -> None:
    for name, values in named.items():
        if len(values) != units:
            raise BadInput(f"metric {name!r} of {layer}: given {len(values)} numbers; expected one a unit, {units}.")


def _atlas(
    known: UnitRecords,
    rules: Mapping[str, Rule],
    title: str,
    metrics: Metrics,
    mined: str | None,
    batch_size: int,
) -> Atlas:
    """All that the pages show."""
    network, peaks, firing = known.network, known.peaks, known.firing(batch_size)
    input_size = (int(peaks.provenance["input_size"][0]), int(peaks.provenance["input_size"][1]))
    layers = []
    for number, name in enumerate(peaks, start=1):
        field = network.receptive_field(name, input_size)
        maps = network.map_size(name, input_size)
        about = (name, number, maps, field.size, field.stride, input_size)
        layers.append(Layer(*about, peaks[name], firing[name], metrics.get(name, {})))
    classes = _classes(known.images, peaks)
    return Atlas(title, tuple(layers), peaks.image_keys, classes, list(rules), peaks.provenance, mined)


def _classes(images: Source, peaks: Peaks) -> dict[int, str]:
    """What each image shows, where its source says so."""
    if images.labels is None:
        return {}
    names = images.class_names
    return {i: names[images.labels[i]] if names else f"class {images.labels[i]}" for i in peaks.image_keys}


@dataclass(frozen=True, eq=False)
class _Missing:
    """Pictures that the site lacks: a group of files, what they are made of, and what they show."""

    group: str
    provenance: str
    layer: Layer
    rule: int
    block: Block


def _draw(site: Site, known: UnitRecords, atlas: Atlas, rules: Mapping[str, Rule], engine: Engine) -> None:
    """Sheets and plates of all layers, block by block, as they are made."""
    missing = [one for layer in atlas.layers for one in _missing(site, known, layer, rules)]
    total = sum(len(one.block.units) for one in missing)
    with closing(known.pictures([one.block for one in missing], engine)) as pictures:
        steps = track(
            pictures, "drawing units", total, unit="units", size=lambda step: len(missing[step[0]].block.units)
        )
        for place, recon, patches in steps:
            one, pixels = missing[place], sprites.by_unit(recon, patches)
            site.wait()  # the block before was drawn meanwhile; two at most are in memory
            _put_pictures(site, one.layer, pixels, one.rule)
            site.done(one.group, one.provenance)


def _missing(site: Site, known: UnitRecords, layer: Layer, rules: Mapping[str, Rule]) -> Iterator[_Missing]:
    living = set(layer.living)
    for block in _blocks(layer):
        units = [unit for unit in block if unit in living]
        for number, rule in enumerate(rules.values()):
            group = f"{layer.folder}/{block[0]}/{number}"
            provenance = f"{DRAWING_VERSION} {known.provenance(layer.name, rule, units)}"
            if units and not site.has(group, provenance, _files(layer, units, number)):
                yield _Missing(group, provenance, layer, number, known.block(layer.name, rule, units))


def _blocks(layer: Layer) -> Iterator[range]:
    """The units in parts of whole sheets, whose reconstructions fit into BLOCK_BYTES if one sheet's do."""
    sheet_bytes = 4 * 3 * layer.k * layer.field[0] * layer.field[1] * sprites.SHEET
    step = max(BLOCK_BYTES // sheet_bytes, 1) * sprites.SHEET
    for start in range(0, layer.channels, step):
        yield range(start, min(start + step, layer.channels))


def _files(layer: Layer, units: list[int], rule: int) -> list[str]:
    """The pictures of a block, in the site."""
    plate = sprites.plate_of(layer)
    files = [plate.file(unit, rule) for unit in units]
    if rule == 0:
        sheets = sorted({unit // sprites.SHEET for unit in units})
        files += [sprites.sheet_file(kind, sheet) for kind in sprites.KINDS for sheet in sheets]
    return [f"{layer.folder}/{file}" for file in files]


def _put_pictures(site: Site, layer: Layer, units: Mapping[int, sprites.Pixels], rule: int) -> None:
    """The plates of some units; for the first rule, which layer pages show, their sheets as well."""
    plate = sprites.plate_of(layer)
    for unit, pixels in units.items():
        site.put(f"{layer.folder}/{plate.file(unit, rule)}", partial(sprites.plate_picture, plate, pixels, rule == 0))
    for sheet in sorted({unit // sprites.SHEET for unit in units}) if rule == 0 else ():
        shown = {unit: pixels for unit, pixels in units.items() if unit // sprites.SHEET == sheet}
        for kind in sprites.KINDS:
            site.put(
                f"{layer.folder}/{sprites.sheet_file(kind, sheet)}", partial(sprites.sheet_picture, kind, shown, layer)
            )


def _put_photographs(site: Site, known: UnitRecords, atlas: Atlas) -> None:
    """Every image that some peak lies in, whole, as the network sees it."""
    preprocessing, used = known.network.needed_preprocessing(), sorted(atlas.keys)
    provenance = f"{DRAWING_VERSION} {known.images.content_hash} {preprocessing.as_dict()} {used}"
    if not used or site.has("images", provenance, [contents.image_file(image) for image in used]):
        return
    found = whole_batches(known.images, preprocessing, IMAGES_AT_ONCE, used)
    for index, input_images in track(found, "writing photographs", len(used), size=lambda batch: len(batch[0])):
        for image, input_image in zip(index.tolist(), input_images, strict=True):
            site.put(contents.image_file(image), sprites.photograph(input_image))
    site.done("images", provenance)


def _put_pages(site: Site, atlas: Atlas) -> None:
    for name in pages.ASSETS:
        site.put(f"assets/{name}", pages.asset(name))
    site.put("index.html", pages.front_page(atlas).encode())
    for layer in atlas.layers:
        site.put(f"{layer.folder}/index.html", pages.layer_page(atlas, layer).encode())
        written = pages.unit_pages(atlas, layer)
        for unit, page in track(written, f"writing the pages of {layer.name}", len(layer.living), unit="pages"):
            site.put(f"{layer.folder}/{contents.unit_page(unit)}", page.encode())
