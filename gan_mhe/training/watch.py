"""What a step leaves behind on the device until the host asks: sums of scalars, and the first fault."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Meter:
    """Means of named scalars since the last read, summed on the device in float64; the host waits only in `read`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's scalars."""
        for name, value in values.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
                self._counts[name] = 0
            self._sums[name] += value.detach()
            self._counts[name] += 1

    def read(self) -> dict[str, float]:
        """Means since the last read, and start again."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        means = {name: total / self._counts[name] for name, total in zip(self._sums, sums, strict=True)}
        self._sums.clear()
        self._counts.clear()
        return means

    def state(self) -> dict[str, Tensor]:
        """Sum and count of every scalar, so that a resumed run reports what an unbroken one would."""
        return {
            name: torch.stack([total.cpu(), torch.tensor(float(self._counts[name]), dtype=torch.float64)])
            for name, total in self._sums.items()
        }

    def load_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Inverse of `state`."""
        self._sums = {name: pair[0].to(device, copy=True) for name, pair in state.items()}
        self._counts = {name: int(pair[1]) for name, pair in state.items()}


class FaultDetector:
    """Remembers, on the device, the first step at which a watched quantity was not finite.

    `flag` is 0.0 while all is well and 1.0 for ever after; a fused Adam that is given it as `found_inf` then leaves
    parameters and moments alone. The host learns of it in `read`, so a step never waits for the answer.
    """

    def __init__(self, device: torch.device) -> None:
        self.flag = torch.zeros((), device=device)
        self._faults: dict[str, Tensor] = {}
        self._step = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def watch(self, values: Mapping[str, Tensor], step: Tensor) -> None:
        """Look at named scalars of one phase; only the phase in which the first fault happens is remembered."""
        healthy = self.flag == 0
        for name, value in values.items():
            fault = healthy & ~torch.isfinite(value).all()
            if name not in self._faults:
                self._faults[name] = torch.zeros((), dtype=torch.bool, device=self.flag.device)
            self._faults[name] |= fault
            self.flag.masked_fill_(fault, 1.0)
        first = healthy & (self.flag != 0)
        self._step.copy_(torch.where(first, step, self._step))

    def read(self) -> tuple[int, list[str]] | None:
        """The step and the names of the first fault, or None. Waits for the device."""
        if not self.flag.item():
            return None
        return int(self._step), [name for name, fault in self._faults.items() if fault]
