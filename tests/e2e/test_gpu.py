"""The service on a GPU answers what it answers on the processor."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import PIL.Image
import pytest

from model_export.drawings.pictures import picture
from service.runtime.choices import Precision
from tests.support.processes import Service, request

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="needs an NVIDIA GPU"),
]

CLOSE: dict[Precision, float] = {"fp32": 0.005, "fp16": 0.01}  # of the range of what is compared


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trained ResNet-18, in fp32 and fp16."""
    from model_export.demo import shipped_demo
    from model_export.export.publish import publish
    from model_export.quantise.images import open_calibration_data
    from model_export.quantise.publication import publish_quantised
    from service.runtime.model_folder import model_versions

    root = tmp_path_factory.mktemp("demo")
    publish(shipped_demo(), root, "demo")
    (published,) = model_versions(root)
    publish_quantised(published, open_calibration_data("drawings:train=1,val=8"), precisions=["fp16"], limit=1.0)
    return root


def uploads() -> list[tuple[str, bytes]]:
    """Drawings as the GPU decodes them, and as the processor must: a PNG, and JPEGs that are progressive or turned."""
    jpegs = [picture(7, index) for index in range(8)]
    files = [(f"{number}.jpg", jpeg) for number, jpeg in enumerate(jpegs)]
    image = PIL.Image.open(io.BytesIO(jpegs[0]))
    turned = PIL.Image.Exif()
    turned[0x0112] = 6
    others: Sequence[tuple[str, str, dict[str, Any]]] = (
        ("image.png", "PNG", {}),
        ("progressive.jpg", "JPEG", {"progressive": True, "quality": 95}),
        ("turned.jpg", "JPEG", {"exif": turned, "quality": 95}),
    )
    for name, kind, options in others:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append((name, file.getvalue()))
    return files


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a fraction of the range."""
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize(("precision", "gpu_decoding"), [("fp32", False), ("fp16", True)])
def test_every_kind_of_answer(
    demo: Path, start_service: Callable[..., Service], precision: Precision, gpu_decoding: bool
) -> None:
    if gpu_decoding:
        pytest.importorskip("nvidia.nvimgcodec")
    on_cpu = start_service(demo, provider="cpu", precision="fp32")
    on_gpu = start_service(demo, provider="cuda", precision=precision, workers=2, gpu_decoding=gpu_decoding)

    def both(path: str) -> list[Any]:
        files = [("file", upload) for upload in uploads()]
        answers = [request("POST", each.url + path, files=files, timeout=60) for each in (on_gpu, on_cpu)]
        assert [answer.status_code for answer in answers] == [200, 200], answers[0].text
        return answers

    found, expected = (answer.json() for answer in both("/classify?top_k=3"))
    assert (found["provider"], found["precision"]) == ("cuda", precision)
    for one, other in zip(found["images"], expected["images"], strict=True):
        assert one["predictions"][0]["label"] == other["predictions"][0]["label"]
        assert abs(one["predictions"][0]["probability"] - other["predictions"][0]["probability"]) < 0.02
    vectors, references = (np.load(io.BytesIO(answer.content)) for answer in both("/embed?format=npy"))
    assert off(vectors, references) < CLOSE[precision]
    for name, upload in uploads():
        answers = [
            request("POST", each.url + "/explain?top_k=2", files=[("file", (name, upload))], timeout=60).json()
            for each in (on_gpu, on_cpu)
        ]
        maps, references = (
            np.array([each["map"] for each in answer["explanations"]], np.float32) for answer in answers
        )
        assert off(maps, references) < CLOSE[precision], name
        for each, map_ in zip(answers[0]["explanations"], maps, strict=True):
            assert abs(map_.mean() + each["bias"] - each["logit"]) < CLOSE[precision] * np.ptp(references), name
    if gpu_decoding:
        metrics = request("GET", on_gpu.url + "/metrics").text
        decoded = [line for line in metrics.splitlines() if line.startswith("resnet_jpegs_not_decoded_total")]
        assert all(line.endswith(" 0.0") for line in decoded), json.dumps(decoded)
