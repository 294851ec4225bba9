"""What the experiments of the paper's training, Figures 4 to 7 and tables can be told: see `deconv.command.options`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from deconv.command.shared import (
    Probing,
    Scanning,
    Training,
    WithDraw,
    WithExplanations,
    WithModel,
    WithPhotographs,
    WithRule,
    WithUnits,
    option,
)
from deconv.training.recipe import Settings


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
class Fig6Filters(Scanning, WithDraw, WithRule):
    """The options of experiments/fig6_filters.py."""

    layers: list[str] = option(["conv1", "conv2"], "two: the first for its filters, the second to project")
    networks: dict[str, dict[str, Any] | None] = option(
        {}, "in the order of the figure: a model of configs/model, and what replaces that file's settings"
    )
    projected: list[str] = option([], "whose layer 2 is shown")


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
class Table3Ablation(Training):
    """The options of experiments/table3_ablation.py."""

    only: list[str] | None = option(None, "the variants to train and show, as [zfnet,krizhevsky]; null is all")
    trained: str | None = option(None, "where the variants' training runs are kept; null is the run's own folder")
    train_sample: int = option(5000, "training images, evenly spaced, that the training error is measured on", 1)
    variants: dict[str, dict[str, Any] | None] = option(
        {}, "title; model and what replaces its settings; paper: its validation error, top-1 and top-5, in %"
    )


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
class Table7Layers(Probing):
    """The options of experiments/table7_layers.py."""

    layers: list[str] | None = option(
        None, "in order of depth; null takes every layer the model has an alias for, and its output"
    )
    softmax_layers: list[str] | None = option(None, "those of them that also get a softmax; null takes the last two")


@dataclass
class Train(Training, WithModel):
    """The options of experiments/train.py."""
