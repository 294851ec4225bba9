"""Figure 6: layer 1's filters and layer 2's projections of several networks, with their faults in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deconv import figures
from deconv.analyses import filters
from deconv.analyses.choosing import choose_units
from deconv.command.options import Fig6Filters
from deconv.command.setup import model_file, open_network, open_rule, prepare
from deconv.errors import BadInput, UnknownName, nearest
from deconv.figures import filters as charts
from deconv.files import safe_name, write_json
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.projection import project_peaks
from deconv.records import Peaks, Reconstructions

FILTER_SIDE, PROJECTION_SIDE = 44, 54
"""Pixels that a picture may fill; it is enlarged by the largest whole factor that fits."""
FULL_COLOUR = 2.0
"""Root mean squares of the largest filter that are full colour, as the figure's caption says."""


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
        peaks = prepared[subject.name].mine(folder / f"{safe_name(subject.name)}.peaks.parquet", k=1)
        numbers[subject.name] = about = measure_filters(subject, peaks, first)
        upper.append(filter_panel(subject, about))
        if subject.name in options.projected:
            units = list(range(subject.network.channels(second)))
            images = prepared[subject.name].images
            recon = project_peaks(subject.network, images, second, peaks[second], units, rule)
            recon.save(folder / f"{safe_name(subject.name)}.reconstructions.safetensors")
            about["aliasing"] = measure_aliasing(recon, strides)
            drawn = choose_units(peaks[second], None, options.n_units, options.seed)
            lower.append(projection_panel(subject, recon, about, drawn))
        about["provenance"] = peaks.provenance
    curves = [charts.Curve(name, about["spectrum"]) for name, about in numbers.items()]
    figure = charts.filters_figure(upper, lower, curves, filters.white_spectrum().tolist(), filters.BIN)
    picture = figures.save_figure(figure, folder / "fig6.png")
    write_json(folder / "summary.json", {"networks": numbers, "rule": rule.options()})
    return picture


def load_subject(name: str, settings: Mapping[str, Any], options: Fig6Filters) -> Subject:
    """The network of one of the options `networks`. Raises BadInput unless there are two layers, the first filters."""
    if len(options.layers) != 2:
        raise BadInput(f"layers={options.layers}: expected two, the first for its filters, the second to project")
    network, first = open_network(model_file(f"networks.{name}", settings), options.seed), options.layers[0]
    convolution = first_convolution(network.graph, network.node(first))
    if convolution is None:
        raise BadInput(f"networks.{name}: {first} is not the rectified output of a convolution of the image")
    stride = network.receptive_field(first).stride[0]
    return Subject(name, network, convolution.weight.float().cpu(), stride)


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


def filter_panel(subject: Subject, about: dict[str, Any]) -> charts.Panel:
    """All filters of a network on one scale, and its numbers."""
    scale = 2 * FULL_COLOUR * about["largest_rms"]
    shown = (0.5 + subject.filters / max(scale, 1e-30)).clamp(0, 1)
    rows, cols = about["filter_size"]
    ratio = about["largest_rms"] / max(about["median_rms"], 1e-30)
    note = (
        f"{about['filters']} filters {rows} x {cols}, stride {about['stride']};  dead: {about['dead_units']} "
        f"never fire, "
        f"{about['weak']} have under a tenth of the median RMS\n"
        f"largest RMS {about['largest_rms']:.3g}, {ratio:.1f} times the median;  "
        f"{about['fine_share']:.0%} of the energy above {filters.FINE:g} cycles a pixel"
    )
    return charts.Panel(f"{subject.name}: layer 1", note, enlarged(shown, FILTER_SIDE))


def projection_panel(subject: Subject, recon: Reconstructions, about: dict[str, Any], units: list[int]) -> charts.Panel:
    """Some units of a network's layer 2, and its aliasing."""
    some = torch.isin(recon.channel, torch.tensor(units)).nonzero()[:, 0]
    at = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in about["aliasing"].items())
    note = f"aliasing, the energy that stands out at the frequencies of a stride (chance: 0):\n{at}"
    title = f"{subject.name}: layer 2, {len(some)} of the {len(recon)} units that fire"
    return charts.Panel(title, note, enlarged(figures.display(recon.pixels[some]), PROJECTION_SIDE))


def enlarged(pictures: Tensor, most: int) -> np.ndarray:
    """Tiles of pictures (N, 3, h, w) in 0..1, `most` pixels a side or a little less."""
    side = max(pictures.shape[2:])
    return figures.tiles(pictures, most // side * side or most)
