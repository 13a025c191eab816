"""One run of `resnet bench`: from its options to its exit status."""

from __future__ import annotations

import argparse
import io
import json
import mimetypes
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
from PIL import Image

from service.bench.levels import HEADING, Level
from service.bench.measuring import Target, closed, opened
from service.bench.plot import draw
from service.bench.requests import Upload, refusal

CHECK_S = 60.0  # for the answer to the first request


class Unmeasurable(Exception):
    """Nothing can be measured; the message names the remedy."""


def bench(args: argparse.Namespace) -> int:
    """Prints a line for each level, then writes the files. Returns the exit status."""
    levels: list[Level] = []
    status = 0
    try:
        if args.plot and find_spec("matplotlib") is None:
            raise Unmeasurable("matplotlib, which draws, is not installed: run pip install 'resnet-service[plot]'")
        target = target_of(args)
        check(target)
        print(f"{target.url}, {args.seconds:g} s at each level\n\n{HEADING}")
        for level in _measured(target, args):
            levels.append(level)
            print(level.line(), flush=True)
    except (Unmeasurable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if levels else 2
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    if any(level.limited for level in levels):
        print("The load took nearly a whole core to make: the server may be faster.", file=sys.stderr)
    if args.json:
        content = {
            "url": target.url,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "image_bytes": [len(upload.body) for upload in target.uploads],
            "levels": [level.as_json() for level in levels],
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.plot:
        draw(levels, target.url, args.plot)
    return status or (0 if all(level.latencies for level in levels) else 1)


def _measured(target: Target, args: argparse.Namespace) -> Iterator[Level]:
    for connections in args.connections or ():
        yield closed(target, connections, args.seconds)
    for rate in args.rate or ():
        yield opened(target, rate, args.seconds)


def target_of(args: argparse.Namespace) -> Target:
    """Raises Unmeasurable, or OSError if an image or the key cannot be read."""
    parts = urlsplit(args.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Unmeasurable(f"{args.url} is not the address of a server: give one like http://127.0.0.1:8000")
    path = parts.path if parts.path.strip("/") else "/classify"
    given = {name: value for name, value in (("model", args.model), ("depth", args.depth)) if value is not None}
    query = "&".join(filter(None, (parts.query, urlencode(given))))
    uploads = [Upload(path.read_bytes(), _type_of(path)) for path in args.images] or [Upload(generated())]
    headers = {"X-API-Key": args.api_key_file.read_text().strip()} if args.api_key_file else {}
    return Target(parts._replace(path=path, query=query, fragment="").geturl(), uploads, headers)


def _type_of(path: Path) -> str:
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def generated() -> bytes:
    """A JPEG of 500x375 pixels and some 60 kB, as large as a photograph: waves of colours, and a sensor's noise."""
    rows, columns = np.mgrid[0:375, 0:500].astype(np.float32)
    waves = [np.sin(columns / 23 + phase) + np.cos(rows / 31 - phase) for phase in (0.0, 2.0, 4.0)]
    noise = np.random.default_rng(0).normal(0, 9, (375, 500, 3))
    pixels = 128 + 50 * np.stack(waves, axis=-1) + noise
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def check(target: Target) -> None:
    """Sends every image once. Raises Unmeasurable unless each is answered."""
    for upload in target.uploads:
        headers = {"Content-Type": upload.content_type, **target.headers}
        request = urllib.request.Request(target.url, upload.body, headers)
        try:
            with urllib.request.urlopen(request, timeout=CHECK_S) as response:
                response.read()
        except urllib.error.HTTPError as error:
            with error:
                body = error.read()
            raise Unmeasurable(
                f"{target.url} refuses the request: {refusal(error.code, body)}. {_said(body)}"
            ) from None
        except (urllib.error.URLError, TimeoutError) as error:
            reason = getattr(error, "reason", error)
            raise Unmeasurable(
                f"{target.url} does not answer ({reason}): check whether the server runs there"
            ) from None


def _said(body: bytes) -> str:
    """The detail and the remedy of a problem document; empty if it is something else."""
    try:
        document = json.loads(body)
        return f"{document['detail']} {document['remedy']}"
    except (ValueError, KeyError, TypeError):
        return ""
