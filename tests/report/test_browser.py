"""The page in a real browser: what a person does with pointer and keyboard."""

import contextlib
import io
import json
import os
import pathlib
import shutil

import pytest
from PIL import Image

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
        "Diagnostics", "Training curves", "Evaluation", "Embedding map", "Bank",
        "Pair weights", "Augmented views", "Settings",
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
    page.locator("#evaluation summary").click()
    assert page.locator("#evaluation .bars .name").first.inner_text() == HOSTILE


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


def test_an_entry_shows_who_chooses_it_and_whom_it_repels(visit, hostile_values):
    page = visit()
    entries = hostile_values["bank"]["entries"]
    never = hostile_values["bank"]["unused"]
    options = page.locator("#bank [role=option]")
    assert options.count() == len(entries) - never > 2
    assert (
        page.locator("#entry h3").first.inner_text() == f"Entry {entries[0]['entry']}"
    )
    options.nth(2).click()
    detail = page.locator("#entry")
    assert f"Entry {entries[2]['entry']}" in detail.inner_text()
    pictures = detail.locator(".pictures")
    assert pictures.first.locator("figure").count() == len(entries[2]["chose"])
    assert pictures.last.locator("figure").count() == len(entries[2]["repels"])
    weight = pictures.last.locator("figure").first.inner_text()
    assert weight.startswith("p = ")
    page.get_by_label(f"Show the {never} entries that no image").check()
    assert options.count() == len(entries)
    page.get_by_role("button", name="Least chosen first").click()
    assert "It is chosen by 0 images" in detail.inner_text()


def test_entries_by_keyboard(visit, hostile_values):
    page = visit()
    entries = [of for of in hostile_values["bank"]["entries"] if of["uses"]]
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


TROUBLES = pathlib.Path(__file__).with_name("troubles.js").read_text()


