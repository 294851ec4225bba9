"""The tree of a unit: the lower units that its peaks are made of, with their pictures, down to the first layer."""

from __future__ import annotations

import logging
from pathlib import Path

from deconv import figures
from deconv.analyses.choosing import check_units, chosen_maps, firing_units
from deconv.analyses.circuit import grow_trees, steps_of
from deconv.command.ahead import Ahead, Projections, units_shown
from deconv.command.options import Circuit
from deconv.command.setup import Prepared, open_model, open_rule, prepare
from deconv.errors import bad_value
from deconv.figures import circuit
from deconv.files import safe_name, write_json
from deconv.models.presets import called
from deconv.progress import track
from deconv.projection.rules import Rule

log = logging.getLogger("deconv")


def run(options: Circuit, folder: Path) -> Path:
    """Mine the layers, grow the trees of the units and draw each; returns the picture, or of several their folder."""
    network, rule = open_model(options), open_rule(options.rule)
    layer, left_out = options.layer, ""
    if layer is None:
        (layer,), left_out = chosen_maps(network, 1, rule)
    steps = steps_of(network, layer, options.layers, len(options.branches), rule)
    if len(options.branches) < len(steps):
        remedy = f"they are {', '.join(steps)}"
        raise bad_value("branches", options.branches, "a number for each layer that the tree goes through", remedy)
    check_units(network, [layer], options.units)
    chain = [layer, *steps]
    prepared = prepare(options, network, chain, [rule])
    if left_out:
        log.info("%s", left_out)
    images, ahead = prepared.images, work_ahead(options, prepared, chain, rule)
    peaks = prepared.mine(folder / "peaks.safetensors", options.k, options.per_image, ahead=ahead)
    units = firing_units(layer, peaks[layer], options.units, options.n_units, options.seed)
    trees, made = grow_trees(network, images, peaks, units, chain, options.branches, rule)
    for name, recon in made.items():
        recon.save(folder / f"{safe_name(name)}.reconstructions.safetensors")
    pictures = []
    for tree in track(trees, "drawing", len(trees), unit="units"):
        title = f"{called(options.model, network)}: what unit {tree.unit} of {layer} is made of"
        figure = circuit.circuit_figure(tree, f"{title}, {len(images)} photographs, {rule.name}")
        pictures.append(figures.save_figure(figure, folder / f"unit{tree.unit}.png"))
    made_of = {"provenance": peaks.provenance, "rule": rule.options()}
    numbers = [tree.numbers() for tree in trees]
    write_json(folder / "summary.json", {"layer": layer, "layers": steps, "trees": numbers, **made_of})
    log.info("%s", ", ".join(picture.name for picture in pictures))
    return pictures[0] if len(pictures) == 1 else folder


def work_ahead(options: Circuit, prepared: Prepared, chain: list[str], rule: Rule) -> Ahead:
    """Count what comes after mining: pictures of all peaks of all units in the trees, and each in those above it."""
    above, pictures = units_shown(options, prepared.network, chain[0]), []
    pictures.append(Projections(chain[0], rule, above * options.k))
    for layer, branches in zip(chain[1:], options.branches, strict=False):
        pairs = above * branches
        above = min(pairs, prepared.network.channels(layer))
        pictures.append(Projections(layer, rule, above * options.k + pairs))
    return Ahead(pictures)
