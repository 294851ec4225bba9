"""Directions of a layer: fitted on activations at positions drawn from all images, or drawn at random.

Which positions are drawn depends on the seed, the images' keys and the positions alone: those of least hash. So it is
the same whatever the batches, the order or the other images, and a sample of two sources is made of theirs.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, UInt64
from torch import Tensor

from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, bad_value, check_choice, check_count, needed
from deconv.images import Source
from deconv.images.batches import Unreadable, batches
from deconv.mining.streaming import Shard, Step, pass_over
from deconv.network import Network

with needed("fitting directions", "scikit-learn", extra="probing"):
    from sklearn.decomposition import PCA, FastICA, MiniBatchNMF
    from sklearn.exceptions import ConvergenceWarning

log = logging.getLogger("deconv")

METHODS = {
    "nmf": "non-negative matrix factorisation (Lee and Seung 1999): parts that add up, without negative weights",
    "pca": "principal components, the directions of most variance",
    "ica": "independent components (Hyvarinen 1999): directions along which activations are least Gaussian",
    "sae": "a sparse autoencoder with tied weights (Cunningham et al. 2023, arXiv 2309.08600): sums of few parts",
    "random": "a random rotation of the channels (Bau et al. 2017, arXiv 1704.05796, section 3.2), the control",
}
"""How directions are found, and what each way is."""
ICA_STEPS, NMF_STEPS = 400, 200
SAE_STEPS, SAE_BATCH, SAE_RATE = 1000, 512, 3e-3
"""Steps of Adam, the positions that each sees, and its rate, which falls to zero in a line."""
SAE_NOISE = 0.1
"""The length of what is added to each row's first position, of mean square length 1, so that no two are the same."""
SPARSITY = 0.2
"""What a sparse autoencoder's codes weigh beside its squared error, for activations of mean square length 1."""
OVERCOMPLETE = 16
"""A sparse autoencoder may have so many times more directions than the layer has channels."""
STAGES = (  # of splitmix64's finalizer (Steele, Lea and Flood 2014), shift and factor
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def check_method(network: Network, layer: str, method: str, n: int) -> None:
    """Raise UnknownName for a method that does not exist, BadInput for one or a number that does not suit the layer.

    >>> import deconv
    >>> network = deconv.Network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), (3, 8, 8))
    >>> check_method(network, "1", "nmf", 5)
    Traceback (most recent call last):
    deconv.errors.BadInput: n: given 5; expected a whole number, 1 to 4
    """
    check_choice("method", method, METHODS)
    check_count("n", n, 1, _most(method, network.channels(layer)))
    if method == "nmf" and not network.rectified(layer):
        able = [name for name in METHODS if name != "nmf"]
        raise BadInput(f"methods: nmf needs activations of zero or more, and {layer} is not rectified; use {able}")


@dataclass(frozen=True, eq=False)
class Sampling:
    """What is drawn from images: the activations of a layer at `count` positions, by the seed."""

    network: Network
    layer: str
    count: int
    seed: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class Sample:
    """The S positions of least number among some images, in that order, and the activations of all channels there."""

    draws: UInt64[np.ndarray, " S"]
    activations: Float32[np.ndarray, "S C"]

    def add(self, draws: UInt64[np.ndarray, " T"], activations: Float32[np.ndarray, "T C"], count: int) -> Sample:
        """Return the first `count` of these and of others."""
        together = np.concatenate([self.draws, draws])
        order = np.argsort(together, kind="stable")[:count]
        return Sample(together[order], np.concatenate([self.activations, activations])[order])


def sample_activations(
    network: Network,
    images: Source,
    layer: str,
    count: int,
    seed: int,
    batch_size: int = 16,
    engine: Engine | None = None,
) -> Float32[np.ndarray, "S C"]:
    """Return the activations of all channels at `count` positions drawn from all images, or at all if there are fewer.

    Images stream by; no more is kept than the sample, a shard's and a batch. Rows are in the order of the draw, and the
    same to the byte however the images are cut. engine: where the work is done, by default here. Raises
    UnknownName for a layer that does not exist, BadInput for images of which more than half cannot be read.

    >>> import deconv
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> sample_activations(network, deconv.bundled().part([0, 1]), "1", 100, seed=0).shape
    (100, 4)
    """
    check_count("count", count)
    sampling = Sampling(network, layer, count, seed, batch_size)
    total = _nothing(sampling)
    for _, sample in pass_over(engine or Local(), sample_shard, sampling, (images,), batch_size, f"sampling {layer}"):
        total = total.add(sample.draws, sample.activations, count)
    return total.activations


def sample_shard(sampling: Sampling, shard: Shard) -> Iterator[Step[Sample]]:
    """Draw from the images of a shard; yield after each batch, and once more with the sample."""
    network, preprocessing = sampling.network, sampling.network.needed_preprocessing()
    sample, seen = _nothing(sampling), 0
    (images,), image_count = shard.sources, len(shard.image_ids)
    skipped: list[Unreadable] = []
    decoded = batches(images, preprocessing, sampling.batch_size, shard.image_ids, skipped, image_count)
    for image_ids, input_images in decoded:
        maps = network.forward(preprocessing.normalize(input_images), [sampling.layer])[sampling.layer]
        keys = [images.key(image_id) for image_id in image_ids.tolist()]
        drawn = np.concatenate([draws_of(key, sampling.seed, maps.shape[2], maps.shape[3]) for key in keys])
        is_full = len(sample.draws) == sampling.count
        candidates = np.flatnonzero(drawn <= sample.draws[-1]) if is_full else np.arange(len(drawn))
        first = candidates[np.argsort(drawn[candidates], kind="stable")[: sampling.count]]  # no more of them can stay
        rows = maps.permute(0, 2, 3, 1).flatten(0, 2)[torch.from_numpy(first)].float().cpu().numpy()
        sample = sample.add(drawn[first], rows, sampling.count)
        seen += len(keys)
        yield Step(shard.number, seen)
    yield Step(shard.number, image_count, sample, tuple(skipped))


def _nothing(sampling: Sampling) -> Sample:
    return Sample(np.empty(0, np.uint64), np.empty((0, sampling.network.channels(sampling.layer)), np.float32))


def draws_of(key: str, seed: int, rows: int, cols: int) -> UInt64[np.ndarray, " positions"]:
    """Return the number that decides whether each position (row by row) of an image's map is drawn: the least are.

    >>> bool(draws_of("cat.jpg", 0, 2, 3)[4] == draws_of("cat.jpg", 0, 5, 9)[10])
    True
    """
    of_image = np.uint64(int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "little"))
    row, col = np.indices((rows, cols), dtype=np.uint64).reshape(2, -1)
    with np.errstate(over="ignore"):  # it counts modulo 2 ** 64
        state = of_image + GOLDEN * ((row << np.uint64(32)) + col)
        for shift, factor in STAGES:
            state = (state ^ (state >> shift)) * factor
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed


