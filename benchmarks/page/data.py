"""A data directory with many jobs, one of which has a long series and many grids; the same values for the peers."""

import io
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from sqlalchemy import Connection, update

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import sha256_bytes
from server.clock import now_ms
from server.ids import new_id
from server.queue import admission, queue
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts, metric_points, tables
from server.store.rows import SampleRow
from server.store.store import Store

JOBS = 10_000
POINTS = 1_000_000
GRIDS = 200
GRID_SIDE = 256  # pixels: 8 by 8 images of 32 by 32
_WITH_GRID = 120  # of the newest jobs: more than two pages of the list
_CHUNK = 50_000
_WORDS = ("none", "sn", "mhe", "mhe_sn", "comhe", "wgan_gp")
Row = dict[str, Any]


def values() -> Iterator[tuple[int, float]]:
    """A loss at steps 1 to POINTS: a slow decay, waves of two lengths, noise."""
    noise = random.Random(0)
    for step in range(1, POINTS + 1):
        decay = 2 * math.exp(-3 * step / POINTS)
        yield step, 0.5 + decay + 0.2 * math.sin(step / 40_000) + 0.1 * math.sin(step / 300) + noise.gauss(0, 0.05)


def grid_steps() -> list[int]:
    """The steps of the grids: 0, and on to the end in equal distances."""
    return [index * POINTS // (GRIDS - 1) for index in range(GRIDS)]


def picture(step: int) -> bytes:
    """A PNG of noise, the hardest content to compress, of a different color at every step."""
    noise = random.Random(step).randbytes(3 * GRID_SIDE * GRID_SIDE)
    file = io.BytesIO()
    Image.frombytes("RGB", (GRID_SIDE, GRID_SIDE), noise).save(file, "PNG")
    return file.getvalue()


def fill(data_dir: Path) -> tuple[str, str]:
    """Make the data directory; returns the ids of the job with the long series, and of one that has not ended."""
    data_dir.mkdir(parents=True)
    settings = Settings(data_dir=data_dir, port=0, disk_reserve_bytes=0)
    store = Store(settings.database)
    store.migrate()
    try:
        store.write(_add_jobs)
        long = store.write(lambda connection: _add_job(connection, "long series", State.SUCCEEDED))
        _add_values(store, long)
        _add_grids(store, settings, long)
        _add_newest_grids(store, settings, long)
        live = store.write(lambda connection: _add_job(connection, "followed", State.PAUSED))
        return str(long["id"]), str(live["id"])
    finally:
        store.close()


def _add_job(connection: Connection, name: str, state: State) -> Row:
    config = RunConfig.model_validate({"training": {"steps": POINTS}})
    new = admission.new_job(config, "default", name=name)
    return dict(queue.create(connection, new, state, step=POINTS if state is State.SUCCEEDED else 0))


def _add_jobs(connection: Connection) -> None:
    """Copies of one job with names, variants and scores of their own: a row of each table that the list reads."""
    row = _add_job(connection, "copied", State.SUCCEEDED)
    del row["seq"]
    jobs = [
        {**row, "id": new_id("job"), "name": f"run {index:05d}", "variant": _WORDS[index % len(_WORDS)], "seed": index}
        for index in range(JOBS)
    ]
    connection.execute(tables.jobs.insert(), jobs)
    found = connection.execute(tables.jobs.select().with_only_columns(tables.jobs.c.seq, tables.jobs.c.seed)).all()
    score = {"name": "inception_score", "step": POINTS, "kind": metric_points.FINITE, "min": 1.0, "max": 9.0}
    scores = [
        {**score, "job_seq": seq, "value": 5 + (seed or 0) % 300 / 100, "best": 8.0, "best_step": 900_000}
        for seq, seed in found
    ]
    connection.execute(tables.metric_summary.insert(), scores)


def _add_values(store: Store, job: Row) -> None:
    chunk: list[tuple[int, dict[str, float]]] = []
    for step, value in values():
        chunk.append((step, {"d_loss": value}))
        if len(chunk) == _CHUNK or step == POINTS:
            add_points(store, job["id"], chunk)
            chunk = []


def add_points(store: Store, job_id: str, points: metric_points.Points) -> None:
    """Add values, and count their lines as the indexer does, so that no answer from before is taken for the newest."""

    def work(connection: Connection) -> None:
        job = queue.get(connection, job_id)
        metric_points.add(connection, job, 1, points)
        seen = job["events_seq"] + len(points)
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(events_seq=seen))

    store.write(work)


def _add_grids(store: Store, settings: Settings, job: Row) -> None:
    for step in grid_steps():
        _add_grid(store, settings, job["id"], step)


def _add_newest_grids(store: Store, settings: Settings, job: Row) -> None:
    newest = tables.jobs.select().where(tables.jobs.c.id != job["id"]).order_by(tables.jobs.c.seq.desc())
    rows = store.read(lambda connection: connection.execute(newest.limit(_WITH_GRID)).all())
    for row in rows:
        _add_grid(store, settings, row.id, 0)


def _add_grid(store: Store, settings: Settings, job_id: str, step: int) -> None:
    path = f"run/samples/step_{step:08d}.png"
    file = settings.job_dir(job_id) / path
    file.parent.mkdir(parents=True, exist_ok=True)
    content = picture(step)
    file.write_bytes(content)
    row: SampleRow = {
        "job_id": job_id,
        "step": step,
        "attempt": 1,
        "sha256": sha256_bytes(content),
        "path": path,
        "size_bytes": len(content),
        "width": GRID_SIDE,
        "height": GRID_SIDE,
        "created_at": now_ms(),
        "pruned_at": None,
    }
    store.write(lambda connection: artifacts.add_sample(connection, row))
