"""Figure 2: the strongest peaks of units in every layer, sent back to pixels, beside their image patches."""

from __future__ import annotations

import logging
from pathlib import Path

from deconv import figures
from deconv.analyses.choosing import choose_units, describe_share, listed_shares, strongest_units
from deconv.command.options import Fig2Features
from deconv.command.setup import open_network, open_reference, open_rule, prepare
from deconv.errors import BadInput, check_choice
from deconv.figures import features
from deconv.files import safe_name, write_json
from deconv.images import Source
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.records import LayerPeaks, Peaks

log = logging.getLogger("deconv")

CHOICES = ("random", "strongest")


def run(options: Fig2Features, folder: Path) -> Path:
    """Mine, project, cut and draw; returns the picture of all layers."""
    network, rule = open_network(options.model, options.seed), open_rule(options.rule)
    prepared = prepare(options, network, options.layers, [rule], options.units)
    images, layers = prepared.images, prepared.layers
    reference = open_reference(options, network, layers)
    check_choosing(options, reference)
    peaks = prepared.mine(folder / "peaks.parquet", options.k, options.per_image)
    panels, summary = [], {}
    for layer in track(layers, "projecting and drawing", len(layers), unit="layers"):
        units = pick_units(options, layer, peaks, reference)
        notes = describe_units(layer, peaks, units, reference)
        panels.append(draw_layer(network, images, layer, peaks, units, options, folder, notes))
        summary[layer] = summarise(network, layer, peaks, units, reference)
    heading = (
        f"{options.model['name']}: the {options.k} strongest peaks of each unit, {len(images)} photographs, {rule.name}"
    )
    picture = figures.save_figure(features.features_figure(panels, heading, rows=2), folder / "fig2.png")
    made_of = {"provenance": peaks.provenance, "rule": rule.options()}
    compared = {} if reference is None else {"reference": reference.provenance}
    write_json(folder / "summary.json", {"layers": summary, **made_of, **compared})
    return picture


def check_choosing(options: Fig2Features, reference: Peaks | None) -> None:
    """Raise UnknownName or BadInput, before the work, for a way to choose units that cannot be used."""
    check_choice("choice of units", options.choose, CHOICES)
    if options.choose == "strongest" and options.units is not None:
        raise BadInput("choose=strongest chooses units, and units names them: leave one of them out")
    if options.choose == "strongest" and reference is None:
        raise BadInput(
            "choose=strongest: nothing says how strong the units of this network can be; expected reference=PATH, the "
            "peaks.parquet of a run with it over many more images, or choose=random"
        )


def pick_units(options: Fig2Features, layer: str, peaks: Peaks, reference: Peaks | None) -> list[int]:
    """Return the units of a layer that are shown, in the order of the figure."""
    if options.choose == "strongest" and reference is not None:
        return strongest_units(peaks[layer], reference[layer], options.n_units)
    return choose_units(peaks[layer], options.units, options.n_units, options.seed)


def describe_units(layer: str, peaks: Peaks, units: list[int], reference: Peaks | None) -> dict[int, str]:
    """Return what is said of the units that have a share of their strongest."""
    if reference is None:
        return {}
    shares = listed_shares(peaks[layer], reference[layer])
    return {unit: describe_share(share, reference) for unit in units if (share := shares[unit]) is not None}


def draw_layer(
    network: Network,
    images: Source,
    layer: str,
    peaks: Peaks,
    units: list[int],
    options: Fig2Features,
    folder: Path,
    notes: dict[int, str],
) -> features.LayerPanels:
    """Records and picture of one layer."""
    if not bool(peaks[layer].found[units].any()):
        raise BadInput(
            f"layer {layer}: none of the units {units} fires on any of the {len(images)} images; choose others."
        )
    recon = project_peaks(network, images, layer, peaks[layer], units, open_rule(options.rule))
    patches = patches_of(network, images, recon)
    recon.save(folder / f"{safe_name(layer)}.reconstructions.safetensors")
    patches.save(folder / f"{safe_name(layer)}.patches.safetensors")
    filters = first_convolution(network.graph, network.node(layer))
    weights = None if filters is None else filters.weight.float().cpu()
    panels = features.unit_panels(recon, patches, options.k, weights, notes)
    drawn = features.LayerPanels(title(network, layer, peaks[layer], filters is not None), panels)
    figures.save_figure(features.features_figure([drawn], options.model["name"]), folder / f"{safe_name(layer)}.png")
    return drawn


def title(network: Network, layer: str, peaks: LayerPeaks, with_filters: bool) -> str:
    """What stands above a layer's grid."""
    (rows, cols), dead = network.receptive_field(layer).size, int((~peaks.found.any(dim=1)).sum())
    return (
        f"{layer}   {network.channels(layer)} units, receptive field {rows} x {cols} pixels"
        + (f", {dead} never fire" if dead else "")
        + ("; first its filter" if with_filters else "")
    )


def summarise(
    network: Network, layer: str, mined: Peaks, units: list[int], reference: Peaks | None
) -> dict[str, object]:
    """The numbers that the figure shows."""
    field, peaks = network.receptive_field(layer), mined[layer]
    shares = {} if reference is None else {"share_of_strongest": listed_shares(peaks, reference[layer])}
    return {
        "units": units,
        "channels": network.channels(layer),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "stride": field.stride,
        "dead_units": int((~peaks.found.any(dim=1)).sum()),
        "strongest_score": [round(float(peaks.score[unit, 0]), 6) if peaks.found[unit, 0] else None for unit in units],
        "different_images": [int(peaks.image[unit][peaks.found[unit]].unique().numel()) for unit in units],
        **{name: [of_all[unit] for unit in units] for name, of_all in shares.items()},
    }
