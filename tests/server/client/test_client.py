"""The client survives broken connections without losing or repeating events, and reports errors clearly."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from server.client import (
    Client,
    Conflict,
    Event,
    NotAuthorized,
    NotFound,
    Rejected,
    ServerError,
    TaskFailed,
    TimedOut,
    Unavailable,
    Unreachable,
)

Answer = httpx2.Response | Exception | Callable[[httpx2.Request], httpx2.Response]
JOB = "job_06ekqz1v3m4s8x0c9d7f2h5b6w"


class Script:
    """Answers requests with the given responses in order, and records the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        assert self._answers, f"no response is left for {request.method} {request.url}"
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def client(self, **options: Any) -> Client:
        return Client("http://service", transport=httpx2.MockTransport(self), **options)

    def finished(self) -> bool:
        return not self._answers


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Durations of the client's waits, which are skipped."""
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    for variable in ("GAN_MHE_SERVER", "GAN_MHE_KEY"):
        monkeypatch.delenv(variable, raising=False)
    return waited


def job_document(**changes: Any) -> dict[str, Any]:
    document = {
        **dict.fromkeys(
            ("name", "reason", "message", "experiment_id", "cell", "metric", "scores", "started_at", "finished_at")
        ),
        "id": JOB,
        "state": "queued",
        "terminal": False,
        "variant": "mhe",
        "seed": 0,
        "progress": {
            **dict.fromkeys(("steps_per_second", "images_per_second", "eta_seconds")),
            "step": 0,
            "total_steps": 10,
        },
        "config": {"variant": "mhe", "seed": 0},
        "config_digest": "sha256:0",
        "priority": 0,
        "labels": {},
        "created_at": "2026-11-21T05:26:39.120Z",
        "exit_code": None,
        "revision": 1,
        "a_field_of_a_newer_service": [1, 2],
    }
    return document | changes


def ok(document: Any, status: int = 200, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, json=document, headers=headers)


def problem(
    status: int, code: str, detail: str, errors: Sequence[Mapping[str, str]] = (), **headers: str
) -> httpx2.Response:
    document = {"status": status, "code": code, "detail": detail, "errors": list(errors)}
    return httpx2.Response(
        status, content=json.dumps(document), headers={"Content-Type": "application/problem+json", **headers}
    )


# --- requests


