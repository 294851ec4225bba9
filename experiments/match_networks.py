"""Units of two networks, or of two checkpoints of one, matched by their activations over the same images."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deconv import figures
from deconv.analyses.match_networks import LayerPair, Matches, match_networks, spread_pairs
from deconv.command.ahead import Ahead, Projections
from deconv.command.options import MatchNetworks
from deconv.command.setup import Prepared, open_rule, prepare
from deconv.errors import BadInput, UnknownName, bad_value, nearest
from deconv.figures.match_networks import correlations_figure, pairs_figure
from deconv.files import safe_name, write_json
from deconv.models.presets import open_network, replaced_settings
from deconv.network import Network
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import Peaks
from deconv.records.formats import save_table

log = logging.getLogger("deconv")

Both = tuple[Prepared, Prepared]


def run(options: MatchNetworks, folder: Path) -> Path:
    """Mine both networks, match the units of each pair of layers, draw; returns the chart of all layers."""
    rule, other_model = open_rule(options.rule), other_settings(options)
    network = open_network(options.model, options.seed, options.device)
    other = open_network(other_model, options.seed, options.device)
    first = prepare(options, network, options.layers, [rule])
    pairs = pair_layers(options, first.layers, other)
    prepared = first, prepare(options, other, list(dict.fromkeys(layer for _, layer in pairs)), [rule])
    files = {pair: folder / f"{file_name(pair)}.matches.safetensors" for pair in pairs}
    images = first.images, prepared[1].images
    with first.engine.connected():  # once, for mining and matching
        peaks = (
            first.mine(folder / "peaks.safetensors", options.k, ahead=work_ahead(options, pairs, first, rule)),
            prepared[1].mine(folder / "other.peaks.safetensors", options.k),
        )
        counts = (options.batch_size, options.seed)
        matches = match_networks((network, other), images, pairs, files, *counts, first.engine)
    names = title_of(options.model, other_model), title_of(other_model, options.model)
    about = f"{names[0]} and {names[1]}, {len(first.images)} photographs"
    numbers = {}
    for matched in track(matches.values(), "projecting and drawing", len(matches), unit="layers"):
        shown = draw_pairs(options, matched, prepared, peaks, rule, names, about, folder)
        numbers[matched.name] = matched.summarise() | {"shown": shown}
    save_whole_table(folder / "matches.parquet", matches, peaks[0].provenance | {"other": peaks[1].provenance})
    write_json(
        folder / "summary.json",
        {
            "layers": numbers,
            "networks": names,
            "rule": rule.options(),
            "provenance": peaks[0].provenance,
            "other_provenance": peaks[1].provenance,
        },
    )
    chart = correlations_figure({matched.name: lines(matched) for matched in matches.values()}, f"Units of {about}")
    return figures.save_figure(chart, folder / "match_networks.png")


def work_ahead(options: MatchNetworks, pairs: list[LayerPair], first: Prepared, rule: Rule) -> Ahead:
    """Count what comes after the first network's mining; the other's pictures are told as if they took as long."""
    pictures = [
        Projections(layer, rule, 2 * min(options.n_pairs, first.network.channels(layer)) * options.k)
        for layer, _ in pairs
    ]
    notes = [("matching", f"{len(pairs):,} pairs of layers, once the other network is mined too; both are not told")]
    return Ahead(pictures, notes=notes)


def other_settings(options: MatchNetworks) -> dict[str, Any]:
    """What describes the other network. Raises BadInput if nothing does, UnknownName for a setting that it lacks."""
    asked = {key: value for key, value in options.other.items() if value is not None}
    if not asked:
        remedy = "other.weights=FILE takes another checkpoint of model, other.model=NAME another network"
        raise bad_value("other", "nothing", "the other network", remedy)
    if "model" in asked:
        return replaced_settings("other", asked)
    for key in asked.keys() - options.model.keys():
        raise UnknownName(
            f"other.{key}: model {options.model['name']} has no such setting{nearest(key, options.model)}"
        )
    return {**options.model, **asked}


def pair_layers(options: MatchNetworks, ordered: list[str], other: Network) -> list[LayerPair]:
    """The layers of both, as they are asked for, or `ordered`; raises UnknownName and BadInput for those of `other`."""
    layers = ordered if options.layers is None else options.layers
    others = layers if options.other_layers is None else options.other_layers
    if len(others) != len(layers):
        raise bad_value("other_layers", others, f"{len(layers)} layers, one for each of {', '.join(layers)}")
    for layer in others:
        try:
            other.node(layer)
        except (UnknownName, BadInput) as error:
            raise type(error)(f"other_layers: {error}") from error
    return list(dict.fromkeys(zip(layers, others, strict=True)))


def file_name(pair: LayerPair) -> str:
    """What the names of a pair's files begin with."""
    return safe_name("-".join(dict.fromkeys(pair)))


