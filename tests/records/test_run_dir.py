"""One writer a run directory, and messages instead of tracebacks for what is not one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gan_mhe.config.compose import parse
from gan_mhe.errors import RunDirError
from gan_mhe.files import JsonLines, write_json
from gan_mhe.records.data_summary import DataSummary
from gan_mhe.records.events import Notice, Started, encode
from gan_mhe.records.run_dir import RunDir

HOLD_THE_LOCK = """
import sys
from pathlib import Path
from gan_mhe.records.run_dir import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process_in(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.stdin.close()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was begun, with its default configuration."""
    place = RunDir(tmp_path / "run")
    write_json(place.config, parse({"variant": "mhe_sn", "seed": 3}).document())
    return place


class TestLock:
    def test_a_second_process_is_refused(self, tmp_path: Path) -> None:
        with another_process_in(tmp_path / "run"):
            with pytest.raises(RunDirError, match="is in use by another process"), RunDir(tmp_path / "run").locked():
                pass

    def test_a_second_holder_in_the_same_process_is_refused(self, tmp_path: Path) -> None:
        with RunDir(tmp_path).locked():
            with pytest.raises(RunDirError, match="in use"), RunDir(tmp_path).locked():
                pass

    def test_it_goes_with_a_process_that_ends(self, tmp_path: Path) -> None:
        with another_process_in(tmp_path):
            pass
        with RunDir(tmp_path).locked():
            pass

    def test_it_goes_with_a_process_that_is_killed(self, tmp_path: Path) -> None:
        with another_process_in(tmp_path) as process:
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait(timeout=60) == -signal.SIGKILL
        with RunDir(tmp_path).locked():
            pass

    def test_it_is_given_back_after_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KeyError), RunDir(tmp_path).locked():
            raise KeyError
        with RunDir(tmp_path).locked():
            pass

    def test_other_directories_are_free(self, tmp_path: Path) -> None:
        with RunDir(tmp_path / "a").locked(), RunDir(tmp_path / "b").locked():
            pass

    def test_it_makes_the_directory(self, tmp_path: Path) -> None:
        with RunDir(tmp_path / "deep" / "run").locked():
            assert (tmp_path / "deep" / "run").is_dir()

    def test_a_place_that_cannot_be_a_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with (
            pytest.raises(RunDirError, match=r"cannot write to run directory .*file"),
            RunDir(tmp_path / "file").locked(),
        ):
            pass


class TestConfig:
    def test_it_is_what_the_run_was_begun_with(self, run: RunDir) -> None:
        assert run.exists()
        assert run.read_config() == parse({"variant": "mhe_sn", "seed": 3})

    def test_a_directory_without_one_is_not_a_run(self, tmp_path: Path) -> None:
        assert not RunDir(tmp_path).exists()
        with pytest.raises(RunDirError, match=r"is not a run directory: it has no config\.json"):
            RunDir(tmp_path).read_config()

    def test_a_file_is_not_a_run(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert not RunDir(tmp_path / "file").exists()
        with pytest.raises(RunDirError, match="is not a run directory"):
            RunDir(tmp_path / "file").read_config()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"sead": 3}', b'{"training": {"steps": 0}}'])
    def test_a_damaged_one_is_named(self, run: RunDir, content: bytes) -> None:
        run.config.write_bytes(content)
        with pytest.raises(RunDirError, match=r"run/config\.json cannot be read"):
            run.read_config()


class TestEvents:
    def test_they_are_read_in_order(self, run: RunDir) -> None:
        said = [Started(0, 10, resumed=False), Notice(0, "first"), Notice(1, "second")]
        journal = JsonLines(run.events)
        for event in said:
            journal.append({"seq": journal.lines} | encode(event))
        journal.close()
        assert list(run.read_events()) == said

    def test_a_run_that_said_nothing_has_none(self, run: RunDir) -> None:
        assert list(run.read_events()) == []

    def test_a_line_that_is_still_being_written_is_left_out(self, run: RunDir) -> None:
        run.events.write_bytes(b'{"type": "notice", "step": 1, "message": "whole"}\n{"type": "notice", "st')
        assert list(run.read_events()) == [Notice(1, "whole")]

    @pytest.mark.parametrize(
        "line", [b"{", b"[]", b'{"type": []}', b'{"type": "rumour"}', b'{"type": "notice", "step": 1}']
    )
    def test_a_damaged_line_is_named_after_those_before_it(self, run: RunDir, line: bytes) -> None:
        run.events.write_bytes(b'{"type": "notice", "step": 1, "message": "whole"}\n' + line + b"\n")
        events = run.read_events()
        assert next(events) == Notice(1, "whole")
        with pytest.raises(RunDirError, match=r"events\.jsonl cannot be read"):
            next(events)


class TestResult:
    def test_an_unfinished_run_has_none(self, run: RunDir) -> None:
        assert run.read_result() is None

    def test_it_is_read_as_written(self, run: RunDir) -> None:
        write_json(run.result, {"status": "completed", "final": None})
        assert run.read_result() == {"status": "completed", "final": None}

    def test_a_field_of_another_type_is_named(self, run: RunDir) -> None:
        run.result.write_text('{"status": 1}')
        with pytest.raises(RunDirError, match=r"result\.json is not the result of a run: status: .* got 1"):
            run.read_result()

    @pytest.mark.parametrize("content", ['{"status": "comp', "[1]", '"completed"', "{}"])
    def test_a_damaged_one_is_named(self, run: RunDir, content: str) -> None:
        run.result.write_text(content)
        with pytest.raises(RunDirError, match=r"result\.json cannot be read"):
            run.read_result()


class TestData:
    def test_a_run_that_never_started_has_none(self, run: RunDir) -> None:
        assert run.read_data() is None

    def test_they_are_read_as_written(self, run: RunDir) -> None:
        summary = DataSummary("digits", "train", 3, {"0": 3}, {}, {}, "a" * 64)
        write_json(run.data, summary.document())
        assert run.read_data() == summary

    @pytest.mark.parametrize("content", ['{"name": "dig', '{"name": "digits"}', "[]"])
    def test_damaged_ones_are_named(self, run: RunDir, content: str) -> None:
        run.data.write_text(content)
        with pytest.raises(RunDirError, match=r"data\.json cannot be read"):
            run.read_data()


class TestForeignFiles:
    """Files that others have put in the place of a run's."""

    READERS = ("read_config", "read_data", "read_inputs", "read_result", "read_events")

    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 5000, None])
    def test_what_cannot_be_read_is_named(self, run: RunDir, reader: str, content: bytes | None) -> None:
        run.root.mkdir(exist_ok=True)
        for path in (run.config, run.data, run.scorer, run.result, run.events):
            path.unlink(missing_ok=True)
            path.mkdir() if content is None else path.write_bytes(content + b"\n")
        with pytest.raises(RunDirError, match=r"cannot be read"):
            list(getattr(run, reader)() or ())

    @pytest.mark.parametrize("weights", [5, ["x"], "x" * 64, {}])
    def test_a_hash_of_the_scorer_that_is_none_is_refused(self, run: RunDir, weights: object) -> None:
        write_json(run.scorer, {"protocol": "digits-v1", "weights_sha256": weights})
        with pytest.raises(RunDirError, match=r"scorer\.json cannot be read: weights_sha256"):
            run.read_inputs()

    def test_a_deeply_nested_configuration_is_not_taken_for_another_programs(self, run: RunDir) -> None:
        run.root.mkdir(exist_ok=True)
        run.config.write_bytes(b"[" * 100_000)
        assert not run.is_foreign()


