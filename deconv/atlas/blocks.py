"""A block of units, each peak of which is sent to pixels and cut out of its image, here or in another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deconv.errors import RecordMismatch
from deconv.images import Source
from deconv.network import Network
from deconv.projection import project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Patches, Reconstructions


@dataclass(frozen=True, eq=False)
class Block:
    """Some units of a layer and a rule: always made together, since last bits may depend on what is.

    peaks: of the whole layer.  images: that these lie in.  content: their content hash.
    path: the start of the names of its two files; None for a block that is not kept.
    numbers: (images,) what image n of `images` counts as, where they are a part of the whole.
    """

    layer: str
    rule: Rule
    units: tuple[int, ...]
    peaks: LayerPeaks
    images: Source
    content: str
    path: Path | None
    numbers: Tensor | None = None

    @property
    def files(self) -> tuple[Path, Path]:
        """Where reconstructions and patches are, or go."""
        assert self.path is not None, "a block that is kept"
        kinds = ("reconstructions", "patches")
        recon, patches = (self.path.with_name(f"{self.path.name}.{kind}.safetensors") for kind in kinds)
        return recon, patches

    def make(self, network: Network) -> tuple[Reconstructions, Patches]:
        """Project the peaks and cut their patches. Raises what `project_peaks` and `patches_of` do."""
        recon = project_peaks(network, self.images, self.layer, self.peaks, self.units, self.rule)
        patches = patches_of(network, self.images, recon, self.content)
        image = self._numbers_of(recon.image)
        return replace(recon, image=image), replace(patches, image=image)

    def load(self, network: Network) -> tuple[Reconstructions, Patches]:
        """What is in the files. Raises RecordMismatch if they are of other peaks, weights, images or rule."""
        recon, patches = Reconstructions.load(self.files[0]), Patches.load(self.files[1])
        image, *places = self.peaks.of(list(self.units))
        wanted = (self._numbers_of(image), *places)
        same = (
            all(torch.equal(a, b) for a, b in zip(_peaks(recon), wanted, strict=True))
            and torch.equal(recon.box, patches.box)
            and recon.provenance.get("weights") == network.weights_hash
            and recon.provenance.get("rule_options") == self.rule.options()
            and patches.provenance.get("source", {}).get("content") == self.content
        )
        if not same:
            raise RecordMismatch(
                f"{self.files[0]} was made of other peaks, weights, images or rule; delete it to make it again."
            )
        return recon, patches

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: only the images of these units, whose peaks are numbered accordingly."""
        used = self.peaks.of(list(self.units))[0].unique()
        mine = torch.isin(self.peaks.image, used)
        image = torch.searchsorted(used, self.peaks.image).where(mine, -1)
        there = None if self.path is None else self.path.absolute()
        part = {"images": self.images.part(used.tolist()), "numbers": self._numbers_of(used), "path": there}
        return vars(self) | part | {"peaks": replace(self.peaks, image=image)}

    def _numbers_of(self, image: Tensor) -> Tensor:
        return image if self.numbers is None else self.numbers[image]


def keep(network: Network, block: Block) -> Iterator[str]:
    """Make a block and write its files; yields the name of the first."""
    recon, patches = block.make(network)
    recon_path, patch_path = block.files
    recon.save(recon_path)
    patches.save(patch_path)
    yield recon_path.name


def _peaks(recon: Reconstructions) -> tuple[Tensor, ...]:
    return recon.image, recon.channel, recon.row, recon.col
