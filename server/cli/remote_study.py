"""A study as jobs of a service: submitted or found again, waited for, and fetched as run directories to report on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gan_mhe.cli.console import complain, out, say
from gan_mhe.config.documents import unflatten
from gan_mhe.config.names import PRIMARY_METRIC
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
    encode_number,
)
from gan_mhe.records.events import Event as RunEvent
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Arm, Cell, Study, cell_directory, cells, overrides
from server.cli.console import Board, run_events
from server.client import Client, Job, NotFound, Score, downloads

DONE, FAILURE, INTERRUPTED = 0, 1, 130

_STREAMED = 200  # jobs in one stream, at most
_REASONS = {"succeeded": "completed", "failed": "failed", "cancelled": "stopped", "paused": "stopped"}


def run(url: str, study: Study, root: Path) -> int:
    """Have the service at `url` do the study, and fetch what its report needs into `root`; return the exit code.

    One experiment an arm. The same command again finds its jobs, goes on with those that are paused or failed, other
    than by divergence, and submits only what is not there. The study's own budget of time has no effect. Ctrl-C leaves
    the jobs running and fetches what there is. ConfigError when `root` holds runs that were made here; ServerError when
    the service cannot be reached or does not accept the study.
    """
    planned = cells(study)
    _refuse_own_runs(planned, root)
    if study.wall_time_minutes is not None:
        say("a service takes as long as it takes: wall_time_minutes has no effect there")
    with Client(url) as client:
        jobs = [job for arm in study.arms for job in _jobs(client, study, arm)]
        interrupted = not _wait(client, jobs)
        jobs = [client.job(job.id) for job in jobs]
        for job in jobs:
            _fetch(client, job, cell_directory(root, job.labels["arm"], _seed(job)))
    for job in jobs:
        if job.terminal and job.state != "succeeded":
            complain(f"{_title(job)}: {job.state}{': ' if job.message else ''}{job.message or ''}")
    if interrupted:
        say("the jobs go on; the same command looks again")
        return INTERRUPTED
    return DONE if all(job.state == "succeeded" for job in jobs) else FAILURE


def _refuse_own_runs(planned: Sequence[Cell], root: Path) -> None:
    """Only a run that was made here says in what environment."""
    for cell in planned:
        place = RunDir(cell_directory(root, cell.arm.name, cell.seed))
        if place.environment.exists():
            raise ConfigError(f"{place.root} is a run that was made here; expected another --out for a service's runs")


def _jobs(client: Client, study: Study, arm: Arm) -> list[Job]:
    """The jobs of an arm, by seed: those of an earlier command, set going again, and new ones for the rest."""
    [config, *_] = [cell.config for cell in cells(study) if cell.arm == arm]
    labels = {"study": study.name, "arm": arm.name, "recipe": config.digest("without_seed")[:16]}
    asked = client.jobs(label=[f"{key}:{value}" for key, value in labels.items()], page_size=200)
    # A fork may have its origin's labels; it is no cell of the study.
    found = [job for job in asked if job.experiment_id is not None and job.seed in study.seeds]
    cancelled = sorted(job.id for job in found if job.state == "cancelled")
    jobs = {_seed(job): _set_going(client, job) for job in found if job.id not in cancelled}
    missing = [seed for seed in study.seeds if seed not in jobs]
    if missing:
        made = _submit_once(client, study, arm, missing, labels, void=cancelled)
        jobs |= {_seed(job): job for job in made}
    return [jobs[seed] for seed in study.seeds]


def _submit_once(
    client: Client, study: Study, arm: Arm, seeds: Sequence[int], labels: Mapping[str, str], *, void: Sequence[str]
) -> list[Job]:
    """New jobs, or those of a submission whose answer was lost. void: ids of jobs that these take the place of."""
    request = [study.base, study.set, arm.model_dump(mode="json"), labels, list(seeds), list(void)]
    key = sha256_bytes(canonical_json(request))
    ids = _submit(client, study, arm, seeds, labels=labels, idempotency_key=key)
    try:
        return [client.job(id_) for id_ in ids]
    except NotFound:  # the answer is that of a submission whose jobs were deleted since
        return _submit_once(client, study, arm, seeds, labels, void=[*void, *ids])


def _set_going(client: Client, job: Job) -> Job:
    if job.state == "paused":
        return client.resume(job.id)
    return client.retry(job.id) if job.state == "failed" and job.reason != "diverged" else job


def _submit(client: Client, study: Study, arm: Arm, seeds: Sequence[int], **options: Any) -> list[str]:
    """One experiment. What is the arm's own is in the matrix, so that the service's comparison tells the arms apart."""
    every, own = _leaves(overrides(study, arm)), _leaves(unflatten(arm.set))
    matrix = {"variant": [arm.variant], "seed": seeds} | {key: [every[key]] for key in own if key in every}
    shared = {key: value for key, value in every.items() if key not in matrix}
    name = f"{study.name} {arm.name}"
    made = client.submit_experiment(config=study.base, overrides=shared, matrix=matrix, name=name, **options)
    return made.job_ids


def _leaves(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables as dotted keys. An empty table is a value: it asks for a section with its defaults."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping) and value:
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _wait(client: Client, jobs: Sequence[Job]) -> bool:
    """Show how the jobs go until all have ended; False when the user does not stay that long."""
    try:
        with Board(out, {job.id: _title(job) for job in jobs}) as board:
            for first in range(0, len(jobs), _STREAMED):
                for event in client.stream([job.id for job in jobs[first : first + _STREAMED]]):
                    board.show(event)
    except KeyboardInterrupt:
        return False
    return True


def _title(job: Job) -> str:
    return f"{job.labels['arm']} seed {job.seed}"


def _seed(job: Job) -> int:
    assert job.seed is not None  # of a training job
    return job.seed


def _fetch(client: Client, job: Job, directory: Path) -> None:
    """A run directory without checkpoints, as far as the job has come: what is needed to report on it."""
    place = RunDir(directory)
    place.result.unlink(missing_ok=True)
    downloads.config(client, job, directory)
    _fetch_grids(client, job, place)
    journal = list(_journal(client, job))
    lines = [{"seq": seq, "time": time} | encode(event) for seq, (time, event) in enumerate(journal)]
    atomic_write(place.events, b"".join(canonical_json(line) + b"\n" for line in lines))
    if job.state == "succeeded":
        write_json(place.result, _result(job, list(effective(event for _, event in journal))))


def _fetch_grids(client: Client, job: Job, place: RunDir) -> None:
    """The first and the newest, which a run keeps."""
    kept = [sample for sample in client.samples(job.id) if not sample.pruned]
    for sample in {sample.step: sample for sample in (kept[:1] + kept[-1:])}.values():
        path = place.sample(sample.step)
        if not path.exists() or sha256_file(path) != sample.sha256:
            atomic_write(path, client.blob(sample.sha256))


def _journal(client: Client, job: Job) -> Iterator[tuple[str, RunEvent]]:
    """What the run said, each with its time, and the job's end in the run's words."""
    place, moment = RunDir(Path()), job.created_at
    for event in client.events(job.id):
        moment = event.time
        for said in run_events(event):
            if isinstance(said, SampleGrid):
                said = replace(said, path=place.relative(place.sample(said.step)))
            if not isinstance(said, CheckpointSaved):  # those stay at the service
                yield _rfc3339(moment), said
    if job.state in _REASONS:
        reason = "diverged" if job.reason == "diverged" else _REASONS[job.state]
        yield _rfc3339(moment), Finished(job.progress.step, reason, job.message or "")


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _result(job: Job, said: Sequence[RunEvent]) -> dict[str, Any]:
    """The document of `gan_mhe.records.result.RunResult`, from the job's scores and what its run has said."""
    scores = job.scores
    evaluated = [event for event in said if isinstance(event, Evaluated) and event.purpose != "best_rescored"]
    return {
        "status": "completed",
        "step": job.progress.step,
        "variant": job.variant,
        "seed": job.seed,
        "digest": job.config_digest.removeprefix("sha256:"),
        "protocol": scores.protocol if scores else None,
        "fingerprints": dict(scores.fingerprints) if scores else {},
        "metric": PRIMARY_METRIC,
        "final": _score(scores.final) if scores else None,
        "best": _score(scores.best) if scores else None,
        "evaluations": len(evaluated),
        "real": _numbers(scores.real) if scores and scores.real else None,
        "train_seconds": _train_seconds(said),
        "curve": [_score(event) for event in evaluated],
        "message": job.message or "",
        "peak_memory_bytes": max((event.peak_memory_bytes or 0 for event in _progress(said)), default=None),
    }


def _train_seconds(said: Sequence[RunEvent]) -> float:
    """As the run's reports have it, whose speed is the mean since their attempt began: the service does not tell."""
    seconds = 0.0
    for first, last in _attempts(said):
        seconds += (last.step - first) / last.steps_per_second
    return seconds


def _attempts(said: Sequence[RunEvent]) -> Iterator[tuple[int, Progress]]:
    """Of each attempt that reported its speed: the step it began at, and its last report."""
    first, last = 0, None
    for event in (*said, Started(0, 0, resumed=False)):
        if isinstance(event, Started):
            if last is not None:
                yield first, last
            first, last = event.step, None
        elif isinstance(event, Progress) and event.steps_per_second > 0:
            last = event


def _progress(said: Sequence[RunEvent]) -> list[Progress]:
    return [event for event in said if isinstance(event, Progress)]


def _score(score: Score | Evaluated | None) -> dict[str, Any] | None:
    return None if score is None else {"step": score.step, "scores": _numbers(score.scores)}


def _numbers(scores: Mapping[str, float]) -> dict[str, Any]:
    return {name: encode_number(value) for name, value in scores.items()}
