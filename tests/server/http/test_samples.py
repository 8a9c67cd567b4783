"""Sample grids over HTTP: list, description, thumbnail and animation."""

import io
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from sqlalchemy import Connection

from gan_mhe.files import sha256_bytes
from server.clock import now_ms
from server.queue import queue
from server.service import Service
from server.store import artifacts, tables


def submit(service: Service, project: str = "default") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")
    return str(service.store.write(lambda c: queue.create(c, new))["id"])


def png(shade: int, side: int = 96) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 255 - shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def draw(service: Service, job_id: str, step: int, *, pruned: bool = False) -> str:
    """Create a grid as the indexer would; return its hash."""
    content = png(step % 256)
    digest, path = sha256_bytes(content), f"run/samples/step_{step:08d}.png"
    if not pruned:
        file: Path = service.settings.job_dir(job_id) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    row = {
        "job_id": job_id,
        "step": step,
        "attempt": 1,
        "sha256": digest,
        "path": path,
        "size_bytes": len(content),
        "width": 96,
        "height": 96,
        "created_at": now_ms(),
        "pruned_at": now_ms() if pruned else None,
    }

    def work(connection: Connection) -> None:
        connection.execute(tables.samples.insert().values(row))
        if not pruned:
            artifacts.add_blob(connection, job_id, digest, path, "image/png", len(content))

    service.store.write(work)
    return digest


def test_grids_are_listed_by_step_in_pages(client: TestClient, service: Service) -> None:
    job = submit(service)
    for step in (0, 5, 10):
        draw(service, job, step)
    first = client.get(f"/v1/jobs/{job}/samples", params={"limit": 2}).json()
    assert [sample["step"] for sample in first["data"]] == [0, 5]
    assert (first["has_more"], first["next_after"]) == (True, 5)
    rest = client.get(f"/v1/jobs/{job}/samples", params={"limit": 2, "after": 5}).json()
    assert [sample["step"] for sample in rest["data"]] == [10]
    assert (rest["has_more"], rest["next_after"]) == (False, None)


def test_a_grids_description_links_to_its_image(client: TestClient, service: Service) -> None:
    job = submit(service)
    digest = draw(service, job, 5)
    sample = client.get(f"/v1/jobs/{job}/samples/5").json()
    assert (sample["step"], sample["sha256"], sample["width"], sample["pruned"]) == (5, digest, 96, False)
    assert sample["links"]["image"] == f"/v1/blobs/{digest}"
    assert client.get(sample["links"]["image"]).content == png(5)
    assert client.get(sample["links"]["thumbnail"]).headers["content-type"] == "image/png"


def test_a_deleted_grid_is_listed_without_an_image(client: TestClient, service: Service) -> None:
    job = submit(service)
    draw(service, job, 3, pruned=True)
    [sample] = client.get(f"/v1/jobs/{job}/samples").json()["data"]
    assert sample["pruned"] is True
    assert sample["links"].keys() == {"self"}
    response = client.get(f"/v1/jobs/{job}/samples/3/thumbnail")
    assert (response.status_code, response.json()["code"]) == (409, "not_ready")


def test_the_newest_grid_is_a_redirect(client: TestClient, service: Service) -> None:
    job = submit(service)
    draw(service, job, 0)
    digest = draw(service, job, 7)
    response = client.get(f"/v1/jobs/{job}/samples/latest", follow_redirects=False)
    assert response.status_code == 307
    assert response.headers["location"] == f"/v1/blobs/{digest}"
    assert "no-cache" in response.headers["cache-control"]
    known = {"If-None-Match": response.headers["etag"]}
    assert client.get(f"/v1/jobs/{job}/samples/latest", headers=known, follow_redirects=False).status_code == 304
    draw(service, job, 8)
    assert client.get(f"/v1/jobs/{job}/samples/latest", headers=known, follow_redirects=False).status_code == 307


