"""Training: a network learns the classes of a source, and leaves its weights, its metrics and how it got there."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from deconv.command.paper import Train
from deconv.figures.train import save_curves
from deconv.files import write_json, write_whole
from deconv.files.versions import versions
from deconv.models.loading import load_into
from deconv.models.presets import build_model, checked_device, preprocessing_of
from deconv.records.provenance import weights_hash
from deconv.training import evaluate, train
from deconv.training.data import Labelled
from deconv.training.images import open_images
from deconv.training.metrics import TIMES, Row


def run(options: Train, folder: Path) -> Path:
    """Train, or go on training, and sum up; returns the picture of the curves."""
    settings, device = options.training, checked_device(options.device)
    preprocessing = preprocessing_of(options.model)
    images = open_images(options.source, options.validation, options.held_out)
    model = model_for(options, images.classes)
    provenance = {
        "model": {key: options.model[key] for key in ("name", "arch", "target", "args") if key in options.model},
        "first_weights": weights_hash(model.state_dict()),
        "preprocessing": preprocessing.as_dict(),
        **images.provenance(),
        "device": device.type,
    }
    data, validation = images.decoded(preprocessing, options.cache)
    rows = train(model.to(device), data, validation, settings, folder, provenance, after_epoch=save_curves)
    summary: dict[str, Any] = {"settings": asdict(settings), "provenance": provenance, "versions": versions()}
    summary["images"] = {"training": len(data), "validation": len(validation)}
    summary["last_epoch"] = metrics(rows[-1])
    summary["weights"] = weights_hash(model.state_dict())
    summary["float16"] = save_rounded(model, validation, folder / "weights.float16.safetensors")
    write_json(folder / "summary.json", summary)
    write_json(folder / "times.json", times(rows))
    return folder / "curves.png"


def model_for(options: Train, classes: int) -> nn.Module:
    """The model, with an output for each class of the source unless its configuration gives another number.

    A network of the user's own is trained as it is, if it has enough outputs.
    """
    if options.model["name"] == "python":
        return build_model(options.model, options.seed)
    given = options.model.get("classes")
    return build_model(options.model, options.seed, classes=classes if given is None else given)


def save_rounded(model: nn.Module, validation: Labelled, path: Path) -> dict[str, Any]:
    """Write the weights rounded to float16, half the size, and return their hash and what exactly they reach."""
    rounded = {
        name: value.cpu().half() if value.is_floating_point() else value.cpu()
        for name, value in model.state_dict().items()
    }
    load_into(model, rounded, "float16")
    write_whole(path, safetensors.torch.save({name: value.contiguous() for name, value in rounded.items()}))
    loss, top1, top5 = evaluate(model, validation, bfloat16=False)
    reached = {"val_loss": loss, "val_top1": top1, "val_top5": top5}
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "precision": "float32", **reached}


def metrics(row: Row) -> dict[str, float]:
    """An epoch without its times, which are never the same twice."""
    return {name: value for name, value in asdict(row).items() if name not in TIMES}


def times(rows: list[Row]) -> dict[str, float]:
    """How long the epochs took, the interrupted ones left out."""
    return {
        "seconds": round(sum(row.seconds for row in rows), 1),
        "images_per_s": round(sum(row.images_per_s for row in rows) / len(rows), 1),
        "epochs": len(rows),
    }
