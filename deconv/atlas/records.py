"""The records of every unit: reconstructions and patches in blocks, and how units fire; kept, and taken up again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconv.atlas.blocks import Block, keep
from deconv.atlas.contents import safe_name
from deconv.engines import Engine
from deconv.errors import RecordMismatch
from deconv.files import claimed, remove_parts, write_json
from deconv.images import Source
from deconv.images.batches import batches
from deconv.mining.firing import Firing, Tally
from deconv.network import Network
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks, Patches, Peaks, Reconstructions
from deconv.records.formats import reading
from deconv.records.provenance import versions


@dataclass(frozen=True, eq=False)
class UnitRecords:
    """Where the records of a network's units come from; `folder` keeps them, or None to keep none."""

    network: Network
    images: Source
    peaks: Peaks
    folder: Path | None

    def provenance(self, layer: str, rule: Rule, units: Sequence[int]) -> str:
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

    def block(self, layer: str, rule: Rule, units: Sequence[int]) -> Block:
        """Some units that fire, whose reconstructions and patches are made and kept together."""
        name = f"{safe_name(layer)}.{units[0]:04d}-{units[-1]:04d}.{safe_name(rule.name)}"
        path = None if self.folder is None else self.folder / name
        return Block(layer, rule, tuple(units), self.peaks[layer], self.images, self.images.content_hash, path)

    def pictures(
        self, blocks: Sequence[Block], engine: Engine
    ) -> Generator[tuple[int, Reconstructions, Patches], None, None]:
        """Every block, in whatever order: (its place in `blocks`, reconstructions of all peaks of its units, patches).

        Those in the folder are checked and come first, so that nothing is made before all of them are known to be
        right; the engine makes the others, each whole on disk before it comes. Without a folder they are made here.
        Raises RecordMismatch if a record of other peaks, weights, images or rule is in the folder, and BadInput if
        another process works there.
        """
        if self.folder is None:
            for place, block in enumerate(blocks):
                yield place, *block.make(self.network)
            return
        there = [all(path.is_file() for path in block.files) for block in blocks]
        for place in (place for place, found in enumerate(there) if found):
            yield place, *blocks[place].load(self.network)
        missing = {blocks[place].files[0].name: place for place, found in enumerate(there) if not found}
        if missing:
            with claimed(self.folder), engine.connected():
                remove_parts(self.folder)
                for name in engine.work(keep, self.network, [blocks[place] for place in missing.values()]):
                    yield missing[name], *blocks[missing[name]].load(self.network)
                remove_parts(self.folder)  # of workers that died

    def firing(self, batch_size: int) -> dict[str, Firing]:
        """How every unit fires over all images: one more pass over them, unless it is in the folder.

        Raises RecordMismatch if what is there was made of other peaks.
        """
        provenance = _digest([self.peaks.provenance, {layer: _rows(peaks) for layer, peaks in self.peaks.items()}])
        path = None if self.folder is None else self.folder / "firing.json"
        if path is not None and path.is_file():
            with reading(path):
                saved = json.loads(path.read_text(encoding="utf-8"))
                if saved["provenance"] != provenance:
                    raise RecordMismatch(f"{path} was made of other peaks; delete it to count again.")
                return {layer: Firing(**saved["layers"][layer]) for layer in self.peaks}
        firing = self._count(batch_size)
        if path is not None:
            write_json(
                path, {"provenance": provenance, "layers": {name: one.as_dict() for name, one in firing.items()}}
            )
        return firing

    def _count(self, batch_size: int) -> dict[str, Firing]:
        tallies = {layer: Tally(peaks.score[:, 0].numpy()) for layer, peaks in self.peaks.items()}
        preprocessing = self.network.needed_preprocessing()
        found = batches(self.images, preprocessing, batch_size, skipped=[])
        for _, input_images in track(
            found, "counting how units fire", len(self.images), size=lambda batch: len(batch[0])
        ):
            for layer, maps, maxima in self.network.forward_with_maxima(preprocessing.normalize(input_images), tallies):
                tallies[layer].see(maxima.float().cpu().numpy())
                del maps  # before the next layer is computed
        return {layer: tally.firing() for layer, tally in tallies.items()}


def _rows(peaks: LayerPeaks, units: list[int] | None = None) -> list[Any]:
    """Peaks as plain numbers: the same for a record that was saved and loaded."""
    columns = (peaks.image, peaks.row, peaks.col, peaks.score.nan_to_num(-1))
    return [(column if units is None else column[units]).tolist() for column in columns]


def _digest(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
