"""The atlas in a real browser, from a file and from a plain web server: links, keys, sorting, speed, accessibility."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import deconv
from deconv.images import Source
from deconv.records import Peaks
from tests import atlases

playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed (extra test)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")
PHONE = {"width": 390, "height": 844}
MOST_SECONDS, MOST_BYTES = 1.0, 3_000_000


class Watched:
    """A page and all that went wrong in it, and what it asked for."""

    def __init__(self, context: Any):
        self.page = context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", self._answered)
        self.page.on("dialog", lambda dialog: self.wrong.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # the test itself turned the page while an icon was on its way
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def _answered(self, answer: Any) -> None:
        if answer.status >= 400:
            self.wrong.append(f"{answer.status} {answer.url}")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = {"one": {"roundness": [float(-unit) for unit in range(512)]}}
    return atlases.write(tmp_path_factory.mktemp("browser"), channels=512, metrics=given)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def served(front: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(front.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    context = browser.new_context()
    seen = Watched(context)
    yield seen
    context.close()


def until(page: Any, expression: str) -> None:
    """Wait for an expression to be true; page.wait_for_function evaluates it in the page, whose policy forbids that."""
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not within half a minute: {expression}")


@pytest.mark.parametrize("place", ["file", "server"])
def test_from_the_front_page_to_a_photograph_and_back(place: str, front: Path, served: str, watched: Watched) -> None:
    root = front.parent.as_uri() + "/" if place == "file" else served
    page = watched.page
    page.goto(f"{root}index.html")
    page.click("a.card >> nth=0")
    page.wait_for_url("**/01-one/index.html")
    page.click("li[data-unit='7'] a")
    page.wait_for_url("**/unit-0007.html")
    page.click(".nine a[data-peak='2'] >> nth=0")
    assert page.evaluate("location.hash") == "#peak-2" and page.is_visible("dialog .placed")
    assert page.evaluate("document.querySelector('dialog img').naturalWidth") == atlases.SIZE
    page.keyboard.press("ArrowRight")
    assert page.evaluate("location.hash") == "#peak-3" and page.inner_text("dialog .rank") == "3"
    page.keyboard.press("Escape")
    until(page, "!document.querySelector('dialog').open && location.hash === ''")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/unit-0008.html")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**/unit-0007.html")
    page.keyboard.press("u")
    page.wait_for_url("**/01-one/index.html")
    page.click("nav a >> nth=0")
    page.wait_for_url("**/index.html")
    assert watched.wrong == []
    assert [url for url in watched.asked if not url.startswith(root)] == []


def test_a_shared_link_opens_its_photograph_and_back_closes_one(front: Path, watched: Watched) -> None:
    page, unit = watched.page, (front.parent / "01-one/unit-0007.html").as_uri()
    page.goto(f"{unit}#peak-3")
    assert page.inner_text("dialog .rank") == "3"
    page.click("#close")
    until(page, "location.hash === ''")
    page.click(".wholes a >> nth=0")
    assert page.is_visible("dialog")
    page.go_back()
    until(page, "!document.querySelector('dialog').open")
    assert page.url == unit and watched.wrong == []


def test_names_that_would_break_out_are_shown_as_they_are(front: Path, watched: Watched) -> None:
    page = watched.page
    shown = set()
    for unit in range(6):
        page.goto((front.parent / f"02-two/unit-{unit:04d}.html").as_uri())
        shown |= set(page.locator(".whole .key").all_text_contents())
        assert page.locator("img[onerror], [onmouseover], a[href^=javascript]").count() == 0
    assert set(atlases.HOSTILE) <= shown and watched.wrong == []


def test_units_sort_and_switch_and_the_address_keeps_both(front: Path, watched: Watched) -> None:
    page = watched.page

    def order() -> list[int]:
        return [int(unit) for unit in page.locator("#units .name").all_text_contents()]

    page.goto((front.parent / "01-one/index.html").as_uri())
    alive = [unit for unit in range(512) if unit != 3]
    assert order() == [*alive, 3]
    page.select_option("#sort", label="roundness")
    assert order() == [*alive, 3] and page.inner_text("#units .number >> nth=1") == "-1"
    page.select_option("#sort", label="strength")
    strengths = [float(number) for number in page.locator("li[data-unit] .number").all_text_contents()]
    assert strengths == sorted(strengths, reverse=True) and order()[-1] == 3 and order() != [*alive, 3]
    assert page.is_visible("img.recon >> nth=0") and not page.is_visible("img.patch >> nth=0")
    page.locator("#units a >> nth=0").focus()
    page.keyboard.press("p")
    assert page.is_visible("img.patch >> nth=0") and not page.is_visible("img.recon >> nth=0")
    sorted_order = order()
    page.reload()
    assert order() == sorted_order and page.is_visible("img.patch >> nth=0")
    assert watched.wrong == []


def test_units_open_in_the_order_of_their_shares_and_any_other_is_kept(tmp_path: Path, watched: Watched) -> None:
    net, images, page = atlases.network(), atlases.photographs(tmp_path / "images"), watched.page
    peaks = deconv.mine(net, images, ["two"])
    reference = atlases.stronger(peaks, "two", [4, 1, 2, 0.5, 8, 1])
    site = deconv.write_atlas(net, peaks, images, tmp_path / "site", reference=reference).parent
    by_share, by_number, names = ["3", "1", "5", "2", "0", "4"], list("012345"), page.locator("#units .name")
    page.goto((site / "01-two/index.html").as_uri())
    assert names.all_text_contents() == by_share and page.input_value("#sort") == "3"
    assert page.inner_text("#units .number >> nth=0") == "2"
    page.select_option("#sort", label="number")
    page.reload()
    assert names.all_text_contents() == by_number
    page.goto((site / "01-two/index.html").as_uri() + "#show=patch")
    assert names.all_text_contents() == by_share and watched.wrong == []


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Peaks, Path]:
    return atlases.of_classes(tmp_path_factory.mktemp("classes"))


def test_pages_of_classes_are_accessible_and_fit_a_phone(of_classes: tuple[Source, Peaks, Path], browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = browser.new_page(viewport=PHONE)
    for name in ("index.html#find=church", "01-one/unit-0000.html", "01-one/index.html#find=church"):
        page.goto(f"{of_classes[2].as_uri()}/{name}")
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name
    page.close()


def test_a_search_leads_to_photographs_and_units_and_filters_a_layer(
    of_classes: tuple[Source, Peaks, Path], watched: Watched
) -> None:
    images, peaks, site = of_classes
    page, keys = watched.page, [key for key in images.keys if key.startswith("n03028079/")]
    front = site.as_uri() + "/index.html"

    def with_peaks(key: str, layer: str) -> set[str]:
        holding = (peaks[layer].image == images.keys.index(key)).any(dim=1)
        return {str(unit) for unit in holding.nonzero().flatten().tolist()}

    page.goto(front)
    assert not page.is_visible("#results")
    page.fill("#find", "CHURCH")
    shown = [key for key in keys if images.keys.index(key) in peaks.image_keys]
    assert page.locator(".shots a").all_text_contents() == shown and "Classes: church." in page.inner_text("#results")
    assert page.evaluate("document.querySelector('.shots img').naturalWidth") == atlases.SIZE
    page.click(".shots a >> nth=0")
    until(page, f"document.getElementById('find').value === {shown[0]!r}")
    found = {name.removesuffix(" *") for name in page.locator("#results .name").all_text_contents()}
    assert found == with_peaks(shown[0], "one") | with_peaks(shown[0], "two")
    page.reload()
    assert page.input_value("#find") == shown[0] and page.is_visible("#results .crop img >> nth=0")
    page.fill("#find", "<b>")
    assert page.inner_text("#results .note >> nth=0") == "Classes: <b>cat, tabby."
    assert page.locator("#results b").count() == 0
    page.fill("#find", "no such thing")
    assert page.inner_text("#matching") == "0 photographs, 0 units"
    page.goto(f"{site.as_uri()}/01-one/unit-0000.html")
    page.click(".lead a[href*='find='] >> nth=0")
    page.wait_for_url("**/index.html#find=*")
    assert page.is_visible("#results .shots img >> nth=0")
    page.goto(f"{site.as_uri()}/01-one/index.html")
    page.fill("#find", shown[0])
    visible = page.locator("#units li:visible .name")
    assert set(visible.all_text_contents()) == with_peaks(shown[0], "one")
    page.keyboard.press("p")  # a letter in the box, and no key of the page
    assert visible.count() == 0 and page.evaluate("document.body.className") == "layer"
    page.fill("#find", shown[0])
    assert not page.is_visible(".prefers >> nth=0")
    page.select_option("#sort", label="class selectivity")
    assert page.locator(".prefers:visible").count() == visible.count()
    page.reload()
    assert page.input_value("#find") == shown[0] and set(visible.all_text_contents()) == with_peaks(shown[0], "one")
    assert watched.wrong == []


def test_arrow_keys_go_from_unit_to_unit_and_a_ring_shows_where(front: Path, watched: Watched) -> None:
    page = watched.page
    page.goto((front.parent / "01-one/index.html").as_uri())
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    here = "document.activeElement.closest('li').dataset.unit"
    assert page.evaluate(here) == "1"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowDown")
    below = int(page.evaluate(here))
    assert below > 4 and page.evaluate("document.activeElement.getBoundingClientRect().top") > 0
    page.keyboard.press("ArrowUp")
    assert page.evaluate(here) == "1"
    page.keyboard.press("]")
    page.wait_for_url("**/02-two/index.html")


def test_without_its_script_everything_is_there(front: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((front.parent / "01-one/index.html").as_uri())
    assert page.locator("#units li").count() == 512 and not page.is_visible("#controls")
    page.click("#units a >> nth=4")
    page.wait_for_url("**/unit-0005.html")
    assert page.is_visible("#peak-9 img") and not page.is_visible("dialog")
    context.close()


def test_512_units_show_in_under_a_second_and_weigh_under_three_megabytes(front: Path, browser: Any) -> None:
    folder = front.parent / "01-one"
    shared = [folder / "index.html", *folder.glob("*.webp"), *(front.parent / "assets").iterdir()]
    assert sum(path.stat().st_size for path in shared) < MOST_BYTES
    context = browser.new_context()
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})  # a busy machine is no slow page
    spent = []
    for _ in range(3):
        page.goto("about:blank")
        before = metrics(devtools)["TaskDuration"]
        page.goto((folder / "index.html").as_uri())
        until(page, "document.querySelector('#units img').complete")
        spent.append(metrics(devtools)["TaskDuration"] - before)
    context.close()
    assert min(spent) < MOST_SECONDS


def metrics(devtools: Any) -> dict[str, float]:
    return {entry["name"]: entry["value"] for entry in devtools.send("Performance.getMetrics")["metrics"]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "name", ["index.html", "02-two/index.html", "01-one/unit-0007.html", "01-one/unit-0007.html#peak-2"]
)
def test_every_kind_of_page_is_accessible(name: str, scheme: str, front: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    context = browser.new_context(color_scheme=scheme)
    page = context.new_page()
    page.goto(front.parent.as_uri() + "/" + name)
    found = axe.Axe().run(page)
    context.close()
    assert found.violations_count == 0, found.generate_report()


def test_on_paper_the_pictures_stay_and_the_controls_go(front: Path, watched: Watched) -> None:
    page = watched.page
    page.emulate_media(media="print")
    page.goto((front.parent / "01-one/unit-0007.html").as_uri())
    for shown in (".nine .tile >> nth=0", ".histogram .count >> nth=0", ".photo img >> nth=0"):
        assert page.is_visible(shown), shown
    assert not page.is_visible("nav") and not page.is_visible("#copy")


@pytest.mark.parametrize(
    "name", ["index.html", "01-one/index.html", "01-one/unit-0007.html", "01-one/unit-0007.html#peak-2"]
)
def test_nothing_is_wider_than_a_phone(name: str, front: Path, browser: Any) -> None:
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto(front.parent.as_uri() + "/" + name)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    context.close()


def test_long_names_of_layers_break_between_their_parts(tmp_path: Path, browser: Any) -> None:
    """On the cards, in headings and above results; and the search says that it knows only what some unit shows."""
    net, images = atlases.network("features.10.branch_pool.cat", 4), atlases.photographs(tmp_path / "images")
    peaks = deconv.mine(net, images, list(net.aliases), k=1)
    site = deconv.write_atlas(net, peaks, images, tmp_path / "site", circuits=False).parent
    whole = """[...document.querySelectorAll("h1, h3, #results h2")].flatMap((name) => [...name.childNodes])
    .filter((part) => {
        const range = document.createRange();
        range.selectNodeContents(part);
        return part.nodeType === Node.TEXT_NODE && range.getClientRects().length !== 1;
    }).map((part) => part.data)"""
    for width in (PHONE["width"], 1400):
        page = browser.new_page(viewport=PHONE | {"width": width})
        for name in ("index.html#find=plain", "01-features.10.branch_pool.cat/index.html"):
            page.goto(f"{site.as_uri()}/{name}")
            assert page.locator("h1 wbr, h3 wbr, #results h2 wbr").count() and page.evaluate(whole) == [], (name, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        page.goto(f"{site.as_uri()}/index.html")
        assert f"Only the {len(peaks.image_keys)} photographs of 12" in page.inner_text("#search")
        page.close()
