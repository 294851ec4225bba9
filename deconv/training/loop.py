"""The training loop: an epoch over random crops, validation on whole images, and everything saved after each epoch."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from deconv.errors import BadInput, DeconvError, bad_value, first_line
from deconv.files import claimed, remove_leftovers
from deconv.progress import track
from deconv.training import state as training_state
from deconv.training.data import Labelled, shuffled_crops
from deconv.training.metrics import Row, RunningMeans
from deconv.training.recipe import Settings, dropout_rate, learning_rate

EVALUATED_AT_ONCE = 500
"""Images in one forward pass of an evaluation: layer 1 of zfnet64, 96 maps of 30 x 30, then takes 173 MB in float32."""
MOST_EPOCHS = 100_003
"""Steps between the seeds of two runs' first epochs, so that no epoch of one run draws what one of another draws."""

log = logging.getLogger("deconv")


def train(
    model: nn.Module,
    data: Labelled,
    validation: Labelled,
    settings: Settings,
    folder: str | Path,
    provenance: Mapping[str, Any] | None = None,
    after_epoch: Callable[[Sequence[Row], Path], object] | None = None,
) -> list[Row]:
    """Train `model` in place, on the device where it is, and return the metrics of every epoch.

    - model: takes images (N, 3, H, W) float and returns scores (N, classes); it ends in eval mode.
    - data, validation: the images to train on and those to validate on after every epoch.
    - settings: the recipe.
    - folder: gets weights.safetensors, snapshots/, metrics.csv and state.pt after every epoch. The same call over a
      folder that has a state goes on from there and, on the same machine, ends with the same metrics and weights.
    - provenance: what else the run depends on, in plain values; a state of another is refused.
    - after_epoch: called with the rows of all epochs so far and the folder, before the state is saved.

    Raises BadInput if model and data do not fit, if the disk is full or may not be written to, and at once if another
    process trains into `folder`; DeconvError at a loss that is not a number (the last epoch's state stays);
    RecordMismatch, naming the difference, if `folder` holds a run of other settings or of something else.

    A linear classifier learns whether images are bright or dark:

    >>> import tempfile
    >>> from deconv.images.preprocessing import Preprocessing
    >>> _ = torch.manual_seed(0)
    >>> labels = torch.arange(32) % 2
    >>> pixels = (200 * labels[:, None, None, None]).expand(32, 8, 8, 3).to(torch.uint8)
    >>> data = Labelled(pixels, labels, Preprocessing((8, 8), None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    >>> settings = Settings(epochs=2, batch_size=8, crop_size=1.0, snapshots=(), bfloat16=False)
    >>> rows = train(model, data, data, settings, tempfile.mkdtemp())
    >>> len(rows), rows[-1].val_top1
    (2, 1.0)
    """
    folder, provenance = Path(folder), provenance or {}
    check_fit(model, data, validation, settings)
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, settings)
    remove_leftovers(folder)
    with claimed(folder):
        rows = training_state.restore(folder / "state.pt", model, optimizer, settings, provenance)
        model.eval()
        for epoch in range(len(rows) + 1, settings.epochs + 1):
            with _drawn_by(_epoch_seed(settings, epoch), _device(model)):  # restarts need no state of a generator
                rows.append(_epoch(model, optimizer, data, validation, settings, rows))
            if after_epoch is not None:
                after_epoch(rows, folder)  # before the state is saved: what stands beside it is never older than it
            training_state.save(folder, model, optimizer, rows, settings, provenance)
            seconds_left = (settings.epochs - epoch) * sum(row.seconds for row in rows) / epoch
            log.info("%s", rows[-1].line(settings.epochs, seconds_left))
    return rows