def fit_directions(
    activations: Float32[np.ndarray, "S C"], method: str, n: int, seed: int
) -> tuple[Float32[Tensor, "n C"], Float32[Tensor, " n"]]:
    """Return the weights, each row of length 1, and the bias of n directions, for `Network.with_units`.

    - nmf: each component's weights, all zero or more; no bias.
    - sae: rows W and biases b by which activations x are rebuilt as W^T relu(W x + b), with SPARSITY times the sum of
      these codes beside the squared error. It is logged how much of the variance is rebuilt, and of how many units.
    - pca, ica, random: the bias takes the mean activations away. Of the two ends of a component of pca or ica that is
      taken whose tail is longer (the third moment is above zero), for only one end can be a unit.

    Raises UnknownName for a method that does not exist, BadInput for more directions than positions, or than channels
    (of sae than 16 times as many), and for nmf of activations below zero.

    >>> on_axes = np.repeat(np.eye(3), 50, axis=0) * np.random.default_rng(0).uniform(1, 2, (150, 1))
    >>> weights, bias = fit_directions(on_axes.astype(np.float32), "nmf", 3, seed=0)
    >>> weights.argmax(1).sort().values.tolist(), bias.tolist()
    ([0, 1, 2], [0.0, 0.0, 0.0])
    """
    check_choice("method", method, METHODS)
    count, channels = activations.shape
    check_count("n", n, 1, _most(method, channels))
    if count < max(n, 2):
        raise bad_value("activations", activations, f"{max(n, 2)} positions or more", "draw more, or fit fewer")
    mean = activations.mean(axis=0, dtype=np.float64)
    if method == "sae":
        return _sparse_rows(activations, n, seed)
    if method == "random":
        normal = np.random.default_rng(seed).normal(size=(channels, channels))
        orthogonal, upper = np.linalg.qr(normal)
        rows = (orthogonal * np.sign(np.diag(upper))).T[:n]  # uniform among rotations (Mezzadri 2007)
    elif method == "nmf":
        if activations.min() < 0:
            raise bad_value("activations", activations, "zero or more, as nmf needs them")
        with _settling(method):
            rows, mean = _components(activations, method, n, seed), np.zeros(channels)
    else:
        with _settling(method):
            rows = _components(activations.astype(np.float64), method, n, seed)
        tails = (((activations - mean) @ rows.T) ** 3).mean(axis=0)
        rows = rows * np.where(tails < 0, -1.0, 1.0)[:, None]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.where(lengths > 0, lengths, 1.0)
    return torch.from_numpy(rows.astype(np.float32)), torch.from_numpy((-rows @ mean).astype(np.float32))


