"""The API conforms to its own OpenAPI document: valid and invalid requests generated from it are answered as stated.

Streams end because the service shuts down or all jobs have ended; images come from a renderer that draws nothing.
Both have tests of their own.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.python import asgi
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import Connection, update

from gan_mhe.config.run_config import RunConfig
from gan_mhe.files import sha256_bytes
from server import startup
from server.app import ROUTERS
from server.clock import now_ms
from server.http.errors import CODES
from server.ids import new_id
from server.queue import admission, claims, experiments, queue
from server.queue.admission import Operator, Source
from server.queue.states import TERMINAL, Reason, State
from server.service import Service
from server.settings import Settings
from server.store import artifacts, keys, metric_points, tables
from server.store.rows import CheckpointRow, JobRow
from tests.support.app import make_app
from tests.support.fake_executor import FakeExecutor

BASE_URL = "http://localhost"
EXAMPLES = 8  # of each operation and mode; the soak tries many more
SOAK_EXAMPLES = 150
CONFIG = {"variant": "mhe_sn", "data": {"name": "synthetic"}, "training": {"steps": 20}}
RESULT = {
    **{"status": "completed", "metric": "inception_score", "protocol": "digits-v1", "fingerprint": "f" * 64},
    "final": {"step": 20, "scores": {"inception_score": 7.0, "fid": "NaN"}},
    **{"best": None, "evaluations": 1, "real": {"inception_score": 9.7}},
}
CHECKS = [
    *(not_a_server_error, status_code_conformance, content_type_conformance, negative_data_rejection),
    *(response_headers_conformance, response_schema_conformance),
]

Ids = Mapping[str, Sequence[Any]]


def operations() -> Iterator[Any]:
    for router in ROUTERS:
        for route in router.routes:
            for method in route.methods:
                yield pytest.param(method, route.path, id=f"{method} {route.path}")


OPERATIONS = list(operations())
each_operation = pytest.mark.parametrize(("method", "path"), OPERATIONS)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The application's document; authorization is left to the tests."""
    service = startup.open_service(Settings(data_dir=tmp_path_factory.mktemp("data")))
    document = make_app(service).openapi()
    service.stop()
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.generation.with_security_parameters = False
    return loaded


class BlankImages:
    """Replaces the image cache."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def thumbnail(self, _source: Path, _sha256: str, _width: int) -> Path:
        return self._image("png")

    async def animation(self, _sources: Any, *, format: str, fps: int) -> Path:
        return self._image(format)

    def _image(self, suffix: str) -> Path:
        path = self._directory / f"blank.{suffix}"
        Image.new("RGB", (8, 8)).save(path)
        return path


@pytest.fixture
def app(service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application, with no scheduling and an engine that reports that it is alive."""
    monkeypatch.setattr(service, "image_cache", BlankImages(tmp_path))
    monkeypatch.setattr(service.engine, "heartbeat_age", lambda: 0.0)
    return make_app(service)


@pytest.fixture
def ids(service: Service, executor: FakeExecutor) -> Ids:
    """Existing resources by the names of parameters: jobs in many states and everything that belongs to them."""

    def populate(connection: Connection) -> Ids:
        done = make(connection, State.SUCCEEDED, result=RESULT, step=20, exit_code=0)
        checkpoint = leave_artifacts(connection, service, done)
        running = make(connection, State.QUEUED)
        claims.claim(connection, executor.inventory()[:1], executor.name)
        queue.move(connection, queue.get(connection, running["id"]), State.RUNNING)
        others = [make(connection, state) for state in (State.QUEUED, State.PAUSED, State.CANCELLED)]
        failed = make(connection, State.FAILED, reason=Reason.DIVERGED, message="a loss was NaN", result=RESULT)
        plan = experiments.plan(Operator(service.settings, executor), Source(preset="debug_cpu"), {"seed": [0, 1]})
        experiment = experiments.create(
            connection, experiments.prepare(plan, "default", name="two seeds", labels={"paper": "mhe"})
        )
        tasks = [make_task(connection, checkpoint, "sample", State.SUCCEEDED, {"sha256": "b" * 64, "size_bytes": 3})]
        tasks += [make_task(connection, checkpoint, "sample"), make_task(connection, checkpoint, "score")]
        jobs = [job["id"] for job in (done, running, failed, *others)]
        shas = [row["sha256"] for row in artifacts.samples(connection, done["id"], after=-1, limit=9)]
        return {
            **{"job_id": [*jobs, *tasks], "job": jobs, "ids": jobs, "task_id": tasks},
            **{"experiment_id": [experiment["id"]], "experiment": [experiment["id"]]},
            **{"checkpoint_id": [checkpoint["id"]], "step": [0, 10, 20], "sha256": [*shas, "b" * 64]},
            **{"metric": ["inception_score", "fid"], "name": ["debug_cpu", "loss_d", "a job"]},
        }

    return service.store.write(populate)


