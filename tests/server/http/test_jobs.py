"""Jobs over HTTP: submitted, listed, changed, stopped, forked and deleted."""

import errno
import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, insert, update

from gan_mhe.config import compose, documents
from server import clock, startup
from server.clock import now_ms
from server.ids import is_id, new_id
from server.queue import claims, queue
from server.queue.states import Reason, State
from server.service import Service
from server.store import artifacts, removals, tables
from tests.support.fake_executor import FakeExecutor
from tests.support.looped import looped

SHORT = {"preset": "debug_cpu", "variant": "mhe_sn", "seed": 3, "overrides": {"training.steps": 20}}


def submit(client: TestClient, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/jobs", json={"preset": "debug_cpu"} | fields)
    assert response.status_code == 201, response.text
    job: dict[str, Any] = response.json()
    return job


def move(service: Service, job_id: str, *states: State, **changes: Any) -> None:
    for state in states:
        service.store.write(lambda c, to=state: queue.move(c, queue.get(c, job_id), to, **changes))


def run_attempt(service: Service, executor: FakeExecutor) -> None:
    """Assign the first queued job to a slot, as the scheduler would."""
    service.store.write(lambda c: claims.claim(c, executor.inventory()[:1], executor.name))


def add_checkpoint(service: Service, job_id: str, step: int, status: str = "available") -> str:
    checkpoint_id = new_id("ckpt")
    values = {"id": checkpoint_id, "job_id": job_id, "step": step, "attempt": 1, "sha256": "0" * 64, "path": "x"}
    values |= {"size_bytes": 1, "status": status, "created_at": now_ms()}
    service.store.write(lambda c: c.execute(insert(tables.checkpoints).values(values)))
    return checkpoint_id


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["code"] == code
    assert document["status"] == status
    return document


# Submitting.


def test_a_short_submission_becomes_a_queued_job(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={**SHORT, "name": "first", "labels": {"paper": "mhe"}, "priority": 2})
    assert response.status_code == 201
    job = response.json()
    assert is_id(job["id"], "job")
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["terminal"], job["origin"], job["project"]) == ("queued", False, "submitted", "default")
    assert (job["name"], job["labels"], job["priority"], job["variant"], job["seed"]) == (
        *("first", {"paper": "mhe"}, 2, "mhe_sn", 3),
    )
    assert job["config"]["training"]["steps"] == 20
    assert job["progress"]["total_steps"] == 20
    assert client.get(response.headers["location"]).json() == job


def test_an_exact_submission_keeps_the_configuration(client: TestClient) -> None:
    config = compose.compose(documents.load_document(documents.PRESETS / "debug_cpu.toml"), variant="half_mhe", seed=5)
    job = client.post("/v1/jobs", json={"config": config.document()}).json()
    assert job["config"] == config.document()
    assert job["config_digest"] == f"sha256:{config.digest()}"


def test_a_dry_run_returns_the_configuration_and_creates_nothing(client: TestClient) -> None:
    response = client.post("/v1/jobs?dry_run=true", json=SHORT)
    assert response.status_code == 200
    assert response.json()["config"]["constraints"]["normalization"] == "spectral"
    assert response.json()["estimate"]["images"] == 20 * 8
    assert client.get("/v1/jobs").json()["data"] == []


def test_a_dry_run_rejects_the_same_requests_as_a_submission(client: TestClient) -> None:
    response = client.post("/v1/jobs?dry_run=true", json={"preset": "debug_cpu", "overrides": {"a": 1}})
    problem(response, 422, "invalid_request")