@torch.no_grad()
def evaluate(model: nn.Module, data: Labelled, bfloat16: bool) -> tuple[float, float, float]:
    """Return the mean cross-entropy in nats and the top-1 and top-5 accuracy, in 0..1, over whole images.

    bfloat16: whether the forward pass is in bfloat16 where torch holds it safe. The model is left in eval mode.
    """
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
    """Scale every convolution filter whose root mean square exceeds `limit` back to it (paper, section 3).

    >>> convolution = nn.Conv2d(3, 2, 5)
    >>> _ = nn.init.constant_(convolution.weight, 0.4)
    >>> limit_filter_rms(convolution, 0.1)
    >>> round(convolution.weight.max().item(), 6)
    0.1
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            rms = module.weight.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            module.weight.mul_((limit / rms.clamp(min=1e-30)).clamp(max=1.0))


def check_fit(model: nn.Module, data: Labelled, validation: Labelled, settings: Settings) -> None:
    """Raise BadInput unless the model gives scores for every class of the data at every size it will see.

    Runs on the meta device, which computes shapes only.
    """
    for name, value, kind in (("data", data, Labelled), ("validation", validation, Labelled)):
        if not isinstance(value, kind):
            raise bad_value(name, value, "labelled images", "make them with deconv.training.data.load or Labelled")
    if len(data) < settings.batch_size:
        raise BadInput(f"{len(data)} images to train on make no batch of {settings.batch_size}: lower batch_size")
    classes = int(max(data.labels.max(), validation.labels.max())) + 1
    on_meta = copy.deepcopy(model).to("meta").train()
    for side in (validation.side, _sizes(data, settings, whole=False)[0], data.side):
        shape = _shape_of_scores(on_meta, side)
        if len(shape) != 2 or shape[1] < classes:
            raise BadInput(
                f"the model gives {shape} for 2 images of {side} pixels; expected scores (2, {classes} or more) for "
                f"the classes 0 to {classes - 1}: build it with classes={classes} and with its classifier"
            )


def _shape_of_scores(model: nn.Module, side: int) -> tuple[int, ...]:
    try:
        scores = model(torch.empty(2, 3, side, side, device="meta"))
    except (DeconvError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"the model takes no images of {side} pixels, which it was to be trained on ({first_line(error)}): train "
            "with Settings(crop_size=1.0), or on images of the size that the model is made for"
        ) from error
    if not isinstance(scores, Tensor):
        raise BadInput(
            f"the model gives {type(scores).__name__} while it trains; expected one tensor of scores: use one without "
            "auxiliary outputs"
        )
    return tuple(scores.shape)


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), settings.lr, (settings.momentum, 0.999), weight_decay=decay)
    return torch.optim.SGD(model.parameters(), settings.lr, settings.momentum, weight_decay=decay)


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Labelled,
    validation: Labelled,
    settings: Settings,
    rows: list[Row],
) -> Row:
    """Run the epoch that follows `rows`: one pass over `data`, then validation."""
    started, means, epoch = time.monotonic(), RunningMeans(), len(rows) + 1
    _set_dropout(model.train(), dropout_rate(settings, epoch))
    size, crop_range = _sizes(data, settings, whole=epoch > settings.epochs - settings.whole_epochs)
    steps, val_top1 = len(data) // settings.batch_size, [row.val_top1 for row in rows]
    generator = torch.Generator().manual_seed(_epoch_seed(settings, epoch))
    crops = shuffled_crops(data, size, crop_range, settings.batch_size, generator)
    name, images = f"epoch {epoch} of {settings.epochs}", steps * settings.batch_size
    tracked = track(crops, name, images, size=lambda batch: len(batch[1]), status=lambda: str(means))
    for step, (batch, labels) in enumerate(tracked):
        rate = optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch - 1 + step / steps, val_top1)
        loss, right = _step(model, optimizer, data, batch, labels, settings)
        if not math.isfinite(loss):
            raise DeconvError(
                f"the loss became {loss} in epoch {epoch}, step {step}, at learning rate {rate:.3g}; it must stay "
                "finite: lower lr, lengthen warmup_epochs or set bfloat16=False in the settings, and give another "
                f"folder; this one keeps epoch {epoch - 1}"
            )
        means.add(len(labels), loss, right)
    images_per_s, seconds = means.images_per_s, time.monotonic() - started
    val_loss, top1, top5 = evaluate(model, validation, settings.bfloat16)
    return Row(epoch, rate, means.loss, means.top1, val_loss, top1, top5, seconds, images_per_s)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Labelled,
    crops: UInt8[Tensor, "n H W 3"],
    labels: Int[Tensor, " n"],
    settings: Settings,
) -> tuple[float, int]:
    """Learn from one batch; return its mean loss and its number of right answers, both before the step."""
    scores, labels = _scores(model, crops, data, settings.bfloat16), labels.to(_device(model))
    loss = functional.cross_entropy(scores, labels, label_smoothing=settings.label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if settings.rms_limit is not None:
        limit_filter_rms(model, settings.rms_limit)
    return loss.item(), int((scores.argmax(1) == labels).sum())


def _scores(
    model: nn.Module, images: UInt8[Tensor, "n H W 3"], data: Labelled, bfloat16: bool
) -> Float[Tensor, "n classes"]:
    device = _device(model)
    pixels = data.preprocessing.normalize(images.permute(0, 3, 1, 2)).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        scores: Tensor = model(pixels)
    return scores.float()


@contextmanager
def _drawn_by(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of the CPU, and of GPUs where the device is one, by a seed; afterwards they go on as before."""
    is_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if is_gpu else []):
        (torch.manual_seed if is_gpu else torch.default_generator.manual_seed)(seed)
        yield


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _sizes(data: Labelled, settings: Settings, whole: bool) -> tuple[int, tuple[int, int]]:
    """Return the side that the network sees, and the range of the sides that are cut for it, in pixels."""
    if whole:
        return data.side, (data.side, data.side)
    smallest, largest = (max(1, round(share * data.side)) for share in settings.crop_range)
    return max(1, round(settings.crop_size * data.side)), (smallest, largest)


def _set_dropout(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def _epoch_seed(settings: Settings, epoch: int) -> int:
    return settings.seed * MOST_EPOCHS + epoch