class TestArtefacts:
    def test_their_names_are_pinned(self, tmp_path: Path) -> None:
        place = RunDir(tmp_path)
        paths = [place.config, place.environment, place.data, place.events, place.log, place.result]
        assert [place.relative(path) for path in [*paths, place.sample(25), place.checkpoint(1_000)]] == [
            "config.json",
            "environment.json",
            "data.json",
            "events.jsonl",
            "log.txt",
            "result.json",
            "samples/step_00000025.png",
            "checkpoints/step_00001000",
        ]

    def test_checkpoint_steps_are_ascending_numbers(self, tmp_path: Path) -> None:
        place = RunDir(tmp_path)
        for step in (1_000, 20, 100_000_000, 3):
            place.checkpoint(step).mkdir(parents=True)
        assert place.checkpoint_steps() == [3, 20, 1_000, 100_000_000]

    @pytest.mark.parametrize("name", ["step_²", "step_7", "step_000000007", "step_" + "9" * 17, "step_x", "step_"])
    def test_a_directory_of_another_name_is_no_checkpoint(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        assert RunDir(tmp_path).checkpoint_steps() == []

    def test_checkpoint_steps_leave_out_temporaries_and_strangers(self, tmp_path: Path) -> None:
        place = RunDir(tmp_path)
        place.checkpoint(20).mkdir(parents=True)
        for name in (".step_00000040.0a1b.tmp", "step_00000060.bak", "step_", "best", "step_-1"):
            (place.checkpoints / name).mkdir()
        assert place.checkpoint_steps() == [20]

    def test_a_stranger_hides_no_checkpoint_of_the_same_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = RunDir(tmp_path)
        names = [place.checkpoint(20), place.checkpoint(20).with_name("step_000000020")]
        monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(names))  # the order of a directory is not fixed
        assert place.checkpoint_steps() == [20]

    def test_a_run_without_checkpoints_has_no_steps(self, tmp_path: Path) -> None:
        assert RunDir(tmp_path).checkpoint_steps() == []

    def test_naming_a_run_touches_nothing(self, tmp_path: Path) -> None:
        RunDir(tmp_path / "run").checkpoint(1)
        assert list(tmp_path.iterdir()) == []
