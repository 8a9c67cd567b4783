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
from gan_mhe.streams import Dispensable


class Recorder:
    """Gives each event a consecutive number and the time, and writes it before passing it to the sinks.

    A sink that raises is left out from then on, and a notice says why: what shows a run must not end it.
    """

    def __init__(self, run_dir: RunDir, sinks: Sequence[EventSink]) -> None:
        self._journal = JsonLines(run_dir.events)
        self._step = 0
        self._sinks = [Dispensable(sink.emit, self._sink_failed) for sink in sinks]
        try:
            self._log = open(run_dir.log, "a", encoding="utf-8", errors="backslashreplace")
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
        self._step = event.step
        for sink in self._sinks:
            sink(event)

    def notice(self, step: int, message: str) -> None:
        """Record a `Notice`."""
        self.emit(Notice(step, message))

    def _sink_failed(self, reason: str) -> None:
        self.notice(self._step, f"a display of this run failed and is switched off; the run goes on: {reason}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A full disk was reported when a line was written; closing would only report it again.
        for file in (self._journal, self._log):
            with suppress(OSError):
                file.close()
