"""All metrics of one rule for units of one layer, and their means with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import bootstrap

from deconv.compare.arrays import grey, inside_rows_cols
from deconv.compare.concentration import concentration
from deconv.compare.grouping import alikeness
from deconv.compare.likeness import likeness, pearson
from deconv.compare.peak_set import PeakSet
from deconv.compare.reactivation import as_input, rank, reactivation
from deconv.compare.sufficiency import SHARES, area, curves
from deconv.projection.responses import layer_responses


@dataclass(frozen=True)
class Metric:
    """A column of the table: its label in charts, and what is better: 1 higher values, -1 lower ones, 0 neither."""

    label: str
    better: int


METRICS = {
    "pearson_grey": Metric("correlation\nwith patch", 1),
    "pearson_absolute": Metric("correlation\n(absolute)", 1),
    "pearson_edges": Metric("correlation\n(edges)", 1),
    "ssim_grey": Metric("SSIM\nwith patch", 1),
    "ssim_absolute": Metric("SSIM\n(absolute)", 1),
    "ssim_edges": Metric("SSIM\n(edges)", 1),
    "colour": Metric("colour\nagreement", 1),
    "area50": Metric("area of half\nthe energy", -1),
    "area90": Metric("area of 90 %\nof the energy", -1),
    "off_centre": Metric("off centre", 0),
    "insertion_blur": Metric("insertion\n(on blur)", 1),
    "insertion_mean": Metric("insertion\n(on mean)", 1),
    "deletion_blur": Metric("deletion\n(to blur)", -1),
    "deletion_mean": Metric("deletion\n(to mean)", -1),
    "reactivation": Metric("reactivation", 1),
    "rank": Metric("rank of the\nunit", 1),
    "within": Metric("alike within\nthe unit", 1),
    "between": Metric("alike between\nunits", -1),
    "grouping": Metric("grouping", 1),
    "other_unit": Metric("alike for\nanother unit", -1),
}


def measure(
    peaks: PeakSet,
    pixels: Float[np.ndarray, "N 3 h w"],
    of_other_units: Float[np.ndarray, "N 3 h w"],
    strongest: Float[np.ndarray, " C"],
) -> dict[str, np.ndarray]:
    """Return {metric: (N,)} of N peaks by a rule or control, and the curves as {"insertion_blur_0.05": (N,), ...}.

    pixels: what `peaks.reconstruct` gives by it; of_other_units: what `peaks.others.reconstruct` gives.
    strongest: each unit's best activation in the mined images, nan for a dead one. All metrics are nan where the
    reconstruction is zero everywhere, which the column "blank" marks by 1. The metrics of `group`, which needs all
    units of a layer, are not among them.
    """
    pictures = []  # metrics of the picture alone, one dict a peak
    for recon, other, patch, inside in zip(pixels, of_other_units, peaks.patches, peaks.inside, strict=True):
        rows, cols = inside_rows_cols(inside)
        metrics = likeness(recon[:, rows, cols], patch[:, rows, cols]) | concentration(recon)
        metrics["other_unit"] = pearson(grey(recon[:, rows, cols]), grey(other[:, rows, cols]))
        pictures.append(metrics)
    columns: dict[str, np.ndarray] = {name: np.array([metrics[name] for metrics in pictures]) for name in pictures[0]}

    points = curves(peaks.baselines, pixels, peaks.respond)
    columns |= {f"{curve}_{fill}": area(activations) for (curve, fill), activations in points.items()}
    for n, share in enumerate((0.0, *SHARES, 1.0)):
        columns |= {curve_column(*curve_fill, share): points[curve_fill][:, n] for curve_fill in points}

    fed_back = [as_input(*row) for row in zip(pixels, peaks.windows.numpy(), peaks.inside, strict=True)]
    inputs = torch.from_numpy(np.stack(fed_back).astype(np.float32))
    responses = layer_responses(peaks.network, peaks.layer, inputs, peaks.positions).numpy()
    channel = peaks.channel.numpy()
    activation = peaks.activations[np.arange(len(channel)), channel]
    columns["reactivation"] = reactivation(responses, channel, activation)
    columns["rank"] = rank(responses, channel, strongest)

    blank = np.array([not picture.any() for picture in pixels])
    measured = {name: np.where(blank, np.nan, values) for name, values in columns.items()}
    return measured | {"blank": blank.astype(np.float64)}


def group(thumbnails: Float[np.ndarray, "N s t"], unit: Int[np.ndarray, " N"]) -> dict[str, np.ndarray]:
    """Return {"within", "between", "grouping": (U,)} of the thumbnails of all units of a layer, in rising order."""
    _, within, between = alikeness(thumbnails, unit)
    return {"within": within, "between": between, "grouping": within - between}


def curve_column(curve: str, fill: str, share: float) -> str:
    """Return the name of the column that holds one point of a curve.

    >>> curve_column("insertion", "blur", 0.05)
    'insertion_blur_0.05'
    """
    return f"{curve}_{fill}_{share:g}"


def difference_interval(
    values: Float[np.ndarray, " units"], others: Float[np.ndarray, " others"], seed: int, resamples: int = 1000
) -> dict[str, float | None]:
    """Return {"mean", "low", "high"}: how much larger the mean over units is than that over other units.

    The interval is the bootstrap's of 95 %, each set being drawn by itself; all are None where one has no number.

    >>> difference_interval(np.array([3.0, 3.0]), np.array([1.0, np.nan, 1.0]), seed=0)
    {'mean': 2.0, 'low': 2.0, 'high': 2.0}
    """
    first, second = (each[np.isfinite(each)] for each in (values, others))
    if not len(first) or not len(second):
        return {"mean": None, "low": None, "high": None}
    draw = np.random.default_rng(seed)
    means = [each[draw.integers(0, len(each), (resamples, len(each)))].mean(axis=1) for each in (first, second)]
    low, high = np.percentile(means[0] - means[1], [2.5, 97.5])
    return {"mean": float(first.mean() - second.mean()), "low": float(low), "high": float(high)}


def mean_interval(
    values: Float[np.ndarray, " units"], seed: int, resamples: int = 1000
) -> dict[str, float | int | None]:
    """Return {"mean", "low", "high", "units"}: the mean over units, its 95 % bootstrap interval, and their number.

    Units whose value is nan are left out; where none is left, all but the number are None. One unit, or equal ones, are
    their own interval. Source: percentiles of scipy.stats.bootstrap.

    >>> mean_interval(np.array([0.5, 0.5, np.nan]), seed=0)
    {'mean': 0.5, 'low': 0.5, 'high': 0.5, 'units': 2}
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"mean": None, "low": None, "high": None, "units": 0}
    mean = float(finite.mean())
    if np.ptp(finite) == 0:
        return {"mean": mean, "low": mean, "high": mean, "units": len(finite)}
    options = {"n_resamples": resamples, "method": "percentile", "vectorized": True}
    interval = bootstrap((finite,), np.mean, rng=np.random.default_rng(seed), **options).confidence_interval
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), "units": len(finite)}
