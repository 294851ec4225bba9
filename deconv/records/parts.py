"""What an activation is made of: what units of lower layers pass on of it, as a record and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from deconv.errors import check_count, unknown
from deconv.notebooks import ShownInNotebooks
from deconv.records.formats import Axes, Columns, needed_parquet
from deconv.records.provenance import Provenance

if TYPE_CHECKING:
    import pyarrow

PART_COLUMNS = ("peak", "image", "layer", "channel", "share", "row", "col")
"""Of a table of parts: one lower unit of one peak a row."""


@dataclass(frozen=True, eq=False)
class Parts(Mapping[str, Tensor], ShownInNotebooks):
    """What n activations are made of: a mapping from the name of a lower layer to its units' shares (n, units).

    A unit's share is what comes back to it on the way down times what it answered on the way up, summed over the
    positions of its layer, for an activation of one that is sent back. By the rule "gradient" it is the unit's part of
    the activation, in the activation's units: where nothing adds biases, the shares of a layer that all paths go
    through add up to the activation. A layer within a residual block is none: the skip connection leads around it.
    Whatever the shares leave is `rest`, and how much of that took another path is `around`.

    - shares: by layer.
    - positions: by layer, (row, col) on its map where the unit gives most of its share; -1 where the share is zero.
    - score: the activations.
    - image: the image id.
    - arounds: by layer, what `around` returns.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3, bias=False))
    >>> network, images = deconv.Network(net, (1, 8, 8), {"low": "1", "high": "2"}), torch.randn(2, 1, 8, 8)
    >>> recon = deconv.project(network, images, "high", [0, 1], [3, 3], [0, 2], [1, 2], "gradient", through=["low"])
    >>> recon.parts
    <Parts: of 2 activations, low (4 units)>
    >>> torch.allclose(recon.parts["low"].sum(dim=1), recon.score, atol=1e-6)
    True
    >>> list(recon.parts.strongest("low", 2)), bool(recon.parts.around("low").any())
    ([1, 0], False)
    """

    shares: dict[str, Float[Tensor, "n _"]] = field(default_factory=dict)
    positions: dict[str, Int64[Tensor, "n _ 2"]] = field(default_factory=dict)
    score: Float[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0))
    image: Int64[Tensor, " n"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    provenance: Provenance = field(default_factory=dict)
    arounds: dict[str, Float[Tensor, " n"]] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        if layer not in self.shares:
            raise unknown("layer of these parts", layer, self.shares, "name it in through=[...]")
        return self.shares[layer]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shares)

    def __len__(self) -> int:
        return len(self.shares)

    def __repr__(self) -> str:
        listed = [f"{layer} ({share.shape[1]} units)" for layer, share in self.shares.items()]
        return f"<Parts: of {len(self.score)} activations, {', '.join(listed) or 'no layers'}>"

    def rest(self, layer: str) -> Float[Tensor, " n"]:
        """Return what the shares of a layer leave of each activation: paths around it, biases, and the rule.

        >>> share, position = torch.tensor([[2.0, -0.5]]), torch.tensor([[[0, 3], [1, 1]]])
        >>> Parts({"low": share}, {"low": position}, torch.tensor([4.0]), torch.tensor([7])).rest("low").tolist()
        [2.5]
        """
        return self.score - self[layer].sum(dim=1)

    def around(self, layer: str) -> Float[Tensor, " n"]:
        """Return what paths around a layer carry of each activation, as a skip connection does; zero if there are none.

        It is what comes back, where the layer passes nothing on, to the nearest node that all paths go through below
        it, times what that answered: biases along those paths stay in the `rest`. NaN stands in a record of an older
        deconv, which did not measure it.

        >>> share, position = torch.tensor([[2.0, -0.5]]), torch.tensor([[[0, 3], [1, 1]]])
        >>> made_of = (torch.tensor([4.0]), torch.tensor([7]), {}, {"low": torch.tensor([2.25])})
        >>> Parts({"low": share}, {"low": position}, *made_of).around("low").tolist()
        [2.25]
        """
        return self.arounds.get(layer, torch.full_like(self[layer][:, 0], torch.nan))

    def of_whole(self, layer: str) -> Float[Tensor, " units"]:
        """Return each unit's share of all activations together, 1 being all of them; strong ones count for more.

        >>> share, position = torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.zeros((2, 2, 2), dtype=torch.int64)
        >>> Parts({"low": share}, {"low": position}, torch.tensor([3.0, 1.0]), torch.tensor([0, 1])).of_whole("low")
        tensor([0.5000, 0.5000])
        """
        return self._of_whole(self[layer])

    def around_of_whole(self, layer: str) -> float:
        """Return what paths around a layer carry of all activations together, 1 being all of them."""
        return float(self._of_whole(self.around(layer)))

    def strongest(self, layer: str, count: int = 5) -> dict[int, float]:
        """Return the units of a layer that pass most on, with their shares of all activations together, 1 being all.

        Of several units' activations, those of one are `recon.of(recon.channel == unit).parts`.
        Raises UnknownName for a layer that these parts are not of, BadInput for a count below 1.

        >>> share, position = torch.tensor([[2.0, -0.5, 1.0]]), torch.zeros((1, 3, 2), dtype=torch.int64)
        >>> Parts({"low": share}, {"low": position}, torch.tensor([4.0]), torch.tensor([7])).strongest("low", 2)
        {0: 0.5, 2: 0.25}
        """
        shares, units = self.of_whole(layer).sort(descending=True, stable=True)
        return dict(zip(units[: check_count("count", count)].tolist(), shares.tolist(), strict=False))

    def _of_whole(self, parts: Float[Tensor, "n ..."]) -> Tensor:
        total = self.score.sum()
        return parts.sum(dim=0) / total if total else torch.zeros_like(parts.sum(dim=0))

    def of(self, chosen: Shaped[Tensor, " m"]) -> Parts:
        """Return what some of the activations, by their numbers from 0 or by a mask (n,), are made of."""
        shares = {layer: share[chosen] for layer, share in self.shares.items()}
        positions = {layer: position[chosen] for layer, position in self.positions.items()}
        arounds = {layer: around[chosen] for layer, around in self.arounds.items()}
        return Parts(shares, positions, self.score[chosen], self.image[chosen], self.provenance, arounds)

    def to_arrow(self) -> pyarrow.Table:
        """Return an Arrow table, one lower unit of one peak a row; units whose share is zero have none.

        Its columns are peak (its number, from 0), image, layer and channel of the lower unit, share, and row and col
        where it gives most of it: with those, `deconv.project` sends the lower unit's own activation back.
        Raises BadInput where there is no pyarrow (the extra `parquet`).
        """
        return needed_parquet("of parts").parts_table(self._columns())

    def save(self, path: str | Path) -> Path:
        """Write the same table as a Parquet file. Raises BadInput where there is no pyarrow (the extra `parquet`).

        `Reconstructions.save` keeps all of it with the reconstructions, zeros as well.
        """
        written: Path = needed_parquet(path).save_parts(path, self._columns(), self.provenance)
        return written

    def _columns(self) -> Columns:
        rows: list[Columns] = []
        for layer, share in self.shares.items():
            peak, channel = share.nonzero().unbind(1)
            row, col = self.positions[layer][peak, channel].unbind(1)
            numbers = {"peak": peak, "image": self.image[peak], "channel": channel, "row": row, "col": col}
            columns = {name: column.numpy() for name, column in numbers.items()}
            words = np.array([layer] * len(peak), dtype=object)
            rows.append(columns | {"share": share[peak, channel].numpy(), "layer": words})
        empty = {name: np.zeros(0, dtype=object if name == "layer" else np.int64) for name in PART_COLUMNS}
        return {name: np.concatenate([columns[name] for columns in rows or [empty]]) for name in PART_COLUMNS}


def part_tensors(parts: Parts) -> dict[str, Tensor]:
    """Return what a file keeps of parts: a layer's tensors by its number, for a name may be anything."""
    tensors: dict[str, Tensor] = {}
    for n, layer in enumerate(parts):
        tensors |= {f"parts.{n}.share": parts.shares[layer], f"parts.{n}.position": parts.positions[layer]}
        tensors |= {f"parts.{n}.around": parts.arounds[layer]} if layer in parts.arounds else {}
    return tensors


