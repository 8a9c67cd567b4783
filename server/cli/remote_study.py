"""A study run by a service: jobs are submitted or found, awaited, and downloaded as run directories."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gan_mhe.cli.console import out, print_error, say
from gan_mhe.config.documents import unflatten
from gan_mhe.config.names import DEFAULT_TASK, TASKS
from gan_mhe.errors import ConfigError
from gan_mhe.files import atomic_write, canonical_json, sha256_bytes, sha256_file, write_json
from gan_mhe.records.events import (
    CheckpointSaved,
    Evaluated,
    Finished,
    Progress,
    SampleGrid,
    Started,
    effective,
    encode,
)
from gan_mhe.records.events import Event as RunEvent
from gan_mhe.records.result import RunResult, Score
from gan_mhe.records.run_dir import RunDir
from gan_mhe.streams import Dispensable
from gan_mhe.study.definition import Arm, Study, StudyRun, overrides, run_directory, runs
from server.cli.console import Board, run_events
from server.client import Client, Job, NotFound, downloads
from server.client import Score as JobScore

DONE, FAILURE, INTERRUPTED = 0, 1, 130

_MAX_STREAM_JOBS = 200  # in one stream
_REASONS = {"succeeded": "completed", "failed": "failed", "cancelled": "stopped", "paused": "stopped"}


def run(url: str, study: Study, root: Path) -> int:
    """Run the study at the service at `url`, and download what its report needs into `root`; return the exit code.

    Each arm becomes one experiment. Running the command again finds the same jobs, resumes paused ones, retries failed
    ones unless they diverged, and submits only missing ones. The study's own time limit has no effect. Ctrl-C leaves
    the jobs running and downloads what exists. Raises ConfigError if `root` contains local runs, ServerError if the
    service cannot be reached or rejects the study.
    """
    planned = runs(study)
    _reject_local_runs(planned, root)
    if study.wall_time_minutes is not None:
        say("wall_time_minutes has no effect at a service")
    with Client(url) as client:
        jobs = [job for arm in study.arms for job in _jobs(client, study, arm)]
        interrupted = not _wait(client, jobs)
        jobs = [client.job(job.id) for job in jobs]
        for job in jobs:
            _fetch(client, job, run_directory(root, job.labels["arm"], _seed(job)))
    for job in jobs:
        if job.terminal and job.state != "succeeded":
            print_error(f"{_title(job)}: {job.outcome}")
    if interrupted:
        say("the jobs continue; run the same command to follow them")
        return INTERRUPTED
    return DONE if all(job.state == "succeeded" for job in jobs) else FAILURE


def _reject_local_runs(planned: Sequence[StudyRun], root: Path) -> None:
    """Raise ConfigError if `root` contains runs of this machine, which are recognized by their environment file."""
    for planned_run in planned:
        run_dir = RunDir(run_directory(root, planned_run.arm.name, planned_run.seed))
        if run_dir.environment.exists():
            raise ConfigError(f"{run_dir.root} is a local run; expected another --out for runs of a service")


def _jobs(client: Client, study: Study, arm: Arm) -> list[Job]:
    """The jobs of an arm, in the order of its seeds: existing ones, continued if necessary, and new ones."""
    [config, *_] = [planned.config for planned in runs(study) if planned.arm == arm]
    labels = {"study": study.name, "arm": arm.name, "recipe": config.digest("without_seed")[:16]}
    labeled = client.jobs(label=[f"{key}:{value}" for key, value in labels.items()], page_size=200)
    # A fork may have its origin's labels, but does not belong to the study.
    found = [job for job in labeled if job.experiment_id is not None and job.seed in study.seeds]
    cancelled = sorted(job.id for job in found if job.state == "cancelled")
    jobs = {_seed(job): _continued(client, job) for job in found if job.id not in cancelled}
    missing = [seed for seed in study.seeds if seed not in jobs]
    if missing:
        created = _submit_once(client, study, arm, missing, labels, replaced=cancelled)
        jobs |= {_seed(job): job for job in created}
    return [jobs[seed] for seed in study.seeds]


def _submit_once(
    client: Client, study: Study, arm: Arm, seeds: Sequence[int], labels: Mapping[str, str], *, replaced: Sequence[str]
) -> list[Job]:
    """New jobs, or those of an earlier submission whose response was lost. replaced: ids of the jobs they replace."""
    request = [study.base, study.set, arm.model_dump(mode="json"), labels, list(seeds), list(replaced)]
    key = sha256_bytes(canonical_json(request))
    ids = _submit(client, study, arm, seeds, labels=labels, idempotency_key=key)
    try:
        return [client.job(id_) for id_ in ids]
    except NotFound:  # the response is that of a submission whose jobs were deleted later
        return _submit_once(client, study, arm, seeds, labels, replaced=[*replaced, *ids])


def _continued(client: Client, job: Job) -> Job:
    if job.state == "paused":
        return client.resume(job.id)
    return client.retry(job.id) if job.state == "failed" and job.reason != "diverged" else job


def _submit(client: Client, study: Study, arm: Arm, seeds: Sequence[int], **options: Any) -> list[str]:
    """Submit an experiment. The arm's own settings are in the matrix, so that the service's comparison shows them."""
    values, own = _leaves(overrides(study, arm)), _leaves(unflatten(arm.set))
    matrix = {"variant": [arm.variant], "seed": seeds} | {key: [values[key]] for key in own if key in values}
    shared = {key: value for key, value in values.items() if key not in matrix}
    name = f"{study.name} {arm.name}"
    created = client.submit_experiment(config=study.base, overrides=shared, matrix=matrix, name=name, **options)
    return created.job_ids


def _leaves(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys. An empty table is a value: it selects a section with its defaults."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _wait(client: Client, jobs: Sequence[Job]) -> bool:
    """Show the progress of the jobs until all have ended; False if the user interrupts."""
    try:
        with Board(out, {job.id: _title(job) for job in jobs}) as board:
            show = Dispensable(board.show)
            for first in range(0, len(jobs), _MAX_STREAM_JOBS):
                for event in client.stream([job.id for job in jobs[first : first + _MAX_STREAM_JOBS]]):
                    show(event)
    except KeyboardInterrupt:
        return False
    return True


def _title(job: Job) -> str:
    return f"{job.labels['arm']} seed {job.seed}"


def _seed(job: Job) -> int:
    assert job.seed is not None  # of a training job
    return job.seed


def _fetch(client: Client, job: Job, directory: Path) -> None:
    """Download a job's run directory without checkpoints, for the report."""
    run_dir = RunDir(directory)
    run_dir.result.unlink(missing_ok=True)
    downloads.config(client, job, directory)
    _fetch_grids(client, job, run_dir)
    events = list(_timed_events(client, job))
    lines = [{"seq": seq, "time": time} | encode(event) for seq, (time, event) in enumerate(events)]
    atomic_write(run_dir.events, b"".join(canonical_json(line) + b"\n" for line in lines))
    if job.state == "succeeded" or job.reason == "diverged":
        write_json(run_dir.result, _result(job, list(effective(event for _, event in events))).document())


