"""How units form while a network learns: the image that fires each one most at every snapshot of the weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deconv.engines import Engine
from deconv.errors import BadInput, bad_value
from deconv.images import Source
from deconv.mining import mine_into
from deconv.network import Network
from deconv.records import Peaks

SNAPSHOT = re.compile(r"epoch-(\d+)\.safetensors")
QUARTERS = (0.25, 0.5, 0.75)


def find_snapshots(trained: str | Path, epochs: Sequence[int] | None = None) -> dict[int, Path]:
    """Return {epoch: weights file} of a training run's folder, in order: its snapshots/epoch-NNN.safetensors.

    epochs: the wanted ones; None takes all. Raises BadInput if the folder has none, lacks a wanted one, or if fewer
    than two are left to compare.
    """
    folder = Path(os.path.expanduser(trained)) / "snapshots"
    names = ((SNAPSHOT.fullmatch(path.name), path) for path in sorted(folder.glob("*")))
    snapshots = dict(sorted((int(name[1]), path) for name, path in names if name))
    if not snapshots:
        raise BadInput(f"there are no snapshots epoch-001.safetensors, ... in {folder}; give the folder of a training")
    missing = [epoch for epoch in epochs or () if epoch not in snapshots]
    if missing:
        raise bad_value("epochs", missing, f"some of {', '.join(map(str, snapshots))}, the snapshots in {folder}")
    chosen = {epoch: path for epoch, path in snapshots.items() if epochs is None or epoch in epochs}
    if len(chosen) < 2:
        raise bad_value("epochs", list(chosen), f"two or more of {folder}: one snapshot shows no change")
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
    """Mine the strongest peak of every unit of each layer over all images, at every epoch: {epoch: Peaks with k = 1}.

    networks: {epoch: the network with the weights of that epoch}. Each epoch's peaks are saved in `folder` and taken up
    by a later call. Raises what `deconv.mining.mine_into` raises.
    """
    files = {epoch: folder / f"epoch-{epoch:03d}.safetensors" for epoch in networks}
    return {
        epoch: mine_into(files[epoch], network, images, layers, 1, batch_size, precision=precision, engine=engine)
        for epoch, network in networks.items()
    }


def winners(peaks: Mapping[int, Peaks], layer: str) -> Int[Tensor, "epochs C"]:
    """Return the id of the image that fires each unit of a layer most; -1 where the unit fires on none."""
    return torch.stack([peaks[epoch][layer].image[:, 0] for epoch in peaks])


def settling_epochs(winning: Int[Tensor, "epochs C"], epochs: Sequence[int]) -> Float[Tensor, " C"]:
    """Return the first epoch from which a unit's winning image stays the same to the last.

    winning: as `winners` gives it, at these epochs, in order. A unit that fires on no image has no winner, and a unit
    that dies or wakes up is a change: a unit settles only once it fires for good. The epoch is inf for a unit that has
    not settled, since its winner at the last epoch is not that of the one before, and nan for one that is dead at the
    last epoch, whatever it did earlier.
    """
    agrees = winning == winning[-1]
    agreeing_at_the_end = agrees.flip(0).cumprod(0).sum(0)  # snapshots, counted from the last
    first = len(epochs) - agreeing_at_the_end
    settled = torch.tensor([float(epoch) for epoch in epochs], dtype=torch.float64)[first]
    settled = settled.where(agreeing_at_the_end > 1, float("inf"))
    return settled.where(winning[-1] >= 0, float("nan"))


def summarise(settled: Float[Tensor, " C"], epochs: Sequence[int]) -> dict[str, Any]:
    """Return the numbers of one layer, as JSON has them, of what `settling_epochs` gives.

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
