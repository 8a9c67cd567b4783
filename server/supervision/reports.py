"""Reports of conditions in the log: one line when a condition begins, and one when it ends."""

from collections.abc import Sequence

import structlog
from sqlalchemy.exc import DBAPIError

from gan_mhe.errors import StorageError
from server.clock import STEP_SECONDS
from server.store import sqlite

log = structlog.get_logger()


class Machine:
    """Whether the machine can run attempts, and how its wall clock was set."""

    def __init__(self) -> None:
        self._problem: str | None = None
        self._stepped = 0.0

    def problem(self, problem: str | None) -> None:
        """Log that the start of attempts is suspended, or that it goes on."""
        if problem is not None and self._problem is None:
            log.error("machine_failed", problem=problem, consequence="jobs wait until an attempt works")
        elif problem is None and self._problem is not None:
            log.info("machine_recovered")
        self._problem = problem

    def stepped(self, seconds: float) -> None:
        """Log that the wall clock was set. seconds: how far since the process started."""
        if abs(seconds - self._stepped) >= STEP_SECONDS:
            self._stepped = seconds
            log.warning("clock_stepped", seconds=round(seconds, 1), consequence="a restart takes the new time")


class Rounds:
    """Whether rounds fail: errors of the program are logged in full each time, trouble with the disk as a condition."""

    def __init__(self) -> None:
        self._rounds = 0

    def ended(self, errors: Sequence[Exception]) -> None:
        """Log what is new about a round that raised these errors, or none."""
        known: list[BaseException] = []
        for error in errors:
            found, other = _split(error)
            known += found
            if other is not None:
                log.error("scheduler round failed", exc_info=other)
        if known:
            self._rounds += 1
            if self._rounds == 1:
                log.error("storage_trouble_began", error=_describe(known[0]), consequence="rounds are repeated")
        elif self._rounds:
            log.info("storage_trouble_ended", failed_rounds=self._rounds)
            self._rounds = 0


def _split(error: Exception) -> tuple[list[BaseException], Exception | None]:
    """The errors that only say that the disk cannot be written, and the rest."""
    if not isinstance(error, ExceptionGroup):
        return ([error], None) if _of_storage(error) else ([], error)
    storage, other = error.split(_of_storage)
    return _leaves(storage), other


def _leaves(error: BaseException | None) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [] if error is None else [error]


def _of_storage(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        return sqlite.is_full(error) or sqlite.is_unwritable(error)
    return isinstance(error, OSError | StorageError)


def _describe(error: BaseException) -> str:
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
