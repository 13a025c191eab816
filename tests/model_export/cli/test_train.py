"""`train` as a user runs it: new runs, resumed runs, and the sentences that end it."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor

from benchmarks.processes import descendants
from model_export.__main__ import main
from model_export.training import run as run_module
from model_export.training.history import read_history
from model_export.training.loader import Batch
from model_export.training.recipe import Recipe
from model_export.training.trainer import Trainer
from model_export.weights.loading import load_file
from model_export.weights.random_weights import random_weights
from model_export.weights.record import Record
from model_export.weights.safetensors_file import save_safetensors
from service.runtime.model_card import Architecture
from tests.support.processes import free_port
from tests.support.waiting import until

DRAWN = "drawings:train=96,val=48,side=32,difficulty=easy,classes=circle+cross+stripes"
SHORT = ["--recipe", "paper-cifar", "--depth", "8", "--batch-size", "24", "--workers", "0", "--precision", "fp32"]
FILES = {"best.safetensors", "last.pt", "metrics.csv", "tensorboard", "curves.png", "report.html", "mistakes.html"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    drawn = ["--train", "24", "--val", "12", "--classes", "circle", "cross", "stripes", "--side", "48"]
    assert main(["draw", str(folder), *drawn, "--difficulty", "easy"]) == 0
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a net for ten other classes."""
    loaded = random_weights(Architecture(depth=8, family="cifar", shortcut="A", num_classes=10))
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    record = Record(architecture=loaded.net.architecture, preprocessing=loaded.preprocessing, labels=loaded.labels)
    save_safetensors(loaded.net.state_dict(), path, record)
    return path


