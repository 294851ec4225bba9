"""What an explanation names as the square that lowers its unit more, and whether that is right, for one unit.

It answers three ways, of which the first has seen what no person in that experiment saw, its own picture of the query
image, and the others have not:

- "energy": more of the energy of its picture of the query image lies under that square;
- "place": more of the mean energy of its pictures of the unit's references, where they lie in their images;
- "likeness": what the square covers is more like its pictures of the references, as small grey views.

Of equals half counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from skimage.transform import resize

from deconv.compare.arrays import energy, grey, inside_rows_cols
from deconv.compare.controls import Opened
from deconv.compare.likeness import standardised
from deconv.compare.peak_set import PeakSet
from deconv.compare.tasks import PATCHES
from deconv.compare.trials import ACTIVATIONS, Squares
from deconv.records import recut, whole_boxes
from deconv.records.formats import Columns

QUESTIONS = {
    "energy": "by its picture of the query",
    "place": "by where its pictures of references lie",
    "likeness": "by likeness to those pictures",
}
"""How an explanation answers, in words."""
IMAGE_CENTRE = "image_centre"
"""Stands among the explanations for whoever takes the square nearer to the image's middle (the paper's baseline)."""
BASELINES = (PATCHES, IMAGE_CENTRE)
"""What is asked beside explanations, and knows no network. The patches answer by the photograph alone: "energy" is how
much it varies under the square (the paper's other baseline), "place" where the references' fields lie, and "likeness"
is to the references' patches."""
ENDS = ("least", "most")
"""The two squares of a trial: what leaves the unit least, which is to be named, and most."""
VIEW = 12
"""Pixels a side of a small grey view."""

Scores = dict[str, np.ndarray]
"""{"least", "most"}: (T,) what speaks for each square of T trials."""
Under = Callable[[int, int, int], float]
"""What speaks for the square at (row, col) with that side."""


@dataclass(frozen=True, eq=False)
class UnitTrials:
    """One unit's peaks, its references first, and its trials, as `deconv.compare.trials.COLUMNS` has them."""

    peaks: PeakSet
    trials: Columns
    references: int
    squares: Squares

    @property
    def size(self) -> tuple[int, int]:
        """Pixels down and across of the images."""
        return self.peaks.input_images.shape[2], self.peaks.input_images.shape[3]

    @cached_property
    def sides(self) -> Int64[np.ndarray, " T"]:
        """The side in pixels of each trial's squares."""
        return np.array(self.squares.pixels(self.size), dtype=np.int64)[self.trials["square"]]

    @cached_property
    def photographs(self) -> dict[int, Float[np.ndarray, "3 H W"]]:
        """The query images in 0..1, by their ids."""
        index = {int(image): n for n, image in enumerate(self.peaks.image_ids)}
        ids = np.unique(self.trials["image"]).tolist()
        return {image: self.peaks.input_images[index[image]].numpy() / 255.0 for image in ids}

    @cached_property
    def views(self) -> dict[str, Float[np.ndarray, "T v v"]]:
        """Small grey views of what each square covers."""
        views = {}
        for end in ENDS:
            cut = [
                grey_view(self.photographs[image][:, r : r + s, c : c + s]) for image, r, c, s in self._squares_of(end)
            ]
            views[end] = np.array(cut).reshape(-1, VIEW, VIEW)
        return views

    def score(self, under: Mapping[int, Under]) -> Scores:
        """Return what speaks for each square, by what each query image has under it."""
        return {
            end: np.array([under[image](row, col, side) for image, row, col, side in self._squares_of(end)])
            for end in ENDS
        }

    def _squares_of(self, end: str) -> Iterator[tuple[int, int, int, int]]:
        """(image id, first row, first column, side) of one of the two squares of each trial."""
        columns = (self.trials["image"], self.trials[f"{end}_row"], self.trials[f"{end}_col"], self.sides)
        return zip(*(column.tolist() for column in columns), strict=True)

    def everywhere(self, under: Under) -> dict[int, Under]:
        """Return the same for every query image."""
        return dict.fromkeys(self.photographs, under)


def named_right(unit: UnitTrials, name: str, explanation: Opened) -> dict[str, Float[np.ndarray, " T"]]:
    """Return {question: 1 for each trial that is named right, 0 for wrong, a half for equals; nan if not answered}."""
    if name == IMAGE_CENTRE:
        scores = {"energy": unit.score(unit.everywhere(partial(_nearness, unit.size)))}
    elif name == PATCHES:
        fields = np.broadcast_to(unit.peaks.inside[:, None], unit.peaks.patches.shape)
        varies = {image: partial(_variation, photograph) for image, photograph in unit.photographs.items()}
        scores = {"energy": unit.score(varies)} | _by_references(unit, unit.peaks.patches, laid(unit.peaks, fields))
    else:
        pictures = unit.peaks.reconstruct(explanation)
        placed, image_ids = laid(unit.peaks, pictures), unit.peaks.peaks[:, 0].tolist()
        energies = {image: partial(_sum_under, energy(placed[image_ids.index(image)])) for image in unit.photographs}
        scores = {"energy": unit.score(energies)} | _by_references(unit, pictures, placed)
    unanswered = np.full(len(unit.sides), np.nan)
    return {question: _right(scores[question]) if question in scores else unanswered for question in QUESTIONS}


def _by_references(unit: UnitTrials, pictures: np.ndarray, placed: np.ndarray) -> dict[str, Scores]:
    """Return what speaks for each square by pictures (N, 3, h, w) of all peaks, `placed` where they lie in images."""
    place = unit.score(unit.everywhere(partial(_sum_under, mean_energy(placed[: unit.references]))))
    shown = zip(pictures[: unit.references], unit.peaks.inside, strict=False)
    views = np.stack([grey_view(picture[(slice(None), *inside_rows_cols(inside))]) for picture, inside in shown])
    likeness = {end: np.einsum("tij,rij->t", of, views) / (len(views) * VIEW**2) for end, of in unit.views.items()}
    return {"place": place, "likeness": likeness}


def laid(peaks: PeakSet, pictures: np.ndarray) -> Float[np.ndarray, "N 3 H W"]:
    """Return pictures of the receptive fields where they lie in their images, zero elsewhere."""
    size = (peaks.input_images.shape[2], peaks.input_images.shape[3])
    whole = whole_boxes(len(pictures), size)
    placed: np.ndarray = recut(torch.from_numpy(np.ascontiguousarray(pictures)), peaks.boxes, whole).double().numpy()
    return placed


def _right(scores: Scores) -> np.ndarray:
    least, most = scores["least"], scores["most"]
    return np.where(least == most, 0.5, (least > most).astype(np.float64))


def _sum_under(energies: np.ndarray, row: int, col: int, side: int) -> float:
    return float(energies[row : row + side, col : col + side].sum())  # exactly zero where all is


def _variation(photograph: np.ndarray, row: int, col: int, side: int) -> float:
    return float(photograph[:, row : row + side, col : col + side].std())


def _nearness(size: tuple[int, int], row: int, col: int, side: int) -> float:
    return -float(np.hypot(row + side / 2 - size[0] / 2, col + side / 2 - size[1] / 2))


def shares(trials: Columns, squares: Squares, right: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the mean of right answers of one unit, by question, activation and square: {"energy_max_30": 0.8, ...}.

    Without the last it is over squares of all sizes, "energy_max"; nan where there is no trial. "trials_max" and
    "trials_mean" are how many trials the unit has.

    >>> trials = {"activation": np.array([0, 0, 1]), "square": np.array([0, 1, 1])}
    >>> of_unit = shares(trials, Squares((0.3, 0.5)), {"energy": np.array([1.0, 0.0, 0.5])})
    >>> {name: of_unit[name] for name in ("energy_max", "energy_max_30", "energy_mean", "trials_max")}
    {'energy_max': 0.5, 'energy_max_30': 1.0, 'energy_mean': 0.5, 'trials_max': 2.0}
    """
    columns: dict[str, float] = {}
    for a, activation in enumerate(ACTIVATIONS):
        of_activation = trials["activation"] == a
        columns[f"trials_{activation}"] = float(of_activation.sum())
        for question, answers in right.items():
            columns[f"{question}_{activation}"] = _mean(answers[of_activation])
            for n, side in enumerate(squares.sides):
                chosen = of_activation & (trials["square"] == n)
                columns[f"{question}_{activation}_{100 * side:g}"] = _mean(answers[chosen])
    return columns


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def mean_energy(pictures: Float[np.ndarray, "N 3 H W"]) -> Float[np.ndarray, "H W"]:
    """Return the mean of the pictures' energies, each of which sums to one; blank ones are left out, zero if all are.

    >>> mean_energy(np.array([[[[2.0, 0.0]]] * 3, [[[0.0, 1.0]]] * 3, [[[0.0, 0.0]]] * 3])).tolist()
    [[0.5, 0.5]]
    """
    energies = np.stack([energy(picture) for picture in pictures.astype(np.float64)])
    sums = energies.sum(axis=(1, 2), keepdims=True)
    normalised = energies[sums[:, 0, 0] > 0] / sums[sums[:, 0, 0] > 0]
    mean: np.ndarray = normalised.mean(axis=0) if len(normalised) else energies[0]
    return mean


def grey_view(picture: Float[np.ndarray, "3 h w"]) -> Float[np.ndarray, "v v"]:
    """Return a picture's small grey view of VIEW pixels a side, of mean 0 and deviation 1; zero if it is constant."""
    small = resize(grey(picture.astype(np.float64)), (VIEW, VIEW), anti_aliasing=True)
    standard = standardised(small)
    return np.zeros((VIEW, VIEW)) if standard is None else standard
