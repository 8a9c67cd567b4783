"""The one signature of every penalty: what it is given, what it returns, how strongly and how often it acts."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from gan_mhe.config.constraints import PenaltyTiming, RatioConfig
from gan_mhe.config.sections import Schedule


@dataclass(frozen=True)
class PenaltyInputs:
    """One discriminator update: the network, its real and generated images (B, 3, H, H) in [-1, 1], and noise.

    mix: uniform in [0, 1), (B, 1, 1, 1). Noise is drawn before the update, so that a captured one holds no generator.
    """

    discriminator: nn.Module
    real: Tensor
    fake: Tensor
    mix: Tensor


PenaltyFunction = Callable[[PenaltyInputs], Tensor]


class PenaltyModule(nn.Module):
    """A penalty function that keeps something: noise of the step, or inner variables that the steps move.

    All of it lies in buffers. Inner variables are persistent ones, so that a checkpoint has them; noise is not, because
    `set_step` makes it again. The forward pass may move inner variables in place, and draws nothing.
    """

    def set_step(self, step: int) -> None:
        """Draw the numbers of `step`, as a function of (seed, step)."""

    def forward(self, inputs: PenaltyInputs) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Penalty:
    """A named scalar added to the discriminator's loss as coefficient(step) * interval * function(inputs).

    With a ratio, the coefficient is what gives the gradients that ratio (see `gan_mhe.training.coefficients`).
    """

    name: str
    function: PenaltyFunction
    coefficient: float
    interval: int
    schedule: Schedule
    ratio: RatioConfig | None

    @classmethod
    def timed(cls, name: str, function: PenaltyFunction, coefficient: float, timing: PenaltyTiming) -> "Penalty":
        """A penalty with the timing of its configuration section. A coefficient of 0 is 0 beside a ratio too."""
        return cls(name, function, coefficient, timing.interval, timing.schedule, timing.ratio if coefficient else None)

    def due(self, step: int) -> bool:
        """Whether the penalty is computed at this generator step."""
        return step % self.interval == 0