def make(connection: Connection, state: State, **facts: Any) -> JobRow:
    new = admission.new_job(RunConfig.model_validate(CONFIG), "default", name="a job", labels={"paper": "mhe"})
    return queue.create(connection, new, state, **facts)


def make_task(
    connection: Connection, checkpoint: CheckpointRow, kind: str, state: State = State.QUEUED, result: Any = None
) -> str:
    request = {"job_id": checkpoint["job_id"], "checkpoint_id": checkpoint["id"], "step": 10, "format": "zip"}
    new = queue.NewJob(project="default", kind=kind, request=request, request_sha256="0")
    return str(queue.create(connection, new, state, result=result)["id"])


def leave_artifacts(connection: Connection, service: Service, job: JobRow) -> CheckpointRow:
    """Create two grids, a checkpoint, metrics (some non-finite) and a log; return the checkpoint."""
    directory = service.settings.job_dir(job["id"])
    (directory / "run/checkpoints").mkdir(parents=True)
    for step, shade in ((0, 0), (10, 200)):
        add_grid(connection, job, directory, step, shade)
    points = [(0, {"loss_d": 1.5, "fid": float("inf")}), (10, {"loss_d": float("nan")})]
    metric_points.add(connection, job, 1, points)
    (directory / "console.log").write_bytes(b"step 10\n\xff half a character \xc3")
    (directory / "images.zip").write_bytes(b"zip")
    artifacts.add_blob(connection, job["id"], "b" * 64, "images.zip", "application/zip", 3)
    (directory / "run/checkpoints/tensors.safetensors").write_bytes(b"tensors")
    (directory / "run/checkpoints/manifest.json").write_text(f'{{"step": 10, "tensors_sha256": "{"d" * 64}"}}')
    row = {"id": new_id("ckpt"), "job_id": job["id"], "step": 10, "attempt": 1, "sha256": "c" * 64, "size_bytes": 7}
    row |= {"path": "run/checkpoints", "status": "available", "created_at": now_ms()}
    connection.execute(tables.checkpoints.insert().values(row))
    return row


