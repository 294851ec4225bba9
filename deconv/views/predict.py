"""Prediction: do explanations say which of two squares lowers their unit more? In one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from deconv.compare.guesses import BASELINES, QUESTIONS
from deconv.compare.measuring import mean_interval
from deconv.compare.predicting import Predictions, PredictionStudy, answered, summarise
from deconv.compare.trials import ACTIVATIONS, SIDES, Squares
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import bad_value, check_choice, check_count
from deconv.explanations import Explanations
from deconv.figures import Figure, save_as
from deconv.figures.predict import by_layer
from deconv.files import write_json, write_whole
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.records import Peaks
from deconv.records.formats import save_table
from deconv.views.asking import Units, check_asked

NOTE = (
    "Trials named right, in %: means over units and their 95 % bootstrap intervals; chance is 50. max: squares that "
    "lower the strongest position of a unit's map; near: those of them that cover the middle of its receptive field; "
    "mean: squares that lower the mean over the map, as in the paper. energy: by its picture of the query image; place "
    "and likeness: by its pictures of other images alone. * differs from {first}: zero is not in the interval of the "
    "paired difference."
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What `deconv.predict` found: prints itself as a table.

    - names: the explanations, the first being the one that others are set against, and the two baselines.
    - measured: {layer: {explanation: {column: one number a unit}}}; `deconv.compare.guesses.shares` names the columns.
    - summary: means, intervals and paired differences, by layer and over all, in plain values.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), {"conv1": "1"}, preprocessing)
    >>> images = deconv.bundled().part(range(8))
    >>> peaks = deconv.mine(network, images, ["conv1"], k=8)
    >>> prediction = deconv.predict(network, images, peaks, ["gradient", "centre"], units=[0, 1, 2], references=4)
    >>> prediction
    <Prediction: gradient, centre, patches, image_centre; 3 units of conv1>
    >>> prediction.difference("gradient", "centre", "energy_max")["units"]
    3
    >>> prediction.save("prediction.json").name
    'prediction.json'
    """

    names: tuple[str, ...]
    measured: Predictions
    summary: dict[str, Any]
    seed: int

    def __repr__(self) -> str:
        layers = ", ".join(f"{len(units)} units of {layer}" for layer, units in self.summary["units"].items())
        return f"<Prediction: {', '.join(self.names)}; {layers}>"

    def __str__(self) -> str:
        return self.table()

    @property
    def columns(self) -> list[str]:
        """The columns of the table."""
        return [f"{question}_{activation}" for activation in ACTIVATIONS for question in QUESTIONS]

    @property
    def note(self) -> str:
        """What stands below the table, with a place for the first explanation's name."""
        return NOTE

    def table(self, layer: str | None = None) -> str:
        """Return a table, explanation x question, in text: of one layer, or of the units of all layers together.

        Raises UnknownName for a layer that was not asked about.
        """
        if layer is not None:
            check_choice("layer", layer, self.measured)
        cells = self.summary["all_layers"] if layer is None else self.summary["layers"][layer]
        ahead = self.summary["tested_minus"] if layer is None else self.summary["layers_tested_minus"][layer]
        columns = self.columns
        head = ["explanation", *(column.replace("_", ", ") for column in columns)]
        rows = [[name, *(_cell(cells[name][c], ahead.get(name, {}).get(c)) for c in columns)] for name in self.names]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [head, *rows]
        ]
        return "\n".join([self._title(layer), *lines, self.note.format(first=self.names[0])])

    def difference(self, one: str, other: str, column: str, layer: str | None = None) -> dict[str, Any]:
        """Return {"mean", "low", "high", "units"} of the units' differences in a column, one explanation less another.

        column: "energy_max" and the like, also of one size of square, "energy_max_40". layer: None takes the units of
        all layers. The interval is a 95 % bootstrap interval of the mean. Raises UnknownName for what was not asked.
        """
        layers = list(self.measured) if layer is None else [check_choice("layer", layer, self.measured)]
        check_choice("column", column, answered(self.measured[layers[0]][self.names[0]]))
        first, second = (
            np.concatenate(
                [self.measured[each][check_choice("explanation", name, self.names)][column] for each in layers]
            )
            for name in (one, other)
        )
        return mean_interval(first - second, self.seed)

    def figure(self) -> Figure:
        """Return the chart of accuracies by layer."""
        return by_layer(self.summary["layers"], self.names)

    def rows(self) -> dict[str, np.ndarray]:
        """Return every number as columns of one length: layer, unit, explanation, column, value."""
        rows: dict[str, list[Any]] = {"layer": [], "unit": [], "explanation": [], "column": [], "value": []}
        for layer, by_explanation in self.measured.items():
            for name, columns in by_explanation.items():
                for column in answered(columns):
                    for unit, value in zip(columns["unit"].tolist(), columns[column].tolist(), strict=True):
                        for key, entry in zip(rows, (layer, unit, name, column, value), strict=True):
                            rows[key].append(entry)
        kinds = {"unit": np.int64, "value": np.float64}
        return {key: np.array(entries, dtype=kinds.get(key, object)) for key, entries in rows.items()}

    def save(self, path: str | Path) -> Path:
        """Write one file, in the form of its suffix, and return it: what appears is whole or not at all.

        - .json: the summary; .parquet: `rows`, with the provenance; .txt: the tables of all layers and of each;
        - png, pdf, svg, jpg, jpeg: the picture that `figure` returns.

        Raises BadInput for another suffix, for Parquet without pyarrow, and if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            return write_json(path, self.summary)
        if suffix == ".parquet":
            kept = ("rules", "units", "settings", "provenance")
            return save_table(path, self.rows(), {name: self.summary[name] for name in kept})
        if suffix == ".txt":
            tables = [self.table(layer) for layer in (None, *self.measured)]
            return write_whole(path, ("\n\n".join(tables) + "\n").encode())
        return save_as(self.figure(), path)

    def _title(self, layer: str | None) -> str:
        units, trials = self.summary["units"], self.summary["trials"]
        layers = list(units) if layer is None else [layer]
        count = sum(len(units[each]) for each in layers)
        asked = [f"{sum(trials[each][name] for each in layers)} ({name})" for name in trials[layers[0]]]
        return f"{count} units of {', '.join(layers)}; trials: {', '.join(asked)}"


def _cell(cell: Mapping[str, Any], difference: Mapping[str, Any] | None) -> str:
    if cell["mean"] is None:
        return "none"
    if cell["units"] < 2:
        return f"{100 * cell['mean']:.0f}"  # one unit has no interval
    differs = difference is not None and difference["units"] > 1 and difference["low"] * difference["high"] > 0
    mean, low, high = (100 * cell[name] for name in ("mean", "low", "high"))
    return f"{mean:.0f} [{low:.0f}, {high:.0f}]{'*' if differs else ''}"


def predict(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: Units = None,
    references: int = 9,
    squares: Sequence[float] = SIDES,
    stride: int | None = None,
    fill: str = "grey",
    seed: int = 0,
    engine: Engine | None = None,
    keep: str | PathLike[str] | None = None,
    batch_size: int = 16,
) -> Prediction:
    """Ask explanations which of two grey squares on an image lowers their unit more (Zimmermann, Borowski et al. 2021).

    Of each unit the strongest peaks are references, and the images of the peaks after them are queries. A square is
    laid over every position of a query image; the two at which the unit is really least and most active are a trial.
    How explanations answer, `deconv.compare.guesses` says; docs/JUDGE.md what may be concluded.

    - network, images, peaks: what was mined, with one peak an image, and more of each unit than references.
    - explanations, units, seed, engine, keep: as `deconv.judge` has them.
    - squares: sides, as fractions of the image's shorter side. stride: pixels from one position to the next; None is an
      eighth of that side. fill: "grey", the mean colour that preprocessing takes away; or "covered", the mean colour of
      what the square covers, as in the paper.
    - batch_size: squares in one forward pass.

    Raises what `deconv.judge` raises, and BadInput for too few peaks, for squares that are no fractions, and where no
    unit has a query image.

    >>> import deconv, torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> images = deconv.bundled().part(range(6))
    >>> peaks = deconv.mine(network, images, ["1"], k=6)
    >>> print(deconv.predict(network, images, peaks, ["deconvnet", "random_mask"], units=[0, 3], references=3))
    2 units of 1; trials: ...
    explanation  energy, max ...
    deconvnet ...
    random_mask ...
    patches ...
    image_centre ...
    """
    asked = check_asked(network, images, peaks, explanations, units, seed, taken=BASELINES)
    check_count("references", references)
    check_count("batch_size", batch_size)
    k, per_image = peaks.provenance["k"], peaks.provenance["per_image"]
    if k <= references or per_image != 1:
        expected = f"one an image and more than the {references} references: deconv.mine(..., k={references + 10})"
        raise bad_value("peaks", f"{k} peaks a unit, {per_image} an image", expected)
    study = PredictionStudy(
        network, asked.source, peaks, asked.units, asked.explanations, asked.random, references,
        Squares(tuple(squares), stride, fill), seed, engine or Local(), None if keep is None else Path(fspath(keep)),
        batch_size,
    )  # fmt: skip
    with study.engine.connected():
        return predicted(study)


def predicted(study: PredictionStudy) -> Prediction:
    """Return what a study finds. To be called where its engine is connected."""
    measured = study.measure()
    return Prediction((*study.explanations, *BASELINES), measured, summarise(study, measured), study.seed)
