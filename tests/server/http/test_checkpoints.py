"""Checkpoints over HTTP: listed and downloaded."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gan_mhe.files import canonical_json, sha256_bytes, write_json
from server.clock import now_ms
from server.ids import new_id
from server.queue import queue
from server.service import Service
from server.store import tables

TENSORS = bytes(range(200))


def submit(service: Service, project: str = "default") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")
    return str(service.store.write(lambda c: queue.create(c, new))["id"])


def save(service: Service, job_id: str, step: int, status: str = "available") -> str:
    """Create a checkpoint as run and indexer would; return its id."""
    checkpoint_id, path = new_id("ckpt"), f"run/checkpoints/step_{step:08d}"
    if status == "available":
        directory: Path = service.settings.job_dir(job_id) / path
        directory.mkdir(parents=True)
        (directory / "tensors.safetensors").write_bytes(TENSORS)
        seal(directory, manifest_of(step))
    row = {"id": checkpoint_id, "job_id": job_id, "step": step, "attempt": 1, "sha256": f"{step:064d}", "path": path}
    row |= {"size_bytes": len(TENSORS), "status": status, "created_at": now_ms()}
    service.store.write(lambda c: c.execute(tables.checkpoints.insert().values(row)))
    return checkpoint_id


def manifest_of(step: int) -> dict[str, Any]:
    return {
        "format": 1,
        "step": step,
        "lineage": "a" * 64,
        "tensors_sha256": sha256_bytes(TENSORS),
        "notes": {"evaluations": 0},
    }


def seal(directory: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the hash of what it says."""
    write_json(directory / "manifest.json", manifest | {"sha256": sha256_bytes(canonical_json(manifest))})


def problem(response: Any, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text


def test_checkpoints_are_listed_by_step_with_their_status(client: TestClient, service: Service) -> None:
    job = submit(service)
    kept, gone = save(service, job, 20), save(service, job, 10, "pruned")
    body = client.get(f"/v1/jobs/{job}/checkpoints").json()
    assert [(row["id"], row["step"], row["status"]) for row in body["data"]] == [
        (gone, 10, "pruned"),
        (kept, 20, "available"),
    ]
    assert body["has_more"] is False
    assert body["data"][0]["links"].keys() == {"self"}
    assert body["data"][1]["links"].keys() == {"self", "content", "manifest", "samples", "scores"}
    assert "path" not in body["data"][1]


def test_a_checkpoint_is_found_by_its_id(client: TestClient, service: Service) -> None:
    job = submit(service)
    checkpoint = client.get(f"/v1/checkpoints/{save(service, job, 20)}").json()
    assert (checkpoint["job_id"], checkpoint["step"], checkpoint["sha256"]) == (job, 20, f"{20:064d}")


def test_tensors_are_downloaded_with_their_hash_as_etag(client: TestClient, service: Service) -> None:
    job = submit(service)
    response = client.get(f"/v1/checkpoints/{save(service, job, 20)}/content")
    assert response.content == TENSORS
    assert response.headers["etag"] == f'"sha256-{sha256_bytes(TENSORS)}"'
    assert response.headers["content-disposition"] == f'attachment; filename="{job}-step20.safetensors"'
    assert response.headers["content-type"] == "application/octet-stream"


def test_a_broken_download_can_be_resumed(client: TestClient, service: Service) -> None:
    url = f"/v1/checkpoints/{save(service, submit(service), 20)}/content"
    etag = client.get(url).headers["etag"]
    response = client.get(url, headers={"Range": "bytes=150-", "If-Range": etag})
    assert (response.status_code, response.content) == (206, TENSORS[150:])
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_a_manifest_is_shown(client: TestClient, service: Service) -> None:
    checkpoint = save(service, submit(service), 20)
    manifest = client.get(f"/v1/checkpoints/{checkpoint}/manifest").json()
    assert manifest == manifest_of(20)


@pytest.mark.parametrize(
    "change",
    [
        {"tensors_sha256": "0" * 64},
        {"tensors_sha256": "0" * 64 + "\r\nX: y"},
        {"tensors_sha256": 5},
        {"notes": "none"},
        {"step": 10**30},
    ],
)
def test_a_manifest_that_lies_or_is_none_makes_no_download(
    client: TestClient, service: Service, change: dict[str, Any]
) -> None:
    job = submit(service)
    checkpoint = save(service, job, 20)
    seal(service.settings.job_dir(job) / "run/checkpoints/step_00000020", manifest_of(20) | change)
    response = client.get(f"/v1/checkpoints/{checkpoint}/content")
    problem(response, 409, "not_ready")
    assert "etag" not in response.headers and "is damaged" in response.json()["detail"]
    assert str(service.settings.data_dir) not in response.text


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff", b'{"step": NaN}'])
@pytest.mark.parametrize("part", ["content", "manifest"])
def test_a_manifest_that_is_no_json_is_not_ready(
    client: TestClient, service: Service, part: str, content: bytes
) -> None:
    job = submit(service)
    checkpoint = save(service, job, 20)
    (service.settings.job_dir(job) / "run/checkpoints/step_00000020/manifest.json").write_bytes(content)
    problem(client.get(f"/v1/checkpoints/{checkpoint}/{part}"), 409, "not_ready")


def test_tensors_that_are_not_those_of_the_manifest_are_not_downloaded(client: TestClient, service: Service) -> None:
    job = submit(service)
    checkpoint = save(service, job, 20)
    (service.settings.job_dir(job) / "run/checkpoints/step_00000020/tensors.safetensors").write_bytes(b"others")
    problem(client.get(f"/v1/checkpoints/{checkpoint}/content"), 409, "not_ready")


@pytest.mark.parametrize("status", ["pruned", "rejected"])
@pytest.mark.parametrize("part", ["content", "manifest"])
def test_a_checkpoint_that_is_no_longer_kept_is_not_ready(
    client: TestClient, service: Service, part: str, status: str
) -> None:
    checkpoint = save(service, submit(service), 20, status)
    problem(client.get(f"/v1/checkpoints/{checkpoint}/{part}"), 409, "not_ready")


@pytest.mark.parametrize("lost", ["tensors.safetensors", "manifest.json"])
@pytest.mark.parametrize("part", ["content", "manifest"])
def test_a_checkpoint_that_has_lost_a_file_is_not_found(
    client: TestClient, service: Service, part: str, lost: str
) -> None:
    job = submit(service)
    checkpoint = save(service, job, 20)
    (service.settings.job_dir(job) / "run/checkpoints/step_00000020" / lost).unlink()
    problem(client.get(f"/v1/checkpoints/{checkpoint}/{part}"), 404, "not_found")


@pytest.mark.parametrize("part", ["", "/content", "/manifest"])
def test_another_projects_checkpoint_does_not_exist(client: TestClient, service: Service, part: str) -> None:
    job = submit(service, project="other")
    checkpoint = save(service, job, 20)
    problem(client.get(f"/v1/checkpoints/{checkpoint}{part}"), 404, "not_found")
    problem(client.get(f"/v1/checkpoints/ckpt_unknown{part}"), 404, "not_found")
    problem(client.get(f"/v1/jobs/{job}/checkpoints"), 404, "not_found")