class TestRequests:
    def test_unknown_fields_of_a_newer_service_are_ignored(self) -> None:
        script = Script(ok(job_document(scores={"final": {"step": 10, "scores": {"fid": "NaN"}}} | NO_BEST)))
        job = script.client().job(JOB)
        assert (job.id, job.variant, job.progress.total_steps) == (JOB, "mhe", 10)
        assert job.created_at.isoformat() == "2026-11-21T05:26:39.120000+00:00"
        assert job.scores is not None and job.scores.final is not None
        assert repr(job.scores.final.scores["fid"]) == "nan"
        with pytest.raises(ValueError, match="frozen"):
            job.state = "running"  # type: ignore[misc]

    def test_title_and_outcome_are_one_line_without_control_characters(self) -> None:
        script = Script(ok(job_document(name="a\n\x1b[2Jb", state="failed", message="x\ry")))
        job = script.client().job(JOB)
        assert (job.title, job.outcome) == ("a\\n\\x1b[2Jb", "failed: x\\ry")

    def test_submitting_sends_only_the_given_fields(self) -> None:
        script = Script(ok(job_document(), 201))
        script.client(key="gk_x").submit(preset="digits_cnn", seed=0, overrides={"training.steps": 3})
        [request] = script.requests
        assert (request.method, request.url.path) == ("POST", "/v1/jobs")
        assert json.loads(request.content) == {
            "preset": "digits_cnn",
            "seed": 0,
            "overrides": {"training.steps": 3},
            "priority": 0,
        }
        assert request.headers["Authorization"] == "Bearer gk_x"

    def test_a_dry_run_of_an_experiment_sends_what_its_submission_would(self) -> None:
        estimate = {"steps": 6, "images": 48, "scored_images": 0, "note": "2 jobs"}
        script = Script(ok({"object": "dry_run", "total": 2, "estimate": estimate}), ok({}, 201))
        arguments: dict[str, Any] = {"preset": "debug_cpu", "matrix": {"seed": (0, 1)}, "wall_seconds_limit": 60.0}
        found = script.client().dry_run_experiment(**arguments)
        assert (found.total, found.estimate) == (2, estimate)
        with pytest.raises(ValidationError):
            script.client().submit_experiment(**arguments)
        asked, submitted = script.requests
        assert (asked.url.path, asked.url.params.multi_items()) == ("/v1/experiments", [("dry_run", "true")])
        assert json.loads(asked.content) == json.loads(submitted.content)
        assert json.loads(asked.content)["wall_seconds_limit"] == 60.0

    def test_without_key_no_authorization_is_sent(self) -> None:
        script = Script(ok(job_document()))
        script.client().job(JOB)
        assert "Authorization" not in script.requests[0].headers

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("gk_abc\ndef", "character 6 of 10 is a line break or space"),
            ("gk_abc def", "character 6 of 10 is a line break or space"),
            ("“gk_abc”", "character 0 of 8 is not a character of ASCII"),
            ("gk_äbc", "character 3 of 6 is not a character of ASCII"),
            ("gk_a\x1bc", "character 4 of 6 is not a character of ASCII, or not printable"),
        ],
    )
    @pytest.mark.parametrize("given", ["environment", "argument"])
    def test_a_key_that_no_header_can_carry_is_an_error_that_does_not_show_it(
        self, monkeypatch: pytest.MonkeyPatch, key: str, expected: str, given: str
    ) -> None:
        monkeypatch.setenv("GAN_MHE_KEY", key)
        with pytest.raises(NotAuthorized) as refusal:
            Script().client(key=key if given == "argument" else None)
        message = str(refusal.value)
        assert "GAN_MHE_KEY" in message
        assert expected in message
        assert not set(key.splitlines()) & set(message.split())

    def test_spaces_and_line_breaks_around_the_key_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GAN_MHE_KEY", " gk_x_y\r\n")
        script = Script(ok(job_document()))
        script.client().job(JOB)
        assert script.requests[0].headers["Authorization"] == "Bearer gk_x_y"

    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            (date(2024, 1, 1), "the date 2024-01-01"),
            ({"x": [1, {"y": float("inf")}]}, "inf"),
        ],
    )
    def test_a_value_that_json_does_not_have_is_refused_by_its_key(self, value: Any, shown: str) -> None:
        with pytest.raises(
            Rejected, match=rf"^overrides\.optimizer\.lr.*: expected a value that JSON has, got {shown}$"
        ):
            Script().client().submit(preset="p", overrides={"training.steps": 1, "optimizer.lr": value})

    @pytest.mark.parametrize("id_", ["job_\n", "job_\x00", "job_\udcff"])
    def test_an_id_that_no_url_can_carry_is_an_error_of_the_client(self, id_: str) -> None:
        with pytest.raises(Rejected, match="cannot be sent"):
            Script().client().job(id_)
        with pytest.raises(Rejected, match="cannot be sent"):
            next(Script().client().stream(id_))

    def test_an_idempotency_key_that_no_header_can_carry_is_an_error_of_the_client(self) -> None:
        with pytest.raises(Rejected, match="cannot be sent"):
            Script().client().submit(preset="p", idempotency_key="schlüssel")

    def test_server_and_key_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GAN_MHE_SERVER", "http://elsewhere:9000/")
        monkeypatch.setenv("GAN_MHE_KEY", "gk_env")
        script = Script(ok(job_document()))
        client = Client(transport=httpx2.MockTransport(script))
        client.job(JOB)
        assert client.base_url == "http://elsewhere:9000"
        assert str(script.requests[0].url) == f"http://elsewhere:9000/v1/jobs/{JOB}"
        assert script.requests[0].headers["Authorization"] == "Bearer gk_env"

    @pytest.mark.parametrize(
        "failure",
        [
            httpx2.ConnectError("refused"),
            httpx2.ReadError("reset"),
            httpx2.RemoteProtocolError("closed"),
            httpx2.ReadTimeout("slow"),
            problem(503, "database_busy", "busy"),
            httpx2.Response(502, text="bad gateway"),
            problem(429, "queue_full", "full"),
            problem(409, "idempotency_in_progress", "wait", **{"Retry-After": "1"}),
        ],
    )
    def test_a_retried_post_has_the_same_key_and_body(self, failure: Answer) -> None:
        script = Script(failure, failure, ok(job_document(), 201))
        assert script.client().submit(preset="digits_cnn").id == JOB
        assert len({request.headers["Idempotency-Key"] for request in script.requests}) == 1
        assert len({request.content for request in script.requests}) == 1
        assert script.finished()

    def test_each_submission_has_its_own_key_unless_one_is_given(self) -> None:
        script = Script(*[ok(job_document(), 201) for _ in range(4)])
        client = script.client()
        client.submit(preset="a")
        client.submit(preset="a")
        client.submit(preset="a", idempotency_key="mine")
        client.submit(preset="a", idempotency_key="mine")
        keys = [request.headers["Idempotency-Key"] for request in script.requests]
        assert len(set(keys)) == 3 and keys[2:] == ["mine", "mine"]

    def test_a_retry_waits_as_long_as_the_service_asks(self, waits: list[float]) -> None:
        Script(problem(503, "database_busy", "busy", **{"Retry-After": "7"}), ok(job_document())).client().job(JOB)
        assert waits == [7.0]

    def test_waits_grow_if_the_service_does_not_respond(self, waits: list[float]) -> None:
        script = Script(*[httpx2.ConnectError("refused")] * 4)
        with pytest.raises(Unreachable):
            script.client().job(JOB)
        assert script.finished() and len(waits) == 3
        assert waits[0] < waits[1] < waits[2] < 2

    def test_a_very_long_retry_after_is_shortened(self, waits: list[float]) -> None:
        Script(problem(429, "queue_full", "full", **{"Retry-After": "86400"}), ok(job_document())).client().job(JOB)
        assert waits == [30.0]

    def test_pages_are_fetched_on_demand_with_the_same_filters(self) -> None:
        first = {"data": [job_document(id="job_1"), job_document(id="job_2")], "has_more": True, "next_cursor": "c1"}
        second = {"data": [job_document(id="job_3")], "has_more": False, "next_cursor": None}
        script = Script(ok(first), ok(second))
        jobs = script.client().jobs(state=["queued", "running"], label="a:b", page_size=2)
        assert next(jobs).id == "job_1" and len(script.requests) == 1
        assert [job.id for job in jobs] == ["job_2", "job_3"]
        queries = [sorted(request.url.params.multi_items()) for request in script.requests]
        filters = [("label", "a:b"), ("limit", "2"), ("state", "queued"), ("state", "running")]
        assert queries == [filters, [("cursor", "c1"), *filters]]

    def test_waiting_ends_with_the_job(self, waits: list[float]) -> None:
        ended = ok(job_document(state="failed", terminal=True))
        job = Script(ok(job_document()), ok(job_document(state="running")), ended).client().wait(JOB)
        assert job.state == "failed" and len(waits) == 2

    def test_waiting_ends_at_the_timeout_with_the_state_in_the_message(self) -> None:
        with pytest.raises(TimedOut, match=f"{JOB} is still queued after 0.05 seconds"):
            Script(ok(job_document())).client().wait(JOB, timeout=0.05)


