"""Virtual units: a unit's peaks split by the lower units that each is made of, drawn, and measured beside chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deconv import figures
from deconv.analyses.choosing import check_units, firing_units, last_maps
from deconv.analyses.circuit import steps_of
from deconv.analyses.virtual_units import MOST_CLUSTERS, VirtualUnit, recipes_of, split_peaks, virtual_units
from deconv.command.ahead import Ahead, Projections, units_shown
from deconv.command.options import VirtualUnits
from deconv.command.setup import Prepared, open_model, open_rule, prepare
from deconv.compare.grouping import thumbnails
from deconv.compare.measuring import mean_interval
from deconv.compare.splits import correlations, gain_of_split, same_class, with_mean_outside
from deconv.errors import bad_value
from deconv.figures import virtual_units as drawing
from deconv.files import write_json
from deconv.images import Source
from deconv.network import Network
from deconv.progress import track
from deconv.projection import check_through, project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Patches, Peaks, Reconstructions


@dataclass(frozen=True, eq=False)
class Study:
    """What is the same for all units of a layer; `through` is the lower layer by which their peaks are split."""

    network: Network
    images: Source
    peaks: Peaks
    layer: str
    through: str
    rule: Rule

    def pictures(self, layer: str, peaks: LayerPeaks, unit: int, through: Sequence[str] = ()) -> Pictures:
        """Return the reconstructions of a unit's peaks, what is shown of them, and the patches under that."""
        recon = project_peaks(self.network, self.images, layer, peaks, [unit], self.rule, through)
        shown, content = recon.zoomed(), self.peaks.provenance["source"]["content"]
        return recon, shown, patches_of(self.network, self.images, shown, content)


Pictures = tuple[Reconstructions, Reconstructions, Patches]


def run(options: VirtualUnits, folder: Path) -> Path:
    """Mine, split the peaks of each unit, measure and draw; returns the chart of what splitting gains."""
    if options.clusters is not None and options.clusters >= options.k:
        raise bad_value("clusters", options.clusters, f"less than the k={options.k} peaks of a unit")
    network, rule = open_model(options), open_rule(options.rule)
    layer = options.layer or last_maps(network, 1)[0]
    through = options.through or steps_of(network, layer, None, 1, rule)[0]
    check_through(network, layer, [through], [rule])
    check_units(network, [layer], options.units)
    prepared = prepare(options, network, [layer, through], [rule])
    ahead = work_ahead(options, prepared, layer, through, rule)
    peaks = prepared.mine(folder / "peaks.safetensors", options.k, ahead=ahead)
    units = firing_units(layer, peaks[layer], options.units, options.n_units, options.seed)
    study = Study(network, prepared.images, peaks, layer, through, rule)
    of_layer, over_images = f"{options.model['name']}, {layer}", f"{len(prepared.images)} photographs, {rule.name}"
    numbers, gains = [], {}
    for unit in track(units, "splitting and drawing", len(units), unit="units"):
        pictures = study.pictures(layer, peaks[layer], unit, [through])
        cluster = split_peaks(recipes_of(pictures[0], through), options.clusters, options.seed)
        gains[unit] = gains_of(study, pictures, cluster, options.seed)
        split = virtual_units(study.images, pictures[0], through, cluster, options.lower)
        heading = f"{of_layer}: unit {unit} as {counted(len(split))}, by units of {through}, {over_images}"
        draw(study, pictures, split, heading, in_words(gains[unit]), folder / f"unit{unit}.png")
        numbers.append({"unit": unit, "virtual_units": [each.numbers() for each in split], "gain": gains[unit]})
    summary = {"layer": layer, "through": through, "units": numbers, "all": over_units(gains, options.seed)}
    made_of = {"rule": rule.options(), "provenance": peaks.provenance}
    write_json(folder / "summary.json", summary | made_of)
    heading = f"{of_layer}: peaks split by units of {through}, {over_images}"
    return figures.save_figure(drawing.splits_figure(gains, heading), folder / "splits.png")


def work_ahead(options: VirtualUnits, prepared: Prepared, layer: str, through: str, rule: Rule) -> Ahead:
    """Count what comes after mining: pictures of all peaks of the units, and of the lower units of each cluster."""
    units = units_shown(options, prepared.network, layer)
    clusters = options.clusters or MOST_CLUSTERS
    lower = units * clusters * options.lower * min(options.k, drawing.MOST_SHOWN)
    return Ahead([Projections(layer, rule, units * options.k), Projections(through, rule, lower)])


