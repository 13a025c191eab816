"""The settings of the service: their names, defaults, ranges and meanings."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.logs import Format
from service.runtime.choices import PrecisionChoice, ProviderChoice
from service.runtime.machine import usable_cores
from service.settings_addresses import Host, Networks, Origins, Prefix, check_ports
from service.settings_buckets import SECONDS, Buckets
from service.settings_lists import split_list
from service.settings_memory import Memory, check_memory, divide_memory

PREFIX = "RESNET_"
ENV_FILE = ".env"


class Settings(BaseSettings):
    """Serve the published models of a folder over HTTP."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",
        env_ignore_empty=True,
        extra="ignore",  # `.env` may hold settings of other programs; `read_settings` refuses unknown RESNET_ ones
        frozen=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    host: Host = Field(default="127.0.0.1", description="Address to listen on; 0.0.0.0 in a container.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path = Field(default=Path("models"), description="The folder that `python -m model_export` fills.")
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Models to serve, separated by commas: `resnet50`, or one version of it, `resnet50@3` or "
        "`resnet50@canary`. Those named must be there, or the service is not ready. Empty serves all.",
    )
    default_model: str | None = Field(
        default=None,
        description="Model for requests that name none, one of those served. Unset, it is the one that "
        "`python -m model_export default` has named, or the only one.",
    )
    strict: bool = Field(
        default=False, description="Do not let an older version answer in place of one that cannot be served."
    )
    provider: ProviderChoice = Field(
        default="auto",
        description="Execution provider: cuda, openvino or cpu. `auto` measures at the first start and uses the "
        "fastest; any other value uses that provider or refuses to start.",
    )
    gpu: int = Field(
        default=0,
        ge=0,
        description="Number of the GPU to use, counted from 0 among those that the process sees. A service uses one "
        "GPU: start one service for each.",
    )
    precision: PrecisionChoice = Field(
        default="auto",
        description="Precision of the arithmetic. `auto` uses the fastest by measurement, and precisions below "
        "fp32 only if they have passed their gate (`quantize`). Any other value uses that precision or refuses to "
        "start.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes for HTTP and decoding. 1 does everything in one process; with more, one further process "
        "computes for all of them (Linux only). Worth it where one process, at about 700 images/s, is the limit: "
        "with a GPU, or with a ResNet-50 in int8 on more than 16 cores (5 with AMX).",
    )
    engine_threads: int = Field(
        default_factory=usable_cores, ge=1, description="CPU cores that one batch may use; unset, all of them."
    )
    decode_threads: int = Field(
        default_factory=usable_cores,
        ge=1,
        description="Images decoded at the same time; unset, one per core. Workers share this number.",
    )
    max_batch: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Largest batch, in images. Unset, it is measured at the first start: batches grow for as long as "
        "the engine gets faster.",
    )
    poll_interval: float = Field(
        default=10.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds between looks at the model folder: new versions are loaded, tested and put to work, "
        "removed models taken away. 0 never looks.",
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/resnet-service"),
        description="Folder that keeps what was measured at the first start, so that the next one is quick.",
    )
    scaled_decoding: bool = Field(
        default=True,
        description="Let the JPEG decoder shrink large photographs while it decodes: up to ten times faster, with "
        "pixels that differ slightly from training's. `false` decodes every photograph at full size.",
    )
    gpu_decoding: bool = Field(
        default=False,
        description="With CUDA: let the GPU decode plain JPEGs of up to 1 MiB, which takes most of the work from the "
        "processor. Needs nvImageCodec (the extra `gpu-decoding`) and a GPU with JPEG engines. Pixels differ slightly.",
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="Milliseconds that a batch that is not full waits for more images. 0 never waits, which is fastest "
        "for one client and for many.",
    )
    target_wait_ms: float = Field(
        default=2000.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest wait in the queue, in milliseconds, with which requests are admitted; beyond that they "
        "get 503 at once. The wait is predicted from the measured rate.",
    )
    request_timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a request may take once its body has arrived, then it gets 504. A client may ask for "
        "less with the header X-Request-Timeout-Ms.",
    )
    hang_timeout: float = Field(
        default=10.0,
        ge=1,
        allow_inf_nan=False,
        description="Seconds without progress after which an engine or a process counts as hung and is ended. A batch "
        "may take this long on top of the longest batch so far.",
    )
    memory_budget: int | None = Field(
        default=None,
        ge=1,
        description="Bytes that all requests together may take: a quarter for bodies and pixels, the rest for "
        "decoding. Models are not counted. Unset, 1 GiB for each worker and 64 MiB for each decode thread.",
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Most open connections of one process, as far as the system's limit of open files allows. Beyond "
        "it, a new connection replaces one that does nothing, or gets 503.",
    )
    client_timeout: float = Field(
        default=10.0,
        ge=0.1,
        allow_inf_nan=False,
        description="Seconds to wait for a client: for the complete headers of a request, for a body that falls behind "
        "`min_body_rate`, and for an answer to be read.",
    )
    min_body_rate: int = Field(
        default=16 * 2**10,
        ge=1,
        description="Bytes per second at which a body must arrive while the server waits for it; a client that falls "
        "behind for `client_timeout` seconds gets 408.",
    )
    max_images: int = Field(default=32, ge=1, description="Most images in one request.")
    max_image_bytes: int = Field(default=20 * 2**20, ge=1, description="Most bytes of one image.")
    max_request_bytes: int = Field(
        default=64 * 2**20, ge=1, description="Most bytes of one form, or of one request of another protocol."
    )
    max_pixels: int = Field(
        default=64_000_000,
        ge=1,
        description="Most pixels (width x height) of one image, checked before it is decoded. A WebP may have a "
        "quarter of them, because each takes four times the memory.",
    )
    root_path: Prefix = Field(
        default="",
        description="Path prefix under which a proxy shows the service, such as /vision; used for `/docs` and links.",
    )
    trusted_proxies: Annotated[Networks, NoDecode] = Field(
        default=(),
        description="Addresses or networks of proxies, separated by commas, whose X-Forwarded-Proto and -Prefix are "
        "trusted; empty trusts none.",
    )
    cors_origins: Annotated[Origins, NoDecode] = Field(
        default=(),
        description="Origins, separated by commas, whose pages may call the service from a browser "
        "(https://example.com); `*` allows any, empty none.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of API keys (`python -m service.keys new` makes them). Unset, everybody may classify, and "
        "calls that change something are closed. Set, both need a key, and so does /metrics.",
    )
    anonymous_classify: bool = Field(
        default=False, description="With API keys: let everybody classify, without a key or with any known one."
    )
    admin_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of its own for health, metrics and calls that change something; it answers however busy the "
        "main port is. The main port then has health, but not the others.",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port for the Open Inference Protocol over gRPC, 8001 by convention; unset, there is none. Needs "
        "the extra `grpc`.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the certificate and its chain: every port then speaks TLS. Read at the start.",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file with its private key; unset if it is in the file of the certificate."
    )
    shutdown_delay: float = Field(
        default=1.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds between SIGTERM, when readiness goes off, and the closing of the port: time for a load "
        "balancer to stop sending requests here.",
    )
    shutdown_timeout: int = Field(
        default=30, ge=1, description="Seconds that requests in flight get to finish during shutdown."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level to log."
    )
    log_format: Format = Field(
        default="text", description="`text`: a line for each record. `json`: an object, for programs."
    )
    access_log: bool = Field(default=True, description="Log a line for every request, at the level info.")
    metrics_buckets: Annotated[Buckets, NoDecode] = Field(
        default=SECONDS,
        description="Upper edges of the histograms of durations, in seconds, ascending, separated by commas.",
    )
    keep_failed: Path | None = Field(
        default=None,
        description="Folder that keeps images whose answer failed through the service's fault, the newest hundred, to "
        "find out why. They are what clients sent: unset, nothing is kept.",
    )

    @field_validator("models", "trusted_proxies", "cors_origins", "metrics_buckets", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return split_list(value) if isinstance(value, str) else value

    @field_validator("provider", "precision", "log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("cache_dir", "models_dir", "api_keys_file", "keep_failed", "tls_certificate", "tls_key")
    @classmethod
    def _expand_home(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        try:
            return path.expanduser()
        except RuntimeError:  # a user without a home
            return Path(tempfile.gettempdir()) / path.name

    # Defined last, so it runs first among the before-validators: values from files often end with a line break.
    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            value.encode()
        except UnicodeEncodeError:  # bytes that are not UTF-8 arrive as surrogates
            raise ValueError(f"{value!a} is not UTF-8: correct it, or rename the folder") from None
        return value.strip()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        check_memory(self.memory, self.max_request_bytes, self.max_images, self.memory_budget)
        check_ports(port=self.port, admin_port=self.admin_port, grpc_port=self.grpc_port)
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key is set without tls_certificate: set both")
        return self

    @property
    def worker_decode_threads(self) -> int:
        """The decode threads of each worker."""
        return -(-self.decode_threads // self.workers)

    @property
    def memory(self) -> Memory:
        """The memory of each worker."""
        return divide_memory(self.memory_budget, self.workers, self.worker_decode_threads)
