"""The service as a process: its address, refused starts, and shutdown."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from server import startup
from server.errors import StartRefused
from server.serve import GRACEFUL_SHUTDOWN_SECONDS, _listen, serve
from server.settings import Settings
from server.store import keys
from server.store.store import Store
from tests.support.paths import FAKE_WORKER

SERVE = """
import sys
from server.errors import StartRefused
from server.serve import GRACEFUL_SHUTDOWN_SECONDS, serve
from server.settings import Settings
try:
    serve(Settings())
except StartRefused as error:
    sys.exit(f"refused: {error}")
"""
DEADLINE = 20.0


def environment(data_dir: Path, **settings: Any) -> dict[str, str]:
    values = {"data_dir": data_dir, "port": 0, "cpu_slots": 0, "disk_reserve_bytes": 0, "log_json": "true"} | settings
    own = {f"GAN_MHE_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **own}


class Server:
    """A running server. first: the first line that it printed."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE],
            env=environment(data_dir, **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline().strip()
        assert self.first.endswith("/"), self.process.stderr and self.process.stderr.read()
        self.url = self.first.removesuffix("/")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float, str]:
        """Exit code, seconds until the exit, and the rest of the output."""
        began = time.monotonic()
        self.process.send_signal(how)
        out, _ = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, time.monotonic() - began, out


@contextmanager
def running(data_dir: Path, **settings: Any) -> Iterator[Server]:
    server = Server(data_dir, **settings)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


def refusal(monkeypatch: pytest.MonkeyPatch, data_dir: Path, **settings: Any) -> str:
    """The reason why a server does not start, in this process."""
    monkeypatch.setattr("server.serve.logs.configure", lambda _as_json: None)
    with pytest.raises(StartRefused) as refused:
        serve(Settings(data_dir=data_dir, **{"port": 0, **settings}))
    assert not (data_dir / "server.json").exists()
    return str(refused.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_are_not_held_back_for_an_acknowledgment(tmp_path: Path, host: str) -> None:
    with _listen(Settings(data_dir=tmp_path, host=host, port=0)) as listener:
        with socket.create_connection(listener.getsockname()[:2]), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_a_free_port_is_chosen_printed_and_recorded(server: Server) -> None:
    announced = json.loads((server.data_dir / "server.json").read_text())
    assert announced == {"url": server.url, "pid": server.process.pid}
    assert httpx2.get(f"{server.url}/healthz").json() == {"status": "alive"}


def test_a_second_server_with_the_same_data_is_refused_and_changes_nothing(server: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE], env=environment(server.data_dir), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert f"in use by another server (process {server.process.pid} " in line
    assert (server.data_dir / "server.json").exists()
    assert httpx2.get(f"{server.url}/healthz").status_code == 200


def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refusal(monkeypatch, tmp_path, port=port)
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in message
    assert "--port" in message


def test_a_refused_start_releases_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal(monkeypatch, tmp_path, host="0.0.0.0")
    startup.open_service(Settings(data_dir=tmp_path)).stop()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"Host: evil.example", 403),
        (b"Host: localhost/x?y", 403),
        (b"Host: localhost\tevil", 403),
        (b"Host: \xff\xfe", 403),
        (b"Host: localhost\r\nHost: localhost", 403),
        (b"X-Forwarded-Host: localhost", 400),
        (b"Host: evil.example\r\nX-Forwarded-Host: localhost", 403),
        (b"Host: localhost", 200),
    ],
)
def test_a_malformed_host_is_rejected_with_a_response(server: Server, host: bytes, status: int) -> None:
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\n" + host + b"\r\nConnection: close\r\n\r\n")
        answer = connection.recv(65536)
    assert int(answer.split()[1]) in {status, 400 if status == 403 else status}


def test_responses_do_not_name_the_server_software(server: Server) -> None:
    assert "server" not in httpx2.get(f"{server.url}/healthz").headers


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_removes_the_announcement(tmp_path: Path, how: signal.Signals) -> None:
    with running(tmp_path) as server:
        httpx2.get(f"{server.url}/v1/variants", headers={"X-Request-Id": "seen"})
        code, _, out = server.stop(how)
    assert code == 0
    assert not (tmp_path / "server.json").exists()
    [line] = [json.loads(line) for line in out.splitlines()]
    assert (line["path"], line["status"], line["request_id"]) == ("/v1/variants", 200, "seen")


def test_a_connection_that_says_nothing_is_closed(tmp_path: Path) -> None:
    with running(tmp_path, request_head_seconds=0.2) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=DEADLINE) as connection:
            assert connection.recv(100) == b""


