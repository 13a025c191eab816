"""The answer to an inference request, from invented tensors."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from service.admission import Memory, Permit
from service.api.open_inference.answers import PIECE, answer
from service.errors import RequestNeedsTooMuchMemory
from service.metrics import Metrics
from service.open_inference.messages import InferRequest, InferResponse, OutputTensor, Parameters, RequestedOutput

REQUEST = InferRequest("resnet", [])


def body(*outputs: OutputTensor, request: InferRequest = REQUEST, request_id: str = "", memory: int = 10**7) -> bytes:
    response = InferResponse("resnet", "1", request_id, outputs, [])
    with Permit(Memory(memory, Metrics())) as permit:
        return bytes(asyncio.run(answer(request, response, permit)).body)


def test_numbers_come_back_exactly() -> None:
    data = np.random.default_rng(5).normal(size=(2, PIECE + 3)).astype(np.float32)  # several pieces
    said = json.loads(body(OutputTensor.of_floats("x", data), OutputTensor("y", "BYTES", (1,), [b'"1:\xc3\xa4"'])))
    first, second = said["outputs"]
    assert (first["datatype"], first["shape"]) == ("FP32", [2, PIECE + 3])
    np.testing.assert_array_equal(np.array(first["data"], np.float32), data.ravel())
    assert second["data"] == ['"1:ä"']


def test_the_id_is_there_if_there_was_one() -> None:
    assert json.loads(body(request_id="7"))["id"] == "7"
    assert "id" not in json.loads(body())


def test_what_is_no_number_is_null() -> None:
    text = body(OutputTensor.of_floats("x", np.array([np.nan, np.inf, 1], np.float32)))
    assert json.loads(text)["outputs"][0]["data"] == [None, None, 1.0]


@pytest.mark.parametrize(
    ("usual", "own", "binary"),
    [
        ({}, {}, False),
        ({"binary_data_output": True}, {}, True),
        ({}, {"binary_data": True}, True),
        ({"binary_data_output": True}, {"binary_data": False}, False),
        ({"binary_data_output": "x"}, {}, False),
    ],
)
def test_the_own_setting_of_an_output_wins(usual: Parameters, own: Parameters, binary: bool) -> None:
    request = InferRequest("resnet", [], parameters=usual, outputs=[RequestedOutput("x", own)])
    text = body(OutputTensor.of_floats("x", np.ones(2, np.float32)), request=request)
    assert text.endswith(np.ones(2, "<f4").tobytes()) == binary


def test_the_text_counts() -> None:
    with pytest.raises(RequestNeedsTooMuchMemory):
        body(OutputTensor.of_floats("x", np.ones(10_000, np.float32)), memory=10_000)
