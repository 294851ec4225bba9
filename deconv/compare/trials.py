"""Of two grey squares on an image, which lowers the unit more? The squares, and what units really answer to them.

Zimmermann, Borowski et al., How well do feature visualizations support causal understanding of CNN activations?
(NeurIPS 2021, arXiv 2106.12447) ask people so. Theirs, as their code has it: squares of 66, 90 and 112 of 224 pixels
at every second pixel, each of the mean colour of what it covers; a unit's activation is the mean over its map; of all
positions the two are shown at which it is least and largest; the 20 query images are the 20 that fire the unit most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from deconv.engines import Engine
from deconv.errors import bad_value, check_choice, check_count
from deconv.files import claimed, remove_leftovers
from deconv.images import Source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.network.squares import forward_covered, places
from deconv.progress import track
from deconv.records import LayerPeaks
from deconv.records.formats import Columns, load_columns, save_columns

ACTIVATIONS = ("max", "mean", "near")
"""What is asked of a unit's map: its maximum, which a peak is; the mean over it, which the paper takes; and the maximum
again, of the squares alone that cover the middle of the peak's receptive field: there to know where the peak lies is
not enough."""
FILLS = ("grey", "covered")
SIDES = (0.3, 0.4, 0.5)
STEPS = 8
"""How often the square moves along a side of the image, where no stride is given."""
IMAGES_AT_ONCE = 16
"""Images in a task, and in a record."""
TIED = 1e-5
"""Activations that differ by less than this part of the largest are equal: a sum in another order is no difference."""
Row = dict[str, int | float]
"""A trial, by the names of COLUMNS."""


@dataclass(frozen=True)
class Squares:
    """The squares that are laid over images.

    - sides: of each size, as fractions of the image's shorter side.
    - stride: pixels from one position to the next; None is an eighth of the shorter side. The paper's is 2 of 224.
    - fill: "grey", the mean colour that preprocessing takes away; or "covered", the mean of the pixels beneath.

    Raises BadInput for sides that are not between 0 and 1, or twice the same, and for a stride below 1; UnknownName for
    another fill.

    >>> Squares().pixels((224, 227)), Squares().step((224, 227))
    ([67, 90, 112], 28)
    """

    sides: tuple[float, ...] = SIDES
    stride: int | None = None
    fill: str = "grey"

    def __post_init__(self) -> None:
        if not self.sides or len(set(self.sides)) < len(self.sides) or not all(0 < side < 1 for side in self.sides):
            raise bad_value("squares", list(self.sides), "fractions of the image's side between 0 and 1, each once")
        if self.stride is not None:
            check_count("stride", self.stride)
        check_choice("fill", self.fill, FILLS)

    def pixels(self, size: tuple[int, int]) -> list[int]:
        """Return the sides in pixels of an image of (H, W)."""
        return [max(1, round(side * min(size))) for side in self.sides]

    def step(self, size: tuple[int, int]) -> int:
        """Return the stride in pixels of an image of (H, W)."""
        return max(1, min(size) // STEPS) if self.stride is None else self.stride

    def count(self, size: tuple[int, int]) -> int:
        """Return at how many positions of an image of (H, W) the squares of all sides lie.

        >>> Squares((0.5,), stride=56).count((224, 224))
        9
        """
        step = self.step(size)
        return sum(len(places(size[0], side, step)) * len(places(size[1], side, step)) for side in self.pixels(size))

    def covers(self, image: Float[Tensor, "1 C H W"], square: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (first row and column (n, 2), pixels (n, C, s, s)) of a square at all its positions, batch by batch."""
        size = (image.shape[2], image.shape[3])
        rows, cols = (places(side, square, self.step(size)) for side in size)
        for start in torch.cartesian_prod(rows, cols).split(batch_size):
            colour = image.new_zeros((len(start), image.shape[1]))
            if self.fill == "covered":
                boxes = [image[0, :, r : r + square, c : c + square].mean(dim=(1, 2)) for r, c in start.tolist()]
                colour = torch.stack(boxes)
            yield start, colour[:, :, None, None].expand(-1, -1, square, square)


