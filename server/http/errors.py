"""Error responses: RFC 9457 problem details, from one table of codes.

Routes raise ServiceError, or let the library's ConfigError pass; this module converts them. Details never contain paths
of the server, and the response to an unexpected error contains nothing but the request id.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from gan_mhe.errors import ConfigError, GanMheError, ProtocolMismatchError, StorageError
from server.errors import MAX_LISTED, FieldError, InvalidRequest, ServiceError
from server.http import validation_errors
from server.store import sqlite

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 2

_log = structlog.get_logger("server.http")

# code -> status and title. Errors with other codes are unexpected.
CODES: Mapping[str, tuple[int, str]] = {
    "invalid_request": (422, "The request is invalid"),
    "config_invalid": (422, "The configuration is invalid"),
    "protocol_mismatch": (422, "Scores of different protocols cannot be compared"),
    "not_found": (404, "No such resource"),
    "invalid_transition": (409, "The job's state does not allow it"),
    "stale_writer": (409, "A newer attempt owns the job"),
    "not_ready": (409, "The resource does not exist yet, or no longer"),
    "revision_mismatch": (412, "The job was changed in the meantime"),
    "idempotency_key_reused": (422, "The idempotency key was used for another request"),
    "idempotency_in_progress": (409, "The first request with this key is still being answered"),
    "queue_full": (429, "Too many jobs are queued"),
    "too_many_streams": (429, "Too many open event streams"),
    "insufficient_storage": (507, "Not enough disk space"),
    "storage_failed": (507, "A file could not be written"),
    "unauthenticated": (401, "An API key is required"),
    "forbidden": (403, "The API key does not allow it"),
    "host_not_allowed": (403, "The Host is not allowed"),
    "origin_not_allowed": (403, "Requests from other sites are not allowed"),
    "range_not_satisfiable": (416, "The range is beyond the end of the file"),
    "bad_request": (400, "The request body is not readable"),
    "body_too_large": (413, "The request body is too large"),
    "render_failed": (500, "The image could not be rendered"),
    "database_busy": (503, "The database is busy"),
    "database_damaged": (503, "The database is damaged"),
    "overloaded": (503, "Too many requests at a time"),
    "not_serving": (503, "The service is not ready"),
    "internal_error": (500, "An unexpected error occurred in the service"),
}
_RETRY = frozenset({"idempotency_in_progress", "queue_full", "too_many_streams", "database_busy", "overloaded"})
_BY_STATUS = {413: "body_too_large", 404: "not_found", 416: "range_not_satisfiable"}


class ProblemField(BaseModel):
    """An invalid field of the request."""

    pointer: str = Field(description="RFC 6901 pointer into the request body; `/query/<name>` for a query parameter.")
    code: str = Field(description="Stable, for programs.")
    message: str = Field(description="For people: what was expected and what came.")


class Problem(BaseModel):
    """RFC 9457 problem details, the body of every error response."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:gan-mhe:problem:invalid_transition",
                    "title": "The job's state does not allow it",
                    "status": 409,
                    "detail": "job_06ekqz1v3m4s8x0c9d7f2h5b6w is succeeded; it cannot become cancelled",
                    "instance": "/v1/jobs/job_06ekqz1v3m4s8x0c9d7f2h5b6w/cancel",
                    "code": "invalid_transition",
                    "request_id": "0f4c0d7ea8d94b6a",
                    "errors": [],
                }
            ]
        }
    )

    type: str = Field(description="`urn:gan-mhe:problem:<code>`.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable, for programs.")
    request_id: str = Field(description="Also in the X-Request-Id header and the service's log.")
    errors: list[ProblemField] = []


_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}

# The `responses=` of every route: all errors have the same body.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request cannot be served; `code` gives the reason.", "content": _CONTENT},
    "5XX": {"description": "The service cannot serve the request now; `code` gives the reason.", "content": _CONTENT},
}


def describe(scope: Mapping[str, Any], code: str, detail: str, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    """The problem document for an ASGI scope."""
    status, title = CODES[code]
    return _document(scope, code, status, title, detail, errors)


def _document(
    scope: Mapping[str, Any], code: str, status: int, title: str, detail: str, errors: Sequence[FieldError] = ()
) -> dict[str, Any]:
    fields = [ProblemField(pointer=error.pointer, code=error.code, message=error.message) for error in errors]
    problem = Problem(
        type=f"urn:gan-mhe:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        instance=scope["path"],
        code=code,
        request_id=request_id(scope),
        errors=fields,
    )
    return problem.model_dump(mode="json")


def request_id(scope: Mapping[str, Any]) -> str:
    """The id that the middleware assigned to this request; empty outside it."""
    return str(scope.get("state", {}).get("request_id", ""))


def respond(
    scope: Mapping[str, Any],
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """A problem as a response, with Retry-After if a retry may succeed."""
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)} if code in _RETRY else {}
    document = describe(scope, code, detail, errors)
    return JSONResponse(document, document["status"], {**retry, **(headers or {})}, MEDIA_TYPE)


