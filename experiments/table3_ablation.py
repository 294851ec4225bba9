"""Tables 2 and 3: variants of the paper's networks, trained alike; their errors beside the paper's."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from deconv.analyses import ablation
from deconv.command.paper import Table3Ablation
from deconv.errors import BadInput, check_choice
from deconv.figures import save_figure
from deconv.figures.ablation import ablation_figure
from deconv.figures.train import save_curves
from deconv.files import write_json
from deconv.images.preprocessing import Preprocessing
from deconv.models.presets import build_model, checked_device, preprocessing_of, replaced_settings
from deconv.progress import track
from deconv.records.provenance import build as build_provenance
from deconv.records.provenance import weights_hash
from deconv.training import train
from deconv.training.images import open_images

OWN = ("title", "paper")
"""Of a variant, what is not its model's."""


def run(options: Table3Ablation, folder: Path) -> Path:
    """Train what is not trained yet, measure, draw; returns the picture of the table."""
    settings, variants, device = options.training, chosen(options), checked_device(options.device)
    described = {
        name: replaced_settings(f"variants.{name}", {"weights": "random"} | v, OWN) for name, v in variants.items()
    }
    preprocessing = common_preprocessing(described)
    images = open_images(options.source, options.validation, options.held_out)
    models = {name: untrained(described[name], images.classes, options.seed) for name in variants}
    data, validation = images.decoded(preprocessing, options.cache)
    rates, summary = {}, {}
    for name in track(models, "training variants", len(models), unit="variants"):
        provenance = {
            "first_weights": weights_hash(models[name].state_dict()),
            **images.provenance(),
            "device": device.type,
        }
        trained_in = Path(options.trained or folder / "trained") / name
        train(models[name].to(device), data, validation, settings, trained_in, provenance, after_epoch=save_curves)
        rates[name] = ablation.error_rates(models[name], data, validation, options.train_sample)
        summary[name] = summarise(models[name], rates[name], variants[name].get("paper"))
    tau = agreement(summary)
    heading = f"Tables 2 and 3: {len(data)} images, {settings.epochs} epochs; " + (
        "no order to compare" if tau is None else f"Kendall's tau of the top-1 errors with the paper's: {tau:.2f}"
    )
    papers = {name: variants[name].get("paper") for name in rates}
    titles = {name: variants[name].get("title") or name for name in rates}
    picture = save_figure(ablation_figure(rates, papers, titles, heading), folder / "table3.png")
    provenance = build_provenance(images.provenance(), preprocessing=preprocessing.as_dict(), settings=asdict(settings))
    write_json(folder / "summary.json", {"variants": summary, "kendall_tau": tau, "provenance": provenance})
    return picture


def chosen(options: Table3Ablation) -> dict[str, dict[str, Any]]:
    """The variants asked for. Raises UnknownName for one that does not exist, BadInput if none is left."""
    variants = {name: variant for name, variant in options.variants.items() if variant is not None}
    if not variants:
        raise BadInput("variants: every one of them is null; leave at least one to train")
    return {check_choice("variant", name, variants): variants[name] for name in options.only or variants}


def common_preprocessing(variants: dict[str, dict[str, Any]]) -> Preprocessing:
    """The preprocessing of all variants. Raises BadInput if they have not one in common."""
    by_variant = {name: preprocessing_of(variant) for name, variant in variants.items()}
    first, *others = by_variant
    for name in others:
        if by_variant[name] != by_variant[first]:
            raise BadInput(f"variants {first} and {name} see images of different size or colours; give all the same")
    return by_variant[first]


def untrained(variant: dict[str, Any], classes: int, seed: int) -> nn.Module:
    """The variant with an output for each class, from the weights that the seed gives."""
    return build_model(variant, seed, classes=variant.get("classes") or classes)


def summarise(model: nn.Module, errors: ablation.ErrorRates, paper: Any) -> dict[str, Any]:
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
