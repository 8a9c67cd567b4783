"""No part of a query or a body is passed over: it is understood, or refused by name."""

from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.http.strictness import _body_errors
from tests.support.app import make_app

JSON = {"Content-Type": "application/json"}
LISTS = (
    *("/v1/jobs", "/v1/experiments", "/v1/variants", "/v1/presets", "/v1/protocols", "/v1/data", "/v1/imports"),
    "/v1/system/slots",
)
UNDERSTOOD = {"state", "variant", "label", "experiment_id", "name", "created_after", "created_before"}
UNDERSTOOD |= {"order", "limit", "cursor"}


def refused(response: Any, *pointers: str) -> str:
    """The detail of the one problem that names these places."""
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "invalid_request")
    assert tuple(error["pointer"] for error in problem["errors"]) == pointers
    return str(problem["detail"])


def test_an_unknown_parameter_is_refused_on_every_route(client: TestClient) -> None:
    checked = 0
    for context in iter_route_contexts(client.app.routes):  # type: ignore[attr-defined]
        for method in context.methods or ():
            path = (context.path or "").replace("{", "").replace("}", "")
            answer = client.request(method, path, params={"unheard_of": "1"}, json={} if method == "POST" else None)
            detail = refused(answer, "/query/unheard_of")
            assert detail.startswith("query: unknown parameter 'unheard_of'; expected "), (method, path)
            checked += 1
    assert checked > 40


@pytest.mark.parametrize(("given", "nearest"), [("status", "state"), ("State", "state"), ("lables", "label")])
def test_an_unknown_parameter_is_refused_with_the_nearest_known_one(
    client: TestClient, given: str, nearest: str
) -> None:
    detail = refused(client.get(f"/v1/jobs?{given}=running"), f"/query/{given}")
    assert detail == f"query: unknown parameter {given!r}; did you mean {nearest!r}?"


def test_a_repeated_parameter_is_refused_unless_it_is_a_list(client: TestClient) -> None:
    detail = refused(client.get("/v1/jobs?limit=1&limit=2&state=queued&state=running"), "/query/limit")
    assert detail == "query.limit: expected it once, got it 2 times"
    assert client.get("/v1/jobs?state=queued&state=running").status_code == 200


def test_all_wrong_parameters_are_named_at_once(client: TestClient) -> None:
    refused(client.get("/v1/jobs?a=1&order=asc&order=desc&b"), "/query/a", "/query/order", "/query/b")


def test_a_request_with_an_unknown_parameter_changes_nothing(client: TestClient) -> None:
    refused(client.post("/v1/jobs?dryrun=true", json={"preset": "debug_cpu"}), "/query/dryrun")
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"preset": "debug_cpu", "seed": 1, "seed": 2}',
        b'{"preset": "debug_cpu", "overrides": {"seed": 1, "seed": 1}}',
        b'{"preset": "debug_cpu", "labels": {"a": "x"}, "overrides": {"data": [{"seed": 1, "seed": 2}]}}',
    ],
    ids=["above", "below", "in a list"],
)
def test_a_key_that_a_body_has_twice_is_refused_by_name(client: TestClient, body: bytes) -> None:
    assert refused(client.post("/v1/jobs", content=body, headers=JSON), "") == "body: expected the key 'seed' once"


def test_equal_keys_of_different_objects_are_no_repetition(client: TestClient) -> None:
    body = {"preset": "debug_cpu", "labels": {"seed": "a"}, "overrides": {"seed": 1}}
    assert client.post("/v1/jobs", json=body).status_code == 201


@pytest.mark.parametrize("name", ["created_after", "created_before"])
def test_a_time_zone_with_an_unescaped_plus_is_refused_with_the_remedy(client: TestClient, name: str) -> None:
    moment = "2026-11-21T05:26:39+01:00"
    assert "written %2B" in refused(client.get(f"/v1/jobs?{name}={moment}"), f"/query/{name}")
    assert client.get(f"/v1/jobs?{name}={moment.replace('+', '%2B')}").status_code == 200


# The routes are the same for all examples, so that one application serves them.
@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(LISTS),
    query=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(sorted(UNDERSTOOD)), st.text(max_size=8)),
            st.one_of(st.sampled_from(["queued", "1", "asc", "a:b", "2026-11-21T05:26:39Z"]), st.text(max_size=8)),
        ),
        max_size=3,
    ),
)
@example(path="/v1/jobs", query=[("state", "queued"), ("limit", "1")])
def test_any_query_of_a_list_is_understood_or_refused(
    client: TestClient, path: str, query: list[tuple[str, str]]
) -> None:
    response = client.get(path, params=query)
    if response.status_code == 200:
        assert {name for name, _ in query} <= UNDERSTOOD
    else:
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert response.json()["errors"]


def test_the_list_of_lists_is_complete(client: TestClient) -> None:
    paths = make_app(client.app.state.service).openapi()["paths"]  # type: ignore[attr-defined]
    lists = {path for path, methods in paths.items() if "get" in methods and "{" not in path and _is_list(methods)}
    assert lists == set(LISTS)


def _is_list(methods: Any) -> bool:
    return str(methods["get"]["summary"]).startswith("List ")


def test_a_key_that_many_objects_have_twice_is_named_once(client: TestClient) -> None:
    body = b'{"overrides": {"a": [%s]}}' % b", ".join([b'{"k": 1, "k": 2}'] * 50)
    assert refused(client.post("/v1/jobs", content=body, headers=JSON), "") == "body: expected the key 'k' once"


def test_a_body_too_deep_to_be_searched_for_repeated_keys_is_left_to_the_framework() -> None:
    assert _body_errors(b"[" * 100_000) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_body_that_is_not_utf_8_is_refused(client: TestClient, encoding: str) -> None:
    content = '{"preset": "debug_cpu"}'.encode(encoding)
    response = client.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    [field] = response.json()["errors"]
    assert field == {"pointer": "", "code": "json_invalid", "message": UTF_8}


UTF_8 = "body: expected JSON encoded in UTF-8, got zero bytes, as in UTF-16"


def test_json_of_a_more_special_type_is_read(client: TestClient) -> None:
    headers = {"Content-Type": "application/vnd.example+json"}
    assert client.post("/v1/jobs", content='{"preset": "debug_cpu"}', headers=headers).status_code == 201
