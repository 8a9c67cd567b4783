"""What must hold after every round, whatever happened in it."""

import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.campaign.ledger import Ledger
from benchmarks.campaign.service import Service
from benchmarks.campaign.twins import Story, Twins
from gan_mhe.records.run_dir import RunDir
from tests.support.audit import audit as audit_rows
from tests.support.server_process import wait_until

MAX_RSS_BYTES = 400 * 2**20
MAX_OPEN_FILES = 200
"""Bounds of the idle server process, which has about 120 MB and 40 files after its start."""

_LISTS = ("/v1/experiments", "/v1/imports", "/v1/system", "/v1/system/slots", "/v1/variants", "/metrics", "/healthz")
_ORPHAN_SECONDS = 15.0
_NAMES_PER_REQUEST = 40
_POINTS = 1000


@dataclass
class Report:
    """One audit."""

    failures: list[str] = field(default_factory=list)
    checkpoints: int = 0
    """Checkpoints whose hashes were compared with those of their first appearance."""
    compared: int = 0
    """Completed runs that were compared with their unbroken twins."""
    rss_bytes: int = 0
    open_files: int = 0


class Auditor:
    """Audits a settled service: no job is live, and nothing is damaged on purpose."""

    def __init__(self, service: Service, ledger: Ledger, twins: Twins) -> None:
        self._service = service
        self._ledger = ledger
        self._twins = twins
        self._equal: set[str] = set()

    def audit(self, *, everything: bool) -> Report:
        """Audit. everything: compare also those runs with their twins that were found equal before."""
        report = Report()
        if everything:
            self._equal.clear()
        self._ledger.look()
        for check in (self._lists, self._jobs, self._checkpoints, self._twins_equal, self._rows, self._processes):
            try:
                check(report)
            except Exception as error:  # one broken check must not hide the others
                report.failures.append(f"{check.__name__.strip('_')}: {_where(error)}")
        return report

    def _lists(self, report: Report) -> None:
        for path in _LISTS:
            answer = self._service.request("GET", path)
            if answer.status_code >= 500:
                report.failures.append(f"GET {path} answers {answer.status_code}: {answer.text[:200]}")

    def _jobs(self, report: Report) -> None:
        counts = Counter(job["id"] for job in self._service.jobs())
        for job_id in self._ledger.trained():
            if counts[job_id] != 1:
                report.failures.append(f"{job_id} has written checkpoints and is {counts[job_id]} jobs")
        report.failures += [f"{job_id} is listed {count} times" for job_id, count in counts.items() if count > 1]

    def _checkpoints(self, report: Report) -> None:
        keys = sorted(self._ledger.seen)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda key: self._ledger.damage(*key), keys))
        report.failures += [damage for damage in found if damage is not None]
        report.checkpoints = len(keys)

    def _twins_equal(self, report: Report) -> None:
        for job in self._service.jobs():
            arm = self._ledger.arms.get(job["id"])
            if job["state"] != "succeeded" or arm is None or job["id"] in self._equal:
                continue
            story = Story(RunDir(self._service.data_dir / "jobs" / job["id"] / "run"))
            twin = self._twins.of(arm)
            different = story.differences(twin)
            if self._history(job["id"], sorted(twin.scalars)) != twin.scalars:
                different.append("metrics of the API")
            report.failures += [
                f"{job['id']} ({arm.name}): {what}: not those of the unbroken run" for what in different
            ]
            report.compared += 1
            if not different:
                self._equal.add(job["id"])
                self._ledger.close(job["id"])

    def _history(self, job_id: str, names: Sequence[str]) -> dict[str, dict[int, Any]]:
        """All effective points of the given metrics, as the API has them."""
        found: dict[str, dict[int, Any]] = {}
        for first in range(0, len(names), _NAMES_PER_REQUEST):
            some = names[first : first + _NAMES_PER_REQUEST]
            parameters = {"name": some, "mode": "raw", "max_points": _POINTS}
            answer = self._service.request("GET", f"/v1/jobs/{job_id}/metrics/history", params=parameters)
            assert answer.status_code == 200, f"the history answers {answer.status_code}: {answer.text[:200]}"
            for metric in answer.json()["data"]:
                found[metric["name"]] = {point["step"]: point["value"] for point in metric["points"]}
        return found

    def _rows(self, report: Report) -> None:
        audit_rows(self._service)

    def _processes(self, report: Report) -> None:
        try:
            wait_until(lambda: not self._service.processes(), _ORPHAN_SECONDS)
        except AssertionError:
            report.failures.append(f"processes are left without a job: {self._service.processes()}")
        usage = self._service.usage()
        report.rss_bytes, report.open_files = usage.rss_bytes, usage.open_files
        if usage.rss_bytes > MAX_RSS_BYTES or usage.open_files > MAX_OPEN_FILES:
            report.failures.append(f"the server holds {usage.rss_bytes >> 20} MiB and {usage.open_files} open files")


def _where(error: Exception) -> str:
    """The error with the line that raised it: an assertion often says nothing else."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} {error} in {frame.name}: {frame.line}"
