"""The figures of the experiments, and how they are written: one module a figure, named as its analysis.

Only this package and `deconv.atlas` draw. `pictures` makes tiles of pixels; `page` places pictures, charts and texts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

from deconv.errors import BadInput
from deconv.figures.pictures import display
from deconv.files import write_whole

__all__ = ["DPI", "FORMATS", "Figure", "display", "in_html", "save_as", "save_figure", "save_pages"]

DPI = 100
FORMATS = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".jpg": None,
    ".jpeg": None,
}
"""{suffix of a picture's file: metadata that would differ between two runs, left out}."""
JPEG: dict[str, Any] = {"quality": 85}


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as PNG and, beside it, as PDF; the same bytes for the same figure. Returns the PNG's path.

    path: of the PNG, "fig2.png"; without a suffix a layer's name with dots in it would lose its end.
    """
    path = Path(path)
    made = save_as(figure, path.with_suffix(".png"))
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")  # it stays as the PNG has it: to lay out charts takes longer than to draw them
    try:
        save_as(figure, path.with_suffix(".pdf"))
    finally:
        figure.set_layout_engine(engine)
    return made


def save_pages(picture: Figure, pages: Sequence[Figure], path: str | Path) -> Path:
    """Write one long picture as PNG and, beside it, its pages as PDF, for printing. Returns the PNG's path.

    path: of the PNG, as for `save_figure`; again the same figures give the same bytes.
    """
    path = Path(path)
    write_whole(path.with_suffix(".pdf"), lambda file: _write_pages(pages, file))
    return save_as(picture, path.with_suffix(".png"))


def _write_pages(pages: Sequence[Figure], file: BinaryIO) -> None:
    with PdfPages(file, metadata=FORMATS[".pdf"]) as pdf:
        for page in pages:
            pdf.savefig(page, dpi=DPI)


def save_as(figure: Figure, path: str | Path) -> Path:
    """Write the figure to this file, in the format of its suffix, and return its path.

    Raises BadInput for a suffix that names no format.
    """
    path = Path(path)
    suffix = check_format(path)
    how: dict[str, Any] = {"format": suffix[1:], "dpi": DPI, "metadata": FORMATS[suffix]}
    if suffix in (".jpg", ".jpeg"):
        how["pil_kwargs"] = JPEG
    with matplotlib.rc_context({"svg.hashsalt": "deconv"}):  # names inside an SVG are random without it
        write_whole(path, lambda file: figure.savefig(file, **how))
    return path


def in_html(figure: Figure, description: str) -> str:
    """Return the figure as an element of HTML that holds the picture itself, no wider than its page.

    It is a JPEG, a third as large as a PNG would be.  description: what it shows, for those who cannot see it.

    >>> in_html(Figure(figsize=(1, 1)), "nothing")
    '<img alt="nothing" style="max-width: 100%; height: auto" src="data:image/jpeg;base64,...">'
    """
    file = io.BytesIO()
    figure.savefig(file, format="jpeg", dpi=DPI, pil_kwargs=JPEG)
    data = base64.b64encode(file.getvalue()).decode()
    style = "max-width: 100%; height: auto"
    return f'<img alt="{escape(description)}" style="{style}" src="data:image/jpeg;base64,{data}">'


def check_format(path: str | Path) -> str:
    """Return the suffix of a picture's file. Raises BadInput if it names no format."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        formats = ", ".join(FORMATS)
        raise BadInput(f"path: given {path}; expected a file whose name ends in one of {formats}: add the suffix")
    return suffix
