"""The model in every peer's server: on ONNX Runtime and Pillow as users write it, in fp32 or int8, or on our engine.

The only module that the peers' servers import, and so their only way to `service`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import onnxruntime as ort
from PIL import Image

from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_folder import read_card

# fp32, int8: ONNX Runtime's CPU provider and Pillow, with the model's file in this precision.
# ours: our engine and decoder, in int8.
EngineName = Literal["fp32", "int8", "ours"]
ENGINES: tuple[EngineName, ...] = ("fp32", "int8", "ours")

# The precision of our service that is compared with peers on these engines.
OURS_BESIDE: dict[EngineName, EngineName] = {"fp32": "fp32", "int8": "int8", "ours": "int8"}

# Environment variables that tell a server what to load.
ENGINE_VARIABLE = "PEER_ENGINE"
FOLDER_VARIABLE = "PEER_MODEL"

MAX_BATCH = 8  # in every server that batches
WINDOW_S = 0.005  # how long it may wait for a batch to fill
TOP = 5


class Prediction(TypedDict):
    class_id: int
    probability: float


Decode = Callable[[bytes], np.ndarray]  # a JPEG file -> uint8 (3, 224, 224), RGB
Infer = Callable[[np.ndarray], list[list[Prediction]]]  # uint8 (N, 3, 224, 224) -> the top classes of each


class Model(NamedTuple):
    """A loaded ResNet."""

    decode: Decode
    infer: Infer


def load(engine: EngineName, folder: Path) -> Model:
    """Loads a published model: on ONNX Runtime and Pillow as their documentation shows them, or on our engine."""
    infer = _our_infer(folder) if engine == "ours" else _plain_infer(folder / read_card(folder).files[engine].file)
    return Model(load_decode(engine, folder), infer)


def load_decode(engine: EngineName, folder: Path) -> Decode:
    """Loads the decoder only, for processes that do not infer."""
    return _our_decode(folder) if engine == "ours" else _plain_decode


def from_environment() -> tuple[EngineName, Path]:
    """The engine and the model that this server shall load, by its environment variables."""
    (engine,) = (name for name in ENGINES if name == os.environ[ENGINE_VARIABLE])
    return engine, Path(os.environ[FOLDER_VARIABLE])


def best(logits: np.ndarray) -> list[list[Prediction]]:
    """The top five classes of every row of logits, best first."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    order = np.argsort(-probabilities, axis=1)[:, :TOP]
    return [
        [{"class_id": int(class_id), "probability": float(row[class_id])} for class_id in classes]
        for row, classes in zip(probabilities, order, strict=True)
    ]


def _plain_decode(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    cropped = image.crop((left, top, left + 224, top + 224))
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))


def _plain_infer(file: Path) -> Infer:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def infer(images: np.ndarray) -> list[list[Prediction]]:
        (logits,) = session.run(["logits"], {"image": images})
        return best(logits)

    return infer


def _our_decode(folder: Path) -> Decode:
    preprocessing = read_card(folder).preprocessing
    return lambda data: decode(data, preprocessing, max_pixels=64_000_000).pixels


def _our_infer(folder: Path) -> Infer:
    card = read_card(folder)
    engine = load_engine(folder, card, provider="auto", precision="int8", threads=usable_cores(), max_batch=MAX_BATCH)
    return lambda images: best(engine.infer(images)["logits"])
