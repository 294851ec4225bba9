"""Paths through the network: its answers to a reconstruction beside those to the patch, and signals that converge."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from deconv.command.ahead import Ahead, projections, units_shown
from deconv.command.options import PathCheck
from deconv.command.setup import Prepared, asked_explanations, open_model, open_rule, prepare, units_by_layer
from deconv.compare.controls import Opened, as_projected, functions_among, rules_behind
from deconv.compare.judging import random_control
from deconv.compare.path_check import BASELINES, PathStudy
from deconv.figures import save_figure
from deconv.projection.rules import Rule, as_rule
from deconv.views.asking import beside_rule
from deconv.views.path_check import followed

log = logging.getLogger("deconv")


def run(options: PathCheck, folder: Path) -> Path:
    """Mine, explain, follow pictures and signals through the layers, and draw; returns the picture of all curves."""
    network, rule, seed = open_model(options), open_rule(options.rule), options.seed
    explanations = beside_rule(rule, asked_explanations(options, options.against), BASELINES)
    functions = functions_among(explanations.values())
    behind = rules_behind(explanations.values(), rule) | {as_rule("gradient")}  # by which answers are weighted
    prepared = prepare(options, network, options.layers, [*behind, *functions], options.units)
    random = random_control(network, prepared.layers, seed, explanations.values())
    with prepared.engine.connected():  # once, for mining and measuring
        ahead = work_ahead(options, prepared, explanations)
        peaks = prepared.mine(folder / "peaks.safetensors", k=2, ahead=ahead)
        units = units_by_layer(options, peaks)
        study = PathStudy(
            network, prepared.images, peaks, units, explanations, random, seed, prepared.engine, folder / "records"
        )
        paths = followed(study)
    paths.save(folder / "summary.json")
    paths.save(folder / "table.txt")
    log.info("%s", paths)
    return save_figure(paths.figure(), folder / "path_check.png")


def work_ahead(options: PathCheck, prepared: Prepared, explanations: Mapping[str, Opened]) -> Ahead:
    """Count what comes after mining: a picture of each unit by each explanation, answers to it, and signals of rules.

    The network answers to the plain colour, the patch, every picture and the two baselines, twice: the second time for
    the derivatives. Two pairs of signals are sent back of each unit and rule.
    """
    counts = {layer: units_shown(options, prepared.network, layer) for layer in prepared.layers}
    units, tested = sum(counts.values()), open_rule(options.rule)
    rules = sum(isinstance(each, Rule) for each in explanations.values())
    shown = 2 + len(explanations) + len(BASELINES)
    return Ahead(
        projections(counts, (as_projected(each, tested) for each in explanations.values())),
        passes=2 * shown * units,
        notes=[("following", f"{4 * rules * units:,} signals sent back, or fewer")],
    )
