"""Room for attempts on this machine: CPU shares, and shares of GPUs checked against their live memory."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.executors.base import Slot
from server.executors.devices import Device, DeviceProbe
from server.executors.processes import Identity, attempt_of

_FRESH_SECONDS = 2.0
_FRESH_FACTOR = 10.0  # times as long as asking took: a driver that hangs must not hold up the service
_RELEASE_SECONDS = 30.0
_SHAREABLE = 0.9  # of a device's memory: the driver and one CUDA context a process take the rest
_GIB = 2**30


@dataclass
class _Tenant:
    """The last attempt on a GPU slot. It keeps the slot until its processes have left the device."""

    attempt_id: str
    supervisor: Identity
    trainer: int | None
    ended: float | None = None  # when it was first seen ended, on the monotonic clock

    def still_on(self, device: Device) -> list[int]:
        """Its processes that hold memory of the device."""
        return [p.pid for p in device.processes if p.pid == self.trainer or attempt_of(p.pid) == self.attempt_id]


class Slots:
    """The slots of one machine. May be asked from any thread."""

    def __init__(
        self,
        probe: DeviceProbe,
        *,
        cpu_slots: int,
        task_slots: int,
        threads_per_slot: int,
        cuda_slots_per_device: int,
        cuda_memory_bytes_per_slot: int | None,
    ) -> None:
        self._probe = probe
        self._cpu_slots = cpu_slots
        self._task_slots = task_slots
        self._threads = threads_per_slot
        self._per_device = cuda_slots_per_device
        self._budget = cuda_memory_bytes_per_slot
        self._guard = threading.Lock()
        self._devices: Sequence[Device] = ()
        self._stale_at = 0.0
        self._tenants: dict[str, _Tenant] = {}

    def inventory(self) -> list[Slot]:
        """GPU slots by device, then CPU slots, then those for tasks."""
        with self._guard:
            self._refresh()
            slots = [slot for device in self._devices for slot in self._on_device(device)]
        slots += [Slot(f"cpu{i}", "cpu", "train", threads=self._threads) for i in range(self._cpu_slots)]
        return slots + [Slot(f"task{i}", "cpu", "task", threads=self._threads) for i in range(self._task_slots)]

    def occupy(self, slot: str, attempt_id: str, supervisor: Identity, trainer: int | None) -> None:
        """Remember who is on a GPU slot; other slots need no memory of it."""
        if slot.startswith("cuda"):
            with self._guard:
                self._tenants[slot] = _Tenant(attempt_id, supervisor, trainer)

    def environment(self, slot: Slot) -> Mapping[str, str]:
        """What confines an attempt to its slot."""
        _, _, index = slot.device.partition(":")
        return {
            "OMP_NUM_THREADS": str(self._threads),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order in which nvidia-smi counts
            "CUDA_VISIBLE_DEVICES": index,
        }

    def memory_fraction(self, slot: Slot) -> float | None:
        """The slot's share of its device's memory, None where it is not limited."""
        with self._guard:
            totals = {f"cuda:{device.index}": device.total_bytes for device in self._devices}
        total = totals.get(slot.device, 0)
        return min(1.0, slot.memory_bytes / total) if slot.memory_bytes and total else None

    def _refresh(self) -> None:
        if time.monotonic() < self._stale_at:
            return
        asked = time.monotonic()
        self._devices = self._probe.devices()
        answered = time.monotonic()
        self._stale_at = answered + max(_FRESH_SECONDS, _FRESH_FACTOR * (answered - asked))

    def _on_device(self, device: Device) -> Iterator[Slot]:
        budget = self._budget or int(device.total_bytes * _SHAREABLE) // max(1, self._per_device)
        promised = 0
        for place in range(self._per_device):
            name = f"cuda{device.index}/{place}"
            note = device.offline or self._taken(name, device) or _short_of_memory(device, budget, promised)
            promised += budget if note is None else 0
            yield Slot(
                name,
                f"cuda:{device.index}",
                "train",
                memory_bytes=budget,
                free_bytes=device.free_bytes,
                threads=self._threads,
                available=note is None,
                note=note,
            )

    def _taken(self, name: str, device: Device) -> str | None:
        """Why the slot's last attempt still has it, None when it is free."""
        tenant = self._tenants.get(name)
        if tenant is None:
            return None
        if tenant.supervisor.alive():
            return f"in use by {tenant.attempt_id}"
        tenant.ended = tenant.ended or time.monotonic()
        left = tenant.still_on(device)
        if not left:
            del self._tenants[name]
            return None
        waited = time.monotonic() - tenant.ended
        state = "quarantined" if waited >= _RELEASE_SECONDS else "being released"
        return f"{state}: {_named(left)} of {tenant.attempt_id}, ended {waited:.0f} s ago, on the device still"


def _short_of_memory(device: Device, budget: int, promised: int) -> str | None:
    """Why another attempt would not fit beside the `promised` bytes of the slots offered before it."""
    free = device.free_bytes - promised
    if free >= budget:
        return None
    foreign = [process.pid for process in device.processes if attempt_of(process.pid) is None]
    others = f"; in use by {_named(foreign)}, which this service did not start" if foreign else ""
    return f"{free / _GIB:.1f} GiB free, {budget / _GIB:.1f} GiB needed{others}"


def _named(pids: Sequence[int]) -> str:
    return f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
