"""Units on one photograph: where each fires most, and what is sent back from there, drawn on the photograph."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from deconv.analyses.choosing import as_reference, check_units, pick_images, strongest_units
from deconv.defaults import plain_defaults
from deconv.errors import BadInput, bad_value, check_count, check_list
from deconv.figures import Figure, in_html, save_as
from deconv.figures.strongest import strongest_figure
from deconv.images import MapDataset, Source, check_source, dataset
from deconv.images.decoding import decode
from deconv.images.members import Member
from deconv.mining import mine
from deconv.network import Network
from deconv.projection import AnyRule, check_rules, project_peaks
from deconv.records import LayerPeaks, Peaks, Reconstructions


@dataclass(frozen=True, eq=False)
class OnPhotograph(Reconstructions):
    """Reconstructions of peaks of one photograph; in a notebook they show themselves where they lie on it.

    All that `Reconstructions` are, and besides:

    - photograph: the input image that the boxes count the pixels of.
    - peaks: the strongest peak on it of every unit of the layer, k = 1.
    - name: the photograph's key or path, "" for one without a name.
    - not_firing: the units that were asked for and do not fire on it.
    - indifferent: the units that a reference could not choose, for they fire just the same on an empty photograph.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((64, 64), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> network = deconv.Network(net, (3, 64, 64), preprocessing=preprocessing)
    >>> recon = deconv.project_strongest(network, deconv.bundled(), "skimage/chelsea.png", "1", [2])
    >>> recon.photograph.shape, recon.picture("chelsea.png").name
    (torch.Size([3, 64, 64]), 'chelsea.png')
    """

    photograph: UInt8[Tensor, "C H W"] = field(kw_only=True)
    peaks: LayerPeaks = field(kw_only=True)
    name: str = field(default="", kw_only=True)
    not_firing: tuple[int, ...] = field(default=(), kw_only=True)
    indifferent: tuple[int, ...] = field(default=(), kw_only=True)

    def __repr__(self) -> str:
        photograph = f" on {self.name}" if self.name else ""
        return (
            f"<{type(self).__name__}: units {', '.join(map(str, self.channel.tolist()))} of {self.layer}{photograph}>"
        )

    def _repr_html_(self) -> str:
        return f"<div>{in_html(self.figure(), repr(self).strip('<>'))}</div>"

    def figure(self) -> Figure:
        """Return the picture: for each unit the photograph with its field, and the reconstruction in its place."""
        return strongest_figure(self, self.photograph, self.name, self.not_firing)

    @plain_defaults()
    def picture(self, path: str | Path) -> Path:
        """Write the picture into this one file, in the format of its suffix: png, pdf, svg, jpg or jpeg; returns it.

        `save` writes the numbers. Raises BadInput for another suffix, or if the file cannot be written.
        """
        return save_as(self.figure(), path)


@plain_defaults()
def project_strongest(
    network: Network,
    images: Source | MapDataset | None,
    image: Any,
    layer: str,
    units: Sequence[int] | None = None,
    rule: AnyRule = "deconvnet",
    n_units: int = 9,
    reference: Peaks | None = None,
) -> OnPhotograph:
    """Find where units fire most on one photograph, and send each of these activations back to pixels.

    - images, image: a Source or a Dataset with the key or the number of one of its images; or None with a photograph of
      its own: a path, a picture of Pillow's, an array (height, width, 3) of uint8, or whatever an item of a Dataset is.
    - layer: the name of a layer.
    - units: numbers of units, from 0; for None the `n_units` that are strongest on this photograph, strongest first.
    - rule: as for `project`.
    - reference: peaks of this network over many images. Each unit has a scale of its own, so that the largest
      activations are often those of units that are always large; with a reference the strongest units are those whose
      activation is the largest share of the strongest that they have there (`strongest_units`). Left out are units
      whose map is the same on the empty input, all zeros: a unit without weights is as strong as ever on any image.

    Returns Reconstructions with the photograph that they lie on, one for each unit that fires, in the order of the
    units: those of the strongest peak of `mine` over this photograph alone. In a notebook they show themselves.
    Raises what `mine` and `project_peaks` raise, UnknownName for a key that is not there, UnreadableImage for a
    photograph that cannot be read, RecordMismatch for a reference of other weights, and BadInput for anything else, for
    units beside a reference, which is to choose them, or if none of the units fires.

    >>> import deconv, torch
    >>> from torch import nn
    >>> preprocessing = deconv.Preprocessing((64, 64), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> network = deconv.Network(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU()), (3, 64, 64), preprocessing=preprocessing)
    >>> recon = deconv.project_strongest(network, deconv.bundled(), "skimage/chelsea.png", "1", units=[5, 2])
    >>> recon
    <OnPhotograph: units 5, 2 of 1 on skimage/chelsea.png>
    >>> recon.score.shape, recon.row.shape, recon.pixels.shape
    (torch.Size([2]), torch.Size([2]), torch.Size([2, 3, 5, 5]))
    >>> deconv.project_strongest(network, None, deconv.bundled().image(0), "1", n_units=3).channel.shape
    torch.Size([3])
    """
    if not isinstance(network, Network):
        raise bad_value("network", type(network).__name__, "a deconv.Network", "deconv.Network(module, input_shape)")
    preprocessing = network.needed_preprocessing()
    if units is not None and not check_list("units", units, "units, from 0"):
        raise bad_value("units", "none", "at least one", "leave it out for the strongest")
    check_units(network, [layer], units)
    check_count("n_units", n_units)
    if units is not None and reference is not None:
        raise BadInput("project_strongest: a reference chooses units, and units names them: leave one of them out")
    beside = None if reference is None else as_reference(network, [layer], reference)[layer]
    image_id, name, pixels = _photograph(images, image)
    input_image = preprocessing.input_image(pixels)
    check_rules(network, [layer], [rule], (input_image.shape[1], input_image.shape[2]))
    inputs = preprocessing.normalize(input_image[None])
    peaks = mine(network, inputs, [layer], k=1)[layer]
    indifferent = torch.zeros(network.channels(layer), dtype=torch.bool)
    if beside is not None:
        indifferent = _indifferent(network, inputs, layer) & peaks.found[:, 0]
    chosen = list(units) if units is not None else _strongest(peaks, beside, indifferent, n_units)
    if not bool(peaks.found[chosen].any()):
        raise BadInput(
            f"layer {layer}: {f'none of the units {chosen}' if units else 'no unit'} fires on this photograph; "
            "choose others"
        )
    recon = project_peaks(network, inputs, layer, peaks, chosen, rule)
    recon = replace(recon, image=torch.full_like(recon.image, image_id))
    not_firing = tuple(unit for unit in chosen if not peaks.found[unit, 0])
    units_left_out = tuple(indifferent.nonzero().flatten().tolist())
    return OnPhotograph(
        **vars(recon),
        photograph=input_image,
        peaks=peaks,
        name=name,
        not_firing=not_firing,
        indifferent=units_left_out,
    )


def _strongest(peaks: LayerPeaks, beside: LayerPeaks | None, indifferent: Tensor, n_units: int) -> list[int]:
    """The units that are strongest by their activations; beside other peaks by the share, the indifferent left out."""
    if beside is not None:
        image = torch.where(indifferent[:, None], -1, peaks.image)
        return strongest_units(replace(peaks, image=image), beside, n_units)
    firing = peaks.found[:, 0].nonzero().flatten()
    units: list[int] = firing[torch.argsort(peaks.score[firing, 0], descending=True, stable=True)][:n_units].tolist()
    return units


def _indifferent(network: Network, inputs: Float[Tensor, "1 C H W"], layer: str) -> Bool[Tensor, " units"]:
    """The units whose map is, at every position, that of an input of zeros."""
    maps = network.forward(torch.cat([inputs, torch.zeros_like(inputs)]), [layer])[layer]
    return (maps[0] == maps[1]).flatten(1).all(dim=1).cpu()


def _photograph(images: Source | MapDataset | None, image: Any) -> tuple[int, str, UInt8[Any, "H W 3"]]:
    """The photograph's id, its name and its pixels."""
    if images is None:
        if isinstance(image, str | PathLike):
            return 0, fspath(image), decode(Member(Path(fspath(image))))
        if image is None:
            raise bad_value("image", None, "a path, a picture of Pillow's, or an array (height, width, 3) of uint8")
        return 0, "", dataset([image]).image(0)
    source = check_source(images)
    if isinstance(image, str):
        (index,) = pick_images(source, [image], 1)
        image_id = source.ids[index]
    else:
        image_id = source.ids[source.index_of(image)]
    return operator.index(image_id), source.key(image_id), source.image(image_id)
