"""One pass over the images finds, for every unit of every asked layer, its k strongest peaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from deconv.engines import Engine
from deconv.engines.local import Local
from deconv.errors import BadInput, UnknownName
from deconv.files import claimed, remove_parts
from deconv.images import Source
from deconv.images.cached import CachedSource
from deconv.mining.bfloat16 import mine_by_bfloat16
from deconv.mining.partials import Partial
from deconv.mining.passes import Pass, shards_of
from deconv.mining.reduction import InShards, Reduce, in_memory, remove_shards
from deconv.mining.tasks import check_same
from deconv.mining.watching import watched
from deconv.network import Network
from deconv.records import Peaks
from deconv.records.provenance import versions

PRECISIONS = ("float32", "bfloat16")
MOST_PEAKS = 2**25
"""Of all units together: 28 bytes each, and four times that while new ones are sorted in."""


def mine(
    network: Network,
    images: Source | Tensor,
    layers: Iterable[str],
    k: int = 9,
    batch_size: int = 64,
    per_image: int = 1,
    precision: str = "float32",
) -> Peaks:
    """The k strongest peaks of every unit of each layer, over all images, in one pass.

    images: a Source (its photographs pass through the network's preprocessing) or preprocessed images (M, 3, H, W).
    per_image: how many peaks of one image may count for one unit; peaks whose boxes overlap by more than half are one.
    precision: "float32", or "bfloat16" to find candidates faster; the answer is the float32 one
    (`deconv.mining.bfloat16`).
    Ranked by (-score, image, row, col), score being the raw activation, so that the answer does not depend on
    batch_size. A unit that fires on fewer than k images has places with image -1 and score nan; at a rectified layer
    a score of zero is not firing.
    Memory grows with units x k, not with the number of images.

    Raises UnknownName (a layer, a precision), BadInput (k, batch_size or per_image below 1; no images; NaN or infinite
    activations, naming the image; more than half of a source's images unreadable; an image changed meanwhile).
    """
    look = _pass(network, images, layers, k, batch_size, per_image, precision)
    with watched(images):
        found, how = _found(in_memory(images), look, len(images), precision)
    content = None if isinstance(images, Tensor) else images.content_hash
    return _peaks(look, images, found, _settings(look, images, content), {"precision": precision} | how)


def mine_into(
    path: Path,
    network: Network,
    images: Source,
    layers: Iterable[str],
    k: int,
    batch_size: int = 64,
    per_image: int = 1,
    precision: str = "float32",
    engine: Engine | None = None,
) -> Peaks:
    """Peaks saved at `path`: loaded if they are there and made of the same things, else mined and saved.

    engine: where the work is done and in what shards, by default one after another here. If there is more than one,
    each leaves a record in the folder shards/ beside `path`, so that a run that was stopped goes on where it was; they
    go when the peaks are saved. The peaks are the same whatever the shards are and in whatever order they come.
    Raises RecordMismatch, naming the difference, if what is there was made of anything else; BadInput if another
    process is mining into the same folder or a file cannot be written; and what `mine` raises.
    """
    look = _pass(network, images, layers, k, batch_size, per_image, precision)
    shards = path.parent / "shards" / path.stem
    if path.exists() and not shards.exists():
        return _loaded(path, look, images)
    with claimed(path.parent):
        remove_parts(path.parent, path.name)
        if path.exists():  # whoever held the folder has saved them
            peaks = _loaded(path, look, images)
        else:
            peaks = _mined(shards, look, images, precision, engine or Local())
            peaks.save(path)
        if shards.exists():
            remove_shards(shards)
    return peaks


def _mined(shards: Path, look: Pass, images: Source, precision: str, engine: Engine) -> Peaks:
    in_shards = engine.always_in_shards or len(shards_of(images, engine.shard_size, look.batch_size)) > 1
    if not in_shards and not shards.exists():
        return mine(look.network, images, look.layers, look.k, look.batch_size, look.per_image, precision)
    known = images.content_hash if isinstance(images, CachedSource) else None
    provenance = _settings(look, images, known) | {"precision": precision}
    work = InShards(shards, engine, images, provenance)
    with watched(images), engine.connected():
        found, how = _found(work.reduce, look, len(images), precision)
    about = _settings(look, images, work.content.hexdigest())
    return _peaks(look, images, found, about, {"precision": precision} | how)


def _loaded(path: Path, look: Pass, images: Source) -> Peaks:
    peaks = Peaks.load(path)
    check_same(path, peaks.provenance, _settings(look, images, images.content_hash))
    return peaks


def _pass(
    network: Network,
    images: Source | Tensor,
    layers: Iterable[str],
    k: int,
    batch_size: int,
    per_image: int,
    precision: str,
) -> Pass:
    """The float32 pass, its settings checked."""
    names = list(dict.fromkeys(layers))
    for name, value in {"k": k, "batch_size": batch_size, "per_image": per_image}.items():
        if value < 1:
            raise BadInput(f"{name}: given {value}; expected 1 or more.")
    if precision not in PRECISIONS:
        raise UnknownName(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}.")
    if not len(images):
        raise BadInput("images: given none; expected at least one.")
    if not names:
        raise BadInput(f"layers: given none; expected some of {', '.join(network.layers)}.")
    for layer in names:
        network.node(layer)
    units = sum(network.channels(layer) for layer in names)
    if units * k > MOST_PEAKS:
        raise BadInput(
            f"k: given {k} for {units} units; expected at most {MOST_PEAKS // units}, for which there is memory: take "
            "a smaller k, or fewer layers."
        )
    return Pass(network, names, k, per_image, batch_size)


def _found(reduce: Reduce, look: Pass, count: int, precision: str) -> tuple[Partial, dict[str, Any]]:
    if precision == "bfloat16":
        found, again = mine_by_bfloat16(reduce, look, count)
        how = {"mined_again": again}
    else:
        found, how = reduce("float32", look, np.arange(count)), {}
    if found.input_size is None:
        raise BadInput("images: given none that can be read; expected at least one.")
    return found, how


def _peaks(look: Pass, images: Source | Tensor, found: Partial, about: dict[str, Any], how: dict[str, Any]) -> Peaks:
    layers = found.peaks(look.network)
    used = sorted({int(image) for peaks in layers.values() for image in peaks.image[peaks.found].unique()})
    keys = {image: str(image) if isinstance(images, Tensor) else images.keys[image] for image in used}
    about = about | {"input_size": found.input_size, "unreadable": [list(item) for item in found.unreadable]} | how
    return Peaks(layers, keys, about)


def _settings(look: Pass, images: Source | Tensor, content: str | None) -> dict[str, Any]:
    """Everything that decides the peaks."""
    source: dict[str, Any] = {"name": "tensor" if isinstance(images, Tensor) else images.name, "images": len(images)}
    preprocessing = look.network.preprocessing
    return {
        "weights": look.network.weights_hash,
        "layers": look.layers,
        "source": source | ({} if content is None else {"content": content}),
        "preprocessing": preprocessing.as_dict() if preprocessing else None,
        "k": look.k,
        "per_image": look.per_image,
        "versions": versions(),
    }
