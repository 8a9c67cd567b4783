"""The errors of the service; the HTTP interface maps each to a response.

ServiceError                 root; has a stable `code`
├── InvalidRequest           a field of the request is invalid          invalid_request
├── NotFound                 the project has no such resource           not_found
├── InvalidTransition        the job's state does not allow the action  invalid_transition
├── StaleWriter              a newer attempt owns the job               stale_writer
├── RevisionMismatch         the job was changed in the meantime        revision_mismatch
├── IdempotencyMismatch      the key was used for another request       idempotency_key_reused
├── IdempotencyInProgress    the first request is still being answered  idempotency_in_progress
├── InsufficientStorage      less disk space is free than the reserve   insufficient_storage
├── QueueFull                too many jobs are queued                   queue_full
├── TooManyStreams           the key has too many open streams          too_many_streams
├── NotReady                 the resource does not exist yet or anymore not_ready
├── DatabaseDamaged          a page of the database is damaged          database_damaged
└── StartRefused             the service cannot start with its settings start_refused
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LISTED = 20  # wrong fields that one error lists


class ServiceError(Exception):
    """Root of the tree. `code` is stable, for programs; messages are for people."""

    code = "error"


@dataclass(frozen=True)
class FieldError:
    """An invalid field of a request. pointer: RFC 6901, into the body; code: stable; message: for people."""

    pointer: str
    code: str
    message: str


def pointer(*parts: str) -> str:
    """An RFC 6901 pointer: `pointer("overrides", "training.steps")` is `/overrides/training.steps`."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


class InvalidRequest(ServiceError):
    """The request has invalid fields; each error gives the field, what was expected and what came.

    `errors` has at most MAX_LISTED of them. more: number of errors in addition to those given.
    """

    code = "invalid_request"

    def __init__(self, *errors: FieldError, more: int = 0) -> None:
        self.errors: Sequence[FieldError] = errors[:MAX_LISTED]
        more += len(errors) - len(self.errors)
        super().__init__("; ".join(error.message for error in self.errors) + (f"; and {more} more" if more else ""))


class NotFound(ServiceError):
    """The resource does not exist or belongs to another project; the two cases are indistinguishable on purpose."""

    code = "not_found"


class InvalidTransition(ServiceError):
    """The job cannot move to this state from its current one."""

    code = "invalid_transition"


class StaleWriter(ServiceError):
    """The writer's lease epoch is not the job's current one."""

    code = "stale_writer"


class RevisionMismatch(ServiceError):
    """`If-Match` gives another revision."""

    code = "revision_mismatch"


class IdempotencyMismatch(ServiceError):
    """An Idempotency-Key was reused with another body."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(ServiceError):
    """An Idempotency-Key was reused before its first request was answered."""

    code = "idempotency_in_progress"


class InsufficientStorage(ServiceError):
    """Less disk space is free than the reserve."""

    code = "insufficient_storage"


class QueueFull(ServiceError):
    """The project has the maximum number of queued jobs."""

    code = "queue_full"


class TooManyStreams(ServiceError):
    """The key has the maximum number of open event streams."""

    code = "too_many_streams"


class NotReady(ServiceError):
    """The resource does not exist yet, or no longer."""

    code = "not_ready"


class DatabaseDamaged(ServiceError):
    """A page of the database cannot be read. what: where, in SQLite's words."""

    code = "database_damaged"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the database is damaged ({what}). The operator stops the service and runs `gan-mhe restore BACKUP`, or "
            "`gan-mhe restore --salvage`, which keeps all that can be read; the files of the runs are not affected"
        )


class StartRefused(ServiceError):
    """Another server uses the data directory, the database is newer, or the settings are unsafe."""

    code = "start_refused"