def _fetch_grids(client: Client, job: Job, run_dir: RunDir) -> None:
    """Download the first and the newest grid, which a run always keeps."""
    kept = [sample for sample in client.samples(job.id) if not sample.pruned]
    for sample in {sample.step: sample for sample in (kept[:1] + kept[-1:])}.values():
        path = run_dir.sample(sample.step)
        if not path.exists() or sha256_file(path) != sample.sha256:
            atomic_write(path, client.blob(sample.sha256))


def _timed_events(client: Client, job: Job) -> Iterator[tuple[str, RunEvent]]:
    """The run's events with their times, and a final event for the job's end."""
    run_dir, moment = RunDir(Path()), job.created_at
    for event in client.events(job.id):
        moment = event.time
        for run_event in run_events(event):
            if isinstance(run_event, SampleGrid):
                run_event = replace(run_event, path=run_dir.relative(run_dir.sample(run_event.step)))
            if not isinstance(run_event, CheckpointSaved):  # checkpoints stay at the service
                yield _rfc3339(moment), run_event
    if job.state in _REASONS:
        reason = "diverged" if job.reason == "diverged" else _REASONS[job.state]
        yield _rfc3339(moment), Finished(job.progress.step, reason, job.message or "")


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _result(job: Job, events: Sequence[RunEvent]) -> RunResult:
    """The result of a job's run, from the job's scores and the events of its run."""
    scores = job.scores
    evaluated = [event for event in events if isinstance(event, Evaluated) and event.purpose != "best_rescored"]
    return RunResult(
        status="completed" if job.state == "succeeded" else "diverged",
        step=job.progress.step,
        variant=job.variant or "",
        seed=_seed(job),
        digest=job.config_digest.removeprefix("sha256:"),
        protocol=scores.protocol if scores else None,
        fingerprints=dict(scores.fingerprints) if scores else {},
        metric=job.metric.name if job.metric else TASKS[DEFAULT_TASK].metric,
        final=_score(scores.final) if scores else None,
        best=_score(scores.best) if scores else None,
        evaluations=len(evaluated),
        real=scores.real if scores else None,
        train_seconds=_train_seconds(events),
        message=job.message or "",
        peak_memory_bytes=max((event.peak_memory_bytes or 0 for event in _progress(events)), default=None),
        curve=tuple(Score(event.step, event.scores) for event in evaluated),
        data=job.data,
    )


def _train_seconds(events: Sequence[RunEvent]) -> float:
    """Training time from the run's progress events, whose speed is the mean since the start of their attempt."""
    seconds = 0.0
    for first, last in _attempts(events):
        seconds += (last.step - first) / last.steps_per_second
    return seconds


def _attempts(events: Sequence[RunEvent]) -> Iterator[tuple[int, Progress]]:
    """First step and last progress event of each attempt that reported its speed."""
    first, last = 0, None
    for event in (*events, Started(0, 0, resumed=False)):
        if isinstance(event, Started):
            if last is not None:
                yield first, last
            first, last = event.step, None
        elif isinstance(event, Progress) and event.steps_per_second > 0:
            last = event


def _progress(events: Sequence[RunEvent]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


def _score(score: JobScore | None) -> Score | None:
    return None if score is None else Score(score.step, score.scores)
