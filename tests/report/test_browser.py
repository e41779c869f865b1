"""The page in a real browser: what a person does with pointer and keyboard."""

import contextlib
import os
import shutil

import pytest

from caco_jax.report import write_report
from caco_jax.report.page import render
from tests.report.conftest import HOSTILE

pytestmark = [pytest.mark.xdist_group("report"), pytest.mark.slow]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; without one the tests are skipped, but not in CI."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with contextlib.ExitStack() as stack:
        try:
            from playwright.sync_api import Error, sync_playwright
        except ImportError as error:
            _without(f"playwright is not installed: {error}")
        driver = stack.enter_context(sync_playwright())
        try:
            browser = driver.chromium.launch(
                executable_path=path, args=["--no-sandbox"]
            )
        except Error as error:
            _without(f"no Chromium here: {str(error).splitlines()[0]}")
        stack.callback(browser.close)
        yield browser


def _without(reason):
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must have a browser: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def url(hostile_values, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(hostile_values))
    return path.as_uri()


@pytest.fixture
def visit(browser, url):
    """Opens the page; at the end nothing may have gone wrong in it."""
    troubles = []
    with contextlib.ExitStack() as stack:

        def visit(url=url, **options):
            page = browser.new_page(
                **{"viewport": {"width": 1100, "height": 800}, **options}
            )
            stack.callback(page.close)
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("dialog", lambda dialog: troubles.append(dialog.message))
            page.on(
                "request",
                lambda request: troubles.extend(
                    [request.url] * (not request.url.startswith(("file:", "data:")))
                ),
            )
            page.goto(url)
            return page

        yield visit
        assert troubles == []


def test_links_lead_to_their_sections(visit):
    page = visit()
    links = page.locator("#nav a")
    assert links.all_inner_texts() == [
        "Health", "Curves", "Evaluations", "Map", "Bank", "Pairs", "Views", "Settings",
    ]  # fmt: skip
    for link in links.all():
        link.click()
        heading = page.locator(link.get_attribute("href") + " h2")
        heading.wait_for()
        top = heading.bounding_box()["y"]
        assert top > 40  # below the bar
        assert top < 800


def test_hostile_names_are_shown_as_text(visit):
    page = visit()
    assert page.locator("#map .classes button").first.inner_text() == HOSTILE
    page.locator("#evaluations summary").click()
    assert page.locator("#evaluations .bars .name").first.inner_text() == HOSTILE


def test_curves_are_read_and_zoomed(visit):
    page = visit()
    chart = page.locator('[data-metric="loss"]')
    legend = chart.locator(".u-legend")
    assert "4" in legend.inner_text()
    chart.locator(".u-over").scroll_into_view_if_needed()
    box = chart.locator(".u-over").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 50)
    first = legend.locator(".u-value").first
    assert first.inner_text() == "1"
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 50, steps=5)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 50)
    assert int(first.inner_text()) in (2, 3)  # the rest is out of sight
    page.mouse.dblclick(box["x"] + 20, box["y"] + 50)
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 50)
    assert first.inner_text() == "4"


def test_curves_by_keyboard(visit):
    page = visit()
    page.locator('[data-metric="loss"]').focus()
    said = page.locator("#said")
    page.keyboard.press("Home")
    assert said.inner_text() == "Loss, epoch 1: caco 4"
    page.keyboard.press("ArrowRight")
    assert said.inner_text() == "Loss, epoch 2: caco 2"
    page.keyboard.press("+")
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    assert said.inner_text() == "Loss, epoch 4: caco 1"


