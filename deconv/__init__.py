"""deconv: what does this unit of my ConvNet see?

Mine the image patches that fire each unit most, and send each activation back to pixels by a deconvolutional network
(Zeiler and Fergus 2013). The names below are loaded when first used, so that `deconv --help` need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deconv.atlas import write_atlas
    from deconv.errors import DeconvError, UnsupportedOperation
    from deconv.figures import draw
    from deconv.images.frame_cache import cached
    from deconv.images.preprocessing import Preprocessing
    from deconv.mining import mine
    from deconv.network import Network
    from deconv.patches import cut_patches, patches_of
    from deconv.projection import project, project_peaks
    from deconv.receptive_field import ReceptiveField
    from deconv.records import Patches, Peaks, Reconstructions
    from deconv.sources import Source, bundled, folder, webdataset

HOME = {
    "atlas": ("write_atlas",),
    "errors": ("DeconvError", "UnsupportedOperation"),
    "figures": ("draw",),
    "images.frame_cache": ("cached",),
    "mining": ("mine",),
    "network": ("Network",),
    "patches": ("cut_patches", "patches_of"),
    "images.preprocessing": ("Preprocessing",),
    "projection": ("project", "project_peaks"),
    "receptive_field": ("ReceptiveField",),
    "records": ("Patches", "Peaks", "Reconstructions"),
    "sources": ("Source", "bundled", "folder", "webdataset"),
}

__all__ = [
    "DeconvError",
    "Network",
    "Patches",
    "Peaks",
    "Preprocessing",
    "ReceptiveField",
    "Reconstructions",
    "Source",
    "UnsupportedOperation",
    "bundled",
    "cached",
    "cut_patches",
    "draw",
    "folder",
    "mine",
    "patches_of",
    "project",
    "project_peaks",
    "webdataset",
    "write_atlas",
]


def __getattr__(name: str) -> Any:
    for module, names in HOME.items():
        if name in names:
            return getattr(import_module(f"deconv.{module}"), name)
    raise AttributeError(f"module 'deconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
