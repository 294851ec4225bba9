"""Figure 6: layer 1's filters and layer 2's projections of several networks, with their faults in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconv import figures
from deconv.analyses import filters
from deconv.analyses.choosing import choose_units
from deconv.command.paper import Fig6Filters
from deconv.command.setup import open_rule, prepare
from deconv.errors import BadInput, UnknownName, nearest
from deconv.figures import filters as charts
from deconv.files import safe_name, write_json
from deconv.models.presets import open_network, replaced_settings
from deconv.network import Network
from deconv.network.receptive_field import first_filters
from deconv.projection import project_peaks
from deconv.records import Peaks, Reconstructions


@dataclass(frozen=True)
class Subject:
    """One network of the figure, the filters (N, 3, h, w) of its layer 1 and their stride in pixels."""

    name: str
    network: Network
    filters: Tensor
    stride: int


def run(options: Fig6Filters, folder: Path) -> Path:
    """Mine two layers of every network, measure filters and projections, draw; returns the picture."""
    rule = open_rule(options.rule)
    subjects = [load_subject(name, settings, options) for name, settings in options.networks.items() if settings]
    check_projected(subjects, options)
    prepared = {subject.name: prepare(options, subject.network, options.layers, [rule]) for subject in subjects}
    first, second = options.layers
    strides = sorted({subject.stride for subject in subjects if subject.stride > 1})
    upper, lower, numbers = [], [], {}
    for subject in subjects:
        peaks = prepared[subject.name].mine(folder / f"{safe_name(subject.name)}.peaks.safetensors", k=1)
        numbers[subject.name] = entry = measure_filters(subject, peaks, first)
        upper.append(charts.filter_panel(subject.name, subject.filters, entry))
        if subject.name in options.projected:
            units = list(range(subject.network.channels(second)))
            images = prepared[subject.name].images
            recon = project_peaks(subject.network, images, second, peaks[second], units, rule)
            recon.save(folder / f"{safe_name(subject.name)}.reconstructions.safetensors")
            entry["aliasing"] = measure_aliasing(recon, strides)
            units = choose_units(peaks[second], None, options.n_units, options.seed)
            drawn = torch.isin(recon.channel, torch.tensor(units))
            lower.append(charts.projection_panel(subject.name, recon.pixels[drawn], len(recon), entry["aliasing"]))
        entry["provenance"] = peaks.provenance
    curves = [charts.Curve(name, entry["spectrum"]) for name, entry in numbers.items()]
    figure = charts.filters_figure(upper, lower, curves, filters.white_spectrum().tolist(), filters.BIN)
    picture = figures.save_figure(figure, folder / "fig6.png")
    write_json(folder / "summary.json", {"networks": numbers, "rule": rule.options()})
    return picture


def load_subject(name: str, settings: Mapping[str, Any], options: Fig6Filters) -> Subject:
    """The network of one of the options `networks`. Raises BadInput unless there are two layers, the first filters."""
    if len(options.layers) != 2:
        raise BadInput(f"layers={options.layers}: expected two, the first for its filters, the second to project")
    described, first = replaced_settings(f"networks.{name}", settings), options.layers[0]
    network = open_network(described, options.seed, options.device)
    of_first = first_filters(network.graph, network.node(first))
    if of_first is None:
        raise BadInput(f"networks.{name}: {first} is not the rectified output of a convolution of the image")
    stride = network.receptive_field(first).stride[0]
    return Subject(name, network, of_first, stride)


def check_projected(subjects: Sequence[Subject], options: Fig6Filters) -> None:
    """Raise UnknownName for a network to project that is not there."""
    names = [subject.name for subject in subjects]
    for name in options.projected:
        if name not in names:
            raise UnknownName(f"projected: {name!r} is none of networks {', '.join(names)}{nearest(str(name), names)}")


def measure_filters(subject: Subject, peaks: Peaks, layer: str) -> dict[str, Any]:
    """The numbers of a network's layer 1."""
    size, energy = filters.rms(subject.filters), filters.spectra(subject.filters).sum(0)
    return {
        "filters": len(size),
        "filter_size": list(subject.filters.shape[2:]),
        "stride": subject.stride,
        "dead_units": int(filters.dead(peaks[layer]).sum()),
        "weak": int(filters.weak(subject.filters).sum()),
        "largest_rms": float(size.max()),
        "median_rms": float(size.median()),
        "fine_share": filters.fine_share(subject.filters),
        "spectrum": (energy / energy.sum()).tolist(),
    }


def measure_aliasing(recon: Reconstructions, strides: Sequence[int]) -> dict[int, float]:
    """{stride: mean over the units}; each network's at all strides of the figure, so that they can be compared."""
    return {stride: float(filters.aliasing(recon.pixels, stride).mean()) for stride in strides} if len(recon) else {}
