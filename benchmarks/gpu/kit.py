"""Stages of measurements that end in time, survive errors of the device, and continue in a later run.

A stage runs in a process of its own, because after an illegal access a CUDA context is unusable. It writes one JSON
line per result as soon as the result is known, and a later run measures only what is missing.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gan_mhe.records.events import encode_number

ROOT = Path(__file__).parents[2]
_ATTEMPTS = 2  # at a result that fails
_DEVICE_LOST = 3  # exit code of a stage that must continue in a new process
_START_SECONDS = 30.0  # granted to a stage for its imports and the device's context, before it is killed


@dataclass(frozen=True)
class Setup:
    """The settings that all stages share."""

    device: str
    """`cuda` or `cpu`; a CPU only shows that the kit works."""
    tiny: bool
    """Use the smallest sizes and counts, for a test of the kit."""
    out: str
    """Folder of the results."""
    data: str | None
    """CIFAR-10 as an image folder, or as an archive of one; None leaves out the stage that needs it."""
    weights: str | None
    """Weights of the classifier that scores CIFAR-10; None trains one on the device."""


@dataclass(frozen=True)
class Stage:
    """One subject. seconds: its limit, None for all that is left; run: measures it."""

    name: str
    seconds: float | None
    run: Callable[[Setup, "Results"], None]


class Results:
    """The results of one stage by key, one JSON line each in `path`. deadline: in `time.monotonic` seconds."""

    def __init__(self, path: Path, deadline: float) -> None:
        self.path = path
        self._deadline = deadline
        self._found: dict[str, Mapping[str, Any]] = {}
        self._failures: dict[str, int] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            self._remember(json.loads(line))

    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self._deadline - time.monotonic()

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        return self._found[key]

    def measure(self, key: str, work: Callable[[], Mapping[str, Any]]) -> None:
        """Write what `work` returns, unless the key has a result, has failed twice, or no time is left.

        An error of `work` is written too. After an error of the device the process ends, and the stage continues in a
        new one.
        """
        if key in self._found or self._failures.get(key, 0) >= _ATTEMPTS:
            return
        if self.seconds_left() <= 0:
            say(f"  {key}: skipped, the stage has no time left")
            return
        began = time.monotonic()
        try:
            value = dict(work())
        except Exception as error:  # whatever a device can raise is a result
            value = {"error": f"{type(error).__name__}: {error}".strip().partition("\n")[0]}
        self.write(key, value | {"seconds": round(time.monotonic() - began, 3)})
        if "CUDA error" in value.get("error", ""):
            raise SystemExit(_DEVICE_LOST)

    def write(self, key: str, value: Mapping[str, Any]) -> None:
        """Append one result, and print it in short."""
        line = {"key": key, **_encoded(value)}
        with self.path.open("a") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._remember(line)
        say(f"  {key}: {_short(value)}")

    def _remember(self, line: Mapping[str, Any]) -> None:
        if "error" in line:
            self._failures[line["key"]] = self._failures.get(line["key"], 0) + 1
        else:
            self._found[line["key"]] = line


def _encoded(value: Any) -> Any:
    """JSON values, with non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {str(key): _encoded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(each) for each in value]
    return encode_number(value)


def _short(value: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key} {each:.4g}" if isinstance(each, float) else f"{key} {each}" for key, each in value.items())
    return text if len(text) <= 160 else text[:157] + "..."


def run_stages(stages: Mapping[str, Stage], setup: Setup, budget: float) -> None:
    """Run the stages in order, each in its process, until `budget` seconds are used."""
    end = time.monotonic() + budget
    for stage in stages.values():
        left = end - time.monotonic()
        seconds = left if stage.seconds is None or setup.tiny else min(stage.seconds, left)
        if seconds <= 0:
            say(f"{stage.name}: skipped, the budget is used up")
            continue
        say(f"{stage.name}: {seconds:.0f} s")
        _run_in_processes(stage, setup, time.monotonic() + seconds)


def _run_in_processes(stage: Stage, setup: Setup, deadline: float) -> None:
    """Start the stage's process again while it ends by losing the device."""
    code = _DEVICE_LOST
    while code == _DEVICE_LOST and time.monotonic() < deadline:
        left = deadline - time.monotonic()
        options = json.dumps([stage.name, left, asdict(setup)])
        command = [sys.executable, "-m", "benchmarks.gpu", "--stage", options]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                # A stage watches its own time, from the end of its imports; one that hangs is killed.
                code = process.wait(left + _START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                say(f"{stage.name}: killed, it did not end in time")
                return
    if code not in (0, _DEVICE_LOST):
        say(f"{stage.name}: ended with exit status {code}")


def run_stage(stage: Stage, seconds: float, setup: Setup) -> None:
    """The stage's own process."""
    stage.run(setup, Results(Path(setup.out) / f"{stage.name}.jsonl", time.monotonic() + seconds))


def say(text: str) -> None:
    """Print progress."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
