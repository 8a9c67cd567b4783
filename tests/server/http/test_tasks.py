"""Sampling from checkpoints and scoring them, over HTTP."""

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, update

from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from server.clock import now_ms
from server.ids import is_id, new_id
from server.queue import admission, queue
from server.queue.states import State
from server.service import Service
from server.settings import Settings
from server.store import keys, tables
from tests.support.looped import looped

RESULT = {"sha256": "a" * 64, "size_bytes": 10, "media_type": "image/png", "device": "cpu"}


def checkpoint(
    service: Service,
    step: int = 20,
    *,
    config: dict[str, Any] | None = None,
    status: str = "available",
    project: str = "default",
) -> str:
    """Create a job with a checkpoint; return the checkpoint's id."""
    made = RunConfig.model_validate(merge({"variant": "mhe_sn"}, config or {}))
    checkpoint_id = new_id("ckpt")

    def work(connection: Connection) -> str:
        job = queue.create(connection, admission.new_job(made, project))
        row = {"id": checkpoint_id, "job_id": job["id"], "step": step, "attempt": 1, "sha256": "c" * 64, "path": "x"}
        row |= {"size_bytes": 1, "status": status, "created_at": now_ms()}
        connection.execute(tables.checkpoints.insert().values(row))
        return checkpoint_id

    return service.store.write(work)


def finish(service: Service, task_id: str, result: dict[str, Any] | None = None) -> None:
    """End the task as the scheduler would."""

    def work(connection: Connection) -> None:
        task = queue.move(connection, queue.get(connection, task_id), State.STARTING)
        queue.move(connection, task, State.SUCCEEDED, result=result or RESULT)

    service.store.write(work)


def draw(client: TestClient, checkpoint_id: str, **body: Any) -> Any:
    return client.post(f"/v1/checkpoints/{checkpoint_id}/samples", json=body)


def score(client: TestClient, checkpoint_id: str, **body: Any) -> Any:
    return client.post(f"/v1/checkpoints/{checkpoint_id}/scores", json=body)


def problem(response: Any, status: int, code: str) -> list[dict[str, Any]]:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    errors: list[dict[str, Any]] = response.json()["errors"]
    return errors


# Sampling.


def test_a_task_with_a_result_that_cannot_be_read_is_shown_without_it(client: TestClient, service: Service) -> None:
    task = draw(client, checkpoint(service)).json()["id"]
    finish(service, task, {"sha256": 5, "size_bytes": "many"})
    response = client.get(f"/v1/tasks/{task}")
    assert (response.status_code, response.json()["result"]) == (200, None)


def test_sampling_creates_a_task(client: TestClient, service: Service) -> None:
    source = checkpoint(service)
    response = draw(client, source, n=16, seed=7, truncation=1.5, format="npz")
    assert response.status_code == 202
    task = response.json()
    assert is_id(task["id"], "task")
    assert response.headers["location"] == f"/v1/tasks/{task['id']}"
    assert (task["kind"], task["state"], task["terminal"], task["result"]) == ("sample", "queued", False, None)
    assert task["checkpoint_id"] == source
    assert task["request"] == {
        "checkpoint_sha256": "c" * 64,
        "step": 20,
        "n": 16,
        "seed": 7,
        "truncation": 1.5,
        "interpolation": 0,
        "ema": False,
        "format": "npz",
    }
    assert client.get(response.headers["location"]).json() == task


def test_a_finished_sampling_task_links_to_its_file(client: TestClient, service: Service) -> None:
    task = draw(client, checkpoint(service)).json()["id"]
    finish(service, task)
    found = client.get(f"/v1/tasks/{task}").json()
    assert (found["state"], found["terminal"]) == ("succeeded", True)
    assert found["result"]["url"] == f"/v1/blobs/{'a' * 64}"
    assert {name: found["result"][name] for name in RESULT} == RESULT


def test_the_same_sampling_request_is_executed_once(client: TestClient, service: Service) -> None:
    source = checkpoint(service)
    first = draw(client, source, seed=7).json()["id"]
    finish(service, first)
    again = draw(client, source, seed=7)
    assert (again.status_code, again.json()["id"], again.json()["terminal"]) == (200, first, True)
    assert draw(client, source, seed=8).json()["id"] != first
    assert draw(client, checkpoint(service), seed=7).json()["id"] != first


