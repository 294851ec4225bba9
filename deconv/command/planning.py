"""What a run would do, found out before it does it: `deconv --dry-run`."""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deconv.command.ahead import Ahead, count_images
from deconv.command.options import Fig4Evolution, Fig5Invariance, Table1Correspondence
from deconv.command.settings import Job
from deconv.command.setup import Prepared, WorkBegins, rehearsing
from deconv.command.shared import Options, Probing, Scanning
from deconv.explanations import explain_peaks
from deconv.explanations.functions import Explanation
from deconv.images import Source, StreamedSource, open_source
from deconv.mining import check_precision, mine
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.projection.rules import Rule
from deconv.records import Peaks

OPENED: tuple[type[Options], ...] = (Fig5Invariance, Table1Correspondence, Probing)
"""Experiments of others that open the network of `model` as it is."""
BATCHES = 3
"""Batches that are mined to tell how long all of them take, after one that is not counted."""
PEAK_BYTES = 84
"""Of a peak in its record, at most: eleven numbers and the image's key."""
MOST_TIMED = 16
"""Peaks of a layer that are sent back to tell how long all of them take."""


def is_rehearsed(experiment: type[Options]) -> bool:
    """Whether the experiment checks all that it can and then mines, before it has written anything."""
    return issubclass(experiment, Scanning) and experiment is not Fig4Evolution  # which mines several networks


def plan(job: Job, program: ModuleType, folder: Path) -> str:
    """Return what a run would do, in lines of a name and what there is of it. Raises what the run would end with.

    An experiment that mines runs up to where it would mine; a few batches are then mined in memory, and a few peaks
    sent back, to tell how long it takes. Nothing is written, but for copies of shards that are gzipped or at a URL,
    without which their images are not known.
    """
    lines = [("experiment", job.experiment), ("folder", f"{folder}{', which is there' if folder.exists() else ''}")]
    if is_rehearsed(type(job.options)):
        with rehearsing():
            try:
                program.run(job.options, folder)
            except WorkBegins as begins:
                lines += _of_mining(job, begins)
    else:
        lines += _of_others(job)
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}".rstrip() for name, text in lines)


def _of_others(job: Job) -> list[tuple[str, str]]:
    """What can be told of an experiment that does not begin with mining."""
    options: Any = job.options
    lines = [("images", _images(open_source(**options.source)))]
    if isinstance(job.options, OPENED):
        network = open_network(options.model, options.seed, options.device)
        lines += [("network", _network(options.model, network))]
    return [*lines, ("checked", "its options and what stands above; what it does with them is not told")]


def _of_mining(job: Job, begins: WorkBegins) -> list[tuple[str, str]]:
    prepared, options = begins.prepared, job.options
    network, images = prepared.network, prepared.images
    check_precision(images, getattr(options, "precision", "float32"))
    model = getattr(options, "model", {})  # the networks of Figure 6 are others
    lines = [("images", _images(images)), ("network", _network(model, network))]
    others = [name for name, settings in getattr(options, "networks", {}).items() if settings]
    if others:
        lines += [("", f"the first that is mined, and told of alone; networks are {', '.join(others)}")]
    lines += [("layers" if n == 0 else "", _layer(network, layer)) for n, layer in enumerate(prepared.layers)]
    units = sum(network.channels(layer) for layer in prepared.layers)
    size = units * begins.k * PEAK_BYTES
    lines += [("peaks", f"{begins.k} of each of {units:,} units: at most {_bytes(size)} in {begins.record.name}")]
    if begins.record.exists():
        lines += [("mining", f"{begins.record} is there: it is taken up, if it was made of the same")]
        return [*lines, *_of_ahead(prepared, begins.ahead, None, None)]
    shards = begins.record.parent / "shards" / begins.record.stem
    if shards.is_dir():
        lines += [("", f"{len(list(shards.glob('[!.]*')))} shards are there already, and taken up")]
    seconds, sample = time_mining(prepared, begins.k, begins.per_image)
    per_image = seconds / sample.provenance["source"]["images"]
    lines += [
        ("mining", f"about {_duration(per_image * count_images(images))}: {1 / per_image:.3g} images/s in float32 here")
    ]
    if getattr(options, "cache", None) is not None:
        height, width = network.input_shape[1:]
        size = count_images(images) * network.input_shape[0] * height * width
        lines += [("cache", f"{_bytes(size)} in {options.cache}, unless they are there")]  # type: ignore[attr-defined]
    return [*lines, *_of_ahead(prepared, begins.ahead, sample, per_image)]


