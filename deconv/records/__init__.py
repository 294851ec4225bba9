"""What the stages hand on: peaks, patches and reconstructions, frozen, saved whole and loaded bit for bit.

Peaks are Parquet tables, pixels are safetensors files; both carry `provenance`, a JSON object that says what the record
was made of (weights hash, layer, source and its content hash, preprocessing, rule, versions).

Boxes are y0, x0, y1, x1 in the pixels of the input image, y1 and x1 excluded; they may reach beyond the image.
"""

from __future__ import annotations

from deconv.records.peaks import LayerPeaks, Peaks
from deconv.records.pictures import FIELDS, Patches, Reconstructions, about_centres, clip, recut, shown_side

__all__ = [
    "FIELDS",
    "LayerPeaks",
    "Patches",
    "Peaks",
    "Reconstructions",
    "about_centres",
    "clip",
    "recut",
    "shown_side",
]
