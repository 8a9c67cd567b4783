"""What can go wrong between a client and the service.

ServerError                  root; `code` is the service's own where it gave one
├── Unreachable              nothing answers at the URL, or what answers is not the service
├── NotAuthorised            no API key, a bad one, or one without the scope           401, 403
├── NotFound                 no such thing in this project                             404
├── Conflict                 the state of things does not allow it                     409, 412
├── Rejected                 the request itself is wrong; `errors` says which fields   other 4xx
├── Unavailable              the service cannot do it now                              429, 5xx
├── TaskFailed               a picture or score could not be made                      none
└── TimedOut                 the caller's own time limit is over                       none
"""

import json
from dataclasses import dataclass
from typing import Any

from gan_mhe.errors import ConfigError, GanMheError


@dataclass(frozen=True)
class FieldError:
    """One wrong field. pointer: RFC 6901, into the request's body."""

    pointer: str
    message: str


class ServerError(GanMheError):
    """Root of the tree. status: of the HTTP answer, None where there was none."""

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
    """No connection, a connection that breaks again and again, or an answer that is not the service's."""

    code = "unreachable"


class NotAuthorised(ServerError):
    """The service wants an API key with more rights than this one has."""


class NotFound(ServerError):
    """There is no such thing, or it belongs to another project."""


class Conflict(ServerError):
    """The job's state does not allow it, or it is not ready."""


class Rejected(ServerError, ConfigError):
    """The service does not accept the request as it is."""


class Unavailable(ServerError):
    """Too many requests, a full queue or disk, or a fault of the service."""


class TaskFailed(ServerError):
    """A task ended without a result. `code` is its reason."""


class TimedOut(ServerError):
    """What was waited for did not happen in the time allowed."""

    code = "timed_out"


_BY_STATUS: dict[int, type[ServerError]] = {
    401: NotAuthorised,
    403: NotAuthorised,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    429: Unavailable,
}


def error_of(url: str, status: int, content: bytes) -> ServerError:
    """The error that an answer with a status of 400 or more stands for."""
    kind = _BY_STATUS.get(status, Unavailable if status >= 500 else Rejected)
    try:
        problem = json.loads(content)
        detail, code, listed = str(problem["detail"]), str(problem["code"]), problem.get("errors", [])
        errors = tuple(FieldError(str(error["pointer"]), str(error["message"])) for error in listed)
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"{url} answered with status {status}, but not as this service does", status=status)
    return kind(_paragraph(detail, errors), code=code, status=status, errors=errors)


def _paragraph(detail: str, errors: tuple[FieldError, ...]) -> str:
    """The detail, and what the fields add to it."""
    added: list[Any] = [error.message for error in errors if error.message not in detail]
    return "; ".join([detail, *added])
