"""How well a linear classifier on a layer's features tells classes apart: Table 7 and section 5.2 of the paper.

The features of every image are computed once and kept on disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch.nn import functional

from deconv.errors import BadInput, bad_value, check_count, unknown
from deconv.files import claimed, remove_leftovers, reserve, whole_files
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import batches
from deconv.network import Network
from deconv.progress import track
from deconv.records.provenance import build, digest

CLASSIFIERS = ("svm", "softmax")
LEFT_OUT = -1
"""The label of an image that takes no part, as one that cannot be read."""
LEAST_SHARE = 1e-7
"""Share of the largest variance below which a direction is the rounding of float32."""
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "svm": {"1": (44.8, 0.7), "2": (66.2, 0.5), "3": (72.3, 0.4), "4": (76.6, 0.4), "5": (86.2, 0.8), "7": (85.5, 0.4)},
    "softmax": {"5": (82.9, 0.4), "7": (85.4, 0.4)},
}
"""Table 7 of the paper: Caltech-101, 30 training images a class, percent."""


def extract(
    network: Network,
    images: Source | MapDataset,
    layers: Iterable[str],
    folder: str | Path,
    grid: int = 6,
    batch_size: int = 16,
) -> dict[str, np.ndarray]:
    """Return {layer: features} of every image, float32 (images, C * h * w), read from `folder` or computed into it.

    A layer's maps are averaged over a grid of at most `grid` x `grid` places, by adaptive average pooling, so that the
    layers are described at one resolution and the first of them, with tens of thousands of places, in some thousand
    numbers. At 6 that is the size of the paper's layer 5 after its pooling. The row of an unreadable image is nan.
    All missing layers are computed in one pass and streamed to disk; the arrays are memory-mapped. A file is named
    after all that decides its content: weights, preprocessing, images, layer, grid and the versions of the libraries.
    Raises BadInput for a grid or batch size below 1, for activations that are nan or infinite, if more than half of the
    images are unreadable, if the disk has no room, and while another process computes into `folder`; UnknownName for a
    layer.
    """
    check_count("grid", grid)
    images = check_source(images)
    files = {layer: Path(folder) / f"{_name(network, images, layer, grid)}.npy" for layer in dict.fromkeys(layers)}
    remove_leftovers(Path(folder))
    if not all(path.exists() for path in files.values()):
        with claimed(folder):
            missing = {layer: path for layer, path in files.items() if not path.exists()}
            if missing:  # else whoever held the folder has computed them
                _compute(network, images, missing, grid, batch_size)
    return {layer: np.load(path, mmap_mode="r") for layer, path in files.items()}


def _name(network: Network, images: Source, layer: str, grid: int) -> str:
    network.node(layer)
    name = network.aliases.get(layer, layer)
    return digest(build(network.provenance(), images.provenance(), layer=name, grid=grid))


def _compute(network: Network, images: Source, files: Mapping[str, Path], grid: int, batch_size: int) -> None:
    """Whole files or none; written as files, since a full disk kills whoever writes into a memory-mapped one."""
    with whole_files(list(files.values())) as opened:
        tables = {
            layer: _Table(file, len(images), _columns(network, layer, grid))
            for layer, file in zip(files, opened, strict=True)
        }
        _stream(network, images, tables, grid, batch_size)


def _columns(network: Network, layer: str, grid: int) -> int:
    height, width = network.map_size(layer)
    return network.channels(layer) * min(grid, height) * min(grid, width)


class _Table:
    """A file of numpy's, float32 (rows, columns), whose rows are written in any order."""

    def __init__(self, file: BinaryIO, rows: int, columns: int):
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(file, header)
        self.file, self.columns, self.start = file, columns, file.tell()
        reserve(file, self.start + 4 * rows * columns)

    def write(self, row: int, values: Float[np.ndarray, " columns"]) -> None:
        self.file.seek(self.start + 4 * row * self.columns)
        self.file.write(values.astype("<f4").tobytes())


