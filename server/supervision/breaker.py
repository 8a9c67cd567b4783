"""A circuit breaker for the start of attempts: a broken machine must not use up the queue.

Closed, it lets all attempts start. After MOST_FAILURES faults of the machine in a row it opens: nothing starts, and the
machine is tried at growing intervals. When the machine passes, one attempt starts as a trial; if it works, the breaker
closes. Nothing of this survives a restart: the next process finds out by itself.
"""

from collections.abc import Callable

MOST_FAILURES = 3
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 1.0, 30.0


class Breaker:
    """Counts the faults of the machine and decides whether attempts may start, and who pays for a fault.

    A fault says nothing of the job, so it costs the job nothing, with one exception: if another job's attempt has
    worked since this job's last fault, and the machine was not found broken in between, the job is suspect and pays.

    check: tries the machine; the problem, or None. clock: monotonic seconds.
    """

    def __init__(self, check: Callable[[], str | None], clock: Callable[[], float]) -> None:
        self._check = check
        self._clock = clock
        self._problem: str | None = None
        self._failures = 0
        self._wait = FIRST_WAIT_SECONDS
        self._try_at = 0.0
        self._passed = False  # the machine passed since the last fault
        self._trial: str | None = None
        self._suspects: set[str] = set()  # jobs whose last attempt was a fault of the machine
        self._blamed: set[str] = set()  # suspects, and an attempt of another job has worked since

    @property
    def problem(self) -> str | None:
        """Why nothing starts, None while attempts may start."""
        return self._problem

    @property
    def retry_seconds(self) -> float:
        """How long a job waits after a fault, at least: beyond the next trial, which is then another job's."""
        return 0.0 if self._problem is None else 2 * (self._try_at - self._clock())

    def allowance(self) -> int | None:
        """How many attempts may start now, None for any number. Tries the machine if that is due."""
        if self._problem is None:
            return None
        if self._trial is not None or self._clock() < self._try_at:
            return 0
        if self._passed:
            return 1
        found = self._check()
        if found is not None:
            self._problem = found
            self._suspects.clear()
            self._blamed.clear()
            self._wait_longer()
            return 0
        self._passed = True
        return 1

    def started(self, attempt_id: str) -> None:
        """An attempt was started; while the breaker is open, it is the trial."""
        if self._problem is not None:
            self._trial = attempt_id

    def failed(self, attempt_id: str, job_id: str, problem: str) -> bool:
        """A fault of the machine ended an attempt. Returns whether the job pays for it."""
        if self._problem is None:
            self._failures += 1
            if self._failures >= MOST_FAILURES:
                self._open(problem)
        elif self._trial == attempt_id:
            self._open(problem)
        self._suspects.add(job_id)
        return job_id in self._blamed

    def worked(self, attempt_id: str, job_id: str) -> None:
        """An attempt got as far as running. While the breaker is open, only the trial counts."""
        if self._problem is not None and attempt_id != self._trial:
            return
        self._problem, self._trial = None, None
        self._blamed |= self._suspects - {job_id}
        if job_id in self._suspects:  # that it runs does not say that its next fault is far
            self._failures = min(self._failures, MOST_FAILURES - 1)
        else:
            self._failures, self._wait = 0, FIRST_WAIT_SECONDS

    def ended(self, attempt_id: str, job_id: str) -> None:
        """An attempt ended, or its job, in a way that says nothing of the machine; the next one may be the trial."""
        if self._trial == attempt_id:
            self._trial = None
        self._suspects.discard(job_id)
        self._blamed.discard(job_id)

    def nothing_waits(self) -> None:
        """There is no job for a trial: close, if the machine has passed. The next fault opens again."""
        if self._problem is not None and self._passed and self._trial is None:
            self._problem, self._failures = None, MOST_FAILURES - 1

    def _open(self, problem: str) -> None:
        self._problem, self._trial, self._passed = problem, None, False
        self._wait_longer()

    def _wait_longer(self) -> None:
        self._try_at = self._clock() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
