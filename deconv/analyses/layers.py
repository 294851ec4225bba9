"""How well a linear classifier on a layer's features tells classes apart: Table 7 and section 5.2 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from deconv.errors import BadInput, UnknownName, nearest

CLASSIFIERS = ("svm", "softmax")
LEFT_OUT = -1
"""The label of an image that takes no part, as one that cannot be read."""
LEAST_SHARE = 1e-7
"""Of the largest variance: directions below it are the rounding of float32."""


@dataclass(frozen=True)
class Split:
    """Numbers of images (n,) int64: `train_per_class` of each class, class by class; and those to test on."""

    train: np.ndarray
    test: np.ndarray
    train_per_class: int


def draw_splits(
    labels: Sequence[int] | np.ndarray, splits: int, train_per_class: int, test_per_class: int, seed: int
) -> list[Split]:
    """`splits` random splits of the labelled images; of each class `train_per_class` and at most `test_per_class`.

    labels: a class number for each image, LEFT_OUT for none.
    Raises BadInput if a class has no image left to test on, for fewer than two classes, and for counts too small.
    """
    least = {"splits": (splits, 1), "train_per_class": (train_per_class, 2), "test_per_class": (test_per_class, 1)}
    for name, (given, wanted) in least.items():
        if given < wanted:
            raise BadInput(f"{name}={given}: expected {wanted} or more.")
    numbers = np.asarray(labels)
    classes = [np.flatnonzero(numbers == label) for label in np.unique(numbers[numbers != LEFT_OUT])]
    if len(classes) < 2:
        raise BadInput(f"the images are of {len(classes)} class; expected two or more to tell apart.")
    smallest = min(classes, key=len)
    if len(smallest) <= train_per_class:
        raise BadInput(
            f"class {numbers[smallest[0]]} has {len(smallest)} readable images; expected more than "
            f"train_per_class={train_per_class}, so that some are left to test on: lower it, or add images."
        )
    generator = np.random.default_rng(seed)
    return [_draw(classes, train_per_class, test_per_class, generator) for _ in range(splits)]


def _draw(classes: list[np.ndarray], train: int, test: int, generator: np.random.Generator) -> Split:
    shuffled = [generator.permutation(members) for members in classes]
    parts = [members[:train] for members in shuffled], [members[train : train + test] for members in shuffled]
    return Split(np.concatenate(parts[0]), np.concatenate(parts[1]), train)


def compress(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, D) and (m, D), standardised by the training part, in at most n columns: (n, r) and (m, r) float32.

    The columns are an orthonormal basis of what the n training rows span. A linear classifier with a squared penalty
    has its weights in that span, so it gives the same answers on these as on all D columns, and D may be large.
    Rows are scaled by one number, the training rows' root mean square norm, so that a penalty means the same at any D.
    Raises BadInput if all training rows are equal.
    """
    scaler = StandardScaler().fit(train)
    here, there = scaler.transform(train), scaler.transform(test)
    products = here @ here.T
    if not np.trace(products) > 0:
        raise BadInput("these features are the same for all training images, so nothing tells them apart.")
    variances, vectors = np.linalg.eigh(products.astype(np.float64))
    kept = variances > LEAST_SHARE * variances[-1]
    basis = vectors[:, kept] / np.sqrt(variances[kept] * np.trace(products) / len(here))
    return (products @ basis).astype(np.float32), (there @ here.T @ basis).astype(np.float32)


@dataclass(frozen=True)
class Score:
    """accuracy: the mean over the classes of the share of test images named right. penalty: the C chosen."""

    accuracy: float
    penalty: float


def probe(
    train: np.ndarray,
    test: np.ndarray,
    labels: np.ndarray,
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
    place = np.arange(len(split.train)) % split.train_per_class
    held = place >= split.train_per_class - max(split.train_per_class // 3, 1)
    folds = [(np.flatnonzero(~held), np.flatnonzero(held))]
    search = GridSearchCV(model, {"C": [float(value) for value in penalties]}, scoring="balanced_accuracy", cv=folds)
    search.fit(train, labels[split.train])
    accuracy = balanced_accuracy_score(labels[split.test], search.predict(test))
    return Score(float(accuracy), search.best_params_["C"])


def check_penalties(penalties: Sequence[float]) -> None:
    """Raise BadInput unless there is one or more, all above 0."""
    if not penalties or not all(isinstance(value, (int, float)) and value > 0 for value in penalties):
        raise BadInput(f"penalties={list(penalties)}: expected one or more numbers above 0.")


def _classifier(name: str) -> BaseEstimator:
    if name == "svm":
        # On Caltech-101 a tolerance of 1e-2 and 1e-4 give the same accuracy; the dual is twice as fast as the primal.
        return LinearSVC(dual=True, tol=1e-2, max_iter=10_000, random_state=0)
    if name == "softmax":
        return LogisticRegression(max_iter=1000)
    raise UnknownName(
        f"unknown classifier {name!r}; expected one of {', '.join(CLASSIFIERS)}{nearest(name, CLASSIFIERS)}"
    )
