"""Records the events of a run: in the journal first, then in the log, then to the sinks."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from gan_mhe.errors import StorageError
from gan_mhe.files import JsonLines
from gan_mhe.records.events import Event, EventSink, Notice, describe, encode
from gan_mhe.records.run_dir import RunDir


class Recorder:
    """Gives each event a consecutive number and the time, and writes it before passing it to the sinks."""

    def __init__(self, run_dir: RunDir, sinks: Sequence[EventSink]) -> None:
        self._journal = JsonLines(run_dir.events)
        self._sinks = sinks
        try:
            self._log = open(run_dir.log, "a", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write {run_dir.log}: {error.strerror}") from error

    def emit(self, event: Event) -> None:
        """Record one event. StorageError if the journal or the log cannot be written."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._journal.append({"seq": self._journal.lines, "time": now} | encode(event))
        try:
            self._log.write(f"{now}  {describe(event)}\n")
            self._log.flush()
        except OSError as error:
            raise StorageError(f"cannot write the log: {error.strerror}") from error
        for sink in self._sinks:
            sink.emit(event)

    def notice(self, step: int, message: str) -> None:
        """Record a `Notice`."""
        self.emit(Notice(step, message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A full disk was reported when a line was written; closing would only report it again.
        for file in (self._journal, self._log):
            with suppress(OSError):
                file.close()
