"""Files by the hash of their content: caching, ranges and access."""

import time

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection

from gan_mhe.files import atomic_write, sha256_bytes
from server.queue import queue
from server.service import Service
from server.store import artifacts

CONTENT = bytes(range(256)) * 4


def add(service: Service, content: bytes = CONTENT, media_type: str = "image/png", project: str = "default") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")
    digest = sha256_bytes(content)

    def work(connection: Connection) -> str:
        job = queue.create(connection, new)
        artifacts.add_blob(connection, job["id"], digest, "output/file", media_type, len(content))
        return str(job["id"])

    directory = service.settings.job_dir(service.store.write(work)) / "output"
    directory.mkdir(parents=True)
    (directory / "file").write_bytes(content)
    return digest


def test_a_blob_is_its_content_and_may_be_cached_forever(client: TestClient, service: Service) -> None:
    digest = add(service)
    response = client.get(f"/v1/blobs/{digest}")
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert response.headers["etag"] == f'"sha256-{digest}"'
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_has_other_content_by_now_is_not_found(client: TestClient, service: Service) -> None:
    digest = add(service)
    [file] = service.settings.job_dir("").glob("*/output/file")
    atomic_write(file, b"others")
    response = client.get(f"/v1/blobs/{digest}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_images_are_shown_inline_and_other_files_downloaded(client: TestClient, service: Service) -> None:
    shown = client.get(f"/v1/blobs/{add(service)}").headers
    assert shown["content-type"] == "image/png"
    assert shown["content-disposition"].startswith("inline")
    saved = client.get(f"/v1/blobs/{add(service, b'PK', 'application/zip')}").headers
    assert saved["content-type"] == "application/zip"
    assert saved["content-disposition"].startswith("attachment")
    assert saved["content-disposition"].endswith('.zip"')


@pytest.mark.parametrize("known", ['"sha256-{}"', 'W/"sha256-{}"', '"other", "sha256-{}"', "*"])
def test_a_client_with_the_current_version_gets_304(client: TestClient, service: Service, known: str) -> None:
    digest = add(service)
    response = client.get(f"/v1/blobs/{digest}", headers={"If-None-Match": known.replace("{}", digest)})
    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["etag"] == f'"sha256-{digest}"'
    assert "immutable" in response.headers["cache-control"]


def test_a_client_with_another_version_gets_the_content(client: TestClient, service: Service) -> None:
    response = client.get(f"/v1/blobs/{add(service)}", headers={"If-None-Match": '"sha256-0"'})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-9", 0, 9), ("bytes=1000-", 1000, 1023), ("bytes=-4", 1020, 1023), ("bytes=1000-9999", 1000, 1023)],
)
def test_a_single_range_is_returned(client: TestClient, service: Service, asked: str, first: int, last: int) -> None:
    response = client.get(f"/v1/blobs/{add(service)}", headers={"Range": asked})
    assert response.status_code == 206
    assert response.content == CONTENT[first : last + 1]
    assert response.headers["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(last + 1 - first)


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=9-3", "bytes=x-y", "bytes", "bytes=-", "items=0-1", "bytes=0-1;2-3", "bytes=--1"]
)
def test_any_other_range_is_ignored(client: TestClient, service: Service, asked: str) -> None:
    response = client.get(f"/v1/blobs/{add(service)}", headers={"Range": asked})
    assert (response.status_code, response.content) == (200, CONTENT)


def test_thousands_of_ranges_are_ignored_at_no_cost(client: TestClient, service: Service) -> None:
    digest = add(service)
    ranges = ",".join(f"{n}-{n + 1}" for n in range(8000))
    begun = time.monotonic()
    response = client.get(f"/v1/blobs/{digest}", headers={"Range": f"bytes={ranges}"})
    assert response.status_code == 200
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_beyond_the_end_is_refused(client: TestClient, service: Service, asked: str) -> None:
    response = client.get(f"/v1/blobs/{add(service)}", headers={"Range": asked})
    assert response.status_code == 416
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["content-range"] == "bytes */1024"


def test_a_range_of_an_older_version_returns_the_whole_file(client: TestClient, service: Service) -> None:
    digest = add(service)
    headers = {"Range": "bytes=0-9", "If-Range": '"sha256-0"'}
    assert client.get(f"/v1/blobs/{digest}", headers=headers).status_code == 200
    headers["Range"] = "bytes=5000-"
    assert client.get(f"/v1/blobs/{digest}", headers=headers).status_code == 200
    headers = {"Range": "bytes=0-9", "If-Range": f'"sha256-{digest}"'}
    assert client.get(f"/v1/blobs/{digest}", headers=headers).status_code == 206


def test_an_empty_file_has_no_range(client: TestClient, service: Service) -> None:
    digest = add(service, b"")
    assert client.get(f"/v1/blobs/{digest}").content == b""
    for asked in ("bytes=0-", "bytes=-5"):
        assert client.get(f"/v1/blobs/{digest}", headers={"Range": asked}).status_code == 416


def test_another_projects_blob_does_not_exist(client: TestClient, service: Service) -> None:
    digest = add(service, b"secret", project="other")
    for headers in ({}, {"If-None-Match": f'"sha256-{digest}"'}, {"Range": "bytes=0-1"}):
        response = client.get(f"/v1/blobs/{digest}", headers=headers)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_the_same_bytes_of_two_projects_are_found_by_both(client: TestClient, service: Service) -> None:
    add(service, project="other")
    assert client.get(f"/v1/blobs/{add(service)}").status_code == 200


@pytest.mark.parametrize("digest", ["x", "0" * 63, "g" * 64, "0" * 65, "..%2f..%2fservice.sqlite3", "A" * 64])
def test_an_invalid_hash_is_rejected(client: TestClient, digest: str) -> None:
    assert client.get(f"/v1/blobs/{digest}").status_code in (404, 422)


def test_a_missing_file_is_not_an_internal_error(client: TestClient, service: Service) -> None:
    digest = add(service)
    for file in service.settings.data_dir.glob("jobs/*/output/file"):
        file.unlink()
    response = client.get(f"/v1/blobs/{digest}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