def _most(method: str, channels: int) -> int:
    """How many directions a method may have."""
    return channels * (OVERCOMPLETE if method == "sae" else 1)


def _sparse_rows(
    activations: Float32[np.ndarray, "S C"], n: int, seed: int
) -> tuple[Float32[Tensor, "n C"], Float32[Tensor, " n"]]:
    """The rows and biases of a sparse autoencoder that decodes by the rows that it codes by."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.from_numpy(activations)
    scale = values.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
    values = values / scale
    drawn = torch.randperm(len(values), generator=generator)  # rows begin at positions, so that they answer to some
    drawn = drawn[values[drawn].any(dim=1).int().argsort(descending=True, stable=True)][:n]
    noise = SAE_NOISE * torch.randn((n, values.shape[1]), generator=generator) / values.shape[1] ** 0.5
    rows = F.normalize(values[drawn] + noise, dim=1).requires_grad_()
    bias = torch.zeros(n, requires_grad=True)
    optimizer = torch.optim.Adam([rows, bias], lr=SAE_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, SAE_STEPS)
    with torch.enable_grad():
        for _ in range(SAE_STEPS):
            batch = values[torch.randint(len(values), (min(SAE_BATCH, len(values)),), generator=generator)]
            codes = torch.relu(batch @ rows.T + bias)
            error = (codes @ rows - batch).square().sum(dim=1)
            optimizer.zero_grad()
            (error + SPARSITY * codes.sum(dim=1)).mean().backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                rows.copy_(F.normalize(rows, dim=1))
    rows, bias = rows.detach(), bias.detach()
    codes = torch.relu(values @ rows.T + bias)
    left = (codes @ rows - values).square().sum() / (values - values.mean(dim=0)).square().sum().clamp_min(1e-12)
    of_position, dead = (codes > 0).sum(dim=1).float().mean(), int((codes == 0).all(dim=0).sum())
    message = "sae rebuilds %.0f %% of the variance, each position of %.1f of its %d units in the mean; %d are dead"
    log.info(message, 100 * (1 - left), of_position, n, dead)
    return rows, bias * scale


def _components(activations: np.ndarray, method: str, n: int, seed: int) -> Float64[np.ndarray, "n C"]:
    if method == "nmf":
        model = MiniBatchNMF(n, init="nndsvda", random_state=seed, max_iter=NMF_STEPS)
    elif method == "pca":
        model = PCA(n, svd_solver="full")
    else:
        model = FastICA(n, whiten="unit-variance", random_state=seed, max_iter=ICA_STEPS)
    components: np.ndarray = model.fit(activations).components_
    return components.astype(np.float64)


@contextmanager
def _settling(method: str) -> Iterator[None]:
    """Log, in place of scikit-learn's warning, that a method ended before its directions stood still."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        log.warning("%s has not settled: its directions are those of its last step", method)
