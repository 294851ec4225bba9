"""Prediction: of two images, which fires a unit more? What an observer answers who was shown pictures of the unit."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from deconv.analyses.choosing import firing_units
from deconv.command.options import WhichImage
from deconv.command.setup import asked_explanations, open_model, prepare
from deconv.compare.controls import CONTROLS, Opened, rules_behind
from deconv.compare.judging import randomised
from deconv.compare.observers import OtherNetwork
from deconv.compare.which_image import BASELINES, ImageStudy
from deconv.errors import bad_value
from deconv.explanations import by_name
from deconv.figures import save_figure
from deconv.models.presets import open_network, replaced_settings
from deconv.network import Network
from deconv.projection.rules import as_rule
from deconv.views.which_image import chosen, open_observer

log = logging.getLogger("deconv")


def run(options: WhichImage, folder: Path) -> Path:
    """Mine, show references to observers, ask them, and draw; returns the picture of accuracies by layer."""
    network, explanations, seed = open_model(options), asked(options), options.seed
    observer = other_network(options, network)
    behind = rules_behind(explanations.values(), as_rule(asdict(options.rule)))
    prepared = prepare(options, network, options.layers, behind, options.units)
    random = randomised(network, prepared.layers, seed) if "random_weights" in explanations.values() else None
    with prepared.engine.connected():  # once, for mining and measuring
        peaks = prepared.mine(folder / "peaks.safetensors", k=2 * options.references)
        units = {name: firing_units(name, peaks[name], options.units, options.n_units, seed) for name in peaks}
        study = ImageStudy(
            network, prepared.images, peaks, units, explanations, random, options.references, observer, seed,
            prepared.engine, folder / "records",
        )  # fmt: skip
        choice = chosen(study)
    choice.save(folder / "summary.json")
    choice.save(folder / "table.txt")
    log.info("%s", choice)
    return save_figure(choice.figure(), folder / "which_image.png")


def asked(options: WhichImage) -> dict[str, Opened]:
    """Return the rule under test and the explanations beside it, by name. Raises UnknownName and BadInput."""
    tested = as_rule(asdict(options.rule))
    explanations = {tested.name: tested} | by_name(asked_explanations(options, options.against), CONTROLS)
    if not explanations.keys().isdisjoint(BASELINES):
        raise bad_value("against", list(explanations), f"names other than {' and '.join(BASELINES)}, always asked")
    return explanations


def other_network(options: WhichImage, network: Network) -> OtherNetwork | None:
    """Return the network of `observer`, with its layer; None without one. Raises UnknownName and BadInput."""
    layer = options.observer.get("layer")
    if options.observer.get("model") is None:
        return open_observer(network, None, layer)
    settings = replaced_settings("observer", options.observer, ["layer"])
    return open_observer(network, open_network(settings, options.seed, options.device), layer)
