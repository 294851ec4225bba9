"""Reconstructions measured: how each rule's pictures relate to patch and unit, beside what they should beat."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deconv.analyses.choosing import firing_units
from deconv.command.options import CompareRules
from deconv.command.setup import open_model, prepare
from deconv.compare.controls import CONTROLS
from deconv.compare.measuring import METRICS, mean_interval
from deconv.compare.peak_set import PeakSet, gather_peaks
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.sufficiency import CURVES, SHARES
from deconv.compare.tasks import PATCHES, LayerComparison, join, keep_or_measure, measure_units
from deconv.engines import Engine
from deconv.errors import check_choice
from deconv.figures import compare_rules as charts
from deconv.figures import save_figure
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.models.presets import build_model
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import RULES, Rule, as_rule
from deconv.records import Peaks
from deconv.records.formats import Columns

UNITS_AT_ONCE = 5
"""Units in a task."""
SHOWN = ("pearson_grey", "ssim_edges", "area50", "insertion_blur", "deletion_blur", "reactivation", "grouping")
"""The metrics by which the picture page orders units."""


@dataclass(frozen=True, eq=False)
class Study:
    """What is compared: the peaks of some units, by rules and controls, the rule under test first."""

    network: Network
    images: Source
    peaks: Peaks
    units: dict[str, list[int]]
    rules: dict[str, str | Rule]
    random: Network
    seed: int
    engine: Engine
    records: Path

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """Return all that decides the record of a layer by a rule, a control or PATCHES."""
        rule = self.rules.get(name, name)
        carried = {"carried_like": self.tested.options()} if isinstance(rule, str) and self.tested.goes_beyond else {}
        return carried | {
            "layer": layer,
            "rule": rule.options() if isinstance(rule, Rule) else rule,
            "units": self.units[layer],
            "seed": self.seed,
            "curves": CURVES,
            "shares": SHARES,
            "peaks": self.peaks.provenance,
        }

    def gather(self, layer: str, units: list[int], per_unit: int | None = None) -> PeakSet:
        """Return the strongest peaks of some units of a layer with the photographs they lie in; None for all."""
        peaks = self.peaks[layer]
        return gather_peaks(
            self.network, self.images, layer, peaks, units, per_unit, self.random, self.seed, self.tested
        )

    @property
    def tested(self) -> Rule:
        """The rule under test."""
        return as_rule(next(iter(self.rules.values())))


def run(options: CompareRules, folder: Path) -> Path:
    """Mine, reconstruct by every rule, measure, and draw; returns the picture of all metrics by layer."""
    network, rules = open_model(options), compared_rules(options)
    prepared = prepare(options, network, options.layers, needed(rules), options.units)
    random = randomised(network, prepared.layers, options)
    with prepared.engine.connected():  # once, for mining and measuring
        peaks, seed = prepared.mine(folder / "peaks.safetensors", options.k, options.per_image), options.seed
        units = {name: firing_units(name, peaks[name], options.units, options.n_units, seed) for name in peaks}
        study = Study(network, prepared.images, peaks, units, rules, random, seed, prepared.engine, folder / "records")
        measurements = measured(study)
    summary = summarise(study, measurements)
    write_json(folder / "summary.json", summary)
    return draw(study, measurements, summary, folder)


def compared_rules(options: CompareRules) -> dict[str, str | Rule]:
    """Return the rule under test and the rules and controls it is set against, by name. Raises UnknownName."""
    tested = as_rule(asdict(options.rule))
    rules: dict[str, str | Rule] = {tested.name: tested}
    for name in options.against:
        check_choice("rule or control in against", name, [*RULES, *CONTROLS])
        rules.setdefault(name, name if name in CONTROLS else RULES[name])
    return rules


def needed(rules: dict[str, str | Rule]) -> set[Rule]:
    """The rules that the network must be able to serve, those behind the controls among them."""
    tested = as_rule(next(iter(rules.values())))
    deconvnet = Rule().carried_like(tested)
    behind = {
        as_rule("gradient") if name == "gradient_times_input" else deconvnet for name in rules if name in CONTROLS
    }
    return behind | {rule for rule in rules.values() if isinstance(rule, Rule)}


def randomised(network: Network, layers: list[str], options: CompareRules) -> Network:
    """The same network with the weights of all layers looked at shuffled."""
    module = build_model(options.model, options.seed)
    paths = [path for block in blocks(network, layers).values() for path in block]
    return renewed(network, shuffled(module, paths, options.seed))


def measured(study: Study) -> dict[str, dict[str, Columns]]:
    """Return {layer: {rule: columns}}, from records that are there, else measured and recorded, layer by layer."""
    names = [*study.rules, PATCHES]
    provenances = {layer: {name: study.provenance(layer, name) for name in names} for layer in study.units}
    return keep_or_measure(study.records, provenances, partial(measure_layer, study), "comparing")


def measure_layer(study: Study, layer: str, names: list[str]) -> dict[str, Columns]:
    """Return {rule: columns} of all units of a layer, measured a few units at a time."""
    units, strongest = study.units[layer], study.peaks[layer].score[:, 0].numpy()
    comparison = LayerComparison(study.gather(layer, units), strongest, study.rules, names)
    tasks = [units[n : n + UNITS_AT_ONCE] for n in range(0, len(units), UNITS_AT_ONCE)]
    done = study.engine.work(measure_units, comparison, tasks)
    return join(list(track(done, f"comparing {layer}", len(units), unit="units", size=lambda t: len(t.units))), names)


def summarise(study: Study, measured: dict[str, dict[str, Columns]]) -> dict[str, Any]:
    """Return means over units with 95 % intervals, by layer and over all; and by how much the tested rule is ahead."""
    tested, *others = study.rules
    all_layers = {
        name: {metric: np.concatenate([rules[name][metric] for rules in measured.values()]) for metric in columns}
        for name, columns in next(iter(measured.values())).items()
    }
    ahead = {
        other: {
            metric: mean_interval(all_layers[tested][metric] - all_layers[other][metric], study.seed)
            for metric in METRICS
        }
        for other in others
    }
    return {
        "layers": {layer: {n: intervals(c, study.seed) for n, c in rules.items()} for layer, rules in measured.items()},
        "all_layers": {name: intervals(columns, study.seed) for name, columns in all_layers.items()},
        "tested": tested,
        "tested_minus": ahead,
        "rules": {name: rule.options() if isinstance(rule, Rule) else rule for name, rule in study.rules.items()},
        "units": study.units,
        "shares": SHARES,
        "provenance": study.peaks.provenance,
    }


def intervals(columns: Columns, seed: int) -> dict[str, Any]:
    """Return {metric: its mean and interval}, in the order of the table."""
    return {name: mean_interval(values, seed) for name, values in columns.items() if name != "unit"}


def draw(study: Study, measured: dict[str, dict[str, Columns]], summary: dict[str, Any], folder: Path) -> Path:
    """Draw all pictures; return that of the metrics by layer."""
    rules = list(study.rules)
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
    reconstructions = peaks.reconstruct(next(iter(study.rules.values())))
    return dict(zip(units, reconstructions, strict=True)), dict(zip(units, peaks.patches, strict=True))
