"""HEAD is answered like GET, without a body."""

from pathlib import Path

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import Connection

from gan_mhe.files import sha256_bytes
from server.queue import queue
from server.queue.queue import NewJob
from server.queue.states import State
from server.service import Service
from server.store import artifacts

CONTENT = b"0123456789" * 100


@pytest.fixture
def job(service: Service) -> str:
    """A running job, whose stream does not end."""
    new = NewJob(project="default", request={}, request_sha256="0")
    return str(service.store.write(lambda connection: queue.create(connection, new, State.PAUSED))["id"])


@pytest.fixture
def blob(service: Service, job: str) -> str:
    """The hash of a file of the job."""
    path = Path(service.settings.job_dir(job)) / "images.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    sha256 = sha256_bytes(CONTENT)

    def work(connection: Connection) -> None:
        artifacts.add_blob(connection, job, sha256, path.name, "application/zip", len(CONTENT))

    service.store.write(work)
    return sha256


def test_every_get_route_answers_head_with_the_same_status_and_headers(client: TestClient) -> None:
    paths = {context.path or "" for context in iter_route_contexts(client.app.routes) if "GET" in context.methods}  # type: ignore[attr-defined,operator]
    assert {"/healthz", "/v1/jobs", "/docs", "/openapi.json"} < paths
    varying = ("x-request-id", "content-length")  # metrics and the uptime change between the two requests
    for path in paths:
        get, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        for name in get.headers.keys() - varying:
            assert head.headers[name] == get.headers[name], (path, name)
        assert ("content-length" in head.headers) == ("content-length" in get.headers)


def test_the_length_of_a_file_is_told_without_reading_it(
    client: TestClient, blob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyio.open_file", None)
    response = client.head(f"/v1/blobs/{blob}", headers={"Range": "bytes=0-9"})
    assert (response.status_code, response.headers["content-length"]) == (200, str(len(CONTENT)))
    assert response.headers["etag"] == f'"sha256-{blob}"'


def test_the_head_of_a_stream_that_goes_on_ends_at_once(client: TestClient, service: Service, job: str) -> None:
    response = client.head(f"/v1/jobs/{job}/stream")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "gan_mhe_event_streams 0.0" in client.get("/metrics").text


def test_an_empty_last_event_id_counts_as_none(client: TestClient, job: str) -> None:
    assert client.head(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": ""}).status_code == 200
    assert client.head(f"/v1/jobs/{job}/stream", headers={"Last-Event-ID": "-1"}).status_code == 422


def test_head_is_not_answered_where_get_is_not(client: TestClient) -> None:
    response = client.head("/v1/jobs/x/cancel")
    assert (response.status_code, response.headers["allow"], response.content) == (405, "POST", b"")


def test_options_stays_unanswered_and_lists_head(client: TestClient) -> None:
    response = client.options("/v1/jobs")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, POST")
