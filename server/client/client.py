"""The client: one method for each operation of the service."""

import io
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import httpx2

from server.client.comparisons import read_comparison
from server.client.connection import Connection
from server.client.errors import Conflict
from server.client.events import Event, follow
from server.client.records import (
    Bucket,
    Checkpoint,
    DryRun,
    Experiment,
    ExperimentDryRun,
    Job,
    LogChunk,
    Metric,
    Sample,
    Task,
    TaskResult,
)
from server.client.resuming import download
from server.client.submissions import Matrix, lists, submission
from server.client.waiting import failed, wait_until_ended

if TYPE_CHECKING:  # imported only when needed
    from pathlib import Path

    from PIL.Image import Image

    from gan_mhe.comparison.results import Comparison, View

SERVER_VARIABLE, KEY_VARIABLE = "GAN_MHE_SERVER", "GAN_MHE_KEY"
_RENDER_SECONDS = 90.0  # the service's own limit is 60
DEFAULT_SERVER = "http://127.0.0.1:8000"

Mode = Literal["graceful", "now"]


class Client:
    """A connection to a service. Not thread-safe; close it, or use it as a context manager.

    base_url: GAN_MHE_SERVER or port 8000 of this machine by default. key: the API key, GAN_MHE_KEY by default, "" for
    none; spaces around it do not count. timeout: seconds for one response. All methods raise ServerError.
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
        """URL of the service."""
        return self._connection.base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    # Jobs and experiments

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
        wall_seconds_limit: float | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a job from a preset or a whole configuration. overrides: dotted keys to values.

        wall_seconds_limit: seconds of running after which the job fails. idempotency_key: repeated submissions with the
        same key within a day create one job.
        """
        source = {"preset": preset, "config": config, "variant": variant, "seed": seed, "overrides": overrides}
        body = submission(source, name, labels, priority, wall_seconds_limit)
        return Job.model_validate(self._connection.post("/v1/jobs", body, key=idempotency_key))

    def dry_run(
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
        wall_seconds_limit: float | None = None,
    ) -> DryRun:
        """The job that `submit` would create from the same arguments."""
        source = {"preset": preset, "config": config, "variant": variant, "seed": seed, "overrides": overrides}
        body = submission(source, name, labels, priority, wall_seconds_limit)
        return DryRun.model_validate(self._connection.post("/v1/jobs", body, dry_run=True))

    def submit_experiment(
        self,
        *,
        matrix: Matrix,
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        wall_seconds_limit: float | None = None,
        idempotency_key: str | None = None,
    ) -> Experiment:
        """Submit a job for each combination of the matrix: `{"variant": [...], "seed": [...], "any.key": [...]}`."""
        source = {"preset": preset, "config": config, "matrix": lists(matrix), "overrides": overrides}
        body = submission(source, name, labels, priority, wall_seconds_limit)
        return Experiment.model_validate(self._connection.post("/v1/experiments", body, key=idempotency_key))

    def dry_run_experiment(
        self,
        *,
        matrix: Matrix,
        preset: str | None = None,
        config: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        wall_seconds_limit: float | None = None,
    ) -> ExperimentDryRun:
        """The number of jobs that `submit_experiment` would create from the same arguments, and their summed cost."""
        source = {"preset": preset, "config": config, "matrix": lists(matrix), "overrides": overrides}
        body = submission(source, name, labels, priority, wall_seconds_limit)
        return ExperimentDryRun.model_validate(self._connection.post("/v1/experiments", body, dry_run=True))

    def experiment(self, experiment_id: str) -> Experiment:
        """An experiment and the states of its jobs."""
        return Experiment.model_validate(self._connection.get(f"/v1/experiments/{experiment_id}"))

    def job(self, job_id: str) -> Job:
        """The current state of a job."""
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
        """Jobs, newest first, fetched page by page as needed. label: `key:value`."""
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
        """Cancel a job. With mode `now` it does not save first."""
        return self._act(job_id, "cancel", {"mode": mode})

    def pause(self, job_id: str, *, mode: Mode = "graceful") -> Job:
        """Pause a job: it saves its state and releases its slot."""
        return self._act(job_id, "pause", {"mode": mode})

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again."""
        return self._act(job_id, "resume")

    def retry(self, job_id: str, *, begin: Literal["checkpoint", "start"] = "checkpoint") -> Job:
        """Queue a failed job again; it resumes from its last checkpoint, or sets all aside and begins at the start."""
        return self._act(job_id, "retry", None if begin == "checkpoint" else {"from": begin})

    def fork(self, job_id: str, **changes: Any) -> Job:
        """Create a job that starts from a checkpoint of another one. changes: fields of the request."""
        return self._act(job_id, "fork", changes)

    def _act(self, job_id: str, action: str, body: Mapping[str, Any] | None = None) -> Job:
        return Job.model_validate(self._connection.post(f"/v1/jobs/{job_id}/{action}", body))

    def wait(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Wait until a job has ended. Raises TimedOut after `timeout` seconds."""
        return wait_until_ended(lambda: self.job(job_id), self.job(job_id), timeout)

    # Events, logs and metrics

    def stream(
        self, ids: str | Sequence[str], *, after: int | None = None, patience: float = 300.0
    ) -> Generator[Event, None, None]:
        """Every event of jobs or experiments, once and in order, until all the jobs have ended.

        after: the `id` of an event of the same stream, to continue after it. Reconnects after interruptions and
        restarts of the service; raises Unreachable after `patience` seconds without it.
        """
        params = self._selected(ids)
        path = "/v1/stream"
        if isinstance(ids, str) and "job" in params:
            path, params = f"/v1/jobs/{ids}/stream", {}
        return follow(self._connection, path, params, after=after, patience_seconds=patience)

    def _selected(self, ids: str | Sequence[str]) -> dict[str, Any]:
        """The query parameters that select jobs and experiments; the service accepts one experiment per request."""
        listed = [ids] if isinstance(ids, str) else list(ids)
        jobs = [id_ for id_ in listed if not id_.startswith("exp_")]
        experiments = [id_ for id_ in listed if id_.startswith("exp_")]
        for id_ in experiments[1:]:
            jobs += self.experiment(id_).job_ids
        return ({"job": jobs} if jobs else {}) | ({"experiment": experiments[0]} if experiments else {})

    def events(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """All events of a job so far, oldest first. after: a `seq`."""
        position: int | None = after
        while position is not None:
            page = self._connection.get(f"/v1/jobs/{job_id}/events", after=position, limit=1000)
            yield from (Event.of(document, document["seq"]) for document in page["data"])
            position = page["next_after"]

    def logs(self, job_id: str, *, after: int = 0) -> LogChunk:
        """Output of a job, starting at a byte; at most as much as one response holds."""
        return LogChunk.model_validate(self._connection.get(f"/v1/jobs/{job_id}/logs", after=after))

    def metrics(self, job_id: str) -> dict[str, Metric]:
        """The latest value of each metric of a job, by name."""
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
        """The history of a metric over the steps, in at most `max_points` points."""
        params = {"name": name, "from_step": from_step, "to_step": to_step, "max_points": max_points}
        [series] = self._connection.get(f"/v1/jobs/{job_id}/metrics/history", **params)["data"]
        return [Bucket.model_validate(point) for point in series["points"]]

    # Images and checkpoints

    def samples(self, job_id: str) -> list[Sample]:
        """The sample grids of a job, by step."""
        path, found = f"/v1/jobs/{job_id}/samples", []
        page = {"next_after": None, "has_more": True}
        while page["has_more"]:
            page = self._connection.get(path, after=page["next_after"], limit=200)
            found += [Sample.model_validate(document) for document in page["data"]]
        return found

    def image(self, sample: Sample) -> "Image":
        """A sample grid as an image."""
        return _image(self.blob(sample.sha256))

    def latest_image(self, job_id: str) -> "Image":
        """The newest sample grid of a job as an image."""
        return _image(self.latest_png(job_id))

    def latest_png(self, job_id: str) -> bytes:
        """The newest sample grid of a job as a PNG file."""
        return self._connection.get_bytes(f"/v1/jobs/{job_id}/samples/latest")

    def animation(self, job_id: str, *, format: Literal["webp", "gif"] = "webp", fps: int = 8) -> bytes:
        """All sample grids of a job as an animation."""
        path = f"/v1/jobs/{job_id}/samples/animation"
        return self._connection.get_bytes(path, min_timeout_seconds=_RENDER_SECONDS, format=format, fps=fps)

    def blob(self, sha256: str) -> bytes:
        """A file of a job, by its SHA-256."""
        return self._connection.get_bytes(f"/v1/blobs/{sha256}")

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """The checkpoints of a job, by step."""
        page = self._connection.get(f"/v1/jobs/{job_id}/checkpoints")
        return [Checkpoint.model_validate(document) for document in page["data"]]

    def checkpoint_file(self, checkpoint_id: str, part: Literal["content", "manifest"]) -> bytes:
        """Tensors (safetensors) or manifest (JSON) of a checkpoint."""
        return self._connection.get_bytes(f"/v1/checkpoints/{checkpoint_id}/{part}")

    def draw(self, checkpoint_id: str, *, timeout: float = 300.0, **request: Any) -> "Image":
        """Generate a grid of images from a checkpoint. request: the fields of POST /v1/checkpoints/ID/samples."""
        return _image(self.draw_file(checkpoint_id, timeout=timeout, format="png", **request))

    def draw_file(self, checkpoint_id: str, *, timeout: float = 300.0, **request: Any) -> bytes:
        """Generate images from a checkpoint as a file: `format` may be `png`, `webp`, `zip` or `npz`."""
        result = self._run_task(f"/v1/checkpoints/{checkpoint_id}/samples", request, timeout)
        assert result.sha256 is not None
        return self.blob(result.sha256)

    def draw_into(
        self, checkpoint_id: str, path: "str | Path", *, silence_seconds: float = 600.0, **request: Any
    ) -> TaskResult:
        """Generate images from a checkpoint and write them to a file while they are drawn; resumes broken downloads.

        request: as for `draw_file`; up to 50,000 images as `zip` or `npz`. silence_seconds: time without a byte, in
        the queue too, after which a connection counts as broken. Raises TaskFailed, and StorageError if `path` cannot
        be written; an older file there then remains.
        """
        task = Task.model_validate(self._connection.post(f"/v1/checkpoints/{checkpoint_id}/samples", request))
        try:
            download(self._connection, f"/v1/tasks/{task.id}/content", path, silence_seconds=silence_seconds)
        except Conflict:  # the task has ended without images
            raise failed(self.task(task.id)) from None
        result = self.task(task.id).result
        assert result is not None
        return result

    def score(self, checkpoint_id: str, *, timeout: float = 1800.0, **request: Any) -> TaskResult:
        """Score a checkpoint with new latents. request: `protocol`, `num_samples`, `ema`, `weights`."""
        return self._run_task(f"/v1/checkpoints/{checkpoint_id}/scores", request, timeout)

    def _run_task(self, path: str, request: Mapping[str, Any], timeout: float) -> TaskResult:
        """Create a task and wait for its result. Raises TaskFailed if there is none, TimedOut after the timeout."""
        task = Task.model_validate(self._connection.post(path, request, prefer="wait=10"))
        task = wait_until_ended(lambda: self.task(task.id), task, timeout)
        if task.result is None:
            raise failed(task)
        return task.result

    def task(self, task_id: str) -> Task:
        """The current state of a task."""
        return Task.model_validate(self._connection.get(f"/v1/tasks/{task_id}"))

    # Comparisons

    def compare(
        self,
        ids: str | Sequence[str],
        *,
        metric: str | None = None,
        reference: str | None = None,
        view: "View" = "steps",
    ) -> "Comparison":
        """Compare jobs and experiments.

        metric: by default the one that ranks the jobs. reference: variant that the others are compared with. view:
        `steps` compares final generators, `wall_time` generators after about the same training time.
        """
        params = self._selected(ids) | {"metric": metric, "reference": reference, "view": view}
        return read_comparison(self._connection.get("/v1/compare", **params))

    def compare_text(
        self,
        ids: str | Sequence[str],
        *,
        format: Literal["json", "csv", "markdown", "latex"],
        metric: str | None = None,
        reference: str | None = None,
        view: "View" = "steps",
    ) -> str:
        """The same comparison as text."""
        params = self._selected(ids) | {"metric": metric, "reference": reference, "view": view, "format": format}
        return self._connection.get_bytes("/v1/compare", **params).decode()


def _image(content: bytes) -> "Image":
    from PIL import Image

    return Image.open(io.BytesIO(content))
