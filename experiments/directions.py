"""Directions of a layer beside its channels: fitted, mined, sent back to pixels, and measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deconv import figures
from deconv.analyses.choosing import chosen_maps, described_images, firing_units
from deconv.analyses.directions import check_method, fit_directions, sample_activations
from deconv.analyses.features import summarise
from deconv.command.ahead import Ahead, projections
from deconv.command.options import Directions
from deconv.command.setup import Prepared, open_rule, prepare
from deconv.compare.judging import Measurements, Study
from deconv.compare.measuring import METRICS, difference_interval, mean_interval
from deconv.compare.tasks import PATCHES
from deconv.errors import BadInput
from deconv.figures import directions as charts
from deconv.figures import features, save_figure
from deconv.files import safe_name, write_json
from deconv.models.directions import asked_name, load_directions, open_directions, own_name, save_directions
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records.provenance import build, check_same

log = logging.getLogger("deconv")

ROWS = 2
"""Rows of units that the picture of all sets shows of each; a set's own picture has all of its units."""
CHANNELS = "channels"
AGAINST = (CHANNELS, "random")
"""The sets that the others are set against."""


def run(options: Directions, folder: Path) -> Path:
    """Fit, mine, reconstruct, measure and draw; returns the chart of all metrics."""
    network, rule = open_network(options.model, options.seed, options.device), open_rule(options.rule)
    layer = options.layer or chosen_layer(network, rule)
    for method in options.methods:
        check_method(network, layer, method, options.n)
    with_files = open_directions(network, options.directions)
    others = check_sets(options, with_files, layer)
    prepared = prepare(options, with_files, [layer, *others.values()], [rule])
    files = {method: folder / f"{method}.safetensors" for method in options.methods}
    read = {name: settings for name, settings in options.directions.items() if settings is not None}
    layers = {CHANNELS: layer} | {method: asked_name(layer, method) for method in files} | others
    prepared.begin(folder / "peaks.safetensors", options.k, ahead=work_ahead(options, prepared, layer, rule))
    with prepared.engine.connected():  # once, for sampling, mining and measuring
        fit(options, network, prepared, layer, files)
        wide = open_directions(
            network, read | {method: {"file": str(path), "layer": layer} for method, path in files.items()}
        )
        prepared = replace(prepared, network=wide, layers=sorted(layers.values(), key=wide.node))
        peaks = prepared.mine(folder / "peaks.safetensors", options.k)
        units = {name: firing_units(name, peaks[name], None, options.n_units, options.seed) for name in layers.values()}
        study = Study(
            wide, prepared.images, peaks, units, {rule.name: rule}, None, options.seed, prepared.engine,
            folder / "records",
        )  # fmt: skip
        measurements = study.measure()
    shown = draw_sets(study, layers, options, folder)
    summary = summary_of(study, layers, measurements, shown)
    write_json(folder / "summary.json", summary)
    heading = (
        f"{called(options.model, network)}, {layer}: directions beside channels, {described_images(peaks)}, {rule.name}"
    )
    return save_figure(charts.directions_figure(summary["sets"], heading), folder / "directions.png")


def work_ahead(options: Directions, prepared: Prepared, layer: str, rule: Rule) -> Ahead:
    """Count what comes before and after mining: fits, and pictures of each set's units, made twice: measured, drawn."""
    units = dict.fromkeys(prepared.layers, 0)
    for of_set, number in [
        *((name, prepared.network.channels(name)) for name in prepared.layers),
        *((layer, options.n) for _ in options.methods),
    ]:
        units[of_set] += min(options.n_units, number)
    counts = {name: 2 * number * options.k for name, number in units.items()}
    fits = f"{', '.join(options.methods)}: {options.n} directions each on {options.samples:,} positions"
    return Ahead(projections(counts, [rule]), notes=[("fitting", f"{fits}, mined with the rest; its time is not told")])


def check_sets(options: Directions, network: Network, layer: str) -> dict[str, str]:
    """Return {name: layer} of the directions that were given. Raises BadInput for what cannot be compared."""
    if len(set(options.methods)) < len(options.methods):
        raise BadInput(f"methods={','.join(options.methods)}: expected each once")
    from_files = {name for name, settings in options.directions.items() if settings is not None}
    for name in sorted(from_files & {CHANNELS, *options.methods}):
        raise BadInput(f"directions.{name}: expected another name, as {name} is one of the sets compared")
    source = own_name(network, layer)
    for directions in network.directions.values():
        if directions.source != source:
            raise BadInput(
                f"directions.{directions.name}: they read {directions.source}; expected {source}, whose channels "
                "they are compared with"
            )
    return {directions.name: asked_name(layer, directions.name) for directions in network.directions.values()}


