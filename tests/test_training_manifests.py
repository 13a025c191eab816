"""The manifests of deploy/training: valid, one like the other, and what torchrun and the image need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.distributed.run import get_args_parser

from model_export.__main__ import main, make_parser
from model_export.training.history import read_history
from tests.support.processes import free_port

ROOT = Path(__file__).parents[1]
TRAINING = ROOT / "deploy" / "training"
SERVICE, JOB = yaml.safe_load_all((TRAINING / "job.yaml").read_text())
TRAIN_JOB = yaml.safe_load((TRAINING / "trainjob.yaml").read_text())
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
RELEASES = ("1.31", "1.36")  # of Kubernetes: the oldest that is still in wide use, and a new one


def environment(rank: int) -> dict[str, str]:
    """The variables of a container as Kubernetes sets them for the Pod with this index."""
    found = {}
    for entry in CONTAINER["env"]:
        reference = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
        if reference is not None:
            assert reference == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        found[entry["name"]] = entry.get("value", str(rank))
    return found


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("described", [SERVICE, JOB], ids=lambda described: described["kind"])
def test_the_schemas_of_kubernetes_hold(described: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(described, release, strict=True)


def test_the_schema_of_kubeflow_trainer_holds() -> None:
    # takes a second, which every process of the tests would spend
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob

    parsed = TrainerV1alpha1TrainJob.from_dict(TRAIN_JOB)
    assert parsed is not None
    assert parsed.to_dict() == TRAIN_JOB  # nothing is unknown


def test_both_manifests_run_the_same_training() -> None:
    trainer = TRAIN_JOB["spec"]["trainer"]
    for name in ("image", "command", "args"):
        assert trainer[name] == CONTAINER[name]
    assert trainer["resourcesPerNode"] == CONTAINER["resources"]
    assert str(trainer["numNodes"]) == environment(0)["PET_NNODES"]
    assert str(trainer["numProcPerNode"]) == environment(0)["PET_NPROC_PER_NODE"]
    (patch,) = TRAIN_JOB["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["name"] == container["name"] == "node"  # as the runtime torch-distributed calls them
    for name in ("volumeMounts", "securityContext"):
        assert container[name] == CONTAINER[name]
    for name in ("volumes", "securityContext", "terminationGracePeriodSeconds"):
        assert pod[name] == POD[name]


@pytest.mark.parametrize("release", RELEASES)
def test_the_older_job_of_kubeflow_has_the_same_pods(release: str) -> None:
    """Its schema is in no package: that of the Pod is checked, and the rest by name."""
    job = yaml.safe_load((TRAINING / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert job["spec"].keys() == {"nprocPerNode", "runPolicy", "pytorchReplicaSpecs"}
    assert job["spec"]["nprocPerNode"] == environment(0)["PET_NPROC_PER_NODE"]
    roles = job["spec"]["pytorchReplicaSpecs"]
    assert roles.keys() == {"Master", "Worker"}
    assert sum(role["replicas"] for role in roles.values()) == int(environment(0)["PET_NNODES"])
    assert roles["Master"]["replicas"] == 1
    for role in roles.values():
        assert role.keys() == {"replicas", "restartPolicy", "template"}
        pod = role["template"]["spec"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}, release, strict=True
        )
        (container,) = pod["containers"]
        assert container == {key: value for key, value in CONTAINER.items() if key != "env"} | {"name": "pytorch"}
        assert pod | {"containers": [], "restartPolicy": "Never", "subdomain": POD["subdomain"]} == POD | {
            "containers": []
        }


def test_torchrun_takes_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONTAINER["command"][0] == "torchrun"
    for name, value in environment(1).items():
        monkeypatch.setenv(name, value)
    given = [*CONTAINER["command"][1:], *CONTAINER["args"]]
    args = get_args_parser().parse_args(given)
    assert (args.nnodes, args.nproc_per_node, args.node_rank) == ("2", "1", 1)
    assert (args.master_addr, args.master_port) == ("resnet-training-0.resnet-training", 29500)
    assert args.module
    assert args.training_script == "model_export"
    assert make_parser("train").parse_args(args.training_script_args).out == Path("/runs/first")


def test_the_pods_find_the_first_one() -> None:
    spec, name = JOB["spec"], JOB["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    assert str(spec["completions"]) == str(spec["parallelism"]) == environment(0)["PET_NNODES"]
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    assert environment(1)["PET_MASTER_ADDR"] == f"{name}-0.{POD['subdomain']}"
    assert environment(1)["PET_MASTER_PORT"] == str(SERVICE["spec"]["ports"][0]["port"])


def test_the_pod_fits_the_image() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.M)
    assert user is not None
    context = POD["securityContext"]
    assert [context["runAsUser"], context["runAsGroup"], context["fsGroup"]] == [*map(int, user.groups()), int(user[2])]
    mounted = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in POD["volumes"]}
    assert "--home-dir /tmp" in dockerfile
    assert mounted["tmp"] == "/tmp"
    assert mounted["shared-memory"] == "/dev/shm"


DRAWN = "drawings:train=96,val=48,side=32,difficulty=easy,classes=circle+cross+stripes"
SHORT = ["--recipe=paper-cifar", "--depth=8", "--batch-size=24", "--workers=0", "--precision=fp32", "--epochs=2"]
SHORT += ["--lr=0.01", "--device=cpu", f"--data={DRAWN}"]


@pytest.mark.e2e
@pytest.mark.slow
def test_two_pods_train_what_one_process_trains(tmp_path: Path) -> None:
    """The command and the variables of both Pods as real processes on gloo, the first at this machine's address."""
    shared = [argument for argument in CONTAINER["args"] if argument.startswith("--sync-bn")]
    assert main(["train", *SHORT, *shared, f"--out={tmp_path / 'one'}"]) == 0

    program, *command = CONTAINER["command"]
    here = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(free_port())}
    here |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    options, pods = [*SHORT, *shared, f"--out={tmp_path / 'two'}"], []
    try:
        for rank in range(int(JOB["spec"]["completions"])):
            with (tmp_path / f"pod-{rank}.log").open("w") as log:
                pods.append(
                    subprocess.Popen(
                        [str(Path(sys.executable).with_name(program)), *command, *options],
                        env={**os.environ, **environment(rank), **here},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        statuses = [pod.wait(timeout=240) for pod in pods]
    finally:
        for pod in pods:
            pod.terminate()  # torchrun ends its process, too
            pod.wait()
    assert statuses == [0, 0], [(tmp_path / f"pod-{rank}.log").read_text() for rank in range(2)]

    ours, theirs = (read_history(tmp_path / folder / "metrics.csv") for folder in ("two", "one"))
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=1e-4)
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-4)
    ours_net, theirs_net = (load_file(tmp_path / folder / "best.safetensors") for folder in ("two", "one"))
    for name, tensor in theirs_net.items():
        torch.testing.assert_close(ours_net[name], tensor, rtol=1e-3, atol=1e-3)
