"""What must hold of a data directory at any moment in which nothing moves."""

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

from server.queue.states import State, legal
from tests.support.server_process import Server

Audit = Callable[[Server], None]

LIVE = {"starting", "running", "pausing", "recovering", "cancelling"}


def audit(server: Server) -> None:
    """Fail where history, jobs, metrics or files contradict each other or themselves."""
    _check_histories(server)
    _check_jobs(server)
    _check_metrics(server)
    _check_files(server)
    assert server.rows("PRAGMA integrity_check")[0][0] == "ok"


def _check_histories(server: Server) -> None:
    for row in server.rows("SELECT id, state, journal_seq FROM jobs"):
        numbers = [
            r["job_seq"] for r in server.rows("SELECT job_seq FROM journal WHERE job_id = ? ORDER BY 1", row["id"])
        ]
        assert numbers == list(range(1, row["journal_seq"] + 1)), "the journal has a gap"
        states = [State(state) for state in server.states(row["id"])]
        illegal = [pair for pair in itertools.pairwise(states) if not legal(*pair)]
        assert not illegal and states[-1] == row["state"]


def _check_jobs(server: Server) -> None:
    for row in server.rows("SELECT * FROM jobs"):
        live = server.rows("SELECT slot FROM attempts WHERE job_id = ? AND live", row["id"])
        assert len(live) <= 1, "two live attempts"
        assert (row["finished_at"] is not None) == (row["state"] in {"succeeded", "failed", "cancelled"})
        if row["state"] not in LIVE:
            assert not live, f"a job that is {row['state']} has an attempt"
    slots = [row["slot"] for row in server.rows("SELECT slot FROM attempts WHERE live")]
    assert len(slots) == len(set(slots)), "a slot is given twice"


def _check_metrics(server: Server) -> None:
    """The points of each series that count are those that the run itself wrote, each once."""
    for row in server.rows("SELECT id, seq FROM jobs WHERE kind = 'train' AND state = 'succeeded'"):
        written = _reported_steps(server.data_dir / "jobs" / row["id"] / "run" / "events.jsonl")
        query = (
            "SELECT step FROM metric_points JOIN metric_names ON name_id = metric_names.id "
            "WHERE job_seq = ? AND name = 'd_loss' AND NOT superseded ORDER BY step"
        )
        assert [point["step"] for point in server.rows(query, row["seq"])] == written


def _reported_steps(journal: Path) -> list[int]:
    steps: list[int] = []
    for line in journal.read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "started":
            steps = [step for step in steps if event["resumed"] and step <= event["step"]]
        if event["type"] == "scalars":
            steps.append(event["step"])
    return sorted(set(steps))


def _check_files(server: Server) -> None:
    for row in server.rows("SELECT job_id, path, sha256 FROM blobs"):
        content = (server.data_dir / "jobs" / row["job_id"] / row["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    for row in server.rows("SELECT job_id, path FROM checkpoints WHERE status = 'available'"):
        assert (server.data_dir / "jobs" / row["job_id"] / row["path"]).is_dir()
