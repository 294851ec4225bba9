"""Which pictures of units a site lacks, and drawing them, block by block of units, as their records are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from deconv.atlas import sprites
from deconv.atlas.blocks import Block
from deconv.atlas.contents import Layer
from deconv.atlas.records import UnitRecords
from deconv.atlas.site import Site
from deconv.engines import Engine
from deconv.explanations.functions import Explanation
from deconv.progress import track
from deconv.projection.rules import Rule
from deconv.records import LayerPeaks
from deconv.records.provenance import digest

BLOCK_BYTES = 2**27
"""Bytes of one block's reconstructions, which are in memory and in one file of records together."""
DRAWING_VERSION = 5
"""Version of how pictures are drawn: where a site has those of another one, all are drawn again."""


@dataclass(frozen=True, eq=False)
class MissingPictures:
    """Pictures of one block of units by one rule that the site lacks.

    group: their name in the site's manifest.  provenance: the hash of what they are made of.  rule: its number; None
    for what lies beyond the strongest peaks, by the first rule.
    """

    group: str
    provenance: str
    layer: Layer
    rule: int | None
    block: Block


def plan_pictures(
    site: Site, records: UnitRecords, layer: Layer, rules: Mapping[str, Rule | Explanation]
) -> Iterator[MissingPictures]:
    """Yield the blocks of a layer's units whose sheets or plates the site lacks, rule by rule."""
    drawn: list[tuple[int | None, Rule | Explanation, list[int], LayerPeaks | None]]
    drawn = [(number, rule, layer.firing_units, None) for number, rule in enumerate(rules.values())]
    if layer.beyond is not None:
        drawn.append((None, drawn[0][1], layer.units_beyond, layer.beyond))
    for block in _unit_blocks(layer):
        for number, rule, of_layer, peaks in drawn:
            if units := [unit for unit in of_layer if unit in block]:
                group = f"{layer.folder}/{block[0]}/{'beyond' if number is None else number}"
                of_block = records.block(layer.name, rule, units, peaks)
                made_of = {"side": layer.side, "records": digest(of_block.provenance)}
                made_of |= {} if of_block.dtype == "float32" else {"pixels": of_block.dtype}
                provenance = digest({"drawing": DRAWING_VERSION, **made_of})
                if not site.has(group, provenance, picture_files(layer, units, number)):
                    yield MissingPictures(group, provenance, layer, number, of_block)


def _unit_blocks(layer: Layer) -> Iterator[range]:
    """Yield the units in runs of whole sheets, whose reconstructions fit into BLOCK_BYTES if one sheet's do."""
    height, width = (min(sides) for sides in zip(layer.field, layer.input_size, strict=True))
    sheet_bytes = 4 * 3 * layer.k * height * width * sprites.SHEET  # float32 colours
    step = max(BLOCK_BYTES // sheet_bytes, 1) * sprites.SHEET
    for start in range(0, layer.channels, step):
        yield range(start, min(start + step, layer.channels))


def picture_files(layer: Layer, units: list[int], rule: int | None) -> list[str]:
    """Return the files of some units' pictures by the rule of that number: plates, and for the first rule sheets.

    For None they are the plates of what lies beyond the strongest peaks.
    """
    plate = sprites.plate_of(layer)
    if rule is None:
        return [f"{layer.folder}/{plate.beyond_file(unit)}" for unit in units]
    files = [plate.file(unit, rule) for unit in units]
    if rule == 0:
        sheets = sorted({unit // sprites.SHEET for unit in units})
        files += [sprites.sheet_file(kind, sheet) for kind in sprites.KINDS for sheet in sheets]
    return [f"{layer.folder}/{file}" for file in files]


def draw(
    site: Site, records: UnitRecords, missing: Sequence[MissingPictures], engine: Engine, keep: bool = True
) -> None:
    """Draw the missing sheets and plates, block by block, in the order in which their records are made.

    keep: False removes the records of a block when its pictures are on disk.
    """
    drawn: list[Block] = []
    blocks = [part.block for part in missing]
    total = sum(len(block.units) for block in blocks)
    with closing(records.pictures(blocks, engine)) as pictures:
        tracked = track(pictures, "drawing units", total, unit="units", size=lambda done: len(blocks[done[0]].units))
        for index, recon, patches in tracked:
            part = missing[index]
            units = sprites.by_unit(recon, patches, part.layer, all_kinds=part.rule == 0)
            site.wait()  # the block before was drawn meanwhile; two at most are in memory
            if not keep:
                _discard(drawn)
            if part.rule is None:
                _put_beyond(site, part.layer, units)
            else:
                _put_pictures(site, part.layer, units, part.rule)
            site.done(part.group, part.provenance)
            drawn.append(part.block)
    if not keep:
        site.wait()
        _discard(drawn)


def _discard(blocks: list[Block]) -> None:
    while blocks:
        blocks.pop().discard()


def _put_pictures(site: Site, layer: Layer, units: Mapping[int, sprites.Pixels], rule: int) -> None:
    """Put the plates of some units into the site; for the first rule, which layer pages show, their sheets as well."""
    plate = sprites.plate_of(layer)
    for unit, pixels in units.items():
        site.put(f"{layer.folder}/{plate.file(unit, rule)}", partial(sprites.plate_picture, plate, pixels, rule == 0))
    if rule != 0:
        return
    for sheet in sorted({unit // sprites.SHEET for unit in units}):
        on_sheet = {unit: pixels for unit, pixels in units.items() if unit // sprites.SHEET == sheet}
        for kind in sprites.KINDS:
            file = f"{layer.folder}/{sprites.sheet_file(kind, sheet)}"
            site.put(file, partial(sprites.sheet_picture, kind, on_sheet, layer))


def _put_beyond(site: Site, layer: Layer, units: Mapping[int, sprites.Pixels]) -> None:
    """Put the plates of what lies beyond the strongest peaks of some units into the site."""
    plate = sprites.plate_of(layer)
    for unit, pixels in units.items():
        rows = [len(step.drawn) for step in layer.firing.steps(unit)]
        site.put(f"{layer.folder}/{plate.beyond_file(unit)}", partial(sprites.beyond_picture, plate, pixels, rows))
