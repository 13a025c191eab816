"""The modules of the page at `/` that compute, in Chromium: their answers for known input."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from selenium import webdriver

from service.api.documentation import STATIC
from service.runtime.images.overlay import AGAINST, FOR

pytestmark = pytest.mark.e2e

RUN = """
const done = arguments[2];
import(`/page/${arguments[0]}.js`)
  .then((module) => new Function("m", `return ${arguments[1]}`)(module))
  .then((value) => done([value]), (error) => done(`${error.stack}`));
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def files() -> Iterator[str]:
    """A server of the page's files alone."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=STATIC)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_what_the_modules_compute(browser: webdriver.Chrome, files: str) -> None:
    browser.get(f"{files}/favicon-32x32.png")

    def run(module: str, expression: str) -> Any:
        found = browser.execute_async_script(RUN, module, expression)
        assert isinstance(found, list), f"{module}: {expression}: {found}"
        return found[0]

    # Probabilities are neither rounded up to certainty nor down to nothing.
    assert run("text", "[0, 0.0004, 0.001, 0.98765, 0.9996, 1].map(m.percent)") == [
        "0.0 %", "< 0.1 %", "0.1 %", "98.8 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip
    assert run("text", "[0.0213, 12.345, 1234.5].map(m.milliseconds)") == ["0.02 ms", "12.3 ms", "1235 ms"]
    assert run("text", "[m.signed(-0.031), m.signed(2), m.decimal(-3)]") == ["− 0.03", "+ 2.00", "−3.00"]

    # A name of a file cannot leave its quotes in a shell, and the key is not shown.
    command = run("text", """m.curl(["http://h/classify?a=1&b=2"], {name: "it's; rm -rf.jpg", type: ""}, true)""")
    assert "'@it'\\''s; rm -rf.jpg'" in command
    assert command.endswith("'http://h/classify?a=1&b=2'")
    assert '"Authorization: Bearer $KEY"' in command

    # Steps follow each other; what the stages leave of the total is other work, and the rest is the way.
    header = 'decode;dur=2.00, queue;dur=1.00, inference;dur=5.00, batch;desc="3", total;dur=9.00'
    assert run("timing", f"m.parse('{header}').batch") == 3
    assert run("timing", f"m.steps(m.parse('{header}'), 12).map((s) => [s.name, s.start, s.length])") == [
        ["decode", 0, 2], ["wait", 2, 1], ["compute", 3, 5], ["other work", 8, 1], ["on the way", 9, 3],
    ]  # fmt: skip
    assert run("timing", "m.steps(m.parse(null), 7)") == [{"name": "on the way", "start": 0, "length": 7}]

    # A letterbox reaches beyond the picture, and the canvas with it.
    assert run("geometry", "m.canvasBox(400, 300, [0, -50, 400, 350])") == [0, -50, 400, 350]
    assert run("geometry", "m.canvasBox(400, 300, [50, 0, 350, 300])") == [0, 0, 400, 300]
    assert run("geometry", "m.rectangle([50, 0, 350, 300], [0, -50, 400, 350], 0.5)") == [25, 25, 150, 150]
    assert run("geometry", "m.scaleTo([0, 0, 4000, 3000], 1000)") == 0.25

    # Interpolation goes through the cells' centres, and keeps a constant map constant.
    assert run("map", "m.interpolated([[1, 2], [3, 5]], 6, 6)[4][4]") == pytest.approx(5)
    assert run("map", "Array.from(m.interpolated([[4, 4], [4, 4]], 5, 5)[2])") == pytest.approx([4] * 5)
    assert run("map", "m.strongest([[[1, -7]], [[3, 2]]])") == 7
    assert run("map", "m.mean([[1, 2], [3, 6]])") == 3
    assert run("map", "[m.colour(0)[3], m.colour(1).slice(0, 3), m.colour(-1).slice(0, 3)]") == [
        0, list(FOR), list(AGAINST),
    ]  # fmt: skip

    # Prometheus: all series of one metric, and of no other whose name begins alike; a restart is no negative rate.
    text = 'a_total{x="1"} 2.0\\na_total{x="2"} 3.5\\na_total_created 9.0\\nb 1.0\\n# HELP a_total 7'
    assert run("figures", f"[m.total('{text}', 'a_total'), m.total('{text}', 'b'), m.total('', 'b')]") == [5.5, 1, 0]
    before, after = (
        "{at: 1000, requests: 10, images: 20, waiting: 0}",
        "{at: 3000, requests: 14, images: 30, waiting: 2}",
    )
    assert run("figures", f"m.figures({before}, {after})") == {"requests": 2, "images": 5, "waiting": 2}
    assert run("figures", f"m.figures({after}, {before})") is None

    # The verdicts of the three kinds of head.
    best = '[{class_id: 1, label: "b", probability: 0.5}, {class_id: 0, label: "a", probability: 0.2}]'
    assert run("rows", f"m.summary({{predictions: {best}}})") == {"verdict": "b", "note": "50.0 %"}
    assert run("rows", f"m.summary({{predictions: {best}, rejected: true, label: null}}).verdict") == "No answer"
    assert run("rows", f"m.summary({{predictions: {best}, labels: []}}).verdict") == "None of the classes"
    labels = '[{class_id: 1, label: "b", probability: 0.5}, {class_id: 7, label: "h", probability: 0.1}]'
    shown = run("rows", f"m.shown({{predictions: {best}, labels: {labels}}}).map((one) => [one.class_id, one.present])")
    assert shown == [[1, True], [0, False], [7, True]]

    # The default model comes first, and is asked for by a name that follows new versions.
    assert run("models", """m.inOrder([
      {name: "a", version: 2, references: ["a", "a@latest"], depth: 18, default: false, state: "ready", classes: 3,
       input: {fill: null}, precision: null, tuning: null},
      {name: "b", version: 1, references: ["b@candidate"], depth: 50, default: true, state: "ready", classes: 3,
       input: {}, precision: "int8", provider: "cpu",
       tuning: {candidates: [{lone_ms: 4, images_per_second: {"1": 250, "8": 400}}]}},
    ]).map((one) => [one.key, one.reference, one.alone, one.rate])""") == [
        ["b@1", "b@candidate", 4, 400], ["a@2", "a", None, None],
    ]  # fmt: skip
