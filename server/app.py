"""The web application of a service. The service starts and stops with the application, not at import."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from gan_mhe.version import __version__
from server.http import docs, errors, page
from server.http.head import Head
from server.http.observability import Metrics, Observation
from server.http.pagination import Cursors
from server.http.routers import (
    blobs,
    catalogue,
    checkpoints,
    compare,
    events,
    experiments,
    forks,
    imports,
    jobs,
    logs,
    metrics,
    samples,
    session,
    streams,
    system,
    tasks,
)
from server.http.security import Hardening
from server.http.strictness import refuse_what_is_not_read
from server.service import Service

DESCRIPTION = """
Train GANs whose discriminators are regularized by Minimum Hyperspherical Energy (MHE) or by other methods, watch them
while they train, and compare their scores fairly.

Start with `POST /v1/jobs`; its example trains for about a minute on a CPU. Follow a job with
`GET /v1/jobs/{job_id}/stream`, and compare variants over seeds with `POST /v1/experiments` and `GET /v1/compare`.

Errors are RFC 9457 problem documents with a stable `code`. Every POST accepts an `Idempotency-Key`. Times are RFC 3339
in UTC. Non-finite numbers are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`.
"""
TAGS = [
    {"name": "jobs", "description": "Training jobs: submit, watch, pause, resume, retry, fork, cancel, delete."},
    {"name": "experiments", "description": "One job for each combination of variants, seeds and other keys."},
    {"name": "events", "description": "Events of jobs, as a durable history and as a live stream."},
    {"name": "metrics", "description": "Losses, scores and diagnostics over the generator steps."},
    {"name": "logs", "description": "Output of jobs."},
    {"name": "samples", "description": "Grids of generated images by step, and animations of them."},
    {"name": "checkpoints", "description": "Saved states; sampling and scoring from them."},
    {"name": "compare", "description": "Scores of variants: mean and spread over seeds, under one protocol."},
    {"name": "catalogue", "description": "What requests can refer to: variants, presets, protocols, data sets."},
    {"name": "system", "description": "The service itself."},
]

ROUTERS = (
    jobs.router,
    forks.router,
    experiments.router,
    events.router,
    streams.router,
    metrics.router,
    logs.router,
    samples.router,
    checkpoints.router,
    tasks.router,
    blobs.router,
    compare.router,
    imports.router,
    catalogue.router,
    system.router,
)


class Application(FastAPI):
    """FastAPI with the schema of error responses in its OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        document = super().openapi()
        schema = errors.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schema.pop("$defs") | {"Problem": schema}
        return document


def create_app(service: Service) -> Application:
    """The application of one service."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.stop()

    app = Application(
        title="gan-mhe",
        version=__version__,
        description=DESCRIPTION.strip(),
        openapi_tags=TAGS,
        lifespan=lifespan,
        openapi_url=None,  # `docs` serves the document
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(refuse_what_is_not_read)],
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.service = service
    app.state.cursors = Cursors.open(service.settings.data_dir / "cursor.key")
    app.state.metrics = Metrics(service)
    app.state.started = time.monotonic()
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router, responses=errors.PROBLEMS)
    docs.install(app)
    page.install(app)
    app.include_router(session.router)  # the page's, and no part of the API
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=service.settings.max_body_bytes)
    app.add_middleware(Hardening, settings=service.settings)
    app.add_middleware(Head)
    app.add_middleware(Observation, metrics=app.state.metrics)  # the last one added is the outermost
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
