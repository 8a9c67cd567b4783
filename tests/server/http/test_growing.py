"""Downloads of images while they are drawn: whole at the end, resumed by ranges, or visibly broken off."""

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Connection
from starlette.datastructures import Headers

from gan_mhe.files import sha256_bytes
from server.executors.base import ExitRecord
from server.executors.slots import Slot
from server.queue import claims, queue, removal, worker_request
from server.queue.states import State
from server.service import Service
from server.store import keys
from server.store.rows import AttemptRow
from server.supervision import endings
from server.supervision.outcomes import Limits

HALF, WHOLE = b"half", b"half and half"
REQUEST = {
    **{"job_id": "job_source", "checkpoint_id": "ckpt_source", "checkpoint_sha256": "c" * 64, "step": 10},
    **{"n": 4, "seed": 1, "truncation": None, "interpolation": 0, "ema": False, "format": "zip"},
}
SLOT = Slot("task0", "cpu", "task")


class Drawing:
    """A sampling task whose worker is this test."""

    def __init__(self, service: Service, project: str = "default") -> None:
        self.service = service
        new = queue.NewJob(project=project, kind="sample", request=REQUEST, request_sha256="0")
        self.id = str(service.store.write(lambda connection: queue.create(connection, new))["id"])
        self.path = f"/v1/tasks/{self.id}/content"

    def start(self) -> AttemptRow:
        """A new attempt, which has drawn nothing yet."""

        def work(connection: Connection) -> AttemptRow:
            claims.claim(connection, [SLOT], "fake")
            attempt = queue.live_attempt(connection, self.id)
            assert attempt is not None
            queue.move(connection, queue.get(connection, self.id), State.RUNNING)
            return attempt

        self.attempt = self.service.store.write(work)
        self.partial = worker_request.partial_output(self.service.settings, self.attempt)
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        return self.attempt

    def write(self, content: bytes) -> "Drawing":
        with open(self.partial, "ab") as file:
            file.write(content)
        return self

    def end(self, record: ExitRecord | None, limits: int = 0) -> None:
        endings.remove_partial(self.service.settings, self.attempt)
        rules = Limits(limits, limits, 0.0)
        self.service.store.write(lambda c: endings.end(c, self.attempt["id"], record, rules, seconds=1.0))

    def rename(self) -> None:
        os.replace(self.partial, self.partial.with_name("images.zip"))

    def finish(self, rest: bytes = b"") -> None:
        content = self.write(rest).partial.read_bytes()
        self.rename()
        result = {"sha256": sha256_bytes(content), "size_bytes": len(content), "media_type": "application/zip"}
        self.end(ExitRecord(0, None, "exit", outcome={"outcome": "completed", "result": result}))

    def cancel(self) -> None:
        self.service.store.write(lambda c: queue.cancel(c, queue.get(c, self.id), "now"))
        self.end(ExitRecord(None, 9, "stop"))

    def delete(self) -> None:
        self.service.store.write(lambda c: removal.remove(c, queue.get(c, self.id)))


@pytest.fixture
def drawing(service: Service) -> Drawing:
    drawing = Drawing(service)
    drawing.start()
    return drawing.write(HALF)


@dataclass
class Answer:
    """What a client got: `whole` if the body was ended."""

    status: int = 0
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""
    whole: bool = False


