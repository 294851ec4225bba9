"""Of what classes a unit's strongest images are, beside all images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from deconv.images import Source, require_labels
from deconv.images.class_names import spoken
from deconv.records import LayerPeaks


@dataclass(frozen=True)
class ClassShare:
    """A class among the images of a unit's peaks, each counted once.

    - number, name: of the class, the name in words; its number where it has no name.
    - images: how many are of this class.  of: how many there are.
    - of_all: the share of this class among all images of the source, which images drawn at random would have.
    """

    number: int
    name: str
    images: int
    of: int
    of_all: float

    def __str__(self) -> str:
        return f"{self.images} of {self.of} are {self.name} ({percent(self.of_all)} of all images)"


def class_shares(peaks: LayerPeaks, images: Source, of_all: Mapping[int, int] | None = None) -> list[list[ClassShare]]:
    """Return for each unit the classes of its peaks, those with the most images first; none for a dead unit.

    images: those that the peaks were mined from, or a part that holds them all.
    of_all: how many images each class has in all; by default those of `images` are counted.
    Raises BadInput for a source without labels, and for one without an image of a peak.

    >>> import deconv, torch
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> for key in ("cat/0", "cat/1", "cat/2", "dog/0"):
    ...     Path("pets2", key).parent.mkdir(parents=True, exist_ok=True)
    ...     Image.new("RGB", (8, 8)).save(f"pets2/{key}.png")
    >>> image, zeros = torch.tensor([[3, 0, 1], [-1, -1, -1]]), torch.zeros(2, 3).long()
    >>> peaks = deconv.records.LayerPeaks(zeros.float(), image, zeros, zeros, torch.zeros(2, 3, 4).long())
    >>> [[str(share) for share in unit] for unit in class_shares(peaks, deconv.folder("pets2"))]
    [['2 of 3 are cat (75 % of all images)', '1 of 3 are dog (25 % of all images)'], []]
    """
    of_peaks = peaks.image[peaks.image >= 0].unique().tolist()
    if of_all is None:
        of_all = Counter(require_labels(images))
    labels = images.labels_of(of_peaks)
    label_of = dict(zip(of_peaks, require_labels(images) if labels is None else labels, strict=True))
    total, names, shares = sum(of_all.values()), images.class_names, []
    for image_ids in map(dict.fromkeys, peaks.image.tolist()):
        classes = Counter(label_of[image_id] for image_id in image_ids if image_id >= 0)
        shares.append(
            [
                ClassShare(
                    number,
                    spoken(names[number]) if names else str(number),
                    count,
                    classes.total(),
                    of_all[number] / total,
                )
                for number, count in sorted(classes.items(), key=lambda entry: (-entry[1], entry[0]))
            ]
        )
    return shares


def percent(share: float) -> str:
    """Return a share in per cent, in two digits where it is small.

    >>> percent(0.25), percent(0.005), percent(1 / 3)
    ('25 %', '0.5 %', '33 %')
    """
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
