"""Event streams over HTTP, and the same history in pages."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi.testclient import TestClient
from sqlalchemy import Connection, update

from server.queue import experiments, queue
from server.queue.admission import Source
from server.queue.experiments import Plan
from server.service import Service
from server.settings import Settings
from server.store import journal, keys, tables
from tests.support.app import make_app

DEADLINE = 10.0


def submit(service: Service, project: str = "default", **attributes: Any) -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0", **attributes)
    return str(service.store.write(lambda c: queue.create(c, new))["id"])


def report(service: Service, job_id: str, count: int = 1) -> None:
    def work(connection: Connection) -> None:
        for step in range(count):
            journal.append(connection, job_id, "metric.batch", {"points": [{"step": step}]})

    service.store.write(work)


def end(service: Service, job_id: str) -> None:
    service.store.write(lambda c: queue.cancel(c, queue.get(c, job_id)))


def messages(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.split("\n\n") if "event: " in block]
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]


def ids(text: str) -> list[int]:
    return [int(message["id"]) for message in messages(text) if "id" in message]


def problem(response: Any, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code


# One job.


def test_a_stream_of_an_ended_job_is_its_history_and_an_end(client: TestClient, service: Service) -> None:
    job = submit(service)
    report(service, job, 3)
    end(service, job)
    response = client.get(f"/v1/jobs/{job}/stream")
    assert response.status_code == 200
    assert ids(response.text) == [1, 2, 3, 4, 5]
    assert messages(response.text)[-1] == {"event": "stream.end", "data": '{"state":"cancelled"}'}
    assert json.loads(messages(response.text)[1]["data"])["type"] == "metric.batch"


def test_a_stream_is_neither_cached_nor_buffered(client: TestClient, service: Service) -> None:
    job = submit(service)
    end(service, job)
    headers = client.get(f"/v1/jobs/{job}/stream").headers
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert headers["x-accel-buffering"] == "no"


def test_a_task_has_a_stream_too(client: TestClient, service: Service) -> None:
    task = submit(service, kind="sample")
    end(service, task)
    assert ids(client.get(f"/v1/jobs/{task}/stream").text) == [1, 2]


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({"Last-Event-ID": "2"}, "", [3, 4]),
        ({}, "?after=3", [4]),
        ({"Last-Event-ID": "1"}, "?after=3", [2, 3, 4]),
        ({"Last-Event-ID": "0"}, "?after=3", [1, 2, 3, 4]),
    ],
)
def test_a_stream_continues_at_the_clients_position_with_precedence_for_the_header(
    client: TestClient, service: Service, headers: dict[str, str], query: str, expected: list[int]
) -> None:
    job = submit(service)
    report(service, job, 2)
    end(service, job)
    assert ids(client.get(f"/v1/jobs/{job}/stream{query}", headers=headers).text) == expected


@pytest.mark.parametrize("after", ["2", "3", "1000000"])
def test_nothing_follows_the_end_of_an_ended_job(client: TestClient, service: Service, after: str) -> None:
    job = submit(service)
    end(service, job)
    response = client.get(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": after})
    assert response.status_code == 204
    assert response.content == b""


@pytest.mark.parametrize("value", ["-1", "x", "1.5", str(2**64)])
def test_a_bad_last_id_is_refused(client: TestClient, service: Service, value: str) -> None:
    job = submit(service)
    problem(client.get(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": value}), 422, "invalid_request")
    problem(client.get(f"/v1/jobs/{job}/stream", params={"after": value}), 422, "invalid_request")


@pytest.mark.parametrize("path", ["stream", "events"])
def test_another_projects_job_does_not_exist(client: TestClient, service: Service, path: str) -> None:
    job = submit(service, project="other")
    problem(client.get(f"/v1/jobs/{job}/{path}"), 404, "not_found")
    problem(client.get(f"/v1/jobs/{job}/{path}", headers={"Last-Event-ID": "1"}), 404, "not_found")


# Several jobs.


def test_several_jobs_share_one_stream(client: TestClient, service: Service) -> None:
    jobs = [submit(service) for _ in range(3)]
    for job in jobs:
        end(service, job)
    text = client.get("/v1/stream", params={"job": jobs[:2]}).text
    assert ids(text) == [1, 2, 4, 5]
    assert json.loads(messages(text)[-1]["data"]) == {"states": dict.fromkeys(jobs[:2], "cancelled")}
    assert ids(client.get("/v1/stream", params={"job": jobs[:2], "after": 4}).text) == [5]


def make_experiment(service: Service, cells: int, project: str = "default") -> str:
    plan = Plan(Source(preset="debug_cpu"), {"seed": list(range(cells))}, [])

    def work(connection: Connection) -> str:
        experiment = experiments.create(connection, experiments.prepare(plan, project, name=None, labels={}))
        for seed in range(cells):
            new = queue.NewJob(
                project=project, request={}, request_sha256="0", experiment_id=experiment["id"], cell={"seed": seed}
            )
            queue.create(connection, new)
        return str(experiment["id"])

    return service.store.write(work)


def test_an_experiment_is_followed_as_a_whole(client: TestClient, service: Service) -> None:
    experiment = make_experiment(service, 3)
    jobs = [job["id"] for job in service.store.read(lambda c: experiments.jobs(c, experiment))]
    for job in jobs:
        end(service, job)
    extra = submit(service)
    end(service, extra)
    assert len(ids(client.get("/v1/stream", params={"experiment": experiment}).text)) == 6
    assert len(ids(client.get("/v1/stream", params={"experiment": experiment, "job": jobs[0]}).text)) == 6
    assert len(ids(client.get("/v1/stream", params={"experiment": experiment, "job": extra}).text)) == 8


def test_an_experiment_too_large_for_one_stream_is_refused(client: TestClient, service: Service) -> None:
    problem(client.get("/v1/stream", params={"experiment": make_experiment(service, 201)}), 422, "invalid_request")


def test_a_stream_of_no_jobs_is_refused(client: TestClient) -> None:
    problem(client.get("/v1/stream"), 422, "invalid_request")


def test_a_stream_of_too_many_jobs_is_refused(client: TestClient) -> None:
    problem(client.get("/v1/stream", params={"job": [f"job_{n}" for n in range(201)]}), 422, "invalid_request")


def test_a_stream_with_another_projects_job_among_them_is_refused(client: TestClient, service: Service) -> None:
    mine, theirs = submit(service), submit(service, project="other")
    problem(client.get("/v1/stream", params={"job": [mine, theirs]}), 404, "not_found")
    problem(client.get("/v1/stream", params={"experiment": make_experiment(service, 1, "other")}), 404, "not_found")


# Keys that no longer hold.


@pytest.fixture
def opened(service: Service, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Set what happens as soon as a stream is open; the service then asks again whether its key holds."""
    monkeypatch.setattr(service.broker, "_ping_seconds", 0.02)
    open_stream = service.broker.open

    def then(action: Callable[[], object]) -> None:
        async def open_and_act(*arguments: Any, **options: Any) -> Any:
            subscription = await open_stream(*arguments, **options)
            action()
            return subscription

        monkeypatch.setattr(service.broker, "open", open_and_act)

    return then


