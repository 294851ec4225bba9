"""Mining: one pass over the images finds, for every unit of the layers asked for, its k strongest peaks."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from deconv.defaults import plain_defaults
from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import bad_value, check_choice, check_count, check_list
from deconv.files import claimed, remove_dead_claim, remove_parts
from deconv.images import MapDataset, Source, StreamedSource, check_images, check_source
from deconv.mining.bfloat16 import mine_by_bfloat16, pays
from deconv.mining.by_class import check_sums
from deconv.mining.looking import REMEDY
from deconv.mining.partials import Partial
from deconv.mining.scan import Scan, Search, in_memory
from deconv.mining.shards import InShards, remove_shards, shards_of
from deconv.mining.watching import watched
from deconv.network import Network
from deconv.records import Peaks, check_path
from deconv.records.by_class import Classes
from deconv.records.firing import CORRELATED
from deconv.records.formats import PARQUET
from deconv.records.provenance import Provenance, build, check_same

PRECISIONS = ("float32", "bfloat16")
log = logging.getLogger("deconv")
MOST_PEAKS = 2**25
"""Peaks of all units together: 28 bytes each, and four times that while new ones are sorted in."""
HASHED_BY_SHARD = "hashed shard by shard"


@plain_defaults()
def mine(
    network: Network,
    images: Source | MapDataset | Float[Tensor, "M C H W"],
    layers: Iterable[str],
    k: int = 9,
    batch_size: int = 64,
    per_image: int = 1,
    precision: str = "float32",
    firing: bool = False,
) -> Peaks:
    """Find the k strongest peaks of every unit of each layer, over all images, in one pass.

    Peaks are ranked by (-score, image id, row, col), the score being the raw activation, so that the answer does not
    depend on batch_size. A unit that fires on fewer than k images has entries with image -1 and score nan; at a
    rectified layer a score of zero is not firing. Memory grows with units x k, not with the number of images.

    - images: a Source or a Dataset, whose photographs pass through the network's preprocessing, or preprocessed images,
      whose ids are 0 to M - 1.
    - layers: names or aliases of layers, see `Network.layers`.
    - per_image: how many peaks of one image may count for one unit; peaks whose boxes overlap by more than half count
      as one.
    - precision: "float32"; or "bfloat16" to find candidates faster. Their scores are then computed in float32, and that
      no other image scores more is checked by measured errors, not proven (`deconv.mining.bfloat16`). Where most
      images would be candidates it would cost more than it saves: float32 is taken then, and said. The provenance
      has in "mined_again", by layer, for how many units the check failed; if for any, all images were seen in float32.
    - firing: whether to count in the same pass how units fire over all images, as `firing` of the peaks; where all
      images have labels also by class, those of a streamed source being known when its shards are read. Counts are of
      float32: where bfloat16 is taken they are refused.

    Raises UnknownName for a layer or a precision that does not exist. Raises BadInput for k, batch_size or per_image
    below 1, for no images, for NaN or infinite activations, naming the image, if more than half of a source's images
    are unreadable, and if an image changed meanwhile.
    Source: Zeiler and Fergus 2014, section 4 ("for a given feature map, we show the top 9 activations").

    >>> import deconv, torch
    >>> from torch import nn
    >>> _ = torch.manual_seed(0)
    >>> network = deconv.Network(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), (1, 8, 8))
    >>> peaks = deconv.mine(network, torch.randn(20, 1, 8, 8), ["1"], k=3)
    >>> peaks["1"].score.shape, peaks["1"].box.shape
    (torch.Size([4, 3]), torch.Size([4, 3, 4]))
    """
    scan, images = _scan(network, images, layers, k, batch_size, per_image, precision, firing)
    with watched(images):
        partial, details = _search(in_memory(images), scan, images, precision)
    return _peaks(scan, images, partial, _provenance(scan, images), details)


@plain_defaults()
def mine_into(
    path: Path,
    network: Network,
    images: Source | MapDataset,
    layers: Iterable[str],
    k: int,
    batch_size: int = 64,
    per_image: int = 1,
    precision: str = "float32",
    engine: Engine | None = None,
    firing: bool = False,
) -> Peaks:
    """Return the peaks at `path`, loaded if they are there and made of the same things, else mined and saved.

    firing: as in `mine`. Peaks that are there are not mined again for it: they are returned as they are.

    engine: where the work is done and in what shards, by default one after another here. If there is more than one,
    each leaves a record in the folder shards/ beside `path`, so that a run that was stopped goes on where it was; they
    are removed when the peaks are saved. The peaks are the same whatever the shards are and in whatever order they
    come.

    Raises RecordMismatch, naming the difference, if what is there was made of anything else; BadInput if another
    process is mining into the same folder or a file cannot be written; and what `mine` raises.
    """
    check_path(path)
    images = check_source(images)
    scan, _ = _scan(network, images, layers, k, batch_size, per_image, precision, firing)
    if firing and path.suffix == PARQUET:
        raise bad_value("firing", firing, f"no counts of how units fire in a table, {path}", "name it .safetensors")
    shards = path.parent / "shards" / path.stem
    if path.exists() and not shards.exists():
        remove_dead_claim(path.parent)  # of a run that was killed when all was saved
        return _load(path, scan, images)
    with claimed(path.parent):
        remove_parts(path.parent, path.name)
        if path.exists():  # whoever held the folder has saved them
            peaks = _load(path, scan, images)
        else:
            peaks = _mine_in_shards(shards, scan, images, precision, engine or Local())
            peaks.save(path)
        if shards.exists():
            remove_shards(shards)
    return peaks


def _mine_in_shards(folder: Path, scan: Scan, images: Source, precision: str, engine: Engine) -> Peaks:
    """Mine shard by shard; but in one go, with nothing in `folder`, what one shard of this process holds."""
    if isinstance(images, StreamedSource):
        one_shard = len(images.shards.groups(engine.shard_size)) == 1
    else:
        one_shard = len(shards_of(images, engine.shard_size, scan.batch_size)) == 1
    if one_shard and isinstance(engine, Local) and not folder.exists():
        settings = (scan.layers, scan.k, scan.batch_size, scan.per_image, precision, scan.correlated > 0)
        return mine(scan.network, images, *settings)
    content = images.known_content or HASHED_BY_SHARD
    provenance = _provenance(scan, images, content) | {"precision": precision}
    if isinstance(images, StreamedSource):  # what is known of the images by now does not decide a record
        provenance["source"] = {name: provenance["source"][name] for name in ("name", "shards", "content")}
    work = InShards(folder, engine, images, provenance)
    with watched(images), engine.connected():
        partial, details = _search(work.search, scan, images, precision)
    return _peaks(scan, images, partial, _provenance(scan, images, work.content_hash()), details)


def _load(path: Path, scan: Scan, images: Source) -> Peaks:
    peaks, content = Peaks.load(path), images.content_hash
    if isinstance(images, StreamedSource):
        images.learn_from(peaks.provenance, content)
    expected = _provenance(scan, images, content)
    settings = {name: peaks.provenance.get(name) for name in expected}
    check_same(path, settings, expected, REMEDY.format("that file"))
    if scan.correlated:
        check_labels(path, peaks, images, REMEDY.format("that file"))
    return peaks


def check_mined_from(peaks: Peaks, network: Network, images: Source) -> None:
    """Raise RecordMismatch, naming the difference, for peaks of another network's weights or of other images."""
    mined = {"weights": peaks.provenance.get("weights"), "content": peaks.provenance.get("source", {}).get("content")}
    expected = {"weights": network.weights_hash, "content": images.content_hash}
    check_same("the record of these peaks", mined, expected, "Mine these images with this network")


