"""Units of one layer measured by every rule: the work that an engine shares out, and records that keep its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from deconv.compare.controls import Opened
from deconv.compare.grouping import thumbnails
from deconv.compare.measuring import group, measure
from deconv.compare.peak_set import PeakSet
from deconv.files import claimed, remove_leftovers, safe_name
from deconv.progress import track
from deconv.records.formats import Columns, load_columns, save_columns

UNITS_AT_ONCE = 5
"""Units in a task."""
PATCHES = "patches"
"""Stands among the rules where the patches themselves are grouped."""


@dataclass(frozen=True, eq=False)
class LayerComparison:
    """What all tasks of one layer share.

    peaks: all peaks of all units that are measured, unit by unit and strongest first, as `gather_peaks` gives them.
    strongest: each unit's best activation in the mined images, nan for a dead unit.  rules: explanations, by
    name.  names: which of `rules`, or PATCHES, to measure.
    """

    peaks: PeakSet
    strongest: Float[np.ndarray, " C"]
    rules: Mapping[str, Opened]
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class Measured:
    """What a task measured of its U units, which have N peaks.

    unit: the unit of each peak.  columns: {rule: {metric: (U,)}}.  thumbnails: {rule: (N, s, t)} of all peaks.
    """

    units: list[int]
    unit: Int[np.ndarray, " N"]
    columns: dict[str, Columns]
    thumbnails: dict[str, Float[np.ndarray, "N s t"]]


def measure_units(comparison: LayerComparison, units: list[int]) -> Iterator[Measured]:
    """Measure the strongest peak of each unit by every rule, and shrink the reconstructions of all its peaks."""
    peaks = comparison.peaks.subset(torch.isin(comparison.peaks.channel, torch.tensor(units)))
    is_strongest = peaks.strongest()
    strongest_peaks = peaks.subset(is_strongest)
    names = [name for name in comparison.names if name != PATCHES]
    rules = [comparison.rules[name] for name in names]
    pixels = dict(zip(names, peaks.reconstruct_all(rules), strict=True))
    of_other_units = dict(zip(names, strongest_peaks.others.reconstruct_all(rules), strict=True))
    columns = {
        name: measure(strongest_peaks, pixels[name][is_strongest.numpy()], of_other_units[name], comparison.strongest)
        for name in names
    }
    if PATCHES in comparison.names:
        pixels[PATCHES] = peaks.patches
    small = {name: thumbnails(pictures) for name, pictures in pixels.items()}
    yield Measured(units, peaks.channel.numpy(), columns, small)


def unit_tasks(units: Sequence[int]) -> list[list[int]]:
    """Return units in tasks of UNITS_AT_ONCE.

    >>> unit_tasks([0, 1, 2, 3, 4, 9])
    [[0, 1, 2, 3, 4], [9]]
    """
    return [list(units[n : n + UNITS_AT_ONCE]) for n in range(0, len(units), UNITS_AT_ONCE)]


def unit_after(units: Sequence[int], unit: int) -> int:
    """Return the unit that follows one among some, the first after the last: its control where another unit is one.

    >>> unit_after([3, 7, 12], 7), unit_after([3, 7, 12], 12)
    (12, 3)
    """
    return units[(units.index(unit) + 1) % len(units)]


def units_title(about: str, layer: str, units: Sequence[int]) -> str:
    """Return what an engine calls the work on some units of a layer.

    >>> units_title("comparing", "fire5", [3, 7, 12])
    'comparing fire5 units 3, 7, 12'
    """
    return f"{about} {layer} units {', '.join(map(str, units))}"


def join(tasks: Sequence[Measured], names: Sequence[str]) -> dict[str, Columns]:
    """Return {rule: columns (U,)} of all units of a layer from its tasks, in whatever order they ended.

    The metrics of `group`, which compares all units of the layer, are added here.
    """
    tasks = sorted(tasks, key=lambda task: task.units)
    units = np.array([unit for task in tasks for unit in task.units])
    unit = np.concatenate([task.unit for task in tasks])
    columns_by_rule = {}
    for name in names:
        by_task = [task.columns.get(name, {}) for task in tasks]
        columns = {metric: np.concatenate([columns[metric] for columns in by_task]) for metric in by_task[0]}
        grouped = group(np.concatenate([task.thumbnails[name] for task in tasks]), unit)
        columns_by_rule[name] = {"unit": units} | columns | grouped
    return columns_by_rule


def keep_or_measure(
    records: Path | None,
    provenances: Mapping[str, Mapping[str, Mapping[str, Any]]],
    measure_layer: Callable[[str, list[str]], Mapping[str, Columns]],
    title: str,
) -> dict[str, dict[str, Columns]]:
    """Return {layer: {rule: columns}}, read from the folder `records`, or else measured and recorded there.

    records: None keeps nothing. provenances: {layer: {rule: what its record is made of}}, which decides what is
    measured, and the order. measure_layer: takes a layer and the rules that have no record. title: names the work in
    the progress.
    All records are read before any work, so that one of something else is refused at once.
    Raises RecordMismatch, naming the difference, for such a record, BadInput for one that cannot be read, and if the
    disk is full or may not be written to or another process measures into the folder.
    """
    if records is None:
        layers = track(provenances, title, len(provenances), unit="layers")
        return {layer: dict(measure_layer(layer, list(provenances[layer]))) for layer in layers}
    kept = {
        layer: {rule: load_columns(record_path(records, layer, rule), expected) for rule, expected in by_rule.items()}
        for layer, by_rule in provenances.items()
    }
    complete: dict[str, dict[str, Columns]] = {}
    remove_leftovers(records)
    is_complete = all(columns is not None for by_rule in kept.values() for columns in by_rule.values())
    with nullcontext() if is_complete else claimed(records):
        for layer in track(kept, title, len(kept), unit="layers"):
            missing = [rule for rule, columns in kept[layer].items() if columns is None]
            measured = measure_layer(layer, missing) if missing else {}
            for rule in missing:
                save_columns(record_path(records, layer, rule), measured[rule], provenances[layer][rule])
            complete[layer] = {
                rule: measured[rule] if columns is None else columns for rule, columns in kept[layer].items()
            }
    return complete


def record_path(records: Path, layer: str, rule: str) -> Path:
    """Return the file in the folder `records` that keeps a layer's units as measured by a rule."""
    return records / f"{safe_name(layer)}.{safe_name(rule)}.safetensors"
