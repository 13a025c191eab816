from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from model_export.evaluation.sessions import open_graph
from service.runtime.engine import DynamicEngine
from service.runtime.model_folder import MODEL_FILES
from service.runtime.self_test import SelfTest


def test_a_graph_in_memory_answers_as_its_file(models_dir: Path) -> None:
    folder = models_dir / "resnet8-cifar" / "1"
    stored = SelfTest.read(folder)
    engine = DynamicEngine.of(open_graph(onnx.load(folder / MODEL_FILES["fp32"])))
    assert (engine.info.provider, engine.info.precision) == ("cpu", "fp32")
    np.testing.assert_allclose(engine.infer(stored.images)["logits"], stored.logits, atol=1e-4)
