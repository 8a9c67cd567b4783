"""Dependencies of routes: the service, the caller with a scope, and idempotent POST requests.

    @router.post("/v1/things", status_code=201, response_model=Thing)
    def create_thing(body: CreateThing, principal: WriteJobs, service: ServiceDep, once: OnceDep) -> JSONResponse:
        def work(connection: Connection) -> Answer:
            row = things.create(connection, principal.project, body)
            return Answer(201, Thing.of(row).model_dump(mode="json"), {"Location": f"/v1/things/{row['id']}"})

        return once(principal, body, work)

`work` runs in one write transaction together with the record of the Idempotency-Key, if the client sent one; an
exception undoes both. Routes are plain `def` functions: they run in worker threads, because the database blocks.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Header
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import Connection

from gan_mhe.files import canonical_json, sha256_bytes
from server.http.auth import Principal, Scope
from server.service import Service
from server.store import idempotency
from server.store.idempotency import Answer

__all__ = [
    "Admin",
    "Answer",
    "OnceDep",
    "Principal",
    "ReadArtifacts",
    "ReadJobs",
    "ReadSamples",
    "ServiceDep",
    "WriteJobs",
]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]

ReadJobs = Annotated[Principal, Depends(Scope("jobs:read"))]
WriteJobs = Annotated[Principal, Depends(Scope("jobs:write"))]
ReadSamples = Annotated[Principal, Depends(Scope("samples:read"))]
ReadArtifacts = Annotated[Principal, Depends(Scope("artifacts:read"))]
Admin = Annotated[Principal, Depends(Scope("admin"))]

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Requests with the same key are executed only once; keys are kept for 24 hours.",
    ),
]


Work = Callable[[Connection], Answer]


class _Once:
    """Executes a POST once and wakes the engine afterwards; see the module's docstring."""

    def __init__(self, request: Request, service: ServiceDep, idempotency_key: IdempotencyKey = None) -> None:
        self._request, self._service, self._key = request, service, idempotency_key

    def __call__(self, principal: Principal, body: BaseModel | None, work: Work) -> JSONResponse:
        answer = idempotency.run(self._service.store, self._call(principal, body), work)
        self._service.engine.wake()
        return _response(answer)

    def kept(self, principal: Principal, body: BaseModel | None) -> JSONResponse | None:
        """The stored response to this request, if any; check it first if preparing the work is expensive."""
        answer = idempotency.kept(self._service.store, self._call(principal, body))
        return None if answer is None else _response(answer)

    def _call(self, principal: Principal, body: BaseModel | None) -> idempotency.Call:
        scope = self._request.scope
        document = None if body is None else body.model_dump(mode="json")
        content = canonical_json([scope["query_string"].decode("latin-1"), document])
        return idempotency.Call(principal.owner, scope["method"], scope["path"], self._key, sha256_bytes(content))


def _response(answer: Answer) -> JSONResponse:
    replayed = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    return JSONResponse(answer.body, answer.status, {**answer.headers, **replayed})


OnceDep = Annotated[_Once, Depends()]
