"""Training by the paper's section 3: SGD with momentum, dropout, and filters held to a root mean square of 1e-1."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from deconv.errors import BadInput, DeconvError
from deconv.progress import track
from deconv.training import state as training_state
from deconv.training.data import Labelled, shuffled_crops
from deconv.training.metrics import Row, RunningMeans
from deconv.training.recipe import Settings, dropout_rate, learning_rate

EVALUATED_AT_ONCE = 500

log = logging.getLogger("deconv")


def train(
    model: nn.Module,
    data: Labelled,
    validation: Labelled,
    settings: Settings,
    folder: Path,
    provenance: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Train `model` in place, where it is; leave weights, snapshots, metrics, curves and the state in `folder`.

    After every epoch the whole state is saved; the same call goes on from there and, on the same machine, ends with the
    same metrics and weights. `provenance` says in plain values what else the run depends on. The model ends in eval
    mode.
    Raises BadInput if model and data do not fit, DeconvError at a loss that is not a number (the last epoch's state
    stays), RecordMismatch if `folder` holds a run of other settings or of something else.
    """
    check_fit(model, data, validation, settings)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum, weight_decay=settings.weight_decay)
    rows = training_state.restore(folder / "state.pt", model, optimizer, settings, provenance or {})
    model.eval()
    for epoch in range(len(rows) + 1, settings.epochs + 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_epoch_seed(settings, epoch))  # restarts need no state of the generator
            rows.append(_epoch(model, optimizer, data, validation, settings, rows))
        training_state.save(folder, model, optimizer, rows, settings, provenance or {})
        left = (settings.epochs - epoch) * sum(row.seconds for row in rows) / epoch
        log.info("%s", rows[-1].line(settings.epochs, left))
    return rows


@torch.no_grad()
def evaluate(model: nn.Module, data: Labelled, bfloat16: bool) -> tuple[float, float, float]:
    """Mean cross-entropy, top-1 and top-5 accuracy (shares) of whole images; leaves the model in eval mode."""
    model.eval()
    loss, top1, top5 = 0.0, 0, 0
    for images, labels in zip(data.images.split(EVALUATED_AT_ONCE), data.labels.split(EVALUATED_AT_ONCE), strict=True):
        scores, labels = _scores(model, images, data, bfloat16), labels.to(_device(model))
        loss += float(functional.cross_entropy(scores, labels, reduction="sum"))
        right = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
        top1, top5 = top1 + int(right[:, 0].sum()), top5 + int(right.sum())
    return loss / len(data), top1 / len(data), top5 / len(data)


@torch.no_grad()
def limit_filter_rms(model: nn.Module, limit: float) -> None:
    """Scale every convolution filter whose root mean square exceeds `limit` back to it (paper, section 3)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            rms = module.weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            module.weight.mul_((limit / rms.clamp(min=1e-30)).clamp(max=1.0))


def check_fit(model: nn.Module, data: Labelled, validation: Labelled, settings: Settings) -> None:
    """Raise BadInput unless the model gives scores for every class of the data at every size it will see.

    Runs on the meta device, which computes shapes only.
    """
    if len(data) < settings.batch_size:
        raise BadInput(f"{len(data)} images to train on make no batch of {settings.batch_size}: lower batch_size")
    classes = int(max(data.labels.max(), validation.labels.max())) + 1
    on_paper = copy.deepcopy(model).to("meta").train()
    for side in (validation.side, _sizes(data, settings, whole=False)[0], data.side):
        given = _shape_of_scores(on_paper, side)
        if len(given) != 2 or given[1] < classes:
            raise BadInput(
                f"the model gives {given} for 2 images of {side} pixels; expected scores (2, {classes} or more) "
                f"for the classes 0 to {classes - 1}: set model.classes, and leave model.trunk=false"
            )


def _shape_of_scores(model: nn.Module, side: int) -> tuple[int, ...]:
    try:
        scores = model(torch.empty(2, 3, side, side, device="meta"))
    except (DeconvError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"the model takes no images of {side} pixels, which it was to be trained on ({reason}); set "
            "training.crop_size=1.0, or model.size to the one that it is made for"
        ) from error
    if not isinstance(scores, torch.Tensor):
        raise BadInput(
            f"the model gives {type(scores).__name__} while it trains; expected one tensor of scores: use one without "
            "auxiliary outputs"
        )
    return tuple(scores.shape)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Labelled,
    validation: Labelled,
    settings: Settings,
    rows: list[Row],
) -> Row:
    """The next epoch after `rows`: one pass over `data`, then validation."""
    started, means, epoch = time.monotonic(), RunningMeans(), len(rows) + 1
    _set_dropout(model.train(), dropout_rate(settings, epoch))
    size, crop_range = _sizes(data, settings, whole=epoch > settings.epochs - settings.whole_epochs)
    steps, top1 = len(data) // settings.batch_size, [row.val_top1 for row in rows]
    generator = torch.Generator().manual_seed(_epoch_seed(settings, epoch))
    crops = shuffled_crops(data, size, crop_range, settings.batch_size, generator)
    name, images = f"epoch {epoch} of {settings.epochs}", steps * settings.batch_size
    seen = track(crops, name, images, size=lambda batch: len(batch[1]), status=lambda: str(means))
    for step, (batch, labels) in enumerate(seen):
        rate = optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch - 1 + step / steps, top1)
        loss, right = _step(model, optimizer, data, batch, labels, settings)
        if not math.isfinite(loss):
            raise DeconvError(_not_finite(loss, epoch, step, rate))
        means.add(len(labels), loss, right)
    speed = means.images_per_s
    seconds = time.monotonic() - started
    measured = evaluate(model, validation, settings.bfloat16)
    return Row(epoch, rate, means.loss, means.top1, *measured, seconds, speed)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Labelled,
    crops: torch.Tensor,
    labels: torch.Tensor,
    settings: Settings,
) -> tuple[float, int]:
    scores, labels = _scores(model, crops, data, settings.bfloat16), labels.to(_device(model))
    loss = functional.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if settings.rms_limit is not None:
        limit_filter_rms(model, settings.rms_limit)
    return loss.item(), int((scores.argmax(1) == labels).sum())


def _scores(model: nn.Module, images: torch.Tensor, data: Labelled, bfloat16: bool) -> torch.Tensor:
    """Class scores (n, classes) float32 of uint8 images (n, H, W, 3)."""
    device = _device(model)
    pixels = data.preprocessing.normalize(images.permute(0, 3, 1, 2)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        scores: torch.Tensor = model(pixels)
    return scores.float()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _sizes(data: Labelled, settings: Settings, whole: bool) -> tuple[int, tuple[int, int]]:
    """The side that the network sees, and the range of the sides that are cut for it, in pixels."""
    if whole:
        return data.side, (data.side, data.side)
    smallest, largest = (max(1, round(share * data.side)) for share in settings.crop_range)
    return max(1, round(settings.crop_size * data.side)), (smallest, largest)


def _set_dropout(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _epoch_seed(settings: Settings, epoch: int) -> int:
    return settings.seed * 100_003 + epoch


def _not_finite(loss: float, epoch: int, step: int, rate: float) -> str:
    return (
        f"the loss became {loss} in epoch {epoch}, step {step}, at learning rate {rate:.3g}; it must stay finite: "
        "lower training.lr, lengthen training.warmup_epochs or set training.bfloat16=false, in another folder; this "
        f"one keeps epoch {epoch - 1}"
    )
