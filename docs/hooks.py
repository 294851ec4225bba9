"""What MkDocs does not do by itself: pages that stand outside docs/, links into the repository, notebooks as pages.

Nothing is copied by hand: REPRODUCTION.md and its neighbours are read where they are, and notebooks as they were run.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
TAKEN_IN = {
    "REPRODUCTION.md": "REPRODUCTION.md",
    "RELIABILITY.md": "RELIABILITY.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/README.md": "BENCHMARKS.md",
}
"""Pages of the repository outside docs/: {their path there: their path in the site}."""
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<path>(?![a-z]+:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
PICTURE = re.compile(r"(?P<start>!\[[^\]]*\]\()(?P<path>(?![a-z]+:)[^)\s]+)\)")
MARK = re.compile(r'<div data-output="(?P<number>\d+)"></div>')
"""Where the output of a notebook's cell stands until the page is HTML."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand outside docs/, and a page for each notebook."""
    for path, name in TAKEN_IN.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=as_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links, which hold in the repository, into links that hold in the site; code of no page is only named."""
    home = {name: path for path, name in TAKEN_IN.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder, here = posixpath.dirname(home), posixpath.dirname(page.file.src_uri)

    def place(path: str) -> str | None:
        said = posixpath.normpath(posixpath.join(folder, path))
        if said.startswith("docs/notebooks/") and said.endswith(".ipynb"):
            said = said.removesuffix(".ipynb") + ".md"
        uri = TAKEN_IN.get(said, said.removeprefix("docs/"))
        if said == "README.md":
            uri = "index.md"
        known = said in TAKEN_IN or said == "README.md" or said.startswith("docs/")
        return posixpath.relpath(uri, here or ".") if known and files.get_file_from_path(uri) else None

    def link(match: re.Match[str]) -> str:
        path, anchor = place(match["path"]), match["anchor"] or ""
        if path is None and not (ROOT / folder / match["path"]).exists():
            return match[0]  # MkDocs warns of it
        return match["text"] if path is None else f"[{match['text']}]({path}{anchor})"

    def picture(match: re.Match[str]) -> str:
        return f"{match['start']}{place(match['path']) or match['path']})"

    return outside_code(markdown, lambda text: PICTURE.sub(picture, LINK.sub(link, text)))


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what the cells of a notebook gave in its place, as it is."""
    return MARK.sub(lambda match: outputs_of(ROOT / "docs" / page.file.src_uri)[int(match["number"])], content)


def as_markdown(notebook: Path) -> str:
    """Return a notebook as a page: its texts, its code, and a mark in the place of each output."""
    parts: list[str] = []
    count = 0
    for cell in nbformat.read(notebook, as_version=4).cells:
        parts.append(cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```")
        for _ in cell.get("outputs", []):
            parts.append(f'<div data-output="{count}"></div>')
            count += 1
    return "\n\n".join(parts) + "\n"


def outputs_of(page: Path) -> list[str]:
    """Return what the cells of a notebook gave, each as HTML, in order."""
    cells = nbformat.read(page.with_suffix(".ipynb"), as_version=4).cells
    return [f'<div class="output">{in_html(output)}</div>' for cell in cells for output in cell.get("outputs", [])]


def in_html(output: nbformat.NotebookNode) -> str:
    """Return one output as HTML: what shows itself so as it is, anything else as text."""
    data = output.get("data", {})
    if "text/html" in data:
        return str(data["text/html"])
    if "image/jpeg" in data:
        return f'<img alt="the figure that this cell draws" src="data:image/jpeg;base64,{data["image/jpeg"].strip()}">'
    text = output.text if output.output_type == "stream" else output.data["text/plain"]
    return f"<pre>{html.escape(text)}</pre>"


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return the page with its text changed and its blocks of code left as they are."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else change(part) for part in parts)