def as_problem(scope: Mapping[str, Any], error: Exception) -> dict[str, Any] | None:
    """The problem document of an expected error, for responses with several of them; None for an unexpected error."""
    if isinstance(error, ServiceError | ConfigError | ProtocolMismatchError) and error.code in CODES:
        return describe(scope, error.code, str(error), error.errors if isinstance(error, InvalidRequest) else ())
    return None


class Unauthenticated(ServiceError):
    """An API key is required but missing, unknown or revoked."""

    code = "unauthenticated"


class Forbidden(ServiceError):
    """The API key lacks the scope."""

    code = "forbidden"


def install(app: FastAPI) -> None:
    """Register the error handlers."""
    app.add_exception_handler(ServiceError, _expected)
    app.add_exception_handler(GanMheError, _expected)
    app.add_exception_handler(StorageError, _storage)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)


def unexpected(scope: Mapping[str, Any], error: Exception) -> JSONResponse:
    """The response to an unexpected error, which is logged in full but not shown to the client."""
    _log.error("unexpected error", path=scope["path"], request_id=request_id(scope), exc_info=error)
    return respond(scope, "internal_error", "the request failed unexpectedly; the service's log has the request id")


async def _storage(request: Request, error: Exception) -> JSONResponse:
    _log.error("write failed", path=request.scope["path"], request_id=request_id(request.scope), error=str(error))
    return respond(request.scope, "storage_failed", "the service could not write a file; its log has the request id")


async def _expected(request: Request, error: Exception) -> JSONResponse:
    document = as_problem(request.scope, error)
    if document is None:
        return unexpected(request.scope, error)
    headers = {"WWW-Authenticate": "Bearer"} if document["status"] == 401 else None
    code = document["code"]
    return respond(request.scope, code, str(error), error.errors if isinstance(error, InvalidRequest) else (), headers)


async def _validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    if any(map(validation_errors.is_not_json, problems)):
        return await _expected(request, InvalidRequest(validation_errors.not_json(request.headers.get("content-type"))))
    fields = validation_errors.body_fields(request.scope["route"])
    listed = [validation_errors.field_error(problem, fields) for problem in problems[:MAX_LISTED]]
    return await _expected(request, InvalidRequest(*listed, more=len(problems) - len(listed)))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, detail, headers = error.status_code, str(error.detail), dict(error.headers or {})
    if status == 400 and error.__cause__ is not None:
        unreadable = validation_errors.unreadable(error.__cause__)
        return respond(request.scope, "bad_request", unreadable.message, [unreadable])
    if status == 413:
        most = request.app.state.service.settings.max_body_bytes
        detail = f"expected at most {most} bytes (GAN_MHE_MAX_BODY_BYTES), got more"
    if status == 405:
        headers["Allow"] = ", ".join(sorted(_methods(request)))
        detail = f"expected {headers['Allow']}, got {request.method}"
    title = HTTPStatus(status).phrase
    code = _BY_STATUS.get(status, title.lower().replace(" ", "_"))
    document = _document(request.scope, code, status, CODES.get(code, (status, title))[1], detail)
    return JSONResponse(document, status, headers, MEDIA_TYPE)


def _methods(request: Request) -> set[str]:
    """The methods allowed at the request's path; the framework knows only those of the first matching route."""
    routes = iter_route_contexts(request.app.routes)
    here = [route for route in routes if route.path_regex.match(request.scope["path"])]
    found = {method for route in here for method in route.methods or ()}
    return found | {"HEAD"} if "GET" in found else found


async def _database(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OperationalError)
    text = str(error.orig)
    if sqlite.is_full(error):
        return respond(request.scope, "insufficient_storage", "no disk space is left for the database")
    if sqlite.is_unwritable(error):
        _log.error("write failed", path=request.scope["path"], request_id=request_id(request.scope), error=text)
        return respond(request.scope, "storage_failed", "the database cannot be written; the service's log has the id")
    if "locked" in text or "busy" in text:
        return respond(request.scope, "database_busy", "the database is locked by another process; try again")
    return unexpected(request.scope, error)
