"""The atlas: every unit of the asked layers, mined, projected, and laid out as a site to leaf through."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deconv.analyses.choosing import listed_shares
from deconv.analyses.cues import measure_cues
from deconv.atlas import COUNTS, KEEPING, write_atlas
from deconv.atlas.photographs import photographs_of
from deconv.atlas.trust import Trust, as_trust
from deconv.command.ahead import Ahead, projections
from deconv.command.options import Atlas
from deconv.command.setup import Prepared, asked_explanations, open_model, open_reference, open_rule, prepare
from deconv.errors import BadInput, bad_value, check_choice
from deconv.explanations import by_name
from deconv.explanations.functions import Explanation
from deconv.files import write_json
from deconv.mining import precision_taken
from deconv.models.presets import called
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import Firing, Peaks
from deconv.records.firing import DRAWN, QUANTILES
from deconv.records.formats import read_columns, reading
from deconv.records.provenance import check_same

DECIDE_PEAKS = ("weights", "source", "k", "per_image")
"""What must be the same of two sets of peaks, of whichever layers, for numbers of the one to stand beside the other."""


def run(options: Atlas, folder: Path) -> Path:
    """Mine, project and write; returns the front page."""
    check_choice("keep", options.keep, KEEPING)
    network = open_model(options)
    rules = opened_rules(options)
    prepared, record = prepare(options, network, options.layers, rules), folder / "peaks.safetensors"
    measured = {} if options.compared is None else measured_layers(Path(options.compared), prepared.layers, rules[0])
    trust = {} if options.predicted is None else read_trust(options, prepared, rules)
    reference = open_reference(options, network, prepared.images, prepared.layers)
    taken = precision_taken(network, prepared.images, prepared.layers, options.k, options.precision)
    counted = taken == "float32"  # else `write_atlas` counts how units fire, in a pass of its own
    ahead = work_ahead(options, prepared, rules)
    peaks = prepared.mine(record, options.k, options.per_image, firing=counted, ahead=ahead)
    metrics = {layer: read_metrics(path, peaks.provenance, len(peaks[layer].score)) for layer, path in measured.items()}
    if options.cues:
        photographs = photographs_of(prepared.images, peaks, options.beyond, folder / "records")
        for layer in track(prepared.layers, "asking for colour and shape", len(prepared.layers), unit="layers"):
            shares = measure_cues(network, photographs, layer, peaks[layer])
            metrics[layer] = metrics.get(layer, {}) | {
                name: [number(value) for value in share.tolist()] for name, share in shares.items()
            }
    shown: dict[str, Any] = {"title": called(options.model, network), "mined": day_of(record)}
    site: dict[str, Any] = {
        "rules": rules,
        "metrics": metrics,
        "trust": trust,
        "reference": reference,
        "circuits": options.circuits,
        "records": folder / "records",
        "batch_size": options.batch_size,
        "field": options.field,
        "beyond": options.beyond,
        "keep": options.keep,
    }
    page = write_atlas(network, peaks, prepared.images, folder / "site", **shown, **site, engine=prepared.engine)
    firing = peaks.firing or Peaks.load(folder / "records" / COUNTS).firing or {}
    numbers = {layer: summarise(network, layer, peaks, firing[layer], reference) for layer in prepared.layers}
    for layer, of_layer in trust.items():
        numbers[layer]["trust"] = {"control": of_layer.control, **asdict(of_layer.counts)}
    provenance = {"provenance": peaks.provenance, "rules": {rule.name: rule.options() for rule in rules}}
    against = {} if reference is None else {"reference": reference.provenance}
    write_json(folder / "summary.json", {"layers": numbers, **provenance, **against})
    return page


def work_ahead(options: Atlas, prepared: Prepared, rules: Sequence[Rule | Explanation]) -> Ahead:
    """Count what comes after mining: pictures of all peaks of all units by each rule, by the first of weaker images."""
    units = {layer: prepared.network.channels(layer) for layer in prepared.layers}
    pictures = projections({layer: number * options.k for layer, number in units.items()}, rules)
    if options.beyond:
        weaker = {layer: number * len(QUANTILES) * DRAWN for layer, number in units.items()}
        pictures += projections(weaker, rules[:1])
    return Ahead(pictures)


def opened_rules(options: Atlas) -> list[Rule | Explanation]:
    """Return the rule that layer pages show, and the explanations that stand beside it."""
    return [open_rule(options.rule), *by_name(asked_explanations(options, options.other_rules)).values()]


def day_of(record: Path) -> str:
    """Return the day on which a file was written, as 2026-11-23."""
    return time.strftime("%Y-%m-%d", time.localtime(record.stat().st_mtime))


def summarise(network: Network, layer: str, peaks: Peaks, firing: Firing, reference: Peaks | None) -> dict[str, Any]:
    """Return what the front page says of a layer, and the strongest peak of each unit."""
    shares: dict[str, Any] = (
        {} if reference is None else {"share_of_strongest": listed_shares(peaks[layer], reference[layer])}
    )
    by_class = firing.by_class
    if by_class is not None:
        shares["class_selectivity"] = by_class.selectivity
        shares["selectivity_by_chance"] = [number(chance) for chance in by_class.chance.tolist()]
        shares["preferred_class"] = [by_class.preferred(unit) for unit in range(len(by_class.mean))]
    holds_peak, field = peaks[layer].found, network.receptive_field(layer)
    scores = peaks[layer].score[:, 0].tolist()
    return {
        "units": len(holds_peak),
        "dead_units": int((~holds_peak.any(dim=1)).sum()),
        "map_size": network.map_size(layer),
        "receptive_field": field.size,
        "stride": field.stride,
        "strongest_score": [None if math.isnan(score) else round(score, 6) for score in scores],
        **shares,
    }


def measured_layers(folder: Path, layers: Sequence[str], rule: Rule | Explanation) -> dict[str, Path]:
    """Return {layer: its record} of the layers of which a compare_rules run has measured units by this rule.

    Raises BadInput for a folder that is none of such a run, and if there are no such layers.
    """
    from deconv.compare.tasks import record_path  # here and below: only `compared` needs the extra `comparing`

    if not (folder / "records").is_dir():
        raise BadInput(f"compared: {folder} has no folder records; give the folder of a compare_rules run")
    paths = {layer: record_path(folder / "records", layer, rule.name) for layer in layers}
    measured = {layer: path for layer, path in paths.items() if path.is_file()}
    if not measured:
        raise BadInput(f"{folder} measured none of {', '.join(layers)} by the rule {rule.name}: give another run")
    return measured


def read_metrics(path: Path, peaks: Mapping[str, Any], units: int) -> dict[str, list[float | None]]:
    """Return {metric: a number or None for each unit of the layer}, as one record has them.

    peaks: the provenance of the atlas's peaks. Raises RecordMismatch, naming the difference, unless those measured,
    of whichever layers, were mined from the same images by the same weights.
    """
    from deconv.compare.sufficiency import CURVES

    with reading(path):
        columns, provenance = read_columns(path)
        measured, mined = columns.pop("unit").tolist(), provenance["peaks"]
        found = {key: mined.get(key) for key in DECIDE_PEAKS} | {"curves": provenance.get("curves")}
    expected = {key: peaks.get(key) for key in DECIDE_PEAKS} | {"curves": CURVES}
    check_same(path, found, expected, "Run compare_rules again")
    by_unit = {name: dict(zip(measured, values.tolist(), strict=True)) for name, values in columns.items()}
    return {name: [number(values.get(unit)) for unit in range(units)] for name, values in by_unit.items()}


def read_trust(options: Atlas, prepared: Prepared, rules: Sequence[Rule | Explanation]) -> dict[str, Trust]:
    """Return {layer: how far its units' pictures may be trusted} of the layers that a run of prediction asked about.

    Raises BadInput for a folder that is none of such a run on these layers, by this rule and with controls, and if
    peaks share images, which those of prediction never do; RecordMismatch, naming the difference, for other peaks.
    """
    from deconv.compare.trust import LEVEL, open_run

    if options.per_image != 1:
        raise bad_value("per_image", options.per_image, "1 with predicted, as of its peaks there is one an image")
    run = open_run(Path(str(options.predicted)), prepared.layers, rules[0].name)
    made_of = prepared.network.provenance() | prepared.images.provenance()
    measured = {layer: run.trust(layer, rules, made_of) for layer in prepared.layers if run.units.get(layer)}
    trust = {layer: as_trust(each.control, LEVEL, each.by_rule) for layer, each in measured.items()}
    return {layer: of_layer for layer, of_layer in trust.items() if of_layer.counts.measured}


def number(value: float | None) -> float | None:
    """Return the value in four digits after the point; None for what was not measured, and for what has no value."""
    return None if value is None or math.isnan(value) else round(float(value), 4)
