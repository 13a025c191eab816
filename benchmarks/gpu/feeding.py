"""Stage 5, feeding: images/s that the cores decode, and that the GPU does; how far its pixels and classes are off.

A GPU computes more images than the cores of its host can decode. JPEGs may be decoded on the GPU: by nvJPEG, which
torchvision brings (`decode_jpeg(device="cuda")`), and by nvImageCodec where that is installed, on the GPU's JPEG
engines or on its multiprocessors.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.gpu.http import decode_rate
from benchmarks.gpu.plan import Plan, Report, fault, model_folder, per_second
from service.card import ModelCard, Preprocessing
from service.engine import Engine
from service.imaging import decode
from service.loading import load_engine
from service.providers import usable_cores

if TYPE_CHECKING:
    from torch import Tensor

BATCHES = (1, 32, 128)
IMAGES = 256  # that are compared

# From JPEGs to RGB images on the GPU, uint8 (3, H, W) each.
DecodeBatch = Callable[[Sequence[bytes]], Sequence["Tensor"]]


def run(plan: Plan, report: Report) -> None:
    """Rates, then agreement with what the service makes of the same JPEGs."""
    from benchmarks.photo import photo
    from model_export.drawings import picture

    jpeg = photo()
    folder = model_folder(plan)
    card = ModelCard.read(folder)
    one = decode_rate(jpeg, card.preprocessing, plan.seconds)
    report.add("decoding", {"by": "Pillow, one core, with resize", "images/s": one})
    if plan.device == "cpu":
        return
    engine = load_engine(
        folder, card, provider="cuda", precision=plan.precision, threads=usable_cores(), max_batch=plan.sizes[-1]
    )
    jpegs = [jpeg, *(picture(seed, seed % 12) for seed in range(IMAGES - 1))]
    for name, make in DECODERS.items():
        row: dict[str, object] = {"by": name}
        try:
            decode_batch = make()
            row |= compared(jpegs, decode_batch, engine, card.preprocessing)
            for size in BATCHES:
                row[str(size)] = rate([jpeg] * size, decode_batch, plan.seconds)
        except Exception as error:  # a decoder that this machine does not have is a result, too
            row["error"] = fault(error)
        report.add("on the GPU, images/s", row)


def rate(jpegs: Sequence[bytes], decode_batch: DecodeBatch, seconds: float) -> float:
    """Images/s, in batches of these."""
    import torch

    def step() -> None:
        decode_batch(jpegs)
        torch.cuda.synchronize()

    return len(jpegs) * per_second(step, seconds)


def compared(
    jpegs: Sequence[bytes], decode_batch: DecodeBatch, engine: Engine, preprocessing: Preprocessing
) -> dict[str, float]:
    """Mean differences to Pillow's pixels, whole and resized, and how often the best class is the same."""
    decoded = decode_batch(jpegs)
    resized = [resize(image, preprocessing).cpu().numpy() for image in decoded]
    pillow = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1) for jpeg in jpegs]
    ours = [decode(jpeg, preprocessing, max_pixels=10**9).pixels for jpeg in jpegs]
    classes, expected = (engine.infer(pixels)["logits"].argmax(axis=1) for pixels in (resized, ours))
    return {
        "pixels off, of 255": off([image.cpu().numpy() for image in decoded], pillow),
        "after resize": off(resized, ours),
        "top-1 as Pillow": float((classes == expected).mean()),
    }


def off(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The mean difference of a pixel's channel, over pairs of images."""
    pairs = zip(images, others, strict=True)
    return float(np.mean([np.abs(image.astype(np.int16) - other).mean() for image, other in pairs]))


def nvjpeg() -> DecodeBatch:
    """NVIDIA's decoder as torchvision has it."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    def decode_batch(jpegs: Sequence[bytes]) -> Sequence[Tensor]:
        data = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
        return decode_jpeg(data, mode=ImageReadMode.RGB, device="cuda")  # type: ignore[no-any-return]

    return decode_batch


def nvimagecodec(backend: str) -> DecodeBatch:
    """NVIDIA's nvImageCodec on one of its backends."""
    import torch
    from nvidia import nvimgcodec

    kind = getattr(nvimgcodec.BackendKind, backend)
    # as libjpeg-turbo, and so Pillow, interpolates subsampled colours
    fancy = ":fancy_upsampling=1"
    decoder = nvimgcodec.Decoder(device_id=0, backends=[nvimgcodec.Backend(kind)], options=fancy)

    def decode_batch(jpegs: Sequence[bytes]) -> Sequence[Tensor]:
        return [torch.as_tensor(image, device="cuda").permute(2, 0, 1) for image in decoder.decode(list(jpegs))]

    return decode_batch


DECODERS: dict[str, Callable[[], DecodeBatch]] = {
    "torchvision, nvJPEG": nvjpeg,
    "nvImageCodec, JPEG engines": functools.partial(nvimagecodec, "HW_GPU_ONLY"),
    "nvImageCodec, CUDA": functools.partial(nvimagecodec, "GPU_ONLY"),
}


def resize(image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """As the service does, on the GPU: the shorter side resized, bilinear with antialiasing, the centre cut out.

    Args:
        image: uint8 `(3, H, W)`.

    Returns:
        uint8 `(3, crop, crop)`.
    """
    from torchvision.transforms.v2 import functional

    resized = functional.resize(image, [preprocessing.resize], antialias=True)
    return functional.center_crop(resized, [preprocessing.crop])  # type: ignore[no-any-return]
