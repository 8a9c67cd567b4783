"""Stall detection: how long a training run may be silent, derived from its own reporting interval."""

from server.queue.queue import TRAIN
from server.queue.states import State
from server.store.rows import AttemptRow, JobRow

LEAST_SECONDS = 120.0
_REPORTS = 10  # silence of this many reporting intervals is a stall


def patience_seconds(job: JobRow, attempt: AttemptRow) -> float | None:
    """Seconds of silence after which a job counts as stalled; None while no limit applies.

    No limit applies before the attempt has reported steps of its own, or while it may be evaluating the generator,
    which is silent and takes an unknown time.
    """
    speed, began = job["steps_per_second"], attempt["resumed_from_step"] or 0
    if job["kind"] != TRAIN or job["state"] != State.RUNNING or not speed or job["step"] <= began:
        return None
    every = job["request"]["training"]["report_every_steps"]
    if _may_be_evaluating(job, every):
        return None
    return max(LEAST_SECONDS, float(_REPORTS * every / speed))


def _may_be_evaluating(job: JobRow, report_every_steps: int) -> bool:
    """Whether an evaluation is due between the last report and the next."""
    evaluation, step = job["request"]["evaluation"], job["step"]
    if evaluation["protocol"] == "none":
        return False
    following, total_steps = step + report_every_steps, job["total_steps"]
    if total_steps is None or following >= total_steps:
        return True
    every = evaluation["every_steps"]
    return bool(every) and following // every > (step - 1) // every
