"""Some peaks of one layer: what they see, and their reconstruction by any rule or control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from deconv.compare import controls
from deconv.compare.sufficiency import Board, set_up
from deconv.errors import UnknownName
from deconv.network import Network
from deconv.projection import project_together
from deconv.projection.patches import cut_patches
from deconv.projection.responses import layer_responses, unit_responses
from deconv.projection.rules import Rule, as_rule

AnyRule = str | Rule | Mapping[str, object]
Asked = tuple[Rule, bool]
"""A rule, and whether it is another unit's reconstruction that is asked for."""
BY_RULE: dict[str, Asked] = {
    "gradient_times_input": (as_rule("gradient"), False),
    "random_switches": (Rule(switches="random"), False),
    "other_switches": (Rule(switches="other"), False),
    "other_unit": (as_rule("deconvnet"), True),
}
"""The controls that are a rule of the same network."""


@dataclass(frozen=True, eq=False)
class Scene:
    """N peaks of one layer of a network, and the photographs they lie in.

    input_images (M, 3, H, W) uint8: photographs numbered by `numbers` (M,), rising;  peaks (N, 4) int64 on the CPU:
    image (by
    its number), channel, row, col.  random: the same network with its weights shuffled, for the control that needs it.
    seed: decides what controls draw.
    """

    network: Network
    layer: str
    input_images: Tensor
    numbers: Tensor
    peaks: Tensor
    random: Network | None = None
    seed: int = 0

    @property
    def channel(self) -> Tensor:
        return self.peaks[:, 1]

    @property
    def places(self) -> Tensor:
        """(N, 2) row, col."""
        return self.peaks[:, 2:]

    @cached_property
    def _cut(self) -> tuple[Tensor, Tensor]:
        field = self.network.receptive_field(self.layer)
        box = torch.tensor([field.box(int(row), int(col)) for row, col in self.places], dtype=torch.int64).view(-1, 4)
        patches = cut_patches(self.input_images, torch.searchsorted(self.numbers, self.peaks[:, 0].contiguous()), box)
        return patches.pixels, patches.inside

    @cached_property
    def inside(self) -> np.ndarray:
        """(N, h, w) bool: what of the fields lies in the image."""
        return self._cut[1].numpy()

    @cached_property
    def patches(self) -> np.ndarray:
        """(N, 3, h, w) float64 in 0..1."""
        return self._cut[0].numpy() / 255.0

    @cached_property
    def windows(self) -> Tensor:
        """(N, 3, h, w): the patches as the network's input, zero outside the image."""
        return self.network.needed_preprocessing().normalize(self._cut[0]) * self._cut[1][:, None]

    @cached_property
    def activations(self) -> np.ndarray:
        """(N, C): what all units of the layer answer there."""
        return layer_responses(self.network, self.layer, self.windows, self.places).numpy()

    @cached_property
    def board(self) -> Board:
        """For the games of `sufficiency`."""
        return set_up(self.windows.numpy(), self.inside, self.respond)

    @cached_property
    def others(self) -> Scene:
        """The same places, each with another unit that fires there."""
        return self._with_units(controls.another_unit)

    def firing(self) -> Scene:
        """The same places, where a dead unit gives way to one that fires.

        Of a layer whose weights are shuffled, one unit is as good as another.
        """
        return self._with_units(controls.firing_unit)

    def _with_units(self, choose: Callable[[np.ndarray, tuple[int, ...], int], int]) -> Scene:
        rows = zip(self.activations, self._ids(), strict=True)
        chosen = [choose(of_place, peak, self.seed) for of_place, peak in rows]
        peaks = self.peaks.clone()
        peaks[:, 1] = torch.tensor(chosen, dtype=torch.int64)
        return replace(self, peaks=peaks)

    def respond(self, windows: np.ndarray) -> np.ndarray:
        """(M * N,) activations of the scene's units, M times in turn, each seeing one of windows (M * N, 3, h, w)."""
        given = torch.from_numpy(np.asarray(windows, dtype=np.float32))
        times = len(given) // max(len(self.peaks), 1)
        places, channel = self.places.repeat(times, 1), self.channel.repeat(times)
        return unit_responses(self.network, self.layer, given, places, channel).numpy()

    def subset(self, which: Tensor) -> Scene:
        """The peaks at `which`, a mask or indices."""
        return replace(self, peaks=self.peaks[which])

    def reconstruct(self, rule: AnyRule) -> np.ndarray:
        """(N, 3, h, w) float32 by a rule, or by one of the CONTROLS. Raises UnknownName, and what `project` raises."""
        return self.reconstruct_all([rule])[0]

    def reconstruct_all(self, rules: Sequence[AnyRule]) -> list[np.ndarray]:
        """What `reconstruct` gives for each of some rules and controls; the network goes up once for all of them."""
        asked = [self._asked(rule) for rule in rules]
        sent = self._project([one for one in dict.fromkeys(asked) if one is not None])
        return [self._made(rule, sent, one) for rule, one in zip(rules, asked, strict=True)]

    def _asked(self, rule: AnyRule) -> Asked | None:
        """What is to be projected; None for a control that does not come from this network."""
        if not isinstance(rule, str) or rule not in controls.CONTROLS:
            return as_rule(rule), False
        return BY_RULE.get(rule)

    def _made(self, rule: AnyRule, sent: Mapping[Asked, np.ndarray], asked: Asked | None) -> np.ndarray:
        if asked is not None:
            return sent[asked] * self.windows.numpy() if rule == "gradient_times_input" else sent[asked]
        if rule == "random_weights":
            return self._randomised.reconstruct("deconvnet")
        return self._without_network(str(rule)).astype(np.float32)

    def _without_network(self, control: str) -> np.ndarray:
        if control == "edges":
            made = [controls.edge_picture(patch, i) for patch, i in zip(self.patches, self.inside, strict=True)]
        elif control == "random_mask":
            made = [controls.noise_picture(i, p, self.seed) for i, p in zip(self.inside, self._ids(), strict=True)]
        else:
            made = [controls.centre_picture(i) for i in self.inside]
        return np.stack(made)

    @cached_property
    def _randomised(self) -> Scene:
        if self.random is None:
            raise UnknownName("the control 'random_weights' needs a network with shuffled weights; give random=...")
        return replace(self, network=self.random).firing()

    def _project(self, asked: Sequence[Asked]) -> dict[Asked, np.ndarray]:
        if not asked:
            return {}
        own = torch.searchsorted(self.numbers, self.peaks[:, 0].contiguous())
        lenders = self._lenders() if any(rule.switches == "other" for rule, _ in asked) else None
        used, which = torch.cat([own] if lenders is None else [own, lenders]).unique(return_inverse=True)
        images = self.network.needed_preprocessing().normalize(self.input_images[used])
        lent = None if lenders is None else which[len(own) :]
        units = [(rule, self.others.channel if other else self.channel) for rule, other in asked]
        row, col = self.places.unbind(1)
        found = project_together(self.network, images, self.layer, which[: len(own)], row, col, units, switches_of=lent)
        return {one: of_one.pixels.numpy() for one, of_one in zip(asked, found, strict=True)}

    def _lenders(self) -> Tensor:
        """(N,) positions of the photographs that lend their switches."""
        numbers = self.numbers.numpy()
        chosen = [controls.another_image(numbers, peak, self.seed) for peak in self._ids()]
        return torch.searchsorted(self.numbers, torch.tensor(chosen, dtype=torch.int64))

    def _ids(self) -> list[tuple[int, ...]]:
        return [tuple(peak) for peak in self.peaks.tolist()]
