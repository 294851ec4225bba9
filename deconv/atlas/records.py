"""The records of every unit: reconstructions and patches in blocks, and how they fire; kept, and taken up again."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from deconv.analyses.by_class import ClassShare, class_shares
from deconv.atlas.blocks import KINDS, REMEDY, Block, keep
from deconv.atlas.contents import MadeOf, safe_name
from deconv.atlas.photographs import FILES
from deconv.engines import Engine
from deconv.errors import BadInput
from deconv.explanations import explain_peaks
from deconv.explanations.functions import Explanation
from deconv.files import claimed, remove_leftovers, remove_parts, write_json
from deconv.images import Source, StreamedSource
from deconv.images.class_names import spoken
from deconv.mining import mine, mine_into
from deconv.network import Network
from deconv.progress import track
from deconv.projection import dominators_below, layers_below, project_peaks
from deconv.projection.rules import Rule
from deconv.records import Firing, LayerPeaks, Patches, Peaks, Reconstructions
from deconv.records.formats import Axes, load_tensors, reading, save_tensors
from deconv.records.provenance import Provenance, build, check_same, digest, plain

log = logging.getLogger("deconv")
COUNTS = "firing.safetensors"
"""What keeps, among the records, how units fire, where peaks do not say it."""
UNITS_AT_ONCE = 32
"""Units that are sent back together to find what they are made of."""
SHARE_AXES: Axes = {"shares": (torch.float32, "U L"), "around": (torch.float32, "U")}
SAMPLED = 16
"""Units whose reconstructions, of all their peaks, measure a layer's effective field."""