def test_a_stream_ends_once_its_key_is_revoked(
    client: TestClient, service: Service, opened: Callable[[Callable[[], object]], None]
) -> None:
    job, token = submit(service), keys.create(service.store, "test", "default", ["jobs:read"])
    opened(lambda: keys.revoke(service.store, token.split("_")[1]))
    headers = {"Authorization": f"Bearer {token}"}
    assert last_event(client.get(f"/v1/jobs/{job}/stream", headers=headers).text) == "stream.closed"
    problem(client.get(f"/v1/jobs/{job}/stream", headers=headers), 401, "unauthenticated")


@pytest.mark.parametrize("change", [{"project": "other"}, {"scopes": ["samples:read"]}])
def test_a_stream_ends_once_its_key_has_lost_the_scope_or_the_project(
    client: TestClient, service: Service, opened: Callable[[Callable[[], object]], None], change: dict[str, Any]
) -> None:
    job, token = submit(service), keys.create(service.store, "test", "default", ["jobs:read"])
    opened(lambda: service.store.write(lambda c: c.execute(update(tables.api_keys).values(change))))
    headers = {"Authorization": f"Bearer {token}"}
    assert last_event(client.get(f"/v1/jobs/{job}/stream", headers=headers).text) == "stream.closed"


def test_a_stream_without_a_key_ends_once_a_key_exists(
    client: TestClient, service: Service, opened: Callable[[Callable[[], object]], None]
) -> None:
    job = submit(service)
    opened(lambda: keys.create(service.store, "test", "default", ["admin"]))
    assert last_event(client.get("/v1/stream", params={"job": job}).text) == "stream.closed"


def last_event(text: str) -> str:
    return messages(text)[-1]["event"]


# The history.


