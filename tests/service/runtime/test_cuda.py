"""Probing NVIDIA's driver, with a stand-in for its library, and the CUDA libraries."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

from service.runtime import cuda
from service.runtime.cuda import CudaMissing, Gpu

SOURCE = Path(__file__).with_name("libcuda.c")


@pytest.fixture(autouse=True)
def _without_cached_gpus() -> Iterator[None]:
    for cached in (cuda.probe, cuda.wait_asleep):
        cached.cache_clear()
    yield
    for cached in (cuda.probe, cuda.wait_asleep):
        cached.cache_clear()


@pytest.fixture
def cuda_13(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that is built for CUDA 13."""
    monkeypatch.setattr(cuda.ort, "get_available_providers", lambda: [cuda.PROVIDER])
    monkeypatch.setattr(cuda.ort, "cuda_version", "13.0")


@pytest.fixture
def driver(cuda_13: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a driver library with this CUDA version, this status of cuInit and this many GPUs."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a driver library")

    def install(version: int = 13000, init: int = 0, gpus: int = 2) -> None:
        library = tmp_path / f"libcuda-{version}-{init}-{gpus}.so"
        macros = [f"-DVERSION={version}", f"-DINIT={init}", f"-DGPUS={gpus}"]
        subprocess.run([compiler, "-shared", "-fPIC", *macros, "-o", library, SOURCE], check=True)
        monkeypatch.setattr(cuda, "DRIVER_LIBRARY", str(library))
        monkeypatch.setattr(cuda, "load_libraries", lambda major: None)

    return install


def test_a_gpu_is_described_by_the_driver(driver: Callable[..., None]) -> None:
    driver()
    assert cuda.probe(0) == Gpu("NVIDIA H100", "GPU-46474849-4a4b-4c4d-4e4f-505152535455", 70 << 30, "13.0")
    assert cuda.probe(1) == Gpu("NVIDIA T4", "GPU-4748494a-4b4c-4d4e-4f50-515253545556", 71 << 30, "13.0")


def test_a_gpu_that_does_not_exist(driver: Callable[..., None]) -> None:
    driver(gpus=1)
    with pytest.raises(CudaMissing, match="there is no GPU 1: 1 visible, counted from 0"):
        cuda.probe(1)


def test_a_gpu_is_probed_once(driver: Callable[..., None]) -> None:
    driver()
    found = cuda.probe(0)
    driver(gpus=0)
    assert cuda.probe(0) is found


def test_threads_wait_asleep_unless_the_gpu_is_in_use_already(
    driver: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    driver()
    cuda.wait_asleep(0)
    cuda.wait_asleep(1)
    assert caplog.messages == []
    cuda.wait_asleep(2)  # which the driver refuses: slower, but no reason not to serve
    (message,) = caplog.messages
    assert message.startswith("threads will spin while they wait for GPU 2: ")
    assert message.endswith("cuDevicePrimaryCtxSetFlags_v2: unknown error (CUDA error 101)")


def test_without_cuda_in_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(CudaMissing, match=r"built without CUDA: install the `cuda` extra \(onnxruntime-gpu\)"):
        cuda.probe(0)


def test_a_driver_that_is_too_old_names_the_one_needed(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(version=12080)
    message = r"the NVIDIA driver supports CUDA 12\.8, but this onnxruntime needs CUDA 13: install driver 580 or later"
    with pytest.raises(CudaMissing, match=message):
        cuda.probe(0)
    monkeypatch.setattr(cuda.ort, "cuda_version", "12.8")
    assert cuda.probe(0).cuda == "12.8"


@pytest.mark.parametrize(("status", "reason"), [(100, "no CUDA-capable device is detected"), (999, "unknown error")])
def test_a_driver_that_fails_says_why(driver: Callable[..., None], status: int, reason: str) -> None:
    driver(init=status)
    with pytest.raises(CudaMissing, match=rf"cuInit: {reason} \(CUDA error {status}\)"):
        cuda.probe(0)


def test_without_a_driver(cuda_13: None) -> None:
    try:
        ctypes.CDLL(cuda.DRIVER_LIBRARY)
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(
        CudaMissing, match=r"no NVIDIA driver is visible \(libcuda\.so\.1: .*start it with `--gpus all`"
    ):
        cuda.probe(0)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libc.so.6", "libmissing.so.{cuda}"))
    monkeypatch.setattr(cuda.ort, "preload_dlls", lambda: print("Failed to load libmissing.so.13"))
    message = r"libmissing\.so\.13 does not load \(.*\): install `onnxruntime-gpu\[cuda,cudnn\]`, which brings it"
    with pytest.raises(CudaMissing, match=message):
        cuda.load_libraries(13)
    assert capsys.readouterr().out == ""


def test_libraries_that_exist_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "LIBRARIES", ("libc.so.6",))
    cuda.load_libraries(13)


def test_a_provider_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "capi" / "libonnxruntime_providers_cuda.so"
    monkeypatch.setattr(cuda.ort, "__file__", str(tmp_path / "__init__.py"))
    fault = cuda.provider_fault()
    assert fault is not None
    assert str(library) in fault
    library.parent.mkdir()
    library.symlink_to(onnxruntime_pybind11_state.__file__)  # any library that loads
    assert cuda.provider_fault() is None
