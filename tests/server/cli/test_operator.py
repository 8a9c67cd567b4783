"""Running the service and managing its keys from the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.app import main
from server.client import Client, NotAuthorized
from server.store import keys
from server.store.store import Store

MAIN = "from server.cli.app import main; main()"
LIMIT_SECONDS = 30.0
Output = tuple[int, str, str]
Command = Callable[..., Output]


@pytest.fixture
def gan_mhe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `gan-mhe` in an empty directory and return exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GAN_MHE_") and name != "GAN_MHE_CACHE"]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> Output:
        monkeypatch.setattr("sys.argv", ["gan-mhe", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


# --- keys


def test_a_key_is_shown_once_and_listed_without_its_secret(gan_mhe: Command, tmp_path: Path) -> None:
    code, token, err = gan_mhe("keys", "create", "for tests", "--scope", "jobs:read", "--scope", "jobs:write")
    assert (code, err) == (0, "save this key: it cannot be shown again\n")
    prefix, secret = re.fullmatch(r"gk_([a-z0-9]{12})_(\S{43})\n", token).groups()  # type: ignore[union-attr]
    code, listed, err = gan_mhe("keys", "list")
    assert (code, err) == (0, "")
    assert re.search(
        rf"^{prefix} +for tests +default +jobs:read jobs:write +\d{{4}}-\d\d-\d\d *$", listed, re.MULTILINE
    )
    assert secret not in listed
    store = Store(tmp_path / "gan-mhe-data" / "service.sqlite3")
    assert store.read(lambda connection: keys.verify(connection, token.strip())) is not None
    store.close()


def test_a_revoked_key_is_listed_as_such(gan_mhe: Command) -> None:
    token = gan_mhe("keys", "create", "x", "--scope", "admin", "--project", "lab", "--data-dir", "d")[1]
    prefix = token.split("_")[1]
    assert gan_mhe("keys", "revoke", prefix, "--data-dir", "d") == (0, f"{prefix} is revoked\n", "")
    assert re.search(rf"{prefix} +x +lab +admin +\S+ +revoked \d{{4}}", gan_mhe("keys", "list", "--data-dir", "d")[1])


def test_a_database_made_for_a_key_is_private(gan_mhe: Command, tmp_path: Path) -> None:
    gan_mhe("keys", "create", "x", "--scope", "admin")
    made = [tmp_path / "gan-mhe-data", tmp_path / "gan-mhe-data" / "service.sqlite3"]
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o600]


def test_a_key_is_listed_with_the_limits_that_it_was_given(gan_mhe: Command) -> None:
    limits = ("--max-priority", "-2", "--max-queued-jobs", "30", "--max-streams", "4")
    assert gan_mhe("keys", "create", "x", "--scope", "admin", *limits)[0] == 0
    assert re.search(r"\d +priority=-2 queued-jobs=30 streams=4 *$", gan_mhe("keys", "list")[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("create", "x", "--scope", "jobs"), "error: unknown scope 'jobs'; expected some of jobs:read, "),
        (("create", " ", "--scope", "admin"), "error: name: expected more than spaces, got ' '"),
        (("create", "x", "--scope", "admin", "--project", "A"), "error: project: expected 1 to 64 lower-case letters"),
        (
            ("create", "x", "--scope", "admin", "--max-priority", "11"),
            "error: max_priority: expected -10 to 10, got 11",
        ),
        (
            ("create", "x", "--scope", "admin", "--max-streams", "0"),
            "error: max_streams: expected 1 to 2147483647, got",
        ),
        (("revoke", "nothing"), "error: there is no key 'nothing'"),
        (("list", "--data-dir", "file/x"), "error: cannot write to the data directory file/x: Not a directory"),
    ],
)
def test_an_error_with_keys_is_one_line(gan_mhe: Command, arguments: tuple[str, ...], expected: str) -> None:
    Path("file").touch()
    code, printed, err = gan_mhe("keys", *arguments)
    assert (code, printed) == (1, "")
    assert err.startswith(expected) and err.count("\n") == 1


# --- serve


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (("--port", "70000"), {}, "error: settings: port: Input should be less than or equal to 65535, got 70000"),
        ((), {"GAN_MHE_CPU_SLOTS": "many"}, "error: settings: cpu_slots: Input should be a valid integer"),
        ((), {"GAN_MHE_WEIGHTS": "{"}, 'error: settings: error parsing value for field "weights"'),
        (("--data-dir", "file"), {}, "error: cannot write to the data directory file: "),
        (("--host", "0.0.0.0"), {}, "error: listening on 0.0.0.0 requires an API key, but there are none: create one"),
    ],
)
def test_a_refused_start_is_one_line(
    gan_mhe: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    expected: str,
) -> None:
    Path("file").touch()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, printed, err = gan_mhe("serve", *arguments)
    assert (code, printed) == (1, "")
    assert err.startswith(expected) and err.count("\n") == 1


def test_options_override_the_environment(gan_mhe: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_MHE_PORT", "9001")
    monkeypatch.setenv("GAN_MHE_CPU_SLOTS", "3")
    served = []
    monkeypatch.setattr("server.serve.serve", served.append)
    assert gan_mhe("serve", "--port", "0", "--data-dir", "d", "--allow-downloads") == (0, "", "")
    [settings] = served
    assert (settings.port, settings.cpu_slots, str(settings.data_dir)) == (0, 3, "d")
    assert settings.allow_downloads and settings.threads_per_slot == 1


def test_a_service_announces_its_address_requires_the_key_and_stops_on_request(
    gan_mhe: Command, tmp_path: Path
) -> None:
    token = gan_mhe("keys", "create", "x", "--scope", "jobs:read")[1].strip()
    command = [sys.executable, "-c", MAIN, "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip().removesuffix("/")
        assert json.loads((tmp_path / "gan-mhe-data" / "server.json").read_text())["url"] == url
        with Client(url, key=token) as client:
            assert list(client.jobs()) == []
        with Client(url) as client, pytest.raises(NotAuthorized, match="expected the header Authorization"):
            next(client.jobs())
        second = gan_mhe("serve", "--port", "0")
        assert second[0] == 1 and second[2].startswith("error: the data directory gan-mhe-data is in use")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0
        assert time.monotonic() - began < 5
    finally:
        process.kill()
        process.communicate()
