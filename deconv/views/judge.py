"""The judge: explanations of the same peaks, asked the same questions, in one table."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from deconv.compare.judging import Measurements, Study, all_layers, summarise
from deconv.compare.measuring import METRICS, mean_interval
from deconv.compare.tasks import PATCHES
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import check_choice, needed
from deconv.explanations import Explanations
from deconv.figures import Figure, save_as
from deconv.figures.compare_rules import by_layer, rule_table
from deconv.figures.html import page
from deconv.files import write_json, write_whole
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.records import Peaks
from deconv.records.formats import save_table
from deconv.views.asking import check_asked

QUESTIONS = {
    "pearson_grey": "like the patch",
    "area50": "area of half",
    "insertion_blur": "insertion",
    "deletion_blur": "deletion",
    "reactivation": "reactivation",
    "rank": "rank",
    "grouping": "grouping",
    "other_unit": "like another unit's",
}
"""The metrics that a printed table has, and what its columns are called; `METRICS` has all."""
CELL = "{mean:.3g} [{low:.2g}, {high:.2g}]{mark}"
NOTE = (
    "Means over units and their 95 % bootstrap intervals. * differs from {first}: the interval of the paired "
    "difference leaves out zero. Higher is better of {higher}; lower of {lower}."
)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What `deconv.judge` found: prints itself as a table, in a notebook too.

    - names: the explanations, the first being the one that others are set against.
    - measured: {layer: {explanation: {metric: one number a unit}}}; "unit" among the metrics says which.
    - summary: means, intervals and paired differences, by layer and over all, in plain values.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), {"conv1": "1"}, preprocessing)
    >>> images = deconv.bundled().part(range(6))
    >>> peaks = deconv.mine(network, images, ["conv1"], k=2)
    >>> judgement = deconv.judge(network, images, peaks, ["gradient", "centre"], units=[0, 1, 2])
    >>> judgement
    <Judgement: gradient, centre; 3 units of conv1>
    >>> ahead = judgement.difference("gradient", "centre", "reactivation")
    >>> ahead["mean"] > 0, ahead["units"]
    (True, 3)
    >>> judgement.save("judgement.json").name
    'judgement.json'
    """

    names: tuple[str, ...]
    measured: Measurements
    summary: dict[str, Any]
    seed: int

    def __repr__(self) -> str:
        layers = ", ".join(f"{len(units)} units of {layer}" for layer, units in self.summary["units"].items())
        return f"<Judgement: {', '.join(self.names)}; {layers}>"

    def __str__(self) -> str:
        return self.table()

    def table(self, layer: str | None = None) -> str:
        """Return a table, explanation x question, in text: of one layer, or of the units of all layers together.

        Raises UnknownName for a layer that was not judged.
        """
        head, rows = self._rows(layer)
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [head, *rows]
        ]
        return "\n".join([self._title(layer), *lines, self._note()])

    def _repr_html_(self) -> str:
        layers = [None, *self.measured] if len(self.measured) > 1 else [None]
        pages = []
        for layer in layers:
            head, rows = self._rows(layer)
            pages.append(page(self._title(layer), head=head, rows=rows, notes=[] if layer else [self._note()]))
        more = "".join(pages[1:])
        by_each = f"<details><summary>{html.escape('by layer')}</summary>{more}</details>" if more else ""
        return f"<div>{pages[0]}{by_each}</div>"

    def difference(self, one: str, other: str, metric: str, layer: str | None = None) -> dict[str, Any]:
        """Return {"mean", "low", "high", "units"} of the units' differences in a metric, one explanation less another.

        metric: its name or, where it has one, what its column is called, as "insertion". layer: None takes the units of
        all layers. The interval is a 95 % bootstrap interval of the mean; of one unit it says nothing.
        Raises UnknownName for names that were not judged.
        """
        metric = {column: name for name, column in QUESTIONS.items()}.get(metric, metric)
        check_choice("metric", metric, METRICS)
        columns = self._columns(layer)
        one, other = (check_choice("explanation", name, self.names) for name in (one, other))
        return mean_interval(columns[one][metric] - columns[other][metric], self.seed)

    def figure(self, layers: bool = False) -> Figure:
        """Return the table of all metrics as a picture; with `layers`, a chart of each metric by layer."""
        if layers:
            return by_layer(self.summary["layers"], self.names, PATCHES)
        return rule_table(self.summary["all_layers"], self.names)

    def rows(self) -> dict[str, np.ndarray]:
        """Return every number as columns of one length: layer, unit, explanation, metric, value."""
        columns: dict[str, list[np.ndarray]] = {"layer": [], "unit": [], "explanation": [], "metric": [], "value": []}
        for layer, by_explanation in self.measured.items():
            for name in self.names:
                unit = by_explanation[name]["unit"]
                for metric in METRICS:
                    for column, value in (("layer", layer), ("explanation", name), ("metric", metric)):
                        columns[column].append(np.full(len(unit), value, dtype=object))
                    columns["unit"].append(unit)
                    columns["value"].append(by_explanation[name][metric])
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    def to_pandas(self) -> Any:
        """Return `rows` as a pandas.DataFrame. Raises BadInput where pandas is not installed."""
        with needed("a data frame", "pandas", extra="pandas"):
            import pandas
        return pandas.DataFrame(self.rows())

    def save(self, path: str | Path) -> Path:
        """Write one file, in the form of its suffix, and return it: what appears is whole or not at all.

        - .json: the summary; .parquet: `rows`, with the provenance; .html: the table; .txt: the printed one;
        - png, pdf, svg, jpg, jpeg: the picture that `figure` returns.

        Raises BadInput for another suffix, for Parquet without pyarrow, and if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            return write_json(path, self.summary)
        if suffix == ".parquet":
            kept = ("rules", "units", "shares", "provenance")
            return save_table(path, self.rows(), {name: self.summary[name] for name in kept})
        if suffix == ".html":
            return write_whole(path, f"<!doctype html><meta charset='utf-8'>{self._repr_html_()}\n".encode())
        if suffix == ".txt":
            return write_whole(path, f"{self}\n".encode())
        return save_as(self.figure(), path)

    def _columns(self, layer: str | None) -> Mapping[str, Any]:
        return (
            all_layers(self.measured) if layer is None else self.measured[check_choice("layer", layer, self.measured)]
        )

    def _title(self, layer: str | None) -> str:
        units = self.summary["units"]
        if layer is None:
            return f"{sum(map(len, units.values()))} units of {', '.join(units)}"
        return f"{len(units[layer])} units of {layer}"

    def _note(self) -> str:
        ways = {better: [QUESTIONS[name] for name in QUESTIONS if METRICS[name].better == better] for better in (1, -1)}
        return NOTE.format(first=self.names[0], higher=", ".join(ways[1]), lower=", ".join(ways[-1]))

    def _rows(self, layer: str | None) -> tuple[list[str], list[list[str]]]:
        """The head and the rows of a table."""
        self._columns(layer)  # refuses a layer that is not there
        cells = self.summary["all_layers"] if layer is None else self.summary["layers"][layer]
        ahead = self.summary["tested_minus"] if layer is None else self.summary["layers_tested_minus"][layer]
        head = ["explanation", *QUESTIONS.values()]
        return head, [[name, *(_cell(cells, ahead, name, metric) for metric in QUESTIONS)] for name in self.names]


def _cell(cells: Mapping[str, Any], ahead: Mapping[str, Any], name: str, metric: str) -> str:
    cell, difference = cells[name].get(metric), ahead.get(name, {}).get(metric)
    if cell is None or cell["mean"] is None:
        return "none"
    if cell["units"] < 2:
        return f"{cell['mean']:.3g}"  # one unit has no interval
    differs = difference is not None and difference["mean"] is not None and difference["low"] * difference["high"] > 0
    return CELL.format(**cell, mark="*" if differs and difference["units"] > 1 else "")


def judge(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    keep: str | PathLike[str] | None = None,
) -> Judgement:
    """Ask explanations of the same peaks the same questions, and set them side by side.

    Of each unit the strongest peak is explained by all of them, and the picture measured: is it like the patch, how
    much of the field does it need, is what it marks enough for the unit to fire (insertion) or is the unit silent
    without it (deletion), does the unit fire at the picture, more than other units do, and is it another picture for
    another unit? All of the unit's peaks tell whether its pictures are alike (grouping). The measures are those of
    experiment=compare_rules; an explanation is worth what controls leave of it, so put some among them.

    - network, images, peaks: what was mined, and what it was mined from. Every layer of `peaks` is judged.
    - explanations: {name: explanation}, or a list. An explanation is a rule ("deconvnet", "guided", "gradient", a Rule
      or its options); one built in ("activation_map", "grad_cam", "occlusion", "smoothgrad", "integrated_gradients");
      a control by name ("centre", "edges", "random_mask", "random_weights", "random_switches", "other_switches",
      "other_unit", "gradient_times_input"); or a function of your own,
      explain(network, inputs (N, C, H, W), layer, channel (N,), row (N,), col (N,)) -> (N, C, H, W).
      The first is the one that all others are compared with.
    - units: of every layer, or {layer: units}; None takes all that fire. Dead ones are left out.
    - seed: decides what controls draw, and the bootstrap.
    - engine: where the work is done; None is this process (`deconv.engines.open_engine("ray")` uses all cores).
    - keep: a folder in which what was measured is kept, layer by layer, so that a judgement that was stopped goes on.

    Raises BadInput for peaks of other images or another network (RecordMismatch), a unit that is not there, or a
    function that gives no picture, which it names; UnknownName; UnsupportedOperation for a rule that cannot serve.

    >>> import deconv, torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> images = deconv.bundled().part(range(4))
    >>> peaks = deconv.mine(network, images, ["1"], k=1)
    >>> def mine(network, inputs, layer, channel, row, col):
    ...     return inputs.abs()
    >>> print(deconv.judge(network, images, peaks, {"deconvnet": "deconvnet", "mine": mine}, units=[0, 3]))
    2 units of 1
    explanation  like the patch ...
    deconvnet ...
    mine ...
    """
    asked = check_asked(network, images, peaks, explanations, units, seed, taken=[PATCHES])
    records = None if keep is None else Path(fspath(keep))
    study = Study(
        network, asked.source, peaks, asked.units, asked.explanations, asked.random, seed, engine or Local(), records
    )
    with study.engine.connected():
        measured = study.measure()
    return Judgement(tuple(asked.explanations), measured, summarise(study, measured), seed)
