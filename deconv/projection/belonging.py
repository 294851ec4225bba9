"""Whether mined peaks belong to the layer, the images and the network that they are sent back by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from deconv.errors import BadInput, RecordMismatch, bad_value
from deconv.images import Source, StreamedSource
from deconv.records import LayerPeaks

SCORE_TOLERANCE = 1e-3
"""Share of an activation by which the recomputed one may differ from that mined."""
ROUNDINGS = 8
"""Roundings to a type of fewer digits than float32 that a score may be off by."""
ROUNDING = 1e-5
"""Share of a layer's strongest activation that rounding may take from any: large terms may cancel in weak units."""


def check_belonging(images: Source | Tensor, layer: str, peaks: LayerPeaks, chosen: Sequence[int], units: int) -> None:
    """Raise RecordMismatch for peaks of a layer with other units, or of an image that is not among these.

    chosen: the units whose peaks must be there; `images` may be a part that has no others. units: how many the layer
    has.
    """
    if len(peaks.score) != units:
        raise RecordMismatch(f"these are peaks of {len(peaks.score)} units; {layer} has {units}: give peaks[{layer!r}]")
    of_peaks = peaks.of(chosen)[0].unique()
    if isinstance(images, Tensor):
        foreign = of_peaks[of_peaks >= len(images)]
    else:
        foreign = of_peaks[torch.from_numpy(images.lacks(of_peaks.numpy()))]
    if len(foreign):
        shown_count = "the" if isinstance(images, StreamedSource) else f"the {len(images)}"  # those would be counted
        raise RecordMismatch(
            f"these peaks lie in image {int(foreign[0])} among others, and {shown_count} images have none of that "
            "number: give the images that they were mined from, or mine these"
        )


@contextmanager
def of_peaks(layer: str) -> Iterator[None]:
    """Turn the error of a position that a layer does not have into RecordMismatch: nobody gave it but the peaks."""
    try:
        yield
    except BadInput as error:
        if error.argument not in ("row", "col"):
            raise
        raise RecordMismatch(
            f"these peaks are not of {layer} for these images ({error}): give peaks[{layer!r}], or mine again"
        ) from error


def check_scores(score: Tensor, mined: Tensor, layer: str, layer_scores: Tensor, rounding: float) -> None:
    """Raise unless the scores are those mined; the strongest of `layer_scores` says how large rounding may be.

    rounding: the relative error of one number of the network's; float32's is far below what is allowed.
    """
    if score.shape != mined.shape:
        raise bad_value("score", f"shape {tuple(mined.shape)}", f"one for each of {len(score)} peaks")
    if not len(score):
        return
    relative, absolute = max(SCORE_TOLERANCE, ROUNDINGS * rounding), max(ROUNDING, ROUNDINGS / 4 * rounding)
    allowed = relative * mined.abs() + absolute * layer_scores.nan_to_num(0).abs().amax()
    excess = ((score - mined).abs() - allowed).nan_to_num(float("inf"))
    if bool((excess > 0).any()):
        worst = int(excess.argmax())
        raise RecordMismatch(
            f"{layer}: peak {worst} was mined with score {float(mined[worst]):.6g} but now gives "
            f"{float(score[worst]):.6g}: the layer, weights, images or preprocessing are not those of the record. Mine "
            "again"
        )
