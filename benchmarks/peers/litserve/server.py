"""LitServe, as its documentation of batching shows it.

It takes JSON or forms, so images come in base64.
"""

import base64
import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.model import MAX_BATCH, WINDOW_S, Prediction, from_environment, load


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load(*from_environment())

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        return self.model.decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, batch: np.ndarray) -> list[list[Prediction]]:
        return self.model.infer(batch)

    def unbatch(self, output: list[list[Prediction]]) -> list[list[Prediction]]:
        return output

    def encode_response(self, output: list[Prediction]) -> dict[str, Any]:
        return {"predictions": output}


if __name__ == "__main__":
    classifier = Classifier(max_batch_size=MAX_BATCH, batch_timeout=WINDOW_S)
    server = litserve.LitServer(classifier, accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