NO_BEST = {"best": None, "real": None, "protocol": "digits-v1", "fingerprint": "0"}


# --- errors


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (401, "unauthenticated", NotAuthorized),
            (403, "forbidden", NotAuthorized),
            (404, "not_found", NotFound),
            (409, "invalid_transition", Conflict),
            (412, "revision_mismatch", Conflict),
            (413, "body_too_large", Rejected),
            (422, "invalid_request", Rejected),
            (429, "queue_full", Unavailable),
            (500, "internal_error", Unavailable),
            (507, "insufficient_storage", Unavailable),
        ],
    )
    def test_a_problem_becomes_an_error_of_its_kind(self, status: int, code: str, kind: type[ServerError]) -> None:
        answers = [problem(status, code, "what happened")] * 4
        with pytest.raises(ServerError, match=r"^what happened$") as caught:
            Script(*answers).client().job(JOB)
        assert type(caught.value) is kind
        assert (caught.value.status, caught.value.code) == (status, code)

    def test_an_invalid_request_is_not_retried(self) -> None:
        script = Script(problem(422, "invalid_request", "no"))
        with pytest.raises(Rejected):
            script.client().submit(preset="x")
        assert len(script.requests) == 1

    def test_fields_are_named_once_each(self) -> None:
        fields = [
            {"pointer": "/overrides/training.steps", "code": "x", "message": "training.steps: too small"},
            {"pointer": "/seed", "code": "x", "message": "seed: expected an integer"},
        ]
        detail = "training.steps: too small"
        with pytest.raises(Rejected) as caught:
            Script(problem(422, "invalid_request", detail, fields)).client().submit(preset="x")
        assert str(caught.value) == "training.steps: too small; seed: expected an integer"
        assert [error.pointer for error in caught.value.errors] == ["/overrides/training.steps", "/seed"]

    def test_the_error_without_a_server_explains_how_to_start_one(self) -> None:
        script = Script(*[httpx2.ConnectError("[Errno 111] Connection refused")] * 4)
        with pytest.raises(Unreachable, match=r"^no server at http://service; start one with `gan-mhe serve`$"):
            script.client().job(JOB)

    @pytest.mark.parametrize(
        "content", ["<html>", '{"detail": "Not Found"}', "[]", '{"detail": "x", "code": "y", "errors": 1}']
    )
    def test_an_error_response_of_another_program_is_recognized(self, content: str) -> None:
        with pytest.raises(Unreachable, match="the response with status 404 is not one of this service"):
            Script(httpx2.Response(404, text=content)).client().job(JOB)

    def test_a_success_that_is_not_json_is_recognized(self) -> None:
        with pytest.raises(Unreachable, match="expected JSON, got something else"):
            Script(httpx2.Response(200, text="<html>welcome")).client().job(JOB)

    @pytest.mark.parametrize("url", ["http://", "http://host:port", "localhost:8000", "ftp://service"])
    def test_an_invalid_url_is_rejected(self, url: str) -> None:
        with pytest.raises(Unreachable, match="expected http://HOST:PORT"):
            Client(url)


