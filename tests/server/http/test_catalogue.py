"""The catalogue, and the service's description of itself."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gan_mhe.config import documents
from gan_mhe.config.run_config import RunConfig
from gan_mhe.variants import VARIANTS
from server.queue import claims, queue
from server.service import Service
from tests.support.fake_executor import FakeExecutor


def data(client: TestClient, path: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in client.get(path).json()["data"]}


def test_all_variants_are_listed_with_their_patches(client: TestClient) -> None:
    variants = data(client, "/v1/variants")
    assert list(variants) == list(VARIANTS)
    assert variants["mhe_sn"]["patch"]["constraints"]["normalization"] == "spectral"
    assert variants["mhe"]["description"] == VARIANTS["mhe"].description


def test_presets_are_listed_with_a_line_about_each(client: TestClient) -> None:
    presets = data(client, "/v1/presets")
    assert presets["debug_cpu"]["description"].startswith("Seconds on any CPU")
    assert presets["debug_cpu"]["document"] == documents.load_document(documents.PRESETS / "debug_cpu.toml")
    assert client.get("/v1/presets/debug_cpu").json() == presets["debug_cpu"]


def test_presets_that_the_operator_does_not_allow_do_not_exist(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"presets": ("digits_cnn",)})
    assert list(data(client, "/v1/presets")) == ["digits_cnn"]
    assert client.get("/v1/presets/debug_cpu").status_code == 404


def test_every_offered_preset_can_be_submitted_or_names_what_is_missing(client: TestClient) -> None:
    for name in data(client, "/v1/presets"):
        response = client.post("/v1/jobs?dry_run=true", json={"preset": name})
        if name in ("digits_cnn", "debug_cpu"):
            assert response.status_code == 200
        else:
            assert all(error["pointer"].startswith("/overrides/") for error in response.json()["errors"])


def test_protocols_are_listed_with_their_numbers(client: TestClient) -> None:
    protocols = data(client, "/v1/protocols")
    assert list(protocols) == ["digits-v1", "inception-2015", "classifier:<name>"]
    assert protocols["inception-2015"]["num_samples"] == 50_000


def test_data_sets_are_listed_by_name_and_never_by_path(client: TestClient, service: Service) -> None:
    updates = {"data_roots": {"cifar10": Path("/somewhere")}, "weights": {"inception": Path("/elsewhere")}}
    service.settings = service.settings.model_copy(update=updates)
    response = client.get("/v1/data")
    assert [entry["name"] for entry in response.json()["data"]] == ["digits", "cifar10", "image_folder", "synthetic"]
    assert response.json()["weights"] == ["inception"]
    assert "where" not in response.text


def test_the_schema_describes_a_run_configuration(client: TestClient) -> None:
    schema = client.get("/v1/schemas/config").json()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert "generator updates" in json.dumps(schema).lower()


# The service itself.


def test_the_system_shows_its_limits_and_free_space(client: TestClient, service: Service) -> None:
    system = client.get("/v1/system").json()
    assert system["limits"]["max_matrix_cells"] == service.settings.max_matrix_cells
    assert system["disk"]["free_bytes"] > 0
    assert system["uptime_seconds"] >= 0
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", system["version"])


def test_slots_show_their_jobs_to_the_jobs_project_only(
    client: TestClient, service: Service, executor: FakeExecutor
) -> None:
    own = client.post("/v1/jobs", json={"preset": "debug_cpu"}).json()["id"]
    other = queue.NewJob(project="other", request={}, request_sha256="0")
    service.store.write(lambda c: queue.create(c, other))
    service.store.write(lambda c: claims.claim(c, executor.inventory()[:2], executor.name))
    slots = data(client, "/v1/system/slots")
    assert (slots["cpu0"]["busy"], slots["cpu0"]["job_id"]) == (True, own)
    assert (slots["cpu1"]["busy"], slots["cpu1"]["job_id"], slots["cpu1"]["attempt_id"]) == (True, None, None)
    assert (slots["task0"]["busy"], slots["task0"]["purpose"]) == (False, "task")


def test_the_process_is_alive_before_it_is_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    response = client.get("/readyz")
    assert response.status_code == 503
    assert [error["pointer"] for error in response.json()["errors"]] == ["/engine"]


def test_the_service_is_ready_once_its_engine_runs(client: TestClient) -> None:
    with client:
        deadline = time.monotonic() + 5
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.get("/readyz").json() == {"status": "ready"}


def test_a_full_disk_makes_the_service_unready(client: TestClient, service: Service) -> None:
    service.settings = service.settings.model_copy(update={"disk_reserve_bytes": 2**62})
    assert "/disk" in [error["pointer"] for error in client.get("/readyz").json()["errors"]]


def test_a_machine_that_cannot_start_attempts_makes_the_service_unready(
    client: TestClient, service: Service, executor: FakeExecutor
) -> None:
    executor.misses = f"the program '{service.settings.data_dir}/python' is missing"
    (error,) = [each for each in client.get("/readyz").json()["errors"] if each["pointer"] != "/engine"]
    expected = "the program 'GAN_MHE_DATA_DIR/python' is missing"
    assert (error["pointer"], error["code"]) == ("/machine", "machine")
    assert error["message"] == f"machine: no attempt can start: {expected}"
    assert client.get("/v1/system").json()["machine"] == {"problem": expected}
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}).status_code == 201


def test_a_data_directory_that_cannot_be_written_makes_the_service_unready(
    client: TestClient, service: Service
) -> None:
    service.settings.job_dir("").write_text("in the way")
    assert "/machine" in [error["pointer"] for error in client.get("/readyz").json()["errors"]]


def test_a_disk_that_is_full_to_the_last_byte_accepts_no_job_and_says_why(client: TestClient, service: Service) -> None:
    raw = service.store._writer.raw_connection().dbapi_connection
    raw.execute("PRAGMA max_page_count=1")  # it then takes the present size
    answers = [client.post("/v1/jobs", json={"preset": "debug_cpu", "name": "x" * 100}) for _ in range(40)]
    refused = answers[-1].json()
    assert (refused["status"], refused["code"]) == (507, "insufficient_storage")
    assert refused["detail"] == "no disk space is left for the database"
    raw.execute("PRAGMA max_page_count=1000000")
    assert client.post("/v1/jobs", json={"preset": "debug_cpu"}).status_code == 201


def test_a_database_that_became_read_only_accepts_no_job_and_says_why(client: TestClient, service: Service) -> None:
    raw = service.store._writer.raw_connection().dbapi_connection
    raw.execute("PRAGMA query_only=ON")
    refused = client.post("/v1/jobs", json={"preset": "debug_cpu"}).json()
    assert (refused["status"], refused["code"]) == (507, "storage_failed")


def test_a_lost_database_makes_the_service_unready(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_work: object) -> None:
        raise OSError("gone: /secret/path")

    monkeypatch.setattr(service.store, "read", fail)
    response = client.get("/readyz")
    assert "/database" in [error["pointer"] for error in response.json()["errors"]]
    assert "secret" not in response.text


def test_metrics_count_requests_by_route_and_jobs_by_state(client: TestClient) -> None:
    job = client.post("/v1/jobs", json={"preset": "debug_cpu"}).json()
    client.get(f"/v1/jobs/{job['id']}")
    client.get("/v1/jobs/job_none")
    text = client.get("/metrics").text
    assert 'gan_mhe_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="200"} 1.0' in text
    assert 'gan_mhe_http_requests_total{method="GET",route="/v1/jobs/{job_id}",status="404"} 1.0' in text
    assert 'gan_mhe_jobs{kind="train",state="queued"} 1.0' in text
    assert 'gan_mhe_slots{available="true",purpose="train"} 2.0' in text
    assert 'gan_mhe_http_request_seconds_count{method="POST",route="/v1/jobs"} 1.0' in text
    assert job["id"] not in text


def test_two_services_have_separate_metrics(client: TestClient, service: Service) -> None:
    from server.app import create_app

    client.get("/v1/variants")
    second = TestClient(create_app(service), base_url="http://localhost")
    assert "/v1/variants" not in second.get("/metrics").text


# The documentation.


def test_the_documentation_needs_no_other_server(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"https?://", page.text) == []
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        response = client.get(asset)
        assert response.status_code == 200
        assert len(response.content) > 100
        assert response.headers["x-content-type-options"] == "nosniff"


def test_the_documentations_policy_allows_only_its_one_inline_script(client: TestClient) -> None:
    policy = client.get("/docs").headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert "unsafe-eval" not in policy


def test_every_operation_is_described_and_its_errors_are_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    for name, operation in operations:
        assert operation.get("description"), name
        assert operation["tags"], name
        assert list(operation["responses"]["4XX"]["content"]) == ["application/problem+json"], name
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    assert document["components"]["schemas"]["Problem"]["properties"]["errors"]["items"] == {
        "$ref": "#/components/schemas/ProblemField"
    }
    tags = {tag["name"] for tag in document["tags"]}
    assert {tag for _, operation in operations for tag in operation["tags"]} <= tags


def test_the_examples_in_the_documentation_are_accepted(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for path, name in (("/v1/jobs", "SubmitJob"), ("/v1/experiments", "SubmitExperiment")):
        for example in schemas[name]["examples"]:
            assert client.post(path, json=example).status_code == 201
