"""Tables 2 and 3: variants of the paper's networks, trained alike; their errors beside the paper's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from deconv.analyses import ablation
from deconv.command.shipped import choices, shipped
from deconv.errors import BadInput, UnknownName, nearest
from deconv.figures import save_figure
from deconv.figures.ablation import ablation_figure
from deconv.figures.train import save_curves
from deconv.files import write_json
from deconv.images.preprocessing import Preprocessing
from deconv.models import PREPROCESSING_KEYS, build, of_build
from deconv.progress import track
from deconv.records.provenance import versions, weights_hash
from deconv.training import train
from deconv.training.images import open_images
from deconv.training.recipe import Settings

OWN_KEYS = ("title", "paper", "model")


def run(config: DictConfig, folder: Path) -> Path:
    """Train what is not trained yet, measure, draw; returns the picture of the table."""
    settings = Settings(**config.training, seed=config.seed)
    variants = chosen(config)
    preprocessing = common_preprocessing(variants)
    images = open_images(config.source, config.validation, config.held_out)
    models = {name: untrained(variant, images.classes, config.seed) for name, variant in variants.items()}
    data, validation = images.decoded(preprocessing, config.cache)
    found, summary = {}, {}
    for name in track(models, "training variants", len(models), unit="variants"):
        provenance = {"first_weights": weights_hash(models[name].state_dict()), **images.provenance()}
        place = Path(config.trained or folder / "trained") / name
        train(models[name], data, validation, settings, place, provenance, after_epoch=save_curves)
        found[name] = ablation.error_rates(models[name], data, validation, config.train_sample)
        summary[name] = about(models[name], found[name], config.variants[name].get("paper"))
    tau = agreement(summary)
    heading = f"Tables 2 and 3: {len(data)} images, {settings.epochs} epochs; " + (
        "no order to compare" if tau is None else f"Kendall's tau of the top-1 errors with the paper's: {tau:.2f}"
    )
    papers = {name: config.variants[name].get("paper") for name in found}
    titles = {name: config.variants[name].get("title") or name for name in found}
    picture = save_figure(ablation_figure(found, papers, titles, heading), folder / "table3.png")
    provenance = {
        **images.provenance(),
        "preprocessing": preprocessing.as_dict(),
        "settings": asdict(settings),
        "versions": versions(),
    }
    write_json(folder / "summary.json", {"variants": summary, "kendall_tau": tau, "provenance": provenance})
    return picture


def chosen(config: DictConfig) -> dict[str, dict[str, Any]]:
    """The variants asked for: each what its model's file says, with its own settings in their place.

    Raises UnknownName for a variant, a model or a setting that does not exist, BadInput if none is left.
    """
    there = [str(name) for name, variant in config.variants.items() if variant is not None]
    names = list(config.only or there)
    for name in names:
        if name not in there:
            raise UnknownName(f"only: no variant {name!r}; there are {', '.join(there)}{nearest(str(name), there)}")
    if not names:
        raise BadInput("variants: every one of them is null; leave at least one to train")
    return {name: variant_settings(name, config.variants[name]) for name in names}


def variant_settings(name: str, variant: DictConfig) -> dict[str, Any]:
    """A model's file with what replaces its settings, from random weights."""
    known = choices("model")
    model = variant.get("model")
    if model not in known:
        raise UnknownName(f"variants.{name}.model={model}: there are {', '.join(known)}{nearest(str(model), known)}")
    of_model: dict[Any, Any] = OmegaConf.to_container(OmegaConf.load(shipped("configs") / "model" / f"{model}.yaml"))  # type: ignore[assignment]
    own: dict[Any, Any] = OmegaConf.to_container(variant)  # type: ignore[assignment]
    for key in own.keys() - set(OWN_KEYS) - set(of_model):
        raise UnknownName(f"variants.{name}.{key}: model {model} has no such setting{nearest(key, of_model)}")
    return {**of_model, "weights": "random", **{key: value for key, value in own.items() if key not in OWN_KEYS}}


def common_preprocessing(variants: dict[str, dict[str, Any]]) -> Preprocessing:
    """The preprocessing of all variants. Raises BadInput if they have not one in common."""
    by_variant = {
        name: Preprocessing(*(variant[key] for key in PREPROCESSING_KEYS)) for name, variant in variants.items()
    }
    first, *others = by_variant
    for name in others:
        if by_variant[name] != by_variant[first]:
            raise BadInput(f"variants {first} and {name} see images of different size or colours; give all the same")
    return by_variant[first]


def untrained(variant: dict[str, Any], classes: int, seed: int) -> nn.Module:
    """The variant with an output for each class, from the weights that the seed gives."""
    options = of_build(variant)
    return build(**{**options, "classes": options.get("classes") or classes}, seed=seed)


def about(model: nn.Module, errors: ablation.ErrorRates, paper: Any) -> dict[str, Any]:
    """The numbers of a variant."""
    return {
        "parameters": ablation.parameters(model),
        "errors": asdict(errors),
        "paper": None if paper is None else list(paper),
        "weights": weights_hash(model.state_dict()),
    }


def agreement(summary: dict[str, dict[str, Any]]) -> float | None:
    """How far our order of the variants is the paper's, of those that the paper has."""
    both = [numbers for numbers in summary.values() if numbers["paper"]]
    ours = [numbers["errors"]["val_top1"] for numbers in both]
    return ablation.rank_agreement(ours, [numbers["paper"][0] for numbers in both])
