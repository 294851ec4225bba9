"""Paths through the network: answers to pictures and patches, and signals sent back, layer by layer, in tables."""

from __future__ import annotations

import html
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from deconv.compare.measuring import mean_interval
from deconv.compare.path_check import BASELINES, FORWARD, RANDOM, UNITS, WEIGHTED, PathStudy, summarise
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import bad_value, check_choice
from deconv.explanations import Explanations
from deconv.figures import Figure
from deconv.figures.html import page
from deconv.figures.path_check import paths
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.projection import check_rules
from deconv.projection.rules import as_rule
from deconv.records import Peaks
from deconv.views import asking
from deconv.views.side_by_side import SideBySide, aligned

KINDS = {
    FORWARD: "forward: how alike the answers to picture and patch",
    WEIGHTED: "forward, weighted by what bears on the unit",
    RANDOM: "backward: how alike two signals from random vectors",
    UNITS: "backward: how alike two signals from two units",
}
"""What is measured at each layer on the way, in words."""
NOTE = (
    "Cosines: means over units and their 95 % bootstrap intervals, too narrow over a handful. second_patch: another "
    "patch of the unit; other_patches: one of another unit. Backward whatever the sign, and of rules alone; at 1 "
    "nothing of what lies above can be seen. * differs from {first}: zero is not in the interval of the paired "
    "difference."
)


