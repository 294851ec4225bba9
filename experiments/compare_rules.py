"""Reconstructions measured: how each rule's pictures relate to patch and unit, beside what they should beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deconv.command.ahead import Ahead, projections, units_shown
from deconv.command.options import CompareRules
from deconv.command.setup import Prepared, asked_explanations, open_model, prepare, units_by_layer
from deconv.compare.controls import Opened, as_projected, functions_among, rules_behind
from deconv.compare.judging import Measurements, Study, randomised, summarise
from deconv.compare.sufficiency import CURVES, FILLS, SHARES
from deconv.compare.tasks import PATCHES
from deconv.figures import compare_rules as charts
from deconv.figures import save_figure
from deconv.files import safe_name, write_json
from deconv.progress import track
from deconv.projection.rules import as_rule
from deconv.views.asking import beside_rule

SHOWN = ("pearson_grey", "ssim_edges", "area50", "insertion_blur", "deletion_blur", "reactivation", "grouping")
"""The metrics by which the picture page orders units."""


def run(options: CompareRules, folder: Path) -> Path:
    """Mine, reconstruct by every rule, measure, and draw; returns the picture of all metrics by layer."""
    network, rules = open_model(options), compared_rules(options)
    behind = rules_behind(rules.values(), as_rule(asdict(options.rule)))
    prepared = prepare(options, network, options.layers, [*behind, *functions_among(rules.values())], options.units)
    random = randomised(network, prepared.layers, options.seed)
    with prepared.engine.connected():  # once, for mining and measuring
        ahead = work_ahead(options, prepared, rules)
        peaks = prepared.mine(folder / "peaks.safetensors", options.k, options.per_image, ahead=ahead)
        units = units_by_layer(options, peaks)
        study = Study(
            network, prepared.images, peaks, units, rules, random, options.seed, prepared.engine, folder / "records"
        )
        measurements = study.measure()
    summary = summarise(study, measurements)
    write_json(folder / "summary.json", summary)
    return draw(study, measurements, summary, folder)


def work_ahead(options: CompareRules, prepared: Prepared, rules: Mapping[str, Opened]) -> Ahead:
    """Count what comes after mining: by each explanation, pictures of all peaks and of another unit, and curves."""
    units = {layer: units_shown(options, prepared.network, layer) for layer in prepared.layers}
    counts = {layer: number * (options.k + 1) for layer, number in units.items()}
    tested = as_rule(asdict(options.rule))
    of_curves = len(CURVES) * len(FILLS) * len(SHARES)
    return Ahead(
        projections(counts, (as_projected(each, tested) for each in rules.values())),
        passes=sum(units.values()) * len(rules) * of_curves,
    )


def compared_rules(options: CompareRules) -> dict[str, Opened]:
    """Return the rule under test and the explanations it is set against, by name. Raises UnknownName and BadInput."""
    return beside_rule(as_rule(asdict(options.rule)), asked_explanations(options, options.against), [PATCHES])


def draw(study: Study, measured: Measurements, summary: dict[str, Any], folder: Path) -> Path:
    """Draw all pictures; return that of the metrics by layer."""
    rules = list(study.explanations)
    save_figure(charts.rule_table(summary["all_layers"], rules), folder / "table.png")
    save_figure(charts.curves(summary["layers"], rules), folder / "curves.png")
    for layer in track(measured, "drawing", len(measured), unit="layers"):
        columns = measured[layer][rules[0]]
        rows = charts.extremes(columns, SHOWN)
        units = sorted({unit for row in rows for unit, _ in row.picks})
        save_figure(
            charts.unit_page(layer, rules[0], rows, *pictures(study, layer, units)), folder / f"{safe_name(layer)}.png"
        )
    return save_figure(charts.by_layer(summary["layers"], rules, PATCHES), folder / "compare_rules.png")


def pictures(study: Study, layer: str, units: list[int]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Return {unit: its strongest peak's reconstruction by the rule under test}, and {unit: its patch}."""
    peaks = study.gather(layer, units, per_unit=1)
    reconstructions = peaks.reconstruct(next(iter(study.explanations.values())))
    return dict(zip(units, reconstructions, strict=True)), dict(zip(units, peaks.patches, strict=True))
