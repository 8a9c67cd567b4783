"""The errors of the client.

ServerError                  root; `code` is the service's own if it gave one
├── Unreachable              nothing responds at the URL, or something that is not the service
├── NotAuthorized            no API key, an invalid one, or one without the scope      401, 403
├── NotFound                 the project has no such resource                          404
├── Conflict                 the current state does not allow the request              409, 412
├── Rejected                 the request is invalid; `errors` lists the fields         other 4xx
├── Unavailable              the service cannot execute the request now                429, 5xx
├── TaskFailed               a sampling or scoring task failed                         none
└── TimedOut                 the caller's time limit was reached                       none
"""

import json
from dataclasses import dataclass
from typing import Any

from gan_mhe.errors import ConfigError, GanMheError


@dataclass(frozen=True)
class FieldError:
    """An invalid field. pointer: RFC 6901, into the request's body."""

    pointer: str
    message: str


class ServerError(GanMheError):
    """Root of the tree. status: HTTP status of the response, None if there was none."""

    code = "server_error"

    def __init__(
        self, detail: str, *, code: str | None = None, status: int | None = None, errors: tuple[FieldError, ...] = ()
    ) -> None:
        super().__init__(detail)
        self.code = code or type(self).code
        self.status = status
        self.detail = detail
        self.errors = errors


class Unreachable(ServerError):
    """No connection, a connection that breaks repeatedly, or a response that is not the service's."""

    code = "unreachable"


class NotAuthorized(ServerError):
    """The service requires an API key, or one with more scopes."""


class NotFound(ServerError):
    """The resource does not exist or belongs to another project."""


class Conflict(ServerError):
    """The resource's state does not allow the request, or the resource is not ready."""


class Rejected(ServerError, ConfigError):
    """The service rejects the request as invalid."""


class Unavailable(ServerError):
    """Too many requests, a full queue or disk, or an error in the service."""


class TaskFailed(ServerError):
    """A task ended without a result. `code` is the task's reason."""


class TimedOut(ServerError):
    """The awaited event did not happen within the time limit."""

    code = "timed_out"


_BY_STATUS: dict[int, type[ServerError]] = {
    401: NotAuthorized,
    403: NotAuthorized,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    429: Unavailable,
}


def error_of(url: str, status: int, content: bytes) -> ServerError:
    """The error for a response with a status of 400 or more."""
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else Rejected)
    try:
        problem = json.loads(content)
        detail, code, listed = str(problem["detail"]), str(problem["code"]), problem.get("errors", [])
        errors = tuple(FieldError(str(error["pointer"]), str(error["message"])) for error in listed)
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"{url}: the response with status {status} is not one of this service", status=status)
    return kind(_paragraph(detail, errors), code=code, status=status, errors=errors)


def _paragraph(detail: str, errors: tuple[FieldError, ...]) -> str:
    """The detail, and the messages of the fields that it does not contain."""
    added: list[Any] = [error.message for error in errors if error.message not in detail]
    return "; ".join([detail, *added])