def test_a_dry_run_is_refused_if_the_job_would_have_no_room(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_queued_jobs": 0})
    problem(client.post("/v1/jobs?dry_run=true", json=SHORT), 429, "queue_full")


def test_a_dry_run_is_refused_if_the_deadline_has_passed(client: TestClient) -> None:
    late = {**SHORT, "start_deadline": "2020-01-01T00:00:00Z"}
    [error] = problem(client.post("/v1/jobs?dry_run=true", json=late), 422, "invalid_request")["errors"]
    assert (error["pointer"], error["code"]) == ("/start_deadline", "past")


def test_a_wrong_override_is_answered_with_pointer_and_suggestion(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={"preset": "debug_cpu", "overrides": {"training.stepz": 3}})
    [error] = problem(response, 422, "invalid_request")["errors"]
    assert error["pointer"] == "/overrides/training.stepz"
    assert "did you mean 'steps'?" in error["message"]


@looped(
    ("change", "pointer"),
    [
        ({"preset": None}, ""),
        ({"config": {}}, ""),
        ({"priority": 11}, "/priority"),
        ({"priority": "5"}, "/priority"),
        ({"seed": True}, "/seed"),
        ({"seed": 2**53}, "/seed"),
        ({"unknown": 1}, "/unknown"),
        ({"labels": {"Upper": "x"}}, "/labels/Upper/[key]"),
        ({"labels": {"key\n": "x"}}, "/labels/key\n/[key]"),
        ({"labels": {"a": "v" * 201}}, "/labels/a"),
        ({"labels": {f"k{i}": "" for i in range(65)}}, "/labels"),
        ({"name": ""}, "/name"),
        ({"name": "\ud800"}, "/name"),
        ({"overrides": {"training.steps": 2**53}}, "/overrides/training.steps"),
        ({"overrides": {"x": "\ud800"}}, "/overrides/x"),
        ({"start_deadline": "2020-01-01T00:00:00Z"}, "/start_deadline"),
        ({"start_deadline": "2099-01-01T00:00:00"}, "/start_deadline"),
        ({"start_deadline": 4e9}, "/start_deadline"),
        ({"wall_seconds_limit": 0}, "/wall_seconds_limit"),
    ],
)
def test_a_wrong_field_is_answered_with_its_pointer(client: TestClient, change: dict[str, Any], pointer: str) -> None:
    response = client.post("/v1/jobs", content=json.dumps({"preset": "debug_cpu"} | change), headers=JSON)
    assert [error["pointer"] for error in problem(response, 422, "invalid_request")["errors"]] == [pointer]
    assert client.get("/v1/jobs").json()["data"] == []


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        '{"preset": "debug_cpu", "overrides": {"optimizer.beta1": NaN}}',
        '{"preset": "debug_cpu", "overrides": {"optimizer.beta1": Infinity}}',
        '{"preset": "debug_cpu", "wall_seconds_limit": 1e999}',
        '{"preset": "debug_cpu", "config": -Infinity}',
    ],
)
def test_numbers_that_are_not_finite_are_never_accepted(client: TestClient, body: str) -> None:
    problem(client.post("/v1/jobs", content=body, headers=JSON), 422, "invalid_request")


@looped(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"[]", 422),
        (b'"x"', 422),
        (b"\x80", 400),
        (b"[" * 100_000, 400),
        (b'{"overrides":' * 300 + b"1" + b"}" * 300, 422),
        (b'{"preset":"debug_cpu","overrides":{"x":' + b"[" * 300 + b"]" * 300 + b"}}", 422),
        (b'{"seed": ' + b"9" * 5000 + b"}", 400),
    ],
)
def test_an_invalid_body_is_a_problem_and_not_an_internal_error(client: TestClient, body: bytes, status: int) -> None:
    response = client.post("/v1/jobs", content=body, headers=JSON)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_a_deadline_is_stored(client: TestClient) -> None:
    moment = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0)
    job = submit(client, start_deadline=moment.isoformat())
    assert datetime.fromisoformat(job["start_deadline"]) == moment


def test_a_full_disk_refuses_jobs(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"disk_reserve_bytes": 2**62})
    problem(client.post("/v1/jobs", json=SHORT), 507, "insufficient_storage")


def test_a_deadline_is_read_by_a_wall_clock_that_was_set(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    set_by = [timedelta()]
    wall = clock.Clock(lambda: time.time_ns() + round(set_by[0].total_seconds()) * 10**9)
    monkeypatch.setattr(clock, "_clock", wall)
    for set_by[0] in (timedelta(hours=-2), timedelta(hours=2)):
        shown = datetime.now(UTC) + set_by[0]
        submit(client, start_deadline=(shown + timedelta(seconds=60)).isoformat())
        late = {"preset": "debug_cpu", "start_deadline": (shown - timedelta(seconds=60)).isoformat()}
        problem(client.post("/v1/jobs", json=late), 422, "invalid_request")


def test_a_full_queue_rejects_jobs_with_a_retry_after(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"max_queued_jobs": 1})
    submit(client)
    response = client.post("/v1/jobs", json=SHORT)
    problem(response, 429, "queue_full")
    assert int(response.headers["retry-after"]) > 0


# Doing it once.


