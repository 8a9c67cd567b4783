"""Typical mistakes in requests and starts: one clear response each, and nothing changes."""

import asyncio
import json
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from anyio.from_thread import BlockingPortal
from fastapi.testclient import TestClient
from sqlalchemy import Connection, select

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import sha256_bytes
from server import startup
from server.app import ROUTERS
from server.clock import now_ms
from server.ids import new_id
from server.queue import admission, claims, experiments, queue
from server.queue.admission import Operator, Source
from server.queue.states import State
from server.service import Service
from server.settings import Settings
from server.store import artifacts, tables
from server.store.store import Store
from tests.support.app import make_client
from tests.support.forked import Piped, fork_piped
from tests.support.looped import looped

JSON = {"Content-Type": "application/json"}
BLOB = b"0123456789" * 100
DEADLINE_SECONDS = 30
Names = Mapping[str, str]


# One service for all tests, since none of them may change what it has.


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that schedules nothing, without GPUs, data folders or weight files."""
    data_dir = tmp_path_factory.mktemp("service") / "data"
    opened = startup.open_service(
        Settings(data_dir=data_dir, cpu_slots=2, cuda_slots_per_device=0, disk_reserve_bytes=0)
    )
    yield opened
    opened.stop()


@pytest.fixture(scope="module")
def client(service: Service, portal: BlockingPortal) -> TestClient:
    """The service's API in this process, without its lifespan."""
    return make_client(service, portal)


@pytest.fixture(scope="module")
def names(service: Service) -> Names:
    """Ids of existing resources by kind; `their_`: those of another project."""
    executor = service.executor
    operator = Operator(service.settings, executor)

    def populate(connection: Connection) -> Names:
        running = make(connection)
        [(claimed, _, _)] = claims.claim(connection, executor.inventory()[:1], executor.name)
        queue.move(connection, claimed, State.RUNNING)
        ended = {state.value: make(connection, state) for state in (State.FAILED, State.CANCELLED)}
        mine = make(connection, State.SUCCEEDED, result=scored("a" * 64))
        other = make(connection, State.SUCCEEDED, result=scored("b" * 64))
        theirs = make(connection, State.SUCCEEDED, project="theirs")
        return {
            **{"running": running, "queued": make(connection), "scored": mine, "scored_otherwise": other, **ended},
            **leave_artifacts(connection, operator, "default", mine),
            **{"their_job": theirs},
            **{f"their_{k}": v for k, v in leave_artifacts(connection, operator, "theirs", theirs).items()},
        }

    return service.store.write(populate)


def make(connection: Connection, state: State = State.QUEUED, project: str = "default", **facts: Any) -> str:
    config = RunConfig.model_validate({"variant": "mhe", "data": {"name": "synthetic"}})
    return str(queue.create(connection, admission.new_job(config, project), state, **facts)["id"])


def scored(fingerprint: str) -> dict[str, Any]:
    final = {"step": 20, "scores": {"inception_score": 7.0, "fid": 1.0, "kid": 1.0, "precision": 0.5, "recall": 0.5}}
    result = {"status": "completed", "metric": "inception_score", "protocol": "digits-v1", "fingerprint": fingerprint}
    return {**result, "final": final, "best": None, "evaluations": 1, "real": {"inception_score": 9.7}}


def leave_artifacts(connection: Connection, operator: Operator, project: str, job_id: str) -> Names:
    """A checkpoint, a finished task, an experiment and a file, by their kinds."""
    content = BLOB + project.encode()
    sha256, checkpoint_id = sha256_bytes(content), new_id("ckpt")
    directory = operator.settings.job_dir(job_id)
    directory.mkdir(parents=True)
    (directory / "images.zip").write_bytes(content)
    artifacts.add_blob(connection, job_id, sha256, "images.zip", "application/zip", len(content))
    common = {"job_id": job_id, "step": 10, "attempt": 1, "path": "x", "size_bytes": 1, "created_at": now_ms()}
    checkpoint = {**common, "id": checkpoint_id, "sha256": "c" * 64, "status": "available"}
    connection.execute(tables.checkpoints.insert().values(checkpoint))
    connection.execute(tables.samples.insert().values({**common, "sha256": "d" * 64, "width": 8, "height": 8}))
    request = {"job_id": job_id, "checkpoint_id": checkpoint_id, "step": 10}
    new = queue.NewJob(project=project, kind="sample", request=request, request_sha256="0")
    plan = experiments.plan(operator, Source(preset="debug_cpu"), {"seed": [0]})
    experiment = experiments.create(connection, experiments.prepare(plan, project, name=None, labels={}))
    task = queue.create(connection, new, State.SUCCEEDED)
    return {"checkpoint": checkpoint_id, "task": task["id"], "experiment": experiment["id"], "blob": sha256}


def everything(service: Service) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""

    def work(connection: Connection) -> dict[str, list[tuple[Any, ...]]]:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in tables.metadata.sorted_tables
        }

    return service.store.read(work)


