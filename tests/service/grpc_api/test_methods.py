"""Triton's client, unmodified, and others that speak the protocol by themselves."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import aio as triton_aio

from service.grpc_api import messages
from service.grpc_api.messages import ModelInferRequest, ModelInferResponse
from tests.service.grpc_api.conftest import SIDE, GrpcService, method, pixels

MODEL = "resnet8-cifar"
GREY = np.full((2, 3, SIDE, SIDE), 128, np.uint8)


@pytest.fixture
def client(service: GrpcService) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.address) as opened:
        yield opened


def tensor(images: np.ndarray = GREY) -> triton.InferInput:
    made = triton.InferInput("image", images.shape, "UINT8")
    made.set_data_from_numpy(images)
    return made


def files(*data: bytes) -> triton.InferInput:
    made = triton.InferInput("image", [len(data)], "BYTES")
    made.set_data_from_numpy(np.array(data, dtype=np.object_))
    return made


def test_the_server_is_live_and_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()


def test_a_model_is_ready_or_not_there(client: triton.InferenceServerClient) -> None:
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "7")
    assert not client.is_model_ready("nothing")


def test_metadata(client: triton.InferenceServerClient) -> None:
    server = client.get_server_metadata()
    assert (server.name, "classification" in server.extensions) == ("resnet-service", True)
    model = client.get_model_metadata(MODEL)
    assert (model.name, list(model.versions), model.platform) == (MODEL, ["1"], "onnx_onnxv1")
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("image", "UINT8", [-1, 3, SIDE, SIDE])
    ]
    assert {one.name: list(one.shape) for one in model.outputs}["probabilities"] == [-1, 10]


def test_the_configuration(client: triton.InferenceServerClient) -> None:
    config = client.get_model_config(MODEL, "1", as_json=True)["config"]
    assert (config["name"], config["backend"]) == (MODEL, "onnxruntime")
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": ["3", str(SIDE), str(SIDE)]}]
    assert config["output"][0] == {"name": "logits", "data_type": "TYPE_FP32", "dims": ["10"]}
    with pytest.raises(triton.InferenceServerException, match="No model with the name nothing"):
        client.get_model_config("nothing")


def test_the_repository_index(client: triton.InferenceServerClient) -> None:
    index = client.get_model_repository_index()
    assert sorted((one.name, one.version, one.state) for one in index.models) == [
        ("resnet18", "1", "READY"),
        (MODEL, "1", "READY"),
    ]


def test_inference_with_pixels(client: triton.InferenceServerClient) -> None:
    result = client.infer(MODEL, [tensor()], request_id="mine")
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == ("mine", MODEL, "1")
    shapes = {name: result.as_numpy(name).shape for name in ("logits", "probabilities", "embedding", "feature_map")}
    assert shapes == {
        "logits": (2, 10),
        "probabilities": (2, 10),
        "embedding": (2, 64),
        "feature_map": (2, 64, 8, 8),
    }
    assert result.as_numpy("probabilities").sum(axis=1) == pytest.approx(1)


def test_inference_with_files_says_what_classify_says(
    service: GrpcService, client: triton.InferenceServerClient, photo: bytes
) -> None:
    result = client.infer(MODEL, [files(photo, photo)], outputs=[triton.InferRequestedOutput("probabilities")])
    found = result.as_numpy("probabilities")
    expected = service.classify(photo, f"?model={MODEL}&top_k=10").json()["images"][0]["predictions"]
    for prediction in expected:
        assert found[:, prediction["class_id"]] == pytest.approx(prediction["probability"], abs=1e-5)


def test_classes_instead_of_numbers(client: triton.InferenceServerClient) -> None:
    asked = [triton.InferRequestedOutput("logits", class_count=2)]
    result = client.infer(MODEL, [tensor()], outputs=asked)
    assert result.as_numpy("logits").shape == (2, 2)
    value, index, label = result.as_numpy("logits")[0, 0].decode().split(":")
    assert (float(value), label) == (pytest.approx(float(value)), f"class {index}")


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_requests(client: triton.InferenceServerClient, compression: str) -> None:
    result = client.infer(MODEL, [tensor()], compression_algorithm=compression)
    assert result.as_numpy("logits").shape == (2, 10)


def test_statistics_count_what_was_answered(client: triton.InferenceServerClient) -> None:
    def count() -> int:
        (one,) = client.get_inference_statistics(MODEL).model_stats
        assert one.inference_stats.success.count == one.inference_count
        return int(one.inference_count)

    before = count()
    client.infer(MODEL, [tensor()])
    assert count() == before + 2


def test_async_callbacks(client: triton.InferenceServerClient) -> None:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.async_infer(MODEL, [tensor()], callback=lambda result, error: answers.put((result, error)))
    result, error = answers.get(timeout=30)
    assert error is None
    assert result.as_numpy("logits").shape == (2, 10)


def test_the_asyncio_client(service: GrpcService) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(service.address) as client:
            assert await client.is_model_ready(MODEL)
            return await asyncio.gather(*(client.infer(MODEL, [tensor()]) for _ in range(20)))

    results = asyncio.run(ask())
    assert [result.as_numpy("logits").shape for result in results] == [(2, 10)] * 20


def refused(client: triton.InferenceServerClient, *inputs: triton.InferInput, **options: Any) -> tuple[str, str]:
    options = {"model_name": MODEL, **options}
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer(inputs=list(inputs), **options)
    return caught.value.status(), caught.value.message()


def test_refusals_name_fault_and_remedy(client: triton.InferenceServerClient, photo: bytes) -> None:
    status, message = refused(client, tensor(), model_name="nothing")
    assert (status, "Choose one of: resnet18, resnet8-cifar" in message) == ("StatusCode.NOT_FOUND", True)
    status, message = refused(client, tensor(), model_version="7")
    assert status == "StatusCode.NOT_FOUND"
    status, message = refused(client, tensor(np.zeros((5, 3, SIDE, SIDE), np.uint8)))
    assert (status, message.partition(" images")[0]) == ("StatusCode.RESOURCE_EXHAUSTED", "At most 4")
    status, message = refused(client, files(photo, photo[:500]))
    assert (status, message.startswith("image 1 of the request: ")) == ("StatusCode.INVALID_ARGUMENT", True)
    status, message = refused(client, tensor(), outputs=[triton.InferRequestedOutput("nothing")])
    assert (status, "choose from logits" in message) == ("StatusCode.INVALID_ARGUMENT", True)
    status, message = refused(client, tensor(), sequence_id=3)
    assert status == "StatusCode.UNIMPLEMENTED"


def test_what_is_not_there(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.load_model(MODEL)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_contents_are_answered_with_contents(channel: grpc.Channel) -> None:
    message = ModelInferRequest(model_name=MODEL)
    image = message.inputs.add(name="image", datatype="UINT8", shape=[1, 3, SIDE, SIDE])
    image.contents.uint_contents.extend([128] * (3 * SIDE * SIDE))
    message.outputs.add(name="logits")
    infer = method(channel, "ModelInfer")
    answer = ModelInferResponse.FromString(infer(message.SerializeToString()))
    raw = ModelInferResponse.FromString(infer(pixels().SerializeToString()))
    assert not answer.raw_output_contents
    assert list(answer.outputs[0].contents.fp32_contents) == np.frombuffer(raw.raw_output_contents[0], "<f4").tolist()


def image_of(message: ModelInferRequest) -> Any:
    return message.inputs[0]


def shape(*sizes: int) -> ModelInferRequest:
    message = pixels()
    image_of(message).shape[:] = sizes
    return message


def changed(**fields: Any) -> ModelInferRequest:
    message = pixels()
    message.MergeFrom(ModelInferRequest(**fields))
    return message


HOSTILE = {
    "raw bytes that are too few": shape(2, 3, SIDE, SIDE),
    "no raw bytes": shape(0, 3, SIDE, SIDE),
    "a negative size": shape(-1, 3, SIDE, SIDE),
    "the smallest size": shape(-(2**63), 3, SIDE, SIDE),
    "a huge shape": shape(2**62, 2**62, 2**62, 2**62),
    "a thousand sizes": shape(*[1] * 1000),
    "no shape": shape(),
    "two raw tensors": changed(raw_input_contents=[b"x"]),
    "two inputs": changed(inputs=[{"name": "image"}], raw_input_contents=[b"x"]),
    "both kinds of contents": changed(inputs=[{"name": "image"}]),
    "no input": ModelInferRequest(model_name=MODEL),
    "an unknown datatype": ModelInferRequest(model_name=MODEL, inputs=[{"name": "image", "datatype": "X"}]),
    "shared memory": ModelInferRequest(
        model_name=MODEL,
        inputs=[{"name": "image", "parameters": {"shared_memory_region": messages.InferParameter(string_param="x")}}],
    ),
    "a timeout that is none": changed(parameters={"timeout": messages.InferParameter(string_param="soon")}),
    "an output twice": changed(outputs=[{"name": "logits"}]),
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_hostile_messages_are_refused_as_what_they_are(channel: grpc.Channel, message: ModelInferRequest) -> None:
    infer = method(channel, "ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        infer(message.SerializeToString())
    assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
    assert caught.value.details()
    assert infer(pixels().SerializeToString())


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x0a\x05ab", b"\x2a\x00" * 200_000], ids=["no message", "cut off", "parts"]
)
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        method(channel, "ModelInfer")(data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("the message is not a ModelInferRequest as the protocol has it: it ")


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused(channel: grpc.Channel, compression: grpc.Compression) -> None:
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        infer(bytes(50 * 2**20), compression=compression)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()
