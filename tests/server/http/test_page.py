"""The page and its files as the service sends them, and the session of a browser."""

import gzip
import re

import pytest
from fastapi.testclient import TestClient

from server.http.auth import COOKIE
from server.http.page import POLICY
from server.service import Service
from server.settings import Settings
from server.store import keys
from server.store.store import Store
from tests.support.kept import add_run
from tests.support.paths import ROOT


def asset(client: TestClient, name: str) -> str:
    """The address of a file of the page."""
    [tag] = set(re.findall(r'"ui/([0-9a-f]{16})/', client.get("/").text))
    return f"/ui/{tag}/{name}"


def test_the_page_is_sent_under_a_strict_policy_and_needs_no_key(client: TestClient, service: Service) -> None:
    keys.create(service.store, "ann", "default", ["admin"])
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY and "require-trusted-types-for 'script'" in POLICY
    unchanged = client.get("/", headers={"If-None-Match": answer.headers["etag"]})
    assert (unchanged.status_code, unchanged.headers["content-security-policy"]) == (304, POLICY)


def test_every_file_of_the_page_is_sent_unchanged_with_its_type_and_kept_for_ever(client: TestClient) -> None:
    folder = ROOT / "server" / "page"
    names = [
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "index.html"
    ]
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".LICENSE": "text/plain"}
    for name in names:
        answer = client.get(asset(client, name))
        assert answer.content == (folder / name).read_bytes()
        kind = next(kind for ending, kind in types.items() if name.endswith(ending))
        assert answer.headers["content-type"].split(";")[0] == kind
        assert "immutable" in answer.headers["cache-control"]


def test_no_file_of_the_page_names_another_host_or_has_code_in_its_markup() -> None:
    folder = ROOT / "server" / "page"
    for path in folder.rglob("*"):
        if path.suffix in (".js", ".html", ".css") and "vendor" not in path.parts:
            text = path.read_text()
            assert not re.findall(
                r"https?://(?!www\.w3\.org/)|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text
            ), path
    assert not re.findall(r"<script(?![^>]*src=)|\sstyle=|\son\w+=", (folder / "index.html").read_text())


def test_files_are_compressed_for_those_who_can_read_that(client: TestClient) -> None:
    plain = client.get(asset(client, "main.js"), headers={"Accept-Encoding": "identity"})
    packed = client.get(asset(client, "main.js"), headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers and packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content  # the client decompresses
    assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"


def test_all_files_together_weigh_less_than_150_kb_compressed() -> None:
    folder = ROOT / "server" / "page"
    sizes = [len(gzip.compress(path.read_bytes())) for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 150_000


def test_a_misspelled_address_is_still_a_problem_and_not_the_page(client: TestClient) -> None:
    for path in ("/v1/jbos", "/ui/0000000000000000/main.js", "/index.html"):
        answer = client.get(path, headers={"Accept": "text/html"})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.fixture
def token(service: Service) -> str:
    return keys.create(service.store, "ann", "default", ["jobs:read"])


ORIGIN = {"Origin": "http://localhost"}


def test_a_session_is_begun_with_a_key_and_ended(client: TestClient, token: str) -> None:
    assert client.get("/v1/jobs").status_code == 401
    begun = client.post("/session", json={"key": token}, headers=ORIGIN)
    assert begun.status_code == 204
    cookie = begun.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}={token};")
    for attribute in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    session = {"Cookie": f"{COOKIE}={token}"}
    assert client.get("/v1/jobs", headers=session).status_code == 200
    ended = client.delete("/session", headers=ORIGIN | session)
    assert ended.status_code == 204 and "Max-Age=0" in ended.headers["set-cookie"]


@pytest.mark.parametrize("key", ["", "gk_unknown", "gk_abcdefghijkl_" + "A" * 43])
def test_no_session_is_begun_with_a_wrong_key(client: TestClient, token: str, key: str) -> None:
    answer = client.post("/session", json={"key": key}, headers=ORIGIN)
    assert answer.status_code == 401 and "set-cookie" not in answer.headers


def test_a_session_of_a_revoked_key_is_over(client: TestClient, service: Service, token: str) -> None:
    keys.revoke(service.store, token.split("_")[1])
    assert client.get("/v1/jobs", headers={"Cookie": f"{COOKIE}={token}"}).status_code == 401


@pytest.mark.parametrize("origin", [{}, {"Origin": "http://evil.example"}])
def test_a_page_of_another_site_changes_nothing_with_the_session(
    client: TestClient, token: str, origin: dict[str, str]
) -> None:
    headers = {"Cookie": f"{COOKIE}={token}", **origin}
    answer = client.post("/v1/jobs", json={"preset": "digits_cnn"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_not_allowed")


def test_a_header_counts_before_the_cookie(client: TestClient, token: str) -> None:
    headers = {"Cookie": f"{COOKIE}={token}", "Authorization": "Bearer gk_wrong"}
    assert client.get("/v1/jobs", headers=headers).status_code == 401


def test_a_job_names_its_newest_grid(client: TestClient, store: Store, service: Service, settings: Settings) -> None:
    job_id = add_run(service.store, settings)
    newest = client.get(f"/v1/jobs/{job_id}").json()["newest_sample"]
    steps = [sample["step"] for sample in client.get(f"/v1/jobs/{job_id}/samples").json()["data"]]
    assert newest["step"] == max(steps)
    assert client.get(newest["links"]["image"]).headers["content-type"] == "image/png"
    assert client.get(f"{newest['links']['thumbnail']}&width=64").status_code == 200


def test_a_job_without_grids_names_none(client: TestClient) -> None:
    assert client.post("/v1/jobs", json={"preset": "digits_cnn"}).json()["newest_sample"] is None