@dataclass(frozen=True, eq=False)
class UnitRecords:
    """Makes the records of a network's units and keeps them in `folder`; None keeps none.

    dtype: how reconstructions are kept, see `Reconstructions.save`.
    photographs: the images that are looked at, where these are a part of `images`, from which all others were mined.
    """

    network: Network
    images: Source
    peaks: Peaks
    folder: Path | None
    dtype: str = "float32"
    photographs: Source | None = None

    @property
    def shown(self) -> Source:
        """The source that images are read from."""
        return self.images if self.photographs is None else self.photographs

    @cached_property
    def source(self) -> Provenance:
        """What a record says of the images; all shards of a streamed source are asked for their states for it."""
        return self.images.provenance()

    def _provenance(
        self, layer: str, rule: Rule | Explanation, units: Sequence[int], peaks: LayerPeaks | None = None
    ) -> Provenance:
        return build(
            self.network.provenance(),
            self.source,
            layer=layer,
            rule=rule.name,
            rule_options=rule.options(),
            units=list(units),
            # its name is the last in order: of what differs the others are told first, from which it follows
            which_peaks=digest(_rows(peaks or self.peaks[layer], list(units))),
        )

    def _file(self, layer: str, rule: Rule | Explanation, what: str) -> Path | None:
        """The file that keeps what is known of a layer by a rule; None where nothing is kept."""
        return None if self.folder is None else self.folder / f"{safe_name(layer)}.{safe_name(rule.name)}.{what}"

    def _firing_units(self, layer: str) -> torch.Tensor:
        return self.peaks[layer].found.any(dim=1).nonzero().flatten()

    def block(
        self, layer: str, rule: Rule | Explanation, units: Sequence[int], beyond: LayerPeaks | None = None
    ) -> Block:
        """Return units that fire as a block, whose reconstructions and patches are made and kept together.

        beyond: other peaks of the layer, beyond the strongest ones, in place of these.
        """
        name = f"{safe_name(layer)}.{units[0]:04d}-{units[-1]:04d}.{safe_name(rule.name)}"
        name += "" if beyond is None else ".beyond"
        path = None if self.folder is None else self.folder / name
        provenance = self._provenance(layer, rule, units, beyond)
        peaks = beyond or self.peaks[layer]
        return Block(layer, rule, tuple(units), peaks, self.shown, path, provenance, self.dtype)

    def pictures(
        self, blocks: Sequence[Block], engine: Engine
    ) -> Generator[tuple[int, Reconstructions, Patches], None, None]:
        """Yield (index in `blocks`, reconstructions of all peaks of its units, patches) of every block, in any order.

        Those in the folder are checked and come first, so that nothing is made before all of them are known to be
        right; the engine makes the others, each whole on disk before it comes. Without a folder they are made here.
        Raises RecordMismatch, naming the difference, if a record in the folder was made of anything else, and BadInput
        if another process works there.
        """
        if self.folder is None:
            for index, block in enumerate(blocks):
                yield index, *block.make(self.network)
            return
        kept = [block.is_kept() for block in blocks]
        for index, block in enumerate(blocks):
            if kept[index]:
                yield index, *block.load()
        missing = {block.files[0].name: index for index, block in enumerate(blocks) if not kept[index]}
        if missing:
            with claimed(self.folder), engine.connected():
                remove_parts(self.folder)
                tasks = [blocks[index] for index in missing.values()]
                for name in engine.work(keep, self.network, tasks, name=Block.title):
                    yield missing[name], *blocks[missing[name]].load()
                remove_parts(self.folder)  # of workers that died
        else:
            remove_leftovers(self.folder)  # of a run that was killed when it had made everything

    def discard(self) -> None:
        """Remove reconstructions, patches and images from the folder, and leave what is small."""
        if self.folder is None:
            return
        patterns = [*(f"*.{kind}.safetensors" for kind in KINDS), *FILES]
        files = [path for pattern in patterns for path in self.folder.glob(pattern)]
        for file in files:
            file.unlink()
        if files:
            log.info("removed %d files of reconstructions, patches and images from %s", len(files), self.folder)

    def effective_field(self, layer: str, rule: Rule | Explanation) -> int:
        """Return the side of the layer's effective field, of at most SAMPLED units evenly spread over those that fire.

        It is kept in the folder. Raises RecordMismatch, naming the difference, if what is there is of other peaks.
        """
        firing = self._firing_units(layer)
        if not len(firing):
            return max(self.network.receptive_field(layer).size)
        units = firing[torch.linspace(0, len(firing) - 1, min(SAMPLED, len(firing))).round().long()].tolist()
        provenance = plain(self._provenance(layer, rule, units))
        path = self._file(layer, rule, "field.json")
        if path is not None and path.is_file():
            with reading(path):
                saved = json.loads(path.read_text(encoding="utf-8"))
                check_same(path, saved["provenance"], provenance, REMEDY)
                return int(saved["effective_field"])
        recon = explain_peaks(self.network, self.shown, layer, self.peaks[layer], units, rule)
        if path is not None:
            write_json(path, {"provenance": provenance, "effective_field": recon.effective_field})
        return recon.effective_field

    def made_of(self, layer: str, rule: Rule) -> MadeOf | None:
        """Return what each unit's activations are made of in the nearest lower layer that has peaks.

        It is the nearest that no path leads around, or simply the nearest where paths lead around all; None if there is
        none. The shares are of all peaks of a unit together (`records.Parts.of_whole`); they are kept in the folder.
        Raises RecordMismatch, naming the difference, if what is there is of other peaks.
        """
        height, width = self.peaks.provenance["input_size"]
        asked = (self.network, layer, [rule], (height, width))
        nodes = {self.network.node(name, (height, width)): name for name in self.peaks}
        mined = nodes.keys() & dominators_below(*asked).values() or nodes.keys() & layers_below(*asked).values()
        if not mined:
            return None
        lower = nodes[max(mined)]
        units = self._firing_units(layer)
        provenance = plain(self._provenance(layer, rule, units.tolist()) | {"through": [lower]})
        path = self._file(layer, rule, "made_of.safetensors")
        if path is not None and path.is_file():
            with reading(path):
                tensors, saved = load_tensors(path, "shares", SHARE_AXES)
                check_same(path, saved, provenance, REMEDY)
                return MadeOf(lower, **tensors)
        count = len(self.peaks[layer].score)
        shares, around = torch.zeros((count, self.network.channels(lower))), torch.zeros(count)
        for block in track(units.split(UNITS_AT_ONCE), f"finding what {layer} is made of", len(units), size=len):
            recon = project_peaks(
                self.network, self.shown, layer, self.peaks[layer], block.tolist(), rule, through=[lower]
            )
            for unit in block.tolist():
                parts = recon.of(recon.channel == unit).parts
                shares[unit], around[unit] = parts.of_whole(lower), parts.around_of_whole(lower)
        if path is not None:
            tensors = {"shares": shares, "around": around}
            save_tensors(path, "shares", tensors, SHARE_AXES, provenance, checked=True)
        return MadeOf(lower, shares, around)

    def class_counts(self, firing: Mapping[str, Firing]) -> Mapping[int, int]:
        """Return how many images each class has, of those that could be read; none where images have no classes."""
        by_class = next((each.by_class for each in firing.values()), None)
        if by_class is not None:
            return dict(zip(by_class.classes.number, by_class.images.tolist(), strict=True))
        return {} if isinstance(self.images, StreamedSource) else Counter(self.images.labels or ())

    def class_names(self, counts: Mapping[int, int]) -> dict[int, str]:
        """Return what the classes of the images are called, in words, by their numbers."""
        names = self.images.class_names
        return {number: spoken(names[number]) if names else f"class {number}" for number in sorted(counts)}

    def classes(self, counts: Mapping[int, int]) -> dict[int, str]:
        """Return what each image of a peak shows, in words, where the source says so."""
        image_ids, names = list(self.peaks.image_keys), self.class_names(counts)
        labels = self.shown.labels_of(image_ids) if counts else None
        return {} if labels is None else {image_ids[n]: names[label] for n, label in enumerate(labels)}

    def class_shares(self, layer: str, counts: Mapping[int, int]) -> list[list[ClassShare]]:
        """Return the classes of each unit's peaks; nothing where the source knows none, or one for all."""
        several = len(counts) > 1 and self.shown.labels is not None
        return class_shares(self.peaks[layer], self.shown, counts) if several else []

    def firing(self, batch_size: int, engine: Engine) -> Mapping[str, Firing]:
        """Return how every unit fires over all images, as the peaks say, or else counted in one more pass over them.

        That pass mines one peak of each unit anew, by the engine, and keeps it in the folder with the counts. Raises
        RecordMismatch, naming the difference, if what is there was made of anything else, and BadInput if another
        process works in the folder.
        """
        if self.peaks.firing is not None:
            listed = not isinstance(self.images, StreamedSource)  # whose classes are told wherever all images have one
            if listed and self.images.labels and any(each.by_class is None for each in self.peaks.firing.values()):
                log.info("the peaks were mined before units were told by class: mine them again to sort by selectivity")
            return self.peaks.firing
        layers = list(self.peaks)
        if self.folder is None:
            counted = mine(self.network, self.images, layers, 1, batch_size, firing=True)
        else:
            path = self.folder / COUNTS
            counted = mine_into(path, self.network, self.images, layers, 1, batch_size, engine=engine, firing=True)
            if counted.firing is None:
                raise BadInput(f"{path} does not say how units fire: delete it to count again")
        assert counted.firing is not None, "asked for"
        return counted.firing


def _rows(peaks: LayerPeaks, units: list[int]) -> list[Any]:
    """The peaks of some units as plain numbers: the same for a record that was saved and loaded."""
    columns = (peaks.image, peaks.row, peaks.col, peaks.score.nan_to_num(-1))
    return [column[units].tolist() for column in columns]