@pytest.fixture(scope="module")
def two_runs(run, workdir, tmp_path_factory):
    """A page of two runs, one of them with a long name, with a demo's results."""
    other = tmp_path_factory.mktemp("other") / "a_run_with_a_name_that_is_rather_long"
    shutil.copytree(workdir, other, ignore=shutil.ignore_patterns("checkpoints"))
    config = json.loads((other / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.7
    (other / "config.json").write_text(json.dumps(config))
    row = {"knn": 0.9, "linear": 0.8, "few_shot_mean": 0.7, "few_shot_std": 0.05}
    names = ("pretrained", "random_encoder", "raw_pixels")
    (other / "demo.json").write_text(json.dumps(dict.fromkeys(names, row)))
    return write_report(run, other / "report.html", compare=[other]).as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_all_is_in_sight_and_legible(visit, two_runs, width, scheme):
    page = visit(
        two_runs,
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        has_touch=width == 390,
    )
    page.evaluate(
        "document.querySelectorAll('details').forEach(of => { of.open = true; })"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TROUBLES) == []
    for table in page.locator("#settings .scroll").all():
        assert table.evaluate("of => of.scrollWidth <= of.clientWidth") or width > 390


def test_on_a_phone_nothing_is_lost(visit, two_runs):
    page = visit(two_runs, viewport={"width": 390, "height": 844}, has_touch=True)
    assert page.locator("#evaluation .ends").first.inner_text().split() == [
        "30%", "90%",
    ]  # fmt: skip
    assert "Tap a chart" in page.locator("#curves .lead").inner_text()
    assert "double-click" not in page.locator("#curves .lead").inner_text()
    strip = page.locator(".strip")
    assert strip.get_attribute("data-more").split() == ["right"]
    page.locator("#nav").evaluate("nav => { nav.scrollLeft = 1e4; }")
    page.wait_for_selector(".strip[data-more='left ']")
    option = page.locator("#bank [role=option]").nth(1)
    option.tap()
    assert option.get_attribute("aria-selected") == "true"


def test_the_demo_is_a_table(visit, two_runs):
    table = visit(two_runs).locator("#evaluation .demo")
    assert table.locator("thead th").all_inner_texts() == [
        "features", "kNN", "Linear probe", "3 labels a class",
    ]  # fmt: skip
    assert table.locator("tbody th").all_inner_texts() == [
        "This encoder", "Untrained encoder", "Raw pixels",
    ]  # fmt: skip
    cells = table.locator("tbody tr").first.locator("td").all_inner_texts()
    assert cells == ["90.0%", "80.0%", "70.0% ± 5.0%"]


def test_a_theme_is_remembered(visit):
    page = visit(color_scheme="light")
    page.locator("#theme").click()
    page.reload()
    assert page.locator("#theme").inner_text() == "Light"
    paper, ink = luminances(page)
    assert paper < ink


def test_a_command_is_copied(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    box = page.locator("#evaluation .command").first
    box.get_by_role("button").click()
    box.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == box.locator("code").inner_text().strip()
    assert copied.startswith("caco knn --workdir=")


def test_settings_are_filtered(visit, two_runs):
    page = visit(two_runs)
    rows = page.locator("#settings details tbody tr")
    page.get_by_label("Filter all settings").fill("learning_rate")
    shown = [row.locator("th").inner_text() for row in rows.all() if row.is_visible()]
    assert {"optimizer.learning_rate", "bank_optimizer.learning_rate"} <= set(shown)
    assert len(shown) < rows.count() / 2
    said = page.locator("#settings [role=status]").inner_text()
    assert said == f"{len(shown)} settings contain this text."
    page.get_by_label("Filter all settings").fill("")
    assert rows.count() == sum(row.is_visible() for row in rows.all())


def test_percentages_stay_between_0_and_100_and_a_start_up_has_room(visit):
    page = visit()
    lead = page.locator("#curves .lead").inner_text()
    assert lead.startswith("Before epoch 1 there was a start-up of 3 steps (1 epoch): ")
    knn, loss = '{"name": "knn", "x": [1, 2, 3]}', '{"name": "loss", "x": [1, 2, 3]}'
    for low, high in ((0.97, 1.0), (0.0, 0.01), (1.0, 1.0), (0.0, 0.0)):
        least, most = page.evaluate(f"rangeOfValues({knn}, false)(null, {low}, {high})")
        assert 0 <= least <= low <= high <= most <= 1
        assert least < most
        least, most = page.evaluate(f"rangeOfValues({knn}, true)(null, {low}, {high})")
        assert most <= 1
    assert page.evaluate(f"rangeOfValues({loss}, false)(null, 1, 9)")[1] > 9
    assert page.evaluate(f"rangeOfValues({loss}, true)(null, 0.035, 42)") == [0.03, 50]
    assert page.evaluate(f"rangeOfValues({loss}, true)(null, 2, 2)") == [1, 4]
    assert page.evaluate(f"rangeOfEpochs({loss})(null, 1, 3)")[0] < 0
    assert page.evaluate(f"rangeOfEpochs({loss})(null, 2, 3)") == [2, 3]


def test_curves_are_smoothed_and_logarithmic(visit):
    page = visit()
    assert page.evaluate("smoothed([4, null, 1], 0.5)") == [4, None, 2]
    legend = page.locator('[data-metric="loss"] .u-legend')
    before = legend.inner_text()
    page.get_by_label("Smoothing").fill("0.5")
    assert page.locator("#curves output").inner_text() == "0.50"
    assert legend.inner_text() == before  # values are as measured
    page.get_by_label("Logarithmic").check()
    assert legend.inner_text() == before
    assert page.locator('[data-metric="loss"] canvas').count() == 1


def test_curves_are_saved(visit, tmp_path):
    page = visit()

    def saved(name):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / "file")
        return download.value.suggested_filename, (tmp_path / "file").read_bytes()

    name, content = saved("Save Loss as CSV")
    assert name == "caco-loss.csv"
    assert content == b'epoch,"loss"\n1,4\n2,2\n3,1.3333333333333333\n4,1\n'
    name, content = saved("Save Loss as PNG")
    assert name == "caco-loss.png"
    width, height = Image.open(io.BytesIO(content)).size
    assert width > 300
    assert height > 230
    name, content = saved("Save all as CSV")
    heads = content.decode().splitlines()[0]
    assert heads.startswith('epoch,"loss","knn","cross_entropy"')


def test_tab_reaches_every_control(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = set()
    for _ in range(120):
        seen.add(
            page.evaluate(
                "document.activeElement.closest('section')?.id "
                "+ ' ' + document.activeElement.tagName"
            )
        )
        page.keyboard.press("Tab")
    assert {
        "curves DIV", "evaluation SUMMARY", "map CANVAS", "map BUTTON", "bank BUTTON",
        "pairs CANVAS", "settings SUMMARY",
    } <= seen  # fmt: skip
    names = page.evaluate("""() => [...document.querySelectorAll("button, canvas")]
      .filter((node) => !node.ariaHidden)
      .filter((node) => !(node.getAttribute("aria-label") || node.textContent))""")
    assert names == []


def test_examples_that_are_no_images_have_all_but_pictures(visit, signals, tmp_path):
    page = visit(write_report(signals, tmp_path / "signals.html").as_uri())
    assert page.locator("#nav a").all_inner_texts() == [
        "Diagnostics", "Training curves", "Evaluation", "Embedding map", "Bank",
        "Pair weights", "Settings",
    ]  # fmt: skip
    assert page.locator(".thumb").count() == 0
    page.locator("#map canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#said").inner_text().startswith("Example 0, ")
    page.locator("#pairs canvas").hover(position={"x": 60, "y": 5})
    assert "weight" in page.locator("#tip").inner_text()
    page.locator("#bank [role=option]").nth(1).click()
    assert "Examples that choose it" in page.locator("#entry").inner_text()
    for section in ("curves", "evaluation", "map", "bank", "pairs"):
        assert "image" not in page.locator(f"#{section}").inner_text()
