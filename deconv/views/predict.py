"""Prediction: do explanations say which of two squares lowers their unit more? In one table."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from deconv.compare.guesses import BASELINES, QUESTIONS
from deconv.compare.predicting import PredictionStudy, answered, summarise
from deconv.compare.trials import ACTIVATIONS, SIDES, Squares
from deconv.defaults import plain_defaults
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import bad_value, check_count
from deconv.explanations import Explanations
from deconv.figures import Figure
from deconv.figures.predict import by_layer
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.records import Peaks
from deconv.views.asking import Units, check_asked
from deconv.views.side_by_side import SideBySide

NOTE = (
    "Trials named right, in %: means over units and their 95 % bootstrap intervals, too narrow over a handful; chance"
    " is 50. max: squares that lower the strongest position of a unit's map; near: those of them that cover the "
    "middle of its receptive field; mean: squares that lower the mean over the map, as in the paper. energy: by its "
    "picture of the query image; place and likeness: by its pictures of other images alone. * differs from {first}: "
    "zero is not in the interval of the paired difference."
)


class Prediction(SideBySide):
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

    @property
    def questions(self) -> dict[str, str]:
        """The columns that a table shows, and what each is called there."""
        shown = [f"{question}_{activation}" for activation in ACTIVATIONS for question in QUESTIONS]
        return {column: column.replace("_", ", ") for column in shown}

    @property
    def columns(self) -> list[str]:
        """All accuracies: those of the table, and of each size of square alone, as "energy_max_40"."""
        return answered(next(iter(self.measured.values()))[self.names[0]])

    @property
    def note(self) -> str:
        """What stands below a table."""
        return NOTE.format(first=self.names[0])

    @staticmethod
    def written(mean: float, interval: tuple[float, float] | None) -> str:
        """Return a cell, in percent."""
        between = "" if interval is None else f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
        return f"{100 * mean:.0f}{between}"

    def figure(self) -> Figure:
        """Return the chart of accuracies by layer."""
        return by_layer(self.summary["layers"], self.names)

    def _title(self, layer: str | None) -> str:
        trials = self.summary["trials"]
        layers = list(trials) if layer is None else [layer]
        asked = [f"{sum(trials[each][name] for each in layers)} ({name})" for name in trials[layers[0]]]
        return f"{super()._title(layer)}; trials: {', '.join(asked)}"


@plain_defaults()
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
        network, asked.source, peaks, asked.units, asked.explanations, asked.random, seed, engine or Local(),
        None if keep is None else Path(fspath(keep)), references, Squares(tuple(squares), stride, fill), batch_size,
    )  # fmt: skip
    with study.engine.connected():
        return predicted(study)


def predicted(study: PredictionStudy) -> Prediction:
    """Return what a study finds. To be called where its engine is connected."""
    measured = study.measure()
    return Prediction((*study.explanations, *BASELINES), measured, summarise(study, measured), study.seed)
