"""What a picture of a figure must be, whatever it shows: its file is read, and it is no empty page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


def axes_of(figure: Figure) -> list[Any]:
    """Return all axes of a figure, of no type, so that what they show can be asked of them."""
    return list(figure.axes)


def assert_drawn(folder: Path, *names: str) -> None:
    """Check that PNG and PDF of each figure are there, and that the PNG has more than one colour all along it."""
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        inked = pixels < 250
        assert inked[:, : pixels.shape[1] // 2].any() and inked[:, pixels.shape[1] // 2 :].any(), name
        assert inked[: len(pixels) // 2].any() and inked[len(pixels) // 2 :].any(), name
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF"), name
