"""Requests and answers of the protocol, as every transport carries them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from service.answers import Classified
from service.open_inference.datatypes import FP32, join_bytes

Parameter = bool | int | float | str
Parameters = Mapping[str, Parameter]
NONE: Parameters = {}


class InputTensor(NamedTuple):
    """A tensor of a request. Nothing about it has been checked.

    Attributes:
        shape: includes the batch.
        raw: its bytes on the wire; None if `values` has them.
        values: its elements, flat and row-major: numbers, or `bytes` for BYTES; None if `raw` has them.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    values: Sequence[object] | None = None
    parameters: Parameters = NONE


class RequestedOutput(NamedTuple):
    """An output that a request names. Of its parameters, `classification` is the data plane's, others the adapter's."""

    name: str
    parameters: Parameters = NONE


class InferRequest(NamedTuple):
    """
    Attributes:
        model_version: empty: whichever version answers to the name.
        outputs: none: all that the model has.
    """

    model_name: str
    inputs: Sequence[InputTensor]
    model_version: str = ""
    id: str = ""
    parameters: Parameters = NONE
    outputs: Sequence[RequestedOutput] = ()


class OutputTensor(NamedTuple):
    """A tensor of an answer.

    Attributes:
        data: float32 of `shape` (FP32), or the flat elements (BYTES).
    """

    name: str
    datatype: Literal["FP32", "BYTES"]
    shape: tuple[int, ...]
    data: np.ndarray | list[bytes]

    def raw(self) -> bytes:
        """The tensor on the wire."""
        if isinstance(self.data, np.ndarray):
            return self.data.astype("<f4", copy=False).tobytes()
        return join_bytes(self.data)

    def values(self) -> list[float] | list[bytes]:
        """The flat elements, row-major."""
        return self.data.ravel().tolist() if isinstance(self.data, np.ndarray) else self.data

    @classmethod
    def of_floats(cls, name: str, data: np.ndarray) -> OutputTensor:
        return cls(name, FP32, data.shape, data)


class InferResponse(NamedTuple):
    """
    Attributes:
        id: that of the request.
        outputs: in the order of the request.
        answers: of each image, with how long it took.
    """

    model_name: str
    model_version: str
    id: str
    outputs: Sequence[OutputTensor]
    answers: Sequence[Classified]
