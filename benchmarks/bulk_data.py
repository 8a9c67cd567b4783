"""Data for `benchmarks.bulk`: jobs in the database of a data directory, and runs in its inbox.

It runs as a file, with PYTHONPATH naming the version of the service whose database is to be filled:

    PYTHONPATH=VERSION python benchmarks/bulk_data.py DATA_DIR JOBS RUNS POINTS ENTRIES

All jobs wait for a GPU, so that a service without one has nothing to start; RUNS more belong to one experiment and have
succeeded. The inbox gets the run `long` with so many POINTS, and ENTRIES small runs.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import write_json
from gan_mhe.records import events
from gan_mhe.records.run_dir import RunDir
from server.clock import now_ms
from server.ids import new_id
from server.queue import admission, queue
from server.queue.states import State
from server.settings import Settings
from server.store import tables
from server.store.store import Store

VARIANTS = ("none", "spectral_norm", "mhe", "mhe_sn")
VALUES_PER_LINE = 10
_CHUNK = 500
_STEPS = 1000


def config(index: int, device: str = "auto") -> RunConfig:
    """The configuration of one job: variants alternate, and each has seeds of its own."""
    variant, seed = VARIANTS[index % len(VARIANTS)], index // len(VARIANTS)
    return RunConfig.model_validate({"variant": variant, "seed": seed, "training": {"steps": _STEPS, "device": device}})


def result(of: RunConfig, index: int) -> dict[str, Any]:
    """The result of a completed run."""
    score = {"inception_score": 5 + math.sin(index)}
    final = {"step": _STEPS, "scores": score}
    return {
        "status": "completed",
        "step": _STEPS,
        "variant": of.variant,
        "seed": of.seed,
        "digest": of.digest(),
        "protocol": "digits-v1",
        "fingerprints": {"inception_score": "f" * 64},
        "metric": "inception_score",
        "final": final,
        "best": final,
        "evaluations": 10,
        "real": score,
        "train_seconds": 10.0,
        "message": "",
        "curve": [{"step": step, "scores": score} for step in range(100, _STEPS + 1, 100)],
        "weights_sha256": "f" * 64,
    }


def add_jobs(connection: Connection, first: int, last: int) -> None:
    """Add waiting jobs of the numbers from `first` to `last`, without the last."""
    for index in range(first, last):
        own = {"name": f"run {index:05d}", "labels": {"group": str(index % 100), "all": "yes"}}
        queue.create(connection, admission.new_job(config(index, "cuda"), "default", **own))


def add_runs(connection: Connection, runs: int) -> str:
    """Add an experiment of ended jobs; returns its id."""
    row = {"id": new_id("exp"), "project": "default", "labels": {}, "base": {}, "matrix": {}, "created_at": now_ms()}
    connection.execute(tables.experiments.insert().values(row))
    for index in range(runs):
        of = config(index)
        new = admission.new_job(of, "default", experiment_id=row["id"], cell={"seed": index})
        queue.create(connection, new, State.SUCCEEDED, result=result(of, index), step=_STEPS)
    return str(row["id"])


def lines(points: int) -> Iterator[bytes]:
    """The journal of a run with so many values, VALUES_PER_LINE at every step."""
    steps = points // VALUES_PER_LINE
    said: list[events.Event] = [events.Started(0, steps, resumed=False)]
    for seq in range(steps + 1):
        if seq:
            values = {f"value_{number}": math.sin(seq / 1000 + number) for number in range(VALUES_PER_LINE)}
            said = [events.Scalars(seq, values)]
        document = {"seq": seq, "time": "2026-11-28T00:00:00.000Z", **events.encode(said[0])}
        yield json.dumps(document).encode() + b"\n"


def add_run(root: Path, points: int) -> None:
    """Make an unfinished run directory."""
    run = RunDir(root)
    root.mkdir(parents=True)
    write_json(run.config, config(0).document())
    with open(run.events, "wb") as file:
        file.writelines(lines(points))


def main() -> None:
    """Fill a data directory; print the id of the experiment."""
    folder, numbers = Path(sys.argv[1]), [int(text) for text in sys.argv[2:]]
    jobs, runs, points, entries = numbers
    folder.mkdir(parents=True)
    settings = Settings(data_dir=folder, port=0, disk_reserve_bytes=0)
    store = Store(settings.database)
    store.migrate()
    for first in range(0, jobs, _CHUNK):
        store.write(lambda connection, first=first: add_jobs(connection, first, min(jobs, first + _CHUNK)))  # type: ignore[misc]
    experiment = store.write(lambda connection: add_runs(connection, runs))
    store.close()
    add_run(settings.inbox / "long", points)
    for number in range(entries):
        add_run(settings.inbox / f"entry-{number:05d}", 10)
    sys.stdout.write(experiment)


if __name__ == "__main__":
    main()