def check_labels(path: Path | str, peaks: Peaks, images: Source, remedy: str) -> None:
    """Raise RecordMismatch if what peaks say by class is of other labels than those of the images.

    Those of a streamed source lie in its shards, whose content was compared.
    """
    for firing in (peaks.firing or {}).values() if not isinstance(images, StreamedSource) else ():
        if firing.by_class is not None and images.labels is not None:
            check_same(path, {"labels": firing.by_class.classes.labels}, {"labels": images.labels_hash}, remedy)


def _scan(
    network: Network,
    images: Source | MapDataset | Tensor,
    layers: Iterable[str],
    k: int,
    batch_size: int,
    per_image: int,
    precision: str,
    firing: bool,
) -> tuple[Scan, Source | Tensor]:
    """The scan in float32, and what it looks at. Raises BadInput or UnknownName for an argument that cannot be used."""
    if not isinstance(network, Network):
        raise bad_value("network", type(network).__name__, "a Network", "Network(module, input_shape) makes one")
    images = check_images(images, network.input_shape[0], network.preprocessing)
    if not isinstance(images, StreamedSource) and not len(images):
        raise bad_value("images", "none", "at least one")
    names = list(dict.fromkeys(check_list("layers", layers, "layer names")))
    if not names:
        raise bad_value("layers", "none", f"some of {', '.join(network.layers)}")
    units = sum(network.channels(layer) for layer in names)
    k = check_count("k", k)
    if units * k > MOST_PEAKS:
        raise bad_value(
            "k", f"{k} for {units} units", f"at most {MOST_PEAKS // units}, for which there is memory",
            "take a smaller k, or fewer layers",
        )  # fmt: skip
    check_precision(images, precision)
    if firing and precision_taken(network, images, names, k, precision) != "float32":
        raise bad_value("firing", firing, f"False with precision={precision}", "how units fire is counted in float32")
    per_image, batch_size = check_count("per_image", per_image), check_count("batch_size", batch_size)
    if firing and isinstance(images, Source) and not isinstance(images, StreamedSource):  # whose labels are known
        check_sums(units, len(set(images.labels or ())))
    return Scan(network, names, k, per_image, batch_size, correlated=CORRELATED if firing else 0), images