# --- streams


def message(number: int, kind: str = "metric.batch", seq: int | None = None, **data: Any) -> str:
    envelope = {
        "job_id": JOB,
        "seq": number if seq is None else seq,
        "time": "2026-11-21T05:26:39.120Z",
        "type": kind,
        "data": data,
    }
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(envelope)}\n\n"


PRIMER = "id: 0\nretry: 2000\n\n"
END = 'event: stream.end\ndata: {"state":"succeeded"}\n\n'
RESTARTING = "event: server.restarting\ndata: {}\n\n"
PING = ": ping\n\n"


class Body(httpx2.SyncByteStream):
    """A response body that may fail at its end."""

    def __init__(self, text: str, failure: Exception | None) -> None:
        self._text, self._failure = text, failure

    def __iter__(self) -> Iterator[bytes]:
        content = self._text.encode()
        for start in range(0, len(content), 7):  # in pieces, as from a network
            yield content[start : start + 7]
        if self._failure:
            raise self._failure


def stream(*parts: str, failure: Exception | None = None) -> httpx2.Response:
    body = Body("".join(parts), failure)
    return httpx2.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"}, stream=body)


CUT = httpx2.ReadError("connection reset")


def ids(events: Iterator[Event]) -> list[int]:
    return [event.id for event in events]