def gains_of(study: Study, pictures: Pictures, cluster: np.ndarray, seed: int) -> dict[str, dict[str, float | None]]:
    """Return what the split gains in patches, reconstructions and, where the source has labels, classes."""
    recon, shown, patches = pictures
    alike = {
        "patches": correlations(thumbnails(with_mean_outside(patches.pixels.numpy() / 255, patches.inside.numpy()))),
        "pictures": correlations(thumbnails(shown.pixels.numpy())),
    }
    labels = study.images.labels_of(recon.image.tolist())
    if labels is not None:
        alike["classes"] = same_class(np.array(labels))
    return {name: gain_of_split(pairs, cluster, seed) for name, pairs in alike.items()}


def over_units(gains: Mapping[int, Mapping[str, Mapping[str, float | None]]], seed: int) -> dict[str, Any]:
    """Return by measure how much pairs within clusters are ahead of all pairs, the mean over units and its interval.

    beyond_chance: the units whose split is beyond 97.5 % of those by chance; one in forty is by chance alone.
    """
    measures: dict[str, Any] = {}
    for name in next(iter(gains.values())):
        known = {unit: gain[name] for unit, gain in gains.items() if gain[name]["within"] is not None}
        ahead = np.array([gain["within"] - gain["unit"] for gain in known.values()])  # type: ignore[operator]
        beyond = [unit for unit, gain in known.items() if gain["within"] > gain["high"]]  # type: ignore[operator]
        measures[name] = mean_interval(ahead, seed) | {"beyond_chance": beyond}
    return measures


def in_words(gain: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return what the split gains in the patches, and in the classes."""
    patches = gain["patches"]
    if patches["within"] is None:
        return "Its peaks are not split: they are all made alike, or too few."
    texts = [
        f"{name}: {numbers['within']:.2f} within clusters, {numbers['between']:.2f} between them, "
        f"{numbers['unit']:.2f} in the unit (splits by chance {numbers['low']:.2f} to {numbers['high']:.2f})"
        for name, numbers in (
            ("Correlation of patches", patches),
            ("pairs of one class", gain.get("classes", {"within": None})),
        )
        if numbers["within"] is not None
    ]
    return "; ".join(texts) + "."


def draw(study: Study, pictures: Pictures, split: Sequence[VirtualUnit], heading: str, gain: str, path: Path) -> Path:
    """Draw the clusters of one unit, each with its lower units."""
    _, shown, patches = pictures
    strongest = strongest_of(study.peaks[study.through], drawing.MOST_SHOWN)
    lower = {unit: study.pictures(study.through, strongest, unit)[1:] for each in split for unit in each.lower}
    rows = []
    for number, each in enumerate(split, start=1):
        title = f"{number}: {len(each.peaks)} of {len(shown)} peaks" + (f", {each.classes}" if each.classes else "")
        made_of = [
            drawing.LowerUnit(f"{study.through} unit {unit}\n{in_percent(share, elsewhere)}", *lower[unit])
            for unit, share, elsewhere in zip(each.lower, each.shares, each.elsewhere, strict=True)
        ]
        rows.append(drawing.Cluster(title, shown.of(each.peaks), patches.of(each.peaks), made_of))
    return figures.save_figure(drawing.virtual_units_figure(rows, heading, gain), path)


def counted(clusters: int) -> str:
    """Return a number of clusters in words.

    >>> counted(1), counted(2)
    ('one unit', '2 virtual units')
    """
    return "one unit" if clusters == 1 else f"{clusters} virtual units"


def strongest_of(peaks: LayerPeaks, k: int) -> LayerPeaks:
    """Return the k strongest peaks of every unit."""
    columns = ("score", "image", "row", "col", "box")
    return replace(peaks, **{name: getattr(peaks, name)[:, :k] for name in columns})


def in_percent(share: float, elsewhere: float) -> str:
    """Return a lower unit's share, and the one that it has in other clusters.

    >>> in_percent(0.123, -0.001)
    '12 %, others 0 %'
    """
    others = "" if np.isnan(elsewhere) else f", others {round(100 * elsewhere) + 0} %"
    return f"{round(100 * share)} %{others}"
