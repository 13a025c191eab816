"""Work on threads, for requests that may be given up meanwhile."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_threads = ThreadPoolExecutor(4, thread_name_prefix="request")  # the event loop's own would not tell what has begun


async def on_thread(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """As `asyncio.to_thread`; but if it is cancelled, it ends only when no thread uses the arguments any more.

    So whoever counts the bytes of the arguments may give them back then.
    """
    call = functools.partial(function, *arguments, **named)
    work = _threads.submit(contextvars.copy_context().run, call)
    result = asyncio.wrap_future(work)
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        work.cancel()  # unless it has begun
        while not result.done():
            with suppress(asyncio.CancelledError):  # again
                await asyncio.wait([result])
        if not result.cancelled():
            result.exception()  # nobody waits for it: asyncio would log it
        raise
