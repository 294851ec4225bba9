"""Table 7: linear classifiers on the features of each layer, and how their accuracy rises with depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deconv.analyses.layers import (
    CLASSIFIERS,
    LEFT_OUT,
    PAPER,
    Score,
    Split,
    check_penalties,
    compress,
    draw_splits,
    extract,
    features_provenance,
    probe,
    readable_labels,
    spread,
)
from deconv.command.paper import Table7Layers
from deconv.errors import UnknownName
from deconv.figures import save_figure
from deconv.figures.layers import layers_figure
from deconv.files import write_json
from deconv.images import open_source, require_labels
from deconv.models.presets import called, open_network
from deconv.network import Network
from deconv.network.classes import alias_of, class_layer
from deconv.progress import track


def run(options: Table7Layers, folder: Path) -> Path:
    """Extract, classify split by split, draw; returns the chart."""
    network, images = open_network(options.model, options.seed, options.device), open_source(**options.source)
    layers = choose_layers(network, options.layers)
    jobs = choose_classifiers(layers, options.softmax_layers)
    check_penalties(options.penalties)
    drawing = (options.splits, options.train_per_class, options.test_per_class, options.seed)
    labels = np.array(require_labels(images))
    draw_splits(labels, *drawing)  # a class that is too small is refused before an image is read
    features = extract(
        network, images, layers, options.features or folder / "features", options.grid, options.batch_size
    )
    labels = readable_labels(labels, features[layers[0]])
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
    heading = f"{called(options.model, network)}: {classes} classes, {options.train_per_class} training images a class"
    return save_figure(layers_figure(layers, scores, heading, 1 / classes), folder / "table7.png")


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
    return {
        name: {layer: summarise(of_splits) for (classifier, layer), of_splits in scores.items() if classifier == name}
        for name in CLASSIFIERS
    }


def summarise(scores: Sequence[Score]) -> dict[str, Any]:
    """The accuracies over the splits, and the penalty chosen on each."""
    return {**spread([score.accuracy for score in scores]), "penalties": [score.penalty for score in scores]}