def test_the_map_shows_the_image_under_the_pointer(visit, hostile_values):
    page = visit()
    canvas = page.locator("#map canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = hostile_values["map"]["points"][0]
    page.mouse.move(
        box["x"] + 10 + x * (box["width"] - 20),
        box["y"] + 10 + y * (box["height"] - 20),
    )
    tip = page.locator("#tip")
    assert tip.locator(".thumb").count() == 1
    label = hostile_values["map"]["labels"][0]
    assert tip.inner_text() == hostile_values["classes"][label]
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#said").inner_text().startswith("Image 0, ")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_an_entry_shows_whom_it_serves_and_repels(visit, hostile_values):
    page = visit()
    entries = hostile_values["bank"]["entries"]
    options = page.locator("#bank [role=option]")
    assert options.count() == len(entries)
    assert (
        page.locator("#entry h3").first.inner_text() == f"Entry {entries[0]['entry']}"
    )
    options.nth(2).click()
    detail = page.locator("#entry")
    assert f"Entry {entries[2]['entry']}" in detail.inner_text()
    pictures = detail.locator(".pictures")
    assert pictures.first.locator("figure").count() == len(entries[2]["chose"])
    assert pictures.last.locator("figure").count() == len(entries[2]["repels"])
    page.get_by_role("button", name="Least used first").click()
    assert "Used by 0 images" in detail.inner_text()


def test_entries_by_keyboard(visit, hostile_values):
    page = visit()
    entries = hostile_values["bank"]["entries"]
    page.locator("#bank [role=option]").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    heading = page.locator("#entry h3").first
    assert heading.inner_text() == f"Entry {entries[1]['entry']}"
    page.keyboard.press("End")
    page.keyboard.press("Space")
    assert heading.inner_text() == f"Entry {entries[-1]['entry']}"
    page.keyboard.press("ArrowUp")
    focused = page.evaluate("document.activeElement.entry.entry")
    assert focused in [entry["entry"] for entry in entries[:-1]]
    shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert shown == "solid"


def test_pairs_are_named_under_the_pointer(visit):
    page = visit()
    canvas = page.locator("#pairs canvas")
    canvas.hover(position={"x": 60, "y": 5})
    assert "weight" in page.locator("#tip").inner_text()
    assert page.locator("#tip .thumb").count() == 2
    canvas.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#said").inner_text().startswith("weight ")


def luminances(page):
    """Luminance of the page's paper and ink, by WCAG."""
    return page.evaluate("""() => ["background-color", "color"].map((name) => {
      const style = getComputedStyle(document.body).getPropertyValue(name);
      const [r, g, b] = style.match(/[\\d.]+/g).map((value) => {
        const share = value / 255;
        return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    })""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(visit, scheme):
    page = visit(color_scheme=scheme)
    paper, ink = luminances(page)
    assert (paper < ink) == (scheme == "dark")
    page.locator("#theme").click()
    other_paper, other_ink = luminances(page)
    assert (other_paper > other_ink) == (scheme == "dark")
    for one, two in ((paper, ink), (other_paper, other_ink)):
        assert (max(one, two) + 0.05) / (min(one, two) + 0.05) > 7


def test_a_phone_is_wide_enough(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True)
    page.locator("#settings details summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    option = page.locator("#bank [role=option]").nth(1)
    option.tap()
    assert option.get_attribute("aria-selected") == "true"


def test_tab_reaches_every_control(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(60):
        seen.add(
            page.evaluate(
                "document.activeElement.closest('section')?.id "
                "+ ' ' + document.activeElement.tagName"
            )
        )
        page.keyboard.press("Tab")
    assert {
        "curves DIV", "evaluations SUMMARY", "map CANVAS", "map BUTTON", "bank BUTTON",
        "pairs CANVAS", "settings SUMMARY",
    } <= seen  # fmt: skip
    names = page.evaluate("""() => [...document.querySelectorAll("button, canvas")]
      .filter((node) => !node.ariaHidden)
      .filter((node) => !(node.getAttribute("aria-label") || node.textContent))""")
    assert names == []


def test_examples_that_are_no_images_have_all_but_pictures(visit, signals, tmp_path):
    page = visit(write_report(signals, tmp_path / "signals.html").as_uri())
    assert page.locator("#nav a").all_inner_texts() == [
        "Health", "Curves", "Evaluations", "Map", "Bank", "Pairs", "Settings",
    ]  # fmt: skip
    assert page.locator(".thumb").count() == 0
    page.locator("#map canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#said").inner_text().startswith("Example 0, ")
    page.locator("#pairs canvas").hover(position={"x": 60, "y": 5})
    assert "weight" in page.locator("#tip").inner_text()
    page.locator("#bank [role=option]").nth(1).click()
    assert "Examples that chose it" in page.locator("#entry").inner_text()
    for section in ("curves", "evaluations", "map", "bank", "pairs"):
        assert "image" not in page.locator(f"#{section}").inner_text()
