"""Paths through the network: its answers to a reconstruction beside those to the patch, and signals that converge."""

from __future__ import annotations

from pathlib import Path

from deconv.command.options import PathCheck
from deconv.command.setup import asked_explanations, open_model, open_rule, prepare, units_by_layer
from deconv.compare.controls import functions_among, rules_behind
from deconv.compare.judging import random_control
from deconv.compare.path_check import BASELINES, PathStudy, summarise
from deconv.figures import path_check, save_figure
from deconv.files import write_json
from deconv.projection.rules import as_rule
from deconv.views.asking import beside_rule


def run(options: PathCheck, folder: Path) -> Path:
    """Mine, explain, follow pictures and signals through the layers, and draw; returns the picture of all curves."""
    network, rule, seed = open_model(options), open_rule(options.rule), options.seed
    explanations = beside_rule(rule, asked_explanations(options, options.against), BASELINES)
    functions = functions_among(explanations.values())
    behind = rules_behind(explanations.values(), rule) | {as_rule("gradient")}  # by which answers are weighted
    prepared = prepare(options, network, options.layers, [*behind, *functions], options.units)
    random = random_control(network, prepared.layers, seed, explanations.values())
    with prepared.engine.connected():  # once, for mining and measuring
        peaks = prepared.mine(folder / "peaks.safetensors", k=2)
        units = units_by_layer(options, peaks)
        study = PathStudy(
            network, prepared.images, peaks, units, explanations, random, seed, prepared.engine, folder / "records"
        )
        summary = summarise(study, study.measure())
    write_json(folder / "summary.json", summary)
    return save_figure(path_check.paths(summary["layers"], list(explanations)), folder / "path_check.png")
