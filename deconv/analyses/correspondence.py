"""Does hiding the same part of different things change a layer's features in the same way? (paper, section 4.3)"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from deconv.errors import BadInput
from deconv.images.preprocessing import Preprocessing
from deconv.network import Network

Box = tuple[int, int, int, int]
"""y0, x0, y1, x1 in pixels; the last row and column are y1 - 1 and x1 - 1."""

COLUMNS = ("file", "part", "y0", "x0", "y1", "x1")
ROUNDING = 1e-5
"""Share of a layer's largest activation below which a change is the rounding of sums, which depends on the batch."""
PAPER = [
    {"right eye": (0.067, 0.007), "left eye": (0.069, 0.007), "nose": (0.079, 0.017), "random": (0.107, 0.017)},
    {"right eye": (0.069, 0.015), "left eye": (0.068, 0.013), "nose": (0.069, 0.011), "random": (0.073, 0.014)},
]
"""Table 1 of the paper: layer 5, and layer 7."""

MEASURES = {
    "of_all": "of all features (the paper's measure)",
    "of_moved": "of those that move in either image",
}


def read_annotations(path: str | PathLike[str]) -> dict[str, dict[str, Box]]:
    """{file: {part: box}} of a CSV file with the columns file, part, y0, x0, y1, x1: pixels of the photograph, upright.

    Raises BadInput for a missing file or column, numbers that are no box, a part boxed twice or missing in one of the
    files, and fewer than two files.
    """
    boxes: dict[str, dict[str, Box]] = {}
    for place, row in _rows(Path(path)):
        if not row["file"] or not row["part"]:
            raise BadInput(f"{place}: no file or no part is named; expected both: complete the row")
        parts = boxes.setdefault(row["file"], {})
        if row["part"] in parts:
            raise BadInput(f"{place}: {row['file']} has two boxes for {row['part']!r}; expected one: remove the other")
        parts[row["part"]] = _box(place, row)
    if len(boxes) < 2:
        raise BadInput(f"{path} names {len(boxes)} images; expected two or more, to compare them with each other")
    known = {part: file for file, parts in boxes.items() for part in parts}
    for file, parts in boxes.items():
        for part in known.keys() - parts:
            raise BadInput(f"{path} has no box for {part!r} in {file}, but has one in {known[part]}: add it")
    return boxes


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row stands, as "FILE, line 2", and its values."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise BadInput(
            f"cannot read the annotations {path}: {reason}; expected a CSV file with the columns {', '.join(COLUMNS)}"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise BadInput(f"{path} has no column {missing[0]!r}; expected {','.join(COLUMNS)} in its first line")
        for row in reader:
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}; expected rows of a CSV file") from error


def _box(place: str, row: Mapping[str, str | None]) -> Box:
    corners = [row[name] for name in ("y0", "x0", "y1", "x1")]
    try:
        y0, x0, y1, x1 = (int(value or "") for value in corners)
    except ValueError as error:
        raise BadInput(f"{place}: the box {corners} is not four whole numbers y0, x0, y1, x1") from error
    if not (0 <= y0 < y1 and 0 <= x0 < x1):
        raise BadInput(f"{place}: given the box {y0, x0, y1, x1}; expected 0 <= y0 < y1 and 0 <= x0 < x1")
    return y0, x0, y1, x1


def box_in_frame(box: Box, shape: Sequence[int], preprocessing: Preprocessing) -> Box:
    """Where a box of a photograph of `shape` (height, width) lies in the input image that the network sees.

    A white box on black goes through the same resize and crop as the photograph; what is then more white than black is
    the box, so that a part cut off by the crop is cut off here too.
    Raises BadInput if the box reaches outside the photograph, or the crop leaves nothing of it.
    """
    y0, x0, y1, x1 = box
    height, width = int(shape[0]), int(shape[1])
    if y1 > height or x1 > width:
        raise BadInput(f"the box {box} reaches outside its image of {height} x {width} pixels")
    drawn = np.zeros((height, width, 3), np.uint8)
    drawn[y0:y1, x0:x1] = 255
    inside = preprocessing.input_image(drawn)[0] >= 128
    rows, cols = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
    if not len(rows):
        raise BadInput(
            f"nothing of the box {box} is left in the {inside.shape[0]} x {inside.shape[1]} pixels that the network "
            f"sees of its image of {height} x {width}; choose another image, or another preprocessing"
        )
    return int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1


