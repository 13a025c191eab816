"""`/docs` in a real browser: the examples work when they are tried out there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.processes import Service

pytestmark = pytest.mark.e2e

TIMEOUT_S = 30


def test_an_upload_tried_in_the_page_is_classified(
    tiny_dir: Path, photo: bytes, tmp_path: Path, browser: webdriver.Chrome, start_service: Callable[..., Service]
) -> None:
    service = start_service(tiny_dir, provider="cpu")
    upload = tmp_path / "photo.jpg"
    upload.write_bytes(photo)
    wait = WebDriverWait(browser, TIMEOUT_S)

    def find(selector: str) -> webdriver.remote.webelement.WebElement:
        return wait.until(lambda page: page.find_element(By.CSS_SELECTOR, selector))

    browser.get(f"{service.url}/docs")
    operation = "#operations-classification-classify"
    find(f"{operation} .opblock-summary-control").click()
    for status, slug in (("404", "unknown-model"), ("408", "request-timeout"), ("413", "too-many-pixels")):
        shown = json.loads(find(f"{operation} tr[data-code='{status}'] .microlight").text)
        assert (shown["status"], shown["type"]) == (int(status), f"/problems/{slug}")
    assert "additionalProp" not in find(operation).text
    find(f"{operation} .try-out__btn").click()
    find(f"{operation} input[type=file]").send_keys(str(upload))
    find(f"{operation} .execute").click()
    status = find(f"{operation} .live-responses-table tbody .response-col_status").text
    body = find(f"{operation} .live-responses-table .microlight, {operation} .live-responses-table code").text
    assert status.startswith("200"), body
    assert json.loads(body)["images"][0]["predictions"]
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert [message for message in messages if "Content Security Policy" in message] == []


@pytest.mark.slow
def test_a_key_given_in_the_page_is_sent(
    tiny_dir: Path, tmp_path: Path, browser: webdriver.Chrome, start_service: Callable[..., Service]
) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[page]\nsha256 = "{hashlib.sha256(b"token").hexdigest()}"\nscopes = ["metrics"]\n')
    service = start_service(tiny_dir, provider="cpu", api_keys_file=keys)
    wait = WebDriverWait(browser, TIMEOUT_S)

    def find(selector: str) -> webdriver.remote.webelement.WebElement:
        return wait.until(lambda page: page.find_element(By.CSS_SELECTOR, selector))

    browser.get(f"{service.url}/docs")
    find(".auth-wrapper .authorize").click()
    find(".auth-container input").send_keys("token")
    find(".auth-container .authorize").click()
    find(".close-modal").click()
    operation = "#operations-operations-prometheus"
    find(f"{operation} .opblock-summary-control").click()
    find(f"{operation} .try-out__btn").click()
    find(f"{operation} .execute").click()
    assert find(f"{operation} .live-responses-table tbody .response-col_status").text.startswith("200")
