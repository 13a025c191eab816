"""Recognises web pages: what a login page, a proxy or a console sends in place of a store's or a registry's answer."""

from __future__ import annotations

import html
import re

import httpx

KINDS = ("text/html", "application/xhtml+xml")
MOST_BYTES = 2**14  # of a page, to find words in
MOST_LETTERS = 80  # of its words
TITLE = re.compile(r"<title[^>]*>(.*?)</title", re.IGNORECASE | re.DOTALL)
NO_WORDS = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
TIMEOUT = httpx.Timeout(10, connect=5)


def page(response: httpx.Response) -> str | None:
    """`a web page (text/html, "Sign in")` for a response that is one; None for any other, which is left unread.

    Raises:
        httpx.RequestError: it broke off.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        return None
    content = b""
    for chunk in response.iter_bytes(MOST_BYTES):
        content += chunk
        if len(content) >= MOST_BYTES:
            break
    text = content.decode(errors="replace")
    title = found[1] if (found := TITLE.search(text)) else ""
    words = " ".join(html.unescape(title.strip() or NO_WORDS.sub(" ", text)).split())
    shown = "".join(letter for letter in words if letter.isprintable())[:MOST_LETTERS]
    return f'a web page ({kind}, "{shown}")' if shown else f"a web page ({kind})"


def page_at(url: str) -> str | None:
    """The web page that anybody gets at an address, as `page` names it; None if no page can be got there."""
    try:
        with httpx.stream("GET", url, timeout=TIMEOUT, follow_redirects=True) as response:
            return page(response) if response.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
