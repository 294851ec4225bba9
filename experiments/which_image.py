"""Prediction: of two images, which fires a unit more? What an observer answers who was shown pictures of the unit."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from deconv.command.ahead import Ahead, count_images, projections, units_shown
from deconv.command.options import WhichImage
from deconv.command.setup import Prepared, asked_explanations, open_model, prepare, units_by_layer
from deconv.compare.controls import Opened, as_projected, functions_among, rules_behind
from deconv.compare.judging import random_control
from deconv.compare.observers import OtherNetwork
from deconv.compare.which_image import BASELINES, CANDIDATES, ImageStudy
from deconv.figures import save_figure
from deconv.models.presets import open_network, replaced_settings
from deconv.network import Network
from deconv.projection.rules import as_rule
from deconv.views.asking import beside_rule
from deconv.views.which_image import chosen, open_observer

log = logging.getLogger("deconv")


def run(options: WhichImage, folder: Path) -> Path:
    """Mine, show references to observers, ask them, and draw; returns the picture of accuracies by layer."""
    network, rule, seed = open_model(options), as_rule(asdict(options.rule)), options.seed
    explanations = beside_rule(rule, asked_explanations(options, options.against), BASELINES)
    observer = other_network(options, network)
    functions = functions_among(explanations.values())
    behind = rules_behind(explanations.values(), rule)
    prepared = prepare(options, network, options.layers, [*behind, *functions], options.units)
    random = random_control(network, prepared.layers, seed, explanations.values())
    with prepared.engine.connected():  # once, for mining and measuring
        ahead = work_ahead(options, prepared, explanations)
        peaks = prepared.mine(folder / "peaks.safetensors", k=2 * options.references, ahead=ahead)
        units = units_by_layer(options, peaks)
        study = ImageStudy(
            network, prepared.images, peaks, units, explanations, random, seed, prepared.engine, folder / "records",
            options.references, observer,
        )  # fmt: skip
        choice = chosen(study)
    choice.save(folder / "summary.json")
    choice.save(folder / "table.txt")
    log.info("%s", choice)
    return save_figure(choice.figure(), folder / "which_image.png")


def work_ahead(options: WhichImage, prepared: Prepared, explanations: Mapping[str, Opened]) -> Ahead:
    """Count what comes after mining: pictures of all references, of the first explanation for its masks too."""
    tested = as_rule(asdict(options.rule))
    counts = {layer: units_shown(options, prepared.network, layer) * options.references for layer in prepared.layers}
    by = [as_projected(each, tested) for each in explanations.values()]
    notes = [("observing", "what observers see of pictures and images is not told")]
    passes = min(CANDIDATES, count_images(prepared.images))
    return Ahead(projections(counts, [by[0], *by]), passes=passes, notes=notes)


def other_network(options: WhichImage, network: Network) -> OtherNetwork | None:
    """Return the network of `observer`, with its layer; None without one. Raises UnknownName and BadInput."""
    layer = options.observer.get("layer")
    if options.observer.get("model") is None:
        return open_observer(network, None, layer)
    settings = replaced_settings("observer", options.observer, ["layer"])
    return open_observer(network, open_network(settings, options.seed, options.device), layer)
