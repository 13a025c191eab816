"""The application: settings in, an ASGI app out. Wires everything together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from service.api import classify, health, models, problems
from service.api.middleware import Forwarded, Head
from service.backend import Backend, Runner
from service.lifecycle import Lifecycle
from service.local_backend import LocalBackend
from service.metrics import Metrics
from service.model_repository import Model, Repository, open_repository
from service.pipeline import Pipeline
from service.settings import Settings

STATIC = Path(__file__).parent / "static"
WHERE = {
    "classify": "POST /classify",
    "models": "/models",
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "live": "/healthz/live",
    "ready": "/healthz/ready",
    "metrics": "/metrics",
}


def create_app(
    settings: Settings,
    repository: Repository | None = None,
    backend: Backend | None = None,
    *,
    metrics: Metrics | None = None,
    serving: Callable[[], bool] = lambda: True,
    before_listening: Callable[[], Awaitable[None]] | None = None,
    on_fatal: Callable[[Exception], None] = lambda error: None,
) -> FastAPI:
    """The service over the models of a repository and a backend, by default those of `settings` in this process.

    It answers at once and loads the models in the background: until they are loaded, readiness is off.

    Args:
        metrics: where everything is counted, by default in a registry of its own.
        serving: whether load balancers may send requests here, besides the models; False while shutting down.
        before_listening: awaited while loading has begun and before the server accepts connections.
        on_fatal: as in `Lifecycle`.

    Raises:
        RepositoryError: there are no published models, or not those that the settings name.
    """
    metrics = metrics or Metrics()
    repository = repository or open_repository(settings)
    backend = backend or LocalBackend(settings, metrics, on_broken=lambda error: lifecycle.give_up(error))
    decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")

    def activate(model: Model, runner: Runner) -> Pipeline:
        return Pipeline(model, runner, decoders, settings, metrics)

    lifecycle = Lifecycle(repository, backend, activate, on_fatal)

    async def load() -> None:
        await lifecycle.load()
        if lifecycle.ready:
            lifecycle.announce()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        try:
            if before_listening:
                await before_listening()
            yield
        finally:
            loading.cancel()
        await asyncio.to_thread(decoders.shutdown)
        await backend.close()

    app = FastAPI(
        title="ResNet image classification",
        version=version("resnet-service"),
        description="Classifies images with the residual networks of He et al. (2015). Requests that arrive together "
        "are computed together.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    problems.install(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("Server-Timing", "Retry-After", "X-Request-ID"),
        )
    app.add_middleware(Head)
    if settings.root_path or settings.trusted_proxies:
        app.add_middleware(Forwarded, root_path=settings.root_path, trusted=settings.trusted_proxies)
    app.include_router(classify.router(repository, lifecycle, settings, metrics))
    app.include_router(models.router(repository))
    app.include_router(health.router(lambda: lifecycle.ready and serving(), metrics))
    app.include_router(problems.router())
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        # Served from here instead of a CDN: the page works without internet access.
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}/static/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/static/swagger-ui.css",
            swagger_favicon_url=f"{root}/static/favicon-32x32.png",
        )

    @app.get("/", tags=["operations"], summary="Where things are")
    async def where(request: Request) -> dict[str, str]:
        root = request.scope.get("root_path", "")
        return {name: place.replace("/", f"{root}/", 1) for name, place in WHERE.items()}

    return app