def test_a_replaced_checkpoint_is_sampled_again(client: TestClient, service: Service) -> None:
    source = checkpoint(service)
    first = draw(client, source).json()["id"]
    finish(service, first)
    rows = tables.checkpoints
    service.store.write(lambda c: c.execute(update(rows).where(rows.c.id == source).values(sha256="d" * 64)))
    assert draw(client, source).json()["id"] != first


@pytest.mark.parametrize("state", [State.QUEUED, State.CANCELLED, State.FAILED])
def test_a_failed_sampling_task_is_repeated(client: TestClient, service: Service, state: State) -> None:
    source = checkpoint(service)
    first = draw(client, source).json()["id"]
    if state is not State.QUEUED:
        service.store.write(lambda c: queue.move(c, queue.get(c, first), state))
    response = draw(client, source)
    assert (response.status_code, response.json()["id"] != first) == (202, True)


def test_an_idempotency_key_gives_one_task(client: TestClient, service: Service) -> None:
    url, headers = f"/v1/checkpoints/{checkpoint(service)}/samples", {"Idempotency-Key": "k"}
    first, again = (client.post(url, json={}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    problem(client.post(url, json={"seed": 1}, headers=headers), 422, "idempotency_key_reused")


@looped(
    ("body", "pointer"),
    [
        ({"n": 0}, "/n"),
        ({"n": 1025}, "/n"),
        ({"n": 1025, "format": "webp"}, "/n"),
        ({"n": 50_001, "format": "npz"}, "/n"),
        ({"n": 50_000, "format": "npz", "interpolation": 2}, "/interpolation"),
        ({"format": "npz", "columns": 2}, "/columns"),
        ({"format": "zip", "padding": 0}, "/padding"),
        ({"columns": 0}, "/columns"),
        ({"columns": 2, "interpolation": 3}, "/columns"),
        ({"scale": 17}, "/scale"),
        ({"scale": 1.5}, "/scale"),
        ({"padding": 65}, "/padding"),
        ({"n": 1024, "scale": 16}, "/scale"),
        ({"n": 1024, "columns": 1, "format": "webp"}, "/format"),
        ({"n": "4"}, "/n"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**53}, "/seed"),
        ({"truncation": 0}, "/truncation"),
        ({"interpolation": 65}, "/interpolation"),
        ({"interpolation": 1}, "/interpolation"),
        ({"n": 1024, "interpolation": 64}, "/interpolation"),
        ({"format": "gif"}, "/format"),
        ({"ema": True}, "/ema"),
        ({"path": "/etc/passwd"}, "/path"),
    ],
)
def test_an_invalid_sampling_request_is_rejected_with_a_pointer(
    client: TestClient, service: Service, body: dict[str, Any], pointer: str
) -> None:
    [error] = problem(draw(client, checkpoint(service), **body), 422, "invalid_request")
    assert error["pointer"] == pointer


def test_too_many_images_for_a_grid_are_refused_with_the_formats_that_have_them(
    client: TestClient, service: Service
) -> None:
    [error] = problem(draw(client, checkpoint(service), n=1025), 422, "invalid_request")
    assert error["message"] == "n: expected at most 1024 with format png, got 1025; format npz or zip has up to 50000"


@pytest.mark.parametrize("format", ["zip", "npz"])
def test_fifty_thousand_images_can_be_asked_for(client: TestClient, service: Service, format: str) -> None:
    assert draw(client, checkpoint(service), n=50_000, format=format).status_code == 202


def test_the_layout_of_a_grid_is_a_parameter_only_if_it_is_said(client: TestClient, service: Service) -> None:
    source = checkpoint(service)
    said = draw(client, source, n=4, format="webp", columns=2, padding=0).json()["request"]
    assert (said["columns"], said["padding"]) == (2, 0)
    assert "scale" not in said
    silent = draw(client, source, n=4).json()["request"]
    assert silent.keys().isdisjoint({"columns", "scale", "padding"})


def test_images_that_may_not_fit_on_the_disk_are_refused_with_the_sizes(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, size = checkpoint(service), 50_000 * (3 * 32 * 32 + 512)
    usage = shutil._ntuple_diskusage
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * size, size + 1, size - 1))
    response = draw(client, source, n=50_000, format="npz")
    problem(response, 507, "insufficient_storage")
    assert "the images may need 171 MiB, 171 MiB of disk are free" in response.json()["detail"]
    assert draw(client, source, n=40_000, format="npz").status_code == 202


def test_the_moving_average_is_sampled_if_there_is_one(client: TestClient, service: Service) -> None:
    source = checkpoint(service, config={"generator": {"ema_halflife_steps": 100}})
    assert draw(client, source, ema=True).status_code == 202


