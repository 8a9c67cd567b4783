"""What a harm is, and what it can lay hands on."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import httpx2

from benchmarks.campaign.ledger import Ledger
from benchmarks.campaign.service import Service
from benchmarks.campaign.twins import Arm, Twins
from benchmarks.campaign.volume import Volume

_PATIENCE_SECONDS = 90.0


@dataclass
class Scene:
    """The service and everything around it, for one round."""

    service: Service
    volume: Volume
    ledger: Ledger
    twins: Twins
    random: Random
    number: int
    """Number of the round, from 1."""
    backup: Path
    """Directory of the newest backup, if there is one."""
    jobs: list[str] = field(default_factory=list)
    """The jobs of this round."""
    kills: int = 0
    """Processes killed in this round."""

    def pause(self, least: float, most: float) -> float:
        """Wait for a random time between these, in seconds; return it."""
        seconds = self.random.uniform(least, most)
        time.sleep(seconds)
        return seconds

    def kill(self, *pids: int) -> None:
        """kill -9."""
        self.service.kill_all(*pids)
        self.kills += len(pids)

    def kill_server(self) -> None:
        """kill -9 of the server process alone."""
        if self.service.runs():
            self.service.kill()
            self.kills += 1

    def submit(self, arm: Arm, key: str, **fields: Any) -> str:
        """Submit a job as a careful client does: again and again with one key, until there is an answer."""
        answer = self.post("/v1/jobs", arm.request(**fields), key)
        assert answer.status_code == 201, f"a submission is answered {answer.status_code}: {answer.text[:200]}"
        job_id = str(answer.json()["id"])
        self.ledger.arms[job_id] = arm
        return job_id

    def post(self, path: str, body: Any, key: str) -> httpx2.Response:
        """Send a POST until it is answered by something else than 'not now' (429, 503, 507) or a broken connection."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                answer = self.service.request("POST", path, json=body, headers={"Idempotency-Key": key})
                if answer.status_code not in (429, 503, 507) or time.monotonic() > deadline:
                    return answer
            except httpx2.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def a_run(self) -> tuple[Arm, Path]:
        """A complete run directory to import, which must be copied and not moved."""
        arm = self.random.choice(self.twins.arms)
        return arm, self.twins.of(arm).run.root

    def put_into_inbox(self, source: Path, name: str, *, without: str = "") -> Path:
        """Copy a run directory into the inbox. without: a name that is left out."""
        return Path(shutil.copytree(source, self.service.data_dir / "inbox" / name, ignore=_leave_out(without)))


def _leave_out(name: str) -> Any:
    return shutil.ignore_patterns(name) if name else None


class Harm:
    """One harm, made for one round."""

    group: ClassVar[str]
    """Kind of harm, for the summary."""
    forgets: ClassVar[bool] = False
    """Whether rows may be lost: jobs that never wrote a checkpoint need not come back."""
    pauses: ClassVar[bool] = False
    """Whether jobs may end up paused, to be resumed by a person."""

    @property
    def name(self) -> str:
        """What the harm is, in a few words."""
        raise NotImplementedError

    def missing(self, scene: Scene) -> str | None:
        """Why this harm cannot be done here; None if it can."""
        return None

    def inflict(self, scene: Scene) -> str:
        """Do the harm, perhaps for some seconds; return what was done. AssertionError: the service failed meanwhile."""
        raise NotImplementedError

    def heal(self, scene: Scene) -> None:
        """Undo the harm: what an operator does who has found the cause."""
        scene.service.revive()

    def collect(self, scene: Scene) -> None:
        """Take back what the healed service does not know; before all jobs have ended."""

    def verify(self, scene: Scene) -> None:
        """Check what only this harm knows, once all jobs have ended. AssertionError says what is wrong."""
