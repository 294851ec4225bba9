"""What a unit's page shows beyond its strongest peaks: a row of images for each quantile of how it fires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deconv.atlas import sprites
from deconv.atlas.contents import Layer
from deconv.records.firing import FiringStep


@dataclass(frozen=True)
class BeyondRow:
    """Images that fire a unit about as strongly as at a quantile, as its page shows them.

    tiles: of each of them its activation, and (x, y) of its tiles on the plate by kind.
    """

    step: FiringStep
    tiles: list[tuple[float, dict[str, tuple[int, int]]]]


def beyond(layer: Layer, unit: int, plate: sprites.Plate) -> dict[str, Any] | None:
    """Return the rows of what lies beyond the strongest peaks, and the file and the size of their plate."""
    if layer.beyond is None:
        return None
    scores, rows = iter(layer.beyond.scores_of([unit]).tolist()), []
    for number, step in enumerate(layer.firing.steps(unit)):
        columns = range(len(step.drawn))
        corners = [{kind: plate.beyond_corner(number, n, kind) for kind in sprites.KINDS[:2]} for n in columns]
        rows.append(BeyondRow(step, [(next(scores), corner) for corner in corners]))
    return {"rows": rows, "file": plate.beyond_file(unit), "size": plate.beyond_size(len(rows))}
