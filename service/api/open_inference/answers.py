"""The answer to an inference request: JSON, and behind it the bytes of the outputs that the client wants binary."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from fastapi import Response
from pydantic_core import to_json

from service.admission import Permit
from service.api.open_inference.bodies import BINARY_OUTPUT, BINARY_OUTPUTS, HEADER, SIZE
from service.open_inference.messages import InferRequest, InferResponse, OutputTensor
from service.threads import on_thread

# Numbers written at once. More are written on a thread, which lets the event loop go on between two pieces.
PIECE = 2**14
NUMBER_BYTES = 24  # of text, at most


async def answer(request: InferRequest, response: InferResponse, permit: Permit) -> Response:
    """
    Args:
        permit: holds the text. Raises MemoryExhausted.
    """
    binary = _binary(request, response)
    numbers = sum(
        tensor.data.size
        for tensor in response.outputs
        if isinstance(tensor.data, np.ndarray) and tensor.name not in binary
    )
    permit.reserve_bytes(NUMBER_BYTES * numbers)
    if numbers > PIECE:
        return await on_thread(_written, response, binary)
    return _written(response, binary)


def _binary(request: InferRequest, response: InferResponse) -> set[str]:
    """The names of the outputs that are sent as bytes."""
    usual = request.parameters.get(BINARY_OUTPUTS, False)
    own = {output.name: output.parameters.get(BINARY_OUTPUT, usual) for output in request.outputs}
    return {tensor.name for tensor in response.outputs if own.get(tensor.name, usual) is True}


def _written(response: InferResponse, binary: set[str]) -> Response:
    raw = {tensor.name: tensor.raw() for tensor in response.outputs if tensor.name in binary}
    head: dict[str, object] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        head["id"] = response.id
    pieces = [to_json(head)[:-1], b',"outputs":[']
    for number, tensor in enumerate(response.outputs):
        pieces += [b","] * (number > 0) + list(_tensor(tensor, raw.get(tensor.name)))
    text = b"".join((*pieces, b"]}"))
    if not raw:
        return Response(text, media_type="application/json")
    return Response(
        b"".join((text, *raw.values())),
        media_type="application/octet-stream",
        headers={HEADER: str(len(text))},
    )


def _tensor(tensor: OutputTensor, raw: bytes | None) -> Iterator[bytes]:
    """One output in JSON, in pieces."""
    head: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if raw is not None:
        yield to_json(head | {"parameters": {SIZE: len(raw)}})
        return
    yield to_json(head)[:-1] + b',"data":['
    if isinstance(tensor.data, np.ndarray):
        flat = tensor.data.ravel()
        for start in range(0, flat.size, PIECE):
            yield b","[: start > 0] + to_json(flat[start : start + PIECE].tolist(), inf_nan_mode="null")[1:-1]
    else:
        yield to_json([element.decode() for element in tensor.data])[1:-1]
    yield b"]}"
