"""Clients that harm: floods of submissions, silent connections, bad imports."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import httpx2

from benchmarks.campaign.harms.base import Harm, Scene

_KEYS, _REPEATS, _SENDERS = 8, 5, 6
_CONNECTIONS = 250
_ANSWER_SECONDS = 5.0


class Flood(Harm):
    """Submissions from many threads, each key several times, while the server is killed twice."""

    group = "clients"
    name = "flood of submissions"

    def __init__(self) -> None:
        self._answers: set[tuple[str, str]] = set()

    def inflict(self, scene: Scene) -> str:
        keys = [f"flood-{scene.number}-{index % _KEYS}" for index in range(_KEYS * _REPEATS)]
        scene.random.shuffle(keys)
        body = scene.twins.arms[0].request(labels={"flood": str(scene.number)}, priority=-10)

        def send(key: str) -> tuple[str, str]:
            answer = scene.post("/v1/jobs", body, key)
            assert answer.status_code == 201, f"a submission is answered {answer.status_code}: {answer.text[:200]}"
            return key, answer.json()["id"]

        with ThreadPoolExecutor(_SENDERS) as pool:
            sent = pool.map(send, keys)
            for _ in range(2):
                scene.pause(0.0, 0.5)
                scene.kill_server()
                scene.service.revive()
            self._answers = set(sent)
        return f"{len(keys)} submissions with {_KEYS} keys"

    def heal(self, scene: Scene) -> None:
        super().heal(scene)
        for _, job_id in self._answers:
            scene.service.act(job_id, "cancel", mode="now")

    def verify(self, scene: Scene) -> None:
        made = [job["id"] for job in scene.service.jobs() if job["labels"].get("flood") == str(scene.number)]
        assert len(self._answers) == _KEYS, f"{_KEYS} keys were answered with {len(self._answers)} jobs"
        assert set(made) == {job_id for _, job_id in self._answers}, f"{_KEYS} keys made the jobs {made}"


class SilentConnections(Harm):
    """Connections that send nothing, half a head, or half a body, and stay."""

    group = "clients"
    name = "silent connections"

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    def inflict(self, scene: Scene) -> str:
        port = int(scene.service.address.rsplit(":", 1)[1])
        head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        for index in range(_CONNECTIONS):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall((b"", head, head + b'\r\n{"preset"')[index % 3])
            self._open.append(connection)
        began = time.monotonic()
        scene.service.jobs()
        taken = time.monotonic() - began
        assert taken < _ANSWER_SECONDS, f"beside {_CONNECTIONS} silent connections an answer took {taken:.1f} s"
        return f"{_CONNECTIONS} for {scene.pause(1.0, 6.0):.1f} s"

    def heal(self, scene: Scene) -> None:
        for connection in self._open:
            connection.close()
        super().heal(scene)


class ImportsAndAKill(Harm):
    """A good run is imported while the server is killed: it becomes exactly one job."""

    group = "imports"
    name = "kill server in an import"

    def inflict(self, scene: Scene) -> str:
        self._arm, run = scene.a_run()
        self._run_name = f"good-{scene.number}"
        scene.put_into_inbox(run, self._run_name)
        sender = threading.Thread(target=self._send, args=(scene,))
        sender.start()
        waited = scene.pause(0.0, 0.4)
        scene.kill_server()
        sender.join()
        return f"killed {waited:.2f} s after the request"

    def _send(self, scene: Scene) -> None:
        with suppress(httpx2.TransportError):  # the server is killed
            scene.service.request("POST", "/v1/imports", json={"name": self._run_name})

    def heal(self, scene: Scene) -> None:
        super().heal(scene)
        if not self._made(scene):
            answer = scene.post("/v1/imports", {"name": self._run_name}, f"import-{scene.number}")
            assert answer.status_code == 201, f"the import is answered {answer.status_code}: {answer.text[:200]}"
        for job_id in self._made(scene):
            scene.ledger.arms[job_id] = self._arm

    def _made(self, scene: Scene) -> list[str]:
        return [job["id"] for job in scene.service.jobs() if job["name"] == self._run_name]

    def verify(self, scene: Scene) -> None:
        made = self._made(scene)
        assert len(made) == 1, f"one import became the jobs {made}"
        assert not (scene.service.data_dir / "inbox" / self._run_name).exists(), "the imported run is in the inbox too"


class BadImports(Harm):
    """Run directories that are damaged in every way: refused, or imported without harm to any list."""

    group = "imports"
    name = "bad imports"

    def inflict(self, scene: Scene) -> str:
        _, run = scene.a_run()
        chosen = scene.random.sample(sorted(_DAMAGES), 4)
        for what in chosen:
            name = f"bad-{scene.number}-{what}"
            _DAMAGES[what](scene.put_into_inbox(run, name, without="checkpoints"))
            self._import(scene, name)
        answer = scene.service.request("POST", "/v1/imports", json={"name": "../jobs"})
        assert answer.status_code == 422, f"a path as name is answered {answer.status_code}"
        return ", ".join(chosen)

    def _import(self, scene: Scene, name: str) -> None:
        service, place = scene.service, scene.service.data_dir / "inbox" / name
        answer = service.request("POST", "/v1/imports", json={"name": name})
        code = answer.status_code
        assert code == 201 or 400 <= code < 500, f"the import of {name} is answered {code}: {answer.text[:200]}"
        assert service.request("GET", "/v1/imports").status_code == 200, f"{name} breaks the list of the inbox"
        service.jobs()
        if code == 201:
            job = answer.json()
            if not job["terminal"]:
                service.act(job["id"], "cancel", mode="now")
            removed = service.request("DELETE", f"/v1/jobs/{job['id']}").status_code
            assert removed == 204, f"the deletion of {name} is answered {removed}"
        elif place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()


def _cut(file: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        content = (run / file).read_bytes()
        (run / file).write_bytes(content[: len(content) // 2])

    return damage


def _result(**values: object) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        file = run / "result.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return damage


def _too_many_names(run: Path) -> None:
    values = {f"name/{index}": 1.0 for index in range(40_000)}
    event = {"type": "scalars", "step": 5, "seq": 1, "time": "2026-01-01T00:00:00.000Z", "values": values}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")


def _garbage_line(run: Path) -> None:
    with open(run / "events.jsonl", "ab") as file:
        file.write(b'\xff\xfe{"type": 5}\n[1, 2]\n')


def _a_file(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("not a directory")


def _a_link(run: Path) -> None:
    (run / "samples" / "step_00000041.png").symlink_to("/etc/hostname")


def _empty(run: Path) -> None:
    shutil.rmtree(run)
    run.mkdir()


_DAMAGES = MappingProxyType(
    {
        "config-cut": _cut("config.json"),
        "empty": _empty,
        "events-cut": _cut("events.jsonl"),
        "events-garbage": _garbage_line,
        "file": _a_file,
        "link": _a_link,
        "result-best": _result(best={"step": "x", "scores": {"inception_score": "abc"}}),
        "result-cut": _cut("result.json"),
        "result-metric": _result(metric=5),
        "result-protocol": _result(protocol=["x"]),
        "result-real": _result(real={"a": [1]}),
        "result-steps": _result(step=10**9),
        "too-many-names": _too_many_names,
    }
)