def test_weights_without_labels_are_fine_tuned(
    tmp_path: Path, pictures: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`train` has no `--labels`: it needs them only to keep the last layer."""
    unnamed = tmp_path / "unnamed.pth"
    torch.save(load_file(weights).net.state_dict(), unnamed)
    network = ["--depth", "8", "--family", "cifar", "--weights", str(unnamed)]
    short = ["--epochs", "1", "--batch-size", "12", "--workers", "0"]
    assert main(["train", "--data", str(pictures), *network, *short, "--out", str(tmp_path / "run")]) == 0
    assert "10 classes and no labels" in caplog.text
    assert "with a new last layer" in caplog.text


def test_a_run_leaves_everything_that_its_user_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "run"
    assert main(["train", "--data", DRAWN, *SHORT, "--epochs", "2", "--lr", "0.05", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} >= FILES
    with (out / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    loaded = load_file(out / "best.safetensors")
    assert loaded.accuracy is not None
    assert loaded.accuracy.images == 48
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    for part in ("paper-cifar", "resnet8-cifar", "48", DRAWN.replace("&", "&amp;"), "He initialisation"):
        assert part in page
    assert "  lr 0.05\n" in caplog.text  # the recipe in full, before it begins
    assert f"export --weights {out}/best.safetensors" in caplog.text


def test_weights_bring_their_sizes_and_get_a_new_head(
    pictures: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--data", str(pictures), "--weights", str(weights), "--epochs", "1", "--workers", "0"]
    assert main(["train", *options, "--batch-size", "12", "--out", str(tmp_path)]) == 0
    loaded = load_file(tmp_path / "best.safetensors")
    assert loaded.net.architecture == Architecture(depth=8, family="cifar", shortcut="A", num_classes=3)
    assert loaded.preprocessing == load_file(weights).preprocessing
    assert [label.name for label in loaded.labels] == ["circle", "cross", "stripes"]
    assert "net.safetensors, with a new last layer" in caplog.text


def test_show_prints_the_recipe_as_it_would_be(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--recipe",
        "paper-imagenet",
        "--mixup",
        "0.8",
        "--epochs",
        "none",
        "--steps",
        "9",
        "--milestones",
        "none",
    ]
    assert main(["train", "--show", *options]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert {"mixup 0.8", "epochs none", "steps 9", "milestones none"} <= set(shown)
    assert len(shown) == len(Recipe.model_fields)
    assert main(["train", "--show", "--recipe", "paper-cifar", "--depth", "110"]) == 0
    assert "warmup_lr 0.01" in capsys.readouterr().out.splitlines()


def train_in_a_process(options: list[str], errors: Path, trainer: type[Trainer] = Trainer) -> None:
    """`train` as a process of its own; what it says goes to a file."""
    torch.set_num_threads(1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    run_module.Trainer = trainer  # type: ignore[misc]
    raise SystemExit(main(["train", *options]))


@pytest.mark.e2e
@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(
    signum: signal.Signals, forkserver: ForkServerContext, tmp_path: Path
) -> None:
    run, said = tmp_path / "my run", tmp_path / "stderr.txt"
    endless = ["--data", DRAWN, *SHORT, "--steps", "100000", "--out", str(run)]
    process = forkserver.Process(target=train_in_a_process, args=(endless, said))
    process.start()
    until(lambda: (run / "metrics.csv").exists() or not process.is_alive(), seconds=90)  # until the first evaluation
    assert process.is_alive(), said.read_text()
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join(60)
    assert process.exitcode == 128 + signum
    errors = said.read_text()
    last_line = errors.splitlines()[-1]
    assert last_line.startswith(f"stopped by {signum.name} after step ")
    assert last_line.endswith(f"resume with: python -m model_export train --resume '{run}'")
    assert "Traceback" not in errors
    assert torch.load(run / "last.pt", weights_only=True)["step"] == int(last_line.split(";")[0].split()[-1])


class Cut(Trainer):
    """Is told to stop in the middle of its sixth step."""

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().train_step(batch)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_resumed_run_needs_nothing_but_its_folder(
    forkserver: ForkServerContext,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole, cut, said = tmp_path / "whole", tmp_path / "cut", tmp_path / "stderr.txt"
    options = ["--data", DRAWN, *SHORT, "--epochs", "2", "--seed", "3"]
    assert main(["train", *options, "--out", str(whole)]) == 0
    process = forkserver.Process(target=train_in_a_process, args=([*options, "--out", str(cut)], said, Cut))
    process.start()
    process.join(60)
    assert process.exitcode == 128 + signal.SIGTERM, said.read_text()
    assert main(["train", "--resume", str(cut), "--epochs", "9", "--seed", "4"]) == 1
    assert "keeps its settings: leave --epochs, --seed out" in capsys.readouterr().err
    assert main(["train", "--resume", str(cut)]) == 0
    assert "resuming after step 6 of 8" in caplog.text
    ours, theirs = (load_safetensors(folder / "best.safetensors") for folder in (cut, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert {path.name for path in cut.iterdir()} >= FILES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "paper-cifar", "--depth", "8"], "no data to train on: give --data"),
        (["--data", DRAWN], "no network chosen: give --depth, or --weights"),
        # Before the data is looked at, which may take long.
        (["--data", "nowhere", "--recipe", "paper-cifar", "--depth", "9"], "depth 6n+2"),
        (["--data", "nowhere", *SHORT, "--freeze", "conv5"], "resnet8-cifar has no conv5: the last stage is conv4"),
        (["--data", "nowhere", *SHORT, "--folds", "3", "--fold", "4"], "there is no fold 4 of 3: give"),
        (["--data", "nowhere", *SHORT, "--mirror", "maybe"], "mirror: expected yes or no, got 'maybe'"),
        (["--data", DRAWN, "--depth", "18"], "recipe finetune starts from trained weights: give --weights"),
        (["--data", DRAWN, "--recipe", "paper-cifar", "--depth", "8", "--lr", "fast"], "recipe paper-cifar: lr: "),
        (["--data", DRAWN, *SHORT, "--fold", "2"], "--folds and --fold go together: give `--folds 5 --fold 1`"),
        (["--data", DRAWN, *SHORT, "--folds", "5", "--fold", "2"], "drawings have a validation part of their own"),
        (
            ["--data", "pictures", *SHORT, "--folds", "5", "--fold", "2", "--val-share", "0.1"],
            "--val-share only applies to a run without folds: leave it out",
        ),
        (["--data", DRAWN, "--val-share", "0.2"], "--val-share only applies to a folder of images: leave it out"),
        (["--data", "cifar10", "--ignore", "x", "--broken", "skip"], "--broken and --ignore only apply to a folder of"),
        (["--data", "cifar10:.", *SHORT, "--split", "a,b"], "CIFAR-10 has no parts a,b: give `--split train,test`"),
        (["--data", DRAWN, "--split", "train,val"], "--split only applies to a folder of images: leave it out"),
        (["--show", "--weights", "imagenet"], "--weights and --out only apply to a run: leave them out"),
        (["--data", "nowhere", "--recipe", "paper-cifar", "--depth", "8"], "nowhere"),
        (["--resume", "nowhere"], "nowhere holds no last.pt"),
        (
            ["--data", DRAWN, "--weights", "imagenet", "--depth", "50", "--variant", "v1"],
            "are for v1.5 with shortcut option B",
        ),
        (["--data", DRAWN, "--weights", "imagenet"], "--weights imagenet needs the network's depth: give --depth"),
        (["--data", DRAWN, "--weights", "WEIGHTS", "--depth", "14"], "holds a different network: it records depth 8"),
        (["--data", DRAWN, "--recipe", "paper-cifar", "--depth", "8", "--device", "cuda"], "no CUDA device"),
    ],
)
def test_errors_are_one_sentence(
    options: list[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--device" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    options = [str(weights) if option == "WEIGHTS" else option for option in options]
    assert main(["train", *options, *([] if "--resume" in options else ["--out", str(tmp_path / "run")])]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "last.pt").exists()


def test_folders_that_cannot_be_trained_on(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ["--recipe", "paper-cifar", "--depth", "8", "--out", str(tmp_path / "run")]
    tree = tmp_path / "tree"
    shutil.copytree(pictures, tree)
    shutil.rmtree(tree / "val" / "cross")
    assert main(["train", "--data", str(tree), *train]) == 1
    assert "cross" in capsys.readouterr().err
    (tree / "val" / "cross").mkdir()
    assert main(["train", "--data", str(tree), *train]) == 1
    assert str(tree / "val" / "cross") in capsys.readouterr().err


def test_a_folder_keeps_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.pt").write_bytes(b"precious")
    assert main(["train", "--data", DRAWN, *SHORT, "--out", str(tmp_path)]) == 1
    assert f"already holds a run: resume it with `--resume {tmp_path}`" in capsys.readouterr().err
    assert (tmp_path / "last.pt").read_bytes() == b"precious"


def torchrun(*program: str) -> subprocess.CompletedProcess[str]:
    """Two processes that train together, on gloo. After the time limit none of them is left."""
    # By address, since a machine's own name may resolve slowly or not at all.
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), *program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            out, err = process.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            for pid in descendants(process.pid):  # each in a session of its own: they would outlive torchrun
                os.kill(pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


# Ends the group late on one process, with a message still on its way: all that a hang needs is a wrapper that outlives
# Python's own hold on the group.
LATE = """
import gc, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from model_export.__main__ import main

destroy = dist.destroy_process_group

def late():
    assert not any(isinstance(thing, DistributedDataParallel) for thing in gc.get_objects())
    if dist.get_rank() == 0:
        time.sleep(0.5)
    dist.all_reduce(torch.zeros(1), async_op=True)
    destroy()

dist.destroy_process_group = late
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_end_however_late_their_group_does(tmp_path: Path) -> None:
    program = tmp_path / "late.py"
    program.write_text(LATE)
    options = ["--data", DRAWN, *SHORT, "--epochs", "1", "--device", "cpu", "--out", str(tmp_path / "run")]
    finished = torchrun(str(program), "train", *options)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "run" / "best.safetensors").exists()


