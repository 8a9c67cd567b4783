"""Jobs as one table, through the comparison that the shell uses: same rows, same refusals."""

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
from server.store.rows import Row

# What tells one design's seeds apart from another design's is not these.
_OWN_KEYS = frozenset({"variant", "seed"})


def compare_jobs(
    jobs: Sequence[Row], *, metric: str | None = None, reference: str | None = None, view: View = "steps"
) -> Comparison:
    """The comparison of training jobs by their results; jobs without one count among their row's `failed`.

    In an experiment that sweeps more than variant and seed, every combination is a row of its own, labelled such as
    `mhe [constraints.mhe.lambda_hidden=10]`. reference: such a label, or a variant that has one row. view: as for
    `gan_mhe.comparison.compare.compare`.

    Raises InvalidRequest for a job that is no training, or that changed its recipe on the way; NotReady when none is
    scored; ConfigError and ProtocolMismatchError as `gan_mhe.comparison.compare.compare` does.
    """
    _check_comparable(jobs)
    scores = [_score(job) for job in jobs]
    if all(score.final is None for score in scores):
        raise NotReady(f"none of the {len(jobs)} jobs has a final score yet")
    if reference is not None:
        reference = _label(reference, scores)
    return compare(scores, metric=metric, reference=reference, view=view)


def unfinished(jobs: Sequence[Row]) -> list[Row]:
    """The jobs that no mean can include yet, or ever."""
    return [job for job in jobs if _score(job).final is None]


def document(comparison: Comparison, jobs: Sequence[Row]) -> dict[str, Any]:
    """The whole comparison as JSON values, with the jobs that are not in its means."""
    listed = [{"job_id": job["id"], "state": job["state"]} for job in unfinished(jobs)]
    return {**json.loads(as_json(comparison)), "unfinished": listed}


def _check_comparable(jobs: Sequence[Row]) -> None:
    problems = []
    for job in jobs:
        if job["kind"] != TRAIN:
            problems.append(FieldError("/query/job", "not_a_training", f"{job['id']} is a task, not a training job"))
        elif job["forked_from"] and not job["forked_from"]["same_recipe"]:
            problems.append(
                FieldError(
                    "/query/job",
                    "recipe_changed",
                    f"{job['id']} was forked from {job['forked_from']['job_id']} with another recipe at step "
                    f"{job['forked_from']['step']}: its score belongs to neither; expected jobs of one recipe each",
                )
            )
    if problems:
        raise InvalidRequest(*problems)


def _score(job: Row) -> RunScore:
    score = score_of(job["id"], RunConfig.stored(job["request"]), job["result"])
    swept = {key: value for key, value in (job["cell"] or {}).items() if key not in _OWN_KEYS}
    if not swept:
        return score
    values = ", ".join(f"{key}={_shown(value)}" for key, value in sorted(swept.items()))
    return replace(score, variant=f"{score.variant} [{values}]")


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _label(reference: str, scores: Sequence[RunScore]) -> str:
    """The row that `reference` names; itself where it names none, which `compare` then refuses."""
    labels = sorted({score.variant for score in scores})
    if reference in labels:
        return reference
    of_variant = [label for label in labels if label.startswith(f"{reference} [")]
    if len(of_variant) > 1:
        message = f"reference {reference!r} has several rows; expected one of {', '.join(of_variant)}"
        raise InvalidRequest(FieldError("/query/reference", "ambiguous", message))
    return of_variant[0] if of_variant else reference
