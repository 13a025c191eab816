"""The memory budget of the settings: what each worker may take of it, and for what."""

from __future__ import annotations

from typing import NamedTuple

# Memory in which a decode thread decodes an ordinary image, of up to about 8 megapixels. Larger ones have threads and a
# share of their own.
ORDINARY_BYTES = 32 * 2**20

PIXEL_BYTES = 3 * 224**2  # of an image on its way to the engine

DEFAULT_BYTES = 2**30  # for each worker, besides its decode threads


class Memory(NamedTuple):
    """The share of one worker, in bytes.

    Attributes:
        requests: what all requests may hold for bodies and pixels.
        large_images: in which large images are decoded, besides the decode threads' own memory.
    """

    workers: int
    decode_threads: int
    requests: int
    large_images: int


def divide_memory(budget: int | None, workers: int, decode_threads: int) -> Memory:
    """
    Args:
        budget: bytes for all workers together; None for enough.
        decode_threads: of each worker.
    """
    own = DEFAULT_BYTES + 2 * decode_threads * ORDINARY_BYTES if budget is None else budget // workers
    return Memory(workers, decode_threads, own // 4, own * 3 // 4 - decode_threads * ORDINARY_BYTES)


def check_memory(memory: Memory, max_request_bytes: int, max_images: int, budget: int | None) -> None:
    """Raises ValueError if the largest request would never fit, or no large image."""
    largest = max_request_bytes + max_images * PIXEL_BYTES
    if memory.requests < 2 * largest:  # a request may hold half of it
        needed = 4 * 2 * largest * memory.workers
        raise ValueError(
            f"memory_budget ({budget}) is too small for max_request_bytes ({max_request_bytes}), max_images "
            f"({max_images}) and {memory.workers} workers: set it to {needed} or more, or lower one of them"
        )
    if memory.large_images < ORDINARY_BYTES:
        raise ValueError(
            f"memory_budget ({budget}) is too small for {memory.decode_threads} decode threads in each worker: each "
            f"needs {ORDINARY_BYTES} bytes of three quarters of it; raise it, or lower decode_threads"
        )
