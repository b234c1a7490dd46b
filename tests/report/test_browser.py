"""Both pages in a real browser, opened from the disk."""

import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-background-networking", "--disable-component-update"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
PATIENCE_MS = 120_000

pytestmark = pytest.mark.slow

# The canvas is read in the step that draws it, since WebGL then clears it.
PIXELS = """() => {
    viewer.drawScene();
    const gl = viewer.gl, width = gl.drawingBufferWidth, height = gl.drawingBufferHeight;
    const pixels = new Uint8Array(width * height * 4);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    let grey = 0, coloured = 0;
    for (let i = 0; i < pixels.length; i += 4) {
        const high = Math.max(pixels[i], pixels[i + 1], pixels[i + 2]);
        const low = Math.min(pixels[i], pixels[i + 1], pixels[i + 2]);
        grey += high > 60 && high - low < 20;
        coloured += high - low > 60;
    }
    return {grey, coloured};
}"""


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Return a function that opens a file and a check that it was quiet: no message, no network."""
    trouble = []
    context = chromium.new_context(viewport={"width": 900, "height": 600})

    def listen(page):
        page.on("console", lambda message: trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: _check(request.url))

    def _check(url):
        if not url.startswith(("file://", "data:", "blob:")):
            trouble.append(f"request: {url}")

    def open_file(path: Path, anchor: str = ""):
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        listen(page)
        page.goto(path.as_uri() + anchor)
        return page

    yield open_file
    context.close()
    assert trouble == []


def status_of(page):
    from playwright.sync_api import expect  # noqa: PLC0415 - takes a third of a second

    return expect(page.locator("#status"))


def wait_for_status(page, text):
    """Wait for the viewer's status line; without a script in the page, which its policy forbids."""
    status_of(page).to_have_text(text, timeout=PATIENCE_MS)


def column(page, table, number):
    """Return the first text of a column's cells."""
    cells = page.locator(f"{table} tbody tr > :nth-child({number})")
    return cells.evaluate_all("cells => cells.map(cell => cell.firstChild.textContent)")


def test_the_page_shows_every_picture(open_page, report):
    page = open_page(report / "report.html")
    widths = page.eval_on_selector_all("main img", "images => images.map(image => image.naturalWidth)")
    assert len(widths) == 4 + 3 + 2 * 3
    assert all(width > 100 for width in widths)
    assert page.locator("text=onerror").count()  # the name is text, not an element


def test_a_click_on_a_head_sorts_by_number_with_nothing_last(open_page, report):
    page = open_page(report / "report.html")
    table = "#label-1-table"
    page.locator(f"{table} tbody tr:nth-child(2) > :nth-child(6)").evaluate("cell => cell.textContent = '–'")
    before = column(page, table, 6)
    head = page.locator(f"{table} thead th:nth-child(6)")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(page, table, 6) == [*sorted((before[0], before[2]), reverse=True), before[1]]
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(page, table, 6) == [*sorted((before[0], before[2])), before[1]]
    page.locator(f"{table} thead th:nth-child(2) button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, table, 2) == ["a", "b", "c & d"]


def test_a_case_can_be_found_by_its_name(open_page, report):
    page = open_page(report / "report.html")
    page.locator("input.filter").fill("c &")
    assert page.locator("#label-1-table tbody tr:visible th").count() == 1


def test_a_picture_can_be_enlarged(open_page, report):
    page = open_page(report / "report.html")
    page.locator("#label-1-table button.picture").first.click()
    assert page.locator("dialog[open] img").get_attribute("src").startswith("data:image/webp")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_the_viewer_shows_a_volume_and_switches_masks(open_page, report):
    page = open_page(report / "viewer" / "index.html")
    wait_for_status(page, "a")
    page.select_option("#view", "axial")
    both = page.evaluate(PIXELS)
    assert both["grey"] > 2000
    assert both["coloured"] > 100
    for box in page.locator("input[data-mask]:enabled").all():
        box.uncheck()
    none = page.evaluate(PIXELS)
    assert none["coloured"] < both["coloured"] / 10
    page.locator("input[data-mask='Reference']").check()
    one = page.evaluate(PIXELS)
    assert one["coloured"] > 10 * (none["coloured"] + 1)


def test_an_outline_is_the_skin_of_a_mask(open_page, report):
    page = open_page(report / "viewer" / "index.html")
    wait_for_status(page, "a")
    count = "viewer.volumes[1].img.reduce((sum, value) => sum + value, 0)"
    assert page.evaluate(count) == 4 * 5 * 3 - 2 * 3 * 1 + 2 * 2 * 1
    page.locator("#outline").uncheck()
    assert page.evaluate(count) == 4 * 5 * 3 + 2 * 2 * 1


def test_the_viewer_opens_the_case_that_a_link_names(open_page, report):
    page = open_page(report / "viewer" / "index.html", "#c%20%26%20d")
    wait_for_status(page, "c & d")
    page.locator("#next").click()
    wait_for_status(page, "a")


def test_a_missing_prediction_cannot_be_switched_on(open_page, report):
    page = open_page(report / "viewer" / "index.html", "#b")
    wait_for_status(page, "b")
    box = page.locator("input[data-mask]").nth(2)
    assert box.is_disabled()
    assert "empty" in page.locator("label.mask").nth(2).inner_text()


def test_a_case_that_is_not_there_is_said_to_be_missing(chromium, report, tmp_path):
    shutil.copytree(report / "viewer", tmp_path / "viewer")
    (tmp_path / "viewer" / "cases" / "b.js").unlink()
    page = chromium.new_page()
    page.goto((tmp_path / "viewer" / "index.html").as_uri() + "#b")
    status_of(page).to_contain_text("is not there", timeout=PATIENCE_MS)
    page.close()


INJECT = """() => new Promise((resolve) => {
    window.ran = "";
    document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
    const script = document.createElement("script");
    script.textContent = "window.ran = 'inline'";
    document.body.append(script);
    const image = document.createElement("img");
    image.setAttribute("onerror", "window.ran = 'handler'");
    image.src = "https://example.org/x.png";
    document.body.append(image);
    setTimeout(() => resolve(""), 2000);
})"""


@pytest.mark.parametrize("name", ["report.html", "viewer/index.html"])
def test_a_script_that_is_not_of_the_page_does_not_run(chromium, report, name):
    page = chromium.new_page()
    requests = []
    page.on("requestfinished", lambda request: requests.append(request.url))
    page.goto((report / name).as_uri())
    assert page.evaluate(INJECT).startswith("script-src")
    page.wait_for_timeout(500)
    assert page.evaluate("window.ran") == ""
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    page.close()
