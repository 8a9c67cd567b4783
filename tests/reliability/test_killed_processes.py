"""Trainer, supervisor, server, or all of them, killed in every state: no training is lost or done twice."""

import json
import os
import signal
from typing import Any

import httpx2
import pytest

from server.crash_points import POINTS
from tests.support.audit import audit
from tests.support.server_process import Server

STEPS = 60
SLOW = "0.06"  # seconds a step takes where a test must be sure to meet the run before its end


def finish(server: Server, job_id: str, *, attempts: int) -> dict[str, Any]:
    job: dict[str, Any] = server.wait_for(job_id, "succeeded", "failed", "cancelled")
    assert (job["state"], job["progress"]["step"]) == ("succeeded", STEPS), job
    assert job["attempt"]["number"] == attempts
    server.wait_until(lambda: not server.processes())
    audit(server)
    return job


def test_a_job_whose_trainer_is_killed_resumes_from_its_last_checkpoint(server: Server) -> None:
    server.start(FAKE_WORKER_STEP_SECONDS=SLOW)
    job_id = server.submit(STEPS)
    server.wait_for(job_id, "running", step=15)
    server.kill_all(server.pids(job_id)[1])
    job = finish(server, job_id, attempts=2)
    assert job["retry"]["used"] == {"infrastructure": 1, "program": 0}
    assert "recovering" in server.states(job_id)
    [attempt] = server.rows("SELECT * FROM attempts WHERE job_id = ? AND number = 2", job_id)
    assert attempt["resumed_from_step"] >= 10


def test_a_killed_supervisor_takes_its_trainer_with_it_and_the_job_resumes(server: Server) -> None:
    server.start(FAKE_WORKER_STEP_SECONDS=SLOW)
    job_id = server.submit(STEPS)
    server.wait_for(job_id, "running", step=15)
    supervisor, trainer = server.pids(job_id)
    server.kill_all(supervisor)
    server.wait_until(lambda: not os.path.exists(f"/proc/{trainer}"), 5)
    job = finish(server, job_id, attempts=2)
    assert job["retry"]["used"] == {"infrastructure": 1, "program": 0}


def test_a_stopped_supervisor_loses_its_lease_and_its_job(server: Server) -> None:
    server.start(FAKE_WORKER_STEP_SECONDS=SLOW)
    job_id = server.submit(STEPS)
    server.wait_for(job_id, "running", step=15)
    supervisor, trainer = server.pids(job_id)
    os.kill(supervisor, signal.SIGSTOP)
    os.kill(trainer, signal.SIGSTOP)
    finish(server, job_id, attempts=2)


@pytest.mark.parametrize("victim", ["trainer", "supervisor and trainer"])
def test_cancelling_ends_even_when_the_processes_are_stopped(server: Server, victim: str) -> None:
    server.start()
    job_id = server.submit(5000)
    server.wait_for(job_id, "running", step=5)
    supervisor, trainer = server.pids(job_id)
    os.kill(trainer, signal.SIGSTOP)
    if victim != "trainer":
        os.kill(supervisor, signal.SIGSTOP)
    assert server.act(job_id, "cancel").status_code == 200
    server.wait_for(job_id, "cancelled", seconds=2 + 10 + 3)
    server.wait_until(lambda: not server.processes())
    audit(server)


def test_a_restarted_server_adopts_its_running_training(server: Server) -> None:
    server.start()
    job_id = server.submit(STEPS)
    server.wait_for(job_id, "running", step=10)
    before = server.pids(job_id)
    server.kill()
    server.start()
    assert server.pids(job_id) == before
    finish(server, job_id, attempts=1)


def test_training_that_ends_while_no_server_runs_is_recorded_by_the_next(server: Server) -> None:
    server.start()
    job_id = server.submit(STEPS)
    server.wait_for(job_id, "running", step=10)
    server.kill()
    server.wait_until((server.attempt(job_id) / "exit.json").exists)
    server.start()
    finish(server, job_id, attempts=1)


def test_jobs_resume_after_the_machine_went_down(server: Server) -> None:
    server.start()
    first, second = server.submit(5 * STEPS), server.submit(5 * STEPS, seed=1)  # the first waits for the second
    waiting = server.submit(STEPS, seed=2)
    server.wait_for(first, "running", step=15)
    server.wait_for(second, "running", step=15)
    server.kill()
    server.kill_all(*server.pids(first), *server.pids(second))
    server.start()
    for job_id, attempts in ((first, 2), (second, 2), (waiting, 1)):
        server.wait_for(job_id, "succeeded")
        assert server.job(job_id)["attempt"]["number"] == attempts
    audit(server)


@pytest.mark.parametrize("state", ["pausing", "cancelling"])
def test_a_requested_stop_survives_the_server(server: Server, state: str) -> None:
    server.environment["FAKE_WORKER_IGNORE_SIGTERM"] = "1"
    server.start()
    job_id = server.submit(5000)
    server.wait_for(job_id, "running", step=5)
    action, end = {"pausing": ("pause", "paused"), "cancelling": ("cancel", "cancelled")}[state]
    assert server.act(job_id, action).json()["state"] == state
    server.kill()
    server.start()
    server.wait_for(job_id, end)
    audit(server)


@pytest.mark.parametrize("point", POINTS)
def test_a_server_killed_at_this_point_loses_and_doubles_nothing(server: Server, point: str) -> None:
    server.start()
    server.kill()
    server.process = server.launch(GAN_MHE_CRASH_AT=point)

    def submitted() -> bool:
        """Retry as a client does, until there is an answer or the server is dead."""
        if server.process.poll() is not None:
            return True
        try:
            server.address = json.loads((server.data_dir / "server.json").read_text())["url"]
            return bool(server.submit(STEPS, key="once"))
        except (OSError, httpx2.TransportError):
            return False

    server.wait_until(submitted, 30)
    server.wait_for_death()
    assert server.process.returncode == -signal.SIGKILL
    server.start()
    job_id = server.submit(STEPS, key="once")
    finish(server, job_id, attempts=1)
    assert len(server.rows("SELECT id FROM jobs")) == 1


def test_a_trainer_that_keeps_dying_exhausts_the_retries(server: Server) -> None:
    server.environment |= {"FAKE_WORKER_CRASH_AT": "5", "GAN_MHE_INFRASTRUCTURE_RETRIES": "2"}
    server.start()
    job_id = server.submit(STEPS)
    job = server.wait_for(job_id, "failed")
    assert job["reason"] == "retries_exhausted" and job["attempt"]["number"] == 3
    audit(server)


def test_pausing_frees_the_slot_and_resuming_continues_there(server: Server) -> None:
    server.environment["GAN_MHE_CPU_SLOTS"] = "1"
    server.start()
    first, second = server.submit(STEPS), server.submit(STEPS, seed=1)
    server.wait_for(first, "running", step=12)
    server.act(first, "pause")
    paused = server.wait_for(first, "paused")
    server.wait_for(second, "running", "succeeded")
    server.act(first, "resume")
    server.wait_for(first, "succeeded")
    [attempt] = server.rows("SELECT * FROM attempts WHERE job_id = ? AND number = 2", first)
    assert attempt["resumed_from_step"] == paused["progress"]["step"] >= 12
    server.wait_for(second, "succeeded")
    audit(server)
