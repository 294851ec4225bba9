"""All metrics of one rule for units of one layer, and their means with intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import bootstrap

from deconv.compare.arrays import grey, inside_rows_cols
from deconv.compare.concentration import concentration
from deconv.compare.grouping import alikeness
from deconv.compare.likeness import likeness, pearson
from deconv.compare.reactivation import as_input, rank, reactivation
from deconv.compare.scene import Scene
from deconv.compare.sufficiency import FILLS, GAMES, SHARES, area, curves
from deconv.projection.responses import layer_responses


@dataclass(frozen=True)
class Metric:
    """A column of the table: what it is called, and which way is better: 1 higher, -1 lower, 0 neither."""

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
    "keep_blur": Metric("insertion\n(on blur)", 1),
    "keep_mean": Metric("insertion\n(on mean)", 1),
    "remove_blur": Metric("deletion\n(to blur)", -1),
    "remove_mean": Metric("deletion\n(to mean)", -1),
    "reactivation": Metric("reactivation", 1),
    "rank": Metric("rank of the\nunit", 1),
    "within": Metric("alike within\nthe unit", 1),
    "between": Metric("alike between\nunits", -1),
    "grouping": Metric("grouping", 1),
    "other_unit": Metric("alike for\nanother unit", -1),
}


def measure(scene: Scene, pixels: np.ndarray, elsewhere: np.ndarray, strongest: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: (N,)} of a scene's peaks by a rule or control, and the curves as {"keep_blur_0.05": (N,), ...}.

    pixels (N, 3, h, w): what `scene.reconstruct` gives by it;  elsewhere: what `scene.others.reconstruct` gives.
    strongest (C,): each unit's best activation in the mined images. All are nan where the reconstruction is zero
    everywhere, which "blank" counts. Of METRICS those of `group` are not among them.
    """
    columns = _pictures(scene, pixels) | _games(scene, pixels) | _feedback(scene, pixels, strongest)
    rows = zip(pixels, elsewhere, _parts_inside(scene), strict=True)
    columns["other_unit"] = np.array([pearson(grey(own[part]), grey(other[part])) for own, other, part in rows])
    blank = np.array([not picture.any() for picture in pixels])
    shown = {name: np.where(blank, np.nan, np.asarray(values)) for name, values in columns.items()}
    return shown | {"blank": blank.astype(np.float64)}


def group(small: np.ndarray, unit: np.ndarray) -> dict[str, np.ndarray]:
    """{"within", "between", "grouping": (U,)} of the thumbnails (N, s, s) of all units of a layer, in rising order."""
    _, within, between = alikeness(small, unit)
    return {"within": within, "between": between, "grouping": within - between}


def _parts_inside(scene: Scene) -> list[tuple[slice, slice, slice]]:
    return [(slice(None), *inside_rows_cols(inside)) for inside in scene.inside]


def _pictures(scene: Scene, pixels: np.ndarray) -> dict[str, np.ndarray]:
    rows = []
    for recon, patch, part in zip(pixels, scene.patches, _parts_inside(scene), strict=True):
        rows.append(likeness(recon[part], patch[part]) | concentration(recon))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _games(scene: Scene, pixels: np.ndarray) -> dict[str, np.ndarray]:
    found = curves(scene.board, pixels, scene.respond)
    columns = {f"{game}_{fill}": area(found[game, fill]) for game in GAMES for fill in FILLS}
    for (game, fill), curve in found.items():
        columns |= {curve_column(game, fill, share): curve[:, n] for n, share in enumerate((0.0, *SHARES, 1.0))}
    return columns


def curve_column(game: str, fill: str, share: float) -> str:
    """The name of the column that holds one point of a curve."""
    return f"{game}_{fill}_{share:g}"


def _feedback(scene: Scene, pixels: np.ndarray, strongest: np.ndarray) -> dict[str, np.ndarray]:
    rows = zip(pixels, scene.windows.numpy(), scene.inside, strict=True)
    fed = torch.from_numpy(np.stack([as_input(*row) for row in rows]).astype(np.float32))
    responses = layer_responses(scene.network, scene.layer, fed, scene.places).numpy()
    channel = scene.channel.numpy()
    own = scene.activations[np.arange(len(channel)), channel]
    return {"reactivation": reactivation(responses, channel, own), "rank": rank(responses, channel, strongest)}


def mean_interval(values: np.ndarray, seed: int, resamples: int = 1000) -> dict[str, float | int | None]:
    """{"mean", "low", "high", "units"}: the mean over units with its 95 % bootstrap interval; nan units left out.

    None where there are no units; one unit, or equal ones, are their own interval. Source: percentiles of
    scipy.stats.bootstrap.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "low": None, "high": None, "units": 0}
    mean = float(known.mean())
    if np.ptp(known) == 0:
        return {"mean": mean, "low": mean, "high": mean, "units": len(known)}
    options = {"n_resamples": resamples, "method": "percentile", "vectorized": True}
    found = bootstrap((known,), np.mean, rng=np.random.default_rng(seed), **options).confidence_interval
    return {"mean": mean, "low": float(found.low), "high": float(found.high), "units": len(known)}
