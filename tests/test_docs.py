"""The documentation: its code runs, and its notebooks; its site has every public name and asks nothing of the net."""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import deconv
from docs import docstrings, run_notebooks
from tests import written
from tests.written import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
NAMES = [name for name in dir(deconv) if not isinstance(getattr(deconv, name), ModuleType)]
MOST_BYTES = 400_000

# --- the code on the pages ------------------------------------------------------------------------------------------


@pytest.fixture
def beside_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with the folder `photos` of which the pages speak: twelve of the bundled, in two classes."""
    images = deconv.bundled()
    for number in range(12):
        path = tmp_path / "photos" / ("people" if number < 6 else "things") / f"{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.image(number)).save(path)
    monkeypatch.chdir(tmp_path)


def python_of(page: Path) -> list[str]:
    return written.blocks(page.read_text(encoding="utf-8"), "python")


@pytest.mark.usefixtures("beside_photos", "unchecked")
@pytest.mark.parametrize("page", [page for page in written.PAGES if python_of(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Block after block in one namespace; what a comment says that a line prints is what it prints."""
    blocks, namespace = python_of(page), {"__name__": "page"}
    with torch.random.fork_rng(devices=[]):
        for number, block in enumerate(blocks):
            exec(compile(block, f"{page.name}, block {number + 1}", "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    said = re.findall(r"# prints (.*)$", "\n".join(blocks), flags=re.MULTILINE)
    assert [line for line in said if line not in printed] == []


def test_the_first_screen_of_the_readme_gets_one_to_a_picture() -> None:
    """In three commands, or six lines of Python, before anything else is told."""
    screen = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    (commands,), (python,) = written.blocks(screen, "sh"), written.blocks(screen, "python")
    assert len(commands.splitlines()) <= 3 and len(python.strip().splitlines()) <= 6
    assert "deconv.look(" in python and "experiment=" in commands and len(screen.splitlines()) <= 40


# --- notebooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_gives_what_it_kept(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    kept, now = run_notebooks.read(path), run_notebooks.executed(path)
    for before, after in zip(kept.cells, now.cells, strict=True):
        shown = [sorted(output.get("data", {"text": ""})) for output in before.get("outputs", [])]
        assert shown == [sorted(output.get("data", {"text": ""})) for output in after.get("outputs", [])]
        assert not [output for output in before.get("outputs", []) if output.output_type == "error"]
        assert "image/png" not in str(before) and "deconv.look: " not in str(before)


def test_each_output_of_a_notebook_is_told() -> None:
    """No three cells of code follow each other, and a text comes first and last."""
    for path in NOTEBOOKS:
        cells = run_notebooks.read(path).cells
        assert cells[0].cell_type == cells[-1].cell_type == "markdown"
        for first, second, third in zip(cells, cells[1:], cells[2:], strict=False):
            assert "markdown" in (first.cell_type, second.cell_type, third.cell_type), (
                f"{path.stem}: three cells of code"
            )


# --- the reference ----------------------------------------------------------------------------------------------------


def groups() -> list[list[str]]:
    """The names under each heading of the reference."""
    text = (ROOT / "docs/API.md").read_text(encoding="utf-8")
    return [re.findall(r"^::: deconv\.(\w+)$", group, flags=re.MULTILINE) for group in text.split("\n## ")[1:]]


def test_every_public_name_stands_once_in_the_reference() -> None:
    assert sorted(name for group in groups() for name in group) == sorted(NAMES)


def test_the_reference_groups_names_by_the_rooms_that_they_live_in() -> None:
    stub = (ROOT / "deconv/__init__.pyi").read_text(encoding="utf-8")
    rooms: dict[str, set[str]] = {}
    for room, names in re.findall(r"^from \.(\w+)[\w.]* import (\([^)]*\)|.*)$", stub, flags=re.MULTILINE):
        rooms.setdefault(room, set()).update(re.findall(r"(\w+) as \w+", names))
    for room, names in rooms.items():
        assert len([group for group in groups() if names & set(group)]) == 1, f"{room} is in several groups"


def test_docstrings_become_markdown() -> None:
    """A list of arguments and a block for the example; a word before a colon within a sentence is no argument."""
    assert doctest.testmod(docstrings) == (0, 1)
    text = docstrings.as_markdown("In the order of the\nunits: those that fire.\n\n>>> 1 + 1\n2")
    assert text == "In the order of the\nunits: those that fire.\n\n```pycon\n>>> 1 + 1\n2\n```"


# --- the site ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


class Fetched(HTMLParser):
    """Collects the addresses that a browser asks for when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        said = dict(attributes)
        names = (
            ("href",) if tag == "link" and said.get("rel") not in ("canonical", "next", "prev") else ("src", "srcset")
        )
        self.addresses += [said[name] or "" for name in names if name in said]


def test_the_site_asks_nothing_of_the_net(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 18
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        assert reader.addresses and not [a for a in reader.addresses if re.match(r"(https?:)?//", a)], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_site_holds_every_public_name_and_every_output(site: Path) -> None:
    reference = (site / "API.html").read_text(encoding="utf-8")
    assert [name for name in NAMES if f'id="deconv.{name}"' not in reference] == []
    for path in NOTEBOOKS:
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        outputs = [output for cell in run_notebooks.read(path).cells for output in cell.get("outputs", [])]
        assert page.count('<div class="output">') == len(outputs) > 2 and "data-output" not in page
        drawn = [output for output in outputs if "image/jpeg" in output.get("data", {})]
        within = [output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})]
        assert page.count("data:image/") == len(drawn) + "".join(within).count("data:image/") > 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra test)")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
def test_the_site_opens_from_a_file_and_is_searched(site: Path, browser: Any) -> None:
    page, asked, wrong = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: wrong.append(message.text))
    for name in ("index", "QUICKSTART", "API", "notebooks/your_own_network"):
        page.goto(f"file://{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    page.goto(f"file://{site}/index.html")
    page.locator(".md-search__input").click()
    page.keyboard.type("project_strongest")
    page.locator(".md-search-result__link").first.wait_for(timeout=20_000)
    assert not wrong and not [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))]
    page.goto(f"file://{site}/index.html")
    page.get_by_role("link", name="Your own network, your own folder").click()
    page.wait_for_url("**/QUICKSTART.html#your-own-network-on-your-own-folder")
    page.close()