def test_events_come_oldest_first_in_pages(client: TestClient, service: Service) -> None:
    job = submit(service)
    report(service, job, 4)
    found, after = [], 0
    while True:
        page = client.get(f"/v1/jobs/{job}/events", params={"after": after, "limit": 2}).json()
        found += [event["seq"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = page["next_after"]
    assert found == [1, 2, 3, 4, 5]
    assert page["next_after"] is None


def test_an_event_of_the_history_equals_that_of_the_stream(client: TestClient, service: Service) -> None:
    job = submit(service)
    end(service, job)
    events = client.get(f"/v1/jobs/{job}/events").json()["data"]
    streamed = messages(client.get(f"/v1/jobs/{job}/stream").text)[:-1]
    assert events == [json.loads(message["data"]) for message in streamed]


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001"])
def test_bad_bounds_of_a_page_are_refused(client: TestClient, service: Service, query: str) -> None:
    problem(client.get(f"/v1/jobs/{submit(service)}/events?{query}"), 422, "invalid_request")


# Over sockets.


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    """The service on a socket."""
    config = uvicorn.Config(make_app(service), port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    service.broker.shutdown()
    server.should_exit = True
    thread.join(DEADLINE)


class Follower(threading.Thread):
    """A client that reads a stream and reconnects after each interruption until it ends."""

    def __init__(self, url: str, job: str, *, cut_after: int | None = None) -> None:
        super().__init__()
        self.ids: list[int] = []
        self.text = ""
        self._url, self._job, self._cut_after = url, job, cut_after
        self.start()

    def run(self) -> None:
        with httpx2.Client(base_url=self._url, timeout=DEADLINE, verify=False) as connection:
            while self._read(connection):
                pass

    def _read(self, connection: httpx2.Client) -> bool:
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        with connection.stream("GET", f"/v1/jobs/{self._job}/stream", headers=headers) as response:
            if response.status_code == 204:
                return False
            text = ""
            for part in response.iter_text():
                text += part
                if self._cut_after is not None and len(ids(text)) >= self._cut_after:
                    break
        whole = text[: text.rfind("\n\n") + 2]
        self.ids += ids(whole)
        self.text += whole
        return "server.restarting" not in whole


def test_events_arrive_as_they_happen(url: str, service: Service) -> None:
    job = submit(service)
    with (
        httpx2.Client(base_url=url, timeout=DEADLINE, verify=False) as connection,
        connection.stream("GET", f"/v1/jobs/{job}/stream") as response,
    ):
        parts, text = response.iter_text(), ""
        for count in range(1, 6):
            while len(ids(text)) < count:
                text += next(parts)
            report(service, job)
    assert ids(text) == [1, 2, 3, 4, 5]


def test_clients_that_are_repeatedly_disconnected_get_every_event_once(url: str, service: Service) -> None:
    job = submit(service)
    followers = [Follower(url, job, cut_after=3 + n) for n in range(20)]
    for _ in range(30):
        report(service, job, 5)
        time.sleep(0.005)
    end(service, job)
    for follower in followers:
        follower.join(DEADLINE)
    assert all(follower.ids == list(range(1, 153)) for follower in followers)


def wait_for_streams(service: Service, count: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while service.broker.open_streams() != count:
        assert time.monotonic() < deadline, f"{service.broker.open_streams()} streams are open; expected {count}"
        time.sleep(0.005)


def test_a_shutdown_is_announced_in_every_stream_and_ends_it(url: str, service: Service) -> None:
    job = submit(service)
    followers = [Follower(url, job) for _ in range(50)]
    wait_for_streams(service, 50)
    begun = time.monotonic()
    service.broker.shutdown()
    for follower in followers:
        follower.join(DEADLINE)
    assert time.monotonic() - begun < 2
    assert all(follower.text.endswith("event: server.restarting\ndata: {}\n\n") for follower in followers)
    wait_for_streams(service, 0)


def test_a_client_that_disconnects_releases_its_stream_without_an_event(url: str, service: Service) -> None:
    job = submit(service)
    with (
        httpx2.Client(base_url=url, timeout=DEADLINE, verify=False) as connection,
        connection.stream("GET", f"/v1/jobs/{job}/stream") as response,
    ):
        parts = response.iter_text()
        next(parts)
        wait_for_streams(service, 1)
    wait_for_streams(service, 0)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A low limit of streams per key."""
    return settings.model_copy(update={"max_streams_per_key": 60})


def test_a_key_with_too_many_streams_gets_a_retry_after(url: str, service: Service) -> None:
    job = submit(service)
    followers = [Follower(url, job) for _ in range(60)]
    wait_for_streams(service, 60)
    response = httpx2.get(f"{url}/v1/jobs/{job}/stream", timeout=DEADLINE, verify=False)
    problem(response, 429, "too_many_streams")
    assert response.headers["retry-after"]
    end(service, job)
    for follower in followers:
        follower.join(DEADLINE)
