"""The coefficient of each penalty at a step: a scheduled constant, or one that holds a target ratio of gradient norms.

For a penalty with a target ratio, lambda = target * exp(m), where m is a running mean of
log(||grad adversarial|| / ||grad penalty||) over the parameters of the discriminator. In mode `track` the mean is over
the last `horizon` computations of the penalty (exponentially weighted after the first `horizon`); in mode `calibrate`
it is over the first `horizon` computations and then constant.

Related methods: VQGAN's adaptive weight (Esser et al. 2021) is the current ratio of the norms of two losses' gradients
at the last layer of the decoder, without a mean; GradNorm (Chen et al. 2018) learns the loss weights of several
tasks so that their gradient norms reach targets set by the training rates of the tasks.

All state is on the device, including the number of computations. The host only sets, before each step, what depends on
the step number.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from gan_mhe.config.constraints import RatioConfig
from gan_mhe.constraints.penalty import Penalty
from gan_mhe.errors import CheckpointError
from gan_mhe.training.schedule import factor


class _Mean(NamedTuple):
    """Mean of the logarithms of the ratios so far, and their number. The field names are checkpoint keys."""

    value: Tensor
    number: Tensor


class AdaptiveCoefficients:
    """The effective coefficient of each penalty, as 0-dimensional tensors on `device`."""

    def __init__(self, penalties: Iterable[Penalty], total_steps: int, device: torch.device) -> None:
        penalties = list(penalties)
        self._total_steps = total_steps
        self._factor = {penalty.name: torch.zeros((), device=device) for penalty in penalties}
        self._ratio = {penalty.name: penalty.ratio for penalty in penalties if penalty.ratio}
        self._mean = {name: _Mean(*torch.zeros(2, device=device).unbind()) for name in self._ratio}

    def set_step(self, step: int, due: Iterable[Penalty]) -> None:
        """Set the host's factor of each penalty due at `step`: coefficient or target, times interval and schedule."""
        for penalty in due:
            coefficient = penalty.ratio.target if penalty.ratio else penalty.coefficient
            schedule = factor(penalty.schedule, step, self._total_steps)
            self._factor[penalty.name].fill_(coefficient * penalty.interval * schedule)

    @torch.no_grad()
    def update(self, name: str, penalty_norm: Tensor, loss_norm: Tensor) -> Tensor:
        """Update the mean of penalty `name` and return its effective coefficient at this step.

        penalty_norm, loss_norm: norms of the gradients of the raw penalty and of the adversarial loss. A non-finite
        log ratio, such as that of a penalty with zero gradient, does not enter the mean.
        """
        if name not in self._ratio:
            return self._factor[name]
        value, number = self._mean[name]
        log_ratio = (loss_norm / penalty_norm).log().to(value.dtype)
        valid = torch.isfinite(log_ratio)
        updated = value + _weight(self._ratio[name], number) * (log_ratio - value)
        value.copy_(torch.where(valid, updated, value))
        number.add_(valid)
        return self._factor[name] * value.exp()

    def state(self) -> dict[str, Tensor]:
        """The running means of all penalties with a target ratio, as `<penalty>/value` and `<penalty>/number`."""
        return {
            f"{name}/{part}": tensor for name, mean in self._mean.items() for part, tensor in mean._asdict().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`. Raises CheckpointError if keys are missing or unknown."""
        own = self.state()
        if state.keys() != own.keys():
            different = sorted(state.keys() ^ own.keys())
            raise CheckpointError(f"checkpoint does not fit the adaptive coefficients: keys differ: {different}")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def missed_targets(
    penalties: Iterable[Penalty], scalars: Mapping[str, float], *, since: int, step: int, n_dis: int, total_steps: int
) -> list[str]:
    """A sentence for each penalty whose horizon ended after the steps `since`..`step` and whose ratio was not reached.

    scalars: the means over these steps. n_dis: computations of a penalty at each step at which it is due.
    """
    found = []
    for penalty in penalties:
        if penalty.ratio is None:
            continue
        end = (math.ceil(penalty.ratio.horizon / n_dis) - 1) * penalty.interval + 1
        reached = scalars.get(f"gradient_ratio/{penalty.name}")
        scale = penalty.interval * factor(penalty.schedule, step - 1, total_steps)
        if reached is None or not since < end <= step or penalty.ratio.is_reached(reached, scale):
            continue
        found.append(
            f"penalty {penalty.name}: at the end of its horizon its gradient ratio is {reached:.3g}, expected "
            f"{penalty.ratio.target * scale:.3g}; it acts with the ratio that it reaches, not with its target"
        )
    return found


def _weight(ratio: RatioConfig, number: Tensor) -> Tensor:
    """Weight of the next log ratio in the mean after `number` earlier ones; 1 for the first."""
    equal = (number + 1).reciprocal()
    later = 1 / ratio.horizon if ratio.mode == "track" else 0.0
    return torch.where(number < ratio.horizon, equal, later)
