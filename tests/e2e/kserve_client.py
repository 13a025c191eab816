"""Asks a server with KServe's own client: `python kserve_client.py URL MODEL FOLDER`.

The folder has `photo.jpg` and `pixels.npy`. Prints the probabilities for the file and for the pixels, binary and as
JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def main(url: str, model: str, folder: Path) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, model)
    photo, pixels = (folder / "photo.jpg").read_bytes(), np.load(folder / "pixels.npy")
    tensors = []
    for data, shape, datatype, binary in (
        (np.array([photo], dtype=object), [1], "BYTES", True),
        (pixels, list(pixels.shape), "UINT8", True),
        (pixels, list(pixels.shape), "UINT8", False),
    ):
        tensor = InferInput("image", shape, datatype)
        tensor.set_data_from_numpy(data, binary_data=binary)
        tensors.append((tensor, binary))
    found = []
    for tensor, binary in tensors:
        outputs = [RequestedOutput("probabilities", parameters={"binary_data": binary})]
        response = await client.infer(url, InferRequest(model, [tensor], request_outputs=outputs), model)
        found.append(response.outputs[0].as_numpy().ravel().tolist())
    print(json.dumps(found))


asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
