"""Faults: their sentences."""

from __future__ import annotations

import string

import pytest

from service import errors, upload_faults
from service.errors import Overloaded, fault_types
from service.runtime import faults
from service.runtime.faults import Fault

ALL = list(fault_types())
assert upload_faults.ImageTooLarge in ALL


def example(cls: type[Fault]) -> Fault:
    """An instance with a value for every field that its texts name."""
    fields = {name for _, name, _, _ in string.Formatter().parse(cls.detail + cls.remedy) if name}
    return cls(**dict.fromkeys(fields | {"retry_after", "allowed"}, 3))


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_every_fault_names_itself_and_a_remedy(cls: type[Fault]) -> None:
    fault = example(cls)
    for text in (fault.title, str(fault), fault.advice()):
        assert text
        assert "{" not in text


def test_slugs_are_stable_and_distinct() -> None:
    slugs = [cls.slug for cls in ALL]
    assert len(set(slugs)) == len(slugs)
    assert faults.TruncatedImage.slug == "truncated-image"
    assert faults.NotAnImage.slug == "not-an-image"


def test_members_fill_the_sentences() -> None:
    fault = faults.TooManyPixels(width=20000, height=10000, format="PNG", max_pixels=64)
    assert str(fault) == "The image is 20000x10000 pixels; at most 64 pixels of a PNG file are decoded."
    assert fault.members["width"] == 20000


def test_without_a_near_one_the_known_parameters_are_listed() -> None:
    members = {"parameter": "url", "known": "a, b"}
    assert errors.UnknownParameter(**members).advice() == "The parameters are a, b."
    assert errors.UnknownParameter(**members, nearest="a").advice() == "Did you mean `a`? The parameters are a, b."


@pytest.mark.parametrize(("wait", "target", "seconds"), [(1.2, 1.0, 1), (3.5, 1.0, 3), (4.0, 1.0, 3), (0.2, 0.1, 1)])
def test_retry_after_is_when_the_wait_has_fallen_to_the_target(wait: float, target: float, seconds: int) -> None:
    assert Overloaded.by(wait, target).members["retry_after"] == seconds
