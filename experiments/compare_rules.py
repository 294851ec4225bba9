"""Reconstructions measured: how each rule's pictures relate to patch and unit, beside what they should beat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from deconv import models
from deconv.analyses.choosing import check_units, draw_units
from deconv.compare.controls import CONTROLS
from deconv.compare.measuring import METRICS, mean_interval
from deconv.compare.randomising import blocks, renewed, shuffled
from deconv.compare.scene import Scene
from deconv.compare.sufficiency import SHARES
from deconv.compare.tasks import PATCHES, Contest, joined, measure_units
from deconv.engines import Engine, open_engine
from deconv.errors import UnknownName
from deconv.figures import compare_rules as charts
from deconv.figures import save_figure
from deconv.files import write_json
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.images.cached import open_frames
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_rules
from deconv.projection.rules import RULES, Rule, as_rule
from deconv.records import Peaks, table

UNITS_AT_ONCE = 5
"""Units in a task."""
SHOWN = ("pearson_grey", "ssim_edges", "area50", "keep_blur", "remove_blur", "reactivation", "grouping")
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

    def path(self, layer: str, name: str) -> Path:
        return self.records / f"{layer}.{name}.parquet"

    def provenance(self, layer: str, name: str) -> dict[str, Any]:
        """All that decides a record."""
        rule = self.rules.get(name, name)
        options = rule.options() if isinstance(rule, Rule) else rule
        about = {"layer": layer, "rule": options, "units": self.units[layer], "seed": self.seed, "shares": SHARES}
        return about | {"peaks": self.peaks.provenance}

    def input_images(self, layer: str, units: list[int], most: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(numbers, input images) of the photographs that hold the `most` strongest peaks of each of some units."""
        peaks = self.peaks[layer]
        numbers = peaks.image[units, :most][peaks.found[units, :most]].unique()
        preprocessing = self.network.needed_preprocessing()
        return numbers, torch.cat([part for _, part in whole_batches(self.images, preprocessing, 64, numbers.tolist())])


def run(config: DictConfig, folder: Path) -> Path:
    """Mine, reconstruct by every rule, measure, and draw; returns the picture of all metrics by layer."""
    network = load_network(**config.model, seed=config.seed)
    layers = sorted(config.layers or network.aliases or network.layers, key=network.node)
    rules = contenders(config)
    check(network, layers, rules, config)
    images = open_frames(config.source, network.needed_preprocessing(), config.cache)
    counts = {"k": config.k, "batch_size": config.batch_size, "per_image": config.per_image}
    engine = open_engine(**config.engine)
    how = {"precision": config.precision, "engine": engine}
    random = randomised(network, layers, config)
    with engine.connected():  # once, for mining and measuring
        peaks = mine_into(folder / "peaks.parquet", network, images, layers, **counts, **how)
        units = {layer: draw_units(layer, peaks[layer], config.units, config.n_units, config.seed) for layer in layers}
        study = Study(network, images, peaks, units, rules, random, config.seed, engine, folder / "records")
        found = measured(study)
    summary = summarise(study, found)
    write_json(folder / "summary.json", summary)
    return draw(study, found, summary, folder)


def contenders(config: DictConfig) -> dict[str, str | Rule]:
    """The rule under test and those it is set against, by name. Raises UnknownName."""
    tested = as_rule(config.rule)
    found: dict[str, str | Rule] = {tested.name: tested}
    for name in config.against:
        if name not in CONTROLS and name not in RULES:
            raise UnknownName(f"against {name!r} is unknown; expected some of {', '.join([*RULES, *CONTROLS])}.")
        found.setdefault(name, name if name in CONTROLS else RULES[name])
    return found


def check(network: Network, layers: list[str], rules: dict[str, str | Rule], config: DictConfig) -> None:
    """Raise, before any work is done, UnknownName for a unit, UnsupportedOperation for a rule that cannot serve."""
    needed = {as_rule("gradient" if name == "gradient_times_input" else "deconvnet") for name in rules}
    needed |= {rule for rule in rules.values() if isinstance(rule, Rule)}
    check_rules(network, layers, needed)
    check_units(network, layers, config.units)


def randomised(network: Network, layers: list[str], config: DictConfig) -> Network:
    """The same network with the weights of all layers looked at shuffled."""
    module = models.build(**models.of_build(config.model), seed=config.seed)
    paths = [path for block in blocks(network, layers).values() for path in block]
    return renewed(network, shuffled(module, paths, config.seed))