@dataclass(frozen=True, eq=False)
class Covering:
    """What all tasks share: queries {layer: peaks (Q, 4)}, rows of image id, unit, row, col, and the squares."""

    network: Network
    images: Source
    queries: dict[str, Int64[Tensor, "Q 4"]]
    squares: Squares
    seed: int
    batch_size: int

    @property
    def image_ids(self) -> list[int]:
        """All query images, rising."""
        return sorted({int(image) for peaks in self.queries.values() for image in peaks[:, 0]})


@dataclass(frozen=True, eq=False)
class Covered:
    """What came of a task: its number, and a row for each trial of its images."""

    number: int
    columns: Columns


def split_peaks(peaks: LayerPeaks, unit: int, references: int) -> tuple[Int64[Tensor, "R 4"], Int64[Tensor, "Q 4"]]:
    """Return a unit's references, its strongest peaks, and its queries, all that come after them by rank.

    Rows of image id, unit, row, col, strongest first. One peak an image, no query is a reference too.
    """
    rows = torch.stack(peaks.of([unit]), dim=1)
    return rows[:references], rows[references:]


def cover_images(shared: Covering, task: tuple[int, list[int]]) -> Iterator[Covered]:
    """Lay every square over every position of a task's images, and find the two extreme positions for each unit.

    task: its number, and image ids. A unit that no square moves on an image has no trial there. Of positions that are
    extreme alike, as where no square touches what the unit sees, one is drawn by the seed.
    """
    number, image_ids = task
    rows: list[Row] = []
    preprocessing = shared.network.needed_preprocessing()
    for ids, input_images in whole_batches(shared.images, preprocessing, IMAGES_AT_ONCE, image_ids):
        inputs = shared.network.check_images(preprocessing.normalize(input_images))
        for image_id, image in zip(ids.tolist(), inputs, strict=True):
            rows += _trials(shared, image_id, image[None])
    yield Covered(number, columns_of(rows))


COLUMNS = {
    **dict.fromkeys(("layer", "unit", "image", "activation", "square"), np.int64),
    **dict.fromkeys(("least_row", "least_col", "most_row", "most_col"), np.int64),
    **dict.fromkeys(("before", "least", "most"), np.float64),
}
"""Of trials: layer, activation and square are numbers in their lists; first pixels of the square that leaves the unit
least, and most; its activation without a square, and with each."""


def columns_of(rows: Sequence[Row]) -> Columns:
    """Return rows as columns."""
    return {name: np.array([row[name] for row in rows], dtype=kind) for name, kind in COLUMNS.items()}


def _trials(shared: Covering, image_id: int, image: Tensor) -> list[Row]:
    size, names = (image.shape[2], image.shape[3]), list(shared.queries)
    peaks = {layer: peaks[peaks[:, 0] == image_id] for layer, peaks in shared.queries.items()}
    peaks = {layer: of_image for layer, of_image in peaks.items() if len(of_image)}
    maps = shared.network.forward(image, list(peaks)).values()
    before = [_asked(each, of_image[:, 1])[0] for each, of_image in zip(maps, peaks.values(), strict=True)]
    rows = []
    for n, square in enumerate(shared.squares.pixels(size)):
        covers = list(shared.squares.covers(image, square, shared.batch_size))
        starts = torch.cat([start for start, _ in covers]).numpy()
        answers: list[list[Tensor]] = [[] for _ in peaks]
        for batch in forward_covered(shared.network, image, list(peaks), covers):
            for answer, of_image, layer_maps in zip(answers, peaks.values(), batch, strict=True):
                answer.append(_asked(layer_maps, of_image[:, 1]))
        for (layer, of_image), whole, answer in zip(peaks.items(), before, answers, strict=True):
            covered = torch.cat(answer).numpy()  # (positions, units, activations)
            middles = _middles(shared.network, layer, of_image[:, 2:], size)
            for u, unit in enumerate(of_image[:, 1].tolist()):
                over_middle = ((starts <= middles[u]) & (middles[u] < starts + square)).all(axis=1)
                for a, activation in enumerate(ACTIVATIONS):
                    possible = np.flatnonzero(over_middle) if activation == "near" else np.arange(len(starts))
                    draw = np.random.default_rng([shared.seed, *layer.encode(), image_id, unit, n, a])
                    picked = extremes(covered[possible, u, a], draw)
                    if picked is not None:
                        least, most = possible[list(picked)].tolist()
                        place = [*starts[least].tolist(), *starts[most].tolist()]
                        values = [float(whole[u, a]), float(covered[least, u, a]), float(covered[most, u, a])]
                        row = [names.index(layer), unit, image_id, a, n, *place, *values]
                        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def _asked(maps: Tensor, units: Tensor) -> Tensor:
    """Return (N, units, ACTIVATIONS) of maps (N, C, h, w), on the CPU."""
    chosen = maps[:, units.to(maps.device)].float()
    largest = chosen.amax(dim=(2, 3))
    return torch.stack([largest, chosen.mean(dim=(2, 3)), largest], dim=2).cpu()


