"""How training is watched: running means while an epoch goes on, metrics.csv after every epoch."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from deconv.files import write_whole

TIMES = ("seconds", "images_per_s")


@dataclass(frozen=True)
class Row:
    """One epoch's metrics: losses in nats, accuracies in 0..1, of the training crops and of whole validation images.

    lr: the learning rate of the last step.  seconds, images_per_s: how long the pass over the crops took; two runs
    differ in these alone, so they are not compared and not written where equal runs must leave equal bytes.
    """

    epoch: int
    lr: float
    train_loss: float
    train_top1: float
    val_loss: float
    val_top1: float
    val_top5: float
    seconds: float = field(default=0.0, compare=False)
    images_per_s: float = field(default=0.0, compare=False)

    def line(self, epochs: int, seconds_left: float) -> str:
        """Return the epoch as a line of the log; epochs: how many the run has."""
        return (
            f"epoch {self.epoch} of {epochs}: training loss {self.train_loss:.3f}, top-1 {self.train_top1:.1%}; "
            f"validation loss {self.val_loss:.3f}, top-1 {self.val_top1:.1%}, top-5 {self.val_top5:.1%}; "
            f"{self.images_per_s:.0f} images/s, {seconds_left / 60:.0f} min left"
        )


class RunningMeans:
    """The mean loss and the accuracy over the images of an epoch so far, and the images per second.

    >>> means = RunningMeans()
    >>> means.add(images=128, loss=2.0, right=32)
    >>> print(means)
    loss 2.000, top-1 25.0%
    """

    def __init__(self) -> None:
        self.images, self.loss_sum, self.right = 0, 0.0, 0
        self.started = time.monotonic()

    def add(self, images: int, loss: float, right: int) -> None:
        """Add one step: its number of images, their mean loss, and the number of right answers."""
        self.images += images
        self.loss_sum += images * loss
        self.right += right

    @property
    def loss(self) -> float:
        """The mean loss in nats."""
        return self.loss_sum / max(1, self.images)

    @property
    def top1(self) -> float:
        """The fraction of right answers."""
        return self.right / max(1, self.images)

    @property
    def images_per_s(self) -> float:
        """The images per second since the epoch began."""
        return self.images / max(1e-9, time.monotonic() - self.started)

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}, top-1 {self.top1:.1%}"


def save_metrics(rows: Sequence[Row], folder: Path) -> None:
    """Write `metrics.csv`, one line an epoch, into `folder`."""
    names = [column.name for column in fields(Row) if column.name not in TIMES]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: value if name == "epoch" else f"{value:.6g}" for name, value in asdict(row).items()})
    write_whole(folder / "metrics.csv", text.getvalue().encode())
