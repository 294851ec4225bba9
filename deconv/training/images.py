"""The images of a training run: those to train on, those to validate on, and what identifies both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deconv.errors import BadInput, bad_value
from deconv.images import Source, open_source, require_labels
from deconv.images.cached import cached
from deconv.images.preprocessing import Preprocessing
from deconv.records.provenance import Provenance, digest
from deconv.training.data import Labelled, load, split

LOCATION_OPTIONS = {"folder": "root", "webdataset": "urls", "torchvision": "split", "huggingface": "split"}
"""The option of `open_source` that says which images, by the kind of source."""


@dataclass(frozen=True)
class TrainingImages:
    """A labelled source to train on, and another to validate on, or None and the fraction held out of the first."""

    source: Source
    validation: Source | None
    held_out: float

    @property
    def classes(self) -> int:
        """The number of classes: one more than the largest label."""
        return max(require_labels(self.source)) + 1

    def provenance(self) -> Provenance:
        """Return what identifies the images and their classes: {"training": ..., "validation": ...}."""
        validation = self.held_out if self.validation is None else _provenance(self.validation)
        return {"training": _provenance(self.source), "validation": validation}

    def decoded(self, preprocessing: Preprocessing, cache: str | Path | None = None) -> tuple[Labelled, Labelled]:
        """Return the images to train on and those to validate on, decoded into memory.

        cache: a folder that keeps the decoded images for the next run; None keeps none. Raises BadInput as
        `deconv.training.data.load` and `split` do.
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
    """Return the images of a source, given as `open_source` takes it, and those to validate on.

    validation: another source of the same kind, by the urls of a webdataset, the root of a folder or the split of a
    published dataset; None holds out the fraction `held_out` of the first. Raises BadInput for a source without labels,
    and for a validation source of other classes or of a kind that has no location.
    """
    images = open_source(**source)
    require_labels(images)
    if validation is None:
        return TrainingImages(images, None, held_out)
    if source["name"] not in LOCATION_OPTIONS:
        raise bad_value("validation", validation, f"None, as the source {source['name']} is in one place alone")
    others = open_source(**{**source, LOCATION_OPTIONS[source["name"]]: validation})
    require_labels(others)
    if others.class_names != images.class_names:
        raise BadInput(
            f"the classes of the validation images in {validation} are {others.class_names}; expected those trained "
            f"on, {images.class_names}: give both the same"
        )
    return TrainingImages(images, others, held_out)


def _provenance(source: Source) -> Provenance:
    return {**source.provenance(), "labels": digest(require_labels(source))}
