"""Peaks of one layer: what their units see, and what any explanation makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from torch import Tensor

from deconv.compare import controls
from deconv.compare.controls import Projection
from deconv.compare.sufficiency import Baselines, measure_baselines
from deconv.errors import UnknownName, check_count, check_indices
from deconv.explanations import AnyExplanation
from deconv.images import MapDataset, Source, check_source
from deconv.images.batches import whole_batches
from deconv.network import Network
from deconv.projection import project_together
from deconv.projection.patches import cut_patches
from deconv.projection.responses import layer_responses, unit_responses
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks

NOISE = 0.1
"""Standard deviation of the noise of `noisy`, as a fraction of the range of colours (Hedström et al. 2023)."""
IMAGES_AT_ONCE = 64
"""Images that are decoded between two looks at whether one of them is gone."""

PLAIN = Rule()


@dataclass(frozen=True, eq=False)
class PeakSet:
    """N peaks of one layer of a network, and the photographs that they lie in.

    input_images: the photographs, preprocessed; image_ids: their ids, ascending.  peaks: rows of image id, channel,
    row, col, on the CPU.  random: the same network with its weights shuffled, for the control that needs it.
    seed: decides what controls draw.  carried_like: the rule from which the controls that are deconvnets take what they
    make of activations, gates and norms.
    """

    network: Network
    layer: str
    input_images: UInt8[Tensor, "M 3 H W"]
    image_ids: Int64[Tensor, " M"]
    peaks: Int64[Tensor, "N 4"]
    random: Network | None = None
    seed: int = 0
    carried_like: Rule = PLAIN

    @property
    def channel(self) -> Int64[Tensor, " N"]:
        """The unit of each peak."""
        return self.peaks[:, 1]

    @property
    def positions(self) -> Int64[Tensor, "N 2"]:
        """Row and column of each peak on the layer's map."""
        return self.peaks[:, 2:]

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """Each peak as what the controls' draws depend on."""
        return [tuple(peak) for peak in self.peaks.tolist()]

    @cached_property
    def boxes(self) -> Int64[Tensor, "N 4"]:
        """Where each receptive field lies in the input image."""
        return self.network.receptive_field(self.layer).boxes(self.positions)

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The photographs that peaks lie in, as the network's input, which of them each does, its unit and position."""
        used, index = self._indices_of(self.peaks[:, 0]).unique(return_inverse=True)
        images = self.network.needed_preprocessing().normalize(self.input_images[used])
        return images, index, self.channel, self.positions

    @cached_property
    def _cut(self) -> tuple[Tensor, Tensor]:
        patches = cut_patches(self.input_images, self._indices_of(self.peaks[:, 0]), self.boxes)
        return patches.pixels, patches.inside

    @cached_property
    def inside(self) -> Bool[np.ndarray, "N h w"]:
        """Which pixels of each receptive field lie in the image."""
        return self._cut[1].numpy()

    @cached_property
    def patches(self) -> Float64[np.ndarray, "N 3 h w"]:
        """The patches, in 0..1."""
        return self._cut[0].numpy() / 255.0

    @cached_property
    def windows(self) -> Float32[Tensor, "N 3 h w"]:
        """The patches as the network's input, zero outside the image."""
        return self.network.needed_preprocessing().normalize(self._cut[0]) * self._cut[1][:, None]

    @cached_property
    def activations(self) -> Float32[np.ndarray, "N C"]:
        """What every unit of the layer answers at each peak's position."""
        return layer_responses(self.network, self.layer, self.windows, self.positions).numpy()

    @cached_property
    def baselines(self) -> Baselines:
        """What the insertion and deletion curves of these peaks begin and end with."""
        return measure_baselines(self.windows.numpy(), self.inside, self.respond)

    @cached_property
    def others(self) -> PeakSet:
        """The same positions, each with another unit that fires there."""
        return self._with_units(controls.another_unit)

    def firing(self) -> PeakSet:
        """Return the same positions with a unit that fires there in the place of each dead one.

        In a layer whose weights are shuffled, one unit is as good as another.
        """
        return self._with_units(controls.firing_unit)

    def noisy(self, copy: int) -> PeakSet:
        """Return the same peaks on photographs with Gaussian noise, decided by the seed, each image's id and `copy`."""
        images = self.input_images.numpy().astype(np.float64)
        for image_id, image in zip(self.image_ids.tolist(), images, strict=True):
            image += np.random.default_rng([self.seed, *b"noisy", image_id, copy]).normal(0, 255 * NOISE, image.shape)
        return replace(self, input_images=torch.from_numpy(images.round().clip(0, 255).astype(np.uint8)))

    def _with_units(self, choose: Callable[[np.ndarray, tuple[int, ...], int], int]) -> PeakSet:
        rows = zip(self.activations, self.keys, strict=True)
        peaks = self.peaks.clone()
        peaks[:, 1] = torch.tensor([choose(answers, peak, self.seed) for answers, peak in rows], dtype=torch.int64)
        return replace(self, peaks=peaks)

    def respond(self, windows: Float[np.ndarray, "MN 3 h w"]) -> Float32[np.ndarray, " MN"]:
        """Return the activations of the peaks' units to windows (M * N, 3, h, w): M windows for each peak in turn."""
        inputs = torch.from_numpy(np.asarray(windows, dtype=np.float32))
        times = len(inputs) // max(len(self.peaks), 1)
        positions, channel = self.positions.repeat(times, 1), self.channel.repeat(times)
        return unit_responses(self.network, self.layer, inputs, positions, channel).numpy()

    def needed_random(self) -> Network:
        """Return the network with shuffled weights. Raises UnknownName where none was given."""
        if self.random is None:
            raise UnknownName(
                "the control 'random_weights' needs a network with shuffled weights: give random=a Network"
            )
        return self.random

    def subset(self, which: Tensor) -> PeakSet:
        """Return the peaks at `which`, a mask or indices."""
        return replace(self, peaks=self.peaks[which])

    def strongest(self) -> Bool[Tensor, " N"]:
        """Mark the first, which is the strongest, peak of each unit; a unit's peaks stand together."""
        first = torch.ones(len(self.peaks), dtype=torch.bool)
        first[1:] = self.channel[1:] != self.channel[:-1]
        return first

    def reconstruct(self, explanation: AnyExplanation) -> Float32[np.ndarray, "N 3 h w"]:
        """Return the pictures that a rule, one of the CONTROLS, or any other explanation gives.

        Raises UnknownName for any other name, and what `deconv.project` and `deconv.explanations.explain` raise.
        """
        return self.reconstruct_all([explanation])[0]

    def reconstruct_all(self, explanations: Sequence[AnyExplanation]) -> list[np.ndarray]:
        """Return what `reconstruct` gives for each of several explanations; those by a rule share the forward pass."""
        makers = [controls.maker_of(explanation, self.carried_like) for explanation in explanations]
        pixels = self._project([maker for maker in dict.fromkeys(makers) if isinstance(maker, Projection)])
        return [pixels[maker] if isinstance(maker, Projection) else maker(self) for maker in makers]

    def _project(self, projections: Sequence[Projection]) -> dict[Projection, np.ndarray]:
        if not projections:
            return {}
        image = self._indices_of(self.peaks[:, 0])
        lending = any(projection.rule.switches == "other" for projection in projections)
        used, index = torch.cat([image, self._lenders()] if lending else [image]).unique(return_inverse=True)
        inputs = self.network.needed_preprocessing().normalize(self.input_images[used])
        units = [
            (projection.rule, self.others.channel if projection.of_other_unit else self.channel)
            for projection in projections
        ]
        row, col = self.positions.unbind(1)
        n = len(self.peaks)
        records = project_together(
            self.network, inputs, self.layer, index[:n], row, col, units, switches_of=index[n:] if lending else None,
            cut_to_image=False,
        )  # fmt: skip
        return {projection: record.pixels.numpy() for projection, record in zip(projections, records, strict=True)}

    def _lenders(self) -> Tensor:
        """Return the indices (N,) of the photographs that lend their switches."""
        image_ids = self.image_ids.numpy()
        chosen = [controls.another_image(image_ids, peak, self.seed) for peak in self.keys]
        return self._indices_of(torch.tensor(chosen, dtype=torch.int64))

    def _indices_of(self, image_ids: Tensor) -> Tensor:
        return torch.searchsorted(self.image_ids, image_ids.contiguous())


