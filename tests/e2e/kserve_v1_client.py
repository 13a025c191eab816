"""Asks a server with KServe's own client, by the V1 protocol: `python kserve_v1_client.py URL MODEL PHOTO`.

Prints what it has understood, as JSON: the prediction, and the texts of two errors.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from pathlib import Path

import httpx
from kserve import InferenceRESTClient, RESTConfig


async def main(url: str, model: str, photo: bytes) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await client.is_model_ready(url, model)
    answer = await client.infer(url, {"instances": [{"b64": b64encode(photo).decode()}]}, model)
    errors = []
    for name, text in ((model, "!"), ("nix", "")):
        try:
            await client.infer(url, {"instances": [{"b64": text}]}, name)
        except httpx.HTTPStatusError as error:
            errors.append(str(error))
    print(json.dumps({"prediction": answer["predictions"][0], "errors": errors}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes()))
