"""Faults in the protocol's categories."""

from __future__ import annotations

import pytest

from service import errors
from service.open_inference.errors import MOST_CHARACTERS, Code, code_of, error_of, invalid
from service.runtime.faults import Fault, NotAnImage


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (errors.UnknownModel, Code.NOT_FOUND),
        (errors.Overloaded, Code.UNAVAILABLE),
        (errors.DeadlineMissed, Code.UNAVAILABLE),
        (errors.ModelNotReady, Code.UNAVAILABLE),
        (errors.MemoryExhausted, Code.UNAVAILABLE),
        (errors.RequestNeedsTooMuchMemory, Code.INVALID_ARGUMENT),
        (errors.Stopping, Code.UNAVAILABLE),
        (errors.InternalError, Code.INTERNAL),
        (errors.TooManyImages, Code.INVALID_ARGUMENT),
        (NotAnImage, Code.INVALID_ARGUMENT),
    ],
)
def test_every_fault_has_a_category(fault: type[Fault], code: Code) -> None:
    assert code_of(fault.__new__(fault)) is code


def test_a_fault_says_its_image_and_its_remedy() -> None:
    error = error_of(NotAnImage(found="text"), image=3)
    assert str(error).startswith("image 3 of the request: The upload is not a JPEG")
    assert str(error).endswith(NotAnImage.remedy)
    assert (error.slug, type(error.fault)) == ("not-an-image", NotAnImage)


def test_a_message_does_not_repeat_all_that_was_sent() -> None:
    assert len(str(invalid("x" * 10_000))) == MOST_CHARACTERS