def work(server: Server) -> None:
    """Run a job to its end, so that there is a file of every kind."""
    overrides = {"training.steps": 20, "sampling.every_steps": 10, "checkpoint.every_steps": 10}
    body = {"preset": "digits_cnn", "overrides": {**overrides, "training.report_every_steps": 5}}
    job = httpx2.post(f"{server.url}/v1/jobs", json=body).json()["id"]
    deadline = time.monotonic() + DEADLINE
    while httpx2.get(f"{server.url}/v1/jobs/{job}").json()["state"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    [sample, *_] = httpx2.get(f"{server.url}/v1/jobs/{job}/samples").json()["data"]
    path = f"/v1/jobs/{job}/samples/{sample['step']}/thumbnail?width=64"
    assert httpx2.get(server.url + path, timeout=DEADLINE).status_code == 200


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The umask under which most programs run."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_only_the_user_of_the_service_can_read_its_files(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    command = json.dumps([sys.executable, str(FAKE_WORKER)])
    with running(data_dir, cpu_slots=1, worker_command=command) as server:
        assert server.process.stdout is not None
        closed = json.loads(server.process.stdout.readline())
        work(server)
        modes = {path: path.stat().st_mode & 0o777 for path in (data_dir, *data_dir.rglob("*"))}
    wrong = {str(path): oct(mode) for path, mode in modes.items() if mode != (0o700 if path.is_dir() else 0o600)}
    assert wrong == {}
    names = {path.name for path in modes}
    kinds = {
        "service.sqlite3",
        "service.sqlite3-wal",
        "service.sqlite3-shm",
        "cursor.key",
        "server.json",
        "server.lock",
    }
    assert kinds | {"console.log", "tensors.safetensors", "events.jsonl", "samples", "derived"} <= names
    expected = ("data_directory_closed_to_others", str(data_dir), "0755")
    assert (closed["event"], closed["directory"], closed["mode"]) == expected


@pytest.mark.usefixtures("usual_umask")
def test_an_operator_can_leave_the_files_to_a_group(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o750)
    with running(data_dir, private_files="false"):
        modes = [path.stat().st_mode & 0o777 for path in (data_dir, data_dir / "service.sqlite3")]
    assert modes == [0o750, 0o644]


MAIN = "from server.cli.app import main; main()"
LOST_OUTPUT = {
    "full": "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    "without reader": "import os; reader, writer = os.pipe(); os.close(reader); os.dup2(writer, 1)",
    "closed": "import os, sys; os.close(1); sys.stdout = None",
}


@pytest.mark.parametrize("how", LOST_OUTPUT)
def test_a_log_that_cannot_be_written_fails_no_request(tmp_path: Path, how: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", f"{LOST_OUTPUT[how]}\n{MAIN}", "serve"],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + DEADLINE
        while not (tmp_path / "server.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        url = json.loads((tmp_path / "server.json").read_text())["url"]
        assert httpx2.post(f"{url}/v1/jobs", json={"preset": "debug_cpu"}).status_code == 201
        assert httpx2.get(f"{url}/v1/jobs").status_code == 200
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")


def test_open_streams_end_at_shutdown_and_do_not_delay_it(tmp_path: Path) -> None:
    received: list[str] = []
    with running(tmp_path) as server:
        job = httpx2.post(f"{server.url}/v1/jobs", json={"preset": "debug_cpu"}).json()
        opened = threading.Event()

        def listen() -> None:
            with httpx2.stream("GET", f"{server.url}/v1/jobs/{job['id']}/stream", timeout=DEADLINE) as response:
                for line in response.iter_lines():
                    received.append(line)
                    if line.startswith("event: job.state"):
                        opened.set()

        listener = threading.Thread(target=listen)
        listener.start()
        assert opened.wait(DEADLINE)
        code, seconds, _ = server.stop()
        listener.join(DEADLINE)
    assert not listener.is_alive()
    assert (code, seconds < GRACEFUL_SHUTDOWN_SECONDS) == (0, True)
    assert "event: server.restarting" in received


def test_a_public_address_is_refused_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "listening on 0.0.0.0 requires an API key" in refusal(monkeypatch, tmp_path, host="0.0.0.0")


def test_a_public_address_is_served_with_a_key(tmp_path: Path) -> None:
    store = Store(tmp_path / "service.sqlite3")
    store.migrate()
    revoked, token = (keys.create(store, "test", "default", ["jobs:read"]) for _ in range(2))
    keys.revoke(store, revoked.split("_")[1])
    store.close()
    with running(tmp_path, host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert httpx2.get(f"{server.url}/v1/jobs").status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx2.get(f"{server.url}/v1/jobs", headers=headers).status_code == 200


def test_revoked_keys_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "service.sqlite3")
    store.migrate()
    keys.revoke(store, keys.create(store, "test", "default", ["admin"]).split("_")[1])
    store.close()
    assert "requires an API key" in refusal(monkeypatch, tmp_path, host="0.0.0.0")


def test_a_data_directory_that_cannot_be_created_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write to the data directory" in refusal(monkeypatch, tmp_path / "file" / "data")


def test_an_invalid_database_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "service.sqlite3").write_bytes(b"not a database, but long enough to be read as one" * 100)
    assert "cannot use the database" in refusal(monkeypatch, tmp_path)


def test_the_service_never_loads_torch() -> None:
    code = "import sys, server.serve; sys.exit(' '.join(m for m in sys.modules if m.split('.')[0] == 'torch') or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
