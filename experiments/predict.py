"""Prediction: of two grey squares on an image, which lowers the unit more? What explanations answer, and what is so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from deconv.command.ahead import Ahead, count_images, projections, units_shown
from deconv.command.options import Predict
from deconv.command.setup import Prepared, asked_explanations, open_model, prepare, units_by_layer
from deconv.compare.controls import Opened, as_projected, functions_among, rules_behind
from deconv.compare.guesses import BASELINES
from deconv.compare.judging import random_control
from deconv.compare.predicting import PredictionStudy
from deconv.compare.trials import Squares
from deconv.figures import save_figure
from deconv.projection.rules import as_rule
from deconv.views.asking import beside_rule
from deconv.views.predict import predicted

log = logging.getLogger("deconv")


def run(options: Predict, folder: Path) -> Path:
    """Mine, lay squares over images, ask explanations, and draw; returns the picture of accuracies by layer."""
    network, squares = open_model(options), Squares(tuple(options.squares), options.stride, options.fill)
    rule, seed = as_rule(asdict(options.rule)), options.seed
    explanations = beside_rule(rule, asked_explanations(options, options.against), BASELINES)
    functions = functions_among(explanations.values())
    behind = rules_behind(explanations.values(), rule)
    prepared = prepare(options, network, options.layers, [*behind, *functions], options.units)
    random = random_control(network, prepared.layers, seed, explanations.values())
    with prepared.engine.connected():  # once, for mining and measuring
        k, ahead = options.references + options.queries, work_ahead(options, prepared, explanations, squares)
        peaks = prepared.mine(folder / "peaks.safetensors", k, ahead=ahead)
        units = units_by_layer(options, peaks)
        study = PredictionStudy(
            network, prepared.images, peaks, units, explanations, random, seed, prepared.engine, folder / "records",
            options.references, squares, options.batch_size,
        )  # fmt: skip
        prediction = predicted(study)
    prediction.save(folder / "summary.json")
    prediction.save(folder / "table.txt")
    log.info("%s", prediction)
    return save_figure(prediction.figure(), folder / "predict.png")


def work_ahead(options: Predict, prepared: Prepared, explanations: Mapping[str, Opened], squares: Squares) -> Ahead:
    """Count what comes after mining: pictures of all references and queries, and squares at all places of queries."""
    network, tested = prepared.network, as_rule(asdict(options.rule))
    units = {layer: units_shown(options, network, layer) for layer in prepared.layers}
    counts = {layer: number * (options.references + options.queries) for layer, number in units.items()}
    queries = min(sum(units.values()) * options.queries, count_images(prepared.images))
    return Ahead(
        projections(counts, (as_projected(each, tested) for each in explanations.values())),
        passes=queries * (1 + squares.count((network.input_shape[1], network.input_shape[2]))),
        notes=[("squares", f"on {queries:,} images, or fewer; where few see them, their time is less")],
    )
