"""One photograph as units see it: a page for a browser, without scripts or other files, and one picture of it all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from deconv.analyses.choosing import describe_share, images_of
from deconv.analyses.photograph import SeenLayer
from deconv.figures.features import GAP, LayerPanels, UnitPanel, features_figure, layer_title
from deconv.figures.html import Picture, embedded, template
from deconv.figures.pictures import FADED, WHITE, as_bytes, on_grid, patch_tiles, recon_tiles, tiles
from deconv.figures.strongest import SIDE, outlined, over_photograph
from deconv.projection.patches import cut_patches
from deconv.records import Peaks

WIDEST = 2400
"""Pixels of the picture across: two units."""
FEW = 1000
"""With fewer images than these the page says that shares of the strongest tell little."""
MEANINGS = (
    ("where it fires", "the photograph as the network sees it, in colour where it fires; outlined, its strongest."),
    ("what counts", "what is sent back from there, laid over the photograph: what of it the unit answers to."),
    ("closer", "the outlined part alone: what is sent back, zero at mid-grey, and the photograph under it."),
    ("at its best", "what is sent back from where the unit is strongest of all, among {images} images."),
    ("its best patches", "the images in those places, the strongest first; hatched is what lies outside them."),
)
"""What each picture of a unit is called, and what it shows."""


@dataclass(frozen=True)
class Seen:
    """All that the page and the picture tell of one photograph.

    - photograph: the input image; name: what it is called; network: what that is called.
    - layers: in forward order, with what each shows.
    - answers: the classes that the network finds most probable, with their probabilities; empty if it names none.
    - class_names: by layer that holds class scores, what its units are called.
    - images: over how many the best peaks were mined; reference: what the strongest activations are taken from.
    - rule: its name.
    """

    photograph: UInt8[Tensor, "C H W"]
    name: str
    network: str
    layers: Sequence[SeenLayer]
    answers: Sequence[tuple[str, float]]
    class_names: dict[str, list[str]]
    images: int
    reference: Peaks
    rule: str

    @property
    def meanings(self) -> list[tuple[str, str]]:
        """What each picture of a unit is called, and what it shows."""
        return [(name, meaning.format(images=f"{self.images:,}")) for name, meaning in MEANINGS]

    @property
    def choice(self) -> str:
        """How units were chosen, in words."""
        return (
            "Activations of two units cannot be compared, for each unit has a scale of its own. So each goes by its "
            "strongest activation here as a share of its strongest over "
            f"{images_of(self.reference):,} images: at 1.00 it is as strong as on the best of those. Shown are the "
            "units of each layer with the largest shares."
        )

    def title(self, layer: SeenLayer, number: int) -> str:
        """What a unit is called: its number, the class it stands for if it is one, and what its best images share."""
        unit, shared = layer.numbers["units"][number], layer.numbers["classes"][number]
        names = self.class_names.get(layer.layer)
        called = f"unit {unit}, {names[unit]}" if names else f"unit {unit}"
        return f"{called}: {shared}" if shared else called

    def strength(self, layer: SeenLayer, number: int) -> str:
        """How strongly a unit is excited, in words."""
        share = layer.numbers["share_of_strongest"][number]
        if share is None:
            return f"dead over {images_of(self.reference):,} images, and fires here"
        return describe_share(share, self.reference)


def photograph_figure(seen: Seen) -> Figure:
    """Draw all layers below each other, two units beside each other."""
    layers = []
    for layer in seen.layers:
        titles = [f"{seen.title(layer, n)}\n{seen.strength(layer, n)}" for n in range(len(layer.here))]
        units = tuple(map(UnitPanel, titles, blocks(seen, layer)))
        layers.append(LayerPanels(f"{layer.layer}   {layer_title(layer.numbers)}; {_firing(layer)}", units, WIDEST))
    meanings = [f"{name.capitalize()}: {meaning}" for name, meaning in seen.meanings]
    caption = " ".join([*meanings, seen.choice])
    return features_figure(layers, f"What {seen.network} sees in {seen.name}, {seen.rule}", caption=caption)


def blocks(seen: Seen, layer: SeenLayer) -> list[tuple[np.ndarray, ...]]:
    """Return the pictures of each unit, those that MEANINGS names."""
    here, (best, best_patches), photograph = layer.here, layer.best, seen.photograph
    patches = cut_patches(photograph[None], here.image.new_zeros(len(here)), here.box)
    across = math.ceil(math.sqrt(layer.k))
    half, tile = (SIDE - GAP) // 2, (SIDE - (across - 1) * GAP) // across
    where = outlined(lit(photograph, layer.maps), here.box)
    over = outlined(over_photograph(here, photograph), here.box)
    sent, under = recon_tiles(here.pixels, half), patch_tiles(patches.pixels, patches.inside, half)
    units = []
    for n, unit in enumerate(here.channel.tolist()):
        of_unit = best.channel == unit
        recons = recon_tiles(best.pixels[of_unit], tile)
        cut = patch_tiles(best_patches.pixels[of_unit], best_patches.inside[of_unit], tile)
        closer = on_grid(np.stack([sent[n], under[n]]), 1, GAP)
        nine = [on_grid(each, across, GAP, places=layer.k) for each in (recons, cut)]
        units.append((where[n], over[n], closer, *nine))
    return units


def lit(photograph: UInt8[Tensor, "C H W"], maps: Float[Tensor, "n H W"]) -> UInt8[Tensor, "n C H W"]:
    """Return the photograph once for each map: as it is where that is strongest, pale and grey where it is not above 0.

    >>> import torch
    >>> lit(torch.full((1, 1, 3), 55, dtype=torch.uint8), torch.tensor([[[-1.0, 2.0, 4.0]]])).tolist()
    [[[[195, 125, 55]]]]
    """
    positive = maps.clamp_min(0)
    strongest = positive.amax(dim=(1, 2), keepdim=True)
    share = (positive / strongest.where(strongest > 0, 1.0))[:, None]
    pale = WHITE - FADED * (WHITE - photograph.float().mean(dim=0, keepdim=True))
    return as_bytes((photograph * share + pale * (1 - share)) / WHITE)


def photograph_page(seen: Seen) -> str:
    """Return the page as HTML: one file, whose pictures are in it."""
    shown = embedded(tiles(seen.photograph[None], SIDE)[0], False, "", f"{seen.name}, as the network sees it")
    layers = []
    for layer in seen.layers:
        of_units = [
            {
                "title": seen.title(layer, n),
                "strength": seen.strength(layer, n),
                "pictures": [*map(_picture, unit, [name for name, _ in MEANINGS], [seen.title(layer, n)] * 5)],
            }
            for n, unit in enumerate(blocks(seen, layer))
        ]
        about = f"{layer_title(layer.numbers)}. {_firing(layer)}."
        layers.append({"name": layer.layer, "about": about, "units": of_units})
    texts: dict[str, Any] = {
        "network": seen.network,
        "name": seen.name,
        "photograph": shown,
        "answers": seen.answers,
        "meanings": seen.meanings,
        "choice": seen.choice,
        "few": images_of(seen.reference) if images_of(seen.reference) < FEW else None,
        "rule": seen.rule,
        "layers": layers,
    }
    return template("photograph.html").render(**texts) + "\n"


def _picture(pixels: np.ndarray, name: str, title: str) -> Picture:
    return embedded(pixels, False, name, f"{title}: {name}")


def _firing(layer: SeenLayer) -> str:
    """How many units the photograph excites, and how many are not chosen for it would make no difference."""
    numbers = layer.numbers
    count = len(numbers["indifferent"])
    fires = "fires" if count == 1 else "fire"
    left_out = f"; {count} {fires} just so on an empty photograph, and cannot be shown" if count else ""
    return f"{numbers['firing_here']} fire here, {numbers['half_here']} with half of their strongest or more{left_out}"