def random_boxes(sizes: Sequence[Box], regions: Sequence[Box], generator: torch.Generator) -> list[Box]:
    """For each image a box of the size of the one given, at a place drawn uniformly within the image's region.

    Raises BadInput if a region is smaller than its box.
    """
    drawn = []
    for (top, left, bottom, right), (y0, x0, y1, x1) in zip(sizes, regions, strict=True):
        height, width = bottom - top, right - left
        if y1 - y0 < height or x1 - x0 < width:
            raise BadInput(
                f"no random box of {height} x {width} pixels fits into the region {y0, x0, y1, x1}; "
                "annotate smaller parts or a larger region"
            )
        y = y0 + int(torch.randint(y1 - y0 - height + 1, (), generator=generator))
        x = x0 + int(torch.randint(x1 - x0 - width + 1, (), generator=generator))
        drawn.append((y, x, y + height, x + width))
    return drawn


def masked(images: Float[Tensor, "N C H W"], boxes: Sequence[Box]) -> Float[Tensor, "N C H W"]:
    """Return preprocessed images with one box each filled with zero, which is the mean that was subtracted."""
    hidden = images.clone()
    for image, (y0, x0, y1, x1) in zip(hidden, boxes, strict=True):
        image[:, y0:y1, x0:x1] = 0
    return hidden


@dataclass(frozen=True)
class Disagreement:
    """How differently masking one part changes a layer's features in N images; one value for each pair of images.

    With eps_i = features(x_i) - features(x_i masked), of_all is the share of all features where sign(eps_i) and
    sign(eps_j) differ: the Hamming distance in the paper's Delta, divided by the number of features. Its mean over the
    pairs is Delta divided by pairs and features. of_moved is the share among the features that move in either image:
    unlike of_all it does not grow with how many move. Both (pairs,) float64 in 0..1, in the order (0, 1), (0, 2), ...,
    (1, 2), ...; lower means that hiding the part does the same in both images. moved: (N,), the share that moves.
    """

    of_all: Float[np.ndarray, " pairs"]
    of_moved: Float[np.ndarray, " pairs"]
    moved: Float[np.ndarray, " N"]


Result = Mapping[str, Disagreement]
"""{layer: Disagreement} of masking one box in each image."""


def disagreement(
    network: Network,
    images: Tensor,
    boxes: Sequence[Box],
    layers: Iterable[str],
    seen: Mapping[str, Float[Tensor, "N C H W"]] | None = None,
) -> dict[str, Disagreement]:
    """{layer: Disagreement} of masking one box in each of the preprocessed images (N, 3, H, W), N at least 2.

    boxes: in the pixels of these images.  seen: the layers' maps of the unmasked images, where they are known already.
    Raises BadInput for fewer than two images or another number of boxes,
    UnknownName for a layer.
    """
    if len(images) < 2 or len(boxes) != len(images):
        raise BadInput(
            f"given {len(images)} images and {len(boxes)} boxes; expected two images or more, and a box for each"
        )
    names = list(layers)
    seen = network.forward(images, names) if seen is None else seen
    hidden = network.forward(masked(images, boxes), names)
    return {name: compare_signs(change_signs(seen[name], hidden[name])) for name in names}


def change_signs(seen: Float[Tensor, "N C H W"], hidden: Float[Tensor, "N C H W"]) -> Int8[np.ndarray, "N features"]:
    """Return -1, 0 or 1, the sign of seen - hidden, for each of the C * H * W features; rounding does not count."""
    change = (seen - hidden).flatten(1)
    change[change.abs() <= ROUNDING * seen.abs().amax()] = 0
    return change.sign().to("cpu", torch.int8).numpy()


def compare_signs(signs: Int[np.ndarray, "N features"]) -> Disagreement:
    """Return the Disagreement of vectors of signs -1, 0 and 1."""
    pairs = list(combinations(signs, 2))
    differ = np.array([np.count_nonzero(a != b) for a, b in pairs])
    either = np.array([np.count_nonzero((a != 0) | (b != 0)) for a, b in pairs])
    return Disagreement(differ / signs.shape[1], differ / np.maximum(either, 1), (signs != 0).mean(axis=1))


def means(layer: str, measure: str, random: Sequence[Result]) -> Float[np.ndarray, " draws"]:
    """Return the mean of one of MEASURES over the pairs of images, for each draw of random places."""
    return np.array([getattr(result[layer], measure).mean() for result in random])