def _stream(network: Network, images: Source, tables: Mapping[str, _Table], grid: int, batch_size: int) -> None:
    preprocessing, skipped = network.needed_preprocessing(), list[tuple[int, str, str]]()
    input_images = batches(images, preprocessing, batch_size, skipped=skipped)
    for index, batch in track(input_images, "extracting features", len(images), size=lambda part: len(part[0])):
        for layer, maps in network.forward(preprocessing.normalize(batch), tables).items():
            pooled = _pooled(images, index, layer, maps, grid)
            for image_id, features in zip(index.tolist(), pooled, strict=True):
                tables[layer].write(images.index_of(image_id), features)
    for table in tables.values():
        for image_id, _, _ in skipped:
            table.write(images.index_of(image_id), np.full(table.columns, np.nan, dtype=np.float32))


def _pooled(images: Source, index: torch.Tensor, layer: str, maps: torch.Tensor, grid: int) -> np.ndarray:
    size = (min(grid, maps.shape[2]), min(grid, maps.shape[3]))
    features = functional.adaptive_avg_pool2d(maps.float(), size).flatten(1).cpu()
    if not bool(features.isfinite().all()):
        bad = int(index[~features.isfinite().all(dim=1)][0])
        raise BadInput(f"layer {layer} has nan or infinite activations on {images.key(bad)}; check the weights")
    return features.numpy()


def readable_labels(
    labels: Sequence[int] | Int[np.ndarray, " images"], features: Float[np.ndarray, "images D"]
) -> Int[np.ndarray, " images"]:
    """The labels, LEFT_OUT where `extract` could not read the image: its row of features is nan."""
    return np.where(np.isnan(features[:, 0]), LEFT_OUT, labels)


def features_provenance(
    network: Network, images: Source, settings: Mapping[str, Any], penalties: Iterable[float]
) -> dict[str, Any]:
    """All that decides the numbers of classifiers on features: `settings` of the run, penalties to choose from."""
    decisive = {key: settings[key] for key in ("splits", "train_per_class", "test_per_class", "seed", "grid")}
    return build(network.provenance(), images.provenance(), settings=decisive, penalties=list(penalties))


@dataclass(frozen=True)
class Split:
    """The images to train on, `train_per_class` of each class, class by class, and those to test on, by their place."""

    train: Int[np.ndarray, " n"]
    test: Int[np.ndarray, " m"]
    train_per_class: int


def draw_splits(
    labels: Sequence[int] | np.ndarray, splits: int, train_per_class: int, test_per_class: int, seed: int
) -> list[Split]:
    """`splits` random splits of the labelled images; of each class `train_per_class` and at most `test_per_class`.

    labels: a class number for each image, LEFT_OUT for none.
    Raises BadInput if a class has no image left to test on, for fewer than two classes, and for counts too small.
    """
    check_count("splits", splits)
    check_count("train_per_class", train_per_class, 2)
    check_count("test_per_class", test_per_class)
    class_of = np.asarray(labels)
    classes = [np.flatnonzero(class_of == label) for label in np.unique(class_of[class_of != LEFT_OUT])]
    if len(classes) < 2:
        raise BadInput(f"the images are of {len(classes)} class; expected two or more to tell apart")
    smallest = min(classes, key=len)
    if len(smallest) <= train_per_class:
        raise BadInput(
            f"class {class_of[smallest[0]]} has {len(smallest)} readable images; expected more than "
            f"train_per_class={train_per_class}, so that some are left to test on: lower it, or add images"
        )
    generator = np.random.default_rng(seed)
    return [_draw(classes, train_per_class, test_per_class, generator) for _ in range(splits)]


def _draw(classes: list[np.ndarray], train: int, test: int, generator: np.random.Generator) -> Split:
    shuffled = [generator.permutation(members) for members in classes]
    parts = [members[:train] for members in shuffled], [members[train : train + test] for members in shuffled]
    return Split(np.concatenate(parts[0]), np.concatenate(parts[1]), train)


