"""The records of every unit: reconstructions and patches in blocks, and how units fire; kept, and taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deconv.errors import RecordMismatch
from deconv.network import Network
from deconv.patches import patches_of
from deconv.progress import track
from deconv.projection import project_peaks
from deconv.records import LayerPeaks, Patches, Peaks, Reconstructions
from deconv.report.contents import safe_name
from deconv.report.firing import Firing, Tally
from deconv.rules import Rule
from deconv.runs import versions, write_json
from deconv.sources import Source, batches


@dataclass(frozen=True, eq=False)
class UnitRecords:
    """Where the records of a network's units come from; `folder` keeps them, or None to keep none."""

    network: Network
    images: Source
    peaks: Peaks
    folder: Path | None

    def made_of(self, layer: str, rule: Rule, units: Sequence[int]) -> str:
        """The sha256, in hex, of all that decides the pictures of some units."""
        about = {
            "weights": self.network.weights_hash,
            "layer": layer,
            "rule": rule.options(),
            "source": self.images.content_hash,
            "preprocessing": self.network.needed_preprocessing().as_dict(),
            "peaks": _rows(self.peaks[layer], list(units)),
            "versions": versions(),
        }
        return _digest(about)

    def pictures(self, layer: str, rule: Rule, units: Sequence[int]) -> tuple[Reconstructions, Patches]:
        """Reconstructions of all peaks of some units that fire, and their patches.

        Raises RecordMismatch if a record of other peaks, weights, images or rule is in the folder.
        """
        if self.folder is None:
            return self._make(layer, rule, units)
        first, last = units[0], units[-1]
        stem = f"{safe_name(layer)}.{first:04d}-{last:04d}.{safe_name(rule.name)}"
        recon_path = self.folder / f"{stem}.reconstructions.safetensors"
        patch_path = self.folder / f"{stem}.patches.safetensors"
        if recon_path.is_file() and patch_path.is_file():
            recon, patches = Reconstructions.load(recon_path), Patches.load(patch_path)
            self._check(recon_path, recon, patches, layer, rule, units)
            return recon, patches
        recon, patches = self._make(layer, rule, units)
        recon.save(recon_path)
        patches.save(patch_path)
        return recon, patches

    def firing(self, batch_size: int) -> dict[str, Firing]:
        """How every unit fires over all images: one more pass over them, unless it is in the folder.

        Raises RecordMismatch if what is there was made of other peaks.
        """
        made_of = _digest([self.peaks.provenance, {layer: _rows(peaks) for layer, peaks in self.peaks.items()}])
        path = None if self.folder is None else self.folder / "firing.json"
        if path is not None and path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["made_of"] != made_of:
                raise RecordMismatch(f"{path} was made of other peaks; delete it to count again.")
            return {layer: Firing(**saved["layers"][layer]) for layer in self.peaks}
        firing = self._count(batch_size)
        if path is not None:
            write_json(path, {"made_of": made_of, "layers": {name: one.as_dict() for name, one in firing.items()}})
        return firing

    def _make(self, layer: str, rule: Rule, units: Sequence[int]) -> tuple[Reconstructions, Patches]:
        recon = project_peaks(self.network, self.images, layer, self.peaks[layer], units, rule)
        return recon, patches_of(self.network, self.images, recon)

    def _check(
        self, path: Path, recon: Reconstructions, patches: Patches, layer: str, rule: Rule, units: Sequence[int]
    ) -> None:
        wanted, found = self.peaks[layer].of(list(units)), (recon.image, recon.channel, recon.row, recon.col)
        same = (
            all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
            and torch.equal(recon.box, patches.box)
            and recon.provenance["weights"] == self.network.weights_hash
            and recon.provenance["rule_options"] == rule.options()
            and patches.provenance["source"]["content"] == self.images.content_hash
        )
        if not same:
            raise RecordMismatch(
                f"{path} was made of other peaks, weights, images or rule; delete it to make it again."
            )

    def _count(self, batch_size: int) -> dict[str, Firing]:
        tallies = {layer: Tally(peaks.score[:, 0].numpy()) for layer, peaks in self.peaks.items()}
        look = self.network.needed_preprocessing()
        found = batches(self.images, look, batch_size, skipped=[])
        for _, frames in track(found, "counting how units fire", len(self.images), size=lambda batch: len(batch[0])):
            for layer, maps, maxima in self.network.forward_with_maxima(look.normalize(frames), tallies):
                tallies[layer].see(maxima.float().cpu().numpy())
                del maps  # before the next layer is computed
        return {layer: tally.firing() for layer, tally in tallies.items()}


def _rows(peaks: LayerPeaks, units: list[int] | None = None) -> list[Any]:
    """Peaks as plain numbers: the same for a record that was saved and loaded."""
    columns = (peaks.image, peaks.row, peaks.col, peaks.score.nan_to_num(-1))
    return [(column if units is None else column[units]).tolist() for column in columns]


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