def test_the_newest_grid_of_a_job_without_grids_is_not_ready(client: TestClient, service: Service) -> None:
    response = client.get(f"/v1/jobs/{submit(service)}/samples/latest", follow_redirects=False)
    assert (response.status_code, response.json()["code"]) == (409, "not_ready")


@pytest.mark.parametrize("path", ["0", "0/thumbnail"])
def test_a_missing_grid_is_not_found(client: TestClient, service: Service, path: str) -> None:
    response = client.get(f"/v1/jobs/{submit(service)}/samples/{path}", follow_redirects=False)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["", "/latest", "/0", "/0/thumbnail", "/animation"])
def test_another_projects_grids_do_not_exist(client: TestClient, service: Service, path: str) -> None:
    job = submit(service, project="other")
    draw(service, job, 0)
    response = client.get(f"/v1/jobs/{job}/samples{path}", follow_redirects=False)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path", ["-1", "x", str(2**63), "0/thumbnail?width=100", "animation?fps=0", "animation?format=mp4", "?after=-2"]
)
def test_an_invalid_query_is_rejected(client: TestClient, service: Service, path: str) -> None:
    job = submit(service)
    draw(service, job, 0)
    separator = "" if path.startswith("?") else "/"
    response = client.get(f"/v1/jobs/{job}/samples{separator}{path}")
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")


def test_a_thumbnail_has_the_requested_width(client: TestClient, service: Service) -> None:
    job = submit(service)
    draw(service, job, 4)
    response = client.get(f"/v1/jobs/{job}/samples/4/thumbnail?width=64")
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)
    assert "no-cache" in response.headers["cache-control"]


def test_a_thumbnail_requested_by_hash_may_be_cached_forever(client: TestClient, service: Service) -> None:
    job = submit(service)
    digest = draw(service, job, 4)
    url = f"/v1/jobs/{job}/samples/4/thumbnail?width=64&sha256="
    response = client.get(url + digest)
    assert "immutable" in response.headers["cache-control"]
    assert "immutable" not in client.get(url + "0" * 64).headers["cache-control"]
    assert client.get(url + digest, headers={"If-None-Match": response.headers["etag"]}).status_code == 304
    other = f"/v1/jobs/{job}/samples/4/thumbnail?width=128&sha256={digest}"
    assert client.get(other, headers={"If-None-Match": response.headers["etag"]}).status_code == 200


def test_a_thumbnail_deleted_in_the_meantime_is_not_an_internal_error(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def thumbnail(*_arguments: Any) -> Path:
        return service.settings.image_cache / "cleared.png"

    job = submit(service)
    draw(service, job, 4)
    monkeypatch.setattr(service.image_cache, "thumbnail", thumbnail)
    response = client.get(f"/v1/jobs/{job}/samples/4/thumbnail")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_an_animation_shows_every_existing_grid(client: TestClient, service: Service, format: str) -> None:
    job = submit(service)
    for step in (0, 40, 80):
        draw(service, job, step)
    draw(service, job, 60, pruned=True)
    response = client.get(f"/v1/jobs/{job}/samples/animation", params={"format": format, "fps": 4})
    assert response.headers["content-type"] == f"image/{format}"
    animation: Any = Image.open(io.BytesIO(response.content))
    assert animation.n_frames == 3
    known = {"If-None-Match": response.headers["etag"]}
    again = client.get(f"/v1/jobs/{job}/samples/animation", params={"format": format, "fps": 4}, headers=known)
    assert again.status_code == 304


def test_an_animations_etag_changes_with_a_new_grid(client: TestClient, service: Service) -> None:
    job = submit(service)
    draw(service, job, 0)
    before = client.get(f"/v1/jobs/{job}/samples/animation").headers["etag"]
    draw(service, job, 40)
    assert client.get(f"/v1/jobs/{job}/samples/animation").headers["etag"] != before


def test_an_animation_without_grids_is_not_ready(client: TestClient, service: Service) -> None:
    response = client.get(f"/v1/jobs/{submit(service)}/samples/animation")
    assert (response.status_code, response.json()["code"]) == (409, "not_ready")
