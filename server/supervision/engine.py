"""The thread that reads events and schedules, round after round."""

import threading
from collections.abc import Callable, Sequence

import structlog

from server.errors import DatabaseDamaged
from server.supervision import reports
from server.supervision.scheduler import Scheduler

_log = structlog.get_logger()

_ROUND_SECONDS = 0.2
_ERROR_ROUND_SECONDS = 1.0


class Engine:
    """The one thread that reads events and schedules. Damage of the database ends it; no other exception does."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stopping = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread; call once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current round."""
        self._stopping = True
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        """Start the next round immediately, after a request. Thread-safe."""
        self._awake.set()

    def heartbeat_age(self) -> float:
        """Seconds since the last complete round, infinite before the first. Errors with single jobs do not count."""
        return self._scheduler.round_age()

    def problem(self) -> str | None:
        """Why this machine cannot start attempts, for clients; None if nothing speaks against it. Thread-safe."""
        return self._scheduler.problem()

    def _run(self) -> None:
        report = reports.Rounds()
        while not self._stopping:
            errors = [error for work in (self._scheduler.poll, self._scheduler.tick) for error in _errors_of(work)]
            if (damage := _damage_in(errors)) is not None:
                _log.error("database_damaged", consequence="nothing is started any more", advice=str(damage))
                return
            report.ended(errors)
            self._awake.wait(_ERROR_ROUND_SECONDS if errors else _ROUND_SECONDS)
            self._awake.clear()


def _errors_of(work: Callable[[], None]) -> list[Exception]:
    try:
        work()
    except Exception as error:
        return [error]
    return []


def _damage_in(errors: Sequence[Exception]) -> DatabaseDamaged | None:
    """The first error that says that the database is damaged, alone or in a group."""
    for error in errors:
        if isinstance(error, DatabaseDamaged):
            return error
        if isinstance(error, ExceptionGroup) and (found := _damage_in(error.exceptions)) is not None:
            return found
    return None
