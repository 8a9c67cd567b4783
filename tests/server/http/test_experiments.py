"""Experiments over HTTP: a matrix becomes jobs, all or none, seed by seed."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from server.ids import is_id
from server.queue import queue
from server.queue.states import State
from server.service import Service
from tests.support.looped import looped

MATRIX = {"variant": ["none", "mhe", "mhe_sn"], "seed": [0, 1]}


def create(client: TestClient, **fields: Any) -> Any:
    return client.post("/v1/experiments", json={"preset": "debug_cpu", "matrix": MATRIX} | fields)


def errors(response: Any) -> list[tuple[str, str]]:
    assert response.status_code == 422, response.text
    return [(error["pointer"], error["code"]) for error in response.json()["errors"]]


def test_a_matrix_becomes_one_job_per_cell_seed_by_seed(client: TestClient) -> None:
    response = create(client, name="table", labels={"paper": "mhe"}, priority=1)
    assert response.status_code == 201
    experiment = response.json()
    assert is_id(experiment["id"], "exp")
    assert response.headers["location"] == f"/v1/experiments/{experiment['id']}"
    cells = [(cell["variant"], cell["seed"], cell["state"], cell["terminal"]) for cell in experiment["cells"]]
    assert cells == [(variant, seed, "queued", False) for seed in (0, 1) for variant in ("none", "mhe", "mhe_sn")]
    assert (experiment["total"], experiment["counts"], experiment["terminal"]) == (6, {"queued": 6}, False)
    assert experiment["matrix"] == MATRIX
    assert experiment["base"] == {"preset": "debug_cpu", "overrides": {}}


def test_the_jobs_are_queued_in_the_order_of_the_cells(client: TestClient) -> None:
    experiment = create(client, matrix={"seed": [0, 1], "variant": ["none", "mhe"]}, name="n", labels={"a": "b"}).json()
    jobs = client.get(f"/v1/jobs?experiment_id={experiment['id']}&order=asc").json()["data"]
    assert [job["id"] for job in jobs] == [cell["job_id"] for cell in experiment["cells"]]
    assert [(job["seed"], job["variant"]) for job in jobs] == [(0, "none"), (0, "mhe"), (1, "none"), (1, "mhe")]
    assert [job["cell"] for job in jobs] == [{"seed": job["seed"], "variant": job["variant"]} for job in jobs]
    assert {(job["name"], job["labels"]["a"], job["experiment_id"]) for job in jobs} == {("n", "b", experiment["id"])}


def test_any_configuration_key_can_be_varied(client: TestClient) -> None:
    matrix = {"variant": ["mhe"], "constraints.mhe.lambda_hidden": [0, 1, 10], "seed": [0, 1]}
    experiment = create(client, matrix=matrix, overrides={"training.steps": 7}).json()
    keys = [(cell["seed"], cell["constraints.mhe.lambda_hidden"]) for cell in experiment["cells"]]
    assert keys == [(seed, strength) for seed in (0, 1) for strength in (0, 1, 10)]
    job = client.get(f"/v1/jobs/{experiment['cells'][2]['job_id']}").json()
    assert job["config"]["constraints"]["mhe"]["lambda_hidden"] == 10
    assert job["config"]["training"]["steps"] == 7


def test_a_whole_configuration_can_be_the_base(client: TestClient) -> None:
    config = client.post("/v1/jobs?dry_run=true", json={"preset": "debug_cpu"}).json()["config"]
    response = client.post("/v1/experiments", json={"config": config, "matrix": {"seed": [4, 5]}})
    assert [cell["seed"] for cell in response.json()["cells"]] == [4, 5]


@looped(
    ("fields", "expected"),
    [
        ({"matrix": {"variant": ["none", "mhe_sm"]}}, [("/matrix/variant", "unknown_variant")]),
        ({"matrix": {"training.stepz": [1]}}, [("/matrix/training.stepz", "unknown_key")]),
        ({"matrix": {"seed": [0, -1]}}, [("/matrix/seed", "greater_than_equal")]),
        ({"matrix": {"seed": [1, 0, 1]}}, [("/matrix/seed", "duplicate")]),
        ({"matrix": {"training.n_dis": [1, 1.0]}}, [("/matrix", "duplicate")]),
        ({"matrix": {"seed": []}}, [("/matrix/seed", "too_short")]),
        ({"matrix": {}}, [("/matrix", "too_short")]),
        ({"matrix": {"seed": 3}}, [("/matrix/seed", "list_type")]),
        ({"overrides": {"seed": 3}}, [("/matrix/seed", "ambiguous")]),
        ({"overrides": {"training.stepz": 3}}, [("/overrides/training.stepz", "unknown_key")]),
        ({"preset": "debug"}, [("/preset", "unknown_preset")]),
        ({"matrix": {"data.root": ["/etc"]}}, [("/matrix/data.root", "unknown_root")]),
        ({"matrix": {"training": [{"steps": 1}], "training.steps": [2]}}, [("/matrix/training", "ambiguous")]),
        ({"variant": "mhe"}, [("/variant", "extra_forbidden")]),
    ],
)
def test_one_invalid_cell_rejects_the_experiment(client: TestClient, fields: dict[str, Any], expected: Any) -> None:
    assert errors(create(client, **fields)) == expected
    assert client.get("/v1/experiments").json()["data"] == []
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_combination_that_contradicts_itself_is_named(client: TestClient) -> None:
    response = create(client, matrix={"evaluation.ema": [False, True]})
    assert errors(response) == [("/matrix/evaluation.ema", "value_error")]


def test_an_experiment_has_a_largest_size(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_matrix_cells": 5})
    assert errors(create(client)) == [("/matrix", "too_many_cells")]
    assert create(client, matrix={"seed": [0, 1, 2, 3, 4]}).status_code == 201


def test_a_huge_matrix_is_rejected_before_it_is_expanded(client: TestClient) -> None:
    matrix = {key: list(range(60)) for key in ("seed", "training.steps", "training.n_dis", "training.batch_size")}
    assert errors(create(client, matrix=matrix)) == [("/matrix", "too_many_cells")]


def test_an_experiment_needs_room_for_all_its_jobs(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_queued_jobs": 5})
    response = create(client)
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_repeated_key_makes_one_experiment(client: TestClient) -> None:
    first, second = (
        client.post("/v1/experiments", json={"preset": "debug_cpu", "matrix": MATRIX}, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    )
    assert second.headers["idempotency-replayed"] == "true"
    assert first.content == second.content
    assert len(client.get("/v1/jobs").json()["data"]) == 6


def test_a_dry_run_counts_the_jobs_sums_their_cost_and_creates_nothing(client: TestClient) -> None:
    body = {"preset": "debug_cpu", "matrix": {"seed": [0, 1], "training.steps": [10, 30]}}
    body["overrides"] = {"evaluation.protocol": "digits-v1", "evaluation.num_samples": 100}
    response = client.post("/v1/experiments?dry_run=true", json=body)
    assert response.status_code == 200
    document = response.json()
    assert (document["object"], document["total"]) == ("dry_run", 4)
    note = document["estimate"].pop("note")
    assert document["estimate"] == {"steps": 80, "images": 80 * 8, "scored_images": 400}
    assert note.startswith("4 jobs with 80 generator steps on 640 real images in all, and 400 images to score")
    assert client.get("/v1/experiments").json()["data"] == client.get("/v1/jobs").json()["data"] == []


def test_a_dry_run_points_to_the_same_errors_as_a_submission(client: TestClient) -> None:
    wrong = {"preset": "debug_cpu", "matrix": {"training.steps": [1, 0]}, "overrides": {"a": 1}}
    asked, submitted = (client.post(f"/v1/experiments{query}", json=wrong) for query in ("?dry_run=true", ""))
    assert errors(asked) == errors(submitted) == [("/overrides/a", "unknown_key")]


def test_a_dry_run_is_refused_if_the_jobs_would_have_no_room(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_queued_jobs": 5})
    response = client.post("/v1/experiments?dry_run=true", json={"preset": "debug_cpu", "matrix": MATRIX})
    assert (response.status_code, response.json()["code"]) == (429, "queue_full")
    few = {"preset": "debug_cpu", "matrix": {"seed": [0]}}
    assert client.post("/v1/experiments?dry_run=true", json=few).status_code == 200


def test_a_dry_run_uses_up_no_idempotency_key(client: TestClient) -> None:
    body, headers = {"preset": "debug_cpu", "matrix": MATRIX}, {"Idempotency-Key": "k"}
    asked = [client.post("/v1/experiments?dry_run=true", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in asked] == [200, 200]
    submitted = client.post("/v1/experiments", json=body, headers=headers)
    assert (submitted.status_code, "idempotency-replayed" in submitted.headers) == (201, False)
    assert client.post("/v1/experiments?dry_run=true", json=body, headers=headers).status_code == 200


def test_cells_follow_their_jobs(client: TestClient, service: Service) -> None:
    experiment = create(client).json()
    for cell, state in zip(experiment["cells"], (State.FAILED, State.CANCELLED), strict=False):
        service.store.write(lambda c, cell=cell, to=state: queue.move(c, queue.get(c, cell["job_id"]), to))
    shown = client.get(f"/v1/experiments/{experiment['id']}").json()
    assert shown["counts"] == {"failed": 1, "cancelled": 1, "queued": 4}
    assert [cell["state"] for cell in shown["cells"]][:3] == ["failed", "cancelled", "queued"]
    assert shown["cells"][0]["terminal"] is True


def test_cancelling_an_experiment_cancels_what_has_not_ended(client: TestClient, service: Service) -> None:
    experiment = create(client).json()
    failed = experiment["cells"][0]["job_id"]
    service.store.write(lambda c: queue.move(c, queue.get(c, failed), State.FAILED))
    response = client.post(f"/v1/experiments/{experiment['id']}/cancel")
    assert response.status_code == 200
    assert response.json()["counts"] == {"failed": 1, "cancelled": 5}
    assert response.json()["terminal"] is True
    assert client.post(f"/v1/experiments/{experiment['id']}/cancel").status_code == 200


def test_a_deleted_job_leaves_the_experiment(client: TestClient) -> None:
    experiment = create(client).json()
    gone = experiment["cells"][0]["job_id"]
    client.post(f"/v1/jobs/{gone}/cancel")
    assert client.delete(f"/v1/jobs/{gone}").status_code == 204
    shown = client.get(f"/v1/experiments/{experiment['id']}").json()
    assert (shown["total"], gone in [cell["job_id"] for cell in shown["cells"]]) == (5, False)


def test_experiments_are_listed_by_pages(client: TestClient) -> None:
    made = [create(client, matrix={"seed": [number]}).json()["id"] for number in range(3)]
    first = client.get("/v1/experiments?limit=2").json()
    second = client.get(f"/v1/experiments?limit=2&cursor={first['next_cursor']}").json()
    assert [experiment["id"] for experiment in first["data"] + second["data"]] == made[::-1]
    assert first["data"][0]["counts"] == {"queued": 1}
    assert "cells" not in first["data"][0]
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)


def test_a_cursor_of_jobs_is_none_of_experiments(client: TestClient) -> None:
    create(client)
    cursor = client.get("/v1/jobs?limit=1").json()["next_cursor"]
    assert errors(client.get(f"/v1/experiments?cursor={cursor}")) == [("/query/cursor", "unknown_cursor")]


@pytest.mark.parametrize("path", ["", "/cancel"])
def test_an_unknown_experiment_is_not_found(client: TestClient, path: str) -> None:
    response = client.request("POST" if path else "GET", f"/v1/experiments/exp_none{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_hundreds_of_cells_are_queued_and_cancelled_together(client: TestClient) -> None:
    experiment = create(client, matrix={"seed": list(range(300))}).json()
    assert experiment["counts"] == {"queued": 300}
    assert client.post(f"/v1/experiments/{experiment['id']}/cancel").json()["counts"] == {"cancelled": 300}
