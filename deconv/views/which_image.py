"""Prediction: do pictures of a unit tell an observer which of two images fires it more? In one table."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from deconv.compare.observers import OtherNetwork
from deconv.compare.which_image import BASELINES, FEATURES, VIEWS, ImageStudy, summarise
from deconv.defaults import plain_defaults
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import bad_value, check_count
from deconv.explanations import Explanations
from deconv.figures import Figure
from deconv.figures.which_image import by_layer
from deconv.images import MapDataset, Source
from deconv.network import Network
from deconv.records import Peaks
from deconv.views.asking import Units, check_asked
from deconv.views.predict import Prediction

NOTE = (
    "Pairs of images named right, in %: means over units and their 95 % bootstrap intervals, too narrow over a "
    "handful; chance is 50. views: by the best match of small colour views over positions of the image, mean over the"
    " references; features: by another network's features; one: by the strongest reference alone. * differs from "
    "{first}: zero is not in the interval of the paired difference."
)


class ImageChoice(Prediction):
    """What `deconv.which_image` found: prints itself as a table, and does all that a `Prediction` does.

    - names: the explanations, the first being the one that others are set against, and the four baselines.
    - measured: {layer: {explanation: {"views": one number a unit, "views_one": ...}}}.
    - summary: means, intervals and paired differences, by layer and over all, in plain values.

    >>> import deconv, torch
    >>> _ = torch.manual_seed(0)
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), {"conv1": "1"}, preprocessing)
    >>> images = deconv.bundled().part(range(12))
    >>> peaks = deconv.mine(network, images, ["conv1"], k=6)
    >>> choice = deconv.which_image(network, images, peaks, ["gradient", "centre"], units=[0, 1, 2], references=3)
    >>> choice
    <ImageChoice: gradient, centre, patches, masked_patches, other_patches, image_contrast; 3 units of conv1>
    >>> choice.difference("patches", "centre", "views")["units"]
    3
    """

    @property
    def questions(self) -> dict[str, str]:
        """The columns that a table shows, and what each is called there."""
        return {column: column.replace("_", ", ") for column in self.summary["columns"]}

    @property
    def note(self) -> str:
        """What stands below a table."""
        return NOTE.format(first=self.names[0])

    def figure(self) -> Figure:
        """Return the chart of accuracies by layer."""
        ways = VIEWS | FEATURES
        return by_layer(self.summary["layers"], self.names, {column: ways[column] for column in self.questions})


@plain_defaults()
def which_image(
    network: Network,
    images: Source | MapDataset,
    peaks: Peaks,
    explanations: Explanations,
    units: Units = None,
    references: int = 9,
    observer: Network | None = None,
    observer_layer: str | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    keep: str | PathLike[str] | None = None,
) -> ImageChoice:
    """Ask which of two images fires a unit more, of an observer who was shown pictures of the unit (Borowski 2021).

    Of each unit's strongest images every other is a reference, and those between are queries; each query stands beside
    an image that fires the unit least, of a hundred drawn by the seed. The observer is shown an explanation's pictures
    of the references, and knows nothing else; docs/JUDGE.md says how it answers, and what may be concluded.

    - network, images, peaks: what was mined, with one peak an image, at least two of each unit for each reference.
    - explanations, units, seed, engine, keep: as `deconv.judge` has them.
    - observer, observer_layer: another network, whose features of that layer compare images with pictures as well.

    Raises what `deconv.judge` raises, and BadInput for too few peaks, for an observer without a layer, or the network
    that is examined as its own observer, and where no unit has a pair of images.

    >>> import deconv, torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.ReLU())
    >>> preprocessing = deconv.Preprocessing((16, 16), None, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    >>> network = deconv.Network(module, (3, 16, 16), preprocessing=preprocessing)
    >>> images = deconv.bundled().part(range(8))
    >>> peaks = deconv.mine(network, images, ["1"], k=4)
    >>> print(deconv.which_image(network, images, peaks, ["deconvnet", "random_mask"], units=[0, 3], references=2))
    2 units of 1; trials: ...
    explanation  views ...
    deconvnet ...
    random_mask ...
    patches ...
    masked_patches ...
    other_patches ...
    image_contrast ...
    """
    asked = check_asked(network, images, peaks, explanations, units, seed, taken=BASELINES)
    check_count("references", references)
    k, per_image = peaks.provenance["k"], peaks.provenance["per_image"]
    if k < 2 * references or per_image != 1:
        expected = f"one an image and two for each of the {references} references: deconv.mine(..., k={2 * references})"
        raise bad_value("peaks", f"{k} peaks a unit, {per_image} an image", expected)
    study = ImageStudy(
        network, asked.source, peaks, asked.units, asked.explanations, asked.random, seed, engine or Local(),
        None if keep is None else Path(fspath(keep)), references, open_observer(network, observer, observer_layer),
    )  # fmt: skip
    with study.engine.connected():
        return chosen(study)


def open_observer(network: Network, observer: Network | None, layer: str | None) -> OtherNetwork | None:
    """Return the observer beside small views, None without one. Raises BadInput and UnknownName as `which_image`."""
    if observer is None and layer is None:
        return None
    if observer is None or layer is None:
        missing = "observer" if observer is None else "observer_layer"
        raise bad_value(missing, None, "both a network and its layer, or neither")
    if observer.weights_hash == network.weights_hash:
        raise bad_value("observer", "the network that is examined", "another network")
    if observer.input_shape[0] != 3:
        raise bad_value("observer", f"a network of {observer.input_shape[0]} channels", "one of three, for colours")
    return OtherNetwork(observer, layer)


def chosen(study: ImageStudy) -> ImageChoice:
    """Return what a study finds. To be called where its engine is connected."""
    measured = study.measure()
    return ImageChoice((*study.explanations, *BASELINES), measured, summarise(study, measured), study.seed)
