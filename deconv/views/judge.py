"""The judge: explanations of the same peaks, asked the same questions, in one table."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import ClassVar

from deconv.compare.judging import Study, summarise
from deconv.compare.measuring import METRICS
from deconv.compare.tasks import PATCHES
from deconv.defaults import plain_defaults
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.explanations import Explanations
from deconv.figures import Figure
from deconv.figures.compare_rules import by_layer, rule_table
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.records import Peaks
from deconv.views.asking import Units, check_asked
from deconv.views.side_by_side import SideBySide

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
NOTE = (
    "Means over units and their 95 % bootstrap intervals, too narrow over a handful. * differs from {first}: the "
    "interval of the paired difference leaves out zero. Higher is better of {higher}; lower of {lower}."
)


class Judgement(SideBySide):
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

    column_is: ClassVar[str] = "metric"
    kept: ClassVar[tuple[str, ...]] = ("rules", "units", "shares", "provenance")

    @property
    def questions(self) -> dict[str, str]:
        """The metrics that a table shows, and what each is called there."""
        return QUESTIONS

    @property
    def columns(self) -> list[str]:
        """All metrics."""
        return list(METRICS)

    @property
    def note(self) -> str:
        """What stands below a table."""
        ways = {better: [QUESTIONS[name] for name in QUESTIONS if METRICS[name].better == better] for better in (1, -1)}
        return NOTE.format(first=self.names[0], higher=", ".join(ways[1]), lower=", ".join(ways[-1]))

    @staticmethod
    def written(mean: float, interval: tuple[float, float] | None) -> str:
        """Return a cell."""
        return f"{mean:.3g}" if interval is None else f"{mean:.3g} [{interval[0]:.2g}, {interval[1]:.2g}]"

    def figure(self, layers: bool = False) -> Figure:
        """Return the table of all metrics as a picture; with `layers`, a chart of each metric by layer."""
        if layers:
            return by_layer(self.summary["layers"], self.names, PATCHES)
        return rule_table(self.summary["all_layers"], self.names)


@plain_defaults()
def judge(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: Units = None,
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
