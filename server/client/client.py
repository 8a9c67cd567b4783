"""The client itself: one method for each thing the service does."""

import io
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import httpx2

from gan_mhe.records.events import decode_number
from server.client.connection import Connection
from server.client.errors import TaskFailed, TimedOut
from server.client.events import Event, follow
from server.client.records import (
    Bucket,
    Checkpoint,
    DryRun,
    Experiment,
    Job,
    LogChunk,
    Metric,
    Sample,
    Task,
    TaskResult,
)

if TYPE_CHECKING:  # loaded when they are used
    from PIL.Image import Image

    from gan_mhe.comparison.results import Comparison, View

SERVER_VARIABLE, KEY_VARIABLE = "GAN_MHE_SERVER", "GAN_MHE_KEY"
_RENDER_SECONDS = 90.0  # the service gives up after 60
DEFAULT_SERVER = "http://127.0.0.1:8000"

Mode = Literal["graceful", "now"]
Ending = TypeVar("Ending", Job, Task)


class Client:
    """A service at a URL. Safe for one thread; close it, or use it as a context manager.

    base_url: GAN_MHE_SERVER, or port 8000 of this machine, unless given. key: the API key; GAN_MHE_KEY unless given,
    "" for none. timeout: seconds for one answer. Methods raise ServerError.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            base_url or os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER,
            key=os.environ.get(KEY_VARIABLE) if key is None else key,
            timeout_seconds=timeout,
            transport=transport,
        )

    @property
    def base_url(self) -> str:
        """Where the service is."""
        return self._connection.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the open connections."""
        self._connection.close()

    # Jobs and experiments.

    def submit(
        self,
        *,
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
        variant: str | None = None,
        seed: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Job:
        """A new job from a preset's name or a whole configuration. overrides: dotted keys to values.

        idempotency_key: the same key gives the same job, however often it is sent within a day.
        """
        recipe = _recipe(preset, config, overrides) | _present({"variant": variant, "seed": seed})
        body = recipe | _present({"name": name, "labels": labels}) | {"priority": priority}
        return Job.model_validate(self._connection.post("/v1/jobs", body, key=idempotency_key))

    def dry_run(
        self,
        *,
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
        variant: str | None = None,
        seed: int | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> DryRun:
        """What `submit` would make of the same arguments."""
        recipe = _recipe(preset, config, overrides) | _present({"variant": variant, "seed": seed})
        return DryRun.model_validate(self._connection.post("/v1/jobs", recipe, dry_run=True))

    def submit_experiment(
        self,
        *,
        matrix: Mapping[str, Sequence[Any]],
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
    ) -> Experiment:
        """Jobs for every combination of the matrix: `{"variant": [...], "seed": [...], "any.config.key": [...]}`."""
        body = _recipe(preset, config, overrides) | _present({"name": name, "labels": labels})
        body |= {"matrix": {key: list(values) for key, values in matrix.items()}, "priority": priority}
        return Experiment.model_validate(self._connection.post("/v1/experiments", body, key=idempotency_key))

    def experiment(self, experiment_id: str) -> Experiment:
        """An experiment with the states of its jobs."""
        return Experiment.model_validate(self._connection.get(f"/v1/experiments/{experiment_id}"))

    def job(self, job_id: str) -> Job:
        """A job as it is now."""
        return Job.model_validate(self._connection.get(f"/v1/jobs/{job_id}"))

    def jobs(
        self,
        *,
        state: str | Sequence[str] | None = None,
        experiment: str | None = None,
        label: str | Sequence[str] | None = None,
        variant: str | None = None,
        page_size: int = 50,
    ) -> Iterator[Job]:
        """Jobs, the newest first, page by page as they are asked for. label: `key:value`."""
        filters = {"state": state, "experiment_id": experiment, "label": label, "variant": variant}
        return map(Job.model_validate, self._pages("/v1/jobs", page_size, filters))

    def _pages(self, path: str, page_size: int, params: Mapping[str, Any]) -> Iterator[Any]:
        cursor = None
        while True:
            page = self._connection.get(path, limit=page_size, cursor=cursor, **params)
            yield from page["data"]
            cursor = page["next_cursor"]
            if not page["has_more"]:
                return

    def cancel(self, job_id: str, *, mode: Mode = "graceful") -> Job:
        """End a job for good. mode `now` does not let it save first."""
        return self._act(job_id, "cancel", {"mode": mode})

    def pause(self, job_id: str, *, mode: Mode = "graceful") -> Job:
        """Have a job save its state and give its slot back."""
        return self._act(job_id, "pause", {"mode": mode})

    def resume(self, job_id: str) -> Job:
        """Put a paused job back into the queue."""
        return self._act(job_id, "resume")

    def retry(self, job_id: str) -> Job:
        """Put a failed job back into the queue; it goes on from its last checkpoint."""
        return self._act(job_id, "retry")

    def fork(self, job_id: str, **changes: Any) -> Job:
        """A new job that begins with a checkpoint of another. changes: the fields of the request."""
        return self._act(job_id, "fork", changes)

    def _act(self, job_id: str, action: str, body: Mapping[str, Any] | None = None) -> Job:
        return Job.model_validate(self._connection.post(f"/v1/jobs/{job_id}/{action}", body))

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """The job once it has ended. TimedOut when that takes longer than `timeout` seconds."""
        return _ended(lambda: self.job(job_id), self.job(job_id), timeout)

    # What jobs say.

    def stream(
        self, ids: str | Sequence[str], *, after: int | None = None, patience: float = 300.0
    ) -> Generator[Event, None, None]:
        """Every event of jobs or experiments, once and in order, until all the jobs have ended.

        after: the `id` of an event of the same stream, to go on behind it. Broken connections and restarts of the
        service are got over; Unreachable when it is away for `patience` seconds.
        """
        params = self._selected(ids)
        path = "/v1/stream"
        if isinstance(ids, str) and "job" in params:
            path, params = f"/v1/jobs/{ids}/stream", {}
        return follow(self._connection, path, params, after=after, patience_seconds=patience)

    def _selected(self, ids: str | Sequence[str]) -> dict[str, Any]:
        """The parameters that name jobs, and experiments for all their jobs. The service takes one experiment."""
        listed = [ids] if isinstance(ids, str) else list(ids)
        jobs = [id_ for id_ in listed if not id_.startswith("exp_")]
        experiments = [id_ for id_ in listed if id_.startswith("exp_")]
        for id_ in experiments[1:]:
            jobs += self.experiment(id_).job_ids
        return ({"job": jobs} if jobs else {}) | ({"experiment": experiments[0]} if experiments else {})

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """What has happened to a job until now, oldest first. after: a `seq`."""
        place: int | None = after
        while place is not None:
            page = self._connection.get(f"/v1/jobs/{job_id}/events", after=place, limit=1000)
            yield from (Event.of(document, document["seq"]) for document in page["data"])
            place = page["next_after"]

    def logs(self, job_id: str, *, after: int = 0) -> LogChunk:
        """What a job printed, from a byte on, as far as one answer goes."""
        return LogChunk.model_validate(self._connection.get(f"/v1/jobs/{job_id}/logs", after=after))

    def metrics(self, job_id: str) -> dict[str, Metric]:
        """The newest numbers of a job, by name."""
        page = self._connection.get(f"/v1/jobs/{job_id}/metrics")
        return {document["name"]: Metric.model_validate(document) for document in page["data"]}

    def history(
        self,
        job_id: str,
        name: str,
        *,
        from_step: int | None = None,
        to_step: int | None = None,
        max_points: int = 1000,
    ) -> list[Bucket]:
        """A metric over the steps, in `max_points` at most."""
        params = {"name": name, "from_step": from_step, "to_step": to_step, "max_points": max_points}
        [series] = self._connection.get(f"/v1/jobs/{job_id}/metrics/history", **params)["data"]
        return [Bucket.model_validate(point) for point in series["points"]]

    # Pictures and checkpoints.

    def samples(self, job_id: str) -> list[Sample]:
        """The sample grids of a job, by step."""
        path, found = f"/v1/jobs/{job_id}/samples", []
        page = {"next_after": None, "has_more": True}
        while page["has_more"]:
            page = self._connection.get(path, after=page["next_after"], limit=200)
            found += [Sample.model_validate(document) for document in page["data"]]
        return found

    def image(self, sample: Sample) -> "Image":
        """A sample grid as a picture."""
        return _picture(self.blob(sample.sha256))

    def latest_image(self, job_id: str) -> "Image":
        """The newest sample grid of a job."""
        return _picture(self.latest_png(job_id))

    def latest_png(self, job_id: str) -> bytes:
        """The newest sample grid of a job as a file."""
        return self._connection.get_bytes(f"/v1/jobs/{job_id}/samples/latest")

    def animation(self, job_id: str, *, format: Literal["webp", "gif"] = "webp", fps: int = 8) -> bytes:
        """All sample grids of a job as a film."""
        path = f"/v1/jobs/{job_id}/samples/animation"
        return self._connection.get_bytes(path, least_seconds=_RENDER_SECONDS, format=format, fps=fps)

    def blob(self, sha256: str) -> bytes:
        """Any file of a job by its hash."""
        return self._connection.get_bytes(f"/v1/blobs/{sha256}")

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """The checkpoints of a job, by step."""
        page = self._connection.get(f"/v1/jobs/{job_id}/checkpoints")
        return [Checkpoint.model_validate(document) for document in page["data"]]

    def checkpoint_file(self, checkpoint_id: str, part: Literal["content", "manifest"]) -> bytes:
        """A checkpoint's tensors (safetensors) or its manifest (JSON)."""
        return self._connection.get_bytes(f"/v1/checkpoints/{checkpoint_id}/{part}")

    def draw(self, checkpoint_id: str, *, timeout: float = 300.0, **request: Any) -> "Image":
        """A grid of images from a checkpoint. request: `n`, `seed`, `truncation`, `interpolation`, `ema`."""
        return _picture(self.draw_file(checkpoint_id, timeout=timeout, format="png", **request))

    def draw_file(self, checkpoint_id: str, *, timeout: float = 300.0, **request: Any) -> bytes:
        """The same as a file: `format` may be `png`, `zip` or `npz`."""
        result = self._made(f"/v1/checkpoints/{checkpoint_id}/samples", request, timeout)
        assert result.sha256 is not None
        return self.blob(result.sha256)

    def score(self, checkpoint_id: str, *, timeout: float = 1800.0, **request: Any) -> TaskResult:
        """Scores of a checkpoint with fresh latents. request: `protocol`, `num_samples`, `ema`, `weights`."""
        return self._made(f"/v1/checkpoints/{checkpoint_id}/scores", request, timeout)

    def _made(self, path: str, request: Mapping[str, Any], timeout: float) -> TaskResult:
        """The result of a new task. TaskFailed when there is none, TimedOut when it takes too long."""
        task = Task.model_validate(self._connection.post(path, request, prefer="wait=10"))
        task = _ended(lambda: self.task(task.id), task, timeout)
        if task.result is None:
            why = task.message or task.reason or "no reason given"
            raise TaskFailed(f"{task.id} {task.state}: {why}", code=task.reason)
        return task.result

    def task(self, task_id: str) -> Task:
        """A task as it is now."""
        return Task.model_validate(self._connection.get(f"/v1/tasks/{task_id}"))

    # Comparisons.

    def compare(
        self,
        ids: str | Sequence[str],
        *,
        metric: str | None = None,
        reference: str | None = None,
        view: "View" = "steps",
    ) -> "Comparison":
        """Jobs and experiments as one table.

        metric: by default the one that ranks the jobs. reference: the variant that the others are compared with. view:
        `steps` takes final generators, `wall_time` those of roughly equal training time.
        """
        params = self._selected(ids) | {"metric": metric, "reference": reference, "view": view}
        return _comparison(self._connection.get("/v1/compare", **params))

    def compare_text(
        self,
        ids: str | Sequence[str],
        *,
        format: Literal["json", "csv", "markdown"],
        metric: str | None = None,
        reference: str | None = None,
        view: "View" = "steps",
    ) -> str:
        """The same table as text."""
        params = self._selected(ids) | {"metric": metric, "reference": reference, "view": view, "format": format}
        return self._connection.get_bytes("/v1/compare", **params).decode()


def _recipe(
    preset: str | None, config: Mapping[str, Any] | None, overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    return _present({"preset": preset, "config": config, "overrides": overrides})


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _ended(look: Callable[[], Ending], now: Ending, timeout: float | None) -> Ending:
    """What `look` shows once it has ended. TimedOut when that takes longer than `timeout` seconds."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.1
    while not now.terminal:
        if deadline is not None and time.monotonic() + pause > deadline:
            raise TimedOut(f"{now.id} is {now.state} after {timeout:g} seconds")
        time.sleep(pause)
        pause, now = min(2.0, pause * 1.5), look()
    return now


def _picture(content: bytes) -> "Image":
    from PIL import Image

    return Image.open(io.BytesIO(content))


def _comparison(document: Mapping[str, Any]) -> "Comparison":
    from gan_mhe.comparison.results import Comparison, Row

    def known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
        names = {field.name for field in fields(kind)}
        return {name: decode_number(value) for name, value in values.items() if name in names}

    rows = tuple(Row(**known(Row, row) | {"jobs": tuple(row["jobs"])}) for row in document["rows"])
    return Comparison(**known(Comparison, document) | {"rows": rows})
