"""`GET /models`: the served models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import APIRouter

from service.api import schema
from service.api.guard import Guard
from service.api.problems import responses
from service.errors import NotFound, UnknownModel
from service.model_repository import Model, Repository
from service.redaction import redacted
from service.runtime.preprocessing import Preprocessing
from service.runtime.tuning import Tuned


def info(model: Model, references: Sequence[str] = (), *, default: bool = False) -> schema.ModelInfo:
    """One version as `/models` shows it."""
    card, status = model.card, model.status
    engine = status.info
    return schema.ModelInfo(
        name=card.name,
        references=list(references),
        default=default,
        depth=card.architecture.depth,
        version=card.version,
        variant=card.architecture.variant,
        shortcut=card.architecture.shortcut,
        parameters=card.parameters,
        weights=card.weights,
        training=schema.TrainingInfo.model_validate(card.training.model_dump()) if card.training else None,
        accuracy=card.accuracy,
        head=schema.HeadInfo(kind=card.head.kind, rejection=card.head.rejection),
        calibration=card.calibration,
        classes=card.architecture.num_classes,
        input=_input(card.preprocessing),
        state=status.state,
        reason=status.reason and redacted(status.reason, model.path),
        precision=engine.precision if engine else None,
        gate=card.gate(engine.precision) if engine else None,
        provider=engine.provider if engine else None,
        refused={name: redacted(reason, model.path) for name, reason in engine.refused.items()} if engine else {},
        batch_sizes=list(engine.batch_sizes) if engine else [],
        lanes=engine.lanes if engine else None,
        tuning=tuning(engine.tuned) if engine and engine.tuned else None,
    )


def _input(preprocessing: Preprocessing) -> schema.Input:
    return schema.Input(
        height=preprocessing.height,
        width=preprocessing.width,
        channels=preprocessing.channels,
        fit=preprocessing.fit,
        resize=preprocessing.resize if preprocessing.fit == "crop" else None,
        fill=preprocessing.fill if preprocessing.fit == "letterbox" else None,
        interpolation=preprocessing.interpolation,
        window=preprocessing.window,
    )


def tuning(tuned: Tuned) -> schema.TuningInfo:
    """The measurements: the chosen candidate first, then by speed."""
    best = tuned.tuning.best
    ranked = sorted(tuned.tuning.measured, key=lambda one: (one != best, -one.peak))
    return schema.TuningInfo(
        remembered=tuned.remembered,
        candidates=[
            schema.CandidateInfo(
                provider=one.provider,
                precision=one.precision,
                lanes=one.lanes,
                lone_ms=round(one.lone_ms, 2),
                images_per_second={size: round(rate, 1) for size, rate in one.images_per_second.items()},
                chosen=one == best,
            )
            for one in ranked
        ],
    )


def reload_router(reload: Callable[[], None], guard: Guard) -> APIRouter:
    """
    Args:
        reload: begins to look at the model folder; called from any thread.
    """
    routes = APIRouter(tags=["models"], route_class=guard.require("admin"))

    @routes.post(
        "/models/reload",
        status_code=202,
        responses=responses(*guard.faults("admin")),
        dependencies=guard.credentials("admin"),
        summary="Look for new versions now",
    )
    async def reload_models() -> schema.Accepted:
        """Also tries versions again that have failed. /models shows what comes of it."""
        reload()
        return schema.Accepted(status="looking")

    return routes


def router(repository: Repository, root: Path) -> APIRouter:
    """`root`: the model folder, which answers do not show."""
    routes = APIRouter(tags=["models"])
    unknown = responses(UnknownModel, NotFound)  # a name with a slash is another path

    def shown(model: Model) -> schema.ModelInfo:
        references = repository.references(model)
        return info(model, references, default=repository.default in references)

    @routes.get("/models", summary="The models that are served, and their depths")
    async def list_models() -> schema.ModelList:
        models = repository.models
        unreadable = {
            f"{stamp.path.parent.name}@{stamp.path.name}": why for stamp, why in repository.unreadable.items()
        }
        faults = {**repository.listing.faults, **unreadable}
        return schema.ModelList(
            depths=sorted({model.depth for model in models}),
            default=repository.default,
            models=[shown(model) for model in models],
            candidates=[
                schema.CandidateVersion(
                    name=model.name,
                    version=model.version,
                    state=model.status.state,
                    reason=model.status.reason and redacted(model.status.reason, root),
                )
                for model in repository.candidates
            ],
            unreadable={name: redacted(reason, root) for name, reason in faults.items()},
        )

    @routes.get("/models/{name}", responses=unknown, summary="One model")
    async def get_model(name: str) -> schema.ModelInfo:
        return shown(repository.get(name))

    @routes.get("/models/{name}/labels", responses=unknown, summary="The classes of a model, by class id")
    async def get_labels(name: str) -> list[schema.LabelInfo]:
        card = repository.get(name).card
        thresholds = card.head.thresholds_of(len(card.labels)) if card.head.multi_label else (None,) * len(card.labels)
        return [
            schema.LabelInfo(class_id=i, name=label.name, wnid=label.wnid, threshold=threshold)
            for i, (label, threshold) in enumerate(zip(card.labels, thresholds, strict=True))
        ]

    return routes
