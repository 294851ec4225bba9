"""Table 7: linear classifiers on the features of each layer, and how their accuracy rises with depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deconv.analyses.features import extract, features_provenance
from deconv.analyses.layers import LEFT_OUT, Score, Split, check_penalties, compress, draw_splits, probe
from deconv.command.options import Table7Layers
from deconv.command.setup import open_network
from deconv.errors import UnknownName
from deconv.figures import save_figure
from deconv.files import write_json
from deconv.images import open_source, require_labels
from deconv.network import Network
from deconv.network.classes import alias_of, class_layer
from deconv.progress import track

PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "svm": {"1": (44.8, 0.7), "2": (66.2, 0.5), "3": (72.3, 0.4), "4": (76.6, 0.4), "5": (86.2, 0.8), "7": (85.5, 0.4)},
    "softmax": {"5": (82.9, 0.4), "7": (85.4, 0.4)},
}
"""Table 7 of the paper: Caltech-101, 30 training images a class, percent."""
NAMES = {"svm": "linear SVM", "softmax": "softmax"}
COLOURS = {"svm": "C0", "softmax": "C1"}


def run(options: Table7Layers, folder: Path) -> Path:
    """Extract, classify split by split, draw; returns the chart."""
    network, images = open_network(options.model, options.seed), open_source(**options.source)
    layers = choose_layers(network, options.layers)
    jobs = choose_classifiers(layers, options.softmax_layers)
    check_penalties(options.penalties)
    drawing = (options.splits, options.train_per_class, options.test_per_class, options.seed)
    labels = np.array(require_labels(images))
    draw_splits(labels, *drawing)  # a class that is too small is refused before an image is read
    features = extract(
        network, images, layers, options.features or folder / "features", options.grid, options.batch_size
    )
    labels[np.isnan(features[layers[0]][:, 0])] = LEFT_OUT
    splits = draw_splits(labels, *drawing)
    scores = score_layers(features, labels, splits, jobs, options.penalties)
    classes = len(np.unique(labels[labels != LEFT_OUT]))
    summary = {
        "accuracy": by_classifier(scores),
        "features": {layer: int(features[layer].shape[1]) for layer in layers},
        "classes": classes,
        "chance": round(1 / classes, 6),
        "paper_percent": PAPER,
        "provenance": features_provenance(network, images, asdict(options), options.penalties),
    }
    write_json(folder / "summary.json", summary)
    heading = f"{options.model['name']}: {classes} classes, {options.train_per_class} training images a class"
    return save_figure(draw_chart(layers, scores, heading, 1 / classes), folder / "table7.png")


def score_layers(
    features: Mapping[str, np.ndarray],
    labels: np.ndarray,
    splits: Sequence[Split],
    jobs: Sequence[tuple[str, str]],
    penalties: Sequence[float],
) -> dict[tuple[str, str], list[Score]]:
    """For each (classifier, layer) its score on each split."""
    scores: dict[tuple[str, str], list[Score]] = {job: [] for job in jobs}
    work = [(layer, split) for layer in features for split in splits]
    for layer, split in track(work, "classifying", len(work), unit="layers and splits"):
        train, test = compress(features[layer][split.train], features[layer][split.test])
        for classifier in (name for name, where in jobs if where == layer):
            scores[classifier, layer].append(probe(train, test, labels, split, classifier, penalties))
    return scores


def choose_layers(network: Network, layers: Sequence[str] | None) -> list[str]:
    """The layers asked for, or all with an alias and the output. Raises UnknownName."""
    chosen = list(layers or [*network.aliases, alias_of(network, class_layer(network))])
    for layer in chosen:
        network.node(layer)
    return list(dict.fromkeys(chosen))


def choose_classifiers(layers: list[str], softmax_layers: Sequence[str] | None) -> list[tuple[str, str]]:
    """(classifier, layer): an SVM on each, a softmax on those asked for or the last two. Raises UnknownName."""
    softmax = list(layers[-2:] if softmax_layers is None else softmax_layers)
    for layer in softmax:
        if layer not in layers:
            raise UnknownName(f"softmax_layers names {layer!r}; expected some of the layers {', '.join(layers)}.")
    return [*(("svm", layer) for layer in layers), *(("softmax", layer) for layer in softmax)]


def by_classifier(scores: Mapping[tuple[str, str], list[Score]]) -> dict[str, dict[str, Any]]:
    """{classifier: {layer: numbers}}."""
    return {name: {layer: summarise(found) for (way, layer), found in scores.items() if way == name} for name in NAMES}


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """Mean and spread over the splits, and each of them."""
    accuracies = np.array([score.accuracy for score in scores])
    return {
        "mean": round(float(accuracies.mean()), 6),
        "std": round(float(accuracies.std()), 6),
        "splits": [round(score.accuracy, 6) for score in scores],
        "penalties": [score.penalty for score in scores],
    }


def draw_chart(layers: list[str], scores: Mapping[tuple[str, str], list[Score]], heading: str, chance: float) -> Figure:
    """Ours on the left, the paper's on the right, on one scale."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(max(len(layers), 3), len(PAPER["svm"])))
    for name in NAMES:
        draw_line(
            ours, name, layers, {layer: percent(scores[name, layer]) for layer in layers if (name, layer) in scores}
        )
        draw_line(paper, name, list(PAPER["svm"]), PAPER[name])
    ours.axhline(100 * chance, color="0.6", linestyle=":", label="chance")
    ours.set_title(heading, fontsize=10.5)
    ours.set(ylim=(0, 100), ylabel="mean accuracy of the classes (%)", xlabel="layer; bars: std over splits")
    paper.set_title("the paper's Table 7: Caltech-101, 30 a class", fontsize=10.5)
    paper.set_xlabel("layer")
    ours.legend(loc="lower right")
    return figure


def percent(scores: Sequence[Score]) -> tuple[float, float]:
    """Mean and spread over the splits."""
    accuracies = [100 * score.accuracy for score in scores]
    return float(np.mean(accuracies)), float(np.std(accuracies))


def draw_line(axes: Axes, name: str, layers: Sequence[str], values: Mapping[str, tuple[float, float]]) -> None:
    """One classifier's accuracies, each with its number: the SVM's above, the softmax's below."""
    at, means = [layers.index(layer) for layer in values], [mean for mean, _ in values.values()]
    above = name == "svm"
    style: dict[str, Any] = {"color": COLOURS[name], "fmt": "o-" if above else "s--", "markersize": 5, "capsize": 3}
    axes.errorbar(at, means, [std for _, std in values.values()], label=NAMES[name], **style)
    for x, y in zip(at, means, strict=True):
        place: dict[str, Any] = {"xytext": (0, 9 if above else -17), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{y:.1f}", (x, y), fontsize=8.5, color=COLOURS[name], **place)
    axes.set_xticks(range(len(layers)), layers)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92")
