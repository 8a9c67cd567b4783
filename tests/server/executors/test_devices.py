"""GPUs as the driver reports them, and the slots made from them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from server.executors import devices, slots
from server.executors.devices import Device, DeviceProcess, NvidiaSmi
from server.executors.processes import Identity
from server.executors.slots import Slots
from server.executors.supervisor import MARKER, boot_id, process_stat

GIB = 2**30
TWO_GPUS = """
case "$1" in
*query-gpu*) echo "0, GPU-aa, 81920, 81000"; echo "1, GPU-bb, 40960, 100" ;;
*compute-apps*) echo "4242, GPU-bb, 40000"; echo "17, GPU-bb, [N/A]" ;;
esac
"""


class Tool:
    """A replacement for nvidia-smi whose behavior can be changed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "nvidia-smi"
        self.calls = directory / "calls"

    def set_body(self, body: str) -> "Tool":
        self.path.write_text(f'#!/bin/sh\necho "$@" >> {self.calls}\n{body}\n')
        self.path.chmod(0o755)
        return self


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return Tool(tmp_path)


def probe(tool: Tool) -> NvidiaSmi:
    return NvidiaSmi(str(tool.path))


# --- nvidia-smi


def test_a_machine_without_the_tool_has_no_gpus(tmp_path: Path) -> None:
    assert NvidiaSmi(str(tmp_path / "no-such-tool")).devices() == ()


def test_devices_are_read_with_memory_and_processes(tool: Tool) -> None:
    assert probe(tool.set_body(TWO_GPUS)).devices() == (
        Device(0, "GPU-aa", 80 * GIB, 81000 * 2**20),
        Device(1, "GPU-bb", 40 * GIB, 100 * 2**20, (DeviceProcess(4242, 40000 * 2**20), DeviceProcess(17, None))),
    )
    assert tool.calls.read_text().splitlines() == [
        "--query-gpu=index,uuid,memory.total,memory.free --format=csv,noheader,nounits",
        "--query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits",
    ]


def test_a_tool_that_lists_nothing_means_no_gpus(tool: Tool) -> None:
    assert probe(tool.set_body("")).devices() == ()


@pytest.mark.parametrize(("visible", "indices"), [("1", [1]), ("GPU-aa", [0]), ("0, 1", [0, 1]), ("", []), ("-1", [])])
def test_devices_hidden_from_this_process_are_left_out(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, visible: str, indices: list[int]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.index for device in probe(tool.set_body(TWO_GPUS)).devices()] == indices


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'Unable to determine the device handle: GPU is lost.'; exit 15", "exit code 15: Unable to determine"),
        ("echo NVIDIA-SMI has failed", "expected index,uuid,memory.total,memory.free, got 'NVIDIA-SMI has failed'"),
        ("", "no longer lists it"),
        ('[ "${1#*gpu=}" != "$1" ] && echo "0, GPU-aa, 9, 9" || exit 3', "exit code 3"),
    ],
)
def test_known_devices_are_offline_while_the_driver_fails_and_return_when_it_answers(
    tool: Tool, body: str, reason: str
) -> None:
    query = probe(tool.set_body(TWO_GPUS))
    before = query.devices()
    tool.set_body(body)
    lost = query.devices()
    assert [device.index for device in lost] == [0, 1]
    assert all(device.offline and reason in device.offline for device in lost)
    tool.set_body(TWO_GPUS)
    assert query.devices() == before


def test_devices_are_offline_after_the_tool_was_removed(tool: Tool) -> None:
    query = probe(tool.set_body(TWO_GPUS))
    query.devices()
    tool.path.unlink()
    assert [device.offline for device in query.devices()] == [f"{tool.path} no longer exists"] * 2


