"""The atlas: every unit of the asked layers, mined, projected, and laid out as a site to leaf through."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from deconv.analyses.choosing import chosen_rule
from deconv.atlas import write_atlas
from deconv.engines import open_engine
from deconv.errors import BadInput, RecordMismatch
from deconv.files import write_json
from deconv.images.cached import open_frames
from deconv.mining import mine_into
from deconv.models import load_network
from deconv.network import Network
from deconv.projection import check_rules
from deconv.projection.rules import Rule
from deconv.records import Peaks, table
from deconv.records.formats import reading

Metrics = dict[str, dict[str, list[float | None]]]


def run(config: DictConfig, folder: Path) -> Path:
    """Mine, project and write; returns the front page."""
    network = load_network(**config.model, seed=config.seed)
    layers = sorted(config.layers or network.aliases or network.layers, key=network.node)
    rules = [chosen_rule(rule) for rule in [config.rule, *config.other_rules]]
    check_rules(network, layers, rules)
    if config.units is not None:
        raise BadInput("units: given some; expected null, as an atlas shows all. For some, use fig2_features.")
    if config.compared is not None and not (Path(config.compared) / "records").is_dir():
        raise BadInput(f"compared: {config.compared} has no folder records; give the folder of a compare_rules run.")
    images = open_frames(config.source, network.needed_preprocessing(), config.cache)
    counts = {"k": config.k, "batch_size": config.batch_size, "per_image": config.per_image}
    engine, record = open_engine(**config.engine), folder / "peaks.parquet"
    peaks = mine_into(record, network, images, layers, **counts, precision=config.precision, engine=engine)
    metrics = {} if config.compared is None else compared(Path(config.compared), peaks, rules[0])
    shown = {"title": config.model.get("arch") or config.model.name, "mined": day_of(record)}
    about = {"rules": rules, "metrics": metrics, "records": folder / "records", "batch_size": config.batch_size}
    page = write_atlas(network, peaks, images, folder / "site", **shown, **about, engine=engine)
    numbers = {layer: summarise(network, layer, peaks) for layer in layers}
    provenance = {"provenance": peaks.provenance, "rules": {rule.name: rule.options() for rule in rules}}
    write_json(folder / "summary.json", {"layers": numbers, **provenance})
    return page


def day_of(record: Path) -> str:
    """The day on which a file was written, as 2026-11-23."""
    return time.strftime("%Y-%m-%d", time.localtime(record.stat().st_mtime))


def summarise(network: Network, layer: str, peaks: Peaks) -> dict[str, Any]:
    """What the front page says of a layer, and the strongest peak of each unit."""
    found, field = peaks[layer].found, network.receptive_field(layer)
    scores = peaks[layer].score[:, 0].tolist()
    return {
        "units": len(found),
        "dead_units": int((~found.any(dim=1)).sum()),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "stride": field.stride,
        "strongest_score": [None if math.isnan(score) else round(score, 6) for score in scores],
    }


def compared(folder: Path, peaks: Peaks, rule: Rule) -> Metrics:
    """{layer: {metric: one for each unit}} of the units that a compare_rules run has measured by this rule.

    Raises RecordMismatch for a run over other peaks, BadInput for one that measured nothing by this rule.
    """
    found: Metrics = {}
    for layer in peaks:
        path = folder / "records" / f"{layer}.{rule.name}.parquet"
        if path.is_file():
            found[layer] = read_metrics(path, peaks, len(peaks[layer].score))
    if not found:
        raise BadInput(f"{folder} measured none of {', '.join(peaks)} by the rule {rule.name}; give another run.")
    return found


def read_metrics(path: Path, peaks: Peaks, units: int) -> dict[str, list[float | None]]:
    """The columns of one record, a number or None for each unit of the layer."""
    with reading(path):
        columns, provenance = table.read(path)
        at, mined = columns.pop("unit").tolist(), provenance["peaks"]
    if not same_peaks(mined, peaks.provenance):
        raise RecordMismatch(f"{path} was measured with other weights, images or counts; run compare_rules again.")
    spread = {name: dict(zip(at, values.tolist(), strict=True)) for name, values in columns.items()}
    return {name: [number(values.get(unit)) for unit in range(units)] for name, values in spread.items()}


def same_peaks(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two sets of peaks, of whichever layers, were mined from the same images by the same weights."""
    return all(found.get(key) == wanted.get(key) for key in ("weights", "source", "k", "per_image"))


def number(value: float | None) -> float | None:
    """None for what was not measured, and for what has no value."""
    return None if value is None or math.isnan(value) else round(float(value), 4)