def precision_taken(network: Network, images: Source | Tensor, layers: Iterable[str], k: int, precision: str) -> str:
    """Return in which precision images are seen first: bfloat16 where that is asked for and pays, else float32."""
    units = sum(map(network.channels, layers))
    if precision == "float32" or isinstance(images, StreamedSource) or not pays(units, k, len(images)):
        return "float32"
    return precision


def check_precision(images: Source | Tensor, precision: str) -> None:
    """Raise UnknownName for a precision that does not exist, BadInput for one in which these images are not mined."""
    check_choice("precision", precision, PRECISIONS)
    if isinstance(images, StreamedSource) and precision != "float32":
        raise bad_value("precision", precision, "float32 for streamed images, which are seen once", "or not to stream")


def _search(search: Search, scan: Scan, images: Source | Tensor, precision: str) -> tuple[Partial, dict[str, Any]]:
    """What is found among all images, and how: what a record says of that besides its provenance."""
    details: dict[str, Any] = {"precision": precision}
    if isinstance(images, StreamedSource):
        partial = search("float32", scan, None)
        images.shards.learn(partial.images, partial.left_out)
    else:
        image_ids = np.array(range(len(images)) if isinstance(images, Tensor) else images.ids, dtype=np.int64)
        taken = precision_taken(scan.network, images, scan.layers, scan.k, precision)
        if taken != precision:
            units = sum(map(scan.network.channels, scan.layers))
            said = "bfloat16 would see most of %d images again for %d units: mining in float32"
            log.info(said, len(image_ids), units)
            details["precision"] = taken
        if taken == "bfloat16":
            partial, details["mined_again"] = mine_by_bfloat16(search, scan, image_ids)
        else:
            partial = search("float32", scan, image_ids)
    if partial.input_size is None:
        raise bad_value("images", "none that can be read", "at least one")
    return partial, details


def _peaks(
    scan: Scan, images: Source | Tensor, partial: Partial, provenance: Provenance, details: dict[str, Any]
) -> Peaks:
    outcome = {"input_size": partial.input_size, "unreadable": [list(item) for item in partial.unreadable]}
    classes = _classes(images, partial, provenance) if scan.correlated else None
    firing = {layer: tally.firing(classes) for layer, tally in partial.tallies.items()}
    return Peaks(partial.peaks(scan.network), partial.keys, provenance | outcome | details, firing or None)


def _classes(images: Source | Tensor, partial: Partial, provenance: Provenance) -> Classes | None:
    """Return the classes that the images are of; None if they have none, and if only some have, which is logged."""
    tally = next(iter(partial.tallies.values()))
    if isinstance(images, Tensor) or not tally.labelled:
        return None
    if tally.labelled < tally.images:
        without = tally.images - tally.labelled
        log.warning(
            "how units fire is not told by class: %d of %d images have no class; expected a .cls member beside each "
            "image, or beside none", without, tally.images,
        )  # fmt: skip
        return None
    number, names = tally.sums.seen(), images.class_names
    # the labels of a streamed source lie in its shards, so that their content says which they are
    labels = provenance["source"]["content"] if isinstance(images, StreamedSource) else images.labels_hash
    return Classes(number, tuple(names[n] if names else str(n) for n in number), labels)


def _provenance(scan: Scan, images: Source | Tensor, content: str | None = None) -> Provenance:
    """Everything that decides the peaks."""
    if isinstance(images, Tensor):
        source: Provenance = {"source": {"name": "tensor", "images": len(images)}}
    else:
        source = images.provenance(content)
    return build(scan.network.provenance(), source, layers=scan.layers, k=scan.k, per_image=scan.per_image)