class Paths(SideBySide):
    """What `deconv.path_check` found: prints itself as tables, one for each of `KINDS` and layer of units.

    - names: the explanations, the first being the one that others are set against, and the two baselines.
    - measured: {layer: {explanation: {column: one number a unit}}}; columns are "forward/conv1",
      "forward_weighted/conv1", "backward_random/conv1" and "backward_units/conv1" for each layer on the way to a unit,
      and for "the image".
    - summary: means, intervals and paired differences by layer, in plain values.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> convolutions = torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> aliases = {"conv1": "1", "conv2": "3"}
    >>> network = deconv.Network(torch.nn.Sequential(*convolutions), (3, 16, 16), aliases, preprocessing)
    >>> images = deconv.bundled().part(range(6))
    >>> peaks = deconv.mine(network, images, ["conv1", "conv2"], k=2)
    >>> found = deconv.path_check(network, images, peaks, ["gradient", "centre"], units=[0, 1, 2])
    >>> found
    <Paths: gradient, centre, second_patch, other_patches; 3 units of conv1, 3 units of conv2>
    >>> found.difference("gradient", "centre", "forward/conv1", "conv2")["units"]
    3
    >>> found.save("paths.json").name
    'paths.json'
    """

    kept: ClassVar[tuple[str, ...]] = ("rules", "units", "provenance")

    @property
    def questions(self) -> dict[str, str]:
        """All columns; a table names them by the layer on the way alone."""
        return {column: column for column in self.columns}

    @property
    def columns(self) -> list[str]:
        """All columns of any layer of units."""
        each = (columns for of_names in self.measured.values() for columns in of_names.values())
        return [name for name in dict.fromkeys(name for columns in each for name in columns) if name != "unit"]

    @property
    def note(self) -> str:
        """What stands below the tables."""
        return NOTE.format(first=self.names[0])

    @staticmethod
    def written(mean: float, interval: tuple[float, float] | None) -> str:
        """Return a cell."""
        between = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
        return f"{mean:.2f}{between}".replace("-0.00", "0.00")

    def figure(self) -> Figure:
        """Return the chart of all curves."""
        return paths(self.summary["layers"], self.names[: -len(BASELINES)])

    def table(self, layer: str | None = None) -> str:
        """Return tables in text, explanation x layer on the way: of the units of one layer, or of all in turn.

        Raises UnknownName for a layer that was not asked about.
        """
        layers = list(self.measured) if layer is None else [self._checked(layer)]
        blocks = [block for each in layers for block in self._blocks(each)]
        return "\n".join(["\n\n".join(aligned(title, head, rows) for title, head, rows in blocks), self.note])

    def difference(self, one: str, other: str, question: str, layer: str | None = None) -> dict[str, Any]:
        """Return {"mean", "low", "high", "units"} of the units' differences in a column, one explanation less another.

        question: a column. layer: None takes the units of all layers that have it. Raises UnknownName for what was not
        asked, a signal of what is no rule among it.
        """
        layers = list(self.measured) if layer is None else [self._checked(layer)]
        for name in (one, other):
            check_choice("explanation", name, self.names)
        pairs = [(self.measured[each][one], self.measured[each][other]) for each in layers]
        common = [name for name in self.columns if any(name in first and name in second for first, second in pairs)]
        column = check_choice(self.column_is, question, common)
        differences = [
            first[column] - second[column] for first, second in pairs if column in first and column in second
        ]
        return mean_interval(np.concatenate(differences), self.seed)

    def _repr_html_(self) -> str:
        blocks = [block for layer in self.measured for block in self._blocks(layer)]
        pages = [page(title, head=head, rows=rows, notes=[]) for title, head, rows in blocks]
        return f"<div>{''.join(pages)}<p>{html.escape(self.note)}</p></div>"

    def _texts(self) -> list[str]:
        return [self.table()]

    def _blocks(self, layer: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Yield (title, head, rows) of each of KINDS; explanations that send no signals have no row of signals."""
        cells, ahead = self.summary["layers"][layer], self.summary["layers_tested_minus"][layer]
        for kind, words in KINDS.items():
            names = [name for name in self.names if any(column.startswith(f"{kind}/") for column in cells[name])]
            if names:
                columns = [column for column in cells[names[0]] if column.startswith(f"{kind}/")]
                head = ["explanation", *(column.removeprefix(f"{kind}/") for column in columns)]
                rows = [
                    [name, *(self._cell(cells[name][column], ahead.get(name, {}).get(column)) for column in columns)]
                    for name in names
                ]
                yield f"{self._title(layer)}; {words}", head, rows


def path_check(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: asking.Units = None,
    seed: int = 0,
    engine: Engine | None = None,
    keep: str | PathLike[str] | None = None,
) -> Paths:
    """Ask layer by layer whether the network answers to a picture as to its patch, and whether signals stay apart.

    Forward (Geirhos et al. 2024): the picture of a unit's strongest peak is shown in the patch's place; at each layer
    on the way to the unit, how alike is what picture and patch change? Backward (Sixt et al. 2020): two random vectors,
    and two units, are sent back by each rule; where the signals become one, the picture shows nothing of what lies
    above. The measures are those of experiment=path_check; docs/COMPARING.md says what may be concluded.

    - network, images, peaks: what was mined, with one peak an image, and two of each unit at least.
    - explanations, seed, engine, keep: as `deconv.judge` has them.
    - units: of every layer, or {layer: units}: the layers whose units are asked about, and at which it is measured.

    Raises what `deconv.judge` raises, and BadInput for peaks of one image alone.

    >>> import deconv, torch
    >>> convolutions = torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(torch.nn.Sequential(*convolutions), (3, 16, 16), preprocessing=preprocessing)
    >>> images = deconv.bundled().part(range(4))
    >>> peaks = deconv.mine(network, images, ["1", "3"], k=2)
    >>> print(deconv.path_check(network, images, peaks, ["deconvnet", "edges"], units=[0, 3]))
    2 units of 1; forward: how alike the answers to picture and patch
    explanation    the image ...
    deconvnet ...
    """
    asked = asking.check_asked(network, images, peaks, explanations, units, seed, taken=BASELINES)
    check_rules(network, list(asked.units), [as_rule("gradient")])  # by which answers are weighted
    k, per_image = peaks.provenance["k"], peaks.provenance["per_image"]
    if k < 2 or per_image != 1:
        expected = "one an image and two of each unit: deconv.mine(..., k=2)"
        raise bad_value("peaks", f"{k} peaks a unit, {per_image} an image", expected)
    study = PathStudy(
        network, asked.source, peaks, asked.units, asked.explanations, asked.random, seed, engine or Local(),
        None if keep is None else Path(fspath(keep)),
    )  # fmt: skip
    with study.engine.connected():
        return followed(study)


def followed(study: PathStudy) -> Paths:
    """Return what a study finds. To be called where its engine is connected."""
    measured = study.measure()
    return Paths((*study.explanations, *BASELINES), measured, summarise(study, measured), study.seed)
