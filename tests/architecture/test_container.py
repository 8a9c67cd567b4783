"""The image and the compose files name things that exist, and give away no right that the service does not need."""

import fnmatch
import json
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from typer.testing import CliRunner

from server.cli.app import app
from tests.support.paths import ROOT

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The Dockerfile as (instruction, arguments), with comments dropped and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [(name, arguments.strip()) for name, _, arguments in (line.partition(" ") for line in text.splitlines())]


def arguments_of(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


def last_stage() -> list[Instruction]:
    found = instructions()
    return found[max(number for number, (name, _) in enumerate(found) if name == "FROM") :]


def in_last_stage(name: str) -> str:
    """The arguments of the one instruction of that name in the stage that becomes the image."""
    (arguments,) = [arguments for instruction, arguments in last_stage() if instruction == name]
    return arguments


def copied_sources() -> list[str]:
    """What is copied from this repository, as opposed to another stage."""
    copies = [shlex.split(arguments) for arguments in arguments_of("COPY")]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


def image_environment() -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(in_last_stage("ENV")))


def compose(name: str) -> dict[str, Any]:
    document = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(document, dict)
    return document


@pytest.fixture
def service() -> dict[str, Any]:
    (found,) = compose("compose.yaml")["services"].values()
    return dict(found)


@pytest.fixture
def health_command() -> list[str]:
    options, _, command = in_last_stage("HEALTHCHECK").partition("CMD ")
    assert "--timeout=5s" in options
    return list(json.loads(command))


class TestImage:
    def test_everything_copied_exists(self) -> None:
        assert copied_sources() and [source for source in copied_sources() if not (ROOT / source).exists()] == []

    def test_the_build_context_holds_what_is_copied_and_nothing_else(self) -> None:
        rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        assert rules[0] == "*"
        assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied_sources())

    def test_every_package_of_the_program_is_installed(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
        tops = [path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
        assert {"gan_mhe", "server"} <= set(tops) <= set(copied_sources())
        assert [top for top in tops if not any(fnmatch.fnmatch(top, pattern) for pattern in patterns)] == []
        assert any("pip install" in command and command.endswith(" .") for command in arguments_of("RUN"))

    def test_the_base_is_pinned_to_a_python_that_the_project_supports(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        floor = re.fullmatch(r">=3\.(\d+)", project["project"]["requires-python"])
        bases = {arguments.split()[0] for arguments in arguments_of("FROM")}
        assert len(bases) == 1, "both stages need one Python, because the environment is copied between them"
        pinned = re.fullmatch(r"python:3\.(\d+)-slim(-\w+)?", bases.pop())
        assert pinned and floor and int(pinned[1]) >= int(floor[1])

    def test_nothing_comes_from_anywhere_but_the_package_index(self) -> None:
        assert arguments_of("ADD") == []
        for name, arguments in instructions():
            assert not re.search(r"https?://|git\+|--(extra-)?index-url|--trusted-host", arguments) or (
                name == "HEALTHCHECK" and "localhost" in arguments
            )

    def test_versions_are_those_that_the_tests_pass_with(self) -> None:
        (install,) = [command for command in arguments_of("RUN") if "pip install" in command]
        assert "--constraint constraints.txt" in install

    def test_nothing_runs_as_root(self) -> None:
        names = [name for name, _ in last_stage()]
        user, _, group = in_last_stage("USER").partition(":")
        assert int(user) >= 1000 and int(group) >= 1000
        assert names.index("USER") < names.index("ENTRYPOINT")
        assert "RUN" not in names[names.index("USER") :]
        assert f"--uid {user} " in in_last_stage("RUN") and f"--gid {group} " in in_last_stage("RUN")

    def test_what_is_written_lies_in_the_volume(self) -> None:
        (volume,) = json.loads(in_last_stage("VOLUME"))
        assert in_last_stage("WORKDIR") == volume
        written = {key: value for key, value in image_environment().items() if key.startswith(("GAN_MHE_", "TORCH_"))}
        assert {"GAN_MHE_DATA_DIR", "GAN_MHE_CACHE", "TORCH_HOME"} == set(written)
        assert all(Path(place).is_relative_to(volume) for place in written.values())
        assert f"--home-dir {volume}" in in_last_stage("RUN") and in_last_stage("RUN").endswith(f" {volume}")

    def test_the_command_gets_signals_itself(self) -> None:
        assert in_last_stage("STOPSIGNAL") == "SIGTERM"
        for name in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(in_last_stage(name)), list)

    def test_the_port_that_is_served_is_the_one_that_is_exposed_and_asked(self, health_command: list[str]) -> None:
        port = in_last_stage("EXPOSE")
        command = json.loads(in_last_stage("CMD"))
        assert command[command.index("--port") + 1] == port
        assert command[command.index("--host") + 1] == "0.0.0.0"
        assert f", {port}," in health_command[-1]

    def test_it_says_what_it_is(self) -> None:
        assert 'org.opencontainers.image.title="gan-mhe"' in in_last_stage("LABEL")


class Answer(BaseHTTPRequestHandler):
    """A service that is as well as its status says."""

    status = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand_in() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


class TestHealth:
    @staticmethod
    def ask(command: list[str], port: int) -> int:
        words = [sys.executable, *(word.replace(" 8000,", f" {port},") for word in command[1:])]
        proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        return subprocess.run(words, env=proxy, capture_output=True, timeout=30).returncode

    @pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1), (307, 1)])
    def test_only_a_service_that_says_so_is_well(
        self,
        health_command: list[str],
        stand_in: HTTPServer,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        code: int,
    ) -> None:
        monkeypatch.setattr(Answer, "status", status)
        monkeypatch.setattr(Answer, "asked", [])
        assert self.ask(health_command, stand_in.server_port) == code
        assert Answer.asked == ["/healthz"]

    def test_a_service_that_does_not_answer_is_ill(self, health_command: list[str], stand_in: HTTPServer) -> None:
        port = stand_in.server_port
        stand_in.shutdown()
        stand_in.server_close()
        assert self.ask(health_command, port) != 0