def part_axes(names: Mapping[str, Tensor]) -> Axes:
    """Return the axes of those among a file's tensors that are of parts."""
    layers = sum(name.startswith("parts.") and name.endswith(".share") for name in names)
    axes: dict[str, tuple[torch.dtype, str]] = {}
    for n in range(layers):
        axes |= {f"parts.{n}.share": (torch.float32, f"N U{n}"), f"parts.{n}.position": (torch.int64, f"N U{n} 2")}
        axes |= {f"parts.{n}.around": (torch.float32, "N")} if f"parts.{n}.around" in names else {}  # not in older ones
    return axes


def parts_from(tensors: dict[str, Tensor], layers: list[str], provenance: Provenance) -> Parts:
    """Return the parts in a file's tensors, which are taken out of them. Raises ValueError if the layers are others."""
    columns = {name: tensors.pop(name) for name in list(part_axes(tensors))}
    count = sum(name.endswith(".share") for name in columns)
    if count != len(layers) or {type(layer) for layer in layers} - {str}:
        raise ValueError(f"its parts are of {count} layers, and it names {len(layers)}")
    if not layers:
        return Parts()
    shares, positions, arounds = (
        {layer: columns[f"parts.{n}.{kind}"] for n, layer in enumerate(layers) if f"parts.{n}.{kind}" in columns}
        for kind in ("share", "position", "around")
    )
    return Parts(shares, positions, tensors["score"], tensors["image"], provenance, arounds)
