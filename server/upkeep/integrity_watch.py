"""A thread that examines the database from time to time, so that damage is found before it spreads."""

import threading

import structlog

from server.store.store import Store

INTERVAL_SECONDS = 6 * 3600.0
_log = structlog.get_logger("server.upkeep")


class IntegrityWatch:
    """Examines the whole database every six hours, until damage is found. It reads beside others and blocks nobody.

    The store keeps the damage, refuses further writes, and the first that is refused ends the engine.
    """

    def __init__(self, store: Store, *, interval: float = INTERVAL_SECONDS) -> None:
        """interval: seconds between examinations."""
        self._store = store
        self._interval = interval
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="integrity", daemon=True)

    def start(self) -> None:
        """Start the thread; call once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop without waiting for an examination that is under way."""
        self._stopping.set()

    def _run(self) -> None:
        while self._store.damage is None and not self._stopping.wait(self._interval):
            try:
                self._store.examine()
            except Exception:  # the disk may be out of reach for now
                _log.exception("database_not_examined")
