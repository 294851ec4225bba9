"""Figure 6: layer 1's filters and layer 2's projections of several networks, with their faults in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from deconv import figures
from deconv.analyses import filters
from deconv.analyses.choosing import chosen_rule
from deconv.command.shipped import choices, shipped
from deconv.engines import open_engine
from deconv.errors import BadInput, UnknownName, nearest
from deconv.figures import filters as charts
from deconv.files import write_json
from deconv.images import Source, open_source
from deconv.images.cached import cached
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.network.receptive_field import first_convolution
from deconv.projection import check_rules, project_peaks
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


def run(config: DictConfig, folder: Path) -> Path:
    """Mine two layers of every network, measure filters and projections, draw; returns the picture."""
    subjects = [load_subject(name, settings, config) for name, settings in config.networks.items() if settings]
    check_projected(subjects, config)
    images = open_source(**config.source)
    strides = sorted({subject.stride for subject in subjects if subject.stride > 1})
    upper, lower, numbers = [], [], {}
    for subject in subjects:
        peaks = mine(subject, images, config, folder)
        numbers[subject.name] = about = measure_filters(subject, peaks, config.layers[0])
        upper.append(filter_panel(subject, about))
        if subject.name in config.projected:
            recon = project(subject, images, peaks, config)
            recon.save(folder / f"{subject.name}.reconstructions.safetensors")
            about["aliasing"] = measure_aliasing(recon, strides)
            lower.append(projection_panel(subject, recon, about, config))
        about["provenance"] = peaks.provenance
    curves = [charts.Curve(name, about["spectrum"]) for name, about in numbers.items()]
    figure = charts.filters_figure(upper, lower, curves, filters.white_spectrum().tolist(), filters.BIN)
    picture = figures.save_figure(figure, folder / "fig6.png")
    write_json(folder / "summary.json", {"networks": numbers, "rule": chosen_rule(config.rule).options()})
    return picture


def load_subject(name: str, settings: DictConfig, config: DictConfig) -> Subject:
    """What configs/model/<settings.model>.yaml says, with the other settings in the place of its own."""
    known = choices("model")
    if settings.get("model") not in known:
        model = settings.get("model")
        raise UnknownName(f"networks.{name}.model={model}: there are {', '.join(known)}{nearest(str(model), known)}")
    shipped_settings = OmegaConf.load(shipped("configs") / "model" / f"{settings.model}.yaml")
    wanted = {str(key): value for key, value in settings.items() if key != "model" and value is not None}
    for key in wanted.keys() - set(shipped_settings):
        raise UnknownName(f"networks.{name}.{key}: model {settings.model} has no such setting")
    network = load_network(**({str(key): value for key, value in shipped_settings.items()} | wanted), seed=config.seed)
    first, second = check_layers(network, config)
    convolution = first_convolution(network.graph, network.node(first))
    if convolution is None:
        raise BadInput(f"networks.{name}: {first} is not the rectified output of a convolution of the image")
    stride = network.receptive_field(first).stride[0]
    return Subject(name, network, convolution.weight.float().cpu(), stride)


def check_layers(network: Network, config: DictConfig) -> Sequence[str]:
    """Layers 1 and 2. Raises UnknownName, BadInput or UnsupportedOperation before any work is done."""
    if len(config.layers) != 2:
        raise BadInput(f"layers={list(config.layers)}: expected two, the first for its filters, the second to project")
    check_rules(network, config.layers, [chosen_rule(config.rule)])
    return list(config.layers)


def check_projected(subjects: Sequence[Subject], config: DictConfig) -> None:
    """Raise UnknownName for a network to project that is not there."""
    names = [subject.name for subject in subjects]
    for name in config.projected:
        if name not in names:
            raise UnknownName(f"projected: {name!r} is none of networks {', '.join(names)}{nearest(str(name), names)}")


def mine(subject: Subject, images: Source, config: DictConfig, folder: Path) -> Peaks:
    """The strongest peak of every unit of both layers."""
    if config.cache is not None:
        images = cached(images, subject.network.needed_preprocessing(), config.cache)
    work = {"k": 1, "batch_size": config.batch_size, "precision": config.precision}
    work["engine"] = open_engine(**config.engine)
    return mine_into(folder / f"{subject.name}.peaks.parquet", subject.network, images, list(config.layers), **work)


def project(subject: Subject, images: Source, peaks: Peaks, config: DictConfig) -> Reconstructions:
    """The strongest peak of every unit of layer 2 that fires."""
    layer = config.layers[1]
    units = list(range(subject.network.channels(layer)))
    return project_peaks(subject.network, images, layer, peaks[layer], units, chosen_rule(config.rule))


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


def projection_panel(
    subject: Subject, recon: Reconstructions, about: dict[str, Any], config: DictConfig
) -> charts.Panel:
    """A random subset of a network's layer 2 (drawn by the seed), and its aliasing."""
    order = torch.randperm(len(recon), generator=torch.Generator().manual_seed(config.seed))
    some = order[: config.n_units].sort().values
    at = ", ".join(f"{share:.1%} at stride {stride}" for stride, share in about["aliasing"].items())
    note = f"aliasing, the energy that stands out at the frequencies of a stride (chance: 0):\n{at}"
    title = f"{subject.name}: layer 2, {len(some)} of the {len(recon)} units that fire"
    return charts.Panel(title, note, enlarged(figures.display(recon.pixels[some]), PROJECTION_SIDE))


def enlarged(pictures: Tensor, most: int) -> np.ndarray:
    """Tiles of pictures (N, 3, h, w) in 0..1, `most` pixels a side or a little less."""
    side = max(pictures.shape[2:])
    return figures.tiles(pictures, most // side * side or most)
