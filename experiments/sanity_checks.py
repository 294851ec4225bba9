"""Sanity checks: does a reconstruction change when what the network learned is taken from it, block by block?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deconv.command.options import SanityChecks
from deconv.command.setup import asked_explanations, prepare, units_by_layer
from deconv.compare.randomising import blocks
from deconv.compare.sanity_checks import Checks, summarise
from deconv.explanations import by_name
from deconv.figures import sanity_checks, save_figure
from deconv.files import write_json
from deconv.models.presets import open_network


def run(options: SanityChecks, folder: Path) -> Path:
    """Mine, project by intact and shuffled networks, compare and draw; returns the picture of all curves."""
    network = open_network(options.model, options.seed, options.device)
    rules = by_name(asked_explanations(options, options.rules))
    prepared = prepare(options, network, options.layers, rules.values(), options.units)
    blocks(network, prepared.layers)  # refuses layers between which nothing could be shuffled
    with prepared.engine.connected():  # once, for mining and checking
        peaks = prepared.mine(folder / "peaks.safetensors", k=1)
        units = units_by_layer(options, peaks)
        checks = Checks(network, prepared.images, peaks, units, rules, options.seed, prepared.engine, options.smooth)
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
