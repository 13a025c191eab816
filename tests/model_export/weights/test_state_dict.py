"""State dicts of many projects, in files of every nesting."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model_export.nets.resnet import cifar_resnet
from model_export.weights.loading import load_file
from tests.model_export.weights.weight_files import (
    State,
    as_transformers,
    assert_same,
    load,
    meta_resnet,
    prefixed,
    refusal,
)


@pytest.mark.parametrize("key", ["state_dict", "model", "state_dict_ema", "model_ema"])
def test_a_training_checkpoint(folder: Path, state: State, key: str) -> None:
    torch.save({"epoch": 3, "args": Namespace(lr=0.1), key: state}, folder / "net.pth.tar")
    assert_same(load(folder / "net.pth.tar"), state)


@pytest.mark.parametrize(("averaged", "raw"), [("state_dict_ema", "state_dict"), ("model_ema", "model")])
def test_averaged_weights_are_preferred(
    folder: Path, state: State, averaged: str, raw: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    ema = {"n_averaged": torch.tensor(7), **{f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save({raw: others, averaged: ema}, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert f"using the weights under '{averaged}'" in caplog.text


@pytest.mark.parametrize(
    ("content", "logged"),
    [
        (lambda state: {"state_dict": prefixed(state, "model."), "epoch": 3}, "under 'state_dict', without the prefix"),
        (lambda state: {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}}, "under 'model_state_dict'"),
        (lambda state: {"net": {"weights": prefixed(state, "backbone.")}}, "under 'net.weights'"),
        (lambda state: prefixed(state, "net.module.") | {"loss.weight": torch.ones(3)}, "left aside: loss.weight"),
    ],
)
def test_a_state_dict_is_found_by_its_content(
    folder: Path,
    state: State,
    content: Callable[[State], dict[str, Any]],
    logged: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.save(content(state), folder / "net.ckpt")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.ckpt"), state)
    assert logged in caplog.text


def test_parameter_names_of_transformers(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    state = cifar_resnet(14, shortcut="B", num_classes=3).state_dict()
    renamed = {as_transformers(name): tensor for name, tensor in state.items()}
    for name in (
        "resnet.embedder.embedder.convolution.weight",
        "resnet.embedder.embedder.normalization.running_mean",
        "resnet.encoder.stages.2.layers.1.layer.1.normalization.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight",
        "classifier.1.bias",
    ):
        assert name in renamed
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    assert_same(load(tmp_path / "pytorch_model.bin", depth=14, shortcut="B"), state)


def test_parameter_names_of_transformers_with_bottlenecks(folder: Path) -> None:
    net = meta_resnet(50, num_classes=3)
    zeros = {as_transformers(name): torch.zeros(()).expand(one.shape) for name, one in net.state_dict().items()}
    assert "resnet.encoder.stages.3.layers.2.layer.2.convolution.weight" in zeros
    torch.save(zeros, folder / "net.pth")
    assert load_file(folder / "net.pth", depth=50, variant="v1.5").net.architecture.depth == 50


def test_a_projection_called_shortcut(folder: Path) -> None:
    state = cifar_resnet(8, shortcut="B", num_classes=3).state_dict()
    renamed = {name.replace("downsample", "shortcut").replace("fc.", "linear."): one for name, one in state.items()}
    assert "layer2.0.shortcut.0.weight" in renamed
    torch.save(renamed, folder / "net.pth")
    assert_same(load(folder / "net.pth", shortcut="B"), state)


def test_an_average_that_is_none_is_ignored(folder: Path, state: State) -> None:
    torch.save({"state_dict": state, "state_dict_ema": None}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_are_removed(folder: Path, state: State, prefix: str) -> None:
    torch.save({prefix + name: tensor for name, tensor in state.items()}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize("nested", [True, False])
def test_several_networks_in_one_file(folder: Path, state: State, nested: bool) -> None:
    both: dict[str, Any] = {f"student.{name}": tensor for name, tensor in state.items()}
    both |= {f"teacher.{name}": tensor.clone() for name, tensor in state.items()}
    if nested:
        both = {"student": state, "teacher": {name: tensor.clone() for name, tensor in state.items()}}
    torch.save(both, folder / "net.pth")
    message = refusal(folder / "net.pth")
    assert "holds several networks, under student, teacher, and no name tells which one to use: save" in message


def test_one_network_under_two_names(folder: Path, state: State) -> None:
    torch.save({"model": dict(state), "net": prefixed(state, "module.")}, folder / "net.pth")
    assert_same(load(folder / "net.pth"), state)


@pytest.mark.parametrize(("used", "aside"), [("best_model", "model"), ("model_ema", "best_model"), ("ema", "net")])
def test_weights_left_aside_are_logged(
    folder: Path, state: State, used: str, aside: str, caplog: pytest.LogCaptureFixture
) -> None:
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({aside: others, used: state}, folder / "net.pth")
    with caplog.at_level(logging.INFO):
        assert_same(load(folder / "net.pth"), state)
    assert f"using the weights under {used!r}; left aside: the weights under {aside!r}" in caplog.text
