"""What steps accumulate on the device until the host reads it: sums of scalars, and a flag for non-finite values."""

from collections.abc import Mapping

import torch
from torch import Tensor

_MAX_NAMES = 1024  # 17 layers with a dozen penalties use a quarter of it


class Meter:
    """Means of named scalars since the last read, summed on the device in float64; only `read` waits for the device.

    Each name has a fixed row in one table with a fixed address, so that a captured step keeps adding to it.
    """

    def __init__(self, device: torch.device) -> None:
        self._table = torch.zeros(_MAX_NAMES, 2, dtype=torch.float64, device=device)  # sum and count
        self._rows: dict[str, int] = {}
        self._index: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's scalars."""
        sums = torch.stack(list(values.values())).double()
        self._table.index_add_(0, self._rows_of(tuple(values)), torch.stack([sums, torch.ones_like(sums)], dim=1))

    def read(self) -> dict[str, float]:
        """Return the means since the last read, and reset them."""
        table = self._table.tolist()
        self._table.zero_()
        return {name: table[row][0] / table[row][1] for name, row in self._rows.items() if table[row][1]}

    def state(self) -> dict[str, Tensor]:
        """Sum and count of every scalar, so that a resumed run reports the same means as an uninterrupted one."""
        table = self._table.cpu()
        return {name: table[row].clone() for name, row in self._rows.items() if table[row][1]}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Inverse of `state`."""
        self._table.zero_()
        if state:
            self._table[self._rows_of(tuple(state))] = torch.stack(list(state.values())).to(self._table.device)

    def _rows_of(self, names: tuple[str, ...]) -> Tensor:
        if names not in self._index:
            rows = [self._rows.setdefault(name, len(self._rows)) for name in names]
            self._index[names] = torch.tensor(rows, device=self._table.device)
        return self._index[names]


class NonFiniteFlag:
    """Records, on the device, the first step at which a watched scalar was not finite.

    `flag` is 0.0 until then and 1.0 from then on. A fused Adam that has it as `found_inf` then skips its updates of
    parameters and moments. The host reads it in `read`, so that no step waits for the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.flag = torch.zeros((), device=device)
        self._nonfinite: dict[tuple[str, ...], Tensor] = {}
        self._step = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def watch(self, values: Mapping[str, Tensor], step: Tensor) -> None:
        """Check the named scalars of one update in `step`; only the first update with a non-finite one is recorded."""
        names = tuple(values)
        if names not in self._nonfinite:
            self._nonfinite[names] = torch.zeros(len(names), dtype=torch.bool, device=self.flag.device)
        nonfinite = (self.flag == 0) & ~torch.isfinite(torch.stack(list(values.values())))
        first = nonfinite.any()
        self._nonfinite[names].logical_or_(nonfinite)
        self.flag.masked_fill_(first, 1.0)
        self._step.copy_(torch.where(first, step, self._step))

    def read(self) -> tuple[int, list[str]] | None:
        """The step and names of the first non-finite scalars, or None. Waits for the device."""
        if not self.flag.item():
            return None
        marked = (
            (name, mark)
            for names, nonfinite in self._nonfinite.items()
            for name, mark in zip(names, nonfinite.tolist(), strict=True)
        )
        return int(self._step), [name for name, mark in marked if mark]
