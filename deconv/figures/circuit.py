"""The tree of a unit: each unit by its reconstructions beside its patches, joined to the lower units it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from deconv.analyses.circuit import TreeUnit
from deconv.figures import DPI
from deconv.figures.page import CAPTION, HEADING, MARGIN, NOTE, Page, head, text_height, wrapped
from deconv.figures.pictures import on_grid, patch_tiles, recon_tiles
from deconv.records import Patches

GAP = 2
"""Pixels between two tiles of a block."""
BETWEEN = 12
"""Pixels between two units of a column, and between the blocks of one."""
JOINTS = 120
"""Pixels from a column to the next, which the joints cross."""
SHAPES = ((3, 120), (3, 72), (2, 66), (1, 66), (1, 44))
"""By depth: tiles a side of a block, and the pixels of one; the last for whatever is deeper."""
COLOURS = ((209, 73, 91), (0, 121, 140), (237, 174, 73), (102, 161, 130), (141, 90, 151), (46, 64, 87))
"""Of a unit's strongest lower unit, its second, and so on."""
FRAME = 3
"""Pixels of the frame around what a unit answered to in the photograph of the unit above."""
WIDEST_JOINT = 60
"""Pixels that a joint is wide whose lower unit has all of the activation."""
NAMED = 2
"""Columns whose units are called by the classes of their images; in lower ones two of nine say little."""
TITLE = NOTE | {"fontsize": 9, "color": "0.1"}
CAPTION_TEXT = (
    "Each unit by its strongest peaks: reconstructions, zero at mid-grey, beside the patches under them. A joint leads "
    "to one of the lower units that these activations are made of, and is as wide as its share: what came back to it "
    "times what it answered, summed over positions, of all peaks together. A dot in the joint's colour says where in "
    "the patch the lower unit gave most. Framed in that colour is what it answered to there, in the photograph where "
    "it gave most; beside that are its own peaks, of which what hangs below it is made. Under a unit's name: the "
    "shares of the lower units shown, and of all others of their layer{around}; what these leave is due to biases and "
    "the rule."
)
AROUND_TEXT = (
    ", and what paths around that layer carry, as a skip connection leads around the layers within its residual block"
)
Point = tuple[float | int, float | int]
"""(x, y) in pixels of the page."""


@dataclass
class _Placed:
    """A unit on the page, and the top of the pixels that it and what hangs below it take down."""

    tree: TreeUnit
    depth: int
    children: list[_Placed]
    top: int = 0

    @property
    def side(self) -> int:
        return _block_side(self.depth)

    @property
    def title(self) -> str:
        tree, width = self.tree, _width(self.depth)
        classes = f": {tree.classes}" if tree.classes and self.depth < NAMED else ""
        lines = wrapped(f"{tree.layer} unit {tree.unit}{classes}", width, TITLE)
        if tree.rest is None or not tree.children:
            return lines
        others = f", others {_percent(1 - tree.rest - tree.held)}" if _shape(self.depth)[0] > 1 else ""
        around = f", around {_percent(tree.around)}" if tree.around else ""
        return f"{lines}\nshown {_percent(tree.held)}{others}{around}"

    @property
    def title_height(self) -> int:
        return text_height(self.title, TITLE)

    @property
    def own_height(self) -> int:
        return self.title_height + self.side + BETWEEN

    @property
    def height(self) -> int:
        return max(self.own_height, sum(child.height for child in self.children))

    @property
    def block_top(self) -> int:
        return self.top + (self.height - self.own_height) // 2 + self.title_height

    def move(self, top: int) -> None:
        """Take a place, and give those below it theirs, in the middle of the pixels that they may take."""
        self.top = top
        top += (self.height - sum(child.height for child in self.children)) // 2
        for child in self.children:
            child.move(top)
            top += child.height


def circuit_figure(tree: TreeUnit, heading: str) -> Figure:
    """Draw the tree from left to right: the unit, its strongest lower units, and theirs, a column a layer."""
    root, lefts = _placed(tree, 0), [MARGIN]
    for depth in range(_depth(tree)):
        lefts.append(lefts[-1] + _width(depth) + JOINTS)
    width = lefts[-1] - JOINTS + 2 * MARGIN
    text = CAPTION_TEXT.format(around=AROUND_TEXT if _bypassed(tree) else "")
    caption, heading = wrapped(text, width - 2 * MARGIN, CAPTION), wrapped(heading, width - 2 * MARGIN, HEADING)
    above = head(caption, heading)
    page = Page(above + root.height + MARGIN, width, heading, caption)
    root.move(above)
    over = page.figure.add_axes((0, 0, 1, 1), label="joints", zorder=1)
    over.set(xlim=(0, width), ylim=(page.pixels.shape[0], 0))
    over.set_axis_off()
    _draw(page, over, root, lefts, COLOURS[0])
    return page.finish()


def _placed(tree: TreeUnit, depth: int) -> _Placed:
    return _Placed(tree, depth, [_placed(child, depth + 1) for child in tree.children])