@pytest.mark.e2e
@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_whole_batch(tmp_path: Path) -> None:
    """Under torchrun on gloo, with batch norms over both: the same losses, the same weights but for rounding."""
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["--data", DRAWN, *SHORT, "--epochs", "2", "--lr", "0.01", "--sync-bn", "yes", "--device", "cpu"]
    options += ["--checkpoint-minutes", "0"]  # which the processes have to agree on
    options += ["--sampling", "balanced", "--early-stopping", "5"]
    assert main(["train", *options, "--out", str(one)]) == 0
    finished = torchrun("-m", "model_export", "train", *options, "--out", str(two))
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("recipe:\n") == 1  # one process talks
    ours, theirs = (read_history(folder / "metrics.csv") for folder in (two, one))
    for a, b in zip(ours, theirs, strict=True):
        for figure in ("train_loss", "val_loss"):
            assert getattr(a, figure) == pytest.approx(getattr(b, figure), rel=1e-4), figure
        assert a.train_error == pytest.approx(b.train_error, abs=1.5 / 96)  # one image may fall to the other side
        assert a.val_error == pytest.approx(b.val_error, abs=1.5 / 48)
    ours_net, theirs_net = (load_safetensors(folder / "best.safetensors") for folder in (two, one))
    for name, tensor in theirs_net.items():
        torch.testing.assert_close(ours_net[name], tensor, rtol=1e-3, atol=1e-3)
