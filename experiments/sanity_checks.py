"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deconv.command.ahead import Ahead, projections, units_shown
from deconv.command.options import SanityChecks
from deconv.command.setup import Prepared, asked_explanations, prepare, units_by_layer
from deconv.compare.randomising import blocks
from deconv.compare.sanity_checks import Checks, shufflings, summarise
from deconv.explanations import by_name
from deconv.explanations.functions import Explanation
from deconv.figures import sanity_checks, save_figure
from deconv.files import write_json
from deconv.models.presets import open_network
from deconv.projection.rules import Rule


def run(options: SanityChecks, folder: Path) -> Path:
    """Mine, project by intact and shuffled networks, compare and draw; returns the picture of all curves."""
    network = open_network(options.model, options.seed, options.device)
    rules = by_name(asked_explanations(options, options.rules))
    prepared = prepare(options, network, options.layers, rules.values(), options.units)
    blocks(network, prepared.layers)  # refuses layers between which nothing could be shuffled
    with prepared.engine.connected():  # once, for mining and checking
        ahead, seed = work_ahead(options, prepared, rules), options.seed
        peaks = prepared.mine(folder / "peaks.safetensors", k=1, ahead=ahead)
        units = units_by_layer(options, peaks)
        checks = Checks(network, prepared.images, peaks, units, rules, seed, prepared.engine, options.smooth)
        measurements = checks.check(folder / "records")
    summary: dict[str, Any] = {
        "smooth": options.smooth,
        "layers": summarise(measurements, options.seed),
        "rules": {name: rule.options() for name, rule in rules.items()},
        "units": units,
        "provenance": peaks.provenance,
    }
    write_json(folder / "summary.json", summary)
    return save_figure(sanity_checks.cascades(summary["layers"], list(rules)), folder / "sanity_checks.png")


def work_ahead(options: SanityChecks, prepared: Prepared, rules: Mapping[str, Rule | Explanation]) -> Ahead:
    """Count what comes after mining: pictures of each unit by the intact network and every shuffled one, and another's.

    Each is a mean over as many as `smooth` says.
    """
    shuffled = {layer: len(list(shufflings(prepared.layers, layer))) for layer in prepared.layers}
    counts = {
        layer: units_shown(options, prepared.network, layer) * (networks + 2) * options.smooth
        for layer, networks in shuffled.items()
    }
    notes = [("shuffling", f"networks with shuffled weights: {sum(shuffled.values()):,}")]
    return Ahead(projections(counts, rules.values()), notes=notes)