class TestStreams:
    def test_events_come_in_order_until_the_end(self) -> None:
        script = Script(stream(PRIMER, message(1, "job.state", state="queued"), PING, message(2), END))
        first, second = script.client().stream(JOB)
        assert (first.id, first.type, first.data) == (1, "job.state", {"state": "queued"})
        assert (first.job_id, first.seq, first.time.year) == (JOB, 1, 2026)
        assert (second.id, second.type) == (2, "metric.batch")
        assert script.requests[0].url.path == f"/v1/jobs/{JOB}/stream"
        assert "Last-Event-ID" not in script.requests[0].headers

    @pytest.mark.parametrize(
        ("first", "what"),
        [
            (lambda: stream(PRIMER, message(1), message(2), failure=CUT), "reset"),
            (lambda: stream(PRIMER, message(1), message(2)), "closed"),
            (lambda: stream(PRIMER, message(1), message(2), RESTARTING), "restarting"),
            (lambda: stream(PRIMER, message(1), message(2), message(3)[:-9]), "in the middle of a message"),
            (lambda: stream(PRIMER, message(1), message(2), message(3)[:-1]), "before the empty line"),
            (lambda: stream(PRIMER, message(1), message(2), failure=httpx2.ReadTimeout("silent")), "silence"),
            (lambda: stream(PRIMER, message(1), message(2), "id: 3\n"), "after an id alone"),
        ],
    )
    def test_a_broken_stream_continues_after_the_last_complete_event(
        self, first: Callable[[], httpx2.Response], what: str
    ) -> None:
        script = Script(first(), stream("id: 2\nretry: 1000\n\n", message(3), message(4), END))
        assert ids(script.client().stream(JOB)) == [1, 2, 3, 4], what
        assert script.requests[1].headers["Last-Event-ID"] == "2"

    def test_repeated_events_are_skipped(self) -> None:
        script = Script(
            stream(PRIMER, message(1), message(2), failure=CUT), stream(message(1), message(2), message(3), END)
        )
        assert ids(script.client().stream(JOB)) == [1, 2, 3]

    def test_a_reconnection_without_events_keeps_the_position(self) -> None:
        script = Script(
            stream(PRIMER, message(5), failure=CUT),
            stream("id: 9\nretry: 10\n\n", failure=CUT),
            stream(message(6), END),
        )
        assert ids(script.client().stream(JOB)) == [5, 6]
        assert [request.headers.get("Last-Event-ID") for request in script.requests] == [None, "5", "5"]

    def test_a_stream_may_start_after_an_event(self) -> None:
        script = Script(stream("id: 7\n\n", message(8), END))
        assert ids(script.client().stream(JOB, after=7)) == [8]
        assert script.requests[0].headers["Last-Event-ID"] == "7"

    def test_a_revoked_key_ends_the_stream_with_an_error_and_without_another_attempt(self) -> None:
        closed = 'event: stream.closed\ndata: {"code":"unauthenticated","detail":"the API key was revoked"}\n\n'
        script = Script(stream(PRIMER, message(1), closed))
        events = script.client().stream(JOB)
        assert next(events).id == 1
        with pytest.raises(NotAuthorized, match="the API key was revoked") as error:
            next(events)
        assert (error.value.code, len(script.requests)) == ("unauthenticated", 1)

    def test_status_204_ends_the_stream(self) -> None:
        script = Script(stream(PRIMER, message(1), failure=CUT), httpx2.Response(204))
        assert ids(script.client().stream(JOB)) == [1]

    @pytest.mark.parametrize(
        "failure",
        [
            httpx2.ConnectError("refused"),
            problem(503, "not_serving", "starting"),
            httpx2.Response(502, text="bad gateway"),
            problem(429, "too_many_streams", "too many", **{"Retry-After": "2"}),
        ],
    )
    def test_the_stream_survives_an_interruption_of_the_service(self, failure: Answer) -> None:
        script = Script(stream(PRIMER, message(1)), *[failure] * 6, stream(message(2), END))
        assert ids(script.client().stream(JOB)) == [1, 2]

    def test_waits_start_at_the_services_delay_and_grow(self, waits: list[float]) -> None:
        refused = httpx2.ConnectError("refused")
        script = Script(stream("retry: 3000\n\n", message(1)), refused, refused, refused, stream(message(2), END))
        assert ids(script.client().stream(JOB)) == [1, 2]
        expected = [3.0, 6.0, 12.0, 24.0]
        assert all(most / 2 <= wait <= most for wait, most in zip(waits, expected, strict=True))

    def test_a_stream_fails_after_the_patience_is_exceeded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter(range(0, 10_000, 40))
        monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
        script = Script(stream(PRIMER, message(1)), *[httpx2.ConnectError("refused")] * 100)
        events = script.client().stream(JOB, patience=200)
        assert next(events).id == 1
        with pytest.raises(Unreachable, match=r"no server at http://service.*\(away for 240 seconds\)"):
            next(events)

    def test_a_long_silent_stream_that_breaks_is_reconnected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([0.0, 5000.0, 5001.0, 5002.0])
        monkeypatch.setattr("time.monotonic", lambda: next(clock))
        script = Script(stream(PRIMER, message(1), failure=CUT), stream(message(2), END))
        assert ids(script.client().stream(JOB, patience=60)) == [1, 2]

    def test_a_service_that_never_responded_fails_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter(range(1000))
        monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
        script = Script(*[httpx2.ConnectError("refused")] * 100)
        with pytest.raises(Unreachable, match=r"^no server at http://service; start one with `gan-mhe serve`$"):
            next(script.client().stream(JOB))
        assert len(script.requests) < 6

    def test_a_missing_job_is_an_error_without_a_retry(self) -> None:
        script = Script(problem(404, "not_found", "there is no 'job_x'"))
        with pytest.raises(NotFound, match="there is no 'job_x'"):
            next(script.client().stream("job_x"))

    def test_a_response_that_is_not_a_stream_is_an_error(self) -> None:
        with pytest.raises(Unreachable, match="text/event-stream"):
            next(Script(httpx2.Response(200, text="<html>")).client().stream(JOB))

    def test_several_jobs_share_one_stream(self) -> None:
        script = Script(stream(PRIMER, message(11, seq=1), message(14, seq=1), END))
        events = list(script.client().stream(["job_a", "job_b"]))
        assert [(event.id, event.seq) for event in events] == [(11, 1), (14, 1)]
        url = script.requests[0].url
        assert (url.path, url.params.multi_items()) == ("/v1/stream", [("job", "job_a"), ("job", "job_b")])

    def test_an_experiment_has_one_stream(self) -> None:
        script = Script(stream(PRIMER, END))
        assert list(script.client().stream("exp_1")) == []
        assert script.requests[0].url.params.multi_items() == [("experiment", "exp_1")]

    def test_leaving_a_stream_early_closes_its_connection(self) -> None:
        answer = stream(PRIMER, message(1), message(2), END)
        events = Script(answer).client().stream(JOB)
        assert next(events).id == 1
        assert not answer.is_closed
        events.close()
        assert answer.is_closed


