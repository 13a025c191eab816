"""Requests without the offer of another protocol. How a whole one is served: `test_uvicorn_protocol`."""

from __future__ import annotations

from service.upgrade_offers import without_offer


def test_the_headers_of_the_offer_are_left_out_and_others_kept_in_order() -> None:
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"a", b"1"), (b"connection", b"Upgrade"), (b"a", b"2")]
    assert without_offer(b"POST", b"/a?b=c", headers) == b"POST /a?b=c HTTP/1.1\r\nhost: x\r\na: 1\r\na: 2\r\n\r\n"
