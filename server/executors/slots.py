"""Slots of this machine: shares of the CPU, and shares of GPUs checked against their free memory."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.executors.base import Slot
from server.executors.devices import Device, DeviceProbe
from server.executors.processes import Identity, attempt_of

_FRESH_SECONDS = 2.0
_FRESH_FACTOR = 10.0  # in query durations: a slow driver must not slow down the service
_RELEASE_SECONDS = 30.0
_SHAREABLE = 0.9  # share of a device's memory; the driver and one CUDA context per process use the rest
_GIB = 2**30


@dataclass
class _Tenant:
    """The last attempt on a GPU slot. It occupies the slot until its processes have left the device."""

    attempt_id: str
    supervisor: Identity
    trainer: int | None
    ended: float | None = None  # when it was first seen to have ended, on the monotonic clock

    def pids_on(self, device: Device) -> list[int]:
        """Pids of its processes that use memory of the device."""
        return [p.pid for p in device.processes if p.pid == self.trainer or attempt_of(p.pid) == self.attempt_id]


class Slots:
    """The slots of one machine. Thread-safe."""

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
        self._bytes_per_slot = cuda_memory_bytes_per_slot
        self._guard = threading.Lock()
        self._devices: Sequence[Device] = ()
        self._stale_at = 0.0
        self._tenants: dict[str, _Tenant] = {}

    def inventory(self) -> list[Slot]:
        """GPU slots by device, then CPU slots, then task slots."""
        with self._guard:
            self._refresh()
            slots = [slot for device in self._devices for slot in self._on_device(device)]
        slots += [Slot(f"cpu{i}", "cpu", "train", threads=self._threads) for i in range(self._cpu_slots)]
        return slots + [Slot(f"task{i}", "cpu", "task", threads=self._threads) for i in range(self._task_slots)]

    def occupy(self, slot: str, attempt_id: str, supervisor: Identity, trainer: int | None) -> None:
        """Record which attempt is on a GPU slot; other slots need no record."""
        if slot.startswith("cuda"):
            with self._guard:
                self._tenants[slot] = _Tenant(attempt_id, supervisor, trainer)

    def environment(self, slot: Slot) -> Mapping[str, str]:
        """Environment variables that confine an attempt to its slot."""
        _, _, index = slot.device.partition(":")
        return {
            "OMP_NUM_THREADS": str(self._threads),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # the order of nvidia-smi
            "CUDA_VISIBLE_DEVICES": index,
        }

    def memory_fraction(self, slot: Slot) -> float | None:
        """The slot's share of its device's memory in (0, 1], None if unlimited."""
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
        needed = self._bytes_per_slot or int(device.total_bytes * _SHAREABLE) // max(1, self._per_device)
        claimed = 0
        for number in range(self._per_device):
            name = f"cuda{device.index}/{number}"
            note = device.offline or self._taken(name, device) or _short_of_memory(device, needed, claimed)
            claimed += needed if note is None else 0
            yield Slot(
                name,
                f"cuda:{device.index}",
                "train",
                memory_bytes=needed,
                free_bytes=device.free_bytes,
                threads=self._threads,
                available=note is None,
                note=note,
            )

    def _taken(self, name: str, device: Device) -> str | None:
        """Why the slot's last attempt still occupies it, None if the slot is free."""
        tenant = self._tenants.get(name)
        if tenant is None:
            return None
        if tenant.supervisor.alive():
            return f"in use by {tenant.attempt_id}"
        tenant.ended = tenant.ended or time.monotonic()
        left = tenant.pids_on(device)
        if not left:
            del self._tenants[name]
            return None
        waited = time.monotonic() - tenant.ended
        state = "quarantined" if waited >= _RELEASE_SECONDS else "being released"
        return f"{state}: {_named(left)} of {tenant.attempt_id}, ended {waited:.0f} s ago, still on the device"


def _short_of_memory(device: Device, needed: int, claimed: int) -> str | None:
    """Why another attempt does not fit beside the `claimed` bytes of the slots before it, None if it fits."""
    free = device.free_bytes - claimed
    if free >= needed:
        return None
    foreign = [process.pid for process in device.processes if attempt_of(process.pid) is None]
    others = f"; in use by {_named(foreign)}, which this service did not start" if foreign else ""
    return f"{free / _GIB:.1f} GiB free, {needed / _GIB:.1f} GiB needed{others}"


def _named(pids: Sequence[int]) -> str:
    return f"process{'es' if len(pids) > 1 else ''} {', '.join(map(str, pids))}"
