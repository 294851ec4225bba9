"""What a training run does, as numbers, and what they make of the learning rate and of dropout as it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deconv.errors import bad_value, check_choice

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("trapezoid", "one_cycle", "plateau")


def _number(default: Any, text: str) -> Any:
    """Return a field of the recipe with the line that `deconv --help experiment=train` shows of it."""
    return field(default=default, metadata={"help": text})


@dataclass
class Settings:
    """The recipe of the shipped zfnet64 by default; the one place where its numbers stand.

    Dropout rises from 0 because at 0.5 from the start the loss stays near that of chance for epochs (arXiv 1703.06229).
    The shares of crops are of the input image's side. Not frozen, since a configuration replaces what it differs in.
    Raises BadInput for values that cannot be used, UnknownName for an unknown schedule.

    >>> Settings(epochs=4).lr
    0.03
    """

    epochs: int = _number(30, "passes over the training images; paper: 70")
    batch_size: int = _number(128, "images in one step, as in the paper")
    optimizer: str = _number(
        "sgd", "sgd, with momentum, as in the paper; or adamw, which networks such as ConvNeXt want"
    )
    lr: float = _number(0.03, "the highest learning rate; paper: 0.01; adamw wants about 0.002")
    momentum: float = _number(0.9, "as in the paper; of adamw, that of its first moment")
    weight_decay: float = _number(
        5e-4, "added to each gradient, times the weight; of adamw, taken off the weight itself, and about 0.05"
    )
    label_smoothing: float = _number(0.1, "the share of each label spread over all classes; paper: 0")
    rms_limit: float | None = _number(0.1, "a filter's largest root mean square, as in the paper; null: no limit")
    dropout: float = _number(0.5, "before each hidden fully connected layer, as in the paper")
    dropout_epochs: int = _number(10, "epochs over which dropout rises to that, from 0 in the first; paper: 0")
    schedule: str = _number(
        "trapezoid", "the rate rises, holds and falls to 0; or one_cycle; or plateau, the paper's: see patience"
    )
    warmup_epochs: float = _number(0.3, "over which the rate rises; paper: 0")
    decay_epochs: float = _number(10.0, "the last of them, over which a trapezoid falls")
    patience: int = _number(3, "plateau: epochs without a better top-1, after which the rate falls to a tenth")
    crop_range: tuple[float, ...] = _number((0.75, 1.0), "sides of the crops as shares of the input image's side")
    crop_size: float = _number(0.875, "the side that crops are resized to, a share too; the paper cuts 224 of 256")
    whole_epochs: int = _number(4, "the last of them, which see whole input images, as validation does; paper: 0")
    bfloat16: bool = _number(True, "both passes in bfloat16 where torch holds it safe; weights stay float32")
    snapshots: tuple[int, ...] = _number((1, 2, 5, 10, 20, 30, 40, 64), "epochs whose weights are kept, for Figure 4")
    seed: int = _number(0, "decides the order of the images, the crops and dropout")

    def __post_init__(self) -> None:
        self.crop_range, self.snapshots = tuple(self.crop_range), tuple(self.snapshots)  # a configuration has lists
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        for name, (fits, expected) in _LIMITS.items():
            if not fits(getattr(self, name)):
                raise bad_value(name, getattr(self, name), expected)


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
    "rms_limit": (lambda value: value is None or value > 0, "a number above 0, or None for no limit"),
    "crop_size": (lambda value: 0 < value <= 2, "a share of the input image's side, above 0 and at most 2"),
    "crop_range": (
        lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1,
        "the smallest and the largest share of the input image's side, as (0.75, 1.0)",
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
