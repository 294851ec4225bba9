"""The options that several experiments have, each in the smallest class that says what such an experiment does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deconv.training.recipe import Settings

MOST_SEED = 2**32 - 1
"""The libraries agree on no larger seed."""


def option(default: Any, text: str, least: int | None = None, most: int | None = None, filled: bool = False) -> Any:
    """Return a field with its default, the line that help shows of it, and its limits (of a list: its items').

    filled: whether a list must have an item.
    """
    metadata = {"help": text, "least": least, "most": most, "filled": filled}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(text: str) -> Any:
    """Return what a file of configs/ says, chosen by its name and changed key by key."""
    return option({}, text)


@dataclass
class Rule:
    """The way back to pixels, as `deconv.projection.rules.Rule` has it; configs/rule/ has the named ones."""

    relu: str = option("backward", "what passes a rectifier: backward, forward (the mask), both or none")
    switches: str = option(
        "recorded", "where unpooling puts a signal: recorded, random, centre; compare_rules takes other as well"
    )
    bias: str = option("none", "none, or subtract it before the transposed filters")
    lrn: str = option("identity", "local response normalisation: identity, or its derivative")
    batch_norm: str = option("scale", "batch normalisation: its scale, or identity")
    seed: int = option(0, "decides random switches", 0, MOST_SEED)
    activation: str = option(
        "refuse", "SiLU, GELU, LeakyReLU and the like: refuse, rectify (as relu says) or derivative"
    )
    gate: str = option("refuse", "a factor that gates, as in squeeze-and-excitation: refuse, constant or derivative")
    norm: str = option("refuse", "norms by the image's own mean and deviation: refuse, constant or derivative")
    linear: str = option("transpose", "the signal by transposed weights, or LRP's shares: transpose, epsilon or z_plus")
    epsilon: float = option(1e-6, "how far LRP keeps from zero what it divides by")


@dataclass
class Options:
    """What every experiment has."""

    source: dict[str, Any] = group("the images")
    seed: int = option(0, "decides all that is drawn at random, random weights among it", 0, MOST_SEED)
    folder: str | None = option(
        None, "where the run goes; one that exists is taken up; null is outputs/<experiment>/<time>"
    )
    device: str = option("cpu", "what networks work on: cpu, or cuda for a GPU, cuda:1 for the second")


@dataclass
class WithModel(Options):
    """An experiment that looks into one network."""

    model: dict[str, Any] = group("the network")


@dataclass
class WithCache(Options):
    """An experiment that reads many images, as the network sees them."""

    cache: str | None = option(None, "a folder in which decoded input images are kept, for runs over the same images")


@dataclass
class Scanning(WithCache):
    """An experiment that runs a network over all images to find each unit's strongest peaks."""

    within: str | None = option(
        None, "the class that images are taken of, by its name or number, as within=goldfish; null is all images"
    )
    engine: dict[str, Any] = group("where the work is done")
    batch_size: int = option(16, "images in one forward pass", 1)
    precision: str = option(
        "float32",
        "of mining's first pass: float32, or bfloat16 (faster on some; checked in float32, not proven)",
    )


@dataclass
class WithLayers(Options):
    """An experiment that looks at some layers, or at all."""

    layers: list[str] | None = option(
        None,
        "layers to look at, as [fire5,fire9]; null takes all that have an alias and that the rule can send back",
        filled=True,
    )


@dataclass
class WithDirections(WithModel):
    """An experiment that also looks at directions over the layers of its network."""

    directions: dict[str, dict[str, Any] | None] = option(
        {}, "weighted sums of channels as layers LAYER@NAME: directions.NAME.file=PATH directions.NAME.layer=LAYER"
    )


@dataclass
class Mining(Scanning, WithDirections, WithLayers):
    """An experiment that mines one network's peaks."""

    k: int = option(9, "strongest peaks of each unit", 1)
    per_image: int = option(1, "peaks that one image may give to a unit", 1)


@dataclass
class WithReference(WithModel):
    """An experiment that says how strongly the images excite a unit, beside many others."""

    reference: str | None = option(
        None, "peaks.safetensors of a larger mining by this network; null is what travels with its weights, if any"
    )


@dataclass
class WithDraw(Options):
    """An experiment that draws units at random."""

    n_units: int = option(16, "units of each layer, drawn by the seed among those that fire, most peaks first", 1)


@dataclass
class WithUnits(WithDraw):
    """An experiment that shows some units of each layer."""

    units: list[int] | None = option(None, "units of each layer, as [3,17]; null draws n_units of them", 0, filled=True)


@dataclass
class WithExplanations(Options):
    """An experiment that takes functions of one's own beside rules."""

    explanations: dict[str, str] = option(
        {}, "functions beside rules, as explanations.mine=package.module:function, or file.py:function"
    )


@dataclass
class WithRule(Options):
    """An experiment that sends signals back to pixels by one rule."""

    rule: Rule = field(default_factory=Rule, metadata={"help": "the way back to pixels"})


@dataclass
class WithField(Options):
    """An experiment that shows reconstructions beside their patches."""

    field: str = option(
        "effective", "of each receptive field: effective, the middle that holds 95 % of the energy, or full"
    )


@dataclass
class WithPhotographs(WithModel):
    """An experiment on a few photographs, with their classes."""

    images: list[int | str] | None = option(
        None, "keys or numbers of photographs; null: the first ones", 0, filled=True
    )
    labels: list[int | str] | None = option(
        None, "the true class of each, by name or number; null is what the network finds most probable", 0
    )


@dataclass
class Probing(WithModel):
    """An experiment that classifies images by a layer's features."""

    batch_size: int = option(16, "images in one forward pass", 1)
    features: str | None = option(None, "a folder in which the features are kept; null is one in the run's own")
    train_per_class: int = option(15, "images of each class to train on", 1)
    test_per_class: int = option(10, "at most so many of the others to test on", 1)
    splits: int = option(3, "how often training and test images are drawn", 1)
    penalties: list[float] = option(
        [0.1, 1.0, 10.0], "values of the classifier's C to choose from, on a third of the training images"
    )
    grid: int = option(6, "each map is averaged over at most grid x grid positions", 1)


@dataclass
class Training(WithCache):
    """An experiment that trains on labelled images."""

    validation: str | None = option(
        None, "other images to validate on, given as source.urls, source.root or source.split is; null holds some out"
    )
    held_out: float = option(0.1, "the share held out if validation is null: 0.1 is every tenth image")
    training: Settings = field(default_factory=Settings, metadata={"help": "the recipe"})
