"""What can go wrong with jobs, in terms that the API turns into answers.

ServiceError                 root; has a stable `code`
├── InvalidRequest           a field of the request is not acceptable  invalid_request
├── NotFound                 no such thing in this project             not_found
├── InvalidTransition        the job's state does not allow it         invalid_transition
├── StaleWriter              a newer attempt owns the job              stale_writer
├── RevisionMismatch         somebody changed it in between            revision_mismatch
├── IdempotencyMismatch      the key was used for another request      idempotency_key_reused
├── IdempotencyInProgress    the first request is still being answered idempotency_in_progress
├── InsufficientStorage      the disk's reserve is reached             insufficient_storage
├── QueueFull                too many jobs wait                        queue_full
├── TooManyStreams           the key has as many streams as allowed    too_many_streams
├── NotReady                 it is being made, or cannot be made yet   not_ready
└── StartRefused             the service cannot start like this        start_refused
"""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_LISTED = 20  # of the fields that are wrong: one mistake made a thousand times is one mistake


class ServiceError(Exception):
    """Root of the tree. `code` is stable; messages are for people."""

    code = "error"


@dataclass(frozen=True)
class FieldError:
    """One thing wrong with a request. pointer: RFC 6901, into its body; code: stable; message: for people."""

    pointer: str
    code: str
    message: str


def pointer(*parts: str) -> str:
    """RFC 6901: `pointer("overrides", "training.steps")` is `/overrides/training.steps`."""
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


class InvalidRequest(ServiceError):
    """Fields of a request that the service does not accept, each with where it is and what was expected.

    `errors` are the first MAX_LISTED of them. more: how many there are besides those given.
    """

    code = "invalid_request"

    def __init__(self, *errors: FieldError, more: int = 0) -> None:
        self.errors: Sequence[FieldError] = errors[:MAX_LISTED]
        more += len(errors) - len(self.errors)
        super().__init__("; ".join(error.message for error in self.errors) + (f"; and {more} more" if more else ""))


class NotFound(ServiceError):
    """There is no such thing, or it belongs to another project: the two look alike on purpose."""

    code = "not_found"


class InvalidTransition(ServiceError):
    """The move is not among the legal ones from the state the job is in."""

    code = "invalid_transition"


class StaleWriter(ServiceError):
    """The writer's lease epoch is not the job's."""

    code = "stale_writer"


class RevisionMismatch(ServiceError):
    """`If-Match` names another revision."""

    code = "revision_mismatch"


class IdempotencyMismatch(ServiceError):
    """An Idempotency-Key came again with another body."""

    code = "idempotency_key_reused"


class IdempotencyInProgress(ServiceError):
    """An Idempotency-Key came again before its first request was answered."""

    code = "idempotency_in_progress"


class InsufficientStorage(ServiceError):
    """Less free space than the reserve."""

    code = "insufficient_storage"


class QueueFull(ServiceError):
    """The project has as many waiting jobs as allowed."""

    code = "queue_full"


class TooManyStreams(ServiceError):
    """The key has as many open event streams as allowed."""

    code = "too_many_streams"


class NotReady(ServiceError):
    """Something that does not exist yet, or no longer."""

    code = "not_ready"


class StartRefused(ServiceError):
    """Another server owns the data directory, the database is newer, or the settings are unsafe."""

    code = "start_refused"
