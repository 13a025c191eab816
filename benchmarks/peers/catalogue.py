"""The servers that are compared: how each is started and queried, as its own documentation shows."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers.environments import environment, version
from benchmarks.peers.model import MAX_BATCH, WINDOW_S, EngineName

HERE = Path(__file__).parent
OURS = "resnet-service"
BOUNDARY = "part-of-a-form"
BINARY_HEADER = 256  # bytes of JSON before the binary data, filled up with spaces
STUB = "triton_python_backend_stub"


class Place(NamedTuple):
    """Where a server runs, and what it serves."""

    python: Path  # the interpreter of its environment
    folder: Path  # empty, its working directory
    ports: Sequence[int]  # free ones; the first is for HTTP
    model: Path  # the folder of the published version, `models/<name>/<version>`
    engine: EngineName


Command = Callable[[Place], Sequence[object]]


@dataclass(frozen=True)
class Peer:
    """A server to measure.

    Attributes:
        name: its name in the results, and of its folder here.
        package: the distribution whose version is reported; None for our own service, which needs no environment.
        command: writes configuration files into the folder and returns the command that starts it.
        path: the URL's path for classification.
        encode: from a JPEG file to the body of a request.
        predicted: from a parsed answer to the class that it ranks first.
        variables: its environment variables.
        headers: of every request, beside its content type.
        interpreter: makes its environment.
        carried: the version of the server that the package carries, if it is not the package's own.
    """

    name: str
    package: str | None
    command: Command
    path: str
    content_type: str = "image/jpeg"
    encode: Callable[[bytes], bytes] = bytes
    predicted: Callable[[Any], int] = lambda answer: int(answer["predictions"][0]["class_id"])
    variables: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    interpreter: str = sys.executable
    carried: str | None = None

    def python(self) -> Path:
        """The interpreter of its environment, which is made on first use. Raises EnvironmentFailed."""
        if self.package is None:
            return Path(sys.executable)
        return environment(self.name, HERE / self.name / "requirements.txt", self.interpreter)

    def version(self, python: Path) -> str:
        """The installed version, of its package or of what that carries; `this` for our own service."""
        if self.package is None:
            return "this"
        installed = version(python, self.package)
        return f"{self.carried} ({self.package} {installed})" if self.carried else installed


def _script(name: str) -> Path:
    return HERE / name / "server.py"


def _service(options: Sequence[str]) -> Command:
    def command(place: Place) -> Sequence[object]:
        models, name = place.model.parent.parent, place.model.parent.name
        start = ["-m", "service", "--log-level=error", f"--models-dir={models}", f"--models={name}"]
        return [place.python, *start, f"--precision={place.engine}", f"--port={place.ports[0]}", *options]

    return command


def _fastapi(place: Place) -> Sequence[object]:
    app = ["--app-dir", HERE / "fastapi_tutorial", "server:app"]
    return [place.python, "-m", "uvicorn", *app, "--port", place.ports[0], "--log-level", "warning"]


def _litserve(place: Place) -> Sequence[object]:
    return [place.python, _script("litserve"), place.ports[0]]


def _mosec(place: Place) -> Sequence[object]:
    # Its default is to refuse requests after 3 s, that of the others 30 s or never. On a slow machine 32 take longer.
    address = ["--address", "127.0.0.1", "--port", place.ports[0], "--timeout", 30_000]
    return [place.python, _script("mosec"), *address]


def _ray_serve(place: Place) -> Sequence[object]:
    return [place.python, _script("ray_serve"), place.ports[0]]


def _mlserver(place: Place) -> Sequence[object]:
    shutil.copy(_script("mlserver"), place.folder / "runtime.py")
    http, grpc, metrics = place.ports[:3]
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    model = {"name": "resnet50", "implementation": "runtime.Classifier"}
    batching = {"max_batch_size": MAX_BATCH, "max_batch_time": WINDOW_S}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model | batching))
    return [place.python.with_name("mlserver"), "start", "."]


def _bentoml(place: Place) -> Sequence[object]:
    shutil.copy(_script("bentoml"), place.folder / "server.py")
    serve = ["serve", "server:Classifier", "--host", "127.0.0.1", "--port", place.ports[0]]
    return [place.python.with_name("bentoml"), *serve]


def _torchserve(place: Place) -> Sequence[object]:
    (place.folder / "store").mkdir()
    archive = ["--model-name", "resnet50", "--version", "1.0", "--handler", str(_script("torchserve"))]
    archiver = place.python.with_name("torch-model-archiver")
    subprocess.run([archiver, *archive, "--export-path", "store"], cwd=place.folder, check=True, capture_output=True)
    names = ("inference_address", "management_address", "metrics_address")
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, place.ports, strict=False)}
    grpc = {f"grpc_{name}_port": port for name, port in zip(("inference", "management"), place.ports[3:], strict=True)}
    workers = {"minWorkers": 1, "maxWorkers": 1, "batchSize": MAX_BATCH, "maxBatchDelay": round(1000 * WINDOW_S)}
    models = {"resnet50": {"1.0": {"defaultVersion": True, "marName": "resnet50.mar", **workers}}}
    # it unpacks models in Java's temporary folder, and does not remove them
    settings = addresses | grpc | {"models": json.dumps(models), "vmargs": f"-Djava.io.tmpdir={place.folder}"}
    lines = [f"{name}={value}" for name, value in settings.items()]
    (place.folder / "config.properties").write_text("\n".join(lines) + "\n")
    start = ["--start", "--foreground", "--ncs", "--disable-token-auth", "--model-store", "store", "--models", "all"]
    return [place.python.with_name("torchserve"), *start, "--ts-config", "config.properties"]


def _triton(place: Place) -> Sequence[object]:
    """The server in PyTriton's wheel, with a model repository. Its only backend is the one for Python."""
    packages = next((place.python.parent.parent / "lib").glob("python3.*/site-packages"))
    installed = packages / "pytriton" / "tritonserver"
    stub = installed / "python_backend_stubs" / packages.parent.name.removeprefix("python") / STUB
    backend = place.folder / "backends" / "python"
    shutil.copytree(installed / "backends" / "python", backend)
    shutil.copy(stub, backend)
    version = place.folder / "models" / "resnet50" / "1"
    version.mkdir(parents=True)
    shutil.copy(_script("triton"), version / "model.py")
    shutil.copy(HERE / "triton" / "config.pbtxt", version.parent)
    http, grpc, metrics = place.ports[:3]
    options = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}", "--http-address=127.0.0.1"]
    folders = [f"--model-repository={version.parent.parent}", f"--backend-directory={backend.parent}"]
    libraries = f"LD_LIBRARY_PATH={packages / 'nvidia_pytriton.libs'}"
    return ["env", libraries, installed / "bin" / "tritonserver", *folders, *options]


