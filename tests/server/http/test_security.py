"""Rejected requests, tested for every route of the application instead of a manual list."""

import itertools
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient
from sqlalchemy import Connection, insert
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from gan_mhe.errors import StorageError
from server.clock import now_ms
from server.http.auth import Scope
from server.http.connections import CROWDED
from server.ids import new_id
from server.queue import queue
from server.service import Service
from server.store import keys, tables
from tests.support.app import make_client
from tests.support.looped import looped

OPEN = {"/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon.png", "/openapi.json"}
OPEN |= {"/healthz", "/readyz", "/", "/session"}
HARDENED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def routes(client: TestClient) -> list[tuple[str, str, Any]]:
    """Method, path and route of every endpoint."""
    app: Any = client.app
    found = []
    for context in iter_route_contexts(app.routes):
        for method in sorted(context.methods or {"GET"}):
            found.append((method, str(context.path), context))
    return found


def scopes(dependant: Dependant) -> Iterator[Scope]:
    if isinstance(dependant.call, Scope):
        yield dependant.call
    for inner in dependant.dependencies:
        yield from scopes(inner)


def guarded(client: TestClient) -> list[tuple[str, str, Scope]]:
    """Every protected route with its scope."""
    found = []
    for method, path, context in routes(client):
        if path not in OPEN and not path.startswith("/ui/"):
            [scope] = scopes(context.dependant)
            found.append((method, path, scope))
    return found


def filled(path: str, **values: str) -> str:
    names = {"step": "10", "sha256": "0" * 64, "name": "debug_cpu"} | values
    for name, value in names.items():
        path = path.replace(f"{{{name}}}", value)
    for kind in ("job", "experiment", "checkpoint", "task"):
        path = path.replace(f"{{{kind}_id}}", f"{kind}_none")
    assert "{" not in path
    return path


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def key(service: Service, *granted: str, project: str = "default") -> dict[str, str]:
    return bearer(keys.create(service.store, "test", project, granted))


def refused(response: Any, status: int, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"


# The route table.


def test_every_route_of_the_api_requires_exactly_one_scope(client: TestClient) -> None:
    found = guarded(client)
    assert len(found) > 30
    assert all(path.startswith("/v1/") for _, path, _scope in found if path != "/metrics")


def test_metrics_of_all_projects_are_for_admins(client: TestClient) -> None:
    assert [scope.name for _, path, scope in guarded(client) if path == "/metrics"] == ["admin"]


def test_reading_never_requires_a_write_scope_nor_changing_a_read_scope(client: TestClient) -> None:
    for method, path, scope in guarded(client):
        if method in ("POST", "PATCH", "PUT", "DELETE"):
            assert scope.name in ("jobs:write", "admin"), (method, path)
        else:
            assert scope.name.endswith(":read") or scope.name == "admin", (method, path)


def test_no_route_accepts_a_path(client: TestClient) -> None:
    for _, path, context in routes(client):
        assert ":path" not in path
        assert isinstance(getattr(context, "original_route", context), APIRoute) or path == "/openapi.json"


def test_once_a_key_exists_every_request_requires_one(client: TestClient, service: Service) -> None:
    key(service, "jobs:read")
    for method, path, _ in guarded(client):
        response = client.request(method, filled(path))
        refused(response, 401, "unauthenticated")
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "authorization", ["Bearer gk_aaaaaaaaaaaa_" + "A" * 43, "Bearer", "Bearer x", "Basic eDp5", "gk_x", "\xff"]
)
def test_an_invalid_key_is_rejected_even_where_no_key_is_required(
    client: TestClient, service: Service, authorization: str
) -> None:
    key(service, "jobs:read")
    response = client.get("/v1/jobs", headers={"Authorization": authorization.encode("latin-1")})
    refused(response, 401, "unauthenticated")


def test_a_key_without_the_scope_is_refused_by_every_route(client: TestClient, service: Service) -> None:
    tokens = {
        name: key(service, *(scope for scope in keys.SCOPES if scope not in (name, "admin"))) for name in keys.SCOPES
    }
    for method, path, scope in guarded(client):
        refused(client.request(method, filled(path), headers=tokens[scope.name]), 403, "forbidden")


def test_a_key_with_exactly_the_scope_is_accepted_by_every_route(client: TestClient, service: Service) -> None:
    tokens = {name: key(service, name) for name in keys.SCOPES}
    for method, path, scope in guarded(client):
        response = client.request(method, filled(path), headers=tokens[scope.name])
        assert response.status_code not in (401, 403, 405, 500), (method, path, response.text)


def test_admin_may_do_everything(client: TestClient, service: Service) -> None:
    token = key(service, "admin")
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=token).status_code == 201
    assert client.get("/metrics", headers=token).status_code == 200


