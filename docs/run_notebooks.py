"""Run the notebooks of docs/notebooks and keep what their cells give, with small pictures: `make notebooks`.

With names, as `run_notebooks.py tour`, only these.
"""

from __future__ import annotations

import base64
import io
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"
WIDEST = 920
"""Pixels of a kept picture across, at most; a page shows fewer."""
QUALITY = 72
INLINE = re.compile(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)")


def main(names: list[str]) -> None:
    """Run these notebooks, or all, and write each over itself."""
    for path in [NOTEBOOKS / f"{name}.ipynb" for name in names] or sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = executed(path)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def executed(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with what its cells give now. Raises CellExecutionError for a cell that fails."""
    notebook = read(path)
    private = Config({"KernelManager": {"transport": "ipc"}})  # over TCP others on the machine could listen
    where = {"metadata": {"path": str(NOTEBOOKS.parents[1])}}  # this checkout's deconv
    client = NotebookClient(notebook, resources=where, config=private, timeout=300, coalesce_streams=True)
    client.record_timing = False
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [small(output) for output in cell.outputs if output.get("name") != "stderr"]
            cell.metadata = {}
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def small(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the same output with its pictures as JPEG, no wider than a page."""
    data = output.get("data", {})
    if "image/png" in data:
        data["image/jpeg"] = reduced(data.pop("image/png"))
    if "text/html" in data:
        data["text/html"] = INLINE.sub(lambda match: f"data:image/jpeg;base64,{reduced(match[1])}", data["text/html"])
    return output


def reduced(picture: str) -> str:
    """Return a picture in base64 as a JPEG in base64, at most WIDEST pixels wide."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    image.thumbnail((WIDEST, WIDEST * 4), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
