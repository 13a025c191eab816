"""MLflow and Weights & Biases, each with its real client if it is installed, without a server."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from model_export.errors import InputError
from model_export.report.finished_run import report_run
from model_export.training.history import Row
from model_export.training.trackers import open_trackers

from .conftest import MakeTrainer

pytestmark = pytest.mark.filterwarnings("default")  # those of the clients


def tracked(trainer: MakeTrainer, name: str) -> list[Row]:
    """A run that a tracker follows to its end."""
    run = trainer(callbacks=open_trackers([name, name]))
    assert len(run.callbacks.callbacks) == 1
    rows = run.run()
    report_run(run, rows)
    return rows


def test_mlflow(trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shapes")
    rows = tracked(trainer, "mlflow")
    client = mlflow.MlflowClient(f"file:{tmp_path}/mlruns")
    run_id = (tmp_path / "run" / "mlflow-run-id").read_text().strip()
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "shapes"
    assert (run.info.status, run.info.run_name, run.data.params["lr"]) == ("FINISHED", "run", "0.05")
    history = client.get_metric_history(run_id, "val_error")
    assert [(metric.step, metric.value) for metric in history] == [(row.step, row.val_error) for row in rows]
    assert 0 <= run.data.metrics["val_top1"] <= 1

    again = trainer(callbacks=open_trackers(["mlflow"]))
    again.callbacks.on_run_begin(tmp_path / "run", {"lr": "0.05"})
    assert client.get_run(run_id).info.status == "RUNNING"  # the same run


def test_an_mlflow_server_that_does_not_answer(
    trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = trainer(callbacks=open_trackers(["mlflow"]))
    with pytest.raises(
        InputError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be logged to .*: set MLFLOW_TRACKING_URI"
    ):
        run.run()
    assert not (tmp_path / "run" / "mlflow-run-id").exists()


def test_wandb_offline(trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracked(trainer, "wandb")
    (records,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    run_id = (tmp_path / "run" / "wandb-run-id").read_text().strip()
    assert records.name == f"run-{run_id}.wandb"
    content = records.read_bytes()
    for name in (b"val_error", b"val_macro_f1", b"label_smoothing"):
        assert name in content


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_package_that_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    message = rf"--log-to {name} needs a package that is not installed .*: pip install 'resnet-service\[{name}\]'"
    with pytest.raises(InputError, match=message):
        open_trackers([name])