class TestCommands:
    """The commands that image and compose files start are commands of the program."""

    @staticmethod
    def help_of(*words: str) -> str:
        shown = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert shown.exit_code == 0, f"gan-mhe {' '.join(words)}: {shown.output}"
        return shown.output

    def test_the_entry_point_is_the_programs(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())
        assert json.loads(in_last_stage("ENTRYPOINT")) == list(project["project"]["scripts"])

    def test_the_service_is_started_with_options_it_has(self) -> None:
        command, *options = json.loads(in_last_stage("CMD"))
        known = self.help_of(command)
        assert [option for option in options if option.startswith("--") and option not in known] == []

    def test_the_documented_first_key_is_made_where_the_service_looks_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (documented,) = re.findall(r"^#   docker compose run --rm (.+)$", (ROOT / "compose.yaml").read_text(), re.M)
        service, *words = shlex.split(documented)
        assert service in compose("compose.yaml")["services"]
        monkeypatch.setenv("GAN_MHE_DATA_DIR", str(tmp_path / "data"))
        made = CliRunner().invoke(app, words)
        assert made.exit_code == 0, made.output
        assert re.search(r"\bgk_[a-z0-9]{12}_", made.output)
        assert any((tmp_path / "data").iterdir())

    def test_the_documented_training_is_a_command_and_a_preset(self) -> None:
        (documented,) = re.findall(r"gan-mhe:local (train .+)$", (ROOT / "Dockerfile").read_text(), re.M)
        command, preset = documented.split()
        assert "--run-dir" in self.help_of(command)
        assert (ROOT / "configs" / f"{preset}.toml").exists()

    def test_the_check_itself_notices_a_command_that_is_not_there(self) -> None:
        with pytest.raises(AssertionError, match="gan-mhe absent"):
            self.help_of("absent")


class TestCompose:
    def test_it_runs_the_image_that_this_repository_builds(self, service: dict[str, Any]) -> None:
        assert (ROOT / service["build"] / "Dockerfile").exists()
        name, _, tag = service["image"].partition(":")
        assert name == "gan-mhe" and tag not in ("", "latest")

    def test_only_this_machine_can_connect(self, service: dict[str, Any]) -> None:
        assert service["ports"] == [f"127.0.0.1:8000:{in_last_stage('EXPOSE')}"]
        assert "network_mode" not in service

    def test_it_holds_no_right_it_does_not_need(self, service: dict[str, Any]) -> None:
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert service.keys().isdisjoint({"privileged", "cap_add", "user", "pid", "ipc", "devices", "userns_mode"})

    def test_all_it_keeps_is_in_a_named_volume(self, service: dict[str, Any]) -> None:
        (volume,) = json.loads(in_last_stage("VOLUME"))
        assert [entry.split(":") for entry in service["volumes"]] == [["data", volume]]
        assert compose("compose.yaml")["volumes"] == {"data": None}
        assert service["tmpfs"] == ["/tmp"]

    def test_it_asks_for_health_as_the_image_does(self, service: dict[str, Any], health_command: list[str]) -> None:
        health = service["healthcheck"]
        assert health["test"] == ["CMD", *health_command]
        options = dict(word.removeprefix("--").split("=") for word in in_last_stage("HEALTHCHECK").split()[:4])
        assert {key.replace("_", "-"): str(value) for key, value in health.items() if key != "test"} == options

    def test_it_comes_back_and_goes_in_order(self, service: dict[str, Any]) -> None:
        assert service["restart"] == "unless-stopped"
        assert service["init"] is True
        assert re.fullmatch(r"\d+s", service["stop_grace_period"])

    def test_it_keeps_no_secret(self) -> None:
        for name in ("compose.yaml", "compose.gpu.yaml", "Dockerfile"):
            assert not re.search(r"gk_\w+|password|token", (ROOT / name).read_text(), re.IGNORECASE)

    def test_the_gpu_file_adds_gpus_to_the_same_service_and_nothing_else(self) -> None:
        document = compose("compose.gpu.yaml")
        assert list(document) == ["services"]
        assert document["services"].keys() == compose("compose.yaml")["services"].keys()
        (added,) = document["services"].values()
        reserved = [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
        assert added == {"deploy": {"resources": {"reservations": {"devices": reserved}}}}

    @pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
    def test_the_commands_in_the_comments_name_files_that_exist(self, name: str) -> None:
        named = re.findall(r"--file (\S+)", (ROOT / name).read_text())
        assert named and [file for file in named if not (ROOT / file).exists()] == []
