"""Files of `torch.save`: what loads, and what would run code."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import os
import uuid
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model_export.nets.resnet import cifar_resnet
from tests.model_export.weights.weight_files import State, assert_same, load, refusal


def test_the_old_format_of_torch_save(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pt", _use_new_zipfile_serialization=False)
    assert_same(load(folder / "net.pt"), state)


def test_harmless_objects_beside_the_weights(folder: Path, state: State) -> None:
    beside = {
        "best_acc": np.float64(0.9),
        "epoch": np.int64(3),
        "meters": collections.defaultdict(list, loss=[0.1]),
        "folder": Path("runs/1"),
        "theirs": PureWindowsPath("runs/1"),
        "args": Namespace(lr=0.1),
        "tags": {"a"},
        "frozen": frozenset({"a"}),
        "config": SimpleNamespace(lr=0.1),
        "losses": np.zeros(4),
        "old_losses": np.zeros((2, 3), dtype=">f4"),
        "names": np.array(["a", "b"]),
        "objects": np.array([1, "a"], dtype=object),
        "complex": np.complex64(1),
        "day": np.datetime64("2020-01-01"),
        "rng": np.random.RandomState(3).get_state(),
        "generator": np.random.default_rng(3),
        "since": datetime.datetime.now(datetime.UTC),
        "took": datetime.timedelta(1),
        "today": datetime.date(2020, 1, 1),
        "at": datetime.time(1),
        "share": decimal.Decimal("0.5"),
        "ratio": fractions.Fraction(1, 2),
        "run": uuid.UUID(int=3),
        "recent": collections.deque([0.1, 0.2], maxlen=3),
        "steps": range(3),
        "part": slice(1, 2),
    }
    torch.save({"state_dict": state, **beside}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


def test_numpy_numbers_keep_their_values(folder: Path, state: State) -> None:
    order = {"red": np.int64(2), "green": np.uint8(0), "blue": np.int16(1)}
    torch.save({"state_dict": state, "class_to_idx": order}, folder / "net.pth")
    assert [label.name for label in load(folder / "net.pth").labels] == ["green", "blue", "red"]


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(folder: Path, state: State, zipped: bool) -> None:
    path, marker = folder / "net.pth", folder / "it-ran"
    torch.save({"state_dict": state, "x": RunsCode(marker)}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    for part in ("refused", "mkdir", "can run any code", "net.state_dict()", ".safetensors"):
        assert part in message
    assert not marker.exists()


def test_a_whole_module(folder: Path) -> None:
    torch.save(cifar_resnet(8, num_classes=3), folder / "net.pth")
    message = refusal(folder / "net.pth")
    for part in (
        "refused",
        "`model_export.nets.resnet.ResNet`",
        "a whole module",
        "can run any code",
        "net.state_dict()",
    ):
        assert part in message


def test_damaged_files(folder: Path, state: State) -> None:
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "net.safetensors")
    for path in (folder / "zip.pth", folder / "old.pth", folder / "net.safetensors"):
        whole = path.read_bytes()
        for length in (len(whole) - 100, len(whole) // 2, 1000, 5):
            path.write_bytes(whole[:length])
            message = refusal(path)
            assert f"is truncated at {length} bytes" in message or "not a complete safetensors file" in message
            assert message.endswith(": copy or download it again")


@pytest.mark.parametrize(
    "change", [lambda raw: raw.replace(b"storage", b"storagf"), lambda raw: raw[:80] + b"\xff" * 9]
)
def test_damaged_content(folder: Path, state: State, change: Callable[[bytes], bytes]) -> None:
    torch.save(state, folder / "net.pth", _use_new_zipfile_serialization=False)
    raw = (folder / "net.pth").read_bytes()
    changed = change(raw)
    (folder / "net.pth").write_bytes(changed + raw[len(changed) :])
    message = refusal(folder / "net.pth")
    assert "is damaged" in message
    assert "\n" not in message
    assert "weights_only" not in message


def test_a_pickle_protocol_that_cannot_be_read_safely(folder: Path, state: State) -> None:
    torch.save(state, folder / "net.pth", pickle_protocol=4)
    message = refusal(folder / "net.pth")
    assert "was saved in a way that cannot be read safely (Unsupported operand 149)" in message
    assert "\n" not in message