def _depth(tree: TreeUnit) -> int:
    return 1 + max((_depth(child) for child in tree.children), default=0)


def _bypassed(tree: TreeUnit) -> bool:
    """Whether paths lead around a layer that the tree goes through."""
    return bool(tree.around) or any(map(_bypassed, tree.children))


def _shape(depth: int) -> tuple[int, int]:
    return SHAPES[min(depth, len(SHAPES) - 1)]


def _block_side(depth: int) -> int:
    across, tile = _shape(depth)
    return across * (tile + GAP) - GAP


def _framed_side(depth: int) -> int:
    """Pixels a side of the two tiles that show a unit in the photograph of the one above; 0 where there is no room."""
    return (_block_side(depth) - 2 * FRAME - GAP) // 2 if depth and _shape(depth)[0] > 1 else 0


def _width(depth: int) -> int:
    framed = _framed_side(depth)
    return 2 * _block_side(depth) + BETWEEN + (framed + 2 * FRAME + BETWEEN if framed else 0)


def _percent(share: float) -> str:
    return f"{round(100 * share) + 0} %"


def _draw(page: Page, over: Axes, placed: _Placed, lefts: list[int], colour: tuple[int, int, int]) -> None:
    """Draw a unit and all that hangs below it; colour: that of the joint that leads to it."""
    tree, left, top, (across, tile) = placed.tree, lefts[placed.depth], placed.block_top, _shape(placed.depth)
    page.text(top - placed.title_height, left, placed.title, **TITLE)
    framed = _framed_side(placed.depth)
    if framed and tree.above is not None:
        page.picture(top, left, _framed(tree, framed, colour, placed.side))
        left += framed + 2 * FRAME + BETWEEN
    recon, patches = tree.pictures
    first = torch.arange(min(across**2, len(recon.pixels)))
    recon, patches, right = recon.of(first), patches.of(first), left + placed.side + BETWEEN
    page.picture(top, left, on_grid(recon_tiles(recon.pixels, tile), across, GAP, across**2))
    page.picture(top, right, on_grid(patch_tiles(patches.pixels, patches.inside, tile), across, GAP, across**2))
    for number, child in enumerate(placed.children):
        of_child = COLOURS[number % len(COLOURS)]
        start = top + placed.side * (number + 1) / (len(placed.children) + 1)
        end = child.block_top + child.side / 2
        _join(over, (right + placed.side + 4, start), (lefts[child.depth] - 4, end), child.tree.share, of_child)
        dots = list(_dots(child.tree, patches, tile, across))
        if dots:
            y, x = np.array(dots).T
            over.scatter(right + x, top + y, s=26, color=[_as_colour(of_child)], edgecolors="white", linewidths=0.8)
        _draw(page, over, child, lefts, of_child)


def _as_colour(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return red, green, blue


def _framed(tree: TreeUnit, side: int, colour: tuple[int, int, int], height: int) -> np.ndarray:
    """Reconstruction over patch, in the photograph of the unit above, in a frame."""
    assert tree.above is not None
    recon, patches = tree.above
    tiles = [recon_tiles(recon.pixels, side)[0], patch_tiles(patches.pixels, patches.inside, side)[0]]
    picture = np.full((height, side + 2 * FRAME, 3), colour, dtype=np.uint8)
    for n, tile in enumerate(tiles):
        top = FRAME + n * (side + GAP)
        picture[top : top + side, FRAME : FRAME + side] = tile
    return picture


def _dots(child: TreeUnit, patches: Patches, tile: int, across: int) -> Iterator[tuple[float, float]]:
    """Where the lower unit gave most, in pixels of the block of patches; nothing for what lies outside a patch."""
    for n, (place, (y0, x0, y1, x1)) in enumerate(zip(child.places, patches.box.tolist(), strict=False)):
        if place is not None and y0 <= place[0] <= y1 and x0 <= place[1] <= x1:
            scale, (row, col) = tile / max(y1 - y0, x1 - x0), divmod(n, across)
            top, left = ((tile - scale * length) / 2 for length in (y1 - y0, x1 - x0))
            y, x = top + (place[0] - y0) * scale, left + (place[1] - x0) * scale
            yield row * (tile + GAP) + y, col * (tile + GAP) + x


def _join(over: Axes, start: Point, end: Point, share: float, colour: tuple[int, int, int]) -> None:
    (x0, y0), (x1, y1) = start, end
    middle = (x0 + x1) / 2
    curve = Curve([(x0, y0), (middle, y0), (middle, y1), (x1, y1)], [Curve.MOVETO, *[Curve.CURVE4] * 3])
    width = max(WIDEST_JOINT * min(share, 1) * 72 / DPI, 0.5)
    edge = _as_colour(colour)
    over.add_patch(PathPatch(curve, facecolor="none", edgecolor=edge, linewidth=width, alpha=0.75, capstyle="butt"))
    above = y1 - width * DPI / 144 - 3
    over.text(x1 - 4, above, _percent(share), ha="right", va="bottom", fontsize=9, color="0.1")