def _of_ahead(
    prepared: Prepared, ahead: Ahead | None, sample: Peaks | None, per_image: float | None
) -> list[tuple[str, str]]:
    """What comes after mining: how much, how long by a sample of peaks and the seconds of an image, and how large."""
    if ahead is None:
        return [("then", "what comes after mining is not told")]
    network, count, seconds, size = prepared.network, 0, 0.0, 0
    for each in ahead.projections:
        count += each.count
        seconds += 0 if sample is None else each.count * time_projecting(prepared, sample, each.layer, each.by)
        pixels = np.prod(np.minimum(network.receptive_field(each.layer).size, network.input_shape[1:]))
        size += each.count * int(pixels) * (5 * network.input_shape[0] + 1)  # float32 and uint8, and what lies inside
    kept = f"; at most {_bytes(size)} with their patches" if ahead.kept else ""
    lasting = "" if sample is None else f"at most about {_duration(seconds)}: "
    lines = [("projecting", f"{lasting}{count:,} reconstructions or fewer{kept}")]
    if ahead.passes:
        lasting = "" if per_image is None else f"at most about {_duration(ahead.passes * per_image)}: "
        lines += [("answering", f"{lasting}{ahead.passes:,} images or patches, or fewer, shown to the network")]
    return [*lines, *ahead.notes, ("then", "drawing is not told")]


def time_mining(prepared: Prepared, k: int, per_image: int) -> tuple[float, Peaks]:
    """Return the seconds that BATCHES batches take, of images spread over the source, and their peaks."""
    images = prepared.images
    size = prepared.batch_size
    ids = list(images.shards.sample().ids if isinstance(images, StreamedSource) else images.ids)
    count = min(BATCHES * size, len(ids))
    spread = [ids[n * len(ids) // count] for n in range(count)]
    mine(prepared.network, prepared.images.part(spread[:size]), prepared.layers, k, size, per_image)  # not counted
    start = time.perf_counter()
    peaks = mine(prepared.network, prepared.images.part(spread), prepared.layers, k, size, per_image)
    return time.perf_counter() - start, peaks


def time_projecting(prepared: Prepared, sample: Peaks, layer: str, rule: Rule | Explanation) -> float:
    """Return the seconds that a peak of the layer takes, of a few of the sample; 0 where no unit fires on it."""
    units = (
        sample[layer].found.any(dim=1).nonzero().flatten()[: MOST_TIMED // sample[layer].score.shape[1] + 1].tolist()
    )
    if not units:
        return 0.0
    start = time.perf_counter()
    recon = explain_peaks(prepared.network, prepared.images, layer, sample[layer], units, rule)
    return (time.perf_counter() - start) / len(recon)


def _images(images: Source) -> str:
    if isinstance(images, StreamedSource):
        shards, first = len(images.shards.numbers), len(images.shards.sample())
        return f"{shards:,} shards of the source {images.name}, streamed, the first of {first:,} images"
    classes = "" if images.labels is None else f", {len(set(images.labels))} classes"
    classes = classes if images.within is None else f", those of the class {images.within}"
    without = f", {len(images.left_out)} broken shards left out" if images.left_out else ""
    return f"{len(images):,} of the source {images.name}{classes}{without}"


def _network(model: Any, network: Network) -> str:
    weights = sum(weight.numel() for weight in network.module.parameters())
    channels, height, width = network.input_shape
    name = called(model, network) if model else type(network.module).__name__
    return f"{name}: {weights:,} weights, {len(network.layers)} layers, inputs of {channels} x {height} x {width}"


def _layer(network: Network, layer: str) -> str:
    (rows, cols), (height, width) = network.map_size(layer), network.receptive_field(layer).size
    return f"{layer}: {network.channels(layer):,} units, maps of {rows} x {cols}, receptive field {height} x {width}"


def _bytes(count: int) -> str:
    """Return a number of bytes in words: "840 kB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{max(count / 1e3, 1):.3g} kB"


def _duration(seconds: float) -> str:
    """Return a duration in words: "40 s", "12 min", "3.5 h"."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{max(seconds, 1):.0f} s"
