"""An executor whose attempts do what the test says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from server.executors.base import ExitRecord, Handle, LaunchError, LaunchSpec, Observation, Signal, Slot


class FakeExecutor:
    """Attempts that exist in memory only. They run until the test says `exits`, or something else about them.

    launched: every launch specification, by attempt, of the processes that were started. signals: what was sent, in
    order. refuses: why launches fail, None when they do not. misses: why no attempt can be started at all.
    """

    name = "fake"

    def __init__(self, *slots: Slot) -> None:
        self.slots = list(slots)
        self.launched: dict[str, LaunchSpec] = {}
        self.signals: list[tuple[str, Signal]] = []
        self.refuses: str | None = None
        self.misses: str | None = None
        self._seen: dict[str, Observation] = {}

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def inventory(self) -> Sequence[Slot]:
        return self.slots

    def launch(self, spec: LaunchSpec) -> Handle:
        if self.refuses is not None:
            raise LaunchError(self.refuses)
        if spec.attempt_id not in self.launched:
            self.runs(spec.attempt_id)
            self.launched[spec.attempt_id] = spec
        return self._handle(spec)

    def observe(self, handle: Handle) -> Observation:
        return self._seen[handle["attempt_id"]]

    def signal(self, handle: Handle, what: Signal) -> None:
        self.signals.append((handle["attempt_id"], what))

    def find(self, directory: Path) -> Handle | None:
        found = [spec for spec in self.launched.values() if spec.directory == directory]
        return self._handle(found[0]) if found else None

    def problem(self) -> str | None:
        return self.misses

    @staticmethod
    def _handle(spec: LaunchSpec) -> Handle:
        return {"attempt_id": spec.attempt_id}

    # What a test says of an attempt.

    def runs(self, attempt_id: str, *, lease_age_seconds: float = 0.0) -> None:
        self._seen[attempt_id] = Observation(attempt_id, "running", lease_age_seconds=lease_age_seconds)

    def silent(self, attempt_id: str) -> None:
        self._seen[attempt_id] = Observation(attempt_id, "unknown")

    def vanishes(self, attempt_id: str, *, seconds: float = 0.0) -> None:
        self._seen[attempt_id] = Observation(attempt_id, "exited", seconds=seconds)

    def exits(
        self,
        attempt_id: str,
        *,
        exit_code: int | None = 0,
        signal: int | None = None,
        cause: Any = "exit",
        outcome: Mapping[str, Any] | None = None,
        seconds: float = 0.0,
    ) -> None:
        record = ExitRecord(exit_code, signal, cause, outcome=outcome, seconds=seconds)
        self._seen[attempt_id] = Observation(attempt_id, "exited", record)

    def running(self) -> list[str]:
        """The attempts that have not ended."""
        return [attempt_id for attempt_id, seen in self._seen.items() if seen.status != "exited"]
