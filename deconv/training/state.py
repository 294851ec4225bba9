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
from deconv.training.metrics import Row, save_metrics
from deconv.training.recipe import Settings

MAY_CHANGE_ON_RESTART = ("epochs", "decay_epochs", "whole_epochs", "snapshots")


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Sequence[Row],
    settings: Settings,
    provenance: Mapping[str, Any],
) -> None:
    """Weights, a snapshot where one is asked for, metrics, and last the state that `restore` goes on from."""
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
        "provenance": dict(provenance),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(folder / "state.pt", buffer.getvalue())  # last: what stands beside it is never older than it


def restore(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, provenance: Mapping[str, Any]
) -> list[Row]:
    """Load a saved state into model and optimizer and return the finished epochs; none if there is no file.

    Raises RecordMismatch for a run of other settings, images or a longer one, BadInput for a file that cannot be read.
    """
    if not path.is_file():
        return []
    state = _read(path)
    may_differ = {name: getattr(settings, name) for name in MAY_CHANGE_ON_RESTART}
    _check_same(path, {**state["settings"], **may_differ}, asdict(settings))
    _check_same(path, state["provenance"], dict(provenance))
    if len(state["rows"]) > settings.epochs:
        raise RecordMismatch(
            f"{path} has {len(state['rows'])} epochs; {settings.epochs} were asked for: use another folder"
        )
    load_into(model, state["model"], str(path))
    optimizer.load_state_dict(state["optimizer"])
    return [Row(**row) for row in state["rows"]]


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "optimizer", "rows", "settings", "provenance"} - state.keys()
    except Exception as error:  # foreign bytes raise many types
        raise BadInput(f"{path} cannot be read ({type(error).__name__}); delete it to train from the start") from error
    if missing:
        raise BadInput(f"{path} lacks {', '.join(sorted(missing))}; delete it to train from the start")
    return state


def _check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise RecordMismatch(
                f"{path} was trained with {name} {before.get(name)}; this run has {now.get(name)}: use the same, or "
                "another folder"
            )
