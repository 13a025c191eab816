"""Stage 5: images/s that the cores and the GPU decode, and how the GPU's pixels and classes differ.

A GPU computes more images than the cores of its host can decode. So JPEGs may be decoded on the GPU: by nvJPEG, which
torchvision contains (`decode_jpeg(device="cuda")`), or by nvImageCodec where it is installed, on the GPU's JPEG engines
or on its multiprocessors.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.gpu.http import decode_rate
from benchmarks.gpu.plan import Plan, Report, agreement, fault, held_out_jpegs, per_second, trained_folder
from service.runtime.engine import Engine
from service.runtime.images.decoding import decode
from service.runtime.loading import load_engine
from service.runtime.machine import usable_cores
from service.runtime.model_card import Preprocessing
from service.runtime.model_folder import read_card

if TYPE_CHECKING:
    from torch import Tensor

BATCHES = (1, 32, 128)

# From JPEGs to RGB images on the GPU, uint8 (3, H, W) each.
DecodeBatch = Callable[[Sequence[bytes]], Sequence["Tensor"]]


def run(plan: Plan, report: Report) -> None:
    """Measures rates, and agreement with the service's decoding of the same JPEGs."""
    from benchmarks.photo import photo

    jpeg = photo()
    folder = trained_folder()
    card = read_card(folder)
    one_core = decode_rate(jpeg, card.preprocessing, plan.seconds)
    report.add("decoding", {"by": "Pillow, one core, with resize", "images/s": one_core})
    if plan.device == "cpu":
        return
    engine = load_engine(
        folder, card, provider="cuda", precision=plan.precision, threads=usable_cores(), max_batch=plan.sizes[-1]
    )
    jpegs = held_out_jpegs(plan)
    for name, make_decoder in DECODERS.items():
        row: dict[str, object] = {"by": name}
        try:
            decode_batch = make_decoder()
            row |= compared(jpegs, decode_batch, engine, card.preprocessing)
            for size in BATCHES:
                row[str(size)] = rate([jpeg] * size, decode_batch, plan.seconds)
        except Exception as error:  # a result, too: a decoder that this machine does not have
            row["error"] = fault(error)
        report.add("on the GPU, images/s", row)


def rate(jpegs: Sequence[bytes], decode_batch: DecodeBatch, seconds: float) -> float:
    """Images/s that are decoded, in batches of these."""
    import torch

    def step() -> None:
        decode_batch(jpegs)
        torch.cuda.synchronize()

    return len(jpegs) * per_second(step, seconds)


def compared(
    jpegs: Sequence[bytes], decode_batch: DecodeBatch, engine: Engine, preprocessing: Preprocessing
) -> dict[str, float]:
    """Mean differences from Pillow's pixels, at full size and resized; and how often the top class is the same."""
    decoded = decode_batch(jpegs)
    resized = [resize(image, preprocessing).cpu().numpy() for image in decoded]
    pillow = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1) for jpeg in jpegs]
    ours = [decode(jpeg, preprocessing, max_pixels=10**9).pixels for jpeg in jpegs]
    logits, expected = (engine.infer(pixels)["logits"] for pixels in (resized, ours))
    return {
        "pixels off, of 255": mean_difference([image.cpu().numpy() for image in decoded], pillow),
        "after resize": mean_difference(resized, ours),
        "top-1 as Pillow": agreement(logits, expected),
    }


def mean_difference(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The mean absolute difference over all channels of all pixels, in grey levels."""
    pairs = zip(images, others, strict=True)
    return float(np.mean([np.abs(image.astype(np.int16) - other).mean() for image, other in pairs]))


def nvjpeg() -> DecodeBatch:
    """NVIDIA's nvJPEG, through torchvision."""
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
    # interpolates subsampled colours as libjpeg-turbo, and so Pillow, does
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
    """Resizes the shorter side (bilinear, antialiased) and crops the centre, as the service does, on the GPU.

    Args:
        image: uint8 `(3, H, W)`.

    Returns:
        uint8 `(3, crop, crop)`.
    """
    from torchvision.transforms.v2 import functional

    resized = functional.resize(image, [preprocessing.resize], antialias=True)
    return functional.center_crop(resized, [preprocessing.crop])  # type: ignore[no-any-return]
