"""The same trainings without any harm, in a process of their own: what every run of the campaign has to equal.

python -m benchmarks.campaign.twins FOLDER VARIANT:SEED:STEPS [...]
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from gan_mhe.config.compose import compose
from gan_mhe.config.documents import PRESETS, load_document, unflatten
from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import sha256_file
from gan_mhe.records.events import Scalars, effective, encode_number
from gan_mhe.records.run_dir import RunDir

PRESET = "digits_cnn"
OVERRIDES: Mapping[str, Any] = MappingProxyType(
    {
        "generator.width": 0.03125,
        "discriminator.width": 0.03125,
        "training.batch_size": 8,
        "training.report_every_steps": 5,
        "sampling.every_steps": 40,
        "sampling.num_images": 16,
        "evaluation.every_steps": 60,
        "evaluation.num_samples": 100,
        "checkpoint.every_steps": 20,
        "checkpoint.keep_last": 1000,  # all: what was saved once must stay
    }
)
"""Five seconds of training on one core and six checkpoints of half a megabyte, if `training.steps` is 120."""

TIMES = ("train_seconds", "peak_memory_bytes")
"""What two equal runs do not share."""

_FINISH_SECONDS = 300.0


@dataclass(frozen=True)
class Arm:
    """One configuration of the campaign."""

    variant: str
    seed: int
    steps: int

    @property
    def name(self) -> str:
        """Text form, as the command line of this file reads it."""
        return f"{self.variant}:{self.seed}:{self.steps}"

    @classmethod
    def named(cls, name: str) -> Self:
        """The configuration of a text form."""
        variant, seed, steps = name.split(":")
        return cls(variant, int(seed), int(steps))

    @property
    def overrides(self) -> dict[str, Any]:
        """The keys that differ from the preset."""
        return {**OVERRIDES, "training.steps": self.steps}

    def request(self, **fields: Any) -> dict[str, Any]:
        """The body of a submission."""
        return {"preset": PRESET, "variant": self.variant, "seed": self.seed, "overrides": self.overrides, **fields}

    def config(self) -> RunConfig:
        """The configuration that this submission means."""
        document = load_document(PRESETS / f"{PRESET}.toml")
        return compose(document, variant=self.variant, seed=self.seed, overrides=unflatten(self.overrides))


@dataclass(frozen=True)
class Story:
    """Everything of a run that depends on nothing but its configuration."""

    run: RunDir

    @cached_property
    def result(self) -> dict[str, Any]:
        """`result.json` without times and memory."""
        document = json.loads(self.run.result.read_bytes())
        return {key: value for key, value in document.items() if key not in TIMES}

    @cached_property
    def tensors(self) -> dict[int, str]:
        """SHA-256 of the tensors of each checkpoint, by step."""
        return {
            step: sha256_file(self.run.checkpoint(step) / "tensors.safetensors") for step in self.run.checkpoint_steps()
        }

    @cached_property
    def samples(self) -> dict[str, str]:
        """SHA-256 of each grid, by file name."""
        return {path.name: sha256_file(path) for path in self.run.samples.iterdir() if not path.name.startswith(".")}

    @cached_property
    def scalars(self) -> dict[str, dict[int, Any]]:
        """Each reported scalar by name and step, as JSON has it."""
        found: dict[str, dict[int, Any]] = {}
        for event in effective(self.run.read_events()):
            if isinstance(event, Scalars):
                for name, value in event.values.items():
                    found.setdefault(name, {})[event.step] = encode_number(value)
        return found

    def differences(self, other: "Story") -> list[str]:
        """What is not equal to an unbroken run, in words; empty if the runs are equal in every bit.

        A stop saves a checkpoint at a step of its own, which the unbroken run does not have.
        """
        tensors = {step: sha256 for step, sha256 in self.tensors.items() if step in other.tensors}
        parts = {
            "result": (self.result, other.result),
            "tensors": (tensors, other.tensors),
            "samples": (self.samples, other.samples),
            "scalars": (self.scalars, other.scalars),
        }
        return [what for what, (mine, theirs) in parts.items() if mine != theirs]


@dataclass
class Twins:
    """The unbroken runs, trained one after the other beside the first rounds."""

    folder: Path
    arms: Sequence[Arm]
    _stories: dict[Arm, Story] = field(default_factory=dict)
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start to train them all."""
        self.folder.mkdir(parents=True)
        command = [sys.executable, "-m", "benchmarks.campaign.twins", str(self.folder)]
        with open(self.folder / "log.txt", "ab") as log:
            self._process = subprocess.Popen(
                [*command, *(arm.name for arm in self.arms)],
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # as the service's attempts
                stdout=log,
                stderr=log,
            )

    def of(self, arm: Arm) -> Story:
        """The story of an unbroken run, once it is complete. Raises RuntimeError if it never will be."""
        if arm not in self._stories:
            run, process = RunDir(self.folder / arm.name), self._process
            assert process is not None
            deadline = time.monotonic() + _FINISH_SECONDS
            while not run.result.exists():
                if time.monotonic() > deadline or process.poll() not in (None, 0):
                    raise RuntimeError(f"the unbroken run {arm.name} does not end; see {self.folder / 'log.txt'}")
                time.sleep(0.2)
            self._stories[arm] = Story(run)
        return self._stories[arm]

    def stop(self) -> None:
        """End the training that is left."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def main() -> None:
    """Train the runs that the command line names, in this process and in this order."""
    from gan_mhe.run.loop import execute  # loads torch

    for name in sys.argv[2:]:
        execute(Arm.named(name).config(), Path(sys.argv[1]) / name)


if __name__ == "__main__":
    main()
