"""How strongly each penalty acts at a step: its coefficient, or what gives the two gradients a target ratio.

A ratio is kept by lambda = target * exp(m), where m is a mean of log(||grad GAN|| / ||grad penalty||). With `track` it
runs over the last `horizon` computations of the penalty (exponentially weighted once there are as many), with
`calibrate` over the first ones, and then stands still. Everything is on the device; the host fills in, between steps,
what depends on the step number.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from gan_mhe.config import RatioConfig
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.errors import CheckpointError
from gan_mhe.training.schedule import factor


class Strength:
    """The effective coefficient of each penalty, as scalars on `device`."""

    def __init__(self, penalties: Iterable[Penalty], total_steps: int, device: torch.device) -> None:
        penalties = list(penalties)
        self._total_steps = total_steps
        self._factor = {penalty.name: torch.zeros((), device=device) for penalty in penalties}
        followed = [penalty.name for penalty in penalties if penalty.ratio]
        self._weight = {name: torch.zeros((), device=device) for name in followed}
        self._log_quotient = {name: torch.zeros((), device=device) for name in followed}

    def seek(self, step: int, due: Iterable[Penalty]) -> None:
        """Set what the penalties due at `step` are multiplied by, and how far a new quotient moves the mean."""
        for penalty in due:
            strength = penalty.ratio.target if penalty.ratio else penalty.coefficient
            schedule = factor(penalty.schedule, step, self._total_steps)
            self._factor[penalty.name].fill_(strength * penalty.interval * schedule)
            if penalty.ratio:
                self._weight[penalty.name].fill_(weight_of(penalty.ratio, step // penalty.interval))

    @torch.no_grad()
    def of(self, name: str, pull: Tensor, gan: Tensor) -> Tensor:
        """The strength at this step, given the norms of the penalty's own gradient and of the adversarial loss's.

        A quotient that is not a number, such as that of a penalty without gradient, leaves the mean alone.
        """
        if name not in self._log_quotient:
            return self._factor[name]
        mean = self._log_quotient[name]
        quotient = (gan / pull).log().to(mean.dtype)
        moved = mean + self._weight[name] * (quotient - mean)
        mean.copy_(torch.where(torch.isfinite(quotient), moved, mean))
        return self._factor[name] * mean.exp()

    def state(self) -> dict[str, Tensor]:
        """The means of all penalties that follow a ratio."""
        return dict(self._log_quotient)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`. CheckpointError when a mean is missing or left over."""
        if state.keys() != self._log_quotient.keys():
            different = sorted(state.keys() ^ self._log_quotient.keys())
            raise CheckpointError(f"checkpoint does not fit the strengths: keys differ: {different}")
        for name, mean in self._log_quotient.items():
            mean.copy_(state[name])


def weight_of(ratio: RatioConfig, number: int) -> float:
    """What the quotient of the computation `number`, counted from 0, weighs in the mean: 1 for the first."""
    if number < ratio.horizon:
        return 1 / (number + 1)
    return 1 / ratio.horizon if ratio.mode == "track" else 0.0
