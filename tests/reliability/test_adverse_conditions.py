"""Full disks, locked databases, diverging trainers, second servers, many identical requests."""

import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.audit import audit
from tests.support.server_process import Server


def test_a_second_server_on_one_data_directory_refuses_to_start(server: Server) -> None:
    server.start()
    job_id = server.submit(40)
    second = server.launch()
    assert second.wait(20) == 1
    assert "in use by another server" in server.output()
    server.wait_for(job_id, "succeeded")
    audit(server)


def test_two_hundred_equal_submissions_with_one_key_make_one_job(server: Server) -> None:
    server.start()
    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(lambda _: server.submit(20, key="the-same"), range(200)))
    assert len(ids) == 1 and len(server.rows("SELECT id FROM jobs")) == 1
    server.wait_for(ids.pop(), "succeeded")
    audit(server)


def test_one_key_for_two_different_submissions_is_refused(server: Server) -> None:
    server.start()
    server.submit(20, key="mine")
    body = {"preset": "digits_cnn", "overrides": {"training.steps": 21}}
    answer = server.request("POST", "/v1/jobs", json=body, headers={"Idempotency-Key": "mine"})
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    assert len(server.rows("SELECT id FROM jobs")) == 1


def test_a_full_disk_pauses_the_job_and_says_why(server: Server) -> None:
    server.environment["FAKE_WORKER_DISK_FULL_AT"] = "15"
    server.start()
    job_id = server.submit(40)
    job = server.wait_for(job_id, "paused", "failed")
    assert (job["state"], job["reason"]) == ("paused", "disk_full")
    audit(server)


def test_below_the_disk_reserve_no_job_is_accepted_and_running_ones_are_paused(server: Server) -> None:
    server.start()
    job_id = server.submit(5000)
    server.wait_for(job_id, "running", step=12)
    server.kill()
    server.environment["GAN_MHE_DISK_RESERVE_BYTES"] = str(2**60)
    server.start()
    job = server.wait_for(job_id, "paused")
    assert job["reason"] == "disk_full"
    answer = server.request("POST", "/v1/jobs", json={"preset": "digits_cnn"})
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
    assert server.request("GET", "/readyz").status_code == 503
    assert server.request("GET", "/healthz").status_code == 200
    audit(server)


@pytest.mark.parametrize("seconds", [1.5, pytest.param(20.0, marks=pytest.mark.soak)])
def test_writes_wait_while_another_process_locks_the_database(server: Server, seconds: float) -> None:
    server.start()
    server.submit(40)
    other = sqlite3.connect(server.data_dir / "service.sqlite3", isolation_level=None, timeout=30)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(seconds, lambda: None)
    release.start()
    with ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        waiting = [pool.submit(server.submit, 20, seed=seed) for seed in range(4)]
        release.join()
        other.execute("ROLLBACK")
        other.close()
        ids = [each.result() for each in waiting]
        assert time.monotonic() - began >= seconds
    for job_id in ids:
        server.wait_for(job_id, "succeeded")
    audit(server)


def test_a_diverged_run_fails_with_its_reason_and_its_values_are_shown(server: Server) -> None:
    server.environment["FAKE_WORKER_DIVERGE_AT"] = "17"
    server.start()
    job_id = server.submit(40)
    job = server.wait_for(job_id, "failed")
    assert job["reason"] == "diverged" and job["attempt"]["number"] == 1
    latest = server.request("GET", f"/v1/jobs/{job_id}/metrics").json()["data"]
    assert "NaN" in [metric["value"] for metric in latest if metric["name"] == "d_loss"]
    audit(server)


def test_a_run_out_of_memory_fails_without_a_retry(server: Server) -> None:
    server.environment["FAKE_WORKER_OOM_AT"] = "5"
    server.start()
    job = server.wait_for(server.submit(40), "failed")
    assert job["reason"] == "out_of_memory" and job["attempt"]["number"] == 1
    audit(server)


def test_a_job_that_exceeds_its_wall_time_is_saved_and_failed(server: Server) -> None:
    server.start()
    job_id = server.submit(5000, wall_seconds_limit=4.0)  # time for a worker to start on a busy machine
    job = server.wait_for(job_id, "failed")
    assert job["reason"] == "timeout"
    assert server.request("GET", f"/v1/jobs/{job_id}/checkpoints").json()["data"]
    audit(server)


def test_a_job_cancelled_while_queued_never_starts(server: Server) -> None:
    server.environment["GAN_MHE_CPU_SLOTS"] = "1"
    server.start()
    ids = [server.submit(4, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda job_id: server.act(job_id, "cancel", mode="now"), reversed(ids)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    for job_id, answer in zip(reversed(ids), answers, strict=True):
        job = server.wait_for(job_id, "succeeded", "cancelled")
        if answer.status_code == 200 and answer.json()["state"] == "cancelled":
            assert job["state"] == "cancelled" and "starting" not in server.states(job_id)
    server.wait_until(lambda: not server.processes())
    audit(server)


def test_jobs_outlast_a_machine_that_cannot_start_them_and_go_on_by_themselves(server: Server) -> None:
    server.start()
    jobs, aside = server.data_dir / "jobs", server.data_dir / "aside"
    first = server.submit(20)
    server.wait_for(first, "succeeded")
    jobs.rename(aside)
    jobs.write_text("in the way")
    ids = [server.submit(20, seed=seed) for seed in range(4)]

    def unready() -> bool:
        answer = server.request("GET", "/readyz")
        suspended = server.request("GET", "/v1/system").json()["machine"]["problem"]
        return answer.status_code == 503 and suspended is not None and "machine_failed" in server.output()

    server.wait_until(unready)
    assert {server.job(job_id)["state"] for job_id in ids} <= {"queued", "starting"}
    assert str(server.data_dir) not in server.request("GET", "/readyz").text
    jobs.unlink()
    aside.rename(jobs)
    for job_id in ids:
        job = server.wait_for(job_id, "succeeded", "failed")
        assert (job["state"], job["retry"]["used"]) == ("succeeded", {"infrastructure": 0, "program": 0})
    server.wait_until(lambda: server.request("GET", "/readyz").status_code == 200)
    audit(server)


def test_a_running_job_whose_files_cannot_be_written_goes_on_by_itself_without_a_retry(server: Server) -> None:
    server.start()
    job_id = server.submit(200)
    server.wait_for(job_id, "running", step=12)
    _, trainer = server.pids(job_id)
    jobs, aside = server.data_dir / "jobs", server.data_dir / "aside"
    jobs.rename(aside)
    jobs.write_text("in the way")
    server.wait_until(lambda: trainer not in server.processes())
    lease = json.loads((aside / job_id / "attempts" / "1" / "lease.json").read_text())["boottime"]
    server.wait_until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > lease + 1.5)  # its next renewal has failed
    jobs.unlink()
    aside.rename(jobs)
    job = server.wait_for(job_id, "succeeded", "failed")
    assert (job["state"], job["retry"]["used"]) == ("succeeded", {"infrastructure": 0, "program": 0})
    assert job["attempt"]["resumed_from_step"] >= 10
    audit(server)
