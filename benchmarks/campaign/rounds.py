"""One round after the other: submit, harm, heal, settle, audit."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from benchmarks.campaign.auditor import Auditor, Report
from benchmarks.campaign.harms.base import Harm, Scene
from benchmarks.campaign.ledger import Ledger
from benchmarks.campaign.service import Refused, Service
from benchmarks.campaign.twins import Arm, Twins
from benchmarks.campaign.volume import Volume
from tests.support.server_process import wait_until

READY_SECONDS = 90.0
"""Allowed time from the healing to 200 of /readyz, which may wait until a worker has started."""
SETTLE_SECONDS = 240.0
"""Allowed time from then until all jobs have ended."""

_LATEST_MOMENT_SECONDS = 12.0  # after the submission; on an idle machine the jobs end soon after it
_ASK_SECONDS = 0.5
_UNSETTLED = ("queued", "starting", "running", "pausing", "paused", "recovering", "cancelling", "failed")
Faults = (AssertionError, OSError, httpx2.HTTPError, Refused, RuntimeError, subprocess.SubprocessError, ValueError)


@dataclass
class Round:
    """What happened in a round, as it is written to rounds.jsonl. Seconds, bytes."""

    number: int
    seed: int
    harm: str
    group: str
    started_at: str
    moment_seconds: float = 0.0
    detail: str = ""
    kills: int = 0
    jobs: list[str] = field(default_factory=list)
    ready_seconds: float | None = None
    settled_seconds: float | None = None
    seconds: float = 0.0
    checkpoints: int = 0
    compared: int = 0
    rss_bytes: int = 0
    open_files: int = 0
    failures: list[str] = field(default_factory=list)
    answers: bool = True
    """Whether the service still answered at the end."""

    def document(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


class Campaign:
    """A service with its data directory in `out`, and the rounds over it."""

    def __init__(self, out: Path, seed: int, arms: Sequence[Arm], jobs_per_round: int) -> None:
        self.out = out
        self.seed = seed
        self._jobs_per_round = jobs_per_round
        self.volume = Volume(out / "data")
        self._twins = Twins(out / "twins", arms)
        self.service = Service(out / "data", out / "clock")
        self._ledger = Ledger(out / "data")
        self._retried: set[str] = set()
        self._failed: set[str] = set()  # twice, and left alone since
        self._auditor = Auditor(self.service, self._ledger, self._twins)

    def start(self) -> None:
        """Start the unbroken runs, the service and the watch over its checkpoints."""
        self._twins.start()
        self.service.start()
        self._ledger.start()

    def usable(self, harms: Mapping[str, Callable[[], Harm]]) -> tuple[list[Callable[[], Harm]], dict[str, str]]:
        """The harms that can be done here, and why each of the others cannot."""
        scene, usable, skipped = self._scene(0), [], {}
        for name, maker in harms.items():
            refusal = maker().missing(scene)
            if refusal is None:
                usable.append(maker)
            else:
                skipped[name] = refusal
        return usable, skipped

    def run(self, makers: Sequence[Callable[[], Harm]]) -> Iterator[Round]:
        """Rounds without end: every harm once in a random order, then all again. Stops if the service is lost."""
        number, order = 0, Random(self.seed)
        while True:
            for maker in order.sample(list(makers), len(makers)):
                number += 1
                done = self._round(number, maker())
                yield done
                if not done.answers:
                    return

    def final_audit(self) -> Report:
        """Audit everything once more, and compare every completed run again."""
        return self._auditor.audit(everything=True)

    def close(self, *, keep: bool) -> None:
        """Leave nothing running; keep or delete the data directory."""
        self._ledger.stop()
        self._twins.stop()
        self.service.destroy()
        self.volume.close(self.out / "data-kept" if keep else None)
        if not keep:
            shutil.rmtree(self._twins.folder)

    def _scene(self, number: int) -> Scene:
        random = Random(f"{self.seed}-{number}")
        backup = self.out / "backup"
        return Scene(self.service, self.volume, self._ledger, self._twins, random, number, backup)

    def _round(self, number: int, harm: Harm) -> Round:
        began, scene = time.monotonic(), self._scene(number)
        done = Round(number, self.seed, harm.name, harm.group, datetime.now(UTC).isoformat(timespec="seconds"))
        try:
            self._submit(scene, done)
            self._hurt(scene, harm, done)
            harm.collect(scene)
            self._settle(scene, harm, done)
            self._audit(scene, harm, done)
        except Faults as error:
            done.failures.append(f"{type(error).__name__}: {error}")
            self._rescue(done)
        done.kills, done.jobs = scene.kills, scene.jobs
        done.seconds = round(time.monotonic() - began, 1)
        return done

    def _submit(self, scene: Scene, done: Round) -> None:
        arms = scene.random.sample(list(self._twins.arms), self._jobs_per_round)
        for index, arm in enumerate(arms):
            scene.jobs.append(scene.submit(arm, f"round-{scene.number}-{index}"))
        done.moment_seconds = round(scene.pause(0.0, _LATEST_MOMENT_SECONDS), 2)

    def _hurt(self, scene: Scene, harm: Harm, done: Round) -> None:
        """Inflict and heal: also when the harm found a fault, and whatever a harm does to the service."""
        try:
            done.detail = harm.inflict(scene)
        except Faults as error:
            done.failures.append(f"while it lasted: {type(error).__name__}: {error}")
        began = time.monotonic()
        harm.heal(scene)
        wait_until(self._is_ready, READY_SECONDS)
        done.ready_seconds = round(time.monotonic() - began, 2)

    def _is_ready(self) -> bool:
        with suppress(httpx2.TransportError):
            return self.service.request("GET", "/readyz").status_code == 200
        return False

    def _settle(self, scene: Scene, harm: Harm, done: Round) -> None:
        """Wait until every job has ended."""
        began, resumed = time.monotonic(), set[str]()
        while jobs := [job for job in self.service.jobs(_UNSETTLED) if job["id"] not in self._failed]:
            for job in jobs:
                self._help(job, harm, resumed, done)
            assert time.monotonic() < began + SETTLE_SECONDS, f"not ended: {[_described(job) for job in jobs]}"
            time.sleep(_ASK_SECONDS)
        done.settled_seconds = round(time.monotonic() - began, 1)
        known = {job["id"] for job in self.service.jobs()}
        if not harm.forgets:
            done.failures += [f"{job_id} has vanished" for job_id in scene.jobs if job_id not in known]

    def _help(self, job: dict[str, Any], harm: Harm, resumed: set[str], done: Round) -> None:
        """Do what a person does with a job that waits for one, and note it if the harm is no reason to wait."""
        job_id = job["id"]
        if job["state"] == "paused":
            if not harm.pauses and job_id not in resumed:
                done.failures.append(f"{_described(job)}, and nobody paused it")
            resumed.add(job_id)
            # A flood's cancelled jobs come back paused from their runs; nobody wants them.
            self.service.act(job_id, "resume" if job_id in self._ledger.arms else "cancel")
        elif job["state"] == "failed":
            done.failures.append(_described(job))
            if job_id in self._retried:
                self._failed.add(job_id)
            else:
                self._retried.add(job_id)
                self.service.act(job_id, "retry")

    def _audit(self, scene: Scene, harm: Harm, done: Round) -> None:
        if done.detail:  # the harm was done as planned
            try:
                harm.verify(scene)
            except Faults as error:
                done.failures.append(str(error))
        report = self._auditor.audit(everything=False)
        done.checkpoints, done.compared = report.checkpoints, report.compared
        done.rss_bytes, done.open_files = report.rss_bytes, report.open_files
        done.failures += report.failures

    def _rescue(self, done: Round) -> None:
        """After a fault: heal what every harm could have left, so that the next round finds a service."""
        try:
            self.service.set_clock(0.0)
            self.volume.heal()
            self.service.revive()
            wait_until(self._is_ready, READY_SECONDS)
        except Faults as error:
            done.failures.append(f"the service is lost: {type(error).__name__}: {error}")
            done.answers = False


def _described(job: dict[str, Any]) -> str:
    return f"{job['id']} is {job['state']} ({job['reason']}: {job['message']})"
