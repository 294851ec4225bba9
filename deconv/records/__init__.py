"""What the stages hand on: peaks, patches and reconstructions, frozen, saved whole and loaded bit for bit.

All are safetensors files, and peaks can be Parquet tables for other tools; all carry `provenance`, a JSON object that
says what the record was made of (weights hash, layer, source and its content hash, preprocessing, rule, versions).

Boxes are y0, x0, y1, x1 in the pixels of the input image, y1 and x1 excluded; they may reach beyond the image.
"""

from __future__ import annotations

from deconv.records.boxes import about_centres, clip, lies_inside, recut, shown_side, whole_boxes
from deconv.records.by_class import ByClass
from deconv.records.firing import Firing
from deconv.records.layer_peaks import LayerPeaks
from deconv.records.parts import Parts
from deconv.records.peaks import Peaks, check_path
from deconv.records.pictures import FIELDS, Patches, Reconstructions, dtype_of

__all__ = [
    "FIELDS",
    "ByClass",
    "Firing",
    "LayerPeaks",
    "Parts",
    "Patches",
    "Peaks",
    "Reconstructions",
    "about_centres",
    "check_path",
    "clip",
    "dtype_of",
    "lies_inside",
    "recut",
    "shown_side",
    "whole_boxes",
]