def fit(options: Directions, network: Network, prepared: Prepared, layer: str, files: Mapping[str, Path]) -> None:
    """Write the directions of each method that has no file yet; one that was fitted otherwise is refused."""
    sampled: dict[str, Any] = {"layer": own_name(network, layer), "samples": options.samples, "seed": options.seed}
    provenances = {
        method: build(network.provenance(), prepared.images.provenance(), **sampled, method=method, n=options.n)
        for method in files
    }
    missing = [method for method, path in files.items() if not path.exists()]
    for method, path in files.items():
        if method not in missing:
            kept = load_directions(path)[1]
            check_same(path, kept, provenances[method], "Choose another folder, or delete that file to fit again.")
    if missing:
        counts = (options.samples, options.seed, options.batch_size)
        activations = sample_activations(network, prepared.images, layer, *counts, prepared.engine)
        for method in track(missing, "fitting directions", len(missing), unit="methods"):
            weights, bias = fit_directions(activations, method, options.n, options.seed)
            save_directions(files[method], weights, bias, provenances[method])


def draw_sets(study: Study, layers: Mapping[str, str], options: Directions, folder: Path) -> dict[str, Any]:
    """Draw Figure 2 of every set, and of all in one; return the numbers of each set. layers: {set: layer}."""
    network, images = study.network, study.images
    panels, numbers = [], {}
    for name, layer in track(layers.items(), "projecting and drawing", len(layers), unit="layers"):
        units, peaks = study.units[layer], study.peaks[layer]
        recon = project_peaks(network, images, layer, peaks, units, study.tested)
        shown = recon.zoomed()
        numbers[name] = summarise(network, images, layer, peaks, units, recon, shown)
        panels.append(features.layer_panels(shown, patches_of(network, images, recon), options.k, numbers[name]))
        save(panels[-1:], called(options.model, network), folder / f"{safe_name(name)}.png")
    strongest = f"the {options.k} strongest peaks of units of each set, {len(images)} photographs"
    heading = f"{called(options.model, network)}: {strongest}"
    save(panels, heading, folder / "fig2.png", ROWS)
    return numbers


def save(panels: Sequence[features.LayerPanels], heading: str, path: Path, rows: int | None = None) -> None:
    """One picture as PNG and, for printing, pages as PDF."""
    pages = features.features_pages(panels, heading, rows)
    figures.save_pages(features.features_figure(panels, heading, rows), pages, path)


def summary_of(
    study: Study, layers: Mapping[str, str], measured: Measurements, shown: Mapping[str, Any]
) -> dict[str, Any]:
    """Return means over the units of each set with 95 % intervals, and by how much each is ahead of AGAINST."""
    columns = {name: measured[layer][study.tested.name] for name, layer in layers.items()}
    patches = {name: measured[layer][PATCHES] for name, layer in layers.items()}
    values = {
        name: {metric: columns[name][metric] for metric in METRICS}
        | {f"{PATCHES}_{metric}": patches[name][metric] for metric in ("within", "between", "grouping")}
        for name in layers
    }
    return {
        "sets": {
            name: {metric: mean_interval(row, study.seed) for metric, row in metrics.items()}
            for name, metrics in values.items()
        },
        "ahead": {
            name: {
                other: {
                    metric: difference_interval(row, values[other][metric], study.seed)
                    for metric, row in metrics.items()
                }
                for other in AGAINST
                if other in values and other != name
            }
            for name, metrics in values.items()
        },
        "shown": dict(shown),
        "units": {name: study.units[layer] for name, layer in layers.items()},
        "layers": dict(layers),
        "rule": study.tested.options(),
        "provenance": study.peaks.provenance,
    }


def chosen_layer(network: Network, rule: Rule) -> str:
    """Return the last layer of maps before class scores that the rule can send back; one left out is logged."""
    (layer,), left_out = chosen_maps(network, 1, rule)
    if left_out:
        log.info("no layer named: directions of %s; %s", layer, left_out)
    return layer
