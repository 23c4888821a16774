"""The page in a real browser."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from served import served, small_bundle

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium")]

# What a person does with a file: it is dropped, as an event that carries it.
DROP = """([name, bytes]) => {
    const files = new DataTransfer();
    files.items.add(new File([new Uint8Array(bytes)], name));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


def png(number: int) -> bytes:
    y, x = np.mgrid[-1:1:90j, -1:1:80j]
    head = np.where(x**2 + y**2 < 0.7, 110 + 60 * np.sin(4 * x * y + number), 0)
    pixels = (head + np.random.default_rng(number).integers(0, 12, head.shape)).astype(np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def study(slices: int = 6) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as pack:
        for number in range(slices):
            pack.writestr(f"{number}.png", png(number))
    return held.getvalue()


@pytest.fixture(scope="module")
def here():
    with served(small_bundle(threshold=0.9)) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, here):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(20_000)
    faults: list[str] = []
    asked: list[str] = []
    page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda fault: faults.append(str(fault)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(here.url)
    yield page
    assert faults == []
    assert [url for url in asked if not url.startswith((here.url, "data:"))] == []
    page.close()


def drop(page, name: str, data: bytes) -> None:
    page.evaluate(DROP, [name, list(data)])


def keep(page, name: str) -> None:
    """A picture for people, where they ask for it."""
    if folder := os.environ.get("MRI_RAY_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def told(here, data: bytes) -> dict:
    return httpx.post(f"{here.url}/v1/predict", content=data).json()


def test_a_dropped_picture_gets_the_endpoints_number(page, here):
    assert "No diagnosis" in page.inner_text("#notice")
    drop(page, "one.png", png(1))
    page.wait_for_selector("#strip li")
    answer = told(here, png(1))
    slice_ = answer["slices"][0]
    assert page.inner_text("#probability") == f"{slice_['probability']:.3f}"
    assert page.inner_text("#decision") == slice_["decision"]
    assert page.inner_text("#bundle") == answer["bundle"][:8]
    assert "one.png" in page.inner_text("#visit")
    assert page.evaluate("document.getElementById('picture').naturalWidth") == 64
    with_heat = page.get_attribute("#picture", "src")
    page.keyboard.press("h")
    assert page.get_attribute("#picture", "src") != with_heat


def test_a_study_stands_in_the_order_of_its_probabilities_and_goes_by_keyboard(page, here):
    drop(page, "study.zip", study())
    page.wait_for_selector("#strip li")
    answer = told(here, study())
    expected = [f"{p:.3f}" for p in sorted((each["probability"] for each in answer["slices"]), reverse=True)]
    assert [item.inner_text().strip() for item in page.query_selector_all("#strip li")] == expected
    assert f"{answer['study']['probability']:.3f}" in page.inner_text("#study")
    keep(page, "light")
    places = []
    for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
        page.keyboard.press(key)
        places.append(int(page.get_attribute("#strip li[aria-selected=true]", "data-at")))
        assert page.inner_text("#probability") == expected[places[-1]]
        assert page.evaluate("document.activeElement.dataset.at") == str(places[-1])
    assert places == [5, 4, 0, 1]


def test_the_operating_point_moves_the_view_and_comes_back(page, here):
    drop(page, "study.zip", study())
    page.wait_for_selector("#strip li")
    said = page.inner_text("#decision")
    probability = max(each["probability"] for each in told(here, study())["slices"])
    page.focus("#point")
    page.keyboard.press("End")
    assert page.inner_text("#pointvalue") == "1.000"
    assert page.inner_text("#decision") == "negative at this view's point"
    assert page.inner_text("#above").startswith("0 of 6")
    page.keyboard.press("Home")
    assert page.inner_text("#decision") == "positive at this view's point"
    assert page.inner_text("#above").startswith("6 of 6")
    assert page.inner_text("#probability") == f"{probability:.3f}"
    page.click("#reset")
    assert page.inner_text("#decision") == said
    assert page.inner_text("#pointvalue") == "0.900 (the bundle's)"


def test_the_visit_is_remembered_and_faults_are_told(page):
    drop(page, "one.png", png(1))
    page.wait_for_selector("#strip li")
    first = page.inner_text("#probability")
    drop(page, "report.pdf.png", study())
    page.wait_for_selector("#strip li:nth-child(6)")
    page.keyboard.press("ArrowDown")
    assert page.inner_text("#probability") == first
    assert len(page.query_selector_all("#visit li")) == 2
    page.keyboard.press("ArrowUp")
    assert len(page.query_selector_all("#strip li")) == 6


def test_what_is_no_picture_says_why(browser, here):
    page = browser.new_page()
    page.set_default_timeout(20_000)
    page.goto(here.url)
    drop(page, "notes.txt", b"no picture")
    page.wait_for_selector("#failures li")
    assert "no format known here" in page.inner_text("#failures")
    assert page.inner_text("#decision") == "no slice"
    page.close()


@pytest.mark.parametrize(("name", "scheme", "width"), [("dark", "dark", 1280), ("narrow", "light", 390)])
def test_it_fits_in_dark_and_on_a_narrow_screen(browser, here, name, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.set_default_timeout(20_000)
    page.goto(here.url)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 247)"
    assert light == (scheme == "light")
    drop(page, "study.zip", study())
    page.wait_for_selector("#strip li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    keep(page, name)
    page.close()


def test_nothing_but_its_own_may_be_loaded(here):
    reply = httpx.get(here.url)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert " style=" not in reply.text
    assert "onclick" not in reply.text
    assert httpx.get(f"{here.url}/page/page.css").headers["content-type"].startswith("text/css")
    for other in ("index.html", "../app.py", "%2e%2e/app.py", "nothing.js"):
        assert httpx.get(f"{here.url}/page/{other}").status_code == 404
