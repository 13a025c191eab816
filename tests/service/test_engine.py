"""The engine, on really exported models and real providers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from service import engine as engine_module
from service.card import ModelCard, SelfTest
from service.engine import OUTPUTS, TOLERANCE, Engine, SelfTestFailed, load_engine
from service.providers import ProviderChoice, ProviderName, ProviderUnavailable, Session, open_session


@pytest.fixture
def folder(models_dir: Path) -> Path:
    return models_dir / "resnet18" / "1"


def load(folder: Path, provider: ProviderChoice = "cpu") -> Engine:
    return load_engine(folder, ModelCard.read(folder), provider=provider, threads=2, max_batch=3)


def test_outputs_and_their_shapes(folder: Path) -> None:
    images = SelfTest.read(folder).images[:3]
    found = load(folder).infer(images, OUTPUTS)
    assert {name: array.shape for name, array in found.items()} == {
        "logits": (3, 1000),
        "embedding": (3, 512),
        "feature_map": (3, 512, 7, 7),
    }
    assert all(array.dtype == np.float32 for array in found.values())
    np.testing.assert_allclose(found["embedding"], found["feature_map"].mean(axis=(2, 3)), rtol=1e-4)


def test_an_answer_does_not_depend_on_the_batch(folder: Path) -> None:
    images = SelfTest.read(folder).images
    engine = load(folder)
    together = engine.infer(images)["logits"]
    alone = np.concatenate([engine.infer(image[None])["logits"] for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_warm_up_runs_every_batch_size(folder: Path) -> None:
    assert load(folder).warmed == (1, 2, 3)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_self_test_reproduces_pytorchs_answers(folder: Path, provider: ProviderName) -> None:
    try:
        engine = load(folder, provider)
    except ProviderUnavailable as error:
        pytest.skip(str(error))
    assert engine.provider == provider
    assert 0 < engine.self_test(SelfTest.read(folder)) < TOLERANCE[engine.compute]


def test_wrong_answers_are_refused(folder: Path) -> None:
    engine = load(folder)
    stored = SelfTest.read(folder)
    wrong = SelfTest(stored.images, np.roll(stored.logits, 1, axis=1))
    with pytest.raises(SelfTestFailed, match="cpu computes wrong answers"):
        engine.self_test(wrong)
    with pytest.raises(SelfTestFailed):
        engine.self_test(SelfTest(stored.images, np.full_like(stored.logits, np.nan)))


def test_auto_moves_on_from_a_provider_that_computes_wrongly_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_poisoned(model: Path, provider: ProviderName, *, threads: int) -> Session:
        """OpenVINO "works", but runs another network."""
        if provider == "cuda":
            raise ProviderUnavailable("no such luck")
        path = model if provider == "cpu" else poisoned
        return open_session(path, "cpu", threads=threads)._replace(provider=provider)

    poisoned = folder.parent / "poisoned.onnx"
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400_000] = bytes(400_000)  # weights that are zero
    poisoned.write_bytes(data)
    monkeypatch.setattr(engine_module, "open_session", open_poisoned)
    monkeypatch.setattr(engine_module, "refusal_in_auto", lambda provider: None)
    try:
        engine = load(folder, "auto")
        assert engine.provider == "cpu"
        assert engine.refused["cuda"] == "no such luck"
        assert "computes wrong answers" in engine.refused["openvino"]
        with pytest.raises(SelfTestFailed):
            load(folder, "openvino")
    finally:
        poisoned.unlink()


def test_a_provider_that_fails_while_running_is_refused_like_one_that_does_not_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(self: Engine, max_batch: int) -> None:
        if self.provider == "openvino":
            raise RuntimeError("out of memory")

    def open_any(model: Path, provider: ProviderName, *, threads: int) -> Session:
        return open_session(model, "cpu", threads=threads)._replace(provider=provider)

    monkeypatch.setattr(Engine, "warm_up", out_of_memory)
    monkeypatch.setattr(engine_module, "open_session", open_any)
    monkeypatch.setattr(engine_module, "refusal_in_auto", lambda provider: "no" if provider == "cuda" else None)
    engine = load(folder, "auto")
    assert engine.provider == "cpu"
    assert engine.refused["openvino"] == "openvino does not run this model: out of memory"
    with pytest.raises(ProviderUnavailable, match="out of memory"):
        load(folder, "openvino")


def test_when_nothing_runs_every_reason_is_given(models_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(models_dir / "resnet8-cifar" / "1", tmp_path / "resnet8-cifar" / "1"))
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ProviderUnavailable, match=r"no execution provider runs this model: cuda: .*; cpu: "):
        load(folder, "auto")
