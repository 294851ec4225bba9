"""Explanations side by side: a table explanation x question, with intervals over units, printed, shown and saved."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deconv.compare.judging import Measurements, all_layers
from deconv.compare.measuring import mean_interval
from deconv.errors import bad_value, check_choice, needed
from deconv.figures import FORMATS, Figure, save_as
from deconv.figures.html import page
from deconv.files import write_json, write_whole
from deconv.records.formats import save_table


@dataclass(frozen=True, eq=False)
class SideBySide:
    """What was measured of explanations: prints itself as a table, in a notebook too. The base of what judges return.

    - names: the explanations, the first being the one that others are set against, and what else has a row.
    - measured: {layer: {explanation: {column: one number a unit}}}; "unit" among the columns says which.
    - summary: means, intervals and paired differences, by layer and over all, in plain values.
    """

    names: tuple[str, ...]
    measured: Measurements
    summary: dict[str, Any]
    seed: int

    column_is: ClassVar[str] = "column"
    """What `rows` calls what was measured."""
    kept: ClassVar[tuple[str, ...]] = ("rules", "units", "settings", "provenance")
    """What of the summary a Parquet table has beside its rows."""

    def __repr__(self) -> str:
        layers = ", ".join(f"{len(units)} units of {layer}" for layer, units in self.summary["units"].items())
        return f"<{type(self).__name__}: {', '.join(self.names)}; {layers}>"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        pages = []
        for layer in self._tabled:
            head, rows = self._rows(layer)
            pages.append(page(self._title(layer), head=head, rows=rows, notes=[] if layer else [self.note]))
        more = "".join(pages[1:])
        by_each = f"<details><summary>{html.escape('by layer')}</summary>{more}</details>" if more else ""
        return f"<div>{pages[0]}{by_each}</div>"

    @property
    def questions(self) -> dict[str, str]:
        """The columns that a table shows, and what each is called there."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str]:
        """All columns that were measured."""
        raise NotImplementedError

    @property
    def note(self) -> str:
        """What stands below a table."""
        raise NotImplementedError

    @staticmethod
    def written(mean: float, interval: tuple[float, float] | None) -> str:
        """Return a cell; the interval is None where there is but one unit."""
        raise NotImplementedError

    def figure(self) -> Figure:
        """Return a picture of all."""
        raise NotImplementedError

    @property
    def _tabled(self) -> list[str | None]:
        """What has a table: None, which is all layers together, and each layer where there are several."""
        return [None, *self.measured] if len(self.measured) > 1 else [None]

    def table(self, layer: str | None = None) -> str:
        """Return a table, explanation x question, in text: of one layer, or of the units of all layers together.

        Raises UnknownName for a layer that was not asked about.
        """
        head, rows = self._rows(layer)
        return "\n".join([aligned(self._title(layer), head, rows), self.note])

    def difference(self, one: str, other: str, question: str, layer: str | None = None) -> dict[str, Any]:
        """Return {"mean", "low", "high", "units"} of the units' differences in a column, one explanation less another.

        question: a column, or what the table calls it. layer: None takes the units of all layers. The interval is a
        95 % bootstrap interval of the mean; of one unit it says nothing. Raises UnknownName for what was not asked.
        """
        called = {heading: column for column, heading in self.questions.items()}
        column = check_choice(self.column_is, called.get(question, question), self.columns)
        of_names = all_layers(self.measured) if layer is None else self.measured[self._checked(layer)]
        first, second = (of_names[check_choice("explanation", name, self.names)][column] for name in (one, other))
        return mean_interval(first - second, self.seed)

    def rows(self) -> dict[str, np.ndarray]:
        """Return every number as columns of one length: layer, unit, explanation, what was measured, value."""
        entries = [
            (layer, int(unit), name, column, float(value))
            for layer, of_names in self.measured.items()
            for name in self.names
            for column in self.columns
            if column in of_names[name]
            for unit, value in zip(of_names[name]["unit"], of_names[name][column], strict=True)
        ]
        kinds = {"layer": object, "unit": np.int64, "explanation": object, self.column_is: object, "value": float}
        columns = zip(*entries, strict=True) if entries else [()] * len(kinds)
        return {key: np.array(column, dtype=kinds[key]) for key, column in zip(kinds, columns, strict=True)}

    def to_pandas(self) -> Any:
        """Return `rows` as a pandas.DataFrame. Raises BadInput where pandas is not installed."""
        with needed("a data frame", "pandas", extra="pandas"):
            import pandas
        return pandas.DataFrame(self.rows())

    def save(self, path: str | Path) -> Path:
        """Write one file, in the form of its suffix, and return it: what appears is whole or not at all.

        - .json: the summary; .parquet: `rows`, with the provenance; .html, .txt: the tables, of all layers and of each;
        - png, pdf, svg, jpg, jpeg: the picture that `figure` returns.

        Raises BadInput for another suffix, for Parquet without pyarrow, and if the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".json":
            return write_json(path, self.summary)
        if suffix == ".parquet":
            return save_table(path, self.rows(), {name: self.summary[name] for name in self.kept})
        if suffix == ".html":
            return write_whole(path, f"<!doctype html><meta charset='utf-8'>{self._repr_html_()}\n".encode())
        if suffix == ".txt":
            return write_whole(path, "".join(f"{text}\n" for text in self._texts()).encode())
        if suffix not in FORMATS:
            forms = ", ".join((".json", ".parquet", ".html", ".txt", *FORMATS))
            raise bad_value("path", path, f"a file whose name ends in one of {forms}", "add the suffix")
        return save_as(self.figure(), path)

    def _texts(self) -> list[str]:
        """The tables of all layers together and of each, as a text file has them."""
        return [self.table(layer) for layer in ([None, *self.measured] if len(self.measured) > 1 else [None])]

    def _checked(self, layer: str) -> str:
        return check_choice("layer", layer, self.measured)

    def _title(self, layer: str | None) -> str:
        units = self.summary["units"]
        layers = list(units) if layer is None else [layer]
        return f"{sum(len(units[each]) for each in layers)} units of {', '.join(layers)}"

    def _rows(self, layer: str | None) -> tuple[list[str], list[list[str]]]:
        """The head and the rows of a table."""
        cells = self.summary["all_layers"] if layer is None else self.summary["layers"][self._checked(layer)]
        ahead = self.summary["tested_minus"] if layer is None else self.summary["layers_tested_minus"][layer]
        rows = [
            [name, *(self._cell(cells[name].get(column), ahead.get(name, {}).get(column)) for column in self.questions)]
            for name in self.names
        ]
        return ["explanation", *self.questions.values()], rows

    def _cell(self, cell: Mapping[str, Any] | None, ahead: Mapping[str, Any] | None) -> str:
        if cell is None or cell["mean"] is None:
            return "none"
        if cell["units"] < 2:
            return self.written(cell["mean"], None)
        differs = ahead is not None and ahead["units"] > 1 and ahead["low"] * ahead["high"] > 0
        return self.written(cell["mean"], (cell["low"], cell["high"])) + ("*" if differs else "")


def aligned(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in text, its columns below each other.

    >>> print(aligned("of one", ["explanation", "conv1"], [["edges", "0.25"]]))
    of one
    explanation  conv1
    edges        0.25
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
    )
    return "\n".join([title, *lines])