def title_of(model: dict[str, Any], beside: dict[str, Any]) -> str:
    """What a network is called: by its weights too where the one beside it has the same name."""
    name, other = (settings.get("arch") or settings["name"] for settings in (model, beside))
    return f"{name} ({Path(str(model['weights'])).stem})" if name == other else str(name)


def draw_pairs(
    options: MatchNetworks,
    matches: Matches,
    prepared: Both,
    peaks: tuple[Peaks, Peaks],
    rule: Rule,
    names: tuple[str, str],
    about: str,
    folder: Path,
) -> list[tuple[int, int]]:
    """Leave some pairs' reconstructions and their picture in the folder; return the pairs."""
    pairs, name, pictures = spread_pairs(matches, options.n_pairs), file_name(matches.layers), []
    sides = zip(prepared, peaks, matches.layers, zip(*pairs, strict=True), ("", "other."), strict=True)
    for side, mined, layer, units, whose in sides:
        recon = project_peaks(side.network, side.images, layer, mined[layer], list(units), rule)
        recon.save(folder / f"{name}.{whose}reconstructions.safetensors")
        pictures.append((recon.zoomed(), patches_of(side.network, side.images, recon)))
    correlation, mutual = matches.with_match, matches.mutual
    said = {(a, b): f"{correlation[a]:.2f}{', mutual' if mutual[a] else ''}" for a, b in pairs}
    numbers = matches.summarise()
    median, share = numbers["median_correlation"], numbers["mutual"]
    title = f"{matches.name}   {numbers['matched']} pairs, median correlation {median:.2f}, {share:.0%} mutual"
    figure = pairs_figure(title, said, pictures, names, options.k, f"Units of {about}, {rule.name}")
    figures.save_figure(figure, folder / f"{name}.png")
    return pairs


def lines(matches: Matches) -> dict[str, np.ndarray]:
    """The lines of a layer's chart."""
    columns = matches.columns()
    shown = {"best, one-sided": columns["best_correlation"], "matched one to one": columns["correlation"]}
    if matches.same_place:
        shown["with itself"] = columns["own_correlation"]
    return shown | {"largest by chance": np.where(matches.best < 0, np.nan, matches.chance)}


def save_whole_table(path: Path, matches: dict[LayerPair, Matches], provenance: dict[str, Any]) -> None:
    """Write a row for each unit of all layers as Parquet, if that is installed; the records hold the same numbers."""
    if find_spec("pyarrow") is None:
        log.info("%s is left out: it needs pyarrow, which the extra parquet brings", path.name)
        return
    tables = []
    for (layer, other_layer), each in matches.items():
        table = each.columns()
        units = len(table["unit"])
        layers = {"layer": np.full(units, layer, object), "other_layer": np.full(units, other_layer, object)}
        tables.append(layers | {"own_correlation": np.full(units, np.nan)} | table)
    save_table(path, {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}, provenance)
