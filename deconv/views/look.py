"""A look into a network: mined, projected, cut out and drawn by one call."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from deconv.analyses.choosing import check_units, chosen_maps, described_images, images_of, spread_units
from deconv.analyses.features import summarise
from deconv.defaults import plain_defaults
from deconv.errors import BadInput, bad_value, check_count, check_list
from deconv.figures import Figure, in_html, save_as
from deconv.figures.features import caption_for, features_figure, layer_panels
from deconv.files import safe_name
from deconv.images import MapDataset, Source, check_source, folder
from deconv.images.preprocessing import Preprocessing
from deconv.mining import mine, mine_into
from deconv.network import Network
from deconv.network.receptive_field import first_filters
from deconv.progress import print_line, track
from deconv.projection import AnyRule, check_rules, project_peaks
from deconv.projection.patches import patches_of
from deconv.projection.rules import Rule, as_rule
from deconv.records import Patches, Peaks, Reconstructions

IMAGENET = Preprocessing((224, 224), 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What is done to photographs for most networks that were trained on ImageNet."""
LAYERS = 3
"""Layers that are looked at where none is named."""
WIDEST = 2200
"""Pixels of the figure across, at most: three units of nine peaks each, beside their filters."""


@dataclass(frozen=True, eq=False)
class Look:
    """What `deconv.look` saw: in a notebook it shows itself as the picture that `figure` returns.

    - peaks: of all units of each layer.
    - reconstructions, patches: by layer, of the peaks of the units that are shown.
    - numbers: by layer, what stands beside them: the units, their classes, fields, how many units are dead.
    - filters: those of the layers that are the network's first convolution.
    - heading: what stands above the figure.
    - chosen: one sentence for each thing that was not given, and is therefore chosen.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((64, 64), None, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    >>> network = deconv.Network(net, (3, 64, 64), preprocessing=preprocessing)
    >>> look = deconv.look(network, deconv.bundled(), units=[2, 0], k=4)
    >>> look
    <Look: 1 (2 of 4 units), 4 peaks each, ... images, deconvnet>
    >>> look.reconstructions["1"].pixels.shape, look.patches["1"].pixels.shape
    (torch.Size([8, 3, 5, 5]), torch.Size([8, 3, 5, 5]))
    >>> look.save("look.png").name
    'look.png'
    """

    peaks: Peaks
    reconstructions: dict[str, Reconstructions]
    patches: dict[str, Patches]
    numbers: dict[str, dict[str, Any]]
    filters: dict[str, Tensor]
    heading: str
    chosen: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layers = ", ".join(
            f"{layer} ({len(numbers['units'])} of {numbers['channels']} units)"
            for layer, numbers in self.numbers.items()
        )
        rule = next(iter(self.reconstructions.values())).rule
        images = images_of(self.peaks)
        return f"<Look: {layers}, {self.peaks.provenance['k']} peaks each, {images} images, {rule}>"

    def _repr_html_(self) -> str:
        sentences = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.chosen)
        return f"<div>{sentences}{in_html(self.figure(), self.heading)}</div>"

    def figure(self) -> Figure:
        """Return the picture: layer under layer, each unit with its reconstructions beside their patches."""
        k = self.peaks.provenance["k"]
        layers = [
            layer_panels(
                recon.zoomed(), self.patches[layer], k, self.numbers[layer], self.filters.get(layer), widest=WIDEST
            )
            for layer, recon in self.reconstructions.items()
        ]
        channels = next(iter(self.reconstructions.values())).pixels.shape[1]
        return features_figure(layers, self.heading, caption=caption_for(channels))

    @plain_defaults()
    def save(self, path: str | Path) -> Path:
        """Write the picture into this one file, in the format of its suffix: png, pdf, svg, jpg or jpeg; returns it.

        Raises BadInput for another suffix, or if the file cannot be written; it appears whole or not at all.
        """
        return save_as(self.figure(), path)


