"""What `run.execute` drives: something that steps, reports, shows, is scored, and can be put down and taken up again.

The GAN is the first task. Nothing outside a task may assume that there is a generator.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Task(Protocol):
    """One trainable thing, on one clock. Steps count from 0."""

    images_per_step: int
    protocol: str | None
    fingerprints: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of this run; may grow as it goes."""

    def set_step(self, step: int) -> None:
        """Set what depends on the step number."""

    def step(self) -> None:
        """Compute the step that `set_step` has set, without waiting for the device."""

    def check(self) -> None:
        """Raise DivergedError if any step since the last check met a non-finite value. Waits for the device."""

    def scalars(self) -> dict[str, float]:
        """Means since the last call, and diagnostics of the present state. Waits for the device."""

    def picture(self) -> bytes:
        """A PNG of the present state, a function of that state alone."""

    def evaluate(self, *, fresh: bool) -> dict[str, float]:
        """Scores of the present state under `protocol`; `fresh` draws samples that no earlier evaluation saw."""

    def real_scores(self) -> dict[str, float]:
        """Scores of the real data under `protocol`."""

    def peak_memory_bytes(self) -> int:
        """The most memory of the device held so far. Costs little, does not wait."""

    def state(self) -> dict[str, Tensor]:
        """Everything the steps have made, by name."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
