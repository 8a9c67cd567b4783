"""What a step leaves behind on the device until the host asks: sums of scalars, and the first fault."""

from collections.abc import Mapping

import torch
from torch import Tensor

_MOST_NAMES = 1024  # 17 layers under a dozen penalties are a quarter of it


class Meter:
    """Means of named scalars since the last read, summed on the device in float64; the host waits only in `read`.

    A name keeps its row of one table, whose address never changes, so that a captured step goes on adding to it.
    """

    def __init__(self, device: torch.device) -> None:
        self._table = torch.zeros(_MOST_NAMES, 2, dtype=torch.float64, device=device)  # sum and count
        self._rows: dict[str, int] = {}
        self._index: dict[tuple[str, ...], Tensor] = {}

    @torch.no_grad()
    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's scalars."""
        sums = torch.stack(list(values.values())).double()
        self._table.index_add_(0, self._rows_of(tuple(values)), torch.stack([sums, torch.ones_like(sums)], dim=1))

    def read(self) -> dict[str, float]:
        """Means since the last read, and start again."""
        table = self._table.tolist()
        self._table.zero_()
        return {name: table[row][0] / table[row][1] for name, row in self._rows.items() if table[row][1]}

    def state(self) -> dict[str, Tensor]:
        """Sum and count of every scalar, so that a resumed run reports what an unbroken one would."""
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
    """Remembers, on the device, the first step at which a watched scalar was not finite.

    `flag` is 0.0 while all is well and 1.0 for ever after; a fused Adam that is given it as `found_inf` then leaves
    parameters and moments alone. The host learns of it in `read`, so a step never waits for the answer.
    """

    def __init__(self, device: torch.device) -> None:
        self.flag = torch.zeros((), device=device)
        self._nonfinite: dict[tuple[str, ...], Tensor] = {}
        self._step = torch.full((), -1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def watch(self, values: Mapping[str, Tensor], step: Tensor) -> None:
        """Look at named scalars of one phase; only the phase in which the first fault happens is remembered."""
        names = tuple(values)
        if names not in self._nonfinite:
            self._nonfinite[names] = torch.zeros(len(names), dtype=torch.bool, device=self.flag.device)
        must_be_finite = (self.flag == 0) & ~torch.isfinite(torch.stack(list(values.values())))
        first = must_be_finite.any()
        self._nonfinite[names].logical_or_(must_be_finite)
        self.flag.masked_fill_(first, 1.0)
        self._step.copy_(torch.where(first, step, self._step))

    def read(self) -> tuple[int, list[str]] | None:
        """The step and the names of the first fault, or None. Waits for the device."""
        if not self.flag.item():
            return None
        named = (
            (name, nonfinite)
            for names, must_be_finite in self._nonfinite.items()
            for name, nonfinite in zip(names, must_be_finite.tolist(), strict=True)
        )
        return int(self._step), [name for name, nonfinite in named if nonfinite]
