"""The application: settings in, an ASGI app out. Everything is wired together here and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
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
from service.classifier import Classifier
from service.inference import Backend, InProcess
from service.metrics import Metrics
from service.repository import NothingServed, Repository
from service.settings import Settings

log = logging.getLogger(__name__)

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
    backend: Backend | None = None,
    *,
    draining: Callable[[], bool] = lambda: False,
    on_fatal: Callable[[Exception], None] = lambda error: None,
) -> FastAPI:
    """The service over the models of a backend, by default those of `settings.models_dir` in this process.

    It answers at once and loads the models in the background: until they are loaded, readiness is off.

    Args:
        draining: whether the server is shutting down; readiness is off then.
        on_fatal: told when loading ends without the default model, and, on another thread, when an engine is broken.

    Raises:
        RepositoryError: there are no published models, or not those that the settings name.
    """
    metrics = Metrics()
    if backend is None:
        repository = Repository(settings.models_dir, only=settings.models, default=settings.default_model)
        backend = InProcess(repository, settings, metrics, on_fatal)
    repository = backend.repository
    classifier = Classifier(backend, settings, metrics)

    async def load() -> None:
        try:
            await asyncio.to_thread(classifier.load)
            if not classifier.loaded:
                return  # stopped before the end
            repository.require_default()
            log.info("ready: %s", ", ".join(m.name for m in repository.models.values() if m.state == "ready"))
        except NothingServed as error:
            on_fatal(error)
        except Exception as error:
            log.exception("loading ended unexpectedly")
            on_fatal(error)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(load())
        try:
            await backend.catch_up()
            yield
        finally:  # also when all are cancelled, because it shall end at once: the thread would be waited for
            classifier.stop_loading()
        await loading
        await asyncio.to_thread(classifier.close)

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
    app.include_router(classify.router(classifier, settings, metrics))
    app.include_router(models.router(repository))
    app.include_router(health.router(lambda: classifier.ready and not draining(), metrics))
    app.include_router(problems.router())
    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        # Served from here, not from a CDN: the page works where there is no way out to the internet.
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
