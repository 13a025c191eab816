"""The page at `/`, as a person at a browser uses it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

TIMEOUT_S = 30
AXE = Path(__file__).parent.parent / "vendor" / "axe.min.js"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
DROP = ("dragEnter", "dragOver", "drop")


class Page:
    """The page of one service in one browser."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        self.open(url)

    def open(self, url: str) -> None:
        """Opens it, and waits until it knows the models, or that it may not."""
        self.url = url
        self.browser.get(url)
        self.wait("document.querySelector('#model')?.value || !document.querySelector('#key-form').hidden")

    def wait(self, condition: str) -> Any:
        """Waits until this JavaScript expression is true; returns its value."""
        return WebDriverWait(self.browser, TIMEOUT_S).until(
            lambda browser: browser.execute_script(f"return {condition}"), f"{condition}\n{self.text('body')}"
        )

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def texts(self, selector: str) -> list[str]:
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def choose(self, *paths: Path) -> None:
        """As in the dialog for files."""
        self.find("#files").send_keys("\n".join(map(str, paths)))

    def drop(self, *paths: Path) -> None:
        """Drags files from outside onto the page."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in DROP:
            self.browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": data})

    def press(self, *keys: str) -> WebElement:
        """Presses keys, wherever the focus is; returns what has it then."""
        self.browser.switch_to.active_element.send_keys(*keys)
        return self.browser.switch_to.active_element

    def tab_to(self, selector: str) -> WebElement:
        """Moves the focus by the Tab key alone."""
        for _ in range(60):
            focused = self.press(Keys.TAB)
            if self.browser.execute_script("return arguments[0].matches(arguments[1])", focused, selector):
                return focused
        raise AssertionError(f"the Tab key does not reach {selector}")

    def settled(self, pictures: int) -> None:
        """Waits until this many readings have an answer or an error, and the answers their maps."""
        self.wait(
            f"document.querySelectorAll('.answer h3').length === {pictures} && [...document.querySelectorAll("
            "'.reading:not(.failed) figcaption')].every((caption) => caption.textContent)"
        )

    def looks(self, width: int, height: int, *, dark: bool = False, touch: bool = False) -> None:
        """The size of the window in CSS pixels, the colours that the user prefers, and whether there is a mouse."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if touch else 1, "mobile": touch}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def is_too_wide(self) -> bool:
        """Whether one has to scroll sideways."""
        return bool(
            self.browser.execute_script(
                "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
            )
        )

    def violations(self) -> list[str]:
        """What axe-core finds, by rule and place. It comes in past the page's policy, as a debugger does."""
        self.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})
        found: Sequence[dict[str, Any]] = self.browser.execute_async_script(
            "const done = arguments[1];"
            "axe.run({runOnly: arguments[0]}).then((found) => done(found.violations), (e) => done([{id: `${e}`}]))",
            LEVELS,
        )
        return [f"{one['id']}: {node['html']} {node['failureSummary']}" for one in found for node in one["nodes"]]

    def complaints(self) -> list[str]:
        """What the console says of the policy, and errors of scripts."""
        messages = [entry["message"] for entry in self.browser.get_log("browser")]
        return [message for message in messages if "Failed to load resource" not in message]

    def requested(self) -> list[str]:
        """The addresses of all requests so far, besides those of the browser's own pages."""
        log = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = [one["params"]["request"]["url"] for one in log if one["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("chrome:", "data:"))]