def test_a_repeated_key_gives_the_same_answer_and_one_job(client: TestClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first, second = (client.post("/v1/jobs", json=SHORT, headers=key) for _ in range(2))
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second.headers["location"] == first.headers["location"]
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_a_repeated_key_with_another_body_is_refused(client: TestClient) -> None:
    key = {"Idempotency-Key": "k1"}
    client.post("/v1/jobs", json=SHORT, headers=key)
    problem(client.post("/v1/jobs", json={**SHORT, "seed": 4}, headers=key), 422, "idempotency_key_reused")
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_the_same_body_written_differently_is_the_same_request(client: TestClient) -> None:
    key = {"Idempotency-Key": "k1"} | JSON
    client.post("/v1/jobs", content='{"preset":"debug_cpu","seed":1}', headers=key)
    again = client.post("/v1/jobs", content='{ "seed": 1, "preset": "debug_cpu", "labels": {} }', headers=key)
    assert again.headers["idempotency-replayed"] == "true"


def test_a_deadline_passed_in_the_meantime_does_not_affect_a_replay(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {**SHORT, "start_deadline": (datetime.now(UTC) + timedelta(seconds=60)).isoformat()}
    first = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"})
    monkeypatch.setattr("server.queue.admission.now_ms", lambda: now_ms() + 120_000)
    assert client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"}).json() == first.json()


@pytest.mark.parametrize("key", ["", "a b", "k" * 256, "caf\u00e9".encode("latin-1"), "a\tb"])
def test_a_key_that_is_not_printable_is_refused(client: TestClient, key: Any) -> None:
    response = client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": key})
    problem(response, 422, "invalid_request")


def test_concurrent_requests_with_one_key_make_one_job(client: TestClient) -> None:
    def send(_: int) -> Any:
        return client.post("/v1/jobs", json=SHORT, headers={"Idempotency-Key": "same"})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(send, range(40)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_an_action_with_a_repeated_key_is_done_once(client: TestClient) -> None:
    job = submit(client)
    key = {"Idempotency-Key": "k1"}
    first, second = (client.post(f"/v1/jobs/{job['id']}/cancel", headers=key) for _ in range(2))
    assert first.json() == second.json()
    problem(client.post(f"/v1/jobs/{job['id']}/cancel"), 409, "invalid_transition")


# Listing.


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [job["id"] for job in response.json()["data"]]


def test_jobs_are_listed_newest_first_or_oldest_first(client: TestClient) -> None:
    made = [submit(client)["id"] for _ in range(3)]
    assert ids(client.get("/v1/jobs")) == made[::-1]
    assert ids(client.get("/v1/jobs?order=asc")) == made


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_skip_and_repeat_nothing_while_jobs_come_and_go(client: TestClient, order: str) -> None:
    made = [submit(client)["id"] for _ in range(7)]
    url: str | None = f"/v1/jobs?limit=2&order={order}"
    seen: list[str] = []
    while url is not None:
        response = client.get(url)
        seen += ids(response)
        link = response.headers.get("link")
        assert (link is not None) == response.json()["has_more"] == (response.json()["next_cursor"] is not None)
        url = None if link is None else link.removeprefix("<").removesuffix('>; rel="next"')
        if len(seen) == 2:
            newcomer = submit(client)["id"]
            gone = seen[0]
            client.post(f"/v1/jobs/{gone}/cancel")
            assert client.delete(f"/v1/jobs/{gone}").status_code == 204
    expected = [*made, newcomer] if order == "asc" else made[::-1]
    assert seen == expected


def test_filters_select_jobs(client: TestClient, service: Service) -> None:
    one = submit(client, variant="mhe", name="Alpha 100%", labels={"a": "1", "b": "x:y"})["id"]
    two = submit(client, variant="none", name="beta", labels={"a": "1"})["id"]
    three = submit(client, variant="mhe_sn", labels={"a": "2"})["id"]
    move(service, three, State.CANCELLED)
    chosen = {
        "state=queued": {one, two},
        "state=cancelled&state=queued": {one, two, three},
        "variant=mhe&variant=none": {one, two},
        "label=a:1": {one, two},
        "label=a:1&label=b:x:y": {one},
        "label=c:1": set(),
        "name=ALPHA": {one},
        "name=%25": {one},
        "name=_": set(),
        "experiment_id=exp_none": set(),
        "state=queued&variant=mhe": {one},
        "created_after=2020-01-01T00:00:00Z": {one, two, three},
        "created_before=2020-01-01T00:00:00Z": set(),
    }
    assert {query: set(ids(client.get(f"/v1/jobs?{query}"))) for query in chosen} == chosen


@looped(
    ("query", "pointer"),
    [
        ("limit=0", "/query/limit"),
        ("limit=201", "/query/limit"),
        ("state=dead", "/query/state/0"),
        ("order=up", "/query/order"),
        ("label=nocolon", "/query/label"),
        ("cursor=nonsense", "/query/cursor"),
        ("cursor=%00%ff", "/query/cursor"),
        ("created_after=yesterday", "/query/created_after"),
        ("created_after=2020-01-01T00:00:00", "/query/created_after"),
    ],
)
def test_a_wrong_parameter_is_answered_with_its_name(client: TestClient, query: str, pointer: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert [error["pointer"] for error in problem(response, 422, "invalid_request")["errors"]] == [pointer]


def test_a_cursor_is_valid_for_its_own_list_only(client: TestClient) -> None:
    for _ in range(3):
        submit(client)
    cursor = client.get("/v1/jobs?limit=1").json()["next_cursor"]
    assert client.get(f"/v1/jobs?limit=2&cursor={cursor}").status_code == 200
    for other in ("order=asc", "state=queued", "variant=mhe"):
        problem(client.get(f"/v1/jobs?{other}&cursor={cursor}"), 422, "invalid_request")
    spoilt = ("B" if cursor[0] != "B" else "C") + cursor[1:]
    problem(client.get(f"/v1/jobs?cursor={spoilt}"), 422, "invalid_request")


def test_the_cursor_secret_is_for_the_owner_only(client: TestClient, service: Service) -> None:
    assert (service.settings.data_dir / "cursor.key").stat().st_mode & 0o777 == 0o600


def test_the_list_carries_the_primary_metric_and_survives_non_finite_ones(client: TestClient, service: Service) -> None:
    scored, diverged = submit(client)["id"], submit(client)["id"]

    def add(connection: Connection) -> None:
        for job_id, value, kind, best in ((scored, 7.5, 0, 8.0), (diverged, 0.0, 1, None)):
            seq = queue.get(connection, job_id)["seq"]
            values = {"job_seq": seq, "name": "inception_score", "step": 20, "value": value, "kind": kind}
            connection.execute(insert(tables.metric_summary).values(**values, best=best, best_step=best and 10))

    service.store.write(add)
    metrics = {job["id"]: job["metric"] for job in client.get("/v1/jobs").json()["data"]}
    assert metrics[scored] == {"name": "inception_score", "step": 20, "latest": 7.5, "best": 8.0, "best_step": 10}
    assert (metrics[diverged]["latest"], metrics[diverged]["best"]) == ("NaN", None)


def test_the_list_shows_the_metric_that_the_result_of_a_job_names(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]

    def add(connection: Connection) -> None:
        seq = queue.get(connection, job_id)["seq"]
        for name, value in (("inception_score", 7.5), ("fid", 30.0)):
            values = {"job_seq": seq, "name": name, "step": 20, "value": value, "kind": 0, "best": value}
            connection.execute(insert(tables.metric_summary).values(**values, best_step=20))

    service.store.write(add)
    [job] = client.get("/v1/jobs").json()["data"]
    assert job["metric"]["name"] == "inception_score"
    changed = update(tables.jobs).where(tables.jobs.c.id == job_id).values(result={"metric": "fid"})
    service.store.write(lambda c: c.execute(changed))
    [job] = client.get("/v1/jobs").json()["data"]
    assert (job["metric"]["name"], job["metric"]["latest"]) == ("fid", 30.0)


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"metric": 5},
        {"metric": ["fid"]},
        {"metric": "fid", "final": {"step": "x", "scores": {}}, "data": {"name": 5}},
        {"metric": "fid", "fingerprints": 7},
    ],
)
def test_a_job_with_a_result_that_cannot_be_read_is_listed_without_scores(
    client: TestClient, service: Service, result: dict[str, Any]
) -> None:
    job_id, other = submit(client)["id"], submit(client, seed=5)["id"]
    changed = update(tables.jobs).where(tables.jobs.c.id == job_id).values(result=result)
    service.store.write(lambda c: c.execute(changed))
    jobs = {job["id"]: job for job in client.get("/v1/jobs").json()["data"]}
    assert jobs.keys() == {job_id, other}
    assert (jobs[job_id]["scores"], jobs[job_id]["data"]) == (None, None)


def test_tasks_are_not_among_the_jobs(client: TestClient, service: Service) -> None:
    new = queue.NewJob(project="default", kind="sample", request={}, request_sha256="0")
    task = service.store.write(lambda c: queue.create(c, new))
    assert ids(client.get("/v1/jobs")) == []
    problem(client.get(f"/v1/jobs/{task['id']}"), 404, "not_found")
    problem(client.post(f"/v1/jobs/{task['id']}/cancel"), 404, "not_found")


# One job.


def test_a_finished_job_shows_scores_attempt_and_times(
    client: TestClient, service: Service, executor: FakeExecutor
) -> None:
    job = submit(client)
    run_attempt(service, executor)
    result = {"metric": "inception_score", "final": {"step": 20, "scores": {"inception_score": 7.0, "fid": "NaN"}}}
    result |= {"best": None, "real": {"inception_score": 9.7}, "protocol": "digits-v1"}
    result |= {"fingerprints": {"inception_score": "f" * 64, "fid": "e" * 64}}
    move(service, job["id"], State.RUNNING)
    move(service, job["id"], State.SUCCEEDED, result=result, exit_code=0)
    shown = client.get(f"/v1/jobs/{job['id']}").json()
    assert (shown["state"], shown["terminal"], shown["exit_code"]) == ("succeeded", True, 0)
    assert shown["scores"]["final"] == {"step": 20, "scores": {"inception_score": 7.0, "fid": "NaN"}}
    assert shown["scores"]["real"] == {"inception_score": 9.7}
    assert shown["scores"]["fingerprints"] == {"inception_score": "f" * 64, "fid": "e" * 64}
    assert shown["scores"]["fingerprint"] == "f" * 64
    assert (shown["attempt"]["number"], shown["executor"], shown["slot"]) == (1, "fake", "cpu0")
    assert shown["started_at"] <= shown["finished_at"]
    assert shown["retry"] == {
        "used": {"infrastructure": 0, "program": 0},
        "limit": {"infrastructure": 5, "program": 1},
    }


DATA = {
    **{"name": "image_folder", "split": "undivided", "images": 12, "classes": {"bee": 5, "ant": 7}},
    **{"passed_over": {".tif": 30}, "conversions": {}, "sha256": "a" * 64},
}


@pytest.mark.parametrize("data", [DATA, None])
def test_a_finished_job_shows_what_its_data_held(
    client: TestClient, service: Service, executor: FakeExecutor, data: dict[str, Any] | None
) -> None:
    job = submit(client)
    assert job["data"] is None
    run_attempt(service, executor)
    result = {"metric": "inception_score", **dict.fromkeys(("final", "best", "real", "protocol")), "data": data}
    move(service, job["id"], State.RUNNING)
    move(service, job["id"], State.SUCCEEDED, result=result, exit_code=0)
    shown = client.get(f"/v1/jobs/{job['id']}").json()["data"]
    assert json.dumps(shown) == json.dumps(data)  # the classes in their order too


def test_a_result_of_an_older_version_has_one_fingerprint_for_all_scores(
    client: TestClient, service: Service, executor: FakeExecutor
) -> None:
    job = submit(client)
    run_attempt(service, executor)
    result = {"metric": "inception_score", "final": {"step": 20, "scores": {"inception_score": 7.0, "fid": 2.0}}}
    result |= {"best": None, "real": None, "protocol": "digits-v1", "fingerprint": "f" * 64}
    move(service, job["id"], State.RUNNING)
    move(service, job["id"], State.SUCCEEDED, result=result, exit_code=0)
    shown = client.get(f"/v1/jobs/{job['id']}").json()["scores"]
    assert shown["fingerprint"] == "f" * 64
    assert shown["fingerprints"] == {"inception_score": "f" * 64, "fid": "f" * 64}


def test_an_unknown_job_is_not_found(client: TestClient) -> None:
    document = problem(client.get("/v1/jobs/job_unknown"), 404, "not_found")
    assert document["instance"] == "/v1/jobs/job_unknown"
    assert document["type"] == "urn:gan-mhe:problem:not_found"


def test_a_change_replaces_only_the_given_fields(client: TestClient) -> None:
    job = submit(client, name="old", labels={"a": "1", "b": "2"})
    changed = client.patch(f"/v1/jobs/{job['id']}", json={"labels": {"c": "3"}}).json()
    assert (changed["name"], changed["labels"], changed["revision"]) == ("old", {"c": "3"}, 2)
    assert client.patch(f"/v1/jobs/{job['id']}", json={"name": None}).json()["name"] is None
    assert ids(client.get("/v1/jobs?label=a:1")) == []
    assert ids(client.get("/v1/jobs?label=c:3")) == [job["id"]]


def test_a_change_of_an_old_revision_is_refused(client: TestClient) -> None:
    url = f"/v1/jobs/{submit(client)['id']}"
    etag = client.get(url).headers["etag"]
    changed = client.patch(url, json={"name": "new"}, headers={"If-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag
    for stale in (etag, '"x"', "W/" + changed.headers["etag"]):
        problem(client.patch(url, json={"name": "newer"}, headers={"If-Match": stale}), 412, "revision_mismatch")
    assert client.patch(url, json={"name": "any"}, headers={"If-Match": "*"}).status_code == 200


def test_a_change_touches_nothing_else(client: TestClient) -> None:
    url = f"/v1/jobs/{submit(client)['id']}"
    problem(client.patch(url, json={"state": "succeeded"}), 422, "invalid_request")
    problem(client.patch(url, json={"priority": None}), 422, "invalid_request")


# Stopping and going on.


def test_a_cancelled_queued_job_is_cancelled_at_once(client: TestClient) -> None:
    job = client.post(f"/v1/jobs/{submit(client)['id']}/cancel").json()
    assert (job["state"], job["reason"], job["terminal"]) == ("cancelled", "user", True)


@pytest.mark.parametrize(("action", "state"), [("cancel", "cancelling"), ("pause", "pausing")])
def test_a_running_job_stops_in_the_requested_mode(
    client: TestClient, service: Service, executor: FakeExecutor, action: str, state: str
) -> None:
    job_id = submit(client)["id"]
    run_attempt(service, executor)
    move(service, job_id, State.RUNNING)
    assert client.post(f"/v1/jobs/{job_id}/{action}", json={"mode": "graceful"}).json()["state"] == state
    assert client.post(f"/v1/jobs/{job_id}/{action}", json={"mode": "now"}).json()["state"] == state
    assert service.store.read(lambda c: queue.get(c, job_id))["stop_mode"] == "now"
    problem(client.post(f"/v1/jobs/{job_id}/{action}", json={"mode": "kill"}), 422, "invalid_request")


def test_a_paused_job_is_resumed_and_no_other(client: TestClient) -> None:
    job_id = submit(client)["id"]
    problem(client.post(f"/v1/jobs/{job_id}/resume"), 409, "invalid_transition")
    assert client.post(f"/v1/jobs/{job_id}/pause").json()["state"] == "paused"
    assert client.post(f"/v1/jobs/{job_id}/resume").json()["state"] == "queued"


def test_a_failed_job_is_retried_and_no_other(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    problem(client.post(f"/v1/jobs/{job_id}/retry"), 409, "invalid_transition")
    move(service, job_id, State.FAILED, reason=Reason.ERROR)
    assert client.post(f"/v1/jobs/{job_id}/retry").json()["state"] == "queued"


@pytest.mark.parametrize(
    ("body", "status"),
    [(None, "available"), ({}, "available"), ({"from": "checkpoint"}, "available"), ({"from": "start"}, "rejected")],
)
def test_a_retry_begins_at_the_last_checkpoint_or_at_the_start(
    client: TestClient, service: Service, body: dict[str, str] | None, status: str
) -> None:
    job_id = submit(client)["id"]
    add_checkpoint(service, job_id, 10)
    move(service, job_id, State.FAILED, reason=Reason.CHECKPOINT_CORRUPT)
    assert client.post(f"/v1/jobs/{job_id}/retry", json=body).json()["state"] == "queued"
    (kept,) = service.store.read(lambda connection: artifacts.checkpoints(connection, job_id))
    assert kept["status"] == status


def test_a_job_does_not_start_over_while_a_fork_waits_for_its_checkpoint(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    add_checkpoint(service, job_id, 20)
    fork = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": {"training.steps": 80}}).json()["id"]
    move(service, job_id, State.FAILED, reason=Reason.ERROR)
    refused = problem(client.post(f"/v1/jobs/{job_id}/retry", json={"from": "start"}), 409, "invalid_transition")
    assert fork in refused["detail"]
    assert client.post(f"/v1/jobs/{job_id}/retry").status_code == 200


def test_a_retry_from_elsewhere_is_refused_with_the_field(client: TestClient) -> None:
    job_id = submit(client)["id"]
    refused = problem(client.post(f"/v1/jobs/{job_id}/retry", json={"from": "step 3"}), 422, "invalid_request")
    assert refused["errors"][0]["pointer"] == "/from"
    refused = problem(client.post(f"/v1/jobs/{job_id}/retry", json={"form": "start"}), 422, "invalid_request")
    assert "did you mean 'from'" in refused["errors"][0]["message"]


def test_the_engine_is_woken_by_every_change_of_jobs(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    monkeypatch.setattr("server.supervision.engine.Engine.wake", lambda _engine: woken.append(""))
    job_id = submit(client)["id"]
    client.patch(f"/v1/jobs/{job_id}", json={"priority": 1})
    client.post(f"/v1/jobs/{job_id}/cancel")
    client.post("/v1/jobs:batch", json={"action": "cancel", "ids": [job_id]})
    assert len(woken) == 4


# Deleting.


def test_only_an_ended_job_can_be_deleted_with_all_its_data(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    directory = service.settings.job_dir(job_id)
    (directory / "run").mkdir(parents=True)
    problem(client.delete(f"/v1/jobs/{job_id}"), 409, "invalid_transition")
    assert directory.exists()
    client.post(f"/v1/jobs/{job_id}/cancel")
    response = client.delete(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.content) == (204, b"")
    assert list(directory.parent.iterdir()) == []
    assert (service.settings.trash / job_id / "run").is_dir()
    problem(client.get(f"/v1/jobs/{job_id}"), 404, "not_found")


def test_a_job_is_not_deleted_while_a_fork_or_a_task_waits_for_its_checkpoint(
    client: TestClient, service: Service
) -> None:
    job_id = submit(client)["id"]
    checkpoint = add_checkpoint(service, job_id, 20)
    move(service, job_id, State.CANCELLED)
    fork = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": {"training.steps": 80}}).json()["id"]
    task = client.post(f"/v1/checkpoints/{checkpoint}/samples", json={}).json()["id"]
    detail = problem(client.delete(f"/v1/jobs/{job_id}"), 409, "invalid_transition")["detail"]
    assert fork in detail and task in detail
    add_checkpoint(service, fork, 20)
    client.post(f"/v1/tasks/{task}/cancel")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204


def test_an_interrupted_deletion_is_completed_at_the_next_start(client: TestClient, service: Service) -> None:
    kept, deleted = submit(client)["id"], new_id("job")
    jobs = service.settings.job_dir("")
    service.store.write(lambda connection: removals.ask(connection, deleted))
    for name in (kept, deleted, f".{new_id('job')}.tmp", "not-a-job"):
        (jobs / name / "run").mkdir(parents=True)
    startup.mend(service.store, service.settings)
    assert {path.name for path in jobs.iterdir()} == {kept, "not-a-job"}
    assert service.store.read(removals.asked) == []


def test_files_of_jobs_that_the_database_does_not_know_are_kept_and_counted_in_the_log(
    client: TestClient, service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = [new_id("job"), new_id("task")]
    for name in unknown:
        weights = service.settings.job_dir(name) / "run" / "checkpoints" / "weights"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"trained")
    startup.mend(service.store, service.settings)
    printed = capsys.readouterr().out
    for name in unknown:
        assert (service.settings.job_dir(name) / "run" / "checkpoints" / "weights").read_bytes() == b"trained"
    assert "count=2" in printed and f"first=jobs/{unknown[0]}" in printed and "gan-mhe adopt" in printed


def test_files_that_cannot_be_moved_to_the_trash_are_moved_at_a_later_start(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    job_id = submit(client)["id"]
    directory = service.settings.job_dir(job_id)
    (directory / "run").mkdir(parents=True)
    move(service, job_id, State.FAILED)
    with monkeypatch.context() as patch:
        patch.setattr("server.ingest.trash.os.replace", refuse)
        assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert service.store.read(removals.asked) == [job_id] and directory.exists()
    startup.mend(service.store, service.settings)
    assert list(directory.parent.iterdir()) == [] and (service.settings.trash / job_id / "run").is_dir()


def test_a_job_whose_configuration_cannot_be_read_does_not_fail_the_list(client: TestClient, service: Service) -> None:
    broken, whole = submit(client)["id"], submit(client)["id"]
    values = {"request": {"data": {"name": "of a later version"}}}
    service.store.write(lambda c: c.execute(update(tables.jobs).where(tables.jobs.c.id == broken).values(values)))
    labels = {job["id"]: job["variant_label"] for job in client.get("/v1/jobs").json()["data"]}
    assert labels == {broken: None, whole: "none"}


# Batches.


def test_a_batch_returns_a_result_for_each_job(client: TestClient, service: Service) -> None:
    queued, done = submit(client)["id"], submit(client)["id"]
    move(service, done, State.FAILED)
    body = {"action": "cancel", "ids": [queued, done, "job_none", queued]}
    response = client.post("/v1/jobs:batch", json=body)
    assert response.status_code == 200
    first, second, third = response.json()["data"]
    assert first == {"id": queued, "ok": True, "state": "cancelled", "problem": None}
    assert (second["ok"], second["problem"]["code"]) == (False, "invalid_transition")
    assert (third["ok"], third["problem"]["code"], third["problem"]["status"]) == (False, "not_found", 404)


@pytest.mark.parametrize(
    ("action", "before", "after"),
    [("pause", "queued", "paused"), ("resume", "paused", "queued"), ("retry", "failed", "queued")],
)
def test_a_batch_supports_every_action(
    client: TestClient, service: Service, action: str, before: str, after: str
) -> None:
    job_ids = [submit(client)["id"] for _ in range(2)]
    if before != "queued":
        for job_id in job_ids:
            move(service, job_id, State(before))
    response = client.post("/v1/jobs:batch", json={"action": action, "ids": job_ids})
    assert [item["state"] for item in response.json()["data"]] == [after, after]


def test_a_batch_deletes_with_files(client: TestClient, service: Service) -> None:
    ended, queued = submit(client)["id"], submit(client)["id"]
    move(service, ended, State.CANCELLED)
    for job_id in (ended, queued):
        service.settings.job_dir(job_id).mkdir(parents=True)
    response = client.post("/v1/jobs:batch", json={"action": "delete", "ids": [ended, queued]})
    assert [item["ok"] for item in response.json()["data"]] == [True, False]
    assert [path.name for path in service.settings.job_dir("").iterdir()] == [queued]


@pytest.mark.parametrize("ids_", [[], ["x"] * 501])
def test_a_batch_has_limits(client: TestClient, ids_: list[str]) -> None:
    problem(client.post("/v1/jobs:batch", json={"action": "cancel", "ids": ids_}), 422, "invalid_request")


# Forking.


def test_a_fork_starts_from_the_newest_checkpoint_with_a_changed_configuration(
    client: TestClient, service: Service
) -> None:
    job_id = submit(client, priority=4)["id"]
    add_checkpoint(service, job_id, 10)
    newest = add_checkpoint(service, job_id, 20)
    add_checkpoint(service, job_id, 30, "rejected")
    response = client.post(
        f"/v1/jobs/{job_id}/fork", json={"overrides": {"optimizer.generator_lr": 1e-3}, "labels": {"a": "b"}}
    )
    assert response.status_code == 201
    fork = response.json()
    assert response.headers["location"] == f"/v1/jobs/{fork['id']}"
    assert fork["forked_from"] == {"job_id": job_id, "checkpoint_id": newest, "step": 20, "same_config": False}
    assert (fork["origin"], fork["state"], fork["labels"], fork["priority"]) == ("forked", "queued", {"a": "b"}, 4)
    assert fork["config"]["optimizer"]["generator_lr"] == 1e-3


def test_a_longer_fork_of_the_same_configuration_continues_exactly(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    add_checkpoint(service, job_id, 50)
    response = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": {"training.steps": 80}})
    assert response.json()["forked_from"]["same_config"] is True


@pytest.mark.parametrize(
    ("key", "same"), [("data.root", False), ("evaluation.weights", False), ("checkpoint.every_steps", True)]
)
def test_a_fork_on_other_files_is_not_the_same_configuration(
    client: TestClient, service: Service, tmp_path: Path, key: str, same: bool
) -> None:
    (tmp_path / "weights").touch()
    roots, weights = dict.fromkeys("ab", tmp_path), dict.fromkeys("ab", tmp_path / "weights")
    service.settings = service.settings.model_copy(update={"data_roots": roots, "weights": weights})
    named = {"data.name": "image_folder", "data.root": "a", "evaluation.weights": "a"}
    job_id = submit(client, overrides=named)["id"]
    add_checkpoint(service, job_id, 20)
    changed = {key: "b" if not same else 7}
    fork = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": changed}).json()
    assert fork["forked_from"]["same_config"] is same


def test_a_longer_fork_of_a_changed_fork_is_not_compared(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    for changes in ({"optimizer.generator_lr": 1e-3}, {"training.steps": 80}):
        add_checkpoint(service, job_id, 20)
        job_id = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": changes}).json()["id"]
    assert client.get(f"/v1/jobs/{job_id}").json()["forked_from"]["same_config"] is True
    [error] = problem(client.get("/v1/compare", params={"job": job_id}), 422, "invalid_request")["errors"]
    assert error["code"] == "config_changed"


def test_a_job_that_is_not_its_variant_says_so_in_the_list(client: TestClient) -> None:
    submit(client, variant="none", overrides={"constraints.normalization": "spectral"})
    [job] = client.get("/v1/jobs").json()["data"]
    assert (job["variant"], job["variant_label"]) == ("none", "none + constraints.normalization=spectral")


def test_a_fork_without_remaining_steps_is_rejected(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    add_checkpoint(service, job_id, 50)
    [error] = problem(client.post(f"/v1/jobs/{job_id}/fork", json={}), 422, "invalid_request")["errors"]
    assert error["pointer"] == "/overrides/training.steps"


@pytest.mark.parametrize("by", ["step", "checkpoint_id"])
def test_a_fork_starts_from_the_requested_checkpoint(client: TestClient, service: Service, by: str) -> None:
    job_id = submit(client)["id"]
    wanted = {"step": 10, "checkpoint_id": add_checkpoint(service, job_id, 10)}
    add_checkpoint(service, job_id, 20)
    fork = client.post(f"/v1/jobs/{job_id}/fork", json={by: wanted[by]}).json()
    assert fork["forked_from"]["checkpoint_id"] == wanted["checkpoint_id"]


def test_an_unavailable_checkpoint_cannot_be_forked(client: TestClient, service: Service) -> None:
    job_id, other = submit(client)["id"], submit(client)["id"]
    url = f"/v1/jobs/{job_id}/fork"
    problem(client.post(url, json={}), 409, "not_ready")
    rejected = add_checkpoint(service, job_id, 10, "rejected")
    problem(client.post(url, json={}), 409, "not_ready")
    problem(client.post(url, json={"checkpoint_id": rejected}), 409, "not_ready")
    problem(client.post(url, json={"step": 11}), 404, "not_found")
    problem(client.post(url, json={"checkpoint_id": add_checkpoint(service, other, 5)}), 404, "not_found")
    problem(client.post(url, json={"checkpoint_id": rejected, "step": 10}), 422, "invalid_request")


def test_a_fork_respects_the_operators_limits(client: TestClient, service: Service) -> None:
    job_id = submit(client)["id"]
    add_checkpoint(service, job_id, 10)
    response = client.post(f"/v1/jobs/{job_id}/fork", json={"overrides": {"data.root": "/etc"}})
    [error] = problem(response, 422, "invalid_request")["errors"]
    assert error["pointer"] == "/overrides/data.root"


# What is never shown.


def test_no_response_contains_a_path_of_the_server(client: TestClient, service: Service, tmp_path: Path) -> None:
    roots = {"images": tmp_path / "canary"}
    roots["images"].mkdir()
    (tmp_path / "w").touch()
    service.settings = service.settings.model_copy(update={"data_roots": roots, "weights": {"w": tmp_path / "w"}})
    fields = {"overrides": {"data.name": "image_folder", "data.root": "images", "evaluation.weights": "w"}}
    job_id = submit(client, **fields)["id"]
    service.store.write(
        lambda c: c.execute(update(tables.jobs).where(tables.jobs.c.id == job_id).values(state=State.FAILED))
    )
    for url in ("/v1/jobs", f"/v1/jobs/{job_id}", "/v1/system", "/v1/system/slots", "/v1/data", "/v1/presets"):
        response = client.get(url)
        assert response.status_code == 200
        assert str(tmp_path) not in response.text
        assert "/" not in json.dumps(response.json().get("config", {}).get("data", {}))
