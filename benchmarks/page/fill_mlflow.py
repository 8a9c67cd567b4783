"""Fill a running MLflow server. Run by the Python of MLflow's own environment, which has nothing of ours.

python fill_mlflow.py SOURCE ADDRESS DATABASE RUNS

SOURCE has `values.bin`, doubles of the steps 1, 2, ..., and `grids/STEP.png`. Images go through the client. Runs and
values are rows of the server's SQLite database: the client would take hours for them. Prints the experiment's and the
run's id.
"""

import array
import sqlite3
import sys
import uuid
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from PIL import Image


def main(source: Path, address: str, database: Path, runs: int) -> None:
    """Make an experiment of many runs, and a last one with the series `d_loss` and the images `samples`."""
    mlflow.set_tracking_uri(address)
    client = MlflowClient()
    experiment = client.create_experiment("page")
    model = client.create_run(experiment, run_name="run 0").info.run_id
    client.log_metric(model, "inception_score", 5.0, step=1)
    client.set_terminated(model)
    copy(database, model, runs - 1)
    run = client.create_run(experiment, run_name="long series").info.run_id
    client.log_metric(run, "d_loss", 0.0, step=0)
    add_values(database, run, source)
    for file in sorted((source / "grids").iterdir()):
        client.log_image(run, Image.open(file), key="samples", step=int(file.stem), synchronous=True)
    client.set_terminated(run)
    sys.stdout.write(f"{experiment} {run}\n")


def copy(database: Path, model: str, count: int) -> None:
    """Copy a run with its tags and its newest metrics, each under a name of its own."""
    ids = [(uuid.uuid4().hex, index) for index in range(1, count + 1)]
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TEMP TABLE copies (id TEXT, number INTEGER)")
        connection.executemany("INSERT INTO copies VALUES (?, ?)", ids)
        for table, key in (("runs", "run_uuid"), ("tags", "run_uuid"), ("latest_metrics", "run_uuid")):
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            changed = {key: "copies.id", "start_time": "start_time + copies.number"}
            if table == "runs":
                changed["name"] = "'run ' || copies.number"
            if table == "tags":
                changed["value"] = "CASE key WHEN 'mlflow.runName' THEN 'run ' || copies.number ELSE value END"
            picked = ", ".join(changed.get(column, f"{table}.{column}") for column in columns)
            connection.execute(
                f"INSERT INTO {table} SELECT {picked} FROM {table}, copies WHERE {table}.{key} = ?", (model,)
            )


def add_values(database: Path, run: str, source: Path) -> None:
    """Add the values as copies of the one that the client has logged."""
    values = array.array("d")
    values.frombytes((source / "values.bin").read_bytes())
    with sqlite3.connect(database) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(metrics)")]
        row = connection.execute("SELECT * FROM metrics WHERE run_uuid = ? AND key = 'd_loss'", (run,)).fetchone()
        first = dict(zip(columns, row, strict=True))
        places = ", ".join("?" for _ in columns)
        rows = (
            tuple({**first, "step": step, "value": value, "timestamp": first["timestamp"] + step}.values())
            for step, value in enumerate(values, 1)
        )
        connection.executemany(f"INSERT INTO metrics VALUES ({places})", rows)
        newest = "UPDATE latest_metrics SET value = ?, step = ?, timestamp = ? WHERE run_uuid = ? AND key = 'd_loss'"
        connection.execute(newest, (values[-1], len(values), first["timestamp"] + len(values), run))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