@pytest.mark.parametrize("act", [draw, score])
@pytest.mark.parametrize("status", ["pruned", "rejected"])
def test_a_deleted_checkpoint_is_not_sampled_or_scored(
    client: TestClient, service: Service, act: Any, status: str
) -> None:
    problem(act(client, checkpoint(service, status=status)), 409, "not_ready")


@pytest.mark.parametrize("act", [draw, score])
def test_another_projects_checkpoint_does_not_exist(client: TestClient, service: Service, act: Any) -> None:
    problem(act(client, checkpoint(service, project="other")), 404, "not_found")


@pytest.mark.parametrize("act", [draw, score])
def test_tasks_count_toward_the_queue_limit(client: TestClient, service: Service, act: Any) -> None:
    source = checkpoint(service)  # whose job waits too
    for seed in range(3):
        draw(client, source, seed=seed)
    problem(act(client, source), 429, "queue_full")


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """A short queue, and one offered weight file."""
    weights = {"inception": tmp_path / "weights.pth"}
    weights["inception"].touch()
    return settings.model_copy(update={"max_queued_jobs": 4, "weights": weights})


# Scoring.


def test_scoring_uses_the_jobs_own_protocol(client: TestClient, service: Service) -> None:
    source = checkpoint(service, config={"evaluation": {"protocol": "digits-v1", "num_samples": 500}})
    response = score(client, source)
    assert response.status_code == 202
    task = response.json()
    assert task["kind"] == "score"
    evaluation = task["request"]["evaluation"]
    assert (evaluation["protocol"], evaluation["num_samples"]) == ("digits-v1", 500)


def test_another_protocol_uses_its_own_number_of_samples(client: TestClient, service: Service) -> None:
    source = checkpoint(service, config={"evaluation": {"protocol": "digits-v1", "num_samples": 500}})
    body = {"protocol": "inception-2015", "weights": "inception"}
    evaluation = score(client, source, **body).json()["request"]["evaluation"]
    assert (evaluation["protocol"], evaluation["num_samples"]) == ("inception-2015", None)
    assert evaluation["weights"] == "inception"


def test_a_finished_scoring_task_shows_scores_and_protocol(client: TestClient, service: Service) -> None:
    task = score(client, checkpoint(service)).json()["id"]
    scores = {"inception_score": 7.5, "fid": "NaN"}
    fingerprints = {"inception_score": "f", "fid": "e"}
    finish(service, task, {"step": 20, "protocol": "digits-v1", "fingerprints": fingerprints, "scores": scores})
    result = client.get(f"/v1/tasks/{task}").json()["result"]
    assert (result["scores"], result["protocol"]) == (scores, "digits-v1")
    assert (result["fingerprints"], result["fingerprint"]) == (fingerprints, "f")
    assert result["url"] is None


def test_a_score_of_an_older_version_has_one_fingerprint_for_all(client: TestClient, service: Service) -> None:
    task = score(client, checkpoint(service)).json()["id"]
    scores = {"inception_score": 7.5, "fid": "NaN"}
    finish(service, task, {"step": 20, "protocol": "digits-v1", "fingerprint": "f", "scores": scores, "real": None})
    result = client.get(f"/v1/tasks/{task}").json()["result"]
    assert (result["fingerprint"], result["fingerprints"]) == ("f", {"inception_score": "f", "fid": "f"})


@looped(
    ("body", "pointer"),
    [
        ({"protocol": "beauty"}, "/protocol"),
        ({"protocol": "none"}, "/protocol"),
        ({"protocol": "classifier:../x"}, "/protocol"),
        ({"num_samples": 3}, "/num_samples"),
        ({"num_samples": 0}, "/num_samples"),
        ({"weights": "/etc/passwd"}, "/weights"),
        ({"protocol": "inception-2015"}, "/weights"),
        ({"download": True}, "/download"),
    ],
)
def test_an_invalid_scoring_request_is_rejected_with_a_pointer(
    client: TestClient, service: Service, body: dict[str, Any], pointer: str
) -> None:
    errors = problem(score(client, checkpoint(service), **body), 422, "invalid_request")
    assert pointer in [error["pointer"] for error in errors]


def test_a_missing_moving_average_is_not_scored(client: TestClient, service: Service) -> None:
    problem(score(client, checkpoint(service), ema=True), 422, "invalid_request")


