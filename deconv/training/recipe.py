"""What a training run does, as numbers, and what they make of the learning rate and of dropout as it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deconv.errors import BadInput, nearest

SCHEDULES = ("trapezoid", "one_cycle", "plateau")


@dataclass(frozen=True)
class Settings:
    """The recipe of the shipped zfnet64 by default; configs/experiment/train.yaml explains every number.

    schedule: "trapezoid" (rises for `warmup_epochs`, holds, falls to 0 over the last `decay_epochs`), "one_cycle"
    (the same rise, then a cosine to 0) or "plateau" (the paper's way: a tenth whenever validation top-1 has not
    improved for `patience` epochs). dropout: the rate of every nn.Dropout, reached linearly over `dropout_epochs`
    (arXiv 1703.06229: at 0.5 from the start the loss stays near that of chance for epochs). rms_limit: None leaves the
    filters alone. crop_range, crop_size: as shares of the input image's side, what is cut and the side that it is
    resized to;
    the last `whole_epochs` see whole input images instead. snapshots: the epochs whose weights are kept.
    Raises BadInput for values that cannot be used.
    """

    epochs: int = 30
    batch_size: int = 128
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    rms_limit: float | None = 0.1
    dropout: float = 0.5
    dropout_epochs: int = 10
    schedule: str = "trapezoid"
    warmup_epochs: float = 0.3
    decay_epochs: float = 10.0
    patience: int = 3
    crop_range: Sequence[float] = (0.75, 1.0)
    crop_size: float = 0.875
    whole_epochs: int = 4
    bfloat16: bool = True
    snapshots: Sequence[int] = (1, 2, 5, 10, 20, 30, 40, 64)
    seed: int = 0

    def __post_init__(self) -> None:
        # A configuration hands lists over; tuples keep the record hashable.
        object.__setattr__(self, "crop_range", tuple(self.crop_range))
        object.__setattr__(self, "snapshots", tuple(self.snapshots))
        if self.schedule not in SCHEDULES:
            hint = nearest(self.schedule, SCHEDULES)
            raise BadInput(f"schedule {self.schedule!r}: expected one of {', '.join(SCHEDULES)}{hint}")
        for name, (fits, wanted) in _LIMITS.items():
            if not fits(getattr(self, name)):
                raise BadInput(f"training.{name} is {getattr(self, name)}; expected {wanted}")


_LIMITS = {
    **dict.fromkeys(("epochs", "batch_size", "patience"), (lambda value: value >= 1, "1 or more")),
    **dict.fromkeys(
        ("weight_decay", "dropout_epochs", "warmup_epochs", "decay_epochs", "whole_epochs"),
        (lambda value: 0 <= value < math.inf, "0 or more"),
    ),
    **dict.fromkeys(
        ("momentum", "label_smoothing", "dropout"), (lambda value: 0 <= value < 1, "a number from 0 up to, but not, 1")
    ),
    "lr": (lambda value: 0 < value < math.inf, "a number above 0"),
    "rms_limit": (lambda value: value is None or value > 0, "a number above 0, or null for no limit"),
    "crop_size": (lambda value: 0 < value <= 2, "a share of the input image's side, above 0 and at most 2"),
    "crop_range": (
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        "the smallest and the largest share of the input image's side, as [0.75,1.0]",
    ),
}


WARMUP_LEAD = 0.02
"""Epochs that the rise of the learning rate is ahead, so that the first step has a rate above 0: of a warm-up of 0.3
epochs it is 7 %, and 8 steps of the 391 that 50,000 images in batches of 128 make."""


def learning_rate(settings: Settings, epochs_done: float, val_top1: Sequence[float]) -> float:
    """Return the rate after `epochs_done` epochs, a fraction within one, given validation top-1 of the finished ones.

    >>> [learning_rate(Settings(epochs=30, lr=0.03), done, []) for done in (1.0, 25.0)]
    [0.03, 0.015]
    """
    if settings.schedule == "plateau":
        return settings.lr * 0.1 ** _stalls(val_top1, settings.patience)
    rise = min(1.0, (epochs_done + WARMUP_LEAD) / settings.warmup_epochs) if settings.warmup_epochs else 1.0
    if settings.schedule == "trapezoid":
        fall = (settings.epochs - epochs_done) / settings.decay_epochs if settings.decay_epochs else 1.0
        return settings.lr * min(rise, fall)
    if epochs_done < settings.warmup_epochs:
        return settings.lr * rise
    fraction = (epochs_done - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
    return settings.lr * (1 + math.cos(math.pi * fraction)) / 2


def dropout_rate(settings: Settings, epoch: int) -> float:
    """Return the rate of dropout during an epoch, counted from 1: 0 in the first, in full after `dropout_epochs`."""
    fraction = (epoch - 1) / settings.dropout_epochs if settings.dropout_epochs else 1.0
    return settings.dropout * min(1.0, fraction)


def _stalls(val_top1: Sequence[float], patience: int) -> int:
    """Count how often `patience` epochs in a row brought nothing better; the wait starts anew after each time."""
    stalls, best, waited = 0, -1.0, 0
    for value in val_top1:
        waited = 0 if value > best else waited + 1
        best = max(best, value)
        if waited == patience:
            stalls, waited = stalls + 1, 0
    return stalls
