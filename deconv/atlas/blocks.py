"""A block of units, each peak of which is sent to pixels and cut out of its image, here or in another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from deconv.explanations import explain_peaks
from deconv.explanations.functions import Explanation
from deconv.images import Source
from deconv.network import Network
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Patches, Reconstructions, dtype_of
from deconv.records.provenance import Provenance, check_same

KINDS = ("reconstructions", "patches")
REMEDY = "Choose another folder, or delete that file to make it again."


@dataclass(frozen=True, eq=False)
class Block:
    """Units of one layer that are always projected together, because the last bits of a result depend on the batch.

    - peaks: of the whole layer.
    - images: the source that holds the peaks of these units.
    - path: the start of the names of its two files; None for a block that is not kept.
    - provenance: all that decides its records, from the network to their peaks.
    - dtype: how the pixels of reconstructions are kept, see `Reconstructions.save`.
    """

    layer: str
    rule: Rule | Explanation
    units: tuple[int, ...]
    peaks: LayerPeaks
    images: Source
    path: Path | None
    provenance: Provenance
    dtype: str = "float32"

    @property
    def files(self) -> tuple[Path, Path]:
        """Where reconstructions and patches are, or go."""
        assert self.path is not None, "a block that is kept"
        recon, patches = (self.path.with_name(f"{self.path.name}.{kind}.safetensors") for kind in KINDS)
        return recon, patches

    def title(self) -> str:
        """Return what an engine calls the making of it: "projecting conv1 units 0 to 31 by deconvnet"."""
        return f"projecting {self.layer} units {self.units[0]} to {self.units[-1]} by {self.rule.name}"

    def is_kept(self) -> bool:
        """Return whether its files are there, with pixels kept as this block keeps them."""
        return all(path.is_file() for path in self.files) and dtype_of(self.files[0]) == self.dtype

    def make(self, network: Network) -> tuple[Reconstructions, Patches]:
        """Project the peaks and cut their patches. Raises what `explain_peaks` and `patches_of` do."""
        recon = explain_peaks(network, self.images, self.layer, self.peaks, self.units, self.rule)
        patches = patches_of(network, self.images, recon, self.provenance["source"]["content"])
        return replace(recon, provenance=self.provenance), replace(patches, provenance=self.provenance)

    def load(self) -> tuple[Reconstructions, Patches]:
        """Return what is in the files.

        Raises RecordMismatch, naming the difference, if they were made of anything else.
        """
        recon, patches = Reconstructions.load(self.files[0]), Patches.load(self.files[1])
        check_same(self.files[0], recon.provenance, self.provenance, REMEDY)
        check_same(self.files[1], patches.provenance, self.provenance, REMEDY)
        return recon, patches

    def discard(self) -> None:
        """Remove the files, if they are there."""
        for file in self.files:
            file.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: of the source only the images of these units."""
        image_ids = self.peaks.of(list(self.units))[0].unique().tolist()
        path = None if self.path is None else self.path.absolute()
        return vars(self) | {"images": self.images.part(image_ids), "path": path}


def keep(network: Network, block: Block) -> Iterator[str]:
    """Make a block and write its files; yield the name of the first."""
    recon, patches = block.make(network)
    recon_path, patch_path = block.files
    recon.save(recon_path, block.dtype)
    patches.save(patch_path)
    yield recon_path.name
