"""Experiment trackers that follow a run: MLflow and Weights & Biases. Both take their servers from the environment."""

from __future__ import annotations

import importlib
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from model_export.errors import InputError
from model_export.training.callbacks import Callback, Metrics
from service.runtime.disk import write_atomically

TrackerName = Literal["mlflow", "wandb"]
PROJECT = "resnet-service"  # experiment or project, unless the environment names another


def open_trackers(names: Iterable[str]) -> list[Callback]:
    """The trackers of these names, each once.

    Raises:
        InputError: the package of one is not installed.
    """
    kinds: dict[str, type[MlflowTracker | WandbTracker]] = {"mlflow": MlflowTracker, "wandb": WandbTracker}
    return [kinds[name](_imported(name)) for name in dict.fromkeys(names)]


class MlflowTracker:
    """Logs to MLflow: to the server in MLFLOW_TRACKING_URI, under the experiment in MLFLOW_EXPERIMENT_NAME.

    The run's id is kept in the run's folder, so a resumed run goes on in the same place.
    """

    def __init__(self, mlflow: Any) -> None:
        self.mlflow = mlflow

    def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
        try:
            self.client = self.mlflow.MlflowClient()
            self.run_id = _kept_id(folder / "mlflow-run-id", lambda: self._created(folder.name, settings))
            self.client.update_run(self.run_id, status="RUNNING")
        except Exception as error:  # of the server, the network, the file system
            uri = self.mlflow.get_tracking_uri()
            raise InputError(
                f"MLflow at {uri} cannot be logged to ({error}): set MLFLOW_TRACKING_URI, or leave --log-to mlflow out"
            ) from error

    def _created(self, name: str, settings: Mapping[str, object]) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        run_id = str(self.client.create_run(experiment_id, run_name=name).info.run_id)
        entities = self.mlflow.entities
        self.client.log_batch(run_id, params=[entities.Param(key, str(value)) for key, value in settings.items()])
        return run_id

    def on_epoch_end(self, metrics: Metrics) -> None:
        now, step = int(1000 * time.time()), int(metrics["step"])
        metric = self.mlflow.entities.Metric
        self.client.log_batch(
            self.run_id, metrics=[metric(key, value, now, step) for key, value in metrics.items() if key != "step"]
        )

    def on_run_end(self, metrics: Metrics) -> None:
        for key, value in metrics.items():
            self.client.log_metric(self.run_id, key, value)
        self.client.set_terminated(self.run_id)


class WandbTracker:
    """Logs to Weights & Biases, as WANDB_MODE, WANDB_PROJECT and the other variables of its client say.

    The run's id is kept in the run's folder, so a resumed run goes on in the same place.
    """

    def __init__(self, wandb: Any) -> None:
        self.wandb = wandb

    def on_run_begin(self, folder: Path, settings: Mapping[str, object]) -> None:
        try:
            self.run = self.wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=folder.name,
                id=_kept_id(folder / "wandb-run-id", lambda: uuid.uuid4().hex[:8]),
                resume="allow",
                dir=str(folder),
                config=dict(settings),
                settings=self.wandb.Settings(console="off", silent=True),
            )
        except Exception as error:  # of the server, the network, the file system
            raise InputError(
                f"Weights & Biases cannot be logged to ({error}): run `wandb login`, set WANDB_MODE=offline, or leave "
                "--log-to wandb out"
            ) from error

    def on_epoch_end(self, metrics: Metrics) -> None:
        self.run.log(dict(metrics), step=int(metrics["step"]))

    def on_run_end(self, metrics: Metrics) -> None:
        self.run.summary.update(dict(metrics))
        self.run.finish()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--log-to {name} needs a package that is not installed ({error}): pip install 'resnet-service[{name}]'"
        ) from error


def _kept_id(path: Path, make: Callable[[], str]) -> str:
    """The id in a file of the run's folder; made and written if there is none."""
    if path.is_file():
        return path.read_text().strip()
    run_id = make()
    write_atomically(path, f"{run_id}\n".encode())
    return run_id
