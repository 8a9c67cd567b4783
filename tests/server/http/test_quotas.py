"""Limits of single keys: the priority of their jobs, how many wait, and how many streams are open."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.queue import queue
from server.queue.states import State
from server.service import Service
from server.store import keys
from server.store.keys import KeyLimits
from tests.server.http.test_jobs import add_checkpoint, move, problem

JOB = {"preset": "debug_cpu"}


def headers(service: Service, **limits: int) -> dict[str, str]:
    token = keys.create(service.store, "test", "default", ["jobs:read", "jobs:write"], KeyLimits(**limits))
    return {"Authorization": f"Bearer {token}"}


def submit(client: TestClient, key: dict[str, str], **fields: Any) -> str:
    response = client.post("/v1/jobs", json=JOB | fields, headers=key)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def priorities(service: Service) -> list[int]:
    with service.store._readers.connect() as connection:
        return [row.priority for row in connection.exec_driver_sql("SELECT priority FROM jobs ORDER BY seq")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", JOB),
        ("/v1/jobs?dry_run=true", JOB),
        ("/v1/experiments", JOB | {"matrix": {"seed": [0, 1]}}),
        ("/v1/experiments?dry_run=true", JOB | {"matrix": {"seed": [0, 1]}}),
    ],
)
def test_a_priority_above_the_keys_limit_is_refused(
    client: TestClient, service: Service, path: str, body: dict[str, Any]
) -> None:
    key = headers(service, max_priority=2)
    [field] = problem(client.post(path, json=body | {"priority": 3}, headers=key), 422, "invalid_request")["errors"]
    assert (field["pointer"], field["code"]) == ("/priority", "above_limit")
    assert "expected at most 2" in field["message"] and "got 3" in field["message"]
    assert priorities(service) == []
    assert client.post(path, json=body | {"priority": 2}, headers=key).status_code in (200, 201)


def test_a_change_to_a_priority_above_the_keys_limit_is_refused(client: TestClient, service: Service) -> None:
    job = f"/v1/jobs/{submit(client, headers(service), priority=5)}"
    key = headers(service, max_priority=2)
    problem(client.patch(job, json={"priority": 3}, headers=key), 422, "invalid_request")
    assert priorities(service) == [5]
    assert client.patch(job, json={"name": "renamed"}, headers=key).status_code == 200
    assert client.patch(job, json={"priority": 2}, headers=key).json()["priority"] == 2


def test_a_fork_has_no_higher_priority_than_its_callers_limit(client: TestClient, service: Service) -> None:
    job = submit(client, headers(service), priority=5)
    add_checkpoint(service, job, 10)
    key = headers(service, max_priority=-1)
    response = client.post(f"/v1/jobs/{job}/fork", json={"overrides": {"training.steps": 500}}, headers=key)
    assert response.status_code == 201, response.text
    assert response.json()["priority"] == -1


def test_keys_without_a_limit_have_the_operators(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_priority": 0})
    problem(client.post("/v1/jobs", json=JOB | {"priority": 1}), 422, "invalid_request")
    assert submit(client, headers(service, max_priority=4), priority=4)


def test_a_key_adds_no_job_when_as_many_wait_as_it_may_have(client: TestClient, service: Service) -> None:
    key = headers(service, max_queued_jobs=1)
    experiment = JOB | {"matrix": {"seed": [0, 1]}}
    refused = client.post("/v1/experiments", json=experiment, headers=key)
    assert "expected at most 1" in problem(refused, 429, "queue_full")["detail"]
    job = submit(client, key)
    problem(client.post("/v1/jobs", json=JOB, headers=key), 429, "queue_full")
    add_checkpoint(service, job, 10)
    problem(client.post(f"/v1/jobs/{job}/fork", json={}, headers=key), 429, "queue_full")
    assert submit(client, headers(service))


def test_a_job_that_left_the_queue_returns_only_if_there_is_room(client: TestClient, service: Service) -> None:
    key = headers(service, max_queued_jobs=1)
    paused, failed = submit(client, headers(service)), submit(client, headers(service))
    move(service, paused, State.PAUSED)
    move(service, failed, State.FAILED)
    submit(client, key)
    problem(client.post(f"/v1/jobs/{paused}/resume", headers=key), 429, "queue_full")
    problem(client.post(f"/v1/jobs/{failed}/retry", headers=key), 429, "queue_full")
    batch = client.post("/v1/jobs:batch", json={"action": "resume", "ids": [paused]}, headers=key).json()["data"]
    assert batch[0]["problem"]["code"] == "queue_full"
    states = [service.store.read(lambda c, job=job: queue.get(c, job)["state"]) for job in (paused, failed)]
    assert states == ["paused", "failed"]


def test_a_key_opens_no_more_streams_than_it_may(client: TestClient, service: Service) -> None:
    key = headers(service, max_streams=1)
    job = submit(client, key)
    prefix = key["Authorization"].split("_")[1]

    async def occupied() -> Any:
        await service.broker.open([job], "job_seq", after=None, owner=prefix, limit=9)

    assert client.portal is not None
    client.portal.call(occupied)
    refused = problem(client.get(f"/v1/jobs/{job}/stream", headers=key), 429, "too_many_streams")
    assert "at most 1 open streams" in refused["detail"]


def test_the_service_shows_each_key_its_own_limits(client: TestClient, service: Service) -> None:
    key = headers(service, max_priority=3, max_queued_jobs=5, max_streams=7)
    shown = client.get("/v1/system", headers=key).json()["limits"]
    assert (shown["max_priority"], shown["max_queued_jobs"], shown["max_streams_per_key"]) == (3, 5, 7)
