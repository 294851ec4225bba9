"""The images of a training run: those to train on, those to validate on, and what identifies both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconv.errors import BadInput
from deconv.images import Source, open_source, require_labels
from deconv.images.cached import cached
from deconv.images.preprocessing import Preprocessing
from deconv.training.data import Labelled, load, split

PLACE_KEYS = {"folder": "root", "webdataset": "urls"}


@dataclass(frozen=True)
class TrainingImages:
    """A labelled source to train on, and another to validate on, or None and the share held out of the first."""

    source: Source
    validation: Source | None
    held_out: float

    @property
    def classes(self) -> int:
        """The number of classes: the largest label and one."""
        return max(require_labels(self.source)) + 1

    def provenance(self) -> dict[str, Any]:
        """What identifies the images and their classes, in plain values."""
        validation = self.held_out if self.validation is None else _identity(self.validation)
        return {"training": _identity(self.source), "validation": validation}

    def decoded(self, preprocessing: Preprocessing, cache: str | Path | None = None) -> tuple[Labelled, Labelled]:
        """The images to train on and to validate on, in memory; through the cache of input images in the folder
        `cache`, if any.

        Raises BadInput as `deconv.training.data.load` and `split` do.
        """
        source, others = self.source, self.validation
        if cache is not None:
            source = cached(source, preprocessing, cache)
            others = None if others is None else cached(others, preprocessing, cache)
        if others is not None:
            return load(source, preprocessing), load(others, preprocessing)
        trained_on, held_out = split(len(source), self.held_out)
        return load(source, preprocessing, trained_on), load(source, preprocessing, held_out)


def open_images(source: Mapping[str, Any], validation: str | None, held_out: float) -> TrainingImages:
    """The images of a source, given as `open_source` takes it, and those to validate on.

    validation: another place of the same kind of source (urls for webdataset, root for folder); None holds out a share.
    Raises BadInput for a source without labels, and for other classes in the other place.
    """
    images = open_source(**source)
    require_labels(images)
    if validation is None:
        return TrainingImages(images, None, held_out)
    if source["name"] not in PLACE_KEYS:
        raise BadInput(f"validation={validation}: source={source['name']} has no such places; leave it null")
    others = open_source(**{**source, PLACE_KEYS[source["name"]]: validation})
    require_labels(others)
    if others.class_names != images.class_names:
        raise BadInput(
            f"the classes of validation={validation} are {others.class_names}; expected those trained on, "
            f"{images.class_names}: give both the same"
        )
    return TrainingImages(images, others, held_out)


def _identity(source: Source) -> dict[str, str]:
    labels = hashlib.sha256(repr(require_labels(source)).encode()).hexdigest()
    return {"source": source.name, "content": source.content_hash, "labels": labels}
