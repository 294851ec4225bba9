"""Prediction: of two grey squares on an image, which lowers the unit more? What explanations answer, and what is so."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from deconv.command.options import Predict
from deconv.command.setup import asked_explanations, open_model, prepare, units_by_layer
from deconv.compare.controls import rules_behind
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
    behind = rules_behind(explanations.values(), rule)
    prepared = prepare(options, network, options.layers, behind, options.units)
    random = random_control(network, prepared.layers, seed, explanations.values())
    with prepared.engine.connected():  # once, for mining and measuring
        peaks = prepared.mine(folder / "peaks.safetensors", k=options.references + options.queries)
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
