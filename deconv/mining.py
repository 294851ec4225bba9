"""One pass over the images finds, for every unit of every asked layer, its k strongest peaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from deconv.errors import BadInput, RecordMismatch, UnknownName
from deconv.network import Network
from deconv.records import Peaks
from deconv.rough import scan_by_bfloat16
from deconv.runs import versions
from deconv.scanning import Scan
from deconv.sources import Source

PRECISIONS = ("float32", "bfloat16")


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
    precision: "float32", or "bfloat16" to find candidates faster; the answer is the float32 one (`deconv.rough`).
    Ranked by (-score, image, row, col), score being the raw activation, so that the answer does not depend on
    batch_size. A unit that fires on fewer than k images has places with image -1 and score nan; at a rectified layer
    a score of zero is not firing.
    Memory grows with units x k, not with the number of images.

    Raises UnknownName (a layer, a precision), BadInput (k, batch_size or per_image below 1; no images; NaN or infinite
    activations, naming the image; more than half of a source's images unreadable).
    """
    names = list(dict.fromkeys(layers))
    _check(network, images, names, precision, k=k, batch_size=batch_size, per_image=per_image)
    if precision == "bfloat16":
        scan, how = scan_by_bfloat16(network, images, names, k, batch_size, per_image)
    else:
        scan, how = Scan(network, images, names, k, per_image), {}
        scan.run(batch_size)
    found = scan.peaks()
    about = _settings(network, images, names, k, per_image)
    about |= {"frame": scan.frame, "unreadable": [list(item) for item in scan.unreadable], "precision": precision} | how
    used = {int(image) for peaks in found.values() for image in peaks.image[peaks.found].unique()}
    return Peaks(found, {image: scan.key(image) for image in sorted(used)}, about)


def _check(network: Network, images: Source | Tensor, layers: list[str], precision: str, **counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise BadInput(f"{name}: given {value}; expected 1 or more.")
    if precision not in PRECISIONS:
        raise UnknownName(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}.")
    if not len(images):
        raise BadInput("images: given none; expected at least one.")
    if not layers:
        raise BadInput(f"layers: given none; expected some of {', '.join(network.layers)}.")


def mine_into(
    path: Path,
    network: Network,
    images: Source,
    layers: Iterable[str],
    k: int,
    batch_size: int = 64,
    per_image: int = 1,
    precision: str = "float32",
) -> Peaks:
    """Peaks saved at `path`: loaded if they are there and made of the same things, else mined and saved.

    Raises RecordMismatch, naming the difference, if what is there was made of anything else; and what `mine` raises.
    """
    names = list(dict.fromkeys(layers))
    if path.exists():
        peaks = Peaks.load(path)
        _check_same(path, peaks.provenance, _settings(network, images, names, k, per_image))
        return peaks
    peaks = mine(network, images, names, k, batch_size, per_image, precision)
    peaks.save(path)
    return peaks


def _check_same(path: Path, found: Any, wanted: Any, name: str = "") -> None:
    """Raise RecordMismatch at the first setting that differs."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, value in wanted.items():
            _check_same(path, found.get(key), value, f"{name}.{key}" if name else key)
    elif found != wanted:
        raise RecordMismatch(
            f"{path} was made with {name} {found}; this run has {wanted}. "
            "Choose another folder, or delete that file to mine again."
        )


def _settings(network: Network, images: Source | Tensor, layers: list[str], k: int, per_image: int) -> dict[str, Any]:
    """Everything that decides the peaks."""
    source = {"name": "tensor"} if isinstance(images, Tensor) else {"name": images.name, "content": images.content_hash}
    return {
        "weights": network.weights_hash,
        "layers": layers,
        "source": source | {"images": len(images)},
        "preprocessing": network.preprocessing.as_dict() if network.preprocessing else None,
        "k": k,
        "per_image": per_image,
        "versions": versions(),
    }