# --- what it needs


def test_the_client_loads_neither_torch_nor_the_web_framework_nor_the_database() -> None:
    script = "import sys, server.client; sys.stdout.write(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "fastapi", "starlette", "sqlalchemy", "PIL", "scipy"}.isdisjoint(loaded)


# Downloads.

TASK = {
    **{
        "id": "task_1",
        "object": "task",
        "kind": "sample",
        "job_id": JOB,
        "checkpoint_id": "ckpt_1",
        "state": "running",
    },
    **{"terminal": False, "reason": None, "message": None, "request": {}, "result": None, "links": {}},
    **{"created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None},
}


class Broken(httpx2.SyncByteStream):
    """A body that breaks after its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx2.RemoteProtocolError("incomplete chunked read")


def broken(content: bytes, etag: str | None = '"att_1"', status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, headers={"ETag": etag} if etag else {}, stream=Broken(content))


def drawn(content: bytes) -> httpx2.Response:
    digest = hashlib.sha256(content).hexdigest()
    result = {"sha256": digest, "size_bytes": len(content), "media_type": "application/zip"}
    return httpx2.Response(200, json={**TASK, "state": "succeeded", "terminal": True, "result": result})


def test_a_broken_download_goes_on_where_it_was(tmp_path: Path) -> None:
    end = httpx2.Response(206, headers={"ETag": f'"sha256-{hashlib.sha256(b"abcdef").hexdigest()}"'}, content=b"ef")
    script = Script(httpx2.Response(202, json=TASK), broken(b"abc"), broken(b"d", status=206), end, drawn(b"abcdef"))
    result = script.client().draw_into("ckpt_1", tmp_path / "new" / "images.zip", n=9, format="zip")
    assert (tmp_path / "new" / "images.zip").read_bytes() == b"abcdef"
    assert result.sha256 == hashlib.sha256(b"abcdef").hexdigest()
    asked = [(request.headers.get("Range"), request.headers.get("If-Range")) for request in script.requests[1:4]]
    assert asked == [(None, None), ("bytes=3-", '"att_1"'), ("bytes=4-", '"att_1"')]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["images.zip"]


def test_images_are_drawn_into_a_file_named_by_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = httpx2.Response(200, headers={"ETag": '"att_1"'}, content=b"images")
    Script(httpx2.Response(202, json=TASK), whole, drawn(b"images")).client().draw_into("ckpt_1", "images.npz")
    assert (tmp_path / "images.npz").read_bytes() == b"images"


def test_a_download_begins_again_if_the_service_sends_another_file(tmp_path: Path) -> None:
    whole = httpx2.Response(200, headers={"ETag": '"att_2"'}, content=b"other")
    script = Script(httpx2.Response(202, json=TASK), broken(b"longer than that"), whole, drawn(b"other"))
    script.client().draw_into("ckpt_1", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"other"


def test_a_download_without_etag_is_not_continued(tmp_path: Path) -> None:
    whole = httpx2.Response(200, content=b"abc")
    script = Script(httpx2.Response(202, json=TASK), broken(b"ab", etag=None), whole, drawn(b"abc"))
    script.client().draw_into("ckpt_1", tmp_path / "a")
    assert "Range" not in script.requests[2].headers
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_a_download_of_which_only_the_end_was_lost_is_whole(tmp_path: Path) -> None:
    script = Script(httpx2.Response(202, json=TASK), broken(b"abc"), httpx2.Response(416), drawn(b"abc"))
    script.client().draw_into("ckpt_1", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"abc"


def test_a_download_with_other_content_than_its_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"older")
    wrong = httpx2.Response(200, headers={"ETag": f'"sha256-{"0" * 64}"'}, content=b"abc")
    script = Script(httpx2.Response(202, json=TASK), wrong)
    with pytest.raises(Unreachable, match="expected content with ETag"):
        script.client().draw_into("ckpt_1", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_download_that_breaks_without_progress_is_given_up(tmp_path: Path) -> None:
    script = Script(httpx2.Response(202, json=TASK), broken(b"ab"), *(broken(b"", status=206) for _ in range(3)))
    with pytest.raises(Unreachable, match="incomplete chunked read"):
        script.client().draw_into("ckpt_1", tmp_path / "a")
    assert script.finished() and list(tmp_path.iterdir()) == []


def test_images_of_a_task_that_fails_are_refused_with_its_reason(tmp_path: Path) -> None:
    failed = {**TASK, "state": "failed", "terminal": True, "reason": "disk_full", "message": "no space"}
    refused = httpx2.Response(409, json={"code": "not_ready", "detail": "task_1 is failed"})
    script = Script(httpx2.Response(202, json=TASK), broken(b"ab"), refused, httpx2.Response(200, json=failed))
    with pytest.raises(TaskFailed, match="task_1 failed: no space"):
        script.client().draw_into("ckpt_1", tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