def test_a_tool_that_does_not_respond_is_killed_and_not_started_again_meanwhile(
    tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_TIMEOUT_SECONDS", 0.3)
    query = probe(tool.set_body(TWO_GPUS))
    query.devices()
    tool.set_body(f"echo $$ > {tool.path.parent}/pid; sleep 30")
    began = time.monotonic()
    assert all("did not answer within" in (device.offline or "") for device in query.devices())
    assert time.monotonic() - began < 2
    assert not Path(f"/proc/{(tool.path.parent / 'pid').read_text().strip()}").exists()
    # A process blocked in the driver cannot even be killed.
    monkeypatch.setattr(devices, "_abandon", lambda process: None)
    query.devices()
    calls = tool.calls.read_text()
    assert all("does not respond" in (device.offline or "") for device in query.devices())
    assert tool.calls.read_text() == calls
    assert query._stuck is not None
    os.killpg(query._stuck.pid, signal.SIGKILL)
    query._stuck.communicate()


def test_a_gpu_whose_memory_is_not_reported_is_offline(tool: Tool) -> None:
    (device,) = probe(
        tool.set_body('[ "${1#*gpu=}" != "$1" ] && echo "0, GPU-aa, [GPU is lost], [N/A]"; true')
    ).devices()
    assert device.offline == "its memory is reported as total [GPU is lost], free [N/A]; expected MiB"


# --- slots


class Probe:
    """A machine with the GPUs that a test describes."""

    def __init__(self, *listed: Device) -> None:
        self.listed = listed
        self.calls = 0

    def devices(self) -> Sequence[Device]:
        self.calls += 1
        return self.listed


def gpu(free: float = 80, index: int = 0, processes: Sequence[int] = (), offline: str | None = None) -> Device:
    """A GPU of 80 GiB."""
    held = tuple(DeviceProcess(pid, GIB) for pid in processes)
    return Device(index, f"GPU-{index}", 80 * GIB, int(free * GIB), held, offline)


def slots_of(source: Probe, per_device: int = 1, bytes_per_slot: int | None = None, cpu: int = 0) -> Slots:
    return Slots(
        source,
        cpu_slots=cpu,
        task_slots=1,
        threads_per_slot=2,
        cuda_slots_per_device=per_device,
        cuda_memory_bytes_per_slot=bytes_per_slot,
    )


@pytest.fixture
def always_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(slots, "_FRESH_FACTOR", 0.0)


@pytest.fixture
def attempt_process() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that belongs to attempt att_1."""
    script = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script], env={**os.environ, MARKER: "att_1"}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def identity(pid: int) -> Identity:
    return Identity(pid, process_stat(pid)[2], boot_id())


def test_a_machine_without_gpus_has_cpu_and_task_slots() -> None:
    found = [(slot.name, slot.device, slot.purpose, slot.threads) for slot in slots_of(Probe(), cpu=2).inventory()]
    assert found == [("cpu0", "cpu", "train", 2), ("cpu1", "cpu", "train", 2), ("task0", "cpu", "task", 2)]


def test_gpus_come_first_and_share_their_memory_equally() -> None:
    found = slots_of(Probe(gpu(), gpu(index=3)), per_device=2, cpu=1).inventory()
    assert [slot.name for slot in found] == ["cuda0/0", "cuda0/1", "cuda3/0", "cuda3/1", "cpu0", "task0"]
    assert {slot.device for slot in found[2:4]} == {"cuda:3"}
    assert all(slot.available and slot.memory_bytes == 36 * GIB and slot.free_bytes == 80 * GIB for slot in found[:4])


def test_a_gpu_offers_as_many_slots_as_its_free_memory_allows(tool: Tool) -> None:
    found = Slots(
        probe(tool.set_body(TWO_GPUS)),
        cpu_slots=0,
        task_slots=1,
        threads_per_slot=1,
        cuda_slots_per_device=2,
        cuda_memory_bytes_per_slot=30 * GIB,
    ).inventory()
    offered = {slot.name: slot.available for slot in found}
    assert offered == {"cuda0/0": True, "cuda0/1": True, "cuda1/0": False, "cuda1/1": False, "task0": True}


def test_gpus_can_be_excluded_from_training() -> None:
    assert [slot.name for slot in slots_of(Probe(gpu()), per_device=0).inventory()] == ["task0"]


def test_a_gpu_filled_by_another_program_is_not_offered_and_the_program_is_named() -> None:
    slot = slots_of(Probe(gpu(free=30, processes=[1]))).inventory()[0]
    assert not slot.available
    assert slot.note == "30.0 GiB free, 72.0 GiB needed; in use by process 1, which this service did not start"


def test_the_offered_slots_fit_into_the_free_memory_together() -> None:
    found = slots_of(Probe(gpu(free=50)), per_device=3, bytes_per_slot=20 * GIB).inventory()
    assert [slot.available for slot in found] == [True, True, False, True]
    assert found[2].note == "10.0 GiB free, 20.0 GiB needed"


def test_an_offline_gpu_is_listed_but_not_offered() -> None:
    slot = slots_of(Probe(gpu(offline="it fell off the bus"))).inventory()[0]
    assert (slot.name, slot.available, slot.note) == ("cuda0/0", False, "it fell off the bus")


def test_a_slot_with_a_live_attempt_is_in_use(attempt_process: "subprocess.Popen[bytes]") -> None:
    found = slots_of(Probe(gpu()), per_device=2)
    found.occupy("cuda0/1", "att_1", identity(attempt_process.pid), None)
    notes = [slot.note for slot in found.inventory()]
    assert notes == [None, "in use by att_1", None]


@pytest.mark.usefixtures("always_fresh")
def test_a_slot_is_occupied_until_the_attempts_processes_have_left_the_device(
    attempt_process: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Probe(gpu(processes=[attempt_process.pid]))
    found = slots_of(source)
    found.occupy("cuda0/0", "att_1", Identity(attempt_process.pid, 0, boot_id()), None)
    note = found.inventory()[0].note
    assert note == f"being released: process {attempt_process.pid} of att_1, ended 0 s ago, still on the device"
    monkeypatch.setattr(slots, "_RELEASE_SECONDS", 0.2)
    time.sleep(0.25)
    assert (found.inventory()[0].note or "").startswith("quarantined: process")
    assert not found.inventory()[0].available
    source.listed = (gpu(),)
    assert found.inventory()[0].available
    source.listed = (gpu(processes=[attempt_process.pid]),)
    assert found.inventory()[0].available


@pytest.mark.usefixtures("always_fresh")
def test_a_dead_trainer_that_still_uses_memory_is_recognized_by_its_pid() -> None:
    found = slots_of(Probe(gpu(processes=[999_999_999])))
    found.occupy("cuda0/0", "att_1", Identity(999_999_998, 0, boot_id()), 999_999_999)
    assert "process 999999999 of att_1" in (found.inventory()[0].note or "")


def test_memory_of_an_attempt_is_not_reported_as_foreign(attempt_process: "subprocess.Popen[bytes]") -> None:
    slot = slots_of(Probe(gpu(free=1, processes=[attempt_process.pid]))).inventory()[0]
    assert slot.note == "1.0 GiB free, 72.0 GiB needed"


def test_the_driver_is_not_queried_for_every_inventory() -> None:
    source = Probe(gpu())
    found = slots_of(source)
    for _ in range(5):
        found.inventory()
    assert source.calls == 1


def test_a_slow_driver_is_queried_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_FRESH_SECONDS", 0.0)

    class Slow(Probe):
        def devices(self) -> Sequence[Device]:
            time.sleep(0.1)
            return super().devices()

    source = Slow(gpu())
    found = slots_of(source)
    began = time.monotonic()
    while time.monotonic() - began < 0.6:
        found.inventory()
    assert source.calls == 1


def test_only_a_limited_slot_has_a_share_of_memory() -> None:
    found = slots_of(Probe(gpu()), per_device=2, cpu=1)
    first, _, cpu, _ = found.inventory()
    assert found.memory_fraction(first) == pytest.approx(0.45)
    assert found.memory_fraction(cpu) is None
