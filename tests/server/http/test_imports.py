"""Import of runs over HTTP."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gan_mhe.config.run_config import RunConfig
from gan_mhe.records.events import Event, Finished, Scalars, Started, encode
from server.queue import queue
from server.service import Service
from server.store import keys

EVENTS: tuple[Event, ...] = (Started(0, 20, False), Scalars(10, {"loss_d": 1.5}), Finished(20, "completed", ""))


def put(service: Service, name: str = "run-a", *, finished: bool = True) -> Path:
    """A run directory in the inbox."""
    run = service.settings.inbox / name
    run.mkdir(parents=True)
    config = RunConfig.model_validate({"variant": "mhe_sn", "seed": 3, "training": {"steps": 20}})
    (run / "config.json").write_text(json.dumps(config.document()))
    lines = [json.dumps({"seq": seq, "time": 1.0, **encode(event)}) for seq, event in enumerate(EVENTS, 1)]
    (run / "events.jsonl").write_text("\n".join(lines) + "\n")
    if finished:
        result = {"status": "completed", "step": 20, "final": None, "best": None, "real": None, "message": ""}
        result |= {"metric": "inception_score", "protocol": None, "fingerprint": None}
        (run / "result.json").write_text(json.dumps(result))
    return run


def problem(response: Any, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_the_inbox_is_listed_with_what_its_runs_are(client: TestClient, service: Service) -> None:
    put(service, "run-a")
    put(service, "run-b", finished=False)
    (service.settings.inbox / "junk").mkdir()
    listed = {entry["name"]: entry for entry in client.get("/v1/imports").json()["data"]}
    assert (listed["run-a"]["variant"], listed["run-a"]["seed"], listed["run-a"]["status"]) == (
        "mhe_sn",
        3,
        "completed",
    )
    assert listed["run-b"]["status"] == "unfinished"
    assert listed["junk"]["status"] is None and "config.json" in listed["junk"]["problem"]


def test_an_empty_inbox_is_an_empty_list(client: TestClient) -> None:
    assert client.get("/v1/imports").json()["data"] == []


def test_an_imported_run_is_a_job_with_its_history(client: TestClient, service: Service) -> None:
    run = put(service)
    response = client.post("/v1/imports", json={"name": "run-a", "labels": {"from": "laptop"}})
    assert response.status_code == 201, response.text
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["origin"], job["labels"]) == ("succeeded", "imported", {"from": "laptop"})
    assert (job["variant"], job["seed"]) == ("mhe_sn", 3)
    assert not run.exists()
    metrics = client.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]
    assert [(metric["name"], metric["value"]) for metric in metrics] == [("loss_d", 1.5)]
    assert client.get("/v1/imports").json()["data"] == []


def test_an_unfinished_run_is_a_paused_job(client: TestClient, service: Service) -> None:
    put(service, finished=False)
    assert client.post("/v1/imports", json={"name": "run-a"}).json()["state"] == "paused"


def test_an_import_repeated_with_one_key_is_done_once(client: TestClient, service: Service) -> None:
    put(service)
    headers = {"Idempotency-Key": "k"}
    first, again = (client.post("/v1/imports", json={"name": "run-a"}, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    problem(client.post("/v1/imports", json={"name": "run-a"}), 404, "not_found")


@pytest.mark.parametrize("name", ["../../etc", "/etc", "..", ".", "a/b", "a\\b", "%2e%2e", "", "x" * 101, "a\0b"])
def test_a_name_that_is_a_path_is_refused(client: TestClient, service: Service, name: str) -> None:
    put(service)
    problem(client.post("/v1/imports", json={"name": name}), 422, "invalid_request")


def test_a_directory_without_a_run_is_rejected(client: TestClient, service: Service) -> None:
    (service.settings.inbox / "junk").mkdir(parents=True)
    response = client.post("/v1/imports", json={"name": "junk"})
    problem(response, 422, "invalid_request")
    assert str(service.settings.data_dir) not in response.text


def test_only_administrators_can_import(client: TestClient, service: Service) -> None:
    put(service)
    scopes = sorted(set(keys.SCOPES) - {"admin"})
    token = keys.create(service.store, "n", "default", scopes)
    headers = {"Authorization": f"Bearer {token}"}
    problem(client.get("/v1/imports", headers=headers), 403, "forbidden")
    problem(client.post("/v1/imports", json={"name": "run-a"}, headers=headers), 403, "forbidden")


def test_an_imported_job_belongs_to_the_callers_project(client: TestClient, service: Service) -> None:
    put(service)
    token = keys.create(service.store, "n", "mine", ["admin"])
    job = client.post("/v1/imports", json={"name": "run-a"}, headers={"Authorization": f"Bearer {token}"}).json()
    row = service.store.read(lambda c: queue.get(c, job["id"]))
    assert row["project"] == "mine"
