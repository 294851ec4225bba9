"""Table 4: classes with few images each, by a trained network and by the same network from scratch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from torch import nn

from deconv.analyses.layers import (
    LEFT_OUT,
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
from deconv.analyses.transfer import PAPER, class_accuracy, with_new_head
from deconv.command.paper import Table4Transfer
from deconv.errors import BadInput, check_choice
from deconv.figures import save_figure
from deconv.figures.train import save_curves
from deconv.figures.transfer import transfer_figure
from deconv.files import write_json
from deconv.images import Source, open_source, require_labels
from deconv.models.presets import build_model, called, open_network
from deconv.network import Network
from deconv.network.classes import top_layer
from deconv.progress import track
from deconv.records.provenance import weights_hash
from deconv.training import train
from deconv.training.data import load
from deconv.training.recipe import Settings

REGIMES = {
    "frozen": "trained elsewhere,\nnew softmax",
    "finetuned": "trained elsewhere,\nthen here",
    "scratch": "from scratch",
}


def run(options: Table4Transfer, folder: Path) -> Path:
    """Classify frozen features, train networks, draw; returns the chart."""
    check_regimes(options)
    network, images = open_network(options.model, options.seed, options.device), open_source(**options.source)
    layer = options.layer or top_layer(network)
    labels = np.array(require_labels(images))
    drawing = (options.splits, options.train_per_class, options.test_per_class, options.seed)
    splits, classes = draw_splits(labels, *drawing), int(labels.max()) + 1
    recipes = recipes_of(options, len(splits[0].train))
    starts = {regime: first_model(options, regime, classes).to(network.device) for regime in recipes}
    features = extract(
        network, images, [layer], options.features or folder / "features", options.grid, options.batch_size
    )
    labels = readable_labels(labels, features[layer])
    splits = draw_splits(labels, *drawing)
    accuracies: dict[str, list[float]] = {}
    if "frozen" in options.regimes:
        accuracies["frozen"] = classify(features[layer], labels, splits, options.penalties)
    for regime, settings in recipes.items():
        accuracies[regime] = [
            train_on(starts[regime], network, images, split, settings, folder / f"{regime}-{number}")
            for number, split in enumerate(splits[: options.trained_splits])
        ]
    summary = {
        "accuracy": {regime: spread(values) for regime, values in accuracies.items()},
        "layer": layer,
        "chance": round(1 / len(np.unique(labels[labels != LEFT_OUT])), 6),
        "paper_percent": PAPER,
        "training": {regime: asdict(settings) for regime, settings in recipes.items()},
        "provenance": features_provenance(network, images, asdict(options), options.penalties),
    }
    write_json(folder / "summary.json", summary)
    heading = f"{called(options.model, network)}, {options.train_per_class} training images a class"
    bars = {REGIMES[regime]: values for regime, values in accuracies.items()}
    return save_figure(transfer_figure(bars, heading), folder / "table4.png")


def check_regimes(options: Table4Transfer) -> None:
    """Raise UnknownName or BadInput for settings that cannot be used."""
    for regime in options.regimes:
        check_choice("regime", regime, REGIMES)
    if not options.regimes:
        raise BadInput(f"regimes=[]: expected some of {', '.join(REGIMES)}.")
    if not 1 <= options.trained_splits <= options.splits:
        raise BadInput(f"trained_splits={options.trained_splits}: expected 1 to splits={options.splits}.")
    check_penalties(options.penalties)


def recipes_of(options: Table4Transfer, images: int) -> dict[str, Settings]:
    """How the regimes that train are run, on so many images."""
    scratch = replace(options.training, batch_size=min(options.training.batch_size, images))
    finetuned = replace(scratch, epochs=options.finetune_epochs, lr=options.finetune_lr, dropout_epochs=0)
    recipes = {"finetuned": finetuned, "scratch": scratch}
    return {regime: settings for regime, settings in recipes.items() if regime in options.regimes}


def first_model(options: Table4Transfer, regime: str, classes: int) -> nn.Module:
    """The network before training: with a new last layer, and from scratch with all weights random."""
    replaced = {"weights": "random"} if regime == "scratch" else {}
    return with_new_head(build_model(options.model, options.seed, **replaced), classes, options.seed)


def classify(
    features: np.ndarray, labels: np.ndarray, splits: Sequence[Split], penalties: Sequence[float]
) -> list[float]:
    """The accuracy of a softmax on the frozen features, for each split."""
    accuracies = []
    for split in track(splits, "classifying frozen features", len(splits), unit="splits"):
        train_rows, test_rows = compress(features[split.train], features[split.test])
        accuracies.append(probe(train_rows, test_rows, labels, split, "softmax", penalties).accuracy)
    return accuracies


def train_on(
    start: nn.Module, network: Network, images: Source, split: Split, settings: Settings, folder: Path
) -> float:
    """Train a copy of `start` on a split, or go on with it; returns its accuracy on the test images after the end."""
    preprocessing = network.needed_preprocessing()
    data, test = load(images, preprocessing, split.train.tolist()), load(images, preprocessing, split.test.tolist())
    model = copy.deepcopy(start)
    provenance = {
        "first_weights": weights_hash(start.state_dict()),
        "content": images.content_hash,
        "train": split.train.tolist(),
        "test": split.test.tolist(),
        "device": network.device.type,
    }
    train(model, data, test, settings, folder, provenance, after_epoch=save_curves)
    return class_accuracy(model, test)