def measured(study: Study) -> dict[str, dict[str, table.Columns]]:
    """{layer: {rule: columns}}, from records that are there, else measured and recorded, layer by layer."""
    names = [*study.rules, PATCHES]
    found = {
        layer: {name: table.load(study.path(layer, name), study.provenance(layer, name)) for name in names}
        for layer in study.units
    }  # all of them first, so that a record of something else is refused before any work
    for layer in track(found, "comparing", len(found), unit="layers"):
        missing = [name for name, columns in found[layer].items() if columns is None]
        for name, columns in measure_layer(study, layer, missing).items() if missing else ():
            table.save(study.path(layer, name), columns, study.provenance(layer, name))
            found[layer][name] = columns
    return found  # type: ignore[return-value]


def measure_layer(study: Study, layer: str, names: list[str]) -> dict[str, table.Columns]:
    """{rule: columns} of all units of a layer, some of them at a time."""
    units, peaks = study.units[layer], study.peaks[layer]
    numbers, input_images = study.input_images(layer, units, peaks.image.shape[1])
    contest = Contest(study.network, study.random, layer, peaks, input_images, numbers, study.rules, names, study.seed)
    tasks = [units[n : n + UNITS_AT_ONCE] for n in range(0, len(units), UNITS_AT_ONCE)]
    parts = study.engine.work(measure_units, contest, tasks)
    shown = track(parts, f"comparing {layer}", len(units), unit="units", size=lambda part: len(part.units))
    return joined(list(shown), names)


def summarise(study: Study, found: dict[str, dict[str, table.Columns]]) -> dict[str, Any]:
    """Means with 95 % intervals over units, by layer and over all; and what the rule under test has over the others."""
    tested, *others = study.rules
    together = {
        name: under_each_other([of_layer[name] for of_layer in found.values()]) for name in (*study.rules, PATCHES)
    }
    ahead = {
        other: {
            metric: mean_interval(together[tested][metric] - together[other][metric], study.seed) for metric in METRICS
        }
        for other in others
    }
    return {
        "layers": {layer: {n: intervals(c, study.seed) for n, c in rules.items()} for layer, rules in found.items()},
        "all_layers": {name: intervals(columns, study.seed) for name, columns in together.items()},
        "tested": tested,
        "tested_minus": ahead,
        "rules": {name: rule.options() if isinstance(rule, Rule) else rule for name, rule in study.rules.items()},
        "units": study.units,
        "shares": SHARES,
        "provenance": study.peaks.provenance,
    }


def under_each_other(parts: list[table.Columns]) -> table.Columns:
    """Columns of several layers as one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def intervals(columns: table.Columns, seed: int) -> dict[str, Any]:
    """{metric: its mean and interval}, in the order of the table."""
    names = [name for name in columns if name != "unit"]
    return {name: mean_interval(columns[name], seed) for name in names}


def draw(study: Study, found: dict[str, dict[str, table.Columns]], summary: dict[str, Any], folder: Path) -> Path:
    """All pictures; returns that of the metrics by layer."""
    rules = list(study.rules)
    save_figure(charts.rule_table(summary["all_layers"], rules), folder / "table.png")
    save_figure(charts.game_curves(summary["layers"], rules), folder / "curves.png")
    for layer in track(found, "drawing", len(found), unit="layers"):
        columns = found[layer][rules[0]]
        rows = charts.extremes(columns, SHOWN)
        units = sorted({unit for row in rows for unit, _ in row.picks})
        save_figure(charts.unit_page(layer, rules[0], rows, *pictures(study, layer, units)), folder / f"{layer}.png")
    return save_figure(charts.by_layer(summary["layers"], rules, PATCHES), folder / "compare_rules.png")


def pictures(study: Study, layer: str, units: list[int]) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """{unit: its strongest peak's reconstruction}, {unit: patch}, by the rule under test."""
    peaks = study.peaks[layer]
    numbers, input_images = study.input_images(layer, units, 1)
    place = torch.stack([peaks.image[units, 0], torch.tensor(units), peaks.row[units, 0], peaks.col[units, 0]], dim=1)
    scene = Scene(study.network, layer, input_images, numbers, place, seed=study.seed)
    rule = next(iter(study.rules.values()))
    return dict(zip(units, scene.reconstruct(rule), strict=True)), dict(zip(units, scene.patches, strict=True))
