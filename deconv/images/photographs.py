"""The photographs that installed packages carry: which they are and where they lie."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from deconv.errors import BadInput

log = logging.getLogger("deconv")

# The file names in foolbox end in the class of ImageNet.
_FOOLBOX_CLASSES = (
    *(243, 559, 438, 990, 949, 853, 609, 609, 915, 455),
    *(541, 630, 741, 471, 129, 99, 251, 22, 317, 305),
)
# package: (folder inside it, photographs in it). foolbox stands last, so that the others keep their numbers without it.
_PHOTOGRAPHS = {
    "skimage": (
        "data",
        ("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png")
        + ("gravel.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
    "foolbox": ("data", tuple(f"imagenet_{n:02d}_{c}.jpg" for n, c in enumerate(_FOOLBOX_CLASSES))),
}
NEEDED = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
"""The packages without which next to nothing is bundled, and what pip calls them."""


def installed_photographs() -> list[tuple[str, Path]]:
    """Return (key, path) of each photograph that is there, in fixed order; packages are found without importing them.

    Keys look like "skimage/chelsea.png". A photograph that an installed package should have but lacks is logged.
    Raises BadInput if one of NEEDED is not installed.
    """
    for package, distribution in NEEDED.items():
        if importlib.util.find_spec(package) is None:
            raise BadInput(
                f"the bundled photographs lie inside {distribution}, which is not installed: "
                "pip install 'deconvnet[demo]', or give photographs of your own, as folder(root)"
            )
    return [item for package in _PHOTOGRAPHS for item in _photographs_of(package)]


def _photographs_of(package: str) -> list[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        log.info("%s is not installed: going on without the photographs in it", package)
        return []
    inside, names = _PHOTOGRAPHS[package]
    paths = [Path(spec.submodule_search_locations[0], inside, name) for name in names]
    for path in paths:
        if not path.is_file():
            log.warning("this version of %s does not have the photograph %s", package, path.name)
    return [(f"{package}/{path.name}", path) for path in paths if path.is_file()]
