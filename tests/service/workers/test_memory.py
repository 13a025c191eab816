"""Memory that several processes see."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from service.runtime.graph import Output
from service.workers.memory import ABSENT, Layout, MemoryNotShared, SharedMemory

LAYOUT = Layout(workers=2, models=3, slots=4, pixel_bytes=75, classes=7, output_numbers=13)
OUTPUT_SHAPES: dict[Output, tuple[int, ...]] = {"logits": (7,), "embedding": (2,), "feature_map": (2, 1, 2)}


@pytest.fixture
def memory() -> SharedMemory:
    return SharedMemory.create(LAYOUT)


def test_nothing_overlaps(memory: SharedMemory) -> None:
    slots = [*memory.slots_of(0), *memory.slots_of(1)]
    assert slots == list(range(8))
    memory.unanswered[:] = np.arange(6).reshape(2, 3)
    memory.per_second[:] = [0.5, 1.5, 2.5]
    assert memory.progress.tolist() == [ABSENT, ABSENT]
    memory.progress[:] = [6, 7]
    for slot in slots:
        memory.pixels(slot, (3, 5, 5))[:] = slot
        top = memory.top(slot, LAYOUT.classes)
        top.class_ids[:] = 100 + slot
        top.probabilities[:] = slot / 10
        outputs = memory.outputs(slot, OUTPUT_SHAPES)
        for number, array in enumerate(outputs.values()):
            array[:] = 10 * slot + number
    for slot in slots:
        for number, array in enumerate(memory.outputs(slot, OUTPUT_SHAPES).values()):
            assert (array == 10 * slot + number).all()
        assert (memory.pixels(slot, (3, 5, 5)) == slot).all()
        assert (memory.top(slot, LAYOUT.classes).class_ids == 100 + slot).all()
        assert (memory.top(slot, LAYOUT.classes).probabilities == np.float32(slot / 10)).all()
    assert memory.unanswered.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert memory.per_second.tolist() == [0.5, 1.5, 2.5]
    assert memory.progress.tolist() == [6, 7]


def test_a_smaller_network_uses_a_part_of_a_slot(memory: SharedMemory) -> None:
    pixels = memory.pixels(3, (3, 2, 2))
    assert (pixels.shape, pixels.dtype) == ((3, 2, 2), np.uint8)
    top = memory.top(3, 2)
    assert (top.class_ids.shape, top.class_ids.dtype) == ((2,), np.int32)
    assert (top.probabilities.shape, top.probabilities.dtype) == ((2,), np.float32)


def test_another_process_sees_it(memory: SharedMemory) -> None:
    memory.pixels(5, (3, 5, 5))[2, 4, 4] = 77
    program = f"""
from service.runtime.graph import Output
from service.workers.memory import ABSENT, Layout, MemoryNotShared, SharedMemory
memory = SharedMemory(Layout(*{tuple(LAYOUT)}), {memory.fd})
assert memory.pixels(5, (3, 5, 5))[2, 4, 4] == 77
memory.top(5, 1).probabilities[0] = 0.25
memory.unanswered[1, 2] = 9
"""
    subprocess.run([sys.executable, "-c", program], pass_fds=(memory.fd,), check=True)
    assert memory.top(5, 1).probabilities[0] == 0.25
    assert memory.unanswered[1, 2] == 9


def test_it_takes_memory_only_where_it_is_written() -> None:
    memory = SharedMemory.create(
        Layout(workers=64, models=5, slots=1280, pixel_bytes=3 * 224**2, classes=1000)
    )  # 13 GB
    memory.pixels(70_000, (3, 224, 224))[:] = 1
    used = os.fstat(memory.fd).st_blocks * 512
    assert 3 * 224 * 224 <= used < 10**6


def test_more_than_there_can_be_names_the_remedy() -> None:
    with pytest.raises(MemoryNotShared, match="lower workers"):
        SharedMemory.create(Layout(workers=64, models=5, slots=2**30, pixel_bytes=3 * 224**2, classes=1000))
