"""What else weight files hold, and what is wrong with some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.model_export.weights.weight_files import State, assert_same, load, refusal


def test_counters_of_operations_are_ignored(folder: Path, state: State) -> None:
    counters = {name: torch.zeros(1) for name in ("total_ops", "total_params", "layer1.total_ops", "bn1.total_params")}
    torch.save(state | counters, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(folder: Path, state: State, dtype: torch.dtype) -> None:
    cast = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    save_file(cast, folder / "net.safetensors")
    expected = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in cast.items()}
    assert_same(load(folder / "net.safetensors"), expected)


@pytest.mark.filterwarnings("ignore")  # torch: sparse tensors are in beta
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensor: tensor.to("meta"), "on the meta device, without values"),
        (lambda tensor: tensor.to_sparse(), "sparse_coo"),
        (lambda tensor: tensor.to_sparse_csr(), "sparse_csr"),
        (lambda tensor: torch.nested.nested_tensor([tensor]), "nested"),
    ],
)
def test_tensors_that_are_not_plain_numbers(
    folder: Path, state: State, change: Callable[[Tensor], Tensor], kind: str
) -> None:
    torch.save({**state, "fc.weight": change(state["fc.weight"])}, folder / "net.pth")
    assert f"has tensors that are not plain numbers: fc.weight ({kind}); save them dense" in refusal(folder / "net.pth")


@pytest.mark.filterwarnings("ignore")  # torch: quantised tensors are deprecated
def test_quantised_weights(folder: Path, state: State) -> None:
    quantised = torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)
    torch.save({**state, "fc.weight": quantised}, folder / "net.pth")
    assert "perhaps quantised: fc.weight torch.qint8" in refusal(folder / "net.pth")


def test_the_content_decides_and_not_the_name(folder: Path, state: State) -> None:
    save_file(state, folder / "net.bin")
    assert_same(load(folder / "net.bin"), state)
    torch.save(state, folder / "net.safetensors")
    assert_same(load(folder / "net.safetensors"), state)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([1], "holds a list, not a state dict"),
        ({}, "holds no weights of a ResNet"),
        ({}, "it holds nothing"),
        ({"epoch": 3, "fc.weight": torch.zeros(3, 3)}, "it holds epoch, fc.weight"),
    ],
)
def test_no_state_dict(folder: Path, content: object, fault: str) -> None:
    torch.save(content, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert fault in message
    assert "net.state_dict()" in message


def test_numpy_arrays_instead_of_tensors(folder: Path, state: State) -> None:
    torch.save({"model": {name: tensor.numpy() for name, tensor in state.items()}}, folder / "net.pth")
    assert "holds NumPy arrays, not tensors: save each as `torch.from_numpy(array)`" in refusal(folder / "net.pth")


def test_integer_weights(folder: Path, state: State) -> None:
    torch.save({**state, "conv1.weight": state["conv1.weight"].to(torch.int8)}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    for part in ("not floating point", "conv1.weight torch.int8", "float32"):
        assert part in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, state: State, value: float) -> None:
    broken = state["fc.bias"].clone()
    broken[1] = value
    torch.save({**state, "fc.bias": broken}, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "NaN or infinite" in message
    assert "fc.bias" in message


def test_a_file_of_another_network(folder: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(4, 3)).state_dict(), folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "it has no tensor called conv1.weight, with or without a prefix" in message
    assert "it holds 0.weight, 0.bias" in message
