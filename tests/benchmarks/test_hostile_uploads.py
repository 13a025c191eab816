"""What the attacks send."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.hostile_uploads import BOMB, FORM_IMAGES, LIMIT, TINY_CHUNKS, attacks, webp_of_one_colour
from service.runtime.faults import TooManyPixels
from service.runtime.images.headers import read_header
from service.runtime.preprocessing import Preprocessing
from service.settings import Settings


def test_the_bombs_are_what_they_are_called() -> None:
    limits = {name: Settings.model_fields[name].default for name in ("max_pixels",)}
    assert len(webp_of_one_colour(BOMB)) == 38
    with pytest.raises(TooManyPixels):
        read_header(webp_of_one_colour(BOMB), Preprocessing(), **limits)
    header = read_header(webp_of_one_colour(LIMIT), Preprocessing(), **limits)
    assert (header.width, header.height) == (LIMIT, LIMIT)


def test_the_attacks_send_what_they_say() -> None:
    found = list(itertools.islice(attacks("http://127.0.0.1:1/classify"), 7))  # without the large pictures
    assert [each.clients for each in found] == [1000, 500, 500, 1000, 8, 8, 8]
    silent, headers, body, announced, chunked, bombs, _ = found
    assert (silent.requests, silent.trickle) == ((b"",), b"")
    assert headers.requests == (b"",)
    assert b"\r\n\r\n" not in headers.trickle
    for each in (body, announced):
        assert each.requests[0].endswith(b"\r\ncontent-length: 20971520\r\n\r\n")
    assert chunked.requests[0].count(b"1\r\nx\r\n") == TINY_CHUNKS
    head, _, form = bombs.requests[0].partition(b"\r\n\r\n")
    assert form.count(webp_of_one_colour(BOMB)) == FORM_IMAGES
    assert f"content-length: {len(form)}".encode() in head