def add_grid(connection: Connection, job: JobRow, directory: Path, step: int, shade: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(buffer, "PNG")
    (directory / f"{step}.png").write_bytes(buffer.getvalue())
    row = {"job_id": job["id"], "step": step, "attempt": 1, "sha256": sha256_bytes(buffer.getvalue())}
    row |= {"path": f"{step}.png", "size_bytes": buffer.tell(), "width": 8, "height": 8, "created_at": now_ms()}
    artifacts.add_sample(connection, row)


# Requests.


def operation(schema: Any, method: str, path: str) -> Any:
    return schema[path][method]


def parameters(wanted: Any, *locations: str) -> dict[str, Any]:
    """Names and schemas of the parameters in these locations."""
    listed = wanted.definition.raw.get("parameters", [])
    return {parameter["name"]: parameter["schema"] for parameter in listed if parameter["in"] in locations}


def is_any_text(described: Any) -> bool:
    return {name: value for name, value in described.items() if name != "title"} == {"type": "string"}


def can_be_wrong(wanted: Any) -> bool:
    """Whether a request can violate the document; where all parameters are plain text, every request is valid."""
    return "requestBody" in wanted.definition.raw or not all(
        map(is_any_text, parameters(wanted, "path", "query").values())
    )


@st.composite
def cases(draw: Any, wanted: Any, mode: GenerationMode, ids: Ids) -> Any:
    """A request generated from the document, which mostly uses existing ids."""
    case = draw(wanted.as_strategy(generation_mode=mode))
    mostly = st.sampled_from([True, True, False])
    for name, described in parameters(wanted, "path").items():
        if name in ids and (mode.is_positive or is_any_text(described)) and draw(mostly):
            case.path_parameters[name] = draw(st.sampled_from(ids[name]))
    if mode.is_positive:
        for name in sorted(ids.keys() & parameters(wanted, "query").keys()):
            if draw(mostly):
                value = draw(st.sampled_from(ids[name]))
                case.query[name] = [value] if name == "job" else value
        if isinstance(case.body, dict) and draw(mostly):
            case.body |= draw(sensible_fields(wanted.label, ids))
    return case


def sensible_fields(label: str, ids: Ids) -> st.SearchStrategy[dict[str, Any]]:
    """Parts of a body that no schema can describe: existing ids, and valid combinations."""
    preset = {"preset": st.sampled_from(["debug_cpu", "digits_cnn"]), "config": st.none()}
    preset["overrides"] = st.sampled_from([{}, {"training.steps": 30}, {"training.stepz": 30}])
    seeds = st.lists(st.integers(0, 9), min_size=1, max_size=2, unique=True)
    return {
        "POST /v1/jobs": st.fixed_dictionaries({**preset, "variant": st.sampled_from([None, "mhe", "none", "mhee"])}),
        "POST /v1/experiments": st.fixed_dictionaries({**preset, "matrix": st.fixed_dictionaries({"seed": seeds})}),
        "POST /v1/jobs:batch": st.fixed_dictionaries({"ids": st.lists(st.sampled_from(ids["job_id"]), min_size=1)}),
        "POST /v1/jobs/{job_id}/fork": st.just(
            {"step": 10, "checkpoint_id": None, "overrides": {"training.steps": 40}}
        ),
        "POST /v1/checkpoints/{checkpoint_id}/samples": st.just({"ema": False, "interpolation": 0}),
        "POST /v1/checkpoints/{checkpoint_id}/scores": st.just({"protocol": None, "weights": None, "num_samples": 20}),
    }.get(label, st.just({}))


def attempt(wanted: Any, mode: GenerationMode, ids: Ids, examples: int, check: Callable[[Any], None]) -> None:
    """Check `examples` requests, always the same ones."""

    # Not shrunk: what a request does depends on those before it.
    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(case=cases(wanted, mode, ids))
    def each(case: Any) -> None:
        check(case)

    each()


def client_of(app: FastAPI) -> asgi.ASGIClient:
    """Requests to the application in this process; not a context manager, so that the service is not started."""
    return asgi.get_client(app)


def check_answer(response: Any, service: Service) -> None:
    """Checks that apply to every response."""
    assert str(service.settings.data_dir).encode() not in response.content
    assert b"Traceback" not in response.content
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["type"] == f"urn:gan-mhe:problem:{problem['code']}"
        assert CODES.get(problem["code"], (response.status_code, ""))[0] == response.status_code
        assert problem["request_id"] == response.headers["x-request-id"][0]
        assert problem["detail"]


def let_streams_end(service: Service, path: str) -> None:
    """Prevent requests from waiting; streams are only requested for jobs that have ended."""
    if not path.endswith("/stream"):
        service.broker.shutdown()
        return
    is_open = tables.jobs.c.state.not_in(TERMINAL)
    service.store.write(lambda c: c.execute(update(tables.jobs).where(is_open).values(state=State.CANCELLED)))


def conform(
    schema: Any, app: FastAPI, service: Service, ids: Ids, operation_at: tuple[str, str], examples: int
) -> None:
    method, path = operation_at
    wanted, client = operation(schema, method, path), client_of(app)
    let_streams_end(service, path)

    def check(case: Any) -> None:
        response = case.call(base_url=BASE_URL, session=client)
        case.validate_response(response, checks=CHECKS)
        check_answer(response, service)

    attempt(wanted, GenerationMode.POSITIVE, ids, examples, check)
    if can_be_wrong(wanted):
        attempt(wanted, GenerationMode.NEGATIVE, ids, examples, check)


def test_the_document_describes_every_operation_and_no_other(schema: Any, app: FastAPI) -> None:
    described = {result.ok().label for result in schema.get_all_operations()}
    assert described == {each.id for each in OPERATIONS}
    assert TestClient(app, base_url=BASE_URL).get("/openapi.json").json() == schema.raw_schema


@each_operation
def test_every_response_conforms_to_the_document(
    schema: Any, app: FastAPI, service: Service, ids: Ids, method: str, path: str
) -> None:
    conform(schema, app, service, ids, (method, path), EXAMPLES)


@pytest.mark.soak
@each_operation
def test_many_more_responses_conform_to_the_document(
    schema: Any, app: FastAPI, service: Service, ids: Ids, method: str, path: str
) -> None:
    conform(schema, app, service, ids, (method, path), SOAK_EXAMPLES)


def examples(schema: Any) -> Iterator[tuple[str, str, Any]]:
    """Path, method and body of each example."""
    for path, methods in schema.raw_schema["paths"].items():
        for method, described in methods.items():
            body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            named = [option["$ref"] for option in (body, *body.get("anyOf", [])) if "$ref" in option]
            for name in named:
                for example in schema.raw_schema["components"]["schemas"][name.rpartition("/")[2]]["examples"]:
                    yield path, method, example


def test_every_body_has_an_example_and_all_examples_are_valid(
    schema: Any, app: FastAPI, service: Service, ids: Ids
) -> None:
    client = TestClient(app, base_url=BASE_URL)
    service.broker.shutdown()
    found = list(examples(schema))
    assert len(found) == sum(
        "requestBody" in each for methods in schema.raw_schema["paths"].values() for each in methods.values()
    )
    for path, method, body in found:
        filled = path.format(**{name: values[0] for name, values in ids.items()})
        response = client.request(method, filled, json=body)
        assert response.status_code in (200, 201, 202, 404, 409), (path, response.text)


# With keys.


def statuses(
    schema: Any, app: FastAPI, ids: Ids, operation_at: tuple[str, str], tokens: Mapping[str, str | None]
) -> dict[str, set[int]]:
    """Status codes of the same good requests, by whose key they carry."""
    client = client_of(app)
    seen: dict[str, set[int]] = {owner: set() for owner in tokens}

    def check(case: Any) -> None:
        for owner, token in tokens.items():
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            response = case.call(base_url=BASE_URL, session=client, headers=headers)
            case.validate_response(response, checks=CHECKS)
            seen[owner].add(response.status_code)
            if response.status_code in (401, 403):
                assert response.headers["content-type"] == ["application/problem+json"]
                assert response.json()["code"] == {401: "unauthenticated", 403: "forbidden"}[response.status_code]

    attempt(operation(schema, *operation_at), GenerationMode.POSITIVE, ids, 2, check)
    return seen


@each_operation
def test_where_keys_are_required_only_the_right_ones_are_accepted(
    schema: Any, app: FastAPI, service: Service, ids: Ids, method: str, path: str
) -> None:
    let_streams_end(service, path)
    tokens = {scope: keys.create(service.store, "test", "default", [scope]) for scope in keys.SCOPES}
    answers = statuses(schema, app, ids, (method, path), {**tokens, "nobody": None})
    without = answers.pop("nobody")
    if path in ("/healthz", "/readyz"):
        assert without == {200}
        return
    assert without == {401}
    refused = {scope for scope, seen in answers.items() if seen == {403}}
    let_in = {scope for scope, seen in answers.items() if not seen & {401, 403}}
    assert refused | let_in == set(keys.SCOPES)
    assert "admin" in let_in
    assert len(let_in) == (1 if path in ("/metrics", "/v1/imports") else 2)
