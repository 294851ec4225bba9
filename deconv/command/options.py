"""What each experiment can be told: one dataclass an experiment, its fields the options, in one place.

Hydra composes a run's settings into them (`deconv.command.settings`), which checks their types; `deconv --help` prints
them; the experiment's `run(options, folder)` reads them. What several experiments have stands in
`deconv.command.shared`. What only one choice of a group has (`model.arch`, `source.root`, `engine.retries`) stands in
that choice's file in configs/, and is a plain mapping here. Nothing here needs torch, so help need not wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from deconv.command.predictions import Predict as Predict
from deconv.command.predictions import WhichImage as WhichImage
from deconv.command.shared import (
    Mining,
    Options,
    Probing,
    Scanning,
    Training,
    WithDirections,
    WithDraw,
    WithExplanations,
    WithField,
    WithLayers,
    WithModel,
    WithPhotographs,
    WithReference,
    WithRule,
    WithUnits,
    option,
)
from deconv.training.recipe import Settings


@dataclass
class Fig2Features(Mining, WithUnits, WithRule, WithReference, WithField):
    """The options of experiments/fig2_features.py."""

    choose: str = option(
        "random", "how n_units are chosen: random, by the seed; or strongest, those most excited beside the reference"
    )
    beyond: bool = option(False, "whether to show weaker images as well, at quantiles of those that fire the unit")
    masks: bool = option(False, "whether to show, and to save as PNG files, what in each patch the unit answers to")


@dataclass
class Atlas(Mining, WithRule, WithExplanations, WithReference, WithField):
    """The options of experiments/atlas.py."""

    other_rules: list[str] = option(
        [], "rules, and other explanations, shown on each unit's page beside `rule`, as [guided,occlusion]"
    )
    beyond: bool = option(False, "whether units show weaker images as well, at quantiles of those that fire them")
    cues: bool = option(
        False,
        "whether units say what they make of their patches in grey, in other hues, blurred and scrambled",
    )
    circuits: bool = option(
        True, "whether units lead to the lower ones that they are made of, and to those that they are part of"
    )
    compared: str | None = option(
        None, "the folder of a finished compare_rules run on the same peaks: its numbers become ways to sort"
    )


@dataclass
class Circuit(Mining, WithUnits, WithRule):
    """The options of experiments/circuit.py."""

    layer: str | None = option(None, "of the units; null is the last that has maps of more than one position")
    layers: list[str] | None = option(
        None, "lower ones that the tree goes through; null spreads a layer for each of `branches`", filled=True
    )
    branches: list[int] = option(
        [3, 2, 2, 2], "strongest lower units that a unit of each layer has in the tree, from above", 1, filled=True
    )


@dataclass
class CompareRules(Mining, WithUnits, WithRule, WithExplanations):
    """The options of experiments/compare_rules.py."""

    against: list[str] = option(
        [
            *("guided", "gradient", "gradient_times_input", "random_switches", "other_switches", "other_unit"),
            *("random_weights", "edges", "random_mask", "centre"),
        ],
        "what it is compared with, by name: other rules, explanations such as smoothgrad, controls",
    )


@dataclass
class Directions(Scanning, WithDirections, WithDraw, WithRule):
    """The options of experiments/directions.py."""

    layer: str | None = option(None, "whose channels they are of; null is the last layer of maps before class scores")
    methods: list[str] = option(["nmf", "pca", "ica", "random"], "how directions are found", filled=True)
    n: int = option(32, "directions of each method", 1)
    samples: int = option(20000, "positions, drawn from all images by the seed, that they are fitted on", 2)
    k: int = option(9, "strongest peaks of each unit", 1)


@dataclass
class SanityChecks(Scanning, WithModel, WithLayers, WithUnits, WithExplanations):
    """The options of experiments/sanity_checks.py."""

    rules: list[str] = option(
        ["deconvnet", "guided", "gradient"], "the rules that are checked, or other explanations by name"
    )


@dataclass
class Fig4Evolution(Scanning, WithModel, WithUnits, WithRule):
    """The options of experiments/fig4_evolution.py."""

    layers: list[str] = option(["conv1", "conv2", "conv3", "conv4", "conv5"], "layers to look at")
    trained: str = option(
        MISSING, "the folder of a training run, with snapshots/epoch-001.safetensors and so on; must be given"
    )
    epochs: list[int] | None = option(
        None, "some of its epochs, as [1,2,5,10]; null: all of its snapshots", 1, filled=True
    )


@dataclass
class Fig6Filters(Scanning, WithDraw, WithRule):
    """The options of experiments/fig6_filters.py."""

    layers: list[str] = option(["conv1", "conv2"], "two: the first for its filters, the second to project")
    networks: dict[str, dict[str, Any] | None] = option(
        {}, "in the order of the figure: a model of configs/model, and what replaces that file's settings"
    )
    projected: list[str] = option([], "whose layer 2 is shown")


@dataclass
class Fig5Invariance(WithPhotographs):
    """The options of experiments/fig5_invariance.py."""

    layers: list[str] | None = option(
        None, "a low and a top layer; null is the first, and the last before the class scores"
    )
    batch_size: int = option(16, "images in one forward pass", 1)
    translation: list[float] = option([-60.0, 60.0, 5.0], "pixels of the input image downwards: first, last, step")
    scale: list[float] = option([1.0, 1.8, 0.05], "times larger, about the input image's centre: first, last, step")
    rotation: list[float] = option([0.0, 350.0, 10.0], "degrees counter-clockwise, about its centre: first, last, step")
    room: float | None = option(
        None, "times larger that the photograph lies under the input image; null is what the moves need; 1 none"
    )
    fill: str = option("reflect", "what stands where an input image still leaves it: reflect (its mirror image), mean")


@dataclass
class Fig7Occlusion(Scanning, WithPhotographs, WithRule, WithExplanations):
    """The options of experiments/fig7_occlusion.py."""

    layers: list[str] | None = option(None, "one layer of maps, as [fire9]; null is the last before the class scores")
    units: list[int] | None = option(None, "the map of each image, as [3,17,5]; null is the strongest in each", 0)
    square: int = option(50, "side of the square, in pixels of the input image", 1)
    stride: int = option(3, "pixels from one position of the square to the next", 1)
    colour: list[float] | None = option(
        None, "of the square, as [128,128,128]; null is the mean colour that the preprocessing takes away, a grey"
    )
    controls: int = option(100, "other units of the image whose projections are compared with the map, as a control", 0)


@dataclass
class Photograph(Mining, WithRule, WithReference):
    """The options of experiments/photograph.py."""

    image: str = option(MISSING, "the file of the photograph; must be given")
    n_units: int = option(4, "units of each layer, those first that reach the largest share of their strongest", 1)
    peaks: str | None = option(
        None, "a file in which the mined peaks are kept, for the next photograph; null is one in the run's folder"
    )


@dataclass
class Table1Correspondence(WithModel):
    """The options of experiments/table1_correspondence.py."""

    layers: list[str] | None = option(
        None, "a convolutional and the top layer, as [fire9,flatten]; null takes the last ones of these"
    )
    annotations: str | None = option(
        None, "a CSV file (file,part,y0,x0,y1,x1 in the photographs' pixels); null is the five dogs"
    )
    region: str | None = option("dog", "the part of that file in which random boxes lie; null: anywhere")
    draws: int = option(100, "how often random boxes are drawn", 2)


@dataclass
class Train(Training, WithModel):
    """The options of experiments/train.py."""


@dataclass
class Table3Ablation(Training):
    """The options of experiments/table3_ablation.py."""

    only: list[str] | None = option(None, "the variants to train and show, as [zfnet,krizhevsky]; null is all")
    trained: str | None = option(None, "where the variants' training runs are kept; null is the run's own folder")
    train_sample: int = option(5000, "training images, evenly spaced, that the training error is measured on", 1)
    variants: dict[str, dict[str, Any] | None] = option(
        {}, "title; model and what replaces its settings; paper: its validation error, top-1 and top-5, in %"
    )


@dataclass
class Table7Layers(Probing):
    """The options of experiments/table7_layers.py."""

    layers: list[str] | None = option(
        None, "in order of depth; null takes every layer the model has an alias for, and its output"
    )
    softmax_layers: list[str] | None = option(None, "those of them that also get a softmax; null takes the last two")


@dataclass
class Table4Transfer(Probing):
    """The options of experiments/table4_transfer.py."""

    regimes: list[str] = option(
        ["frozen", "finetuned", "scratch"],
        "a softmax on frozen features; all layers trained on; all trained from random",
    )
    layer: str | None = option(None, "whose features are frozen; null takes the last before the class scores")
    trained_splits: int = option(1, "how many of these splits are also used to train whole networks", 1)
    finetune_epochs: int = option(8, "passes over the training images when fine-tuning", 1)
    finetune_lr: float = option(0.01, "the highest learning rate then")
    training: Settings = field(
        default_factory=Settings, metadata={"help": "the recipe, as in experiment=train, for the network from scratch"}
    )


@dataclass
class Tour(Scanning, WithModel, WithDraw, WithRule):
    """The options of experiments/tour.py."""

    k: int = option(9, "strongest peaks of each unit", 1)
    name: str = option("tour", "what the names of the pictures begin with")
    words: str | None = option(
        None, "a YAML file with title, introduction, ending and chapters of your own, in place of those below"
    )
    title: str = option("What the units of a ConvNet see", "the page's")
    introduction: str | None = option(None, "what stands before the chapters; {images} and other names are numbers")
    ending: str | None = option(None, "what stands after them")
    chapters: dict[str, dict[str, Any] | None] = option(
        {}, "in the order of the page: layer, heading, text, network of `networks`, units and what is seen in each"
    )
    networks: dict[str, dict[str, Any] | None] = option(
        {}, "others beside `model`: a model of configs/model, what replaces that file's settings, and source if another"
    )


EXPERIMENTS: dict[str, type[Options]] = {
    "atlas": Atlas,
    "circuit": Circuit,
    "compare_rules": CompareRules,
    "directions": Directions,
    "fig2_features": Fig2Features,
    "fig4_evolution": Fig4Evolution,
    "fig5_invariance": Fig5Invariance,
    "fig6_filters": Fig6Filters,
    "fig7_occlusion": Fig7Occlusion,
    "photograph": Photograph,
    "predict": Predict,
    "sanity_checks": SanityChecks,
    "table1_correspondence": Table1Correspondence,
    "table3_ablation": Table3Ablation,
    "table4_transfer": Table4Transfer,
    "table7_layers": Table7Layers,
    "tour": Tour,
    "train": Train,
    "which_image": WhichImage,
}
"""The options of each experiment, by its name in configs/experiment/ and experiments/."""
