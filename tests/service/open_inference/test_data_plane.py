"""The calls of the protocol, over real models without a transport."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.admission import Memory
from service.answers import Classified
from service.deadline import Deadline
from service.failed_images import FailedImages
from service.open_inference.answers import bytes_of, wanted_of
from service.open_inference.data_plane import DataPlane
from service.open_inference.errors import Code, ProtocolError
from service.open_inference.messages import NONE, InferRequest, InferResponse, InputTensor, Parameters, RequestedOutput
from service.runtime.head import Head
from service.runtime.images.decoding import decode
from service.runtime.model_card import Architecture
from tests.service.served import Served
from tests.support.engines import hold
from tests.support.tiny_models import publish_tiny

MODEL = "resnet8-cifar"


@pytest.fixture(scope="module")
def served(tiny_dir: Path) -> Iterator[Served]:
    made = Served(tiny_dir).load()
    yield made
    made.close()


@pytest.fixture
def fresh(tiny_dir: Path) -> Iterator[Served]:
    """For tests that change it or read what it has counted."""
    made = Served(tiny_dir, models=MODEL).load()
    yield made
    made.close()


def plane_of(served: Served) -> DataPlane:
    return DataPlane(
        served.repository,
        served.lifecycle,
        served.settings,
        served.memory,
        served.metrics,
        FailedImages(served.settings.keep_failed),
        lambda: served.lifecycle.ready,
    )


def infer(
    served: Served,
    *inputs: InputTensor,
    outputs: tuple[str, ...] = (),
    parameters: Parameters = NONE,
    deadline: Deadline | None = None,
) -> InferResponse:
    plane = plane_of(served)
    request = InferRequest(MODEL, inputs, "1", "7", parameters, [RequestedOutput(name) for name in outputs])

    async def ask() -> InferResponse:
        try:
            with plane.permit() as permit:
                return await plane.infer(permit, request, deadline)
        finally:
            await asyncio.sleep(0)  # images that are kept begin to be written; the end of the loop waits for that

    try:
        return served.run(ask())
    finally:
        assert served.memory.held == 0


def files(*data: bytes) -> InputTensor:
    return InputTensor("image", "BYTES", (len(data),), values=data)


def error(served: Served, *inputs: InputTensor, **more: object) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        infer(served, *inputs, **more)  # type: ignore[arg-type]
    return caught.value


def test_the_answer_is_that_of_classify(served: Served, photo: bytes) -> None:
    (classified,) = served.run(served.classify(MODEL, [photo], 10, outputs=("logits",)))
    assert isinstance(classified, Classified)
    response = infer(served, files(photo))
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "7")
    named = {tensor.name: np.asarray(tensor.data) for tensor in response.outputs}
    assert list(named) == ["logits", "probabilities", "embedding", "feature_map"]
    np.testing.assert_array_equal(named["logits"][0], classified.outputs["logits"])
    order = classified.top.class_ids
    np.testing.assert_allclose(named["probabilities"][0][order], classified.top.probabilities, rtol=1e-6)
    assert [answer.width for answer in response.answers] == [classified.width]


def test_files_of_every_format_and_their_pixels(served: Served, photo: bytes) -> None:
    for name in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(photo)).save(buffer, name)
        card = served.model(MODEL).card
        pixels = decode(buffer.getvalue(), card.preprocessing, max_pixels=10**9).pixels
        tensor = InputTensor("image", "UINT8", (1, *pixels.shape), raw=pixels.tobytes())
        by_file, by_pixels = (infer(served, one, outputs=("logits",)) for one in (files(buffer.getvalue()), tensor))
        np.testing.assert_allclose(by_file.outputs[0].data, by_pixels.outputs[0].data, rtol=1e-5)  # type: ignore[arg-type]


def test_a_bad_image_is_named_by_its_index(served: Served, photo: bytes) -> None:
    found = error(served, files(photo, b"no image", photo))
    assert found.code is Code.INVALID_ARGUMENT
    assert str(found).startswith("image 1 of the request: ")
    assert not str(error(served, files(b"no image"))).startswith("image")


def test_an_image_on_which_the_engine_fails_is_kept(
    tiny_dir: Path, tmp_path: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tiny_dir, models=MODEL, keep_failed=tmp_path / "failed").load()
    pixels = decode(photo, served.model(MODEL).card.preprocessing, max_pixels=10**9).pixels

    def fails(*arguments: object, **more: object) -> None:
        raise RuntimeError("the engine is broken")

    try:
        monkeypatch.setattr(served.engines[MODEL], "infer", fails)
        raw = InputTensor("image", "UINT8", (1, *pixels.shape), raw=pixels.tobytes())
        assert error(served, raw).slug == "computation-failed"
    finally:
        served.close()
    (kept,) = (tmp_path / "failed").glob("*-0.image")
    assert np.array_equal(np.asarray(Image.open(kept)), pixels.transpose(1, 2, 0))


def test_the_timeout_of_the_request(fresh: Served, photo: bytes) -> None:
    release = hold(fresh.engines[MODEL])
    found = error(fresh, files(photo), parameters={"timeout": 300_000})
    assert (found.code, found.slug) == (Code.UNAVAILABLE, "deadline-missed")
    assert "300 ms" in str(found)
    found = error(fresh, files(photo), parameters={"timeout": 10**12}, deadline=Deadline.after(0.3))
    release.set()
    assert found.slug == "deadline-missed"


@pytest.mark.parametrize("parameters", [{"priority": 1}, {"priority": 2**32}, {"timeout": 0}, {"own": "y"}])
def test_parameters_that_change_nothing(served: Served, photo: bytes, parameters: Parameters) -> None:
    assert infer(served, files(photo), parameters=parameters, outputs=("logits",)).outputs


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"timeout": -1}, Code.INVALID_ARGUMENT),
        ({"timeout": "1"}, Code.INVALID_ARGUMENT),
        ({"timeout": 1.5}, Code.INVALID_ARGUMENT),
        ({"timeout": 10**30}, Code.INVALID_ARGUMENT),
        ({"priority": True}, Code.INVALID_ARGUMENT),
        ({"sequence_id": 42}, Code.UNSUPPORTED),
    ],
)
def test_parameters_that_are_refused(served: Served, photo: bytes, parameters: Parameters, code: Code) -> None:
    assert error(served, files(photo), parameters=parameters).code is code


def test_memory_for_the_answer_counts(fresh: Served, photo: bytes) -> None:
    card = fresh.model(MODEL).card
    # Room for what the pipeline holds, not for the tensors beside it.
    fresh.memory = Memory(2 * bytes_of(wanted_of([], card), card) - 1, fresh.metrics)
    found = error(fresh, files(photo))
    assert (found.code, found.slug) == (Code.INVALID_ARGUMENT, "request-needs-too-much-memory")


def test_models_and_versions(served: Served) -> None:
    plane = plane_of(served)
    assert plane.model_ready(MODEL)
    assert plane.find(MODEL, "1") is served.model(MODEL)
    assert plane.find(f"{MODEL}@1") is served.model(MODEL)
    for name, version in (("resnet9", ""), (MODEL, "2"), (MODEL, "x"), (f"{MODEL}@1", "1"), ("", "")):
        with pytest.raises(ProtocolError) as caught:
            plane.find(name, version)
        assert caught.value.code is Code.NOT_FOUND


def test_what_is_not_loaded_yet(tiny_dir: Path) -> None:
    served = Served(tiny_dir)
    plane = plane_of(served)
    assert not plane.server_ready()
    assert not plane.model_ready(MODEL)
    with pytest.raises(ProtocolError) as caught:
        plane.admit(plane.find(MODEL), Deadline.after(60))
    assert (caught.value.code, caught.value.slug) == (Code.UNAVAILABLE, "model-not-ready")
    assert {entry.state for entry in plane.repository_index()} == {"LOADING"}
    assert plane.repository_index(ready_only=True) == []
    assert plane.model_metadata(MODEL).versions == ()
    served.close()


def test_a_full_queue_is_told_before_the_body(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    plane = plane_of(served)
    plane.admit(plane.find(MODEL), Deadline.after(60))
    monkeypatch.setattr(type(served.pipeline(MODEL).room), "wait", 100.0)
    assert plane.find(MODEL)
    with pytest.raises(ProtocolError) as caught:
        plane.admit(plane.find(MODEL), Deadline.after(60))
    assert (caught.value.code, caught.value.slug) == (Code.UNAVAILABLE, "overloaded")


def test_metadata(served: Served) -> None:
    metadata = plane_of(served).model_metadata(MODEL)
    assert (metadata.name, metadata.versions, metadata.platform) == (MODEL, ("1",), "onnx_onnxv1")
    assert metadata.inputs == (("image", "UINT8", (-1, 3, 32, 32)),)
    assert metadata.outputs == (
        ("logits", "FP32", (-1, 10)),
        ("probabilities", "FP32", (-1, 10)),
        ("embedding", "FP32", (-1, *served.model(MODEL).card.output_shapes["embedding"])),
        ("feature_map", "FP32", (-1, *served.model(MODEL).card.output_shapes["feature_map"])),
    )


def test_the_configuration_that_triton_would_have(served: Served) -> None:
    config = plane_of(served).model_config(MODEL)
    assert (config.name, config.platform, config.backend) == (MODEL, "onnxruntime_onnx", "onnxruntime")
    assert config.max_batch_size == served.settings.max_images
    assert config.input == (("image", "TYPE_UINT8", (3, 32, 32)),)
    assert config.output[:2] == (("logits", "TYPE_FP32", (10,)), ("probabilities", "TYPE_FP32", (10,)))


def test_the_index_lists_what_failed(tmp_path: Path) -> None:
    publish_tiny(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10), tmp_path)
    publish_tiny(Architecture(depth=14, family="cifar", shortcut="A", num_classes=10), tmp_path)
    (tmp_path / "resnet14-cifar" / "1" / "card.json").write_text("{")
    served = Served(tmp_path, default_model=MODEL).load()
    failed, ready = plane_of(served).repository_index()
    assert (failed.name, failed.version, failed.state) == ("resnet14-cifar", "1", "UNAVAILABLE")
    assert failed.reason
    assert str(tmp_path) not in failed.reason
    assert ready == (MODEL, "1", "READY", "")
    served.close()


def test_all_labels_of_a_multi_label_answer_are_counted(tmp_path: Path, photo: bytes) -> None:
    head = Head(kind="sigmoid", thresholds=(0.0,) * 10)  # every class is present
    publish_tiny(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10), tmp_path, head=head)
    served = Served(tmp_path).load()
    logits, probabilities = infer(served, files(photo), outputs=("logits", "probabilities")).outputs
    np.testing.assert_allclose(probabilities.data, 1 / (1 + np.exp(-np.asarray(logits.data))), rtol=1e-5)  # type: ignore[arg-type]
    assert b'resnet_predicted_classes_total{class="class 9",model="resnet8-cifar"} 1.0' in served.metrics.text()
    served.close()


def test_statistics_are_what_the_metrics_count(fresh: Served, photo: bytes) -> None:
    infer(fresh, files(photo, photo))
    error(fresh, files(b"no image"))
    plane = plane_of(fresh)
    (stats,) = asyncio.run(plane.model_statistics(MODEL))
    assert (stats.name, stats.version, stats.inference_count) == (MODEL, "1", 2)
    assert 1 <= stats.execution_count <= 2
    assert stats.execution_count <= stats.inference_count
    assert (stats.success.count, stats.fail.count, stats.compute_infer.count) == (2, 1, 2)
    assert stats.success.ns >= stats.compute_infer.ns > 0
    assert (stats.compute_output.count, stats.compute_output.ns) == (2, 0)
    assert asyncio.run(plane.model_statistics()) == [stats]
