"""Metrics over HTTP."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, update

from server.queue import queue
from server.service import Service
from server.store import metric_points, tables
from tests.support.looped import looped


def submit(service: Service, project: str = "default") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")
    return str(service.store.write(lambda c: queue.create(c, new))["id"])


def measure(service: Service, job_id: str, points: Mapping[int, Mapping[str, float]], attempt: int = 1) -> None:
    """Add points as the indexer would, and count the read journal lines."""

    def work(connection: Connection) -> None:
        metric_points.add(connection, queue.get(connection, job_id), attempt, list(points.items()))
        read = {"events_seq": tables.jobs.c.events_seq + len(points)}
        connection.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(read))

    service.store.write(work)


def history(client: TestClient, job_id: str, **params: Any) -> list[dict[str, Any]]:
    response = client.get(f"/v1/jobs/{job_id}/metrics/history", params=params)
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


def test_the_latest_values_include_minimum_maximum_and_best(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {10: {"loss_d": 2.0}, 20: {"loss_d": 1.0, "inception_score": 5.0}})
    measure(service, job, {30: {"loss_d": 1.5, "inception_score": 4.0}})
    body = client.get(f"/v1/jobs/{job}/metrics").json()
    assert body["job_id"] == job
    assert body["data"] == [
        {"name": "inception_score", "step": 30, "value": 4.0, "min": 4.0, "max": 5.0, "best": 5.0, "best_step": 20},
        {"name": "loss_d", "step": 30, "value": 1.5, "min": 1.0, "max": 2.0, "best": None, "best_step": None},
    ]


def test_non_finite_values_are_strings(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {1: {"a": math.nan, "b": math.inf, "c": -math.inf}})
    values = {metric["name"]: metric["value"] for metric in client.get(f"/v1/jobs/{job}/metrics").json()["data"]}
    assert values == {"a": "NaN", "b": "Infinity", "c": "-Infinity"}
    [series] = history(client, job, name="a", mode="raw")
    assert series["points"] == [{"step": 1, "attempt": 1, "value": "NaN"}]
    assert history(client, job, name="b")[0]["points"][0]["last"] == "Infinity"


def test_a_history_has_each_requested_metric_once_and_in_order(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {1: {"a": 1.0, "b": 2.0}})
    found = history(client, job, name=["b", "a", "b", "unheard_of"])
    assert [series["name"] for series in found] == ["b", "a", "unheard_of"]
    assert found[2]["points"] == []


def test_a_long_history_has_buckets_that_keep_extremes(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {step: {"loss": 100.0 if step == 333 else 1.0} for step in range(1000)})
    [series] = history(client, job, name="loss", max_points=10)
    assert len(series["points"]) <= 10
    assert series["bucket_steps"] >= 100
    assert series["total_points"] == 1000
    assert max(bucket["max"] for bucket in series["points"]) == 100.0


def test_a_history_can_be_limited_to_a_range_of_steps(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {step: {"loss": float(step)} for step in range(10)})
    [series] = history(client, job, name="loss", from_step=3, to_step=5)
    assert [point["step"] for point in series["points"]] == [3, 4, 5]


def test_raw_values_are_paged(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {step: {"loss": float(step)} for step in range(7)})
    found: list[int] = []
    params: dict[str, Any] = {"name": "loss", "mode": "raw", "max_points": 3}
    while True:
        [series] = history(client, job, **params)
        found += [point["step"] for point in series["points"]]
        if series["next_after"] is None:
            break
        params["after"] = series["next_after"]
    assert found == list(range(7))


def test_replaced_values_of_earlier_attempts_are_shown_on_request(client: TestClient, service: Service) -> None:
    job = submit(service)
    measure(service, job, {1: {"loss": 1.0}, 2: {"loss": 2.0}})
    service.store.write(lambda c: metric_points.supersede_after(c, queue.get(c, job), 1))
    measure(service, job, {2: {"loss": 20.0}}, attempt=2)
    [effective] = history(client, job, name="loss", mode="raw")
    assert [point["value"] for point in effective["points"]] == [1.0, 20.0]
    [everything] = history(client, job, name="loss", mode="raw", attempt="all")
    assert [(point["attempt"], point["value"]) for point in everything["points"]] == [(1, 1.0), (1, 2.0), (2, 20.0)]


@pytest.mark.parametrize("path", ["metrics", "metrics/history?name=loss"])
def test_the_etag_changes_with_new_values(client: TestClient, service: Service, path: str) -> None:
    job = submit(service)
    measure(service, job, {1: {"loss": 1.0}})
    first = client.get(f"/v1/jobs/{job}/{path}")
    assert first.headers["cache-control"] == "private, no-cache"
    known = {"If-None-Match": first.headers["etag"]}
    unchanged = client.get(f"/v1/jobs/{job}/{path}", headers=known)
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert unchanged.headers["etag"] == first.headers["etag"]
    measure(service, job, {2: {"loss": 1.0}})
    assert client.get(f"/v1/jobs/{job}/{path}", headers=known).status_code == 200


@looped(
    "query",
    [
        "",
        "name=a&max_points=0",
        "name=a&max_points=5001",
        "name=a&mode=lttb",
        "name=a&attempt=1",
        "name=a&from_step=-1",
        "name=a&from_step=5&to_step=4",
        "name=a&after=x",
        "&".join(f"name=n{n}" for n in range(51)),
    ],
)
def test_an_invalid_query_is_rejected(client: TestClient, service: Service, query: str) -> None:
    response = client.get(f"/v1/jobs/{submit(service)}/metrics/history?{query}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("path", ["metrics", "metrics/history?name=loss"])
def test_another_projects_metrics_do_not_exist(client: TestClient, service: Service, path: str) -> None:
    response = client.get(f"/v1/jobs/{submit(service, 'other')}/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
