"""The demo's training, shortened; the whole of it runs in tests/e2e/test_demo.py."""

from __future__ import annotations

import io
import logging

import numpy as np
import pytest
import torch

from model_export.demo import SERVED, Phase, Schedule, drawn, evaluate, has_native_bfloat16, normalised, train_demo
from model_export.drawings import CLASSES, picture
from model_export.resnet import resnet
from service.imaging import decode

TINY = Schedule(
    phases=(Phase(crop=32, pictures=240, batch_size=12), Phase(crop=64, pictures=24, batch_size=12)),
    held_out=12,
)


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(1)
    first = train_demo(3, progress=False, schedule=TINY)
    torch.manual_seed(2)  # the caller's generator plays no part
    second = train_demo(3, progress=False, schedule=TINY)
    assert first.losses == second.losses
    assert first.accuracy == second.accuracy
    for name, weights in first.net.state_dict().items():
        assert torch.equal(weights, second.net.state_dict()[name]), name


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    train_demo(0, progress=False, schedule=Schedule(phases=(Phase(32, 8, 8),), held_out=1))
    assert torch.equal(torch.rand(4), expected)


def test_the_loss_falls_and_the_net_is_ready_to_be_exported() -> None:
    demo = train_demo(0, progress=False, schedule=TINY)
    assert len(demo.losses) == 20 + 2
    assert np.mean(demo.losses[14:20]) < np.mean(demo.losses[:6])
    assert not demo.net.training
    assert demo.net.architecture.num_classes == len(CLASSES)
    assert {weights.dtype for weights in demo.net.parameters()} == {torch.float32}
    assert demo.accuracy.images == 12


def test_the_learning_rate_warms_up_stays_and_falls_in_the_last_phase() -> None:
    schedule = Schedule(phases=(Phase(32, 80, 10), Phase(64, 20, 10)), warm_up=0.2)
    rates = [schedule.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 1, 1, 0.5])


def test_seeds_differ() -> None:
    short = Schedule(phases=(Phase(32, 8, 8),), held_out=1)
    assert train_demo(0, progress=False, schedule=short).losses != train_demo(1, progress=False, schedule=short).losses


def test_drawings_arrive_as_the_service_decodes_them() -> None:
    images, labels = drawn(5, range(10, 22), SERVED, progress=False)
    assert images.shape == (12, 3, 224, 224)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [index % len(CLASSES) for index in range(10, 22)]
    expected = decode(picture(5, 13), SERVED, max_pixels=10**6).pixels
    assert np.array_equal(images[3].numpy(), expected)


def test_accuracy_counts_right_answers() -> None:
    """A net that always answers 4, 3, 2, 1, 0 in this order: class 4 is right, classes 0 to 4 are in its top 5."""
    net = resnet(18, num_classes=len(CLASSES)).eval()
    torch.nn.init.zeros_(net.fc.weight)
    net.fc.bias.data[:] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0] + [0.0] * (len(CLASSES) - 5))
    accuracy = evaluate(net, 0, range(2 * len(CLASSES)), progress=False)
    assert accuracy.images == 2 * len(CLASSES)
    assert accuracy.top1 == pytest.approx(1 / len(CLASSES))
    assert accuracy.top5 == pytest.approx(5 / len(CLASSES))


def test_normalised_pixels_are_those_of_the_card() -> None:
    images = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    x = normalised(images)
    assert x.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, channel] / 255 - SERVED.mean[channel]) / SERVED.std[channel]
        torch.testing.assert_close(x[:, channel], expected)


def test_bfloat16_is_found_by_asking_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    assert not has_native_bfloat16()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": True})
    assert has_native_bfloat16()


def test_progress_goes_to_the_log_without_a_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with caplog.at_level(logging.INFO, logger="model_export.progress"):
        drawn(0, range(4), SERVED, progress=True)
        assert caplog.messages[-1].startswith("drawing: 4 of 4 pictures")
        caplog.clear()
        drawn(0, range(4), SERVED, progress=False)
        assert not caplog.messages


def test_progress_is_a_bar_on_a_terminal(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", terminal)
    with caplog.at_level(logging.INFO, logger="model_export.progress"):
        drawn(0, range(4), SERVED, progress=True)
    assert "4/4" in terminal.getvalue()
    assert not caplog.messages
