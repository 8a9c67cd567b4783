"""The interface of all penalties: their inputs, their value, their coefficient and their timing."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gan_mhe.config.constraints import PenaltyTiming, RatioConfig
from gan_mhe.config.sections import Schedule


@dataclass(frozen=True)
class PenaltyInputs:
    """Inputs of a penalty in one discriminator update."""

    discriminator: nn.Module
    """The network that is regularized."""
    real: Tensor
    """Real images (B, 3, H, H) in [-1, 1]."""
    fake: Tensor
    """Generated images (B, 3, H, H) in [-1, 1]."""
    mix: Tensor
    """Random numbers (B, 1, 1, 1), uniform in [0, 1). They are drawn before the update, which can then be captured."""


PenaltyFunction = Callable[[PenaltyInputs], Tensor]


class PenaltyModule(nn.Module):
    """A penalty function with state: random numbers of the current step, or variables that persist between steps.

    All state is in buffers. Variables are persistent buffers, which checkpoints contain. Random numbers are in
    non-persistent buffers, because `set_step` draws them again after a restart. `forward` may update variables in place
    but must not draw random numbers.
    """

    def set_step(self, step: int) -> None:
        """Draw the random numbers of `step`, which depend only on the seed and the step."""

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Penalty:
    """A term coefficient(step) * interval * function(inputs) of the discriminator's loss."""

    name: str
    """Name in the metrics, such as `penalty/<name>`."""
    function: PenaltyFunction
    """Differentiable scalar. It reads no value back from the device, and so also runs on the meta device."""
    coefficient: float
    """Coefficient before the schedule; unused if there is a ratio."""
    interval: int
    """The penalty is computed at every n-th generator step."""
    schedule: Schedule
    """Factor on the coefficient or on the ratio's target as a function of the step."""
    ratio: RatioConfig | None
    """Target ratio of gradient norms, see `gan_mhe.training.coefficients`."""
    skipped_layers: tuple[str, ...] = ()
    """Layers without effect on the penalty because they have only one neuron."""

    @classmethod
    def timed(
        cls,
        name: str,
        function: PenaltyFunction,
        coefficient: float,
        timing: PenaltyTiming,
        *,
        skipped_layers: tuple[str, ...] = (),
    ) -> "Penalty":
        """A penalty with the timing of its configuration section. A coefficient of 0 disables the ratio."""
        ratio = timing.ratio if coefficient else None
        return cls(name, function, coefficient, timing.interval, timing.schedule, ratio, skipped_layers)

    def due(self, step: int) -> bool:
        """Whether the penalty is computed at this generator step."""
        return step % self.interval == 0