def _in_json(jpeg: bytes) -> bytes:
    return json.dumps({"image": base64.b64encode(jpeg).decode()}).encode()


def _in_v2(jpeg: bytes) -> bytes:
    data = {"datatype": "BYTES", "shape": [1, 1], "data": [base64.b64encode(jpeg).decode()]}
    return json.dumps({"inputs": [{"name": "image", "parameters": {"content_type": "base64"}, **data}]}).encode()


def _in_binary(jpeg: bytes) -> bytes:
    element = len(jpeg).to_bytes(4, "little") + jpeg
    parameters = {"binary_data_size": len(element)}
    tensor = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": parameters}
    return json.dumps({"inputs": [tensor]}).encode().ljust(BINARY_HEADER) + element


def _in_form(jpeg: bytes) -> bytes:
    head = 'content-disposition: form-data; name="images"; filename="image.jpg"\r\ncontent-type: image/jpeg'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + jpeg + f"\r\n--{BOUNDARY}--\r\n".encode()


def peers(service_options: Sequence[str] = ()) -> dict[str, Peer]:
    """All servers, by name; our own gets these command-line options."""
    servers = [
        Peer(
            OURS,
            None,
            _service(service_options),
            "/classify",
            predicted=lambda answer: int(answer["images"][0]["predictions"][0]["class_id"]),
        ),
        Peer("fastapi_tutorial", "fastapi", _fastapi, "/predict"),
        Peer("litserve", "litserve", _litserve, "/predict", "application/json", _in_json),
        Peer(
            "bentoml",
            "bentoml",
            _bentoml,
            "/classify",
            f"multipart/form-data; boundary={BOUNDARY}",
            _in_form,
            predicted=lambda answer: int(answer[0][0]["class_id"]),
            variables={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Peer("ray_serve", "ray", _ray_serve, "/", variables={"RAY_USAGE_STATS_ENABLED": "0"}),
        Peer("mosec", "mosec", _mosec, "/inference", predicted=lambda answer: int(answer[0]["class_id"])),
        Peer(
            "mlserver",
            "mlserver",
            _mlserver,
            "/v2/models/resnet50/infer",
            "application/json",
            _in_v2,
            predicted=lambda answer: int(answer["outputs"][0]["data"][0]),
        ),
        Peer(
            "triton",
            "nvidia-pytriton",
            _triton,
            "/v2/models/resnet50/infer",
            "application/octet-stream",
            _in_binary,
            predicted=lambda answer: int(answer["outputs"][0]["data"][0]),
            headers={"Inference-Header-Content-Length": str(BINARY_HEADER)},
            interpreter="/usr/bin/python3",  # Triton loads the interpreter's shared library, which Debian's has
            carried="2.51.0",
        ),
        Peer(
            "torchserve",
            "torchserve",
            _torchserve,
            "/predictions/resnet50",
            predicted=lambda answer: int(answer[0]["class_id"]),
        ),
    ]
    return {peer.name: peer for peer in servers}
