"""Comparison of jobs, with the library's own comparison: the same rows and the same checks as `gan-mhe compare`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gan_mhe.comparison.compare import compare, score_of
from gan_mhe.comparison.results import Comparison, RunScore, View
from gan_mhe.comparison.table import as_json
from gan_mhe.config.run_config import RunConfig
from server.errors import FieldError, InvalidRequest, NotReady
from server.queue.queue import TRAIN
from server.store.rows import JobRow

# Keys of a cell that are no settings of an arm: the variant names the arm, and its runs differ in the seed.
_OWN_KEYS = frozenset({"variant", "seed"})


def compare_jobs(
    jobs: Sequence[JobRow], *, metric: str | None = None, reference: str | None = None, view: View = "steps"
) -> Comparison:
    """Compare training jobs by their results. A job without a result counts as `failed` in its arm's row.

    If an experiment varies more than variant and seed, every arm has a row of its own, with a label such as
    `mhe [constraints.mhe.lambda_hidden=10]`. reference: such a label, or a variant that has only one row. view: as for
    `gan_mhe.comparison.compare.compare`.

    Raises InvalidRequest for a task and for a fork with another configuration, NotReady if no job has a score, and
    ConfigError and ProtocolMismatchError as `gan_mhe.comparison.compare.compare` does.
    """
    _check_comparable(jobs)
    scores = [_score(job) for job in jobs]
    if all(score.final is None for score in scores):
        raise NotReady(f"none of the {len(jobs)} jobs has a final score yet")
    if reference is not None:
        reference = _label(reference, scores)
    return compare(scores, metric=metric, reference=reference, view=view)


def unfinished(jobs: Sequence[JobRow]) -> list[JobRow]:
    """Return the jobs without a final score, which no mean includes."""
    return [job for job in jobs if _score(job).final is None]


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
        elif source is not None and not source["same_config"]:
            message = (
                f"{job['id']} was forked from {source['job_id']} at step {source['step']} with another configuration, "
                "so its score stands for neither configuration; expected jobs with one configuration from start to end"
            )
            problems.append(FieldError("/query/job", "config_changed", message))
    if problems:
        raise InvalidRequest(*problems)


def _score(job: JobRow) -> RunScore:
    score = score_of(job["id"], RunConfig.stored(job["request"]), job["result"])
    settings = {key: value for key, value in (job["cell"] or {}).items() if key not in _OWN_KEYS}
    if not settings:
        return score
    values = ", ".join(f"{key}={_as_text(value)}" for key, value in sorted(settings.items()))
    return replace(score, variant=f"{score.variant} [{values}]")


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _label(reference: str, scores: Sequence[RunScore]) -> str:
    """Return the label of the row that `reference` names, or `reference` itself, which `compare` then rejects."""
    labels = sorted({score.variant for score in scores})
    if reference in labels:
        return reference
    of_variant = [label for label in labels if label.startswith(f"{reference} [")]
    if len(of_variant) > 1:
        message = f"reference {reference!r} has several rows; expected one of {', '.join(of_variant)}"
        raise InvalidRequest(FieldError("/query/reference", "ambiguous", message))
    return of_variant[0] if of_variant else reference