def test_a_job_without_protocol_is_scored_under_a_named_one_only(client: TestClient, service: Service) -> None:
    source = checkpoint(service, config={"evaluation": {"protocol": "none"}})
    [error] = problem(score(client, source), 422, "invalid_request")
    assert error["pointer"] == "/protocol"
    assert score(client, source, protocol="digits-v1").status_code == 202


# Waiting.


def in_the_background(work: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    return thread


def test_a_client_that_waits_gets_the_finished_task(client: TestClient, service: Service) -> None:
    source = checkpoint(service)

    def finish_soon() -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            rows = service.store.read(lambda c: c.execute(tables.jobs.select()).mappings().all())
            waiting = [row["id"] for row in rows if row["kind"] == "sample"]
            if waiting:
                time.sleep(0.05)
                finish(service, waiting[0])
                return
            time.sleep(0.005)

    worker = in_the_background(finish_soon)
    begun = time.monotonic()
    response = client.post(f"/v1/checkpoints/{source}/samples", json={}, headers={"Prefer": "wait=50"})
    worker.join()
    assert time.monotonic() - begun < 40
    assert (response.status_code, response.json()["state"]) == (200, "succeeded")
    assert response.headers["preference-applied"] == "wait=50"
    assert response.headers["location"] == f"/v1/tasks/{response.json()['id']}"


def test_a_client_that_waits_too_briefly_gets_the_current_task(client: TestClient, service: Service) -> None:
    begun = time.monotonic()
    url = f"/v1/checkpoints/{checkpoint(service)}/scores"
    response = client.post(url, json={}, headers={"Prefer": "respond-async, wait=1"})
    assert 1 <= time.monotonic() - begun < 40
    assert (response.status_code, response.json()["state"]) == (202, "queued")


def test_a_client_whose_key_is_revoked_while_it_waits_gets_no_result(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(service)
    token = keys.create(service.store, "test", "default", ["jobs:write"])

    async def revoke_and_finish(task_id: str, _seconds: float) -> None:
        keys.revoke(service.store, token.split("_")[1])
        finish(service, task_id)

    monkeypatch.setattr(service.broker, "wait_until_ended", revoke_and_finish)
    headers = {"Prefer": "wait=50", "Authorization": f"Bearer {token}"}
    response = client.post(f"/v1/checkpoints/{source}/samples", json={}, headers=headers)
    problem(response, 401, "unauthenticated")


async def never(*_arguments: Any) -> None:
    raise AssertionError("nobody asked to wait")


@pytest.mark.parametrize("prefer", ["respond-async", "wait=", "wait=x", "await=30"])
def test_a_client_that_does_not_wait_gets_the_current_task(
    client: TestClient, service: Service, prefer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.broker, "wait_until_ended", never)
    url = f"/v1/checkpoints/{checkpoint(service)}/samples"
    assert client.post(url, json={}, headers={"Prefer": prefer}).status_code == 202


def test_a_finished_sampling_task_is_returned_without_waiting(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = checkpoint(service)
    finish(service, draw(client, source).json()["id"])
    monkeypatch.setattr(service.broker, "wait_until_ended", never)
    response = client.post(f"/v1/checkpoints/{source}/samples", json={}, headers={"Prefer": "wait=30"})
    assert response.status_code == 200


# Tasks.


def test_a_waiting_task_is_cancelled_at_once(client: TestClient, service: Service) -> None:
    task = draw(client, checkpoint(service)).json()["id"]
    response = client.post(f"/v1/tasks/{task}/cancel")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    problem(client.post(f"/v1/tasks/{task}/cancel"), 409, "invalid_transition")


def test_a_training_job_is_not_a_task(client: TestClient, service: Service) -> None:
    job = client.get(f"/v1/checkpoints/{checkpoint(service)}").json()["job_id"]
    problem(client.get(f"/v1/tasks/{job}"), 404, "not_found")
    problem(client.post(f"/v1/tasks/{job}/cancel"), 404, "not_found")


def test_another_projects_task_does_not_exist(client: TestClient, service: Service) -> None:
    request = {"job_id": "job_x", "checkpoint_id": "ckpt_x"}
    new = queue.NewJob(project="other", request=request, request_sha256="0", kind="sample")
    task = service.store.write(lambda c: queue.create(c, new))["id"]
    problem(client.get(f"/v1/tasks/{task}"), 404, "not_found")
    problem(client.post(f"/v1/tasks/{task}/cancel"), 404, "not_found")
