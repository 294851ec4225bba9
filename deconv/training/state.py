"""What a training run leaves after every epoch, so that one that was stopped goes on as if it had not been."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from deconv.errors import BadInput, RecordMismatch
from deconv.files import write_whole
from deconv.models.loading import load_into
from deconv.records.provenance import Provenance, check_same, plain
from deconv.training.metrics import Row, save_metrics
from deconv.training.recipe import Settings

MAY_CHANGE_ON_RESTART = ("epochs", "decay_epochs", "whole_epochs", "snapshots")
KEYS = {"model", "optimizer", "rows", "settings", "provenance"}


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    settings: Settings,
    provenance: Mapping[str, Any],
) -> None:
    """Write weights, a snapshot where one is asked for, metrics, and last the state that `restore` goes on from."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    content = safetensors.torch.save(weights)
    if len(rows) in settings.snapshots:
        write_whole(folder / "snapshots" / f"epoch-{len(rows):03d}.safetensors", content)
    write_whole(folder / "weights.safetensors", content)
    save_metrics(rows, folder)
    state = {
        "model": weights,
        "optimizer": optimizer.state_dict(),
        "rows": [asdict(row) for row in rows],
        "settings": asdict(settings),
        "provenance": plain(provenance),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(folder / "state.pt", buffer.getvalue())  # last: what stands beside it is never older than it


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, provenance: Mapping[str, Any]
) -> list[Row]:
    """Load a saved state into model and optimizer, and return the finished epochs; none if there is no file.

    Settings of MAY_CHANGE_ON_RESTART may differ from those of the state. Raises RecordMismatch, naming the difference,
    for a run of other settings or images and for a longer one, BadInput for a file that cannot be read.
    """
    if not path.is_file():
        return []
    state = _read(path, provenance)
    may_differ = {name: getattr(settings, name) for name in MAY_CHANGE_ON_RESTART}
    found = {**state["provenance"], "settings": {**state["settings"], **may_differ}}
    check_same(path, found, {**provenance, "settings": asdict(settings)}, "Use the same, or another folder")
    if len(state["rows"]) > settings.epochs:
        raise RecordMismatch(
            f"{path} has {len(state['rows'])} epochs; {settings.epochs} were asked for: use another folder"
        )
    load_into(model, state["model"], str(path))
    optimizer.load_state_dict(state["optimizer"])
    return [Row(**row) for row in state["rows"]]


def _read(path: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if "made_of" in state:
            state["provenance"] = _provenance_of_older(state["made_of"], provenance)
        missing = KEYS - state.keys()
        state.get("settings", {}).setdefault("optimizer", "sgd")  # the only one of older states
    except Exception as error:  # foreign bytes raise many types
        raise BadInput(f"{path} cannot be read ({type(error).__name__}): delete it to train from the start") from error
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}: delete it to train from the start")
    return state


def _provenance_of_older(made_of: Mapping[str, Any], expected: Mapping[str, Any]) -> Provenance:
    """Return what an older state says it was made of, as this version says it.

    An older state calls its provenance "made_of", in which images are {"source": name, "content": hash, "labels":
    hash}. The number of images is filled in from `expected`, and so is the hash of the labels, which was taken another
    way: the content hash stands for both, since it covers the keys that a folder's classes come from.
    """
    provenance = plain(made_of)
    for part in ("training", "validation"):
        older, newer = provenance.get(part), expected.get(part)
        if isinstance(older, dict) and isinstance(older.get("source"), str) and isinstance(newer, dict):
            source = {**newer["source"], "name": older["source"], "content": older["content"]}
            provenance[part] = {**newer, "source": source}
    return provenance
