"""Table 4: classes with few images each, by a trained network and by the same network from scratch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
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
)
from deconv.analyses.transfer import PAPER, class_accuracy, with_new_head
from deconv.errors import BadInput, UnknownName, nearest
from deconv.figures import save_figure
from deconv.figures.train import save_curves
from deconv.figures.transfer import transfer_figure
from deconv.files import write_json
from deconv.images import Source, open_source, require_labels
from deconv.models import build, load_network, of_build
from deconv.network import Network
from deconv.network.classes import top_layer
from deconv.progress import track
from deconv.records.provenance import weights_hash
from deconv.training import train
from deconv.training.data import load
from deconv.training.recipe import Settings

WAYS = {
    "frozen": "trained elsewhere,\nnew softmax",
    "finetuned": "trained elsewhere,\nthen here",
    "scratch": "from scratch",
}


def run(config: DictConfig, folder: Path) -> Path:
    """Classify frozen features, train networks, draw; returns the chart."""
    check_ways(config)
    network = load_network(**config.model, seed=config.seed)
    images = open_source(**config.source)
    layer = config.layer or top_layer(network)
    labels = np.array(require_labels(images))
    drawing = (config.splits, config.train_per_class, config.test_per_class, config.seed)
    splits, classes = draw_splits(labels, *drawing), int(labels.max()) + 1
    recipes = recipes_of(config, len(splits[0].train))
    starts = {way: first_model(config, way, classes) for way in recipes}
    features = extract(network, images, [layer], config.cache or folder / "features", config.grid, config.batch_size)
    unreadable = np.isnan(features[layer][:, 0])
    if unreadable.any():
        labels[unreadable] = LEFT_OUT
        splits = draw_splits(labels, *drawing)
    accuracies: dict[str, list[float]] = {}
    if "frozen" in config.ways:
        accuracies["frozen"] = classify(features[layer], labels, splits, config.penalties)
    for way, settings in recipes.items():
        places = [(split, folder / f"{way}-{number}") for number, split in enumerate(splits[: config.trained_splits])]
        accuracies[way] = [train_on(starts[way], network, images, split, settings, place) for split, place in places]
    summary = {
        "accuracy": {way: summarise(values) for way, values in accuracies.items()},
        "layer": layer,
        "chance": round(1 / len(np.unique(labels[labels != LEFT_OUT])), 6),
        "paper_percent": PAPER,
        "training": {way: asdict(settings) for way, settings in recipes.items()},
        "provenance": features_provenance(network, images, config, config.penalties),
    }
    write_json(folder / "summary.json", summary)
    heading = f"{config.model.name}, {config.train_per_class} training images a class"
    bars = {WAYS[way]: values for way, values in accuracies.items()}
    return save_figure(transfer_figure(bars, heading), folder / "table4.png")


def check_ways(config: DictConfig) -> None:
    """Raise UnknownName or BadInput for settings that cannot be used."""
    for way in config.ways:
        if way not in WAYS:
            raise UnknownName(f"unknown way {way!r}; expected some of {', '.join(WAYS)}{nearest(str(way), WAYS)}")
    if not config.ways:
        raise BadInput(f"ways=[]: expected some of {', '.join(WAYS)}.")
    if not 1 <= config.trained_splits <= config.splits:
        raise BadInput(f"trained_splits={config.trained_splits}: expected 1 to splits={config.splits}.")
    check_penalties(config.penalties)


def recipes_of(config: DictConfig, images: int) -> dict[str, Settings]:
    """How the ways that train are trained, on so many images."""
    scratch = Settings(**config.training, seed=config.seed)
    scratch = replace(scratch, batch_size=min(scratch.batch_size, images))
    finetuned = replace(scratch, epochs=config.finetune_epochs, lr=config.finetune_lr, dropout_epochs=0)
    recipes = {"finetuned": finetuned, "scratch": scratch}
    return {way: settings for way, settings in recipes.items() if way in config.ways}


def first_model(config: DictConfig, way: str, classes: int) -> nn.Module:
    """The network before training: with a new last layer, and from scratch with all weights random."""
    options = of_build(config.model) | ({"weights": "random"} if way == "scratch" else {})
    return with_new_head(build(**options, seed=config.seed), classes, config.seed)


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
    }
    train(model, data, test, settings, folder, provenance, after_epoch=save_curves)
    return class_accuracy(model, test)


def summarise(accuracies: Sequence[float]) -> dict[str, Any]:
    """Mean, spread over the splits, and each of them."""
    return {
        "mean": round(float(np.mean(accuracies)), 6),
        "std": round(float(np.std(accuracies)), 6),
        "splits": [round(value, 6) for value in accuracies],
    }
