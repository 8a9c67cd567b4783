"""Comparison of jobs, with the library's own comparison: the same rows and the same checks as `gan-mhe compare`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gan_mhe.comparison.compare import compare, score_of
from gan_mhe.comparison.grouping import find_reference
from gan_mhe.comparison.results import Comparison, RunScore, View
from gan_mhe.comparison.table import as_json
from gan_mhe.config.labels import setting
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError, RunDirError
from server.errors import FieldError, InvalidRequest, NotReady
from server.queue.queue import TRAIN
from server.queue.states import Reason
from server.store.rows import JobRow

# The first parts of a cell's keys that the label of a configuration, or of rows that differ in networks, covers
# already, and the seed, in which the runs of a row differ.
_LABELED_KEYS = frozenset({"variant", "seed", "loss", "constraints", "generator", "discriminator"})

_MAX_MESSAGE = 300


def compare_jobs(
    jobs: Sequence[JobRow], *, metric: str | None = None, reference: str | None = None, view: View = "steps"
) -> Comparison:
    """Compare training jobs by their results. A job without a result counts as `failed` in its arm's row.

    Rows are labeled as those of `gan_mhe.comparison.compare.compare`, such as `mhe + constraints.mhe.lambda_hidden=10`;
    other keys that an experiment varies follow in brackets. reference: such a label, or a variant that has only one
    row. view: as there.

    Raises InvalidRequest for a task, for a fork with another configuration, for a result of another configuration and
    for a reference that has several rows, NotReady if no job has a score, and
    ConfigError and ProtocolMismatchError as `gan_mhe.comparison.compare.compare` does.
    """
    _check_comparable(jobs)
    scores = [_score(job) for job in jobs]
    if all(score.final is None for score in scores):
        raise NotReady(f"none of the {len(jobs)} jobs has a final score yet")
    _check_reference(reference, scores)
    return compare(scores, metric=metric, reference=reference, view=view)


def unfinished(jobs: Sequence[JobRow]) -> list[JobRow]:
    """Return those of compared jobs that have no final score, which no mean includes."""
    return [job for job in jobs if not (job["result"] or {}).get("final")]


def document(comparison: Comparison, jobs: Sequence[JobRow]) -> dict[str, Any]:
    """Return the comparison as JSON values, with a list of the jobs that its means do not include."""
    listed = [{"job_id": job["id"], "state": job["state"]} for job in unfinished(jobs)]
    return {**json.loads(as_json(comparison)), "unfinished": listed}


def _check_comparable(jobs: Sequence[JobRow]) -> None:
    problems = []
    for job in jobs:
        source = job["forked_from"]
        if job["kind"] != TRAIN:
            problems.append(FieldError("/query/job", "not_a_training", f"{job['id']} is a task, not a training job"))
        elif source is not None and not source["one_config"]:
            origin = f"{source['job_id']} at step {source['step']}{', itself a fork' if source['same_config'] else ''}"
            message = (
                f"{job['id']} was forked from {origin} with another configuration, "
                "so its score stands for neither configuration; expected jobs with one configuration from start to end"
            )
            problems.append(FieldError("/query/job", "config_changed", message))
    if problems:
        raise InvalidRequest(*problems)


def _check_reference(reference: str | None, scores: Sequence[RunScore]) -> None:
    try:
        find_reference(reference or "", {score.variant for score in scores})
    except ConfigError as error:
        raise InvalidRequest(FieldError("/query/reference", "ambiguous", str(error))) from None


def _score(job: JobRow) -> RunScore:
    try:
        score = score_of(job["id"], RunConfig.stored(job["request"]), job["result"])
    except RunDirError as error:
        raise InvalidRequest(FieldError("/query/job", "contradictory", str(error))) from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        message = f"{job['id']}: its stored configuration or result cannot be read: {error!r}"[:_MAX_MESSAGE]
        raise InvalidRequest(FieldError("/query/job", "unreadable", message)) from None
    if job["result"] is None and job["reason"] == Reason.DIVERGED:  # an attempt that fails reports no result
        score = replace(score, status="diverged")
    swept = [key for key in (job["cell"] or {}) if key.split(".")[0] not in _LABELED_KEYS]
    if not swept:
        return score
    values = ", ".join(setting(key, (job["cell"] or {})[key]) for key in sorted(swept))
    return replace(score, variant=f"{score.variant} [{values}]")
