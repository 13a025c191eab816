"""Ray Serve, as its documentation of dynamic request batching shows it. Takes raw bytes."""

import sys
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.model import MAX_BATCH, WINDOW_S, Prediction, from_environment, load


@serve.deployment(max_ongoing_requests=2 * MAX_BATCH)  # the default, 5, would never fill a batch
class Classifier:
    def __init__(self) -> None:
        self.model = load(*from_environment())

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WINDOW_S)
    async def classify(self, images: list[np.ndarray]) -> list[list[Prediction]]:
        return self.model.infer(np.stack(images))

    async def __call__(self, request: Request) -> dict[str, Any]:
        image = self.model.decode(await request.body())
        return {"predictions": await self.classify(image)}


if __name__ == "__main__":
    ray.init(address="local")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Classifier.bind(), blocking=True)  # type: ignore[attr-defined]
