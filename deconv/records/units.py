"""A table of units: how each fires over all images, and on which class most; a data frame of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deconv.errors import BadInput, needed
from deconv.records.formats import Columns

if TYPE_CHECKING:
    from deconv.records.peaks import Peaks


def unit_columns(peaks: Peaks) -> Columns:
    """Return columns with a row for each unit, layer by layer.

    - layer, channel (as in `Peaks.to_pandas`); strongest: its strongest activation; fires_on: how many of the `images`
      fire it; sparsity.
    - where images have classes: class_selectivity, selectivity_by_chance, preferred_class (of the largest mean, whether
      or not that is more than by chance), and class_mean, its mean on that class.

    What a dead unit has not is nan, and None of the class. Raises BadInput for peaks that were mined without `firing`.
    """
    if peaks.firing is None:
        raise BadInput("these peaks were mined without firing=True; expected peaks that say how units fire: mine again")
    parts = []
    for layer, of_layer in peaks.layers.items():
        firing, units = peaks.firing[layer], len(of_layer.score)
        columns: dict[str, Any] = {
            "layer": np.full(units, layer, dtype=object),
            "channel": np.arange(units),
            "strongest": of_layer.score[:, 0].numpy(),
            "fires_on": firing.counts.sum(dim=1).numpy(),
            "images": np.full(units, firing.images),
            "sparsity": np.array(firing.sparsity, dtype=float),
        }
        if (classes := firing.by_class) is not None:
            columns |= {
                "class_selectivity": np.array(classes.selectivity, dtype=float),
                "selectivity_by_chance": classes.chance.numpy(),
                "preferred_class": np.array([classes.preferred(unit) for unit in range(units)], dtype=object),
                "class_mean": np.where(firing.counts.any(dim=1), classes.mean.amax(dim=1), np.nan),
            }
        parts.append(columns)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def as_frame(columns: Columns, about: str) -> Any:
    """Return columns as a pandas.DataFrame. Raises BadInput where there is no pandas (the extra `pandas`)."""
    with needed(f"a data frame of {about}", "pandas", extra="pandas"):
        import pandas
    return pandas.DataFrame(columns)
