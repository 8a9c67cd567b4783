"""Moving average of a network's weights."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """theta_ema <- theta_ema + (1 - 2^(-1 / halflife)) (theta - theta_ema), buffers copied.

    halflife is in generator steps. `network` is the averaged copy, in evaluation mode.
    """

    def __init__(self, source: nn.Module, halflife_steps: float) -> None:
        self.network = copy.deepcopy(source).eval().requires_grad_(False)
        self._weight = 1.0 - 0.5 ** (1.0 / halflife_steps)

    @torch.no_grad()
    def update(self, source: nn.Module, keep: Tensor) -> None:
        """Move towards `source`; `keep` is 1, or 0 on the device to leave the average, buffers too, as it is.

        Parameters of `source` must be finite: what sets `keep` to 0 also holds their optimiser. Its buffers need not.
        """
        averages: list[Tensor] = list(self.network.parameters())
        currents: list[Tensor] = list(source.parameters())
        moves = list(torch._foreach_sub(currents, averages))
        torch._foreach_mul_(moves, keep.double() * self._weight)
        torch._foreach_add_(averages, moves)
        kept = keep != 0  # a choice, not a product: 0 * NaN would let a spoilt source in
        for held, fresh in zip(self.network.buffers(), source.buffers(), strict=True):
            held.copy_(torch.where(kept, fresh, held))
