"""The service as confined as in its container, where there is no container runtime: by the kernel's own means."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from tests.support.processes import JPEG, STARTUP_S, answers_ready, free_port, request
from tests.support.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
CONTAINER = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["service"]
PIDS, TMPFS = CONTAINER["pids_limit"], CONTAINER["tmpfs"].partition(":")[2]
MEMORY = int(CONTAINER["mem_limit"].removesuffix("g")) * 2**30
USER = 10001
# What the container's image would hold: the system, Python with the packages, and the project. Outer folders first: the
# virtual environment may lie in the project.
VISIBLE = ["/usr", "/bin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys", str(ROOT), sys.base_prefix, sys.prefix]

# A root of its own, read-only and without the rest of the machine; a small /tmp where nothing can be executed; limits;
# and a user without capabilities who cannot get any.
CONFINE = f"""
for group in $CONTROL_GROUPS; do echo $$ > "$group/cgroup.procs"; done
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$NEW_ROOT"
mkdir "$NEW_ROOT/tmp"
mount -t tmpfs -o {TMPFS} tmpfs "$NEW_ROOT/tmp"
show() {{
    if [ -L "$1" ]; then cp -a "$1" "$NEW_ROOT$2"; return; fi
    mkdir -p "$NEW_ROOT$2"
    mount --rbind "$1" "$NEW_ROOT$2"
    mount -o remount,bind,ro "$NEW_ROOT$2"
}}
for path in $VISIBLE; do if [ -e "$path" ] && [ ! -e "$NEW_ROOT$path" ]; then show "$path" "$path"; fi; done
show "$MODELS_DIR" /models
mount -o remount,ro "$NEW_ROOT"
exec chroot "$NEW_ROOT" prlimit --nproc={PIDS} --core=0 \\
    setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""
PROBE = """
import os, sys
for folder in sys.argv[1:]:
    try:
        step, path = "open", os.path.join(folder, "probe")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o755))
        step = "execv"
        os.execv(path, [path])
    except OSError as error:
        print(f"{step}: {error.strerror}")
"""


@contextlib.contextmanager
def control_groups() -> Iterator[list[Path]]:
    """Groups with the container's limits of memory and processes, where this process may make them; else none."""
    name = f"resnet-test-{os.getpid()}"
    mounted = Path("/sys/fs/cgroup")
    if (mounted / "cgroup.controllers").exists():
        limits = [(mounted / name, "memory.max", MEMORY), (mounted / name, "pids.max", PIDS)]
    else:
        limits = [
            (mounted / "memory" / name, "memory.limit_in_bytes", MEMORY),
            (mounted / "pids" / name, "pids.max", PIDS),
        ]
    made: list[Path] = []
    try:
        for group, file, limit in limits:
            with contextlib.suppress(OSError):
                if not group.exists():
                    group.mkdir()
                    made.append(group)
                (group / file).write_text(str(limit))
        yield made
    finally:
        for group in made:
            until(lambda group=group: not (group / "cgroup.procs").read_text())  # its processes have been reaped
            group.rmdir()


@pytest.fixture
def groups() -> Iterator[list[Path]]:
    with control_groups() as made:
        yield made


def confined(
    command: list[str], models_dir: Path, new_root: Path, groups: Sequence[Path] = ()
) -> tuple[list[str], dict[str, str]]:
    """The command that runs another one confined, and its environment."""
    environment = {
        "CONTROL_GROUPS": " ".join(map(str, groups)),
        "MODELS_DIR": str(models_dir),
        "NEW_ROOT": str(new_root),
        "VISIBLE": " ".join(VISIBLE),
        "HOME": "/tmp",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "RESNET_CACHE_DIR": "/tmp/cache",
    }
    return ["unshare", "--mount", "--ipc", "--uts", "bash", "-euc", CONFINE, "confined", *command], environment


@pytest.fixture
def new_root(models_dir: Path, tmp_path: Path) -> Path:
    """Where the root of a confined process is mounted. Skips the test where a process cannot be confined so."""
    folder = tmp_path / "root"
    folder.mkdir()
    if missing := [name for name in ("unshare", "chroot", "setpriv", "prlimit") if shutil.which(name) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    command, environment = confined([sys.executable, "-c", "import service.settings"], models_dir, folder)
    tried = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"the kernel forbids it, or this is not root: {tried.stderr.strip()[-300:]}")
    return folder


def test_what_is_forbidden_is_forbidden(models_dir: Path, new_root: Path) -> None:
    """Nothing can be written but in /tmp, and nothing that was written can be executed."""
    folders = [str(ROOT), sys.prefix, "/models", "/", "/tmp"]
    command, environment = confined([sys.executable, "-c", PROBE, *folders], models_dir, new_root)
    output = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True).stdout
    *elsewhere, in_tmp = output.splitlines()
    assert elsewhere == ["open: Read-only file system"] * 4
    assert in_tmp == "execv: Permission denied"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_confined_service_classifies_and_stops(
    new_root: Path, groups: list[Path], models_dir: Path, photo: bytes, tmp_path: Path, workers: int
) -> None:
    port = free_port()
    options = [f"--port={port}", "--models-dir=/models", f"--workers={workers}", "--shutdown-delay=0.1"]
    command, environment = confined([sys.executable, "-m", "service", *options], models_dir, new_root, groups)
    log = tmp_path / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd="/", stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or answers_ready(url), STARTUP_S)
        assert process.poll() is None, log.read_text()

        status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{process.pid}/status").read_text(), re.M))
        assert set(status["Uid"].split() + status["Gid"].split()) == {str(USER)}
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"
        assert [group for group in groups if str(process.pid) not in (group / "cgroup.procs").read_text().split()] == []

        response = request("POST", f"{url}/classify", content=photo, headers=JPEG)
        assert response.status_code == 200
        assert len(response.json()["images"][0]["predictions"]) == 5

        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
        assert "WARNING" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
