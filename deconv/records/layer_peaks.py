"""Where the units of one layer are strongest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from deconv.errors import check_indices, shown
from deconv.notebooks import ShownInNotebooks


@dataclass(frozen=True, eq=False)
class LayerPeaks(ShownInNotebooks):
    """The k strongest peaks of every unit of one layer, strongest first by (-score, image, row, col).

    - score: the activation; nan where there are fewer than k peaks.
    - image, row, col: the image id and the position on the layer's map; -1 where there are fewer than k peaks.
    - box: the receptive field.
    - layer: the name of the layer, by which `Peaks` has them; empty of peaks that belong to none.

    >>> import deconv, torch
    >>> image = torch.tensor([[4, 0], [2, -1]])
    >>> score, zeros, box = torch.tensor([[3.0, 1.5], [2.0, torch.nan]]), torch.zeros_like(image), torch.zeros(2, 2, 4)
    >>> peaks = deconv.records.LayerPeaks(score, image, zeros, zeros, box.long())
    >>> peaks
    <LayerPeaks: 2 units, 2 peaks each, 0 dead units>
    >>> [column.tolist() for column in peaks.of([1, 0])]
    [[2, 4, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    """

    score: Float[Tensor, "units k"]
    image: Int64[Tensor, "units k"]
    row: Int64[Tensor, "units k"]
    col: Int64[Tensor, "units k"]
    box: Int64[Tensor, "units k 4"]
    layer: str = ""

    def __repr__(self) -> str:
        units, k = self.score.shape
        dead = int((~self.found.any(dim=1)).sum())
        layer = f"{shown(self.layer)}, " if self.layer else ""
        return f"<LayerPeaks: {layer}{units} units, {k} peaks each, {dead} dead units>"

    @property
    def found(self) -> Bool[Tensor, "units k"]:
        """Which entries hold a peak."""
        return self.image >= 0

    def of(
        self, units: Iterable[int]
    ) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """Return (image, channel, row, col) of all peaks of some units: unit by unit, strongest first.

        Raises BadInput for a unit that the layer does not have.
        """
        chosen = self._chosen(units)
        exists = self.found[chosen]
        channel = chosen[:, None].expand_as(exists)
        return self.image[chosen][exists], channel[exists], self.row[chosen][exists], self.col[chosen][exists]

    def scores_of(self, units: Iterable[int]) -> Float[Tensor, " n"]:
        """Return the scores of all peaks of some units, in the order of `of`."""
        chosen = self._chosen(units)
        return self.score[chosen][self.found[chosen]]

    def _chosen(self, units: Iterable[int]) -> Tensor:
        return torch.tensor(check_indices("units", units, len(self.score), "units"), dtype=torch.int64)
