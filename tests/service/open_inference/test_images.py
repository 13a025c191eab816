"""From tensors to images."""

from __future__ import annotations

import numpy as np
import pytest

from service.admission import Memory, Permit
from service.errors import RequestNeedsTooMuchMemory
from service.metrics import Metrics
from service.open_inference.datatypes import join_bytes
from service.open_inference.errors import Code, ProtocolError
from service.open_inference.images import images_of
from service.open_inference.messages import InputTensor

SHAPE = (3, 4, 5)
PIXELS = np.arange(2 * 60, dtype=np.uint8).reshape(2, *SHAPE)


def images(*inputs: InputTensor, most: int = 4, memory: int = 10**6) -> list[bytes | np.ndarray]:
    with Permit(Memory(memory, Metrics())) as permit:
        return images_of(inputs, SHAPE, most, permit)


def test_pixels_are_views_of_what_arrived() -> None:
    raw = PIXELS.tobytes()
    found = images(InputTensor("image", "UINT8", (2, *SHAPE), raw=raw))
    for image, expected in zip(found, PIXELS, strict=True):
        assert isinstance(image, np.ndarray)
        assert image.dtype == np.uint8
        assert np.shares_memory(image, np.frombuffer(raw, np.uint8))
        np.testing.assert_array_equal(image, expected)


def test_pixels_as_numbers() -> None:
    found = images(InputTensor("image", "UINT8", (2, *SHAPE), values=PIXELS.ravel().tolist()))
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in found]), PIXELS)


@pytest.mark.parametrize("as_values", [False, True])
def test_files(as_values: bool) -> None:
    files = [b"one", b"", b"three"]
    tensor = InputTensor("image", "BYTES", (3,))
    tensor = tensor._replace(values=files) if as_values else tensor._replace(raw=memoryview(join_bytes(files)))
    assert images(tensor) == files


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (InputTensor("picture", "UINT8", (2, *SHAPE), raw=b""), "one input, 'image', UINT8 .N, 3, 4, 5.*'picture'"),
        (InputTensor("image", "FP32", (2, *SHAPE), raw=b""), "is FP32 .2, 3, 4, 5.; the model takes UINT8"),
        (InputTensor("image", "float", (2, *SHAPE), raw=b""), "'float', which the protocol does not know"),
        (InputTensor("image", "UINT8", (2, 4, 5, 3), raw=PIXELS.tobytes()), "is UINT8 .2, 4, 5, 3."),
        (InputTensor("image", "UINT8", SHAPE, raw=PIXELS[0].tobytes()), "is UINT8 .3, 4, 5."),
        (InputTensor("image", "UINT8", (), raw=b"0"), "is UINT8 .."),
        (InputTensor("image", "UINT8", (-1, *SHAPE), raw=b""), "impossible"),
        (InputTensor("image", "UINT8", (0, *SHAPE), raw=b""), "holds no image"),
        (InputTensor("image", "BYTES", (0,), raw=b""), "holds no image"),
        (InputTensor("image", "BYTES", (1, 1), raw=b""), "is BYTES .1, 1."),
        (InputTensor("image", "UINT8", (5, *SHAPE), raw=b""), "At most 4 images"),
        (InputTensor("image", "UINT8", (2**62, *SHAPE), raw=b""), "At most 4 images"),
        (InputTensor("image", "UINT8", (2, *SHAPE), raw=PIXELS.tobytes()[1:]), "has 119 bytes, and its shape 120"),
        (InputTensor("image", "UINT8", (1, *SHAPE), values=[0] * 61), "has 61 values, and its shape 60"),
        (InputTensor("image", "UINT8", (1, *SHAPE), values=[256] * 60), "whole numbers from 0 to 255"),
        (InputTensor("image", "UINT8", (1, *SHAPE), values=[-1] * 60), "whole numbers from 0 to 255"),
        (InputTensor("image", "UINT8", (1, *SHAPE), values=[0.5] * 60), "whole numbers from 0 to 255"),
        (InputTensor("image", "UINT8", (1, *SHAPE), values=[None] * 60), "whole numbers from 0 to 255"),
        (InputTensor("image", "BYTES", (2,), values=[b"1"]), "has 1 values, and its shape 2"),
        (InputTensor("image", "BYTES", (1,), values=[1]), "must be bytes"),
        (InputTensor("image", "BYTES", (1,)), "needs its data once"),
        (InputTensor("image", "BYTES", (1,), raw=b"", values=[]), "needs its data once"),
    ],
)
def test_what_the_model_does_not_take(tensor: InputTensor, said: str) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        images(tensor)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_exactly_one_input() -> None:
    one = InputTensor("image", "BYTES", (1,), values=[b""])
    for inputs in ((), (one, one)):
        with pytest.raises(ProtocolError, match="one input"):
            images(*inputs)


def test_shared_memory_is_not_supported() -> None:
    with pytest.raises(ProtocolError, match="shared memory") as caught:
        images(InputTensor("image", "BYTES", (1,), parameters={"shared_memory_region": "x"}))
    assert caught.value.code is Code.UNSUPPORTED


def test_copies_count() -> None:
    files = join_bytes([b"x" * 1000])
    with pytest.raises(RequestNeedsTooMuchMemory):
        images(InputTensor("image", "BYTES", (1,), raw=files), memory=500)