def _middles(network: Network, layer: str, positions: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the pixel (row, column) in the middle of the receptive field of each position, within the image."""
    boxes = network.receptive_field(layer, size).boxes(positions).numpy()
    return np.clip((boxes[:, :2] + boxes[:, 2:]) // 2, 0, np.array(size) - 1)


def extremes(values: Float[np.ndarray, " positions"], draw: np.random.Generator) -> tuple[int, int] | None:
    """Return where values are least and largest, drawn among equals; None where all are equal, or there are none.

    >>> extremes(np.array([2.0, 0.5, 3.0]), np.random.default_rng(0))
    (1, 2)
    """
    if not len(values):
        return None
    least, most, tied = values.min(), values.max(), TIED * np.abs(values).max()
    if most - least <= tied:
        return None
    lowest, highest = np.flatnonzero(values <= least + tied), np.flatnonzero(values >= most - tied)
    return int(draw.choice(lowest)), int(draw.choice(highest))


def keep_or_cover(records: Path | None, covering: Covering, provenance: dict[str, Any], engine: Engine) -> Columns:
    """Return all trials, from the records of the images that are there, else measured and recorded.

    Raises RecordMismatch for records of something else, naming the difference.
    """
    ids = covering.image_ids
    tasks = [(n, ids[first : first + IMAGES_AT_ONCE]) for n, first in enumerate(range(0, len(ids), IMAGES_AT_ONCE))]
    made_of = {n: provenance | {"images": image_ids} for n, image_ids in tasks}
    complete: dict[int, Columns] = {}
    if records is not None:
        for n in made_of:
            columns = load_columns(_path(records, n), made_of[n])
            if columns is not None:
                complete[n] = columns
    missing = [task for task in tasks if task[0] not in complete]
    if missing and records is not None:
        remove_leftovers(records)
        with claimed(records):
            for covered in _covered(covering, missing, engine):
                save_columns(_path(records, covered.number), covered.columns, made_of[covered.number])
                complete[covered.number] = covered.columns
    elif missing:
        complete = {covered.number: covered.columns for covered in _covered(covering, missing, engine)}
    chunks = [complete[n] for n, _ in tasks]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in COLUMNS} if chunks else columns_of([])


def _covered(covering: Covering, tasks: list[tuple[int, list[int]]], engine: Engine) -> Iterator[Covered]:
    images = {n: len(image_ids) for n, image_ids in tasks}

    def title(task: tuple[int, list[int]]) -> str:
        return f"covering {len(task[1])} images from {task[1][0]} on"

    done = engine.work(cover_images, covering, tasks, title)
    for covered in track(done, "covering", sum(images.values()), unit="images", size=lambda task: images[task.number]):
        columns = {name: values.copy() for name, values in covered.columns.items()}  # Ray's own may not be written to
        yield Covered(covered.number, columns)


def _path(records: Path, number: int) -> Path:
    return records / "trials" / f"{number:04d}.safetensors"