def compress(
    train: Float[np.ndarray, "n D"], test: Float[np.ndarray, "m D"]
) -> tuple[Float[np.ndarray, "n r"], Float[np.ndarray, "m r"]]:
    """Return features standardised by the training part, in at most n columns, as float32.

    The columns are an orthonormal basis of what the n training rows span. A linear classifier with a squared penalty
    has its weights in that span, so it gives the same answers on these as on all D columns, and D may be large.
    Rows are scaled by one number, the training rows' root mean square norm, so that a penalty means the same at any D.
    Raises BadInput if all training rows are equal.
    """
    scaler = StandardScaler().fit(train)
    train_rows, test_rows = scaler.transform(train), scaler.transform(test)
    products = train_rows @ train_rows.T
    if not np.trace(products) > 0:
        raise BadInput("the features are the same for all training images; expected some that tell them apart")
    variances, vectors = np.linalg.eigh(products.astype(np.float64))
    kept = variances > LEAST_SHARE * variances[-1]
    basis = vectors[:, kept] / np.sqrt(variances[kept] * np.trace(products) / len(train_rows))
    return (products @ basis).astype(np.float32), (test_rows @ train_rows.T @ basis).astype(np.float32)


def spread(accuracies: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over the splits, and each of them: what summary.json says of a classifier."""
    return {
        "mean": round(float(np.mean(accuracies)), 6),
        "std": round(float(np.std(accuracies)), 6),
        "splits": [round(value, 6) for value in accuracies],
    }


@dataclass(frozen=True)
class Score:
    """accuracy: the mean over the classes of the share of test images named right. penalty: the C chosen."""

    accuracy: float
    penalty: float


def probe(
    train: Float[np.ndarray, "n r"],
    test: Float[np.ndarray, "m r"],
    labels: Int[np.ndarray, " images"],
    split: Split,
    classifier: str = "svm",
    penalties: Sequence[float] = (0.1, 1.0, 10.0),
) -> Score:
    """Train a linear classifier on the rows `train` of a split and score it on `test`, both from `compress`.

    labels: of all images. "svm": one-against-rest linear SVM with squared hinge loss; "softmax": multinomial logistic
    regression; scikit-learn's. C is the one of `penalties` (large: fits closer) that is best on the last third of each
    class's training images when trained on the others; then all of them are trained on.
    Raises UnknownName for another classifier, BadInput for penalties that are none.
    """
    model = _classifier(classifier)
    check_penalties(penalties)
    rank_in_class = np.arange(len(split.train)) % split.train_per_class
    held_out = rank_in_class >= split.train_per_class - max(split.train_per_class // 3, 1)
    folds = [(np.flatnonzero(~held_out), np.flatnonzero(held_out))]
    search = GridSearchCV(model, {"C": [float(value) for value in penalties]}, scoring="balanced_accuracy", cv=folds)
    search.fit(train, labels[split.train])
    accuracy = balanced_accuracy_score(labels[split.test], search.predict(test))
    return Score(float(accuracy), search.best_params_["C"])


def check_penalties(penalties: Sequence[float]) -> None:
    """Raise BadInput unless there is one or more, all above 0."""
    if not penalties or not all(isinstance(value, (int, float)) and value > 0 for value in penalties):
        raise bad_value("penalties", list(penalties), "one or more numbers above 0")


def _classifier(name: str) -> BaseEstimator:
    if name == "svm":
        # On Caltech-101 a tolerance of 1e-2 and 1e-4 give the same accuracy; the dual is twice as fast as the primal.
        return LinearSVC(dual=True, tol=1e-2, max_iter=10_000, random_state=0)
    if name == "softmax":
        return LogisticRegression(max_iter=1000)
    raise unknown("classifier", name, CLASSIFIERS)
