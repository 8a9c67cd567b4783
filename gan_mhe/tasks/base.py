"""The interface between the run loop and what it trains.

The GAN is the first task. Nothing outside a task may assume that there is a generator.
"""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from gan_mhe.config.run_config import RunConfig
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.events import RunControl


class Task(Protocol):
    """Something that trains in steps, which count from 0, and that can be scored, saved and resumed."""

    images_per_step: int
    """Real images that a step uses."""
    metric: str
    """Metric that ranks states, a key of `gan_mhe.evaluation.metrics.METRICS`."""
    protocol: str | None
    """Name of the evaluation protocol; None if the run is not scored."""
    fingerprints: Mapping[str, str]
    """Fingerprint of each score by its name; empty if the run is not scored."""
    weights_sha256: str | None
    """SHA-256 of the weights file of the scorer; None if the run is not scored."""
    score_notes: tuple[str, ...]
    """Messages about what the scores mean, or that there are none; also among `warnings`."""
    data: DataSummary
    """What the data set holds that it trains on."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Messages that the user should see, such as the layers that a penalty skips. More may come during the run."""

    def set_step(self, step: int) -> None:
        """Set everything that depends on the step number."""

    def step(self) -> None:
        """Compute the step that `set_step` has set, without waiting for the device."""

    def check(self) -> None:
        """Raise DivergedError if a step since the last check produced a non-finite value. Waits for the device."""

    def scalars(self) -> dict[str, float]:
        """Means since the last call, and diagnostics of the current state. Waits for the device."""

    def grid(self) -> bytes:
        """A PNG that shows the current state, and depends on nothing else."""

    def evaluate(self, *, fresh: bool, control: RunControl | None = None) -> dict[str, float]:
        """Scores of the current state under `protocol`.

        fresh: use samples that no other evaluation uses. control: asked again and again meanwhile; raises StopRequested
        as soon as it wants a stop. The state is unchanged.
        """

    def real_scores(self) -> dict[str, float]:
        """Scores of the real data under `protocol`."""

    def peak_memory_bytes(self) -> int:
        """The most device memory held so far. Cheap; does not wait for the device."""

    def state(self) -> dict[str, Tensor]:
        """Everything that the steps have changed, by name."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""


class TaskConstructor(Protocol):
    """A callable that builds a task from a configuration."""

    def __call__(self, config: RunConfig, *, to_train: bool = False) -> Task:
        """Load the data and build the models of a configuration.

        to_train: also make sure that training steps fit into memory; scores and grids need less. Raises GanMheError
        if data, weights, a device or memory is missing.
        """
