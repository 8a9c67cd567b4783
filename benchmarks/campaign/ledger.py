"""What the campaign knows without asking the service: the jobs it submitted and every checkpoint that ever appeared."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.campaign.twins import Arm
from gan_mhe.files import sha256_bytes, sha256_file

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Seen:
    """A checkpoint as it was when it appeared."""

    manifest_sha256: str
    tensors_sha256: str


@dataclass
class Ledger:
    """Grows only; a thread watches the directories of the jobs."""

    data_dir: Path
    arms: dict[str, Arm] = field(default_factory=dict)
    """The configuration of each submitted or imported job, by id."""
    seen: dict[tuple[str, int], Seen] = field(default_factory=dict)
    """Every checkpoint, by job and step."""
    _closed: set[str] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to watch."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def close(self, job_id: str) -> None:
        """Note that a job is complete and writes no more checkpoints."""
        self._closed.add(job_id)

    def trained(self) -> list[str]:
        """The jobs that wrote a checkpoint."""
        return sorted({job_id for job_id, _ in list(self.seen)})

    def look(self) -> None:
        """Record the checkpoints that are new."""
        for job_id in [*self.arms]:
            if job_id not in self._closed:
                for step, place in checkpoints(self.data_dir / "jobs" / job_id):
                    if (job_id, step) not in self.seen:
                        with suppress(OSError):  # the volume may be unusable right now
                            self.seen[job_id, step] = read(place)

    def _watch(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            self.look()

    def damage(self, job_id: str, step: int) -> str | None:
        """What is wrong with a checkpoint now; None if it is what it was."""
        place = self.data_dir / "jobs" / job_id / "run" / "checkpoints" / f"step_{step:08d}"
        try:
            now = read(place)
            stated = json.loads((place / "manifest.json").read_bytes())["tensors_sha256"]
        except (OSError, ValueError, KeyError) as error:
            return f"{job_id}: the checkpoint of step {step} cannot be read: {error}"
        if (now, stated) != (self.seen[job_id, step], now.tensors_sha256):
            return f"{job_id}: the checkpoint of step {step} is no longer what it was"
        return None


def checkpoints(job_dir: Path) -> Iterator[tuple[int, Path]]:
    """Step and directory of each complete checkpoint of a job."""
    with suppress(OSError):
        for place in (job_dir / "run" / "checkpoints").iterdir():
            if place.name.startswith("step_"):
                yield int(place.name.removeprefix("step_")), place


def read(place: Path) -> Seen:
    """Hash a checkpoint. OSError if it is not there."""
    manifest = (place / "manifest.json").read_bytes()
    return Seen(sha256_bytes(manifest), sha256_file(place / "tensors.safetensors"))
