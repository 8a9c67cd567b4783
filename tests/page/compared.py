"""Runs with scores for tests of the comparison: made as rows, without training."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, update

from gan_mhe.config.run_config import RunConfig
from server.queue import experiments, queue
from server.queue.admission import Operator, Source
from server.queue.states import State
from server.service import Service
from server.store import metric_points, tables
from tests.server.http.test_compare import result

Curve = Mapping[int, float]


def make_experiment(service: Service, matrix: Mapping[str, Sequence[Any]], name: str) -> tuple[str, list[str]]:
    """An experiment of queued jobs; its id and theirs, seed by seed."""
    source = Source(preset="debug_cpu", overrides={"training.steps": 40})
    plan = experiments.plan(Operator(service.settings, service.executor), source, matrix)
    new = experiments.prepare(plan, "default", name=name, labels={})
    row = service.store.write(lambda connection: experiments.create(connection, new))
    return row["id"], [job["id"] for job in service.store.read(lambda c: experiments.jobs(c, row["id"]))]


def finish(
    service: Service, job_id: str, score: float | str | None, state: State = State.SUCCEEDED, **more: Any
) -> None:
    """Move a job to its end, with a score if one is given. more: fields of its result."""

    def work(connection: Connection) -> None:
        job = queue.get(connection, job_id)
        values: dict[str, Any] = {"state": state, "step": 40, "total_steps": 40}
        if score is not None:
            values["result"] = result(RunConfig.stored(job["request"]), score) | more
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(values))

    service.store.write(work)


def measure(service: Service, job_id: str, curve: Curve, metric: str = "inception_score") -> None:
    """Scores at some steps, as an attempt would have reported them."""

    def work(connection: Connection) -> None:
        job = queue.get(connection, job_id)
        metric_points.add(connection, job, 1, [(step, {metric: value}) for step, value in curve.items()])

    service.store.write(work)
