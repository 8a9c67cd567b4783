"""Output of a job over HTTP."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection

from server.queue import queue
from server.service import Service

PRINTED = "first line\nzweite Zeile: größer als ≈ 9\nlast 🙂\n"


def submit(service: Service, printed: bytes | None = None, *, ended: bool = True, project: str = "default") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")

    def work(connection: Connection) -> str:
        job = queue.create(connection, new)
        if ended:
            queue.cancel(connection, job)
        return str(job["id"])

    job = service.store.write(work)
    if printed is not None:
        directory = service.settings.job_dir(job)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "console.log").write_bytes(printed)
    return job


def read(client: TestClient, job: str, **params: int) -> dict[str, Any]:
    response = client.get(f"/v1/jobs/{job}/logs", params=params)
    assert response.status_code == 200, response.text
    chunk: dict[str, Any] = response.json()
    return chunk


def test_a_log_is_read_whole(client: TestClient, service: Service) -> None:
    job = submit(service, PRINTED.encode())
    size = len(PRINTED.encode())
    assert read(client, job) == {"offset": 0, "next_offset": size, "text": PRINTED, "complete": True}


@pytest.mark.parametrize("limit", [4, 5, 7, 11, 13])
def test_parts_of_any_size_join_to_the_whole_text(client: TestClient, service: Service, limit: int) -> None:
    job = submit(service, PRINTED.encode())
    text, after = "", 0
    for _ in range(100):
        chunk = read(client, job, after=after, limit=limit)
        assert chunk["offset"] == after
        text, after = text + chunk["text"], chunk["next_offset"]
        if chunk["complete"]:
            break
    assert text == PRINTED


def test_an_incomplete_character_is_left_for_the_next_part(client: TestClient, service: Service) -> None:
    whole = "größer".encode()
    job = submit(service, whole[:3], ended=False)
    first = read(client, job)
    assert (first["text"], first["next_offset"], first["complete"]) == ("gr", 2, False)
    (service.settings.job_dir(job) / "console.log").write_bytes(whole)
    assert read(client, job, after=2)["text"] == "ößer"


def test_an_incomplete_character_at_the_end_is_replaced(client: TestClient, service: Service) -> None:
    job = submit(service, "größer".encode()[:3])
    assert read(client, job) == {"offset": 0, "next_offset": 3, "text": "gr\ufffd", "complete": True}


def test_bytes_that_are_not_text_are_replaced(client: TestClient, service: Service) -> None:
    chunk = read(client, submit(service, b"a\xff\x00b\n"))
    assert chunk["text"] == "a\ufffd\x00b\n"
    assert chunk["next_offset"] == 5


def test_a_running_jobs_log_is_not_complete(client: TestClient, service: Service) -> None:
    assert read(client, submit(service, b"so far\n", ended=False))["complete"] is False


def test_a_part_that_is_not_the_last_is_not_complete(client: TestClient, service: Service) -> None:
    chunk = read(client, submit(service, b"0123456789"), limit=4)
    assert (chunk["text"], chunk["complete"]) == ("0123", False)


def test_a_job_that_printed_nothing_has_an_empty_log(client: TestClient, service: Service) -> None:
    assert read(client, submit(service)) == {"offset": 0, "next_offset": 0, "text": "", "complete": True}
    assert read(client, submit(service, ended=False))["complete"] is False


def test_an_offset_beyond_the_end_returns_no_text(client: TestClient, service: Service) -> None:
    chunk = read(client, submit(service, b"abc"), after=100)
    assert (chunk["text"], chunk["next_offset"]) == ("", 100)


def test_a_log_as_text_has_the_next_offset_in_a_header(client: TestClient, service: Service) -> None:
    job = submit(service, PRINTED.encode())
    response = client.get(f"/v1/jobs/{job}/logs", headers={"Accept": "text/plain"}, params={"limit": 11})
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "first line\n"
    assert response.headers["x-next-offset"] == "11"
    assert response.headers["x-complete"] == "false"


@pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=3", "limit=2000000"])
def test_bad_bounds_are_refused(client: TestClient, service: Service, query: str) -> None:
    response = client.get(f"/v1/jobs/{submit(service)}/logs?{query}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_another_projects_log_does_not_exist(client: TestClient, service: Service) -> None:
    response = client.get(f"/v1/jobs/{submit(service, b'secret', project='other')}/logs")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "secret" not in response.text