def check_problem(response: Any, status: int, code: str, pointers: Sequence[str] = ()) -> dict[str, Any]:
    """The complete problem document, which contains no path of the server."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem.keys() == {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"}
    assert (problem["code"], problem["status"]) == (code, status)
    assert [error["pointer"] for error in problem["errors"]] == list(pointers)
    if pointers:
        assert problem["detail"] == "; ".join(error["message"] for error in problem["errors"])
    assert problem["request_id"] == response.headers["x-request-id"]
    for betrayal in (os.sep + "tmp", os.getcwd(), "site-packages", "Traceback", ".py", "sqlite"):
        assert betrayal not in response.text
    return problem


def refused(
    client: TestClient,
    service: Service,
    request: str,
    sent: Any,
    status: int,
    code: str,
    *pointers: str,
    expected: Any = (),
) -> None:
    """Check that the response is this problem with these words, and that nothing changes. request: `GET /path`."""
    method, path = request.split(" ", 1)
    before = everything(service)
    response = client.request(method, path, **sent)
    detail = check_problem(response, status, code, pointers)["detail"]
    for text in [expected] if isinstance(expected, str) else expected:
        assert text in detail
    assert everything(service) == before


# Submitting.


@looped(
    ("fields", "pointer", "expected"),
    [
        ({"varaint": "mhe"}, "/varaint", ("varaint", "unknown field", "did you mean 'variant'?")),
        ({"step": 20}, "/step", ("step: unknown field", "expected one of")),
        ({"preset": "debug_cp"}, "/preset", ("unknown preset 'debug_cp'", "did you mean 'debug_cpu'?")),
        ({"variant": "mhe_sm"}, "/variant", ("unknown variant 'mhe_sm'", "did you mean 'mhe_sn'?")),
        ({"variant": 7}, "/variant", ("variant", "string", "7")),
        ({"seed": "3"}, "/seed", ("seed", "integer", "'3'")),
        ({"seed": -1}, "/seed", ("seed", "greater than or equal to 0", "-1")),
        ({"seed": 2**63}, "/seed", ("seed", str(2**63))),
        ({"seed": True}, "/seed", ("seed", "integer", "True")),
        ({"priority": 11}, "/priority", ("priority", "10", "11")),
        ({"name": ""}, "/name", ("name", "at least 1", "''")),
        ({"name": "n" * 201}, "/name", ("name", "at most 200", "nnn")),
        ({"labels": {f"k{i}": "" for i in range(65)}}, "/labels", ("labels", "at most 64")),
        ({"labels": {"a b": ""}}, "/labels/a b/[key]", ("labels", "a-z0-9", "'a b'")),
        ({"labels": {"<script>": ""}}, "/labels/<script>/[key]", ("labels", "'<script>'")),
        ({"labels": {"a\n": ""}}, "/labels/a\n/[key]", ("labels", "'a\\n'")),
        ({"labels": {"a": 1}}, "/labels/a", ("labels.a", "string", "1")),
        ({"wall_seconds_limit": 0}, "/wall_seconds_limit", ("wall_seconds_limit", "greater than 0", "0")),
        ({"start_deadline": "soon"}, "/start_deadline", ("start_deadline", "'soon'")),
        (
            {"start_deadline": "2020-01-01T00:00:00Z"},
            "/start_deadline",
            ("start_deadline", "in the future", "2020-01-01"),
        ),
        ({"start_deadline": "2099-01-01T00:00:00"}, "/start_deadline", ("start_deadline", "timezone")),
        ({"start_deadline": "0001-01-01T00:00:00+14:00"}, "/start_deadline", ("start_deadline", "years 1 and 9999")),
        ({"start_deadline": "9999-12-31T23:59:59-14:00"}, "/start_deadline", ("start_deadline", "years 1 and 9999")),
        ({"config": {}}, "", ("expected either preset or config", "got both")),
        ({"preset": None}, "", ("expected either preset or config", "got neither")),
        ({"overrides": {f"k{i}": 1 for i in range(201)}}, "/overrides", ("overrides", "at most 200")),
        ({"preset": None, "config": {"data": [0] * 3000}}, "/config", ("config", "at most 2000 values", "3002")),
    ],
)
def test_an_invalid_field_is_reported_with_its_pointer_and_both_values(
    client: TestClient, service: Service, fields: dict[str, Any], pointer: str, expected: tuple[str, ...]
) -> None:
    sent = {"json": {"preset": "debug_cpu"} | fields}
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", pointer, expected=expected)


@looped(
    ("overrides", "key", "expected"),
    [
        ({"training.stepz": 20}, "training.stepz", ("training.stepz: unknown key", "did you mean 'steps'?")),
        ({"trainning.steps": 20}, "trainning.steps", ("trainning: unknown key", "did you mean 'training'?")),
        ({"training": {"stepz": 20}}, "training", ("training.stepz", "did you mean 'steps'?")),
        ({"": 1}, "", ("unknown key", "expected one of")),
        ({"training.steps": -20}, "training.steps", ("training.steps", "greater than or equal to 1", "-20")),
        ({"training.steps": 0}, "training.steps", ("training.steps", "greater than or equal to 1", "0")),
        ({"training.steps": 1.5}, "training.steps", ("training.steps", "integer", "1.5")),
        ({"training.steps": "many"}, "training.steps", ("training.steps", "integer", "'many'")),
        ({"training.steps": None}, "training.steps", ("training.steps", "integer", "None")),
        ({"training.steps": {"a": 1}}, "training.steps", ("training.steps", "integer", "{'a': 1}")),
        ({"training.steps": "20"}, "training.steps", ("training.steps", "a number", "'20'")),
        ({"training.steps": True}, "training.steps", ("training.steps", "a number", "True")),
        ({"seed": "3"}, "seed", ("seed", "a number", "'3'")),
        ({"data.flip": "no"}, "data.flip", ("data.flip", "true or false", "'no'")),
        ({"data": {"flip": 1}}, "data", ("data.flip", "true or false", "1")),
        ({"training": 20}, "training", ("training", "20")),
        ({"training": {}, "training.steps": 3}, "training", ("training", "also set by 'training.steps'")),
        ({"data.name": "cifar11"}, "data.name", ("data.name", "'cifar10'", "cifar11")),
        ({"data.name": "cifar10"}, "data.name", ("no folder for 'cifar10'", "it offers digits, synthetic")),
        ({"data.name": "image_folder"}, "data.root", ("data.root is missing", "image_folder")),
        ({"data.name": "image_folder", "data.root": "cats"}, "data.root", ("data.root", "'cats'", "offers none")),
        ({"data.name": "cifar10", "data.download": True}, "data.download", ("data.download", "does not allow")),
        ({"data.root": "/srv/data"}, "data.root", ("data.root: unknown name '/srv/data'", "offers none")),
        ({"evaluation.weights": "/srv/w.pt"}, "evaluation.weights", ("evaluation.weights", "'/srv/w.pt'")),
        ({"evaluation.download": True}, "evaluation.download", ("evaluation.download", "does not allow")),
        ({"evaluation.protocol": "digit-v1"}, "evaluation.protocol", ("'digit-v1'", "digits-v1")),
        ({"evaluation.num_samples": 5}, "evaluation.num_samples", ("evaluation.num_samples", "at least 100", "5")),
        ({"training.device": "cuda"}, "training.device", ("training.device", "'cuda'", "trains on cpu")),
        ({"training.device": "cuda:7"}, "training.device", ("training.device", "auto, cpu, cuda", "'cuda:7'")),
        ({"training.device": "tpu"}, "training.device", ("training.device", "cuda", "'tpu'")),
        ({"training.steps." + "a." * 80 + "b": 1}, None, ("training.steps", "integer")),
        ({"a" * 201: 1}, None, ("overrides", "at most 200 characters")),
    ],
)
def test_a_wrong_override_is_answered_with_its_key(
    client: TestClient, service: Service, overrides: dict[str, Any], key: str | None, expected: tuple[str, ...]
) -> None:
    overrides = {"evaluation.protocol": "digits-v1"} | overrides if "evaluation.num_samples" in overrides else overrides
    if key is None:
        [key] = overrides
    suffix = "/[key]" if len(key) > 200 else ""
    sent = {"json": {"preset": "debug_cpu", "overrides": overrides}}
    refused(
        client, service, "POST /v1/jobs", sent, 422, "invalid_request", f"/overrides/{key}{suffix}", expected=expected
    )


def test_a_wrong_key_of_a_whole_configuration_is_found_in_it(client: TestClient, service: Service) -> None:
    sent = {"json": {"config": {"variant": "mhe", "training": {"stepz": 20}}}}
    expected = "training.stepz: unknown key; did you mean 'steps'?"
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", "/config/training/stepz", expected=expected)


def test_two_mistakes_are_both_reported(client: TestClient, service: Service) -> None:
    sent = {"json": {"preset": "debug_cpu", "seed": "3", "priorty": 1}}
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", "/seed", "/priorty", expected="'priority'?")


def test_a_thousand_mistakes_are_reported_briefly(client: TestClient, service: Service) -> None:
    sent = {"json": {f"k{i}": 1 for i in range(1000)} | {"preset": "debug_cpu"}}
    response = client.post("/v1/jobs", **sent)
    pointers = [error["pointer"] for error in response.json()["errors"]]
    assert (response.status_code, len(pointers)) == (422, 20)
    assert response.json()["detail"].endswith("; and 980 more")


@looped("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@looped(
    ("body", "pointer"),
    [
        ('{"preset": "debug_cpu", "overrides": {"optimizer.beta1": %s}}', "/overrides/optimizer.beta1"),
        ('{"preset": "debug_cpu", "wall_seconds_limit": %s}', "/wall_seconds_limit"),
        ('{"config": {"optimizer": {"beta1": %s}}}', "/config/optimizer"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(
    client: TestClient, service: Service, number: str, body: str, pointer: str
) -> None:
    sent = {"content": body % number, "headers": JSON}
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", pointer, expected="finite number")


# Experiments.


@looped(
    ("body", "pointer", "expected"),
    [
        ({"matrix": {"seed": list(range(100)), "training.steps": list(range(1, 101))}}, "/matrix", ("1000", "10000")),
        ({"matrix": {"seed": [1] * 2000}}, "/matrix", ("at most 1000 cells", "2000")),
        ({"matrix": {"seed": [1, 2, 1]}}, "/matrix/seed", ("matrix.seed", "each value once", "got 1 again")),
        ({"matrix": {"seed": [1, 1.0]}}, "/matrix", ("matrix", "the same configuration")),
        ({"matrix": {"sed": [1]}}, "/matrix/sed", ("sed: unknown key", "did you mean 'seed'?")),
        ({"matrix": {"variant": ["mhe", "mhee"]}}, "/matrix/variant", ("'mhee'", "did you mean 'mhe'?")),
        ({"matrix": {"seed": []}}, "/matrix/seed", ("matrix.seed", "at least 1", "0")),
        ({"matrix": {"seed": 1}}, "/matrix/seed", ("matrix.seed", "list", "1")),
        ({"matrix": {}}, "/matrix", ("matrix", "at least 1", "0")),
        ({}, "/matrix", ("matrix", "required")),
        ({"matrix": {"seed": [1]}, "overrides": {"seed": 1}}, "/matrix/seed", ("matrix.seed", "overrides")),
        ({"matrix": {"seed": [1]}, "varaint": "mhe"}, "/varaint", ("varaint: unknown field", "expected one of")),
        ({"matrix": {"data.root": ["/etc"]}}, "/matrix/data.root", ("data.root", "'/etc'")),
        ({"matrix": {"training.steps": [5, -5]}}, "/matrix/training.steps", ("training.steps", "-5")),
    ],
)
def test_an_invalid_matrix_is_rejected_as_a_whole(
    client: TestClient, service: Service, body: dict[str, Any], pointer: str, expected: tuple[str, ...]
) -> None:
    sent = {"json": {"preset": "debug_cpu"} | body}
    refused(client, service, "POST /v1/experiments", sent, 422, "invalid_request", pointer, expected=expected)


def test_a_matrix_key_that_is_not_valid_text_is_rejected(client: TestClient, service: Service) -> None:
    sent = {"content": b'{"preset": "debug_cpu", "matrix": {"\\ud800": [1]}}', "headers": JSON}
    response = client.post("/v1/experiments", **sent)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


# What is there and what is not.

KINDS = {
    "GET /v1/jobs/{}": "job",
    "PATCH /v1/jobs/{}": "job",
    "DELETE /v1/jobs/{}": "job",
    "POST /v1/jobs/{}/cancel": "job",
    "POST /v1/jobs/{}/fork": "job",
    "GET /v1/jobs/{}/events": "job",
    "GET /v1/jobs/{}/stream": "job",
    "GET /v1/jobs/{}/metrics": "job",
    "GET /v1/jobs/{}/logs": "job",
    "GET /v1/jobs/{}/samples": "job",
    "GET /v1/jobs/{}/samples/10": "job",
    "GET /v1/jobs/{}/samples/animation": "job",
    "GET /v1/jobs/{}/checkpoints": "job",
    "GET /v1/compare?job={}": "job",
    "GET /v1/stream?job={}": "job",
    "GET /v1/compare?experiment={}": "experiment",
    "GET /v1/experiments/{}": "experiment",
    "POST /v1/experiments/{}/cancel": "experiment",
    "GET /v1/checkpoints/{}": "checkpoint",
    "GET /v1/checkpoints/{}/content": "checkpoint",
    "POST /v1/checkpoints/{}/samples": "checkpoint",
    "POST /v1/checkpoints/{}/scores": "checkpoint",
    "GET /v1/tasks/{}": "task",
    "POST /v1/tasks/{}/cancel": "task",
    "GET /v1/blobs/{}": "blob",
}


@looped("request_", KINDS)
def test_another_projects_resource_looks_like_a_missing_one(
    client: TestClient, service: Service, names: Names, request_: str
) -> None:
    kind = KINDS[request_]
    theirs = names[f"their_{kind}"]
    unknown = "0" * 64 if kind == "blob" else new_id({"checkpoint": "ckpt", "experiment": "exp"}.get(kind, kind))
    method, path = request_.split(" ")
    sent = {} if method in ("GET", "DELETE") else {"json": {}}
    answers = []
    for one in (theirs, unknown):
        refused(client, service, request_.format(one), sent, 404, "not_found", expected=one)
        answer = client.request(method, path.format(one), **sent)
        answers.append({**answer.json(), "request_id": ""})
    assert json.loads(json.dumps(answers[0]).replace(theirs, unknown)) == answers[1]


@looped(
    ("request_", "sent", "status", "code", "expected"),
    [
        ("POST /v1/jobs/{cancelled}/cancel", {}, 409, "invalid_transition", "is cancelled"),
        ("POST /v1/jobs/{scored}/cancel", {}, 409, "invalid_transition", "is succeeded"),
        ("POST /v1/jobs/{scored}/pause", {}, 409, "invalid_transition", "is succeeded"),
        ("DELETE /v1/jobs/{running}", {}, 409, "invalid_transition", "is running; only a job that has ended"),
        ("DELETE /v1/jobs/{queued}", {}, 409, "invalid_transition", "is queued; only a job that has ended"),
        ("POST /v1/jobs/{running}/resume", {}, 409, "invalid_transition", "is running; only a paused job"),
        ("POST /v1/jobs/{scored}/retry", {}, 409, "invalid_transition", "is succeeded; only a failed job"),
        ("POST /v1/jobs/{queued}/fork", {"json": {}}, 409, "not_ready", "no checkpoint"),
        ("POST /v1/jobs/{scored}/fork", {"json": {"step": 11}}, 404, "not_found", "no such checkpoint"),
        ("POST /v1/tasks/{task}/cancel", {}, 409, "invalid_transition", "is succeeded"),
        ("GET /v1/tasks/{scored}", {}, 404, "not_found", "{scored}"),
        ("GET /v1/jobs/{task}", {}, 404, "not_found", "{task}"),
        ("GET /v1/jobs/{queued}/samples/latest", {}, 409, "not_ready", "no sample grid yet"),
        ("GET /v1/jobs/{queued}/samples/animation", {}, 409, "not_ready", "no sample grids yet"),
        ("GET /v1/jobs/{queued}/samples/7", {}, 404, "not_found", "no sample grid of step 7"),
        ("GET /v1/compare?job={queued}", {}, 409, "not_ready", "none of the 1 jobs has a final score"),
        ("GET /v1/compare?job={scored}&job={scored_otherwise}", {}, 422, "protocol_mismatch", "protocol"),
        ("GET /v1/compare?job={scored}&metric=beauty", {}, 422, "config_invalid", "unknown metric 'beauty'"),
        ("GET /v1/compare?job={scored}&reference=mhes", {}, 422, "config_invalid", "did you mean 'mhe'?"),
        ("GET /v1/presets/debug_cp", {}, 404, "not_found", "debug_cp"),
        ("POST /v1/imports", {"json": {"name": "nothing"}}, 404, "not_found", "'nothing'"),
        (
            *("PATCH /v1/jobs/{queued}", {"json": {"name": "n"}, "headers": {"If-Match": '"7"'}}),
            *(412, "revision_mismatch", ("{queued}", "revision 1", "7")),
        ),
        (
            *("PATCH /v1/jobs/{queued}", {"json": {"name": "n"}, "headers": {"If-Match": "seven"}}),
            *(412, "revision_mismatch", ("If-Match", "ETag", "'seven'")),
        ),
    ],
)
def test_a_request_that_the_current_state_does_not_allow_is_rejected(
    client: TestClient, service: Service, names: Names, request_: str, sent: Any, status: int, code: str, expected: Any
) -> None:
    expected = [text.format(**names) for text in ([expected] if isinstance(expected, str) else expected)]
    refused(client, service, request_.format(**names), sent, status, code, expected=expected)


def test_cancelling_twice_is_a_conflict(client: TestClient, service: Service) -> None:
    job_id = client.post("/v1/jobs", json={"preset": "debug_cpu"}).json()["id"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    refused(client, service, f"POST /v1/jobs/{job_id}/cancel", {}, 409, "invalid_transition", expected="is cancelled")


# Parameters, headers, and bodies of other requests.


@looped(
    ("request_", "sent", "pointer", "expected"),
    [
        ("GET /v1/jobs?limit=0", {}, "/query/limit", ("limit", "greater than or equal to 1", "'0'")),
        ("GET /v1/jobs?limit=201", {}, "/query/limit", ("limit", "less than or equal to 200", "'201'")),
        ("GET /v1/jobs?limit=ten", {}, "/query/limit", ("limit", "integer", "'ten'")),
        ("GET /v1/jobs?cursor=abc", {}, "/query/cursor", ("cursor", "next_cursor", "'abc'")),
        ("GET /v1/jobs?order=up", {}, "/query/order", ("order", "'asc' or 'desc'", "'up'")),
        ("GET /v1/jobs?state=done", {}, "/query/state/0", ("state", "'succeeded'", "'done'")),
        ("GET /v1/jobs?label=paper", {}, "/query/label", ("label", "key:value", "paper")),
        ("GET /v1/jobs?created_after=yesterday", {}, "/query/created_after", ("created_after", "'yesterday'")),
        ("GET /v1/jobs?created_after=2026", {}, "/query/created_after", ("RFC 3339", "'2026'")),
        ("GET /v1/experiments?cursor=abc", {}, "/query/cursor", ("cursor", "next_cursor")),
        ("GET /v1/compare", {}, "/query/job", ("expected job or experiment", "neither")),
        ("GET /v1/compare?job={scored}&format=xml", {}, "/query/format", ("format", "'csv'", "'xml'")),
        ("GET /v1/compare?job={task}", {}, "/query/job", ("{task}", "a task")),
        ("GET /v1/stream", {}, "/query/job", ("expected job or experiment", "neither")),
        ("GET /v1/jobs/{queued}/events?limit=0", {}, "/query/limit", ("limit", "'0'")),
        ("GET /v1/jobs/{queued}/events?after=-1", {}, "/query/after", ("after", "'-1'")),
        ("GET /v1/jobs/{queued}/logs?limit=1", {}, "/query/limit", ("limit", "'1'")),
        ("GET /v1/jobs/{queued}/metrics/history", {}, "/query/name", ("name", "required")),
        ("GET /v1/jobs/{queued}/metrics/history?name=a&mode=lttb", {}, "/query/mode", ("mode", "'minmax' or 'raw'")),
        ("GET /v1/jobs/{queued}/metrics/history?name=a&max_points=0", {}, "/query/max_points", ("max_points", "'0'")),
        (
            *("GET /v1/jobs/{queued}/metrics/history?name=a&from_step=9&to_step=3", {}, "/query/to_step"),
            ("to_step", "at least from_step (9)", "3"),
        ),
        ("GET /v1/jobs/{scored}/samples/10/thumbnail?width=65", {}, "/query/width", ("width", "64, 128", "'65'")),
        ("GET /v1/jobs/{scored}/samples/ten", {}, "/path/step", ("step", "integer", "'ten'")),
        ("GET /v1/jobs/{scored}/samples/animation?fps=0", {}, "/query/fps", ("fps", "equal to 1", "'0'")),
        ("GET /v1/jobs/{scored}/samples/animation?format=mp4", {}, "/query/format", ("format", "'gif'", "'mp4'")),
        ("GET /v1/blobs/abc", {}, "/path/sha256", ("sha256", "'abc'")),
        *(
            ("GET /v1/jobs/{queued}/stream", {"headers": {"Last-Event-ID": last}}, "/header/last-event-id", (last[:9],))
            for last in ("x", "-1", "1.5", "9" * 30)
        ),
        *(
            (
                *("POST /v1/jobs", {"json": {"preset": "debug_cpu"}, "headers": {"Idempotency-Key": key}}),
                *("/header/Idempotency-Key", ("Idempotency-Key", expected)),
            )
            for key, expected in [("two words", "'two words'"), ("k" * 256, "at most 255"), (b"\xff", "pattern")]
        ),
        *(
            ("POST /v1/checkpoints/{checkpoint}/samples", {"json": body}, pointer, expected)
            for body, pointer, expected in [
                ({"n": 0}, "/n", ("n:", "greater than or equal to 1", "0")),
                ({"n": 10**9}, "/n", ("n:", "less than or equal to 50000", str(10**9))),
                ({"n": "4"}, "/n", ("n:", "integer", "'4'")),
                ({"truncation": 0}, "/truncation", ("truncation", "greater than 0", "0")),
                ({"truncation": -1}, "/truncation", ("truncation", "-1")),
                ({"seed": -1}, "/seed", ("seed", "-1")),
                ({"interpolation": 1}, "/interpolation", ("interpolation", "2 or more")),
                ({"n": 1024, "interpolation": 64}, "/interpolation", ("65536", "8192")),
                ({"ema": True}, "/ema", ("ema", "moving average", "expected false")),
                ({"format": "gif"}, "/format", ("format", "'png'", "'gif'")),
                ({"seeds": 1}, "/seeds", ("seeds: unknown field", "did you mean 'seed'?")),
            ]
        ),
        ("POST /v1/checkpoints/{checkpoint}/scores", {"json": {"protocol": "x"}}, "/protocol", ("'x'", "digits-v1")),
        (
            "POST /v1/checkpoints/{checkpoint}/scores",
            {"json": {"num_samples": 0}},
            "/num_samples",
            ("num_samples", "0"),
        ),
        ("POST /v1/checkpoints/{checkpoint}/scores", {"json": {"weights": "/w"}}, "/weights", ("weights", "'/w'")),
        ("POST /v1/jobs/{scored}/fork", {"json": {"steps": 1}}, "/steps", ("unknown field", "did you mean 'step'?")),
        ("POST /v1/jobs/{queued}/cancel", {"json": {"mode": "kill"}}, "/mode", ("'graceful' or 'now'", "'kill'")),
        ("POST /v1/jobs/{queued}/cancel", {"json": {"mod": "now"}}, "/mod", ("mod: unknown field", "'mode'?")),
        ("PATCH /v1/jobs/{queued}", {"json": {"nam": "x"}}, "/nam", ("nam: unknown field", "did you mean 'name'?")),
        ("PATCH /v1/jobs/{queued}", {"json": {"state": "failed"}}, "/state", ("state: unknown field",)),
        ("PATCH /v1/jobs/{queued}", {"json": {"priority": None}}, "/priority", ("priority", "integer", "None")),
        ("POST /v1/jobs:batch", {"json": {"action": "kill", "ids": ["x"]}}, "/action", ("'cancel'", "'kill'")),
        ("POST /v1/jobs:batch", {"json": {"action": "cancel", "ids": []}}, "/ids", ("ids", "at least 1")),
        ("POST /v1/jobs:batch", {"json": {"action": "cancel", "ids": ["x"] * 501}}, "/ids", ("ids", "at most 500")),
        ("POST /v1/imports", {"json": {"name": "../x"}}, "/name", ("name", "letters, digits", "'../x'")),
    ],
)
def test_a_wrong_parameter_is_named(
    client: TestClient,
    service: Service,
    names: Names,
    request_: str,
    sent: Any,
    pointer: str,
    expected: tuple[str, ...],
) -> None:
    expected = [text.format(**names) for text in expected]
    refused(client, service, request_.format(**names), sent, 422, "invalid_request", pointer, expected=expected)


def test_a_cursor_of_another_list_is_refused(client: TestClient, service: Service, names: Names) -> None:
    cursor = client.get("/v1/jobs?limit=1").json()["next_cursor"]
    for other in ("jobs?order=asc&", "jobs?state=queued&", "experiments?"):
        request = f"GET /v1/{other}cursor={cursor}"
        refused(
            client, service, request, {}, 422, "invalid_request", "/query/cursor", expected=("the same list", cursor)
        )


def test_an_idempotency_key_with_another_body_is_refused(client: TestClient, service: Service) -> None:
    headers = {"Idempotency-Key": "once"}
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=headers).status_code == 201
    sent = {"json": {"preset": "debug_cpu", "seed": 1}, "headers": headers}
    refused(client, service, "POST /v1/jobs", sent, 422, "idempotency_key_reused", expected="'once'")


# Routes.


@looped(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/jobs/x", "DELETE, GET, HEAD, PATCH"),
        ("GET", "/v1/jobs/x/cancel", "POST"),
        ("GET", "/v1/jobs:batch", "POST"),
        ("POST", "/v1/compare", "GET, HEAD"),
        ("PATCH", "/v1/blobs/x", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
        ("TRACE", "/v1/experiments", "GET, HEAD, POST"),
    ],
)
def test_a_wrong_method_is_answered_with_the_allowed_ones(
    client: TestClient, service: Service, method: str, path: str, allowed: str
) -> None:
    refused(client, service, f"{method} {path}", {}, 405, "method_not_allowed", expected=(allowed, method))
    assert client.request(method, path).headers["allow"] == allowed


@looped("path", ["/v1", "/v2/jobs", "/v1/job", "/v1/jobs/", "/v1/jobs/x/y", "/admin", "/.env"])
def test_an_unknown_route_is_not_found(client: TestClient, service: Service, path: str) -> None:
    refused(client, service, f"GET {path}", {}, 404, "not_found")


# Bodies.


@looped(
    ("body", "expected"),
    [
        (b"{", "at character 1"),
        (b'{"preset": debug_cpu}', "at character 11"),
        (b"{'preset': 'debug_cpu'}", "at character 1"),
        (b"preset = 'debug_cpu'", "at character 0"),
        (b"", "required"),
        (b"null", "expected a JSON object, got None"),
        (b'["debug_cpu"]', "expected a JSON object, got ['debug_cpu']"),
        (b'"debug_cpu"', "expected a JSON object, got 'debug_cpu'"),
        (b"[" * 500 + b"]" * 500, "expected a JSON object"),
    ],
)
def test_a_body_that_is_not_an_object_is_rejected(
    client: TestClient, service: Service, body: bytes, expected: str
) -> None:
    sent = {"content": body, "headers": JSON}
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", "", expected=("body", expected))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"preset": "\xff"}', "UTF-8"),
        (b"[" * 100_000 + b"]" * 100_000, "nested less deeply"),
        (b'{"preset": "debug_cpu", "seed": ' + b"9" * 5000 + b"}", "shorter numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unreadable_body_is_rejected_with_the_reason(
    client: TestClient, service: Service, body: bytes, expected: str
) -> None:
    sent = {"content": body, "headers": JSON}
    refused(client, service, "POST /v1/jobs", sent, 400, "bad_request", "", expected=("body", expected))


@pytest.mark.parametrize("depth", [8, 50, 400])
def test_a_value_nested_too_deeply_is_refused(client: TestClient, service: Service, depth: int) -> None:
    for field in ("config", "overrides", "matrix"):
        body = b'{"%s":' % field.encode() + b'{"a":[' * depth + b"1" + b"]}" * depth + b"}"
        before = everything(service)
        response = client.post("/v1/experiments", content=body, headers=JSON)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert "at most 12 levels of nesting" in response.json()["detail"]
        assert everything(service) == before


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_body_with_another_content_type_is_rejected(client: TestClient, service: Service, given: str | None) -> None:
    sent = {"content": b'{"preset": "debug_cpu"}', "headers": {} if given is None else {"Content-Type": given}}
    expected = ("expected Content-Type: application/json", given or "none")
    refused(client, service, "POST /v1/jobs", sent, 422, "invalid_request", "", expected=expected)


def ten_megabytes() -> Iterator[bytes]:
    yield b'{"preset": "debug_cpu", "name": "'
    for _ in range(160):
        yield b"n" * 65536
    yield b'"}'


@pytest.mark.parametrize("body", [b" " * 10_000_000, ten_megabytes], ids=["with its length", "in chunks"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/experiments", "/v1/imports"])
def test_a_body_of_ten_megabytes_is_refused(client: TestClient, service: Service, body: Any, path: str) -> None:
    sent = {"content": body if isinstance(body, bytes) else body(), "headers": JSON}
    refused(client, service, f"POST {path}", sent, 413, "body_too_large", expected=str(service.settings.max_body_bytes))


def test_eight_thousand_ranges_are_ignored(client: TestClient, service: Service, names: Names) -> None:
    ranges = "bytes=" + ",".join(f"{start}-{start}" for start in range(8000))
    response = client.get(f"/v1/blobs/{names['blob']}", headers={"Range": ranges})
    assert (response.status_code, response.content) == (200, BLOB + b"default")
    request = f"GET /v1/blobs/{names['blob']}"
    refused(
        client, service, request, {"headers": {"Range": "bytes=5000-"}}, 416, "range_not_satisfiable", expected="1007"
    )


# Places on the server.

PLACE = "canary"
CANARY = "the canary must not be seen"
SPELLINGS = [
    *(f"../{PLACE}", f"../../{PLACE}", f"../../../{PLACE}", f"./{PLACE}", PLACE, f"/{PLACE}", f"//{PLACE}"),
    *(f"%2e%2e/{PLACE}", f"%2e%2e%2f{PLACE}", f"..%2f{PLACE}", f"..%2f..%2f{PLACE}", f".%2e/{PLACE}", f"%2f{PLACE}"),
    *(f"%252e%252e%252f{PLACE}", f"..%252f{PLACE}", f"..%255c{PLACE}", f"..%c0%af{PLACE}", f"..%ef%bc%8f{PLACE}"),
    *(f"..\\{PLACE}", f"..%5c{PLACE}", f"....//{PLACE}", f"..;/{PLACE}", f"..%3b/{PLACE}", f"..%00/{PLACE}"),
    *(f"{PLACE}%00", f"{PLACE}%00.png", f"{PLACE}%23", f"{PLACE}%3f", f"~/{PLACE}", f"$HOME/{PLACE}", f"C:\\{PLACE}"),
    *(
        f"file:{PLACE}",
        f"file:///{PLACE}",
        f"http://localhost/{PLACE}",
        f"\\\\localhost\\{PLACE}",
        f"{PLACE}/",
        f"{PLACE}/.",
    ),
    *("..", ".", "...", "%2e%2e", "%2e", f"jobs/../{PLACE}", f"|cat {PLACE}", f"`cat {PLACE}`", f"{{{{{PLACE}}}}}"),
]
GETS = [path for router in ROUTERS for route in router.routes if "GET" in route.methods for path in [route.path]]

# Opened canaries, while a test collects them. The audit hook stays installed: Python cannot remove one.
_opened: list[str] | None = None


def _note_canaries(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.fsdecode(arguments[0])
        if os.path.basename(path) == PLACE:
            _opened.append(path)


@pytest.fixture(scope="session")
def audit() -> None:
    """Pass every file that this process opens to `_note_canaries`."""
    sys.addaudithook(_note_canaries)


@pytest.fixture
def opened(audit: None, service: Service) -> Iterator[list[str]]:
    """Canary files wherever a path could lead, and the list of those that were opened."""
    global _opened
    data_dir = service.settings.data_dir
    for directory in (
        data_dir.parent,
        data_dir,
        data_dir / "jobs",
        service.settings.inbox,
        service.settings.image_cache,
    ):
        directory.mkdir(exist_ok=True)
        (directory / PLACE).write_text(CANARY)
    _opened = []
    yield _opened
    _opened = None


def test_an_opened_canary_is_recorded(opened: list[str], service: Service) -> None:
    (service.settings.inbox / PLACE).read_bytes()
    assert opened == [str(service.settings.inbox / PLACE)]


def ask(app: Any, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str, str]:
    """Status, content type and text of a response to an unmodified target, which no client normalizes."""
    path, _, query = target.partition("?")
    scope = {"type": "http", "http_version": "1.1", "method": method, "scheme": "http", "client": ("127.0.0.1", 1)}
    scope |= {"path": unquote(path), "raw_path": path.encode(), "query_string": query.encode(), "root_path": ""}
    sent = {"host": "localhost", "content-length": str(len(body)), **headers}
    scope |= {"headers": [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]}
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(app({**scope, "server": ("localhost", 80)}, receive, send))
    content_type = dict(messages[0]["headers"]).get(b"content-type", b"").decode()
    text = b"".join(message.get("body", b"") for message in messages[1:]).decode(errors="replace")
    return messages[0]["status"], content_type, text


def check_harmless(service: Service, spelling: str, answer: tuple[int, str, str]) -> None:
    """Check that the response contains neither the canary nor a path that the request did not contain."""
    status, content_type, text = answer
    assert status in (200, 201, 404, 405, 409, 412, 422), (spelling, answer)
    assert CANARY not in text
    for given in (spelling, unquote(spelling)):
        text = text.replace(json.dumps(given)[1:-1], "")
    assert str(service.settings.data_dir.parent) not in text
    assert (content_type == "application/problem+json") is (status >= 400)


@looped("template", [path for path in GETS if "{" in path])
def test_no_spelling_of_a_path_in_place_of_an_id_leads_to_a_file(
    client: TestClient, service: Service, names: Names, opened: list[str], template: str
) -> None:
    known = {"job_id": names["scored"], "experiment_id": names["experiment"], "checkpoint_id": names["checkpoint"]}
    known |= {"task_id": names["task"], "sha256": names["blob"], "step": "10", "name": "debug_cpu"}
    absolute = quote(str(service.settings.data_dir / PLACE), safe="")
    for position in (name for name in known if f"{{{name}}}" in template):
        for spelling in (*SPELLINGS, absolute):
            target = template.format(**{**known, position: spelling})
            check_harmless(service, spelling, ask(client.app, "GET", target, {}, b""))
    assert opened == []


BASE = {"preset": "debug_cpu"}
BODIES: dict[str, Any] = {
    "/v1/jobs?dry_run=true": [
        *(lambda text: {"preset": text}, lambda text: {**BASE, "variant": text}, lambda text: {**BASE, "name": text}),
        *(lambda text: {**BASE, "labels": {text: "x"}}, lambda text: {**BASE, "labels": {"x": text}}),
        *(lambda text: {**BASE, "start_deadline": text}, lambda text: {**BASE, "overrides": {text: 1}}),
        *(
            lambda text, key=key: {**BASE, "overrides": {key: text}}
            for key in ("data.root", "data.name", "data.split", "evaluation.weights", "evaluation.protocol", "loss")
        ),
        lambda text: {**BASE, "overrides": {"data.name": "image_folder", "data.root": text}},
        lambda text: {**BASE, "overrides": {"evaluation.protocol": "inception-2015", "evaluation.weights": text}},
        lambda text: {**BASE, "overrides": {"evaluation.protocol": f"classifier:{text}"}},
        lambda text: {"config": {"data": {"name": "image_folder", "root": text}, "evaluation": {"weights": text}}},
    ],
    "/v1/experiments": [
        *(lambda text: {**BASE, "matrix": {"variant": [text]}}, lambda text: {**BASE, "matrix": {text: [1]}}),
        lambda text: {**BASE, "matrix": {"data.root": [text], "seed": [1]}},
    ],
    "/v1/experiments?dry_run=true": [lambda text: {**BASE, "matrix": {"data.root": [text], "seed": [1]}}],
    "/v1/jobs/{scored}/fork": [lambda text: {"checkpoint_id": text}, lambda text: {"overrides": {"data.root": text}}],
    "/v1/jobs:batch": [lambda text: {"action": "delete", "ids": [text]}],
    "/v1/checkpoints/{checkpoint}/samples": [lambda text: {"format": text}],
    "/v1/checkpoints/{checkpoint}/scores": [lambda text: {"weights": text}, lambda text: {"protocol": text}],
    "/v1/imports": [lambda text: {"name": text}],
}


@pytest.mark.parametrize("path", BODIES)
def test_no_spelling_of_a_path_in_a_body_leads_to_a_file(
    client: TestClient, service: Service, names: Names, opened: list[str], path: str
) -> None:
    absolute = str(service.settings.data_dir / PLACE)
    for body in BODIES[path]:
        for spelling in (*SPELLINGS, absolute):
            content = json.dumps(body(spelling)).encode()
            answer = ask(client.app, "POST", path.format(**names), {"content-type": "application/json"}, content)
            check_harmless(service, spelling, answer)
    assert opened == []


QUERIES = [
    *(
        f"/v1/jobs?{name}="
        for name in ("cursor", "experiment_id", "name", "label", "variant", "state", "created_after")
    ),
    *("/v1/compare?job=", "/v1/compare?experiment=", "/v1/compare?job={scored}&metric=", "/v1/stream?job="),
    *("/v1/compare?job={scored}&reference=", "/v1/compare?job={scored}&format=", "/v1/experiments?cursor="),
    *("/v1/jobs/{scored}/metrics/history?name=", "/v1/jobs/{scored}/samples/10/thumbnail?width=64&sha256="),
    "/v1/jobs/{scored}/samples/animation?format=",
]


@looped("query", QUERIES)
def test_no_spelling_of_a_path_in_a_query_leads_to_a_file(
    client: TestClient, service: Service, names: Names, opened: list[str], query: str
) -> None:
    for spelling in (*SPELLINGS, str(service.settings.data_dir / PLACE)):
        target = query.format(**names) + quote(spelling, safe="%/.;:")
        check_harmless(service, spelling, ask(client.app, "GET", target, {}, b""))
    assert opened == []


def test_an_existing_file_is_answered_like_a_missing_one(
    client: TestClient, service: Service, opened: list[str]
) -> None:
    there, missing = (service.settings.data_dir / name for name in (PLACE, "absent"))
    for key in ("data.root", "evaluation.weights"):
        answers = [
            client.post("/v1/jobs", json={"preset": "debug_cpu", "overrides": {key: str(path)}}).json()["errors"]
            for path in (there, missing)
        ]
        assert json.dumps(answers[0]).replace(PLACE, "absent") == json.dumps(answers[1])
    assert opened == []


# Starts, and what only a listening server can be asked.


def start(*arguments: str) -> Piped:
    code, environment = "from server.cli.app import main; main()", {**os.environ, "GAN_MHE_DISK_RESERVE_BYTES": "0"}
    return fork_piped(code, ["serve", *arguments], cwd=Path.cwd(), environment=environment)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Address of a listening server."""
    process = start("--port", "0", "--data-dir", str(tmp_path_factory.mktemp("served")), "--cpu-slots", "1")
    try:
        url = process.stdout.readline().strip().removesuffix("/")
        yield "127.0.0.1", int(url.rpartition(":")[2])
    finally:
        process.destroy()


