"""What a run would do, found out before it does it: `deconv --dry-run`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from deconv.command.options import (
    Atlas,
    Fig2Features,
    Fig5Invariance,
    Fig6Filters,
    Fig7Occlusion,
    SanityChecks,
    Table1Correspondence,
    Tour,
)
from deconv.command.settings import Job
from deconv.command.setup import Prepared, WorkBegins, asked_explanations, open_rule, rehearsing
from deconv.command.shared import Mining, Options, Probing
from deconv.explanations import by_name, explain_peaks
from deconv.explanations.functions import Explanation
from deconv.images import Source, StreamedSource, open_source
from deconv.mining import check_precision, mine
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.projection.rules import Rule
from deconv.records import Peaks

REHEARSED: tuple[type[Options], ...] = (Mining, SanityChecks, Fig6Filters, Fig7Occlusion, Tour)
"""Experiments that check all that they can and then mine, before they have written anything."""
OPENED: tuple[type[Options], ...] = (Fig5Invariance, Table1Correspondence, Probing)
"""Experiments of others that open the network of `model` as it is."""
BATCHES = 3
"""Batches that are mined to tell how long all of them take, after one that is not counted."""
PEAK_BYTES = 84
"""Of a peak in its record, at most: eleven numbers and the image's key."""
MOST_TIMED = 16
"""Peaks of a layer that are sent back to tell how long all of them take."""


@dataclass(frozen=True)
class Projections:
    """Which peaks are sent back: all of so many units of each layer, or of all where that is None, by these rules."""

    rules: tuple[Rule | Explanation, ...]
    units: int | None


def plan(job: Job, program: ModuleType, folder: Path) -> str:
    """Return what a run would do, in lines of a name and what there is of it. Raises what the run would end with.

    An experiment that mines runs up to where it would mine; a few batches are then mined in memory, and a few peaks
    sent back, to tell how long it takes. Nothing is written, but for copies of shards that are gzipped or at a URL,
    without which their images are not known.
    """
    lines = [("experiment", job.experiment), ("folder", f"{folder}{', which is there' if folder.exists() else ''}")]
    if isinstance(job.options, REHEARSED):
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
        return [*lines, ("mining", f"{begins.record} is there: it is taken up, if it was made of the same")]
    shards = begins.record.parent / "shards" / begins.record.stem
    if shards.is_dir():
        lines += [("", f"{len(list(shards.glob('[!.]*')))} shards are there already, and taken up")]
    seconds, sample = time_mining(prepared, begins.k, begins.per_image)
    per_image = seconds / sample.provenance["source"]["images"]
    lines += [
        ("mining", f"about {_duration(per_image * _count(images))}: {1 / per_image:.3g} images/s in float32 here")
    ]
    if getattr(options, "cache", None) is not None:
        height, width = network.input_shape[1:]
        size = _count(images) * network.input_shape[0] * height * width
        lines += [("cache", f"{_bytes(size)} in {options.cache}, unless they are there")]  # type: ignore[attr-defined]
    return [*lines, *_of_projecting(options, prepared, sample, begins.k)]


def _of_projecting(options: Options, prepared: Prepared, sample: Peaks, k: int) -> list[tuple[str, str]]:
    """How many peaks are sent back, how long that takes, and how large they are where they are kept."""
    if isinstance(options, Fig2Features):
        units = options.n_units if options.units is None else len(options.units)
        projections = Projections((open_rule(options.rule),), units)
    elif isinstance(options, Atlas):
        others = by_name(asked_explanations(options, options.other_rules)).values()
        projections = Projections((open_rule(options.rule), *others), None)
    else:
        return [("then", "what comes after mining is not told")]
    network, count, seconds, size = prepared.network, 0, 0.0, 0
    for layer in prepared.layers:
        channels = network.channels(layer)
        peaks = k * (channels if projections.units is None else min(projections.units, channels))
        count += peaks * len(projections.rules)
        seconds += peaks * sum(time_projecting(prepared, sample, layer, rule) for rule in projections.rules)
        pixels = np.prod(np.minimum(network.receptive_field(layer).size, network.input_shape[1:]))
        size += peaks * int(pixels) * (5 * network.input_shape[0] + 1)  # float32 and uint8, and what lies inside
    kept = f"; at most {_bytes(size)} with their patches" if isinstance(options, Fig2Features) else ""
    return [
        ("projecting", f"at most about {_duration(seconds)}: {count:,} reconstructions or fewer{kept}"),
        ("then", "drawing is not told"),
    ]


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


def _count(images: Source) -> int:
    """How many images there are; of streamed shards, if all have as many as the first."""
    if isinstance(images, StreamedSource):
        return len(images.shards.numbers) * len(images.shards.sample())
    return len(images)


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