@dataclass
class Http:
    """Requests to the application, and what happens while they are answered."""

    app: FastAPI
    portal: BlockingPortal

    def get(
        self, path: str, then: Callable[[Answer], Any] = lambda _: None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer; `then` is called once, when the first bytes have come, or the head of an answer without."""
        return self.portal.call(self._get, path, then, headers or {})

    async def _get(self, path: str, then: Callable[[Answer], Any], headers: Mapping[str, str]) -> Answer:
        answer, called = Answer(), False

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal called
            if message["type"] == "http.response.start":
                answer.status, answer.headers = message["status"], Headers(raw=message["headers"])
                return
            answer.body += message["body"]
            answer.whole = not message.get("more_body", False)
            if not called:
                called = True
                await asyncio.to_thread(then, answer)

        given = [(b"host", b"localhost"), *((name.lower().encode(), value.encode()) for name, value in headers.items())]
        scope = {
            **{"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""},
            **{"headers": given, "client": ("127.0.0.1", 1), "server": ("localhost", 80), "scheme": "http"},
            **{"http_version": "1.1", "root_path": "", "asgi": {"version": "3.0", "spec_version": "2.3"}, "state": {}},
        }
        await asyncio.wait_for(self.app(scope, receive, send), 30)
        return answer


@pytest.fixture
def http(client: TestClient, portal: BlockingPortal) -> Http:
    app = client.app
    assert isinstance(app, FastAPI)
    return Http(app, portal)


def test_what_is_written_comes_first_then_the_rest_and_the_end_when_the_task_has_ended(
    http: Http, drawing: Drawing
) -> None:
    seen = []

    def finish(answer: Answer) -> None:
        seen.append(answer.body)
        drawing.finish(WHOLE[len(HALF) :])

    answer = http.get(drawing.path, finish)
    assert seen == [HALF]
    assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)
    assert "content-length" not in answer.headers
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{drawing.id}.zip"'


@pytest.mark.parametrize(
    "harm",
    [
        lambda drawing: drawing.cancel(),
        lambda drawing: (drawing.cancel(), drawing.delete()),
        lambda drawing: drawing.end(ExitRecord(None, 9, "exit")),  # without a retry left
        lambda drawing: drawing.end(ExitRecord(None, 9, "exit"), limits=5),
        lambda drawing: (drawing.end(ExitRecord(None, 9, "exit"), limits=5), drawing.start(), drawing.write(WHOLE)),
        lambda drawing: drawing.service.broker.shutdown(),
    ],
    ids=["cancelled", "deleted", "failed", "to be retried", "retried", "shutdown"],
)
def test_a_file_that_does_not_become_whole_is_not_ended(http: Http, drawing: Drawing, harm: Any) -> None:
    answer = http.get(drawing.path, lambda _: harm(drawing))
    assert (answer.status, answer.body, answer.whole) == (200, HALF, False)


def test_a_file_shorter_than_its_task_says_is_not_ended(http: Http, drawing: Drawing) -> None:
    def shorten(_: Answer) -> None:
        with open(drawing.partial, "rb+") as file:
            os.link(drawing.partial, drawing.partial.with_name("kept"))
            drawing.finish(b" and more")
            file.truncate(len(HALF))

    assert not http.get(drawing.path, shorten).whole


def test_a_revoked_key_ends_no_file_as_if_it_were_whole(http: Http, service: Service) -> None:
    token = keys.create(service.store, "test", "default", ["samples:read"])
    drawing = Drawing(service)
    drawing.start()
    drawing.write(HALF)
    prefix = keys.listing(service.store)[0]["prefix"]
    headers = {"Authorization": f"Bearer {token}"}
    answer = http.get(drawing.path, lambda _: keys.revoke(service.store, prefix), headers)
    assert (answer.status, answer.body, answer.whole) == (200, HALF, False)


def test_a_whole_file_has_its_length_and_its_hash(http: Http, drawing: Drawing) -> None:
    drawing.finish(WHOLE[len(HALF) :])
    answer = http.get(drawing.path)
    assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)
    assert answer.headers["content-length"] == str(len(WHOLE))
    assert answer.headers["etag"] == f'"sha256-{sha256_bytes(WHOLE)}"'


def test_a_file_that_was_renamed_before_the_service_knows_of_its_end_is_sent_whole(
    http: Http, drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing.write(WHOLE[len(HALF) :]).rename()
    wait = drawing.service.broker.wait_until_ended

    async def register(task_id: str, seconds: float) -> None:
        os.replace(drawing.partial.with_name("images.zip"), drawing.partial)
        await asyncio.to_thread(drawing.finish)
        await wait(task_id, seconds)

    monkeypatch.setattr(drawing.service.broker, "wait_until_ended", register)
    answer = http.get(drawing.path)
    assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)


def test_a_range_of_what_is_written_is_answered_at_once(http: Http, drawing: Drawing) -> None:
    answer = http.get(drawing.path, headers={"Range": "bytes=1-2"})
    assert (answer.status, answer.body, answer.whole) == (206, b"al", True)
    assert answer.headers["content-range"] == "bytes 1-2/*"
    assert answer.headers["content-length"] == "2"
    assert answer.headers["etag"] == f'"{drawing.attempt["id"]}"'


def test_a_range_of_a_file_that_is_shortened_meanwhile_is_not_ended(http: Http, drawing: Drawing) -> None:
    drawing.write(b"x" * 600_000)
    answer = http.get(drawing.path, lambda _: os.truncate(drawing.partial, 1000), {"Range": "bytes=0-599999"})
    assert answer.status == 206 and len(answer.body) < 600_000 and not answer.whole


@pytest.mark.parametrize("range_", ["bytes=4-", "bytes=4-100", "bytes=-9"])
def test_a_range_beyond_what_is_written_is_answered_when_the_task_has_ended(
    http: Http, drawing: Drawing, monkeypatch: pytest.MonkeyPatch, range_: str
) -> None:
    waited = []
    wait = drawing.service.broker.wait_until_ended

    async def finish_first(task_id: str, seconds: float) -> None:
        waited.append(task_id)
        await asyncio.to_thread(drawing.finish, WHOLE[len(HALF) :])
        await wait(task_id, seconds)

    monkeypatch.setattr(drawing.service.broker, "wait_until_ended", finish_first)
    etag = f'"{drawing.attempt["id"]}"'
    answer = http.get(drawing.path, headers={"Range": range_, "If-Range": etag})
    assert waited == [drawing.id]
    assert (answer.status, answer.body, answer.whole) == (206, WHOLE[4:], True)
    assert answer.headers["content-range"] == f"bytes 4-{len(WHOLE) - 1}/{len(WHOLE)}"


def test_a_download_of_an_earlier_attempt_begins_again(http: Http, drawing: Drawing) -> None:
    headers = {"Range": "bytes=2-3", "If-Range": f'"{drawing.attempt["id"]}"'}
    drawing.end(ExitRecord(None, 9, "exit"), limits=5)
    drawing.start()
    drawing.write(WHOLE)
    answer = http.get(drawing.path, lambda _: drawing.finish(), headers)
    assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)
    assert http.get(drawing.path, headers=headers).body == WHOLE
    current = {"Range": "bytes=2-3", "If-Range": f'"{drawing.attempt["id"]}"'}
    assert http.get(drawing.path, headers=current).body == WHOLE[2:4]


def test_a_range_beyond_the_end_of_a_whole_file_is_refused(http: Http, drawing: Drawing) -> None:
    drawing.finish()
    answer = http.get(drawing.path, headers={"Range": "bytes=4-"})
    assert (answer.status, answer.headers["content-range"]) == (416, "bytes */4")


def test_a_task_that_waits_is_answered_with_what_its_attempt_draws(http: Http, service: Service) -> None:
    drawing = Drawing(service)
    wait, waited = service.broker.wait_until_ended, []

    async def draw_first(task_id: str, seconds: float) -> None:
        if not waited:
            await asyncio.to_thread(drawing.start)
            drawing.write(WHOLE).finish()
        waited.append(task_id)
        await wait(task_id, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.broker, "wait_until_ended", draw_first)
        answer = http.get(drawing.path)
    assert waited == [drawing.id]
    assert (answer.status, answer.body, answer.whole) == (200, WHOLE, True)


def test_a_task_that_ended_without_images_says_why(client: TestClient, drawing: Drawing) -> None:
    drawing.cancel()
    answer = client.get(drawing.path)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ready")
    assert "is cancelled, without images" in answer.json()["detail"]


def test_other_tasks_and_other_projects_have_no_content(client: TestClient, service: Service) -> None:
    other = Drawing(service, project="other")
    assert client.get(other.path).status_code == 404
    new = queue.NewJob(project="default", kind="score", request={}, request_sha256="0")
    task = service.store.write(lambda connection: queue.create(connection, new))["id"]
    answer = client.get(f"/v1/tasks/{task}/content")
    assert (answer.status_code, answer.json()["detail"]) == (404, f"{task} draws no images")


def test_the_head_of_a_growing_file_is_answered_at_once(client: TestClient, drawing: Drawing) -> None:
    answer = client.head(drawing.path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == f'"{drawing.attempt["id"]}"'


def test_a_task_names_its_content(client: TestClient, drawing: Drawing) -> None:
    assert client.get(f"/v1/tasks/{drawing.id}").json()["links"]["content"] == drawing.path