def test_another_project_cannot_access_our_resources(client: TestClient, service: Service) -> None:
    own, other = key(service, "admin", project="ours"), key(service, "admin", project="theirs")
    job = client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=own).json()
    experiment = client.post(
        "/v1/experiments", json={"preset": "debug_cpu", "matrix": {"seed": [1]}}, headers=own
    ).json()
    ids = {"job_id": job["id"], "experiment_id": experiment["id"], **_artefacts(service, job["id"])}
    before = client.get(f"/v1/jobs/{job['id']}", headers=own).json()
    for method, path, _ in guarded(client):
        if "_id}" in path or "{sha256}" in path:
            query = {"name": "x"} if path.endswith("/history") else {}
            response = client.request(
                method, filled(path, **ids), headers=other, json=_body(method, path), params=query
            )
            refused(response, 404, "not_found")
            assert "ours" not in response.text
    for path in ("/v1/jobs", "/v1/experiments"):
        assert client.get(path, headers=other).json()["data"] == []
    assert client.get(f"/v1/jobs/{job['id']}", headers=own).json() == before


def _artefacts(service: Service, job_id: str) -> dict[str, str]:
    """Create a checkpoint, a grid and a task of a job."""
    checkpoint_id, sha256 = new_id("ckpt"), "c" * 64
    common = {"job_id": job_id, "step": 10, "attempt": 1, "path": "x", "size_bytes": 1, "created_at": now_ms()}
    blob = {"sha256": sha256, "job_id": job_id, "path": "x", "media_type": "image/png", "size_bytes": 1}
    task = queue.NewJob(project="ours", kind="sample", request={"job_id": job_id}, request_sha256="0")

    def add(connection: Connection) -> str:
        checkpoint = {**common, "id": checkpoint_id, "sha256": sha256, "status": "available"}
        connection.execute(insert(tables.checkpoints).values(checkpoint))
        connection.execute(insert(tables.samples).values({**common, "sha256": sha256, "width": 8, "height": 8}))
        connection.execute(insert(tables.blobs).values(blob))
        return str(queue.create(connection, task)["id"])

    return {"checkpoint_id": checkpoint_id, "sha256": sha256, "task_id": service.store.write(add)}


def _body(method: str, path: str) -> Any:
    return {} if method in ("POST", "PATCH") and not path.endswith(("/resume", "/retry")) else None


def test_a_revoked_key_is_refused_at_the_next_request(client: TestClient, service: Service) -> None:
    key(service, "admin")
    token = keys.create(service.store, "test", "default", ["admin"])
    assert client.get("/v1/jobs", headers=bearer(token)).status_code == 200
    keys.revoke(service.store, token.split("_")[1])
    refused(client.get("/v1/jobs", headers=bearer(token)), 401, "unauthenticated")


def test_revoking_the_last_key_does_not_allow_anonymous_access(client: TestClient, service: Service) -> None:
    assert client.get("/v1/jobs").status_code == 200
    token = keys.create(service.store, "test", "default", ["admin"])
    keys.revoke(service.store, token.split("_")[1])
    refused(client.get("/v1/jobs"), 401, "unauthenticated")


def test_a_public_address_requires_a_key_from_the_start(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"host": "0.0.0.0"})
    refused(client.get("/v1/jobs"), 401, "unauthenticated")
    refused(client.get("/metrics"), 401, "unauthenticated")
    assert client.get("/healthz").status_code == 200


@looped(
    ("headers", "sign"),
    [
        ({"Forwarded": "for=192.0.2.1"}, "the header Forwarded"),
        ({"X-Forwarded-For": "192.0.2.1"}, "the header X-Forwarded-For"),
        ({"X-Forwarded-Host": "localhost"}, "the header X-Forwarded-Host"),
        ({"X-Forwarded-Proto": "https"}, "the header X-Forwarded-Proto"),
        ({"X-Real-IP": "127.0.0.1"}, "the header X-Real-Ip"),
        ({"Via": "1.1 proxy"}, "the header Via"),
        ({"Host": "lab.example:8000"}, "the Host lab.example"),
    ],
)
def test_a_request_through_a_proxy_needs_a_key_also_where_none_exists(
    service: Service, portal: BlockingPortal, headers: dict[str, str], sign: str
) -> None:
    service.settings = service.settings.model_copy(update={"allowed_hosts": ("lab.example",)})
    client = make_client(service, portal)
    response = client.get("/v1/jobs", headers=headers)
    refused(response, 401, "unauthenticated")
    assert f"this one has {sign}, as behind a proxy" in response.json()["detail"]
    assert "`gan-mhe keys create`" in response.json()["detail"]


