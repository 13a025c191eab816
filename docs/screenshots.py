"""Takes the pictures of the page at `/` and of `/explain` for docs/: `python -m docs.screenshots MODELS_DIR`.

Needs chromium and chromedriver (tests/install-tools), and a folder with a model that knows the drawings, such as
`python -m model_export demo` makes.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from selenium import webdriver

from model_export.drawings.pictures import CLASSES, picture
from tests.support.page import Page
from tests.support.processes import JPEG, Service

IMAGES = Path(__file__).parent / "images"
DRAWINGS = {"star": 211, "heart": 226, "crescent": 215}  # class and seed: the picture's edges lie outside the crop
EXPLAINED = 208  # the seed of a star without colours: all that there are belong to the map
MARGIN = 28  # below the last card, in CSS pixels


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield browser
    finally:
        browser.quit()


def take(page: Page, name: str, width: int, scale: float) -> None:
    """Writes docs/images/page-NAME.png: the page from its top to the end of the cards."""
    bottom = page.wait("document.querySelector('#cards').getBoundingClientRect().bottom + scrollY")
    clip = {"x": 0, "y": 0, "width": width, "height": bottom + MARGIN, "scale": scale}
    options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
    taken = page.browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    image = Image.open(io.BytesIO(base64.b64decode(taken))).convert("RGB")
    small = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(IMAGES / f"page-{name}.png", optimize=True)


def explain(url: str) -> None:
    """Writes the pictures of docs/explain.md: a grey star on a grey ground, and what speaks for and against a class."""
    star = picture(EXPLAINED, CLASSES.index("star"))
    (IMAGES / "star.jpg").write_bytes(star)
    for name in ("star", "heart"):
        answer = httpx.post(f"{url}/explain", params={"format": "png", "classes": name}, content=star, headers=JPEG)
        (IMAGES / f"explain-{name}.png").write_bytes(answer.raise_for_status().content)


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the pictures of the page and of /explain for docs/.")
    parser.add_argument("models_dir", type=Path)
    models_dir = parser.parse_args().models_dir
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        files = []
        for drawn, seed in DRAWINGS.items():
            files.append(Path(folder, f"{drawn}.jpg"))
            files[-1].write_bytes(picture(seed, CLASSES.index(drawn)))
        service = Service(models_dir, Path(folder, "log"), provider="cpu")
        try:
            service.wait_until_ready()
            explain(service.url)
            page = Page(browser, service.url)
            for name, width, dark, touch, shown in (
                ("desktop", 1280, False, False, files[:1]),
                ("dark", 1280, True, False, files),
                ("phone", 390, False, True, files[:1]),
            ):
                page.looks(width, 844, dark=dark, touch=touch)
                for _ in range(3):  # the first answers of a process take longer than all others
                    page.open(service.url)
                    page.choose(*shown)
                    page.settled(len(shown))
                take(page, name, width, 1 if touch else 1.25)
        finally:
            service.stop()


if __name__ == "__main__":
    main()