def send(address: tuple[str, int], *parts: bytes) -> tuple[int, bytes]:
    """Status and body of the response to raw bytes."""
    with socket.create_connection(address, timeout=DEADLINE_SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        with suppress(ConnectionResetError):  # a server that has answered need not read the rest of a body
            while more := connection.recv(65536):
                answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@looped(
    "host",
    [
        *(b"Host: evil.example", b"Host: localhost.evil.example", b"Host: localhost/v1/jobs", b"Host: localhost?x"),
        *(b"Host: user@localhost", b"Host: localhost:80:80", b"Host: localhost:port", b"Host: \xe4\xf6", b"Host: "),
        *(b"Host: [::1", b"Host: localhost, localhost"),
    ],
)
def test_a_malformed_host_is_a_problem(address: tuple[str, int], host: bytes) -> None:
    status, body = send(address, b"GET /v1/jobs HTTP/1.1\r\n", host, b"\r\nConnection: close\r\n\r\n")
    problem = json.loads(body)
    assert (status, problem["status"], problem["code"]) == (403, 403, "host_not_allowed")
    assert "Host" in problem["detail"]


def test_a_body_of_ten_megabytes_is_not_read(address: tuple[str, int]) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    status, body = send(address, head, b"Content-Length: 10000000\r\n\r\n")
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    status, body = send(address, head, b"Transfer-Encoding: chunked\r\n\r\n", chunk * 17)
    assert (status, json.loads(body)["code"]) == (413, "body_too_large")


def test_a_refused_start_is_reported_in_one_line(address: tuple[str, int], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    newer = tmp_path / "newer"
    newer.mkdir()
    store = Store(newer / "service.sqlite3")
    store.migrate()
    store.close()
    with sqlite3.connect(newer / "service.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    connection.close()
    starts = {
        ("--port", str(address[1]), "--data-dir", str(tmp_path / "a")): f"cannot listen on 127.0.0.1 port {address[1]}",
        ("--port", "0", "--data-dir", str(tmp_path / "file")): "cannot write to the data directory",
        ("--port", "0", "--data-dir", str(newer)): "newer",
        ("--port", "0", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "b")): "requires an API key",
    }
    processes = {arguments: start(*arguments) for arguments in starts}
    for arguments, process in processes.items():
        out, err = process.communicate(timeout=DEADLINE_SECONDS)
        process.destroy()
        assert (process.returncode, out) == (1, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert starts[arguments] in err