def test_a_key_is_accepted_through_a_proxy(client: TestClient, service: Service) -> None:
    headers = key(service, "jobs:read") | {"X-Forwarded-For": "192.0.2.1"}
    assert client.get("/v1/jobs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "127.0.0.2:1", "[::1]:8000"])
def test_a_request_on_the_machine_itself_needs_no_key_before_one_exists(
    service: Service, portal: BlockingPortal, host: str
) -> None:
    service.settings = service.settings.model_copy(update={"allowed_hosts": ("127.0.0.2",)})
    assert make_client(service, portal).get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_a_key_is_never_part_of_a_response(client: TestClient, service: Service) -> None:
    token = keys.create(service.store, "test", "default", ["samples:read"])
    for response in (client.get("/v1/jobs", headers=bearer(token)), client.get("/v1/jobs", headers=bearer(token[:-1]))):
        assert response.status_code in (401, 403)
        assert token.split("_", 2)[2][:-1] not in response.text


def test_an_idempotency_key_of_another_owner_is_another_key(client: TestClient, service: Service) -> None:
    answers = [
        client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=key(service, "admin") | {"Idempotency-Key": "k"})
        for _ in range(2)
    ]
    assert answers[0].json()["id"] != answers[1].json()["id"]


# Browsers.


@looped(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://evil.example/localhost"},
        {"Cookie": "session=1"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_requests_caused_by_another_site_change_nothing(client: TestClient, headers: dict[str, str]) -> None:
    for method, path, _ in guarded(client):
        if method not in ("GET", "HEAD"):
            response = client.request(method, filled(path), headers=headers)
            refused(response, 403, "host_not_allowed" if "Host" in headers else "origin_not_allowed")


def test_the_services_own_pages_may_send_changes(client: TestClient) -> None:
    body = {"preset": "debug_cpu"}
    for headers in ({"Origin": "http://localhost"}, {"Origin": "http://localhost", "Cookie": "other=1"}):
        assert client.post("/v1/jobs", json=body, headers=headers).status_code == 201


def test_a_key_makes_a_cookie_harmless(client: TestClient, service: Service) -> None:
    headers = key(service, "admin") | {"Cookie": "a=b"}
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=headers).status_code == 201


def test_a_form_of_another_site_is_rejected(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = client.post("/v1/jobs", content='{"preset": "debug_cpu"}', headers={"Content-Type": kind})
        refused(response, 422, "invalid_request")


@looped(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("lab.example:8000", 200),
        ("evil.example", 403),
        ("localhost@evil.example", 403),
        ("localhost/x", 403),
        ("localhost:8000:1", 403),
        ("localhost, evil.example", 403),
        ("", 403),
        ("[::1", 403),
    ],
)
def test_only_allowed_hosts_are_accepted(service: Service, portal: BlockingPortal, host: str, status: int) -> None:
    service.settings = service.settings.model_copy(update={"allowed_hosts": ("Lab.example",)})
    client = make_client(service, portal)
    assert client.get("/healthz", headers={"Host": host}).status_code == status


def test_two_host_headers_are_rejected(client: TestClient) -> None:
    response = client.get("/healthz", headers=[("Host", "localhost"), ("Host", "localhost")])
    refused(response, 403, "host_not_allowed")


# Many requests at a time.


@pytest.fixture
def crowded(client: TestClient) -> TestClient:
    """A client whose requests come while the service answers as many as it can."""
    client.app_state[CROWDED] = True
    return client


def test_a_request_beyond_the_limit_is_refused_and_may_come_again(crowded: TestClient) -> None:
    response = crowded.get("/v1/jobs")
    refused(response, 503, "overloaded")
    assert response.headers["retry-after"] and response.headers["connection"] == "close"


def test_health_is_answered_beyond_the_limit(crowded: TestClient) -> None:
    assert crowded.get("/healthz").status_code == 200
    assert crowded.get("/readyz").json()["code"] == "not_serving"  # nothing is scheduled in this test


# Every answer.


def test_every_response_has_security_headers_and_a_request_id(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        client.get("/v1/jobs"),
        client.get("/v1/jobs/none"),
        client.get("/none"),
        client.put("/v1/jobs"),
        client.post("/v1/jobs", json={}),
        client.get("/docs"),
        client.get("/healthz", headers={"Host": "evil"}),
        client.post("/v1/jobs", content=b"x" * 2_000_000),
        client.get("/openapi.json"),
        client.get("/metrics"),
    ]
    monkeypatch.setattr(service.store, "read", lambda _work: 1 / 0)
    with capture_logs():
        answers.append(client.get("/v1/jobs"))
    assert [answer.status_code for answer in answers] == [200, 404, 404, 405, 422, 200, 403, 413, 200, 200, 500]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in HARDENED} == HARDENED
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert len(answer.headers["x-request-id"]) == 32
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
            assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("given", "kept"), [("abc-123", True), ("a" * 64, True), ("a" * 65, False), ("a b", False)])