@plain_defaults()
def look(
    network: Network | nn.Module,
    images: Source | MapDataset | str | PathLike[str],
    layer: str | Sequence[str] | None = None,
    units: Sequence[int] | None = None,
    k: int = 9,
    rule: AnyRule = "deconvnet",
    n_units: int = 9,
    batch_size: int = 16,
    keep: str | PathLike[str] | None = None,
) -> Look:
    """Find what fires some units of a network most, among these images, and show it beside what they answer to in it.

    The k strongest peaks of every unit are mined, those of the units that are shown are sent back to pixels by the
    rule, and the patches under them are cut out of the photographs. The result shows itself in a notebook; elsewhere
    nothing opens: `look.save("look.png")` writes the picture, and `look.peaks`, `.reconstructions` and `.patches` are
    the records behind it. 500 photographs take an AlexNet ten seconds on one idle core, and the picture four more.

    - network: a Network; or a plain module, which is taken for one of photographs of 224 x 224 pixels that were
      preprocessed as ImageNet's are, which is said on stderr.
    - images: a Source, a Dataset, or the path of a folder of photographs.
    - layer: the name of a layer, or several; for None the last layer of maps at each of the three last sizes of map
      before the class scores, as conv1, conv2 and conv5 of an AlexNet, as far as the rule can send layers back; which
      they are is said on stderr, and which were left out.
    - units: numbers of units, from 0; for None `n_units` of each layer, none picked for its looks: its units in the
      order of their strongest peaks are divided into so many equal parts, and the strongest of each part is shown; dead
      ones are left out.
    - k: peaks of each unit.
    - rule: as for `project`.
    - batch_size: images in one forward pass; it changes no peak.
    - keep: a folder in which the peaks are kept, so that the next look at these layers need not mine; what was mined
      of many images when it was interrupted is taken up.

    Raises what `mine` and `project_peaks` raise: UnknownName for a layer, rule or unit that does not exist,
    UnsupportedOperation, before anything is mined, for a module that cannot be traced or a rule that cannot serve,
    BadInput for other images, or if no unit that was asked for fires.

    >>> import deconv, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 7, stride=4), torch.nn.ReLU())
    >>> look = deconv.look(net, deconv.bundled().part(range(5)), k=2)
    >>> list(look.peaks), look.numbers["1"]["units"], len(look.reconstructions["1"])
    (['1'], [...], 8)
    >>> print(*look.chosen, sep="\\n")
    a plain Sequential: taken for a network of RGB photographs preprocessed as ImageNet's: short side 256, ...
    no layer named: looking at 1, the last layer of each of the last 3 sizes of map
    """
    network, chosen = _as_network(network)
    source = check_source(folder(images) if isinstance(images, str | PathLike) else images)
    layers, sentences = _as_layers(network, layer, as_rule(rule))
    chosen += sentences
    if units is not None and not check_list("units", units, "units, from 0"):
        raise bad_value("units", "none", "at least one", "leave it out for some of each layer")
    check_units(network, layers, units)
    check_count("n_units", n_units)
    check_rules(network, layers, [rule])
    network.needed_preprocessing()
    if keep is None:
        peaks = mine(network, source, layers, k, batch_size)
    else:
        path = Path(fspath(keep)) / f"{safe_name('-'.join(layers))}.peaks.safetensors"
        peaks = mine_into(path, network, source, layers, k, batch_size)
    reconstructions, patches, numbers, filters = {}, {}, {}, {}
    for name in track(layers, "projecting", len(layers), unit="layers"):
        shown = spread_units(peaks[name], n_units) if units is None else list(units)
        if not bool(peaks[name].found[shown].any()):
            raise BadInput(
                f"layer {name}: {f'none of the units {shown}' if units else 'no unit'} fires on any of the "
                f"{len(source)} images; choose others"
            )
        recon = project_peaks(network, source, name, peaks[name], shown, rule)
        reconstructions[name] = recon
        patches[name] = patches_of(network, source, recon, source.content_hash)
        numbers[name] = summarise(network, source, name, peaks[name], shown, recon, recon.zoomed())
        if (first := first_filters(network.graph, network.node(name))) is not None:
            filters[name] = first
    of_images = f"{described_images(peaks)}, {as_rule(rule).name}"
    heading = f"{type(network.module).__name__}: the {k} strongest peaks of each unit, {of_images}"
    return Look(peaks, reconstructions, patches, numbers, filters, heading, tuple(chosen))


def _as_network(network: Network | nn.Module) -> tuple[Network, list[str]]:
    """The network, and what was chosen to make it one."""
    if isinstance(network, Network):
        return network, []
    if not isinstance(network, nn.Module):
        raise bad_value("network", type(network).__name__, "a deconv.Network or a torch.nn.Module")
    height, width = IMAGENET.size or (0, 0)
    said = (
        f"a plain {type(network).__name__}: taken for a network of RGB photographs preprocessed as ImageNet's: short "
        f"side {IMAGENET.resize}, the middle {height} x {width}, mean {IMAGENET.mean}, std {IMAGENET.std}; "
        "deconv.Network(module, input_shape, preprocessing=...) says otherwise"
    )
    print_line(f"deconv.look: {said}")  # before it is tried, for another input would be refused
    taken = next((part.in_channels for part in network.modules() if isinstance(part, nn.Conv2d)), 3)
    if taken != 3:
        raise bad_value(
            "network", f"a {type(network).__name__} for inputs of {taken} channels", "a Network, or a module for RGB",
            f"deconv.Network(module, ({taken}, H, W), preprocessing=...) says what it takes",
        )  # fmt: skip
    return Network(network, (3, height, width), preprocessing=IMAGENET), [said]


def _as_layers(network: Network, layer: str | Sequence[str] | None, rule: Rule) -> tuple[list[str], list[str]]:
    """The layers in forward order, and what was chosen where none was named."""
    if layer is None:
        layers, left_out = chosen_maps(network, LAYERS, rule)
        said = (
            f"no layer named: looking at {', '.join(layers)}, the last layer of each of the last {LAYERS} sizes of map"
            f"{f'; {left_out}' if left_out else ''}"
        )
        print_line(f"deconv.look: {said}")
        return layers, [said]
    names = [layer] if isinstance(layer, str) else check_list("layer", layer, "layer names")
    if not names:
        raise bad_value("layer", "none", "the name of a layer, or several", "leave it out for the last ones")
    return sorted(dict.fromkeys(names), key=network.node), []
