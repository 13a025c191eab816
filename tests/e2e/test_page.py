"""The page at `/` in Chromium, over a real service."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from model_export.drawings.pictures import CLASSES, picture
from service.runtime.head import Head
from service.runtime.measured import Rejection
from service.runtime.model_card import Architecture
from tests.support.page import Page
from tests.support.processes import Service
from tests.support.tiny_models import publish_tiny
from tests.support.waiting import until

pytestmark = pytest.mark.e2e

Start = Callable[..., Service]
SETTINGS = {"models": "resnet8-cifar", "provider": "cpu"}
COLOURED = """
const over = document.querySelector(".over");
const {data} = over.getContext("2d").getImageData(0, 0, over.width, over.height);
return data.some((value) => value > 0);
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three drawings of different sizes."""
    paths = [tmp_path / f"{name}.jpg" for name in ("star", "heart", "ring")]
    for path in paths:
        path.write_bytes(picture(211, CLASSES.index(path.stem)))
    return paths


def test_a_picture_is_classified_and_explained(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    page = Page(browser, f"{service.url}/")
    page.choose(pictures[0])
    page.settled(1)
    answer = service.classify(pictures[0].read_bytes()).json()["images"][0]["predictions"]
    assert page.texts(".row .label") == [one["label"] for one in answer]
    assert page.texts(".row .n")[0] == f"{100 * answer[0]['probability']:.1f} %"
    assert page.texts(".waterfall li > :first-child")[:3] == ["decode", "wait", "compute"]
    caption = page.text("figcaption")
    assert caption.startswith(f"{answer[0]['label']} ")
    assert caption.endswith(page.text("figcaption .n").split()[-1])
    assert browser.execute_script(COLOURED)
    assert page.complaints() == []
    elsewhere = [url for url in page.requested() if not url.startswith(f"{service.url}/")]
    assert elsewhere == []


@pytest.mark.slow
def test_pictures_come_by_drop_paste_and_choice_and_a_broken_one_harms_no_other(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], tmp_path: Path, start_service: Start
) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    page = Page(browser, f"{service.url}/")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(pictures[1].read_bytes()[:3000])
    page.drop(pictures[0], broken)
    page.settled(2)
    assert page.texts(".card h2") == ["star.jpg", "broken.jpg"]
    problem = service.classify(broken.read_bytes()).json()
    for member in ("title", "detail", "remedy"):
        assert problem[member] in page.text(".failed .answer")
    page.choose(*pictures)
    page.settled(5)
    assert page.texts(".card h2")[:3] == ["star.jpg", "heart.jpg", "ring.jpg"]  # the newest are first

    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    browser.execute_async_script(
        "const done = arguments[0], canvas = document.querySelector('.view [role=img]');"
        "canvas.toBlob((blob) => navigator.clipboard.write([new ClipboardItem({'image/png': blob})]).then(done, done));"
    )
    page.find("body").send_keys(Keys.CONTROL, "v")
    page.settled(6)
    assert page.text(".card h2").endswith(".png")

    page.find(".card .remove").click()
    assert len(page.texts(".card h2")) == 5
    page.find("#clear").click()
    assert page.find("#sample").is_displayed()
    assert page.complaints() == []


@pytest.mark.slow
def test_the_keyboard_is_enough(tiny_dir: Path, browser: webdriver.Chrome, start_service: Start) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    page = Page(browser, f"{service.url}/")
    assert page.press(Keys.TAB).text == "To the pictures"
    page.tab_to("#sample").send_keys(Keys.ENTER)
    page.settled(1)
    verdict = page.text(".answer h3")
    assert page.text("#announcer").startswith(f"sample.jpg: {verdict}, ")
    page.tab_to("#opacity").send_keys(Keys.ARROW_LEFT)
    assert page.text("#opacity-text") == "65 %"
    assert page.find(".over").value_of_css_property("opacity") == "0.65"

    page.tab_to("li:nth-child(2) > .row")
    second = page.text("li:nth-child(2) > .row .label")
    assert page.text("figcaption b") == second  # the map follows the focus
    outline = page.find("li:nth-child(2) > .row").value_of_css_property("outline-style")
    assert outline == "solid"
    page.press(Keys.TAB)
    page.press(Keys.SHIFT, Keys.TAB)
    page.press(Keys.ENTER)
    page.tab_to("summary")
    assert page.text("figcaption b") == second  # and stays where it was put
    assert page.find("li:nth-child(2) > .row").get_attribute("aria-pressed") == "true"
    page.press(Keys.ENTER)
    assert f"{service.url}/classify?model=resnet8-cifar&top_k=5" in page.text("pre")
    page.tab_to(".remove").send_keys(Keys.ENTER)
    assert page.text("#announcer") == "sample.jpg removed"
    assert browser.switch_to.active_element.get_attribute("id") == "pick"


@pytest.mark.slow
def test_two_models_side_by_side(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    service = start_service(tiny_dir, provider="cpu")
    page = Page(browser, f"{service.url}/")
    page.wait("document.querySelector('#state-text').textContent === '2 models ready'")
    page.choose(pictures[0])
    Select(page.find("#other")).select_by_visible_text("resnet18, 18 layers")
    page.settled(2)
    assert page.texts(".by > :first-child") == ["resnet8-cifar", "resnet18"]
    for name, verdict in zip(("resnet8-cifar", "resnet18"), page.texts(".answer h3"), strict=True):
        answer = service.classify(pictures[0].read_bytes(), f"?model={name}").json()
        assert verdict == answer["images"][0]["predictions"][0]["label"]
    measured = service.get("/models/resnet18").json()["tuning"]["candidates"][0]["lone_ms"]
    assert page.text("#other-time").startswith(f"{measured:.2f}"[:3])
    Select(page.find("#other")).select_by_visible_text("No other")
    page.settled(1)


@pytest.mark.slow
def test_heads_that_answer_several_classes_or_none_and_labels_that_look_like_markup(
    tmp_path: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    rejection = Rejection(threshold=1, coverage=0, error=0, error_without=0, dataset="none", images=1)
    heads = {8: Head(kind="sigmoid", thresholds=(0.0, 0.0, *[1.0] * 8)), 14: Head(rejection=rejection)}
    label = "<img src=/nowhere onerror=document.title='run'>"
    for depth, head in heads.items():
        architecture = Architecture(depth=depth, family="cifar", shortcut="A", num_classes=10)
        card = publish_tiny(architecture, tmp_path / "models", head=head) / "card.json"
        card.write_text(card.read_text().replace('"class 0"', json.dumps(label)))
    service = start_service(tmp_path / "models", provider="cpu", default_model="resnet8-cifar")
    page = Page(browser, f"{service.url}/")
    page.wait("document.querySelector('#state-text').textContent === '2 models ready'")
    page.choose(pictures[0])
    Select(page.find("#other")).select_by_index(2)
    page.settled(2)
    several, none = page.texts(".answer h3")
    assert sorted(several.split(", ")) == [label, "class 1"]
    assert len(page.texts(".reading:first-child .row .tag")) == 2
    assert none == "No answer"
    assert page.texts(".said")[1].endswith("would come first, but is too uncertain")
    assert browser.title != "run"
    assert not [url for url in page.requested() if "nowhere" in url]


@pytest.mark.slow
def test_a_file_that_the_browser_cannot_show_is_shown_as_the_network_saw_it(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    page = Page(browser, f"{service.url}/")
    browser.execute_script(
        "window.createImageBitmap = ((real) => (given) => given instanceof File"
        " ? Promise.reject(new Error('not an image')) : real(given))(createImageBitmap)"
    )
    page.choose(pictures[0])
    page.settled(1)
    assert page.text("figcaption").startswith("This browser cannot show the file; this is what the network saw of it.")
    assert [url for url in page.requested() if "/preview?" in url]
    assert browser.execute_script(COLOURED)


@pytest.mark.slow
def test_an_overloaded_service_is_asked_again_when_it_said(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start, held: Path, photo: bytes
) -> None:
    service = start_service(tiny_dir, **SETTINGS, max_batch=1, target_wait_ms=0.001, hang_timeout=600)
    page = Page(browser, f"{service.url}/")
    held.touch()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(service.classify, photo, timeout=60)
        until(lambda: 'resnet_images_in_service{model="resnet8-cifar"} 1.0' in service.get("/metrics").text)
        page.choose(pictures[0])
        page.wait("document.querySelector('.busy')?.textContent.includes('Tries again in 1 s')")
        assert page.text(".busy").startswith(service.classify(photo).json()["title"])
        held.unlink()
        assert waiting.result().status_code == 200
    page.settled(1)
    assert page.complaints() == []


@pytest.mark.slow
def test_the_page_goes_on_when_the_server_is_back(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    service = start_service(tiny_dir, **SETTINGS)
    page = Page(browser, f"{service.url}/")
    service.stop(signal.SIGKILL)
    page.choose(pictures[0])
    page.wait("!document.querySelector('#gone').hidden")
    assert page.text(".busy") == "The server is gone. Goes on when it is back."
    assert page.find("#state").get_attribute("data-state") == "gone"
    service.start()
    page.settled(1)
    assert not page.find("#gone").is_displayed()


@pytest.mark.slow
def test_a_key_is_asked_for_kept_in_the_tab_and_not_shown(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], tmp_path: Path, start_service: Start
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[page]\nsha256 = "{hashlib.sha256(b"secret").hexdigest()}"\nscopes = ["classify"]\n')
    service = start_service(tiny_dir, **SETTINGS, api_keys_file=keys)
    page = Page(browser, f"{service.url}/")
    assert not page.find("#key").is_displayed()
    page.choose(pictures[0])
    page.wait("!document.querySelector('#key-form').hidden")
    page.press("wrong", Keys.ENTER)
    page.wait("document.querySelector('#key-help').textContent.includes('does not know the key')")
    page.press("secret", Keys.ENTER)
    page.settled(1)
    page.find("summary").click()
    assert "$KEY" in page.text("pre")
    assert "secret" not in browser.page_source
    assert not page.find("#figures").is_displayed()  # the key has no scope for /metrics
    browser.refresh()
    page.choose(pictures[0])
    page.settled(1)
    assert not page.find("#key").is_displayed()


@pytest.mark.slow
def test_behind_a_proxy_with_a_prefix(
    tiny_dir: Path, browser: webdriver.Chrome, pictures: list[Path], start_service: Start
) -> None:
    service = start_service(tiny_dir, **SETTINGS, root_path="/vision")
    for path in ("/vision", "/vision/"):
        page = Page(browser, service.url + path)
        page.choose(pictures[0])
        page.settled(1)
        page.find("summary").click()
        assert f"{service.url}/vision/classify?" in page.text("pre")
    assert [url for url in page.requested() if not url.startswith(f"{service.url}/vision")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "dark", "touch"),
    [(1440, 900, False, False), (1440, 900, True, False), (320, 640, False, True), (390, 844, True, True)],
)
def test_axe_finds_nothing_and_nothing_is_too_wide(
    tiny_dir: Path,
    browser: webdriver.Chrome,
    pictures: list[Path],
    tmp_path: Path,
    start_service: Start,
    width: int,
    height: int,
    dark: bool,
    touch: bool,
) -> None:
    service = start_service(tiny_dir, provider="cpu")
    broken = tmp_path / f"{'a-long-name-' * 12}.jpg"
    broken.write_bytes(b"no image")
    page = Page(browser, f"{service.url}/")
    page.looks(width, height, dark=dark, touch=touch)
    assert page.violations() == []
    assert page.find("#photograph").is_displayed() is touch
    page.choose(pictures[0], broken)
    page.settled(2)
    page.wait("document.querySelector('#state-text').textContent === '2 models ready'")
    Select(page.find("#other")).select_by_index(2)
    page.settled(4)
    for details in browser.find_elements(By.CSS_SELECTOR, "summary"):
        details.click()
    assert page.violations() == []
    assert not page.is_too_wide()
    assert page.complaints() == []