def gather_peaks(
    network: Network,
    images: Source | MapDataset,
    layer: str,
    peaks: LayerPeaks,
    units: list[int],
    per_unit: int | None = None,
    random: Network | None = None,
    seed: int = 0,
    carried_like: Rule = PLAIN,
) -> PeakSet:
    """Return the peaks of some units of a layer, unit by unit and strongest first, with the photographs they lie in.

    per_unit: how many of the strongest peaks of each unit; None for all that were mined. random, seed, carried_like:
    as PeakSet has them. Raises BadInput for a unit that is not there and for an image that cannot be read any more.

    >>> import deconv
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = Network(module, (3, 16, 16), {"conv1": "1"}, preprocessing)
    >>> images = deconv.bundled().part([0, 1])
    >>> mined = deconv.mine(network, images, ["conv1"], k=2)
    >>> peaks = gather_peaks(network, images, "conv1", mined["conv1"], [0, 2], per_unit=1)
    >>> peaks.channel.tolist(), peaks.reconstruct("deconvnet").shape
    ([0, 2], (2, 3, 5, 5))
    """
    images, mined = check_source(images), peaks.score.shape[1]
    units = check_indices("units", units, len(peaks.score), f"units of {layer}")
    per_unit = mined if per_unit is None else check_count("per_unit", per_unit)
    rank = torch.arange(mined).expand_as(peaks.image)[units][peaks.found[units]]
    rows = torch.stack(peaks.of(units), dim=1)[rank < per_unit]
    image_ids = rows[:, 0].unique()
    batches = whole_batches(images, network.needed_preprocessing(), IMAGES_AT_ONCE, image_ids.tolist())
    input_images = torch.cat([batch for _, batch in batches])
    return PeakSet(network, layer, input_images, image_ids, rows, random, seed, carried_like)
