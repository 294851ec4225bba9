"""How units form while a network learns: the image that fires each one most at every snapshot of the weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconv.engines import Engine
from deconv.errors import BadInput
from deconv.images import Source
from deconv.mining import mine_into
from deconv.network import Network
from deconv.records import Peaks

SNAPSHOT = re.compile(r"epoch-(\d+)\.safetensors")
QUARTERS = (0.25, 0.5, 0.75)


def find_snapshots(trained: str | Path, epochs: Sequence[int] | None = None) -> dict[int, Path]:
    """{epoch: weights file} of a training run's folder, in order; the run left them as snapshots/epoch-NNN.safetensors.

    epochs: the wanted ones; None takes all. Raises BadInput if the folder has none, lacks a wanted one, or if fewer
    than two are left to compare.
    """
    folder = Path(os.path.expanduser(trained)) / "snapshots"
    names = ((SNAPSHOT.fullmatch(path.name), path) for path in sorted(folder.glob("*")))
    there = dict(sorted((int(name[1]), path) for name, path in names if name))
    if not there:
        raise BadInput(f"there are no snapshots epoch-001.safetensors, ... in {folder}; give the folder of a training.")
    missing = [epoch for epoch in epochs or () if epoch not in there]
    if missing:
        raise BadInput(
            f"epochs {missing}: {folder} has no snapshot of them; expected some of {', '.join(map(str, there))}."
        )
    chosen = {epoch: path for epoch, path in there.items() if epochs is None or epoch in epochs}
    if len(chosen) < 2:
        raise BadInput(f"epochs {list(chosen)}: one snapshot shows no change; expected two or more of {folder}.")
    return chosen


def mine_epochs(
    networks: Mapping[int, Network],
    images: Source,
    layers: Sequence[str],
    folder: Path,
    batch_size: int = 64,
    precision: str = "float32",
    engine: Engine | None = None,
) -> dict[int, Peaks]:
    """The strongest peak of every unit of each layer over all images, at every epoch: {epoch: Peaks with k = 1}.

    networks: {epoch: the network with the weights of that epoch}. Each epoch's peaks are saved in `folder` and taken up
    by a later call. Raises what `deconv.mining.mine_into` raises.
    """
    files = {epoch: folder / f"epoch-{epoch:03d}.parquet" for epoch in networks}
    return {
        epoch: mine_into(files[epoch], network, images, layers, 1, batch_size, precision=precision, engine=engine)
        for epoch, network in networks.items()
    }


def winners(peaks: Mapping[int, Peaks], layer: str) -> Tensor:
    """(epochs, C) int64: the image that fires each unit of a layer most; -1 where the unit fires on none."""
    return torch.stack([peaks[epoch][layer].image[:, 0] for epoch in peaks])


def settling_epochs(winning: Tensor, epochs: Sequence[int]) -> Tensor:
    """(C,) float64: the first epoch from which a unit's winning image stays the same to the last.

    winning (E, C) int64 as `winners` gives it, at these epochs (E,), in order. A unit that fires on no image has no
    winner, and a unit that dies or wakes up is a change: a unit settles only once it fires for good. inf: not settled,
    since its winner at the last epoch is not that of the one before. nan: dead at the last epoch, whatever it
    did earlier.
    """
    agrees = winning == winning[-1]
    since = agrees.flip(0).cumprod(0).sum(0)  # of how many snapshots, counted from the last, the winner is the last one
    first = len(epochs) - since
    settled = torch.tensor([float(epoch) for epoch in epochs], dtype=torch.float64)[first]
    settled = settled.where(since > 1, float("inf"))
    return settled.where(winning[-1] >= 0, float("nan"))


def summarise(settled: Tensor, epochs: Sequence[int]) -> dict[str, Any]:
    """The numbers of one layer, as JSON has them, of what `settling_epochs` gives.

    `settled_share` has the share of living units settled by each epoch but the last, of which nothing can be said;
    `quartiles` the epochs by which a quarter, half and three quarters of them are, None where training ends before.
    """
    alive = settled[~settled.isnan()]
    share = {epoch: float((alive <= epoch).double().mean()) if len(alive) else None for epoch in list(epochs)[:-1]}
    return {
        "units": len(settled),
        "dead_units": len(settled) - len(alive),
        "not_settled": int(alive.isinf().sum()),
        "quartiles": [next((e for e, part in share.items() if part is not None and part >= q), None) for q in QUARTERS],
        "settled_share": share,
    }
