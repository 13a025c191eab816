"""mosec, as its ResNet-50 example shows it: workers that decode raw bytes, then a batching stage."""

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.model import MAX_BATCH, WINDOW_S, Prediction, from_environment, load, load_decode


class Preprocess(Worker):
    def __init__(self) -> None:
        self.decode = load_decode(*from_environment())

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> np.ndarray:
        return self.decode(data)


class Inference(Worker):
    def __init__(self) -> None:
        self.model = load(*from_environment())

    def forward(self, data: list[np.ndarray]) -> list[list[Prediction]]:
        return self.model.infer(np.stack(data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Preprocess, num=2)
    server.append_worker(Inference, num=1, max_batch_size=MAX_BATCH, max_wait_time=round(1000 * WINDOW_S))
    server.run()
