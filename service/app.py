"""The application: settings in, an ASGI app out. Wires everything together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from service.admin import admin_port
from service.api import classify, dialects, documentation, embed, explain, health, models, page, preview, problems
from service.api.access import NO_TELEMETRY, Access
from service.api.dialects import sagemaker, tensorflow_serving, torchserve
from service.api.guard import Guard
from service.api.intake import Intake, count_from_zero
from service.api.middleware import Forwarded, Head
from service.api.open_inference import errors as open_inference_errors
from service.api.open_inference import routes as open_inference
from service.backend import Backend, Runner, Work
from service.closing import Closing
from service.decoders import Decoders
from service.failed_images import FailedImages
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import Model, Repository, open_repository
from service.open_inference.data_plane import DataPlane
from service.open_inference.errors import ProtocolError
from service.operating_state import OperatingState
from service.pipeline import Pipeline
from service.runtime.build import this_build
from service.settings import Settings
from service.tracing import traces
from service.watchdog import watching

if TYPE_CHECKING:
    from service.tracing.spans import Spans

WHERE = {
    "classify": "POST /classify",
    "explain": "POST /explain",
    "embed": "POST /embed",
    "preview": "POST /preview",
    "tensorflow_serving": "POST /v1/models/{name}:predict",
    "torchserve": "POST /predictions/{name}",
    "sagemaker": "POST /invocations",
    "models": "/models",
    "open_inference": "/v2",
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "live": "/healthz/live",
    "ready": "/healthz/ready",
    "metrics": "/metrics",
    "version": "/version",
}


def create_app(
    settings: Settings,
    repository: Repository | None = None,
    backend: Backend | None = None,
    *,
    metrics: Metrics | None = None,
    spans: Spans | None = None,
    serving: Callable[[], bool] = lambda: True,
    closing: Closing | None = None,
    opens_admin_port: bool = True,
    before_listening: Callable[[], Awaitable[None]] | None = None,
    on_fatal: Callable[[Exception], None] = lambda error: None,
    on_hang: Callable[[Work], None] | None = None,
) -> FastAPI:
    """The service over the models of a repository and a backend, by default those of `settings` in this process.

    It answers at once and loads the models in the background: until they are loaded, readiness is off. Whoever runs the
    application without asking over HTTP finds readiness as `app.state.ready`, to be called from any thread.

    Args:
        metrics: where everything is counted, by default in a registry of its own.
        spans: where requests are traced, and without a backend their batches.
        serving: whether load balancers may send requests here, besides the models; False while shutting down.
        closing: the end of the server, with which the gRPC port closes; by default it does at the application's end.
        opens_admin_port: False for a worker: the engine process opens it.
        before_listening: awaited while loading has begun and before the server accepts connections.
        on_fatal: as in `Lifecycle`.
        on_hang: as in `Watchdog`, over the backend and the event loop; None watches nothing.

    Raises:
        RepositoryError: there are no published models, or not those that the settings name.
        KeysError: the keys file is missing or broken.
    """
    metrics = metrics or Metrics(settings.metrics_buckets)
    repository = repository or open_repository(settings)
    is_worker = backend is not None  # what is the same for all of them, the engine process shows and tells
    backend = backend or LocalBackend(settings, metrics, on_broken=lambda error: lifecycle.give_up(error), spans=spans)
    decoders = Decoders(
        settings.worker_decode_threads, settings.memory.large_images, target=settings.target_wait_ms / 1000
    )

    def activate(model: Model, runner: Runner) -> Pipeline:
        count_from_zero(metrics, model.name)
        return Pipeline(model, runner, decoders, settings, metrics)

    def vacated(pipeline: Pipeline) -> Awaitable[None]:
        return pipeline.room.vacated()

    def on_change(news: object) -> None:
        if not is_worker:
            metrics.show_states(repository.states)
        lifecycle.announce()

    lifecycle = Lifecycle(
        repository, backend, activate, vacated, on_fatal, on_change, settings.models, leads=not is_worker
    )
    guard = Guard(settings, metrics)

    def ready() -> bool:
        return lifecycle.ready and serving()

    metrics.look_up(OperatingState(ready, settings.target_wait_ms / 1000))
    failed_images = FailedImages(settings.keep_failed)
    intake = Intake(repository, lifecycle, settings, metrics, failed_images)
    plane = DataPlane(repository, lifecycle, settings, intake.memory, metrics, failed_images, ready)

    async def load() -> None:
        await lifecycle.load()
        lifecycle.announce()
        await lifecycle.follow()

    def grpc_port() -> AbstractAsyncContextManager[None]:
        if settings.grpc_port is None:
            return nullcontext()
        from service.grpc_api.port import GrpcPort  # needs what an extra installs

        return GrpcPort(settings, settings.grpc_port, plane, guard, metrics, spans, ready, closing or Closing())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with (
            admin_port(settings, ready, backend.reload, metrics) if opens_admin_port else nullcontext(),
            watching(settings.hang_timeout, backend.work, on_hang) if on_hang else nullcontext(),
        ):
            loading = asyncio.create_task(load())
            try:
                if before_listening:
                    await before_listening()
                async with grpc_port():
                    yield
            finally:
                loading.cancel()
            await asyncio.to_thread(decoders.shutdown)
            await backend.close()

    app = FastAPI(
        title="ResNet image classification",
        version=this_build().version,
        description="Classifies images with the residual networks of He et al. (2015). Requests that arrive together "
        "are computed together. These are the service's own calls. Those of other servers' clients (`/v2`, `/v1`, "
        "`/predictions`, `/invocations`, `/ping`, gRPC) are as their protocols say: see docs/open-inference.md and "
        "docs/clients-of-other-servers.md of the project.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.responses(),
        generate_unique_id_function=lambda route: route.name,  # generated clients have functions with these names
        telemetry=NO_TELEMETRY,
    )
    app.state.ready = ready
    problems.install(app, {"v2": open_inference_errors.response, **dialects.FORMS})
    app.add_exception_handler(ProtocolError, open_inference_errors.handle)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=(
                *("Server-Timing", "Retry-After", "X-Request-ID", traces.RESPONSE, "Inference-Header-Content-Length"),
                *(*preview.HEADERS, embed.SHAPE_HEADER),
            ),
        )
    app.add_middleware(Head)
    if settings.root_path or settings.trusted_proxies:
        app.add_middleware(Forwarded, root_path=settings.root_path, trusted=settings.trusted_proxies)
    app.add_middleware(Access, metrics=metrics, spans=spans)
    app.include_router(classify.router(intake, settings, metrics, guard))
    app.include_router(explain.router(intake, metrics, guard))
    app.include_router(embed.router(intake, settings, metrics, guard))
    app.include_router(preview.router(intake, guard))
    app.include_router(tensorflow_serving.router(intake, repository, metrics, guard))
    app.include_router(sagemaker.router(intake, metrics, guard))
    app.include_router(torchserve.router(intake, metrics, guard, ready))
    app.include_router(open_inference.infer_router(plane, metrics, guard))
    places = dict(WHERE)
    if settings.admin_port is None:
        app.include_router(health.metrics_router(metrics, guard))
        app.include_router(open_inference.statistics_router(plane, guard))  # before /v2/models/{name}
        # Before /models/{name}, whose methods another method of /models/reload would be told otherwise.
        app.include_router(models.reload_router(backend.reload, guard))
    else:
        del places["metrics"], places["version"]
    app.include_router(open_inference.router(plane))
    app.include_router(models.router(repository, settings.models_dir))
    app.include_router(health.router(ready))
    app.include_router(problems.router())
    documentation.install(app, repository)
    app.include_router(page.router(places))
    return app
