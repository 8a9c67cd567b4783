"""How strongly each penalty acts at a step: its coefficient, or what gives the two gradients a target ratio.

A ratio is kept by lambda = target * exp(m), where m is a mean of log(||grad GAN|| / ||grad penalty||). With `track` it
runs over the last `horizon` computations of the penalty (exponentially weighted once there are as many), with
`calibrate` over the first ones, and then stands still. Everything is on the device, the number of computations too; the
host fills in, between steps, what depends on the step number.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gan_mhe.config.constraints import RatioConfig
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.errors import CheckpointError
from gan_mhe.training.schedule import factor


class _Mean(NamedTuple):
    """Mean of the logarithms of the quotients so far, and how many they were."""

    value: Tensor
    number: Tensor


class AdaptiveCoefficients:
    """The effective coefficient of each penalty, as scalars on `device`."""

    def __init__(self, penalties: Iterable[Penalty], total_steps: int, device: torch.device) -> None:
        penalties = list(penalties)
        self._total_steps = total_steps
        self._factor = {penalty.name: torch.zeros((), device=device) for penalty in penalties}
        self._ratio = {penalty.name: penalty.ratio for penalty in penalties if penalty.ratio}
        self._mean = {name: _Mean(*torch.zeros(2, device=device).unbind()) for name in self._ratio}

    def set_step(self, step: int, due: Iterable[Penalty]) -> None:
        """Set what the penalties due at `step` are multiplied by."""
        for penalty in due:
            strength = penalty.ratio.target if penalty.ratio else penalty.coefficient
            schedule = factor(penalty.schedule, step, self._total_steps)
            self._factor[penalty.name].fill_(strength * penalty.interval * schedule)

    @torch.no_grad()
    def of(self, name: str, penalty_grad: Tensor, loss_grad: Tensor) -> Tensor:
        """The strength at this step, given the norms of the penalty's own gradient and of the adversarial loss's.

        A quotient that is not a number, such as that of a penalty without gradient, is none: it is not counted.
        """
        if name not in self._ratio:
            return self._factor[name]
        value, number = self._mean[name]
        quotient = (loss_grad / penalty_grad).log().to(value.dtype)
        counts = torch.isfinite(quotient)
        moved = value + _weight(self._ratio[name], number) * (quotient - value)
        value.copy_(torch.where(counts, moved, value))
        number.add_(counts)
        return self._factor[name] * value.exp()

    def state(self) -> dict[str, Tensor]:
        """The means of all penalties that follow a ratio."""
        return {
            f"{name}/{part}": tensor for name, mean in self._mean.items() for part, tensor in mean._asdict().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`. CheckpointError when a mean is missing or left over."""
        own = self.state()
        if state.keys() != own.keys():
            different = sorted(state.keys() ^ own.keys())
            raise CheckpointError(f"checkpoint does not fit the strengths: keys differ: {different}")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _weight(ratio: RatioConfig, number: Tensor) -> Tensor:
    """What a quotient weighs in the mean when there were so many before it: 1 if it is the first."""
    alike = (number + 1).reciprocal()
    later = 1 / ratio.horizon if ratio.mode == "track" else 0.0
    return torch.where(number < ratio.horizon, alike, later)
