"""From peaks to a static site of every unit: what is planned, drawn and written, and what need not be again.

`write_atlas` plans first: what the pages show, and which pictures the site lacks. It then draws those, block by block
of units, as their reconstructions are made, and last writes the photographs and the pages. A file whose bytes would not
change is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from deconv.analyses.choosing import as_reference
from deconv.atlas import by_class, contents, pages, sprites
from deconv.atlas.contents import Atlas, Layer
from deconv.atlas.photographs import photographs_of
from deconv.atlas.pictures import DRAWING_VERSION, draw, picture_files, plan_pictures
from deconv.atlas.records import COUNTS as COUNTS
from deconv.atlas.records import UnitRecords
from deconv.atlas.site import ASSETS, Site, asset, open_site
from deconv.atlas.trust import Trust
from deconv.defaults import plain_defaults
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, bad_value, check_choice, check_count, check_list
from deconv.explanations import AnyExplanation, as_explanation, check_explanations
from deconv.explanations.functions import Explanation
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import whole_batches
from deconv.mining import check_labels, check_mined_from
from deconv.mining.beyond import peaks_beyond
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import FIELDS, Firing, Peaks, shown_side
from deconv.records.provenance import digest

KEEPING = ("float32", "float16", "none")
"""What may be kept of reconstructions, once they are drawn."""
IMAGES_AT_ONCE = 16
"""Photographs that are decoded at a time to be written."""
Metrics = Mapping[str, Mapping[str, Sequence[float | None]]]
"""{layer: {name: a number for each unit, or None}}"""


@plain_defaults()
def write_atlas(
    network: Network,
    peaks: Peaks,
    images: Source | MapDataset,
    folder: str | PathLike[str],
    rules: Sequence[AnyExplanation] = ("deconvnet",),
    title: str = "a ConvNet",
    records: str | PathLike[str] | None = None,
    metrics: Metrics | None = None,
    mined: str | None = None,
    batch_size: int = 64,
    engine: Engine | None = None,
    field: str = "effective",
    reference: Peaks | None = None,
    beyond: bool = False,
    circuits: bool = True,
    keep: str = "float32",
    trust: Mapping[str, Trust] | None = None,
) -> Path:
    """Write the atlas of all layers of `peaks` into `folder`, and return its front page, which opens from there.

    A site that is there is brought up to date: only files that change are written, and those that belong to it no more
    are removed.

    - network, peaks, images: the peaks, and the network and the source or the Dataset that they were mined from.
    - rules: or other explanations (`deconv.explanations`); the first is the one that layer pages show; the pages of
      units show all.
    - title: the name of the network on the pages.
    - records: a folder that keeps reconstructions and patches for the next time; None keeps none.
    - keep: what `records` keeps of reconstructions: "float32"; "float16", half as many bytes, see
      `Reconstructions.save`; or "none", which removes them and the patches as soon as they are drawn.
    - metrics: further numbers that units are sorted by, {layer: {name: one for each unit, None where there is none}}.
    - mined: the day of the mining, as the front page shows it.
    - batch_size: images in one forward pass of the count of how units fire, for peaks that were mined without it.
    - field: what pictures show of receptive fields: "effective", the square about their centre that holds 95 % of the
      first rule's energy, or "full".
    - engine: where reconstructions are made, and that count, by default in this process. Workers in other processes
      leave them in `records`, which they need.
    - reference: peaks of a larger mining by this network, k=1 or more, with all these layers. Units then stand in the
      order of their strongest scores as shares of those there, which tells what these images really excite.
    - beyond: whether pages of units show images beyond the strongest as well, drawn at quantiles of those that fire the
      unit, with what the first rule makes of them: one more pass over these images, and up to 16 more reconstructions
      of each unit.
    - circuits: whether each unit's page leads to the lower units that its peaks are made of, and to those that it is
      part of, by the first of `rules` that is a rule (functions alone have no such parts); all units are sent back once
      more for it, in this process, unless `records` has it.
    - trust: how units' pictures stand beside a control in a run of prediction, {layer: `deconv.atlas.trust.Trust`}:
      said on the pages of units, and a way to sort.

    Raises RecordMismatch, naming the difference, for peaks of other weights or images, for a reference of other weights
    and for records of other peaks; UnknownName for a layer that the reference lacks; UnknownName and
    UnsupportedOperation for a rule; BadInput for metrics of another length, a folder with other things in it, workers
    without `records`, a disk that is full or may not be written to, and another process that works in these folders.

    >>> import tempfile, deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), {"conv1": "1"}, preprocessing)
    >>> images = deconv.bundled().part([0, 1])
    >>> peaks = deconv.mine(network, images, ["conv1"], k=1)
    >>> page = write_atlas(network, peaks, images, tempfile.mkdtemp(), title="two filters")
    >>> page.name, sorted(path.name for path in page.parent.iterdir())
    ('index.html', ['01-conv1', 'assets', 'atlas.json', 'images', 'index.html', 'search.js'])
    """
    opened = [as_explanation(rule) for rule in check_list("rules", rules, "rules")]
    chosen = {rule.name: rule for rule in opened}
    check_choice("field", field, FIELDS)
    check_count("batch_size", batch_size)
    metrics, trust, engine = metrics or {}, trust or {}, engine or Local()
    if records is None and not isinstance(engine, Local):
        raise bad_value("records", records, "the folder that an engine of other processes writes to")
    if check_choice("keep", keep, KEEPING) != "float32" and records is None:
        raise bad_value("keep", keep, "'float32', as there is no folder of records")
    if records is not None and Path(records).resolve() == Path(folder).resolve():
        raise bad_value("records", records, "another folder than that of the site")
    images = check_source(images)
    _check(network, peaks, images, chosen, metrics, trust)
    reference = None if reference is None else as_reference(network, peaks, reference)
    dtype = "float32" if keep == "none" else keep
    unit_records = UnitRecords(network, images, peaks, None if records is None else Path(records), dtype)
    with open_site(Path(folder)) as site:
        firing = unit_records.firing(batch_size, engine)
        photographs = photographs_of(images, replace(peaks, firing=firing), beyond, unit_records.folder)
        unit_records = replace(unit_records, photographs=photographs)
        atlas = _plan_pages(
            unit_records,
            chosen,
            title=title,
            metrics=metrics,
            trust=trust,
            mined=mined,
            firing=firing,
            effective=field == "effective",
            reference=reference,
            beyond=beyond,
            circuits=circuits,
        )
        missing = [part for layer in atlas.layers for part in plan_pictures(site, unit_records, layer, chosen)]
        site.expect(_files(atlas))
        draw(site, unit_records, missing, engine, keep != "none")
        _write_photographs(site, unit_records, atlas)
        if keep == "none":
            unit_records.discard()
        _write_pages(site, atlas)
        site.finish()
    return Path(folder) / "index.html"


def _check(
    network: Network,
    peaks: Peaks,
    images: Source,
    rules: Mapping[str, Rule | Explanation],
    metrics: Metrics,
    trust: Mapping[str, Trust],
) -> None:
    """Refuse, before any work is done, whatever can be refused by then."""
    if not len(peaks) or not rules:
        raise BadInput(f"given {len(peaks)} layers of peaks and {len(rules)} rules; expected at least one of each")
    check_mined_from(peaks, network, images)
    check_labels("the record of these peaks", peaks, images, "Mine these images again")
    network.needed_preprocessing()
    check_explanations(network, list(peaks), list(rules.values()))
    for layer, columns in metrics.items():
        units = len(peaks[layer].score)
        for name, values in columns.items():
            if len(values) != units:
                raise BadInput(
                    f"metric {name!r} of {layer}: given {len(values)} numbers; expected one for each unit, {units}"
                )
    for layer, of_layer in trust.items():
        units, measured = len(peaks[layer].score), {unit for of_rule in of_layer.by_rule.values() for unit in of_rule}
        if not measured or max(measured) >= units:
            raise BadInput(
                f"trust of {layer}: given units {sorted(measured)}; expected at least one of 0 to {units - 1}"
            )


def _plan_pages(
    records: UnitRecords,
    rules: Mapping[str, Rule | Explanation],
    *,
    title: str,
    metrics: Metrics,
    trust: Mapping[str, Trust],
    mined: str | None,
    firing: Mapping[str, Firing],
    effective: bool,
    reference: Peaks | None,
    beyond: bool,
    circuits: bool,
) -> Atlas:
    """Gather all that the pages show."""
    rule = next(iter(rules.values()))
    sends_back = next((rule for rule in rules.values() if isinstance(rule, Rule)), None) if circuits else None
    network, peaks = records.network, records.peaks
    input_size = (int(peaks.provenance["input_size"][0]), int(peaks.provenance["input_size"][1]))
    weaker = peaks_beyond(network, records.shown, replace(peaks, firing=firing)) if beyond else {}
    layers, numbers = [], {name: number for number, name in enumerate(peaks, start=1)}
    counts = records.class_counts(firing)
    class_names = records.class_names(counts)
    for name, number in numbers.items():
        field = network.receptive_field(name, input_size)
        layer = Layer(
            name,
            number,
            map_size=network.map_size(name, input_size),
            field=field.size,
            side=shown_side(records.effective_field(name, rule), field.size) if effective else max(field.size),
            stride=field.stride,
            input_size=input_size,
            peaks=peaks[name],
            firing=firing[name],
            metrics=metrics.get(name, {}),
            reference=None if reference is None else reference[name],
            beyond=weaker.get(name),
            made_of=None if sends_back is None else records.made_of(name, sends_back),
            class_shares=records.class_shares(name, counts),
            class_names=class_names,
            trust=trust.get(name),
        )
        layers.append(layer)
    return Atlas(
        title,
        tuple(layers),
        keys=peaks.image_keys,
        classes=records.classes(counts),
        rules=list(rules),
        provenance=peaks.provenance,
        mined=mined,
        reference=reference,
    )


def _files(atlas: Atlas) -> Iterator[str]:
    """Yield all files of an atlas, whether they are there or not."""
    yield from (f"assets/{name}" for name in ASSETS)
    yield from map(contents.image_file, atlas.keys)
    yield from ("index.html", by_class.FILE)
    for layer in atlas.layers:
        yield f"{layer.folder}/index.html"
        yield from (f"{layer.folder}/{contents.unit_page(unit)}" for unit in layer.firing_units)
        for rule in range(len(atlas.rules)):
            yield from picture_files(layer, layer.firing_units, rule)
        yield from picture_files(layer, layer.units_beyond, None)


def _write_photographs(site: Site, records: UnitRecords, atlas: Atlas) -> None:
    """Write every image that a peak lies in, whole, as the network sees it."""
    preprocessing, image_ids = records.network.needed_preprocessing(), sorted(atlas.keys)
    content, options = records.source["source"]["content"], preprocessing.as_dict()
    provenance = digest([DRAWING_VERSION, content, options, image_ids])
    if not image_ids or site.has("images", provenance, [contents.image_file(image) for image in image_ids]):
        return
    batches = whole_batches(records.shown, preprocessing, IMAGES_AT_ONCE, image_ids)
    tracked = track(batches, "writing photographs", len(image_ids), size=lambda batch: len(batch[0]))
    for batch_ids, input_images in tracked:
        for image, input_image in zip(batch_ids.tolist(), input_images, strict=True):
            site.put(contents.image_file(image), sprites.photograph(input_image))
    site.done("images", provenance)


def _write_pages(site: Site, atlas: Atlas) -> None:
    for name in ASSETS:
        site.put(f"assets/{name}", asset(name))
    site.put("index.html", pages.front_page(atlas).encode())
    site.put(by_class.FILE, by_class.search_index(atlas).encode())
    for layer in atlas.layers:
        site.put(f"{layer.folder}/index.html", pages.layer_page(atlas, layer).encode())
        written = pages.unit_pages(atlas, layer)
        tracked = track(written, f"writing the pages of {layer.name}", len(layer.firing_units), unit="pages")
        for unit, page in tracked:
            site.put(f"{layer.folder}/{contents.unit_page(unit)}", page.encode())