def test_a_sensible_request_id_is_kept(client: TestClient, given: str, kept: bool) -> None:
    assert (client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] == given) is kept


def test_an_unexpected_error_is_logged_but_not_shown(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("a secret in /private/path")

    def fail(_work: object) -> None:
        raise error

    monkeypatch.setattr(service.store, "read", fail)
    with capture_logs() as logged:
        response = client.get("/v1/jobs", headers={"X-Request-Id": "find-me"})
    refused(response, 500, "internal_error")
    assert "secret" not in response.text
    assert "Runtime" not in response.text
    [entry] = [entry for entry in logged if entry["log_level"] == "error"]
    assert (entry["request_id"], entry["path"], entry["exc_info"]) == ("find-me", "/v1/jobs", error)


def test_a_locked_database_asks_for_a_retry(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise OperationalError("INSERT", None, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(service.store, "write", locked)
    response = client.post("/v1/jobs", json={"preset": "debug_cpu"})
    refused(response, 503, "database_busy")
    assert int(response.headers["retry-after"]) > 0
    assert "INSERT" not in response.text


def test_a_failed_write_names_no_file(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("cannot write /private/path: No space left on device")

    monkeypatch.setattr(service.store, "write", fail)
    response = client.post("/v1/jobs", json={"preset": "debug_cpu"})
    refused(response, 507, "storage_failed")
    assert "private" not in response.text


# Sizes.


def test_a_body_declared_too_large_is_not_read(client: TestClient, service: Service) -> None:
    size = service.settings.max_body_bytes + 1
    for path in ("/v1/jobs", "/v1/jobs/none/cancel", "/none"):
        refused(client.post(path, content=b"x" * size), 413, "body_too_large")


def test_a_body_of_undeclared_size_is_limited(client: TestClient, service: Service) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(64):
            sent += 65536
            yield b" " * 65536

    response = client.post("/v1/jobs", content=chunks(), headers={"Content-Type": "application/json"})
    refused(response, 413, "body_too_large")


TRAVERSALS = [
    *("../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/", "..%252f..%252f", "....//", "..;/", "..\\..\\"),
    *("/etc/passwd", "//etc/passwd", "file:///etc/passwd", "%00", "x%00.png", "~", "C:\\", "..%c0%af", "?../", "#../"),
]


@looped("text", TRAVERSALS)
def test_no_identifier_leads_to_a_file(client: TestClient, service: Service, text: str) -> None:
    (service.settings.data_dir / "canary").write_text("canary")
    for method, path, _ in guarded(client):
        for name in ("job_id", "experiment_id", "checkpoint_id", "task_id", "sha256", "name", "step"):
            if f"{{{name}}}" in path and method == "GET":
                response = client.get(filled(path, **{name: text}))
                assert response.status_code in (200, 404, 405, 422), (path, text)
                assert "canary" not in response.text
                assert "root:" not in response.text


def test_the_preset_named_like_a_traversal_is_the_only_string_that_opens_files(client: TestClient) -> None:
    for text, field in itertools.product(TRAVERSALS, ("preset", "variant")):
        body = {"preset": "debug_cpu", field: text}
        refused(client.post("/v1/jobs", json=body), 422, "invalid_request")


def test_a_host_that_is_not_allowed_is_told_the_setting_that_allows_it(client: TestClient) -> None:
    response = client.get("/v1/jobs", headers={"Host": "gan.example"})
    refused(response, 403, "host_not_allowed")
    assert "GAN_MHE_ALLOWED_HOSTS" in response.json()["detail"]


def test_a_wrong_origin_is_told_what_is_wrong_although_there_is_an_authorization(
    client: TestClient, service: Service
) -> None:
    headers = {**key(service, "admin"), "Origin": "http://evil.example"}
    response = client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers=headers)
    refused(response, 403, "origin_not_allowed")
    detail = response.json()["detail"]
    assert "http://localhost" in detail
    assert "got 'http://evil.example'" in detail
    assert "An Origin is judged first, also if there is an Authorization header" in detail


def test_a_cookie_without_authorization_is_told_what_is_missing(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={"preset": "debug_cpu"}, headers={"Cookie": "a=b"})
    refused(response, 403, "origin_not_allowed")
    assert response.json()["detail"] == "a request with a Cookie and no Origin needs an Authorization header"
