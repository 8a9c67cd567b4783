"""Exponential moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """theta_ema <- theta_ema + (1 - 2^(-1 / halflife)) (theta - theta_ema); buffers are copied.

    halflife_steps: half-life in generator steps. `network` is the averaged copy, in evaluation mode.
    """

    def __init__(self, source: nn.Module, halflife_steps: float) -> None:
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        self._weight = 1.0 - 0.5 ** (1.0 / halflife_steps)

    @torch.no_grad()
    def update(self, source: nn.Module, apply: Tensor) -> None:
        """Update the average from `source`. apply: 1, or 0 on the device to leave parameters and buffers unchanged.

        The parameters of `source` must be finite, because they are multiplied by `apply`: the flag that sets it to 0
        also stops their optimizer. Buffers may be non-finite.
        """
        averages: list[Tensor] = list(self.network.parameters())
        currents: list[Tensor] = list(source.parameters())
        moves = list(torch._foreach_sub(currents, averages))
        torch._foreach_mul_(moves, apply.double() * self._weight)
        torch._foreach_add_(averages, moves)
        applied = apply != 0  # selected, not multiplied: 0 * NaN would write NaN
        for averaged, current in zip(self.network.buffers(), source.buffers(), strict=True):
            averaged.copy_(torch.where(applied, current, averaged))
