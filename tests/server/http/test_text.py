"""Names, labels and paths from clients, as they are stored, found, counted and logged."""

import logging
from collections.abc import Iterator

import pytest
import structlog
from fastapi.testclient import TestClient

from server import logs
from server.errors import InvalidRequest
from server.service import Service
from server.store import keys


@pytest.fixture
def restored_logs() -> Iterator[None]:
    """Undo the logging that a test configures."""
    root, service = logging.getLogger(), logging.getLogger("server")
    before = root.handlers[:], root.level, service.level
    yield
    root.handlers[:], root.level, service.level = before
    structlog.reset_defaults()


def submit(client: TestClient, **fields: object) -> str:
    response = client.post("/v1/jobs", json={"preset": "debug_cpu", **fields})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


@pytest.mark.parametrize("name", ["\x1b[2J\x1b[31mEVIL", "two\nlines", "a\rb", "nul\0", "\u202egnp", "\x9b2J", "   "])
def test_no_name_with_control_characters_or_nothing_to_see_is_stored(client: TestClient, name: str) -> None:
    job = submit(client)
    bodies = {"preset": "debug_cpu", "name": name}
    answers = {
        "submit": client.post("/v1/jobs", json=bodies),
        "experiment": client.post("/v1/experiments", json={**bodies, "matrix": {"seed": [0]}}),
        "change": client.patch(f"/v1/jobs/{job}", json={"name": name}),
    }
    for answer in answers.values():
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/name"]


def test_no_label_with_control_characters_is_stored(client: TestClient) -> None:
    answer = client.post("/v1/jobs", json={"preset": "debug_cpu", "labels": {"paper": "mhe\x1b[2J"}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/labels/paper"


def test_spaces_around_names_and_labels_are_removed(client: TestClient) -> None:
    job = submit(client, name=" a job ", labels={"paper": " mhe "})
    shown = client.get("/v1/jobs", params={"label": "paper: mhe "}).json()["data"]
    assert [(each["id"], each["name"], each["labels"]) for each in shown] == [(job, "a job", {"paper": "mhe"})]


def test_the_name_of_a_key_has_no_control_characters(service: Service) -> None:
    for name in ("\x1b[2J", "two\nlines", " ", "\u200b"):
        with pytest.raises(InvalidRequest, match="name: expected"):
            keys.create(service.store, name, "default", ["jobs:read"])
    keys.create(service.store, " ci ", "default", ["jobs:read"])
    assert [row["name"] for row in keys.listing(service.store)] == ["ci"]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("Äpfel", "äPFEL"),
        ("ИГРА", "игр"),
        ("ΟΔΟΣ", "οδος"),
        ("Straße", "STRASSE"),
        ("Cafe\u0301", "café"),
        ("50%", "0%"),
    ],
)
def test_a_name_is_found_in_any_case_of_its_alphabet(client: TestClient, name: str, asked: str) -> None:
    job = submit(client, name=name)
    submit(client, name="another")
    submit(client)
    assert [each["id"] for each in client.get("/v1/jobs", params={"name": asked}).json()["data"]] == [job]


def test_wildcards_of_the_database_match_only_themselves(client: TestClient) -> None:
    submit(client, name="abc")
    for pattern in ("%", "a_c", "\\"):
        assert client.get("/v1/jobs", params={"name": pattern}).json()["data"] == []


def test_made_up_methods_and_paths_share_one_label(client: TestClient) -> None:
    for number in range(20):
        client.request(f"M{number:05}XX", f"/made/up/{number}")
        client.request(f"M{number:05}XX", f"/v1/jobs/{number}")
    lines = [
        line for line in client.get("/metrics").text.splitlines() if line.startswith("gan_mhe_http_requests_total")
    ]
    assert sorted(lines) == [
        'gan_mhe_http_requests_total{method="other",route="/v1/jobs/{job_id}",status="405"} 20.0',
        'gan_mhe_http_requests_total{method="other",route="unmatched",status="404"} 20.0',
    ]


@pytest.mark.usefixtures("restored_logs")
def test_a_path_cannot_forge_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(as_json=False)
    structlog.get_logger("server.of_this_test").info("request", path="/v1/\nforged\x1b[2J")
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("path=/v1/\\nforged\\x1b[2J")
