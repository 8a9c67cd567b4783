"""Importing: a run directory becomes a job with all it has to say, or stays where it is."""

import errno
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import StorageError
from gan_mhe.files import sha256_bytes, write_json
from gan_mhe.records.events import CheckpointSaved, Evaluated, Event, Finished, SampleGrid, Scalars, Started
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.run_dir import RunDir
from server import crash_points
from server.errors import InvalidRequest, NotFound, NotReady
from server.ids import new_id
from server.ingest import importer
from server.ingest.indexer import Indexer
from server.queue import queue
from server.settings import Settings
from server.store import artifacts, journal, metric_history, tables
from server.store.rows import JobRow
from server.store.store import Store
from tests.support.kept import add_run


def png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0)) + chunk(b"IEND", b"")


def result(status: str) -> dict[str, Any]:
    final = {"step": 20, "scores": {"inception_score": 7.5, "fid": "NaN"}} if status == "completed" else None
    return {
        "status": status,
        "step": 20,
        "variant": "mhe",
        "seed": 3,
        "digest": "d" * 64,
        "protocol": "digits-v1",
        "fingerprints": {"inception_score": "f" * 64},
        "metric": "inception_score",
        "final": final,
        "best": final,
        "evaluations": 1,
        "real": {"inception_score": 9.0},
        "train_seconds": 1.0,
        "message": "d_loss is not finite" if status == "diverged" else "",
    }


DATA = {"name": "digits", "split": "train", "images": 1, "classes": {}, "passed_over": {}, "conversions": {}}

Put = Callable[..., RunDir]


@pytest.fixture
def put(settings: Settings) -> Put:
    """Put a run directory into the inbox."""

    def make(name: str = "run-1", status: str | None = "completed", **sections: Any) -> RunDir:
        run = RunDir(settings.inbox / name)
        config = RunConfig.model_validate({"variant": "mhe", "seed": 3, "training": {"steps": 20}, **sections})
        write_json(run.config, config.document())
        run.samples.mkdir()
        run.sample(0).write_bytes(png())
        run.checkpoint(10).mkdir(parents=True)
        for file in artifacts.CHECKPOINT_FILES:
            (run.checkpoint(10) / file).write_bytes(b"x")
        events: list[Event] = [
            Started(0, 20, resumed=False),
            SampleGrid(0, "samples/step_00000000.png", sha256_bytes(png())),
            Scalars(5, {"d_loss": math.nan}),
            CheckpointSaved(10, "checkpoints/step_00000010", "c" * 64),
            Scalars(12, {"d_loss": 1.0}),
            Started(10, 20, resumed=True),
            Scalars(12, {"d_loss": 2.0}),
            Evaluated(20, "final", {"inception_score": 7.5}, "digits-v1", {"inception_score": "f" * 64}, 1.0),
            Finished(20, status or "failed", ""),
        ]
        with Recorder(run, []) as recorder:
            for event in events:
                recorder.emit(event)
        if status:
            own = {"digest": config.digest(), "variant": config.variant, "seed": config.seed}
            write_json(run.result, result(status) | own)
        return run

    return make


Take = Callable[..., JobRow]


@pytest.fixture
def take(store: Store, settings: Settings) -> Take:
    """Import a run."""

    def run(name: str = "run-1", rules: Settings = settings, labels: Mapping[str, str] | None = None) -> JobRow:
        return importer.import_run(
            store, rules, Indexer(store, rules), name=name, project="p", labels=labels or {"paper": "mhe"}
        )

    return run


def jobs(store: Store) -> int:
    return store.read(lambda connection: connection.execute(select(func.count()).select_from(tables.jobs)).scalar_one())


class TestImport:
    def test_makes_a_job_of_a_run(self, put: Put, take: Take, settings: Settings) -> None:
        config = put().read_config()
        job = take()
        assert (job["origin"], job["name"], job["project"], job["labels"]) == (
            "imported",
            "run-1",
            "p",
            {"paper": "mhe"},
        )
        assert (job["variant"], job["seed"], job["total_steps"], job["step"]) == ("mhe", 3, 20, 20)
        assert job["request_sha256"] == config.digest()
        assert not (settings.inbox / "run-1").exists()
        assert (settings.job_dir(job["id"]) / "run/config.json").is_file()

    def test_takes_in_what_the_run_has_said(self, put: Put, take: Take, store: Store) -> None:
        put()
        job = take()
        found = store.read(lambda c: metric_history.history(c, job, "d_loss", mode="raw", attempt="all")).points
        assert [(point["step"], point["attempt"], point["value"]) for point in found] == [
            (5, 1, "NaN"),
            (12, 1, 1.0),
            (12, 2, 2.0),
        ]
        assert store.read(lambda c: artifacts.sample(c, job["id"], 0))["width"] == 3
        assert [row["step"] for row in store.read(lambda c: artifacts.checkpoints(c, job["id"]))] == [10]
        types = [row["type"] for row in store.read(lambda c: journal.of_job(c, job["id"], after=0, limit=99))]
        assert {"job.state", "job.started", "sample.created", "evaluation.completed"} <= set(types)
        assert "job.notice" not in types

    def test_counts_the_attempts_that_were_made_elsewhere(self, put: Put, take: Take) -> None:
        put()
        assert take()["attempts"] == 2

    def test_of_a_completed_run_has_succeeded(self, put: Put, take: Take) -> None:
        put(status="completed")
        job = take()
        assert (job["state"], job["reason"]) == ("succeeded", None)
        assert job["result"]["final"]["scores"]["fid"] == "NaN"
        assert job["finished_at"] is not None

    def test_of_a_diverged_run_has_failed_and_says_so_from_the_start(self, put: Put, take: Take, store: Store) -> None:
        put(status="diverged")
        job = take()
        assert (job["state"], job["reason"], job["message"]) == ("failed", "diverged", "d_loss is not finite")
        first = store.read(lambda c: journal.of_job(c, job["id"], after=0, limit=1))[0]
        assert (first["data"]["state"], first["data"]["reason"]) == ("failed", "diverged")

    @pytest.mark.parametrize("status", ["stopped", None])
    def test_of_an_unfinished_run_can_be_resumed(self, put: Put, take: Take, store: Store, status: str | None) -> None:
        put(status=status)
        job = take()
        assert (job["state"], job["result"]) == ("paused", None)
        assert "resume" in job["message"]
        store.write(lambda connection: queue.resume(connection, queue.get(connection, job["id"])))

    def test_from_another_device_copies(
        self, put: Put, take: Take, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = put()
        rename = os.rename

        def across(source: Any, target: Any) -> None:
            if Path(source) == run.root and Path(target).parent != run.root.parent:
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            rename(source, target)

        monkeypatch.setattr(importer.os, "rename", across)
        job = take()
        assert job["step"] == 20
        assert not run.root.exists()
        assert sorted(path.name for path in settings.job_dir(job["id"]).iterdir()) == ["job.json", "run"]


class TestPaths:
    def test_of_another_machine_are_left_out(self, put: Put, take: Take) -> None:
        put(data={"name": "cifar10", "root": "/home/me/data"}, evaluation={"weights": "/home/me/w.pt"})
        request = take()["request"]
        assert (request["data"]["root"], request["evaluation"]["weights"]) == (None, None)
        assert "/home/me" not in json.dumps(request)

    def test_that_the_operator_has_names_for_go_by_those(self, put: Put, take: Take, settings: Settings) -> None:
        rules = settings.model_copy(update={"data_roots": {"faces": Path("/d/f")}, "weights": {"w15": Path("/w/i.pt")}})
        put(data={"name": "image_folder", "root": "/d/x/../f"}, evaluation={"weights": "/w/i.pt"})
        request = take(rules=rules)["request"]
        assert (request["data"]["root"], request["evaluation"]["weights"]) == ("faces", "w15")

    def test_of_an_image_folder_leave_its_name(self, put: Put, take: Take) -> None:
        put(data={"name": "image_folder", "root": "/home/me/faces"})
        request = take()["request"]
        assert request["data"]["root"] == "faces"
        RunConfig.model_validate(request)

    def test_leave_the_digest_as_it_was(self, put: Put, take: Take) -> None:
        config = put(data={"name": "cifar10", "root": "/x"}, training={"steps": 20, "device": "cuda:3"}).read_config()
        job = take()
        assert job["request_sha256"] == config.digest()
        assert job["device"] == "cuda"


class TestRefusal:
    @pytest.fixture(autouse=True)
    def nothing_happens(self, store: Store, settings: Settings) -> Any:
        """A refused import leaves no job, and what is in the inbox in the inbox."""
        yield
        assert jobs(store) == 0
        assert list(settings.job_dir("").glob("*")) == []

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "../run-1", "a/b", "/etc", "-x", ".hidden", "a" * 101, "a\0", "a b"]
    )
    def test_of_a_name_that_is_none(self, put: Put, take: Take, name: str) -> None:
        put()
        with pytest.raises(InvalidRequest) as error:
            take(name)
        assert error.value.errors[0].pointer == "/name"

    def test_of_what_is_not_there(self, take: Take) -> None:
        with pytest.raises(NotFound, match="no 'run-1' in the inbox"):
            take()

    @pytest.mark.parametrize("missing", ["config.json", "events.jsonl"])
    def test_of_a_directory_that_is_no_run(self, put: Put, take: Take, missing: str) -> None:
        (put().root / missing).unlink()
        with pytest.raises(InvalidRequest, match=f"it has no {missing}"):
            take()

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("config.json", b"{"),
            ("config.json", b'{"training": {"steps": "many"}}'),
            ("config.json", b"\xff"),
            ("result.json", b"{"),
            ("result.json", b"[]"),
            ("result.json", b'{"status": "completed"}'),
            ("result.json", json.dumps({**result("completed"), "final": 3}).encode()),
            ("result.json", json.dumps({**result("completed"), "data": {"name": 3}}).encode()),
            ("result.json", json.dumps({**result("completed"), "real": {"fid": math.nan}}).encode()),
        ],
    )
    def test_of_a_damaged_file_names_it_without_its_place(
        self, put: Put, take: Take, settings: Settings, file: str, content: bytes
    ) -> None:
        run = put()
        (run.root / file).write_bytes(content)
        with pytest.raises(InvalidRequest, match=file) as error:
            take()
        assert str(settings.inbox) not in str(error.value)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("metric", 5),
            ("metric", "beauty"),
            ("protocol", ["x"]),
            ("fingerprints", {"fid": 7}),
            ("final", {"step": "x", "scores": {"fid": 1.0}}),
            ("real", {"fid": [1]}),
            ("best", {"step": 20, "scores": {"inception_score": "abc"}}),
            ("best", {"step": 20, "scores": {"inception_score": 1e101}}),
            ("train_seconds", "long"),
            ("train_seconds", "Infinity"),
            ("evaluations", True),
            ("step", -1),
            ("seed", 10**30),
            ("curve", [{"step": 20, "scores": {"fid": None}}]),
            ("message", None),
        ],
    )
    def test_of_a_result_with_a_value_of_another_type_names_the_field(
        self, put: Put, take: Take, key: str, value: Any
    ) -> None:
        run = put()
        write_json(run.result, (run.read_result() or {}) | {key: value})
        with pytest.raises(InvalidRequest, match=f"result.json is not the result of a run: .*{key}"):
            take()

    @pytest.mark.parametrize(
        ("key", "value"), [("seed", 4), ("variant", "none"), ("digest", "0" * 64), ("step", 40), ("step", 10)]
    )
    def test_of_a_result_of_another_configuration(self, put: Put, take: Take, key: str, value: Any) -> None:
        run = put()
        write_json(run.result, (run.read_result() or {}) | {key: value})
        with pytest.raises(InvalidRequest, match=f"{key} is {value!r} in the result, .* in the configuration"):
            take()

    @pytest.mark.parametrize("key", ["data_sha256", "weights_sha256"])
    def test_of_a_result_on_other_files_than_the_run_has_recorded(self, put: Put, take: Take, key: str) -> None:
        run = put()
        run.write_scorer("digits-v1", "1" * 64)
        write_json(run.data, DATA | {"sha256": "1" * 64})
        own = {"data": DATA | {"sha256": "1" * 64}, "weights_sha256": "1" * 64}
        other = {"data": DATA | {"sha256": "2" * 64}} if key == "data_sha256" else {"weights_sha256": "2" * 64}
        write_json(run.result, (run.read_result() or {}) | own | other)
        with pytest.raises(InvalidRequest, match=f"{key} is {'2' * 64} in result.json, but {'1' * 64}"):
            take()

    def test_of_a_link_to_a_directory(self, put: Put, take: Take, settings: Settings, tmp_path: Path) -> None:
        run = put()
        shutil.move(run.root, tmp_path / "elsewhere")
        run.root.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InvalidRequest, match="not a directory"):
            take()

    def test_of_a_file(self, take: Take, settings: Settings) -> None:
        settings.inbox.mkdir()
        (settings.inbox / "run-1").write_text("")
        with pytest.raises(InvalidRequest, match="not a directory"):
            take()

    @pytest.mark.parametrize("place", ["events.jsonl", "samples/step_00000000.png", "checkpoints/step_00000099"])
    def test_of_a_run_with_links_in_it(self, put: Put, take: Take, tmp_path: Path, place: str) -> None:
        run = put()
        (run.root / place).unlink(missing_ok=True)
        (run.root / place).symlink_to(tmp_path)
        with pytest.raises(InvalidRequest, match="neither a directory nor a plain file"):
            take()

    def test_of_a_pipe_does_not_wait_for_a_writer(self, put: Put, take: Take) -> None:
        run = put()
        run.events.unlink()
        os.mkfifo(run.events)
        with pytest.raises(InvalidRequest, match="neither a directory nor a plain file"):
            take()

    def test_of_folders_in_each_other_without_end(self, put: Put, take: Take) -> None:
        run = put()
        run.root.joinpath(*["a"] * 12).mkdir(parents=True)
        with pytest.raises(InvalidRequest, match="at most 8 folders in each other"):
            take()

    @pytest.mark.parametrize("file", ["result.json", "data.json", "scorer.json", "config.json"])
    @pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5000, None])
    def test_of_what_cannot_be_parsed(self, put: Put, take: Take, file: str, content: bytes | None) -> None:
        path = put().root / file
        path.unlink(missing_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)
        with pytest.raises(InvalidRequest, match=rf"{file}"):
            take()

    @pytest.mark.parametrize(
        ("section", "key", "value"),
        [("training", "steps", 10**30), ("training", "steps", 1e17), ("checkpoint", "keep_last", 2**63)],
    )
    def test_of_an_integer_that_no_column_holds(
        self, put: Put, take: Take, section: str, key: str, value: float
    ) -> None:
        run = put()
        document = json.loads(run.config.read_bytes())
        document[section][key] = value
        run.config.write_text(json.dumps(document))
        with pytest.raises(InvalidRequest, match=f"{section}.{key}: expected an integer of at most"):
            take()

    def test_of_a_variant_with_a_long_name(self, put: Put, take: Take) -> None:
        run = put()
        run.config.write_text(json.dumps(json.loads(run.config.read_bytes()) | {"variant": "x" * 1000}))
        with pytest.raises(InvalidRequest, match="variant: string should have at most 40 characters"):
            take()

    def test_while_a_trainer_writes_to_it(self, put: Put, take: Take, settings: Settings) -> None:
        run = put()
        with run.locked(), pytest.raises(NotReady, match="in use by another process") as error:
            take()
        assert str(settings.inbox) not in str(error.value)
        assert run.config.is_file()


class TestImportable:
    def test_lists_what_can_be_imported_and_why_not(self, put: Put, settings: Settings) -> None:
        put("a-run")
        put("unfinished", status=None)
        (settings.inbox / "c").mkdir()
        (settings.inbox / "not a name").mkdir()
        (settings.inbox / ".hidden").mkdir()
        found = importer.importable(settings)
        assert [(row["name"], row["status"], row["problem"] is None) for row in found] == [
            ("a-run", "completed", True),
            ("c", None, False),
            ("not a name", None, False),
            ("unfinished", "unfinished", True),
        ]
        assert (found[0]["variant"], found[0]["seed"], found[0]["total_steps"]) == ("mhe", 3, 20)
        assert str(settings.inbox) not in json.dumps(found)

    def test_lists_a_directory_whose_name_is_no_text(self, settings: Settings) -> None:
        settings.inbox.mkdir()
        os.mkdir(os.fsencode(settings.inbox) + b"/run-\xff")
        [found] = importer.importable(settings)
        assert found["name"] == "run-\\udcff" and "name: expected" in found["problem"]

    def test_is_empty_without_an_inbox(self, settings: Settings) -> None:
        assert importer.importable(settings) == []


class TestCrash:
    CODE = (
        "import sys; from server.ingest import importer; from server.ingest.indexer import Indexer; "
        "from server.store.store import Store; from server.settings import Settings; "
        "settings = Settings(data_dir=sys.argv[1]); store = Store(settings.database); "
        "importer.import_run(store, settings, Indexer(store, settings), name='run-1', project='p', labels={})"
    )

    @pytest.mark.parametrize(
        ("point", "arrives"),
        [
            ("state.before_commit", False),
            ("state.after_commit", True),
            ("ingest.before_commit", True),
            ("ingest.after_commit", True),
        ],
    )
    def test_leaves_the_inbox_as_it_was_or_a_job_that_is_completed(
        self, put: Put, store: Store, settings: Settings, point: str, arrives: bool
    ) -> None:
        run = put()
        killed = subprocess.run(
            [sys.executable, "-c", self.CODE, str(settings.data_dir)],
            env={**os.environ, crash_points.VARIABLE: point},
            timeout=60,
        )
        assert killed.returncode == -9
        importer.recover(store, settings)
        assert jobs(store) == arrives
        assert run.config.is_file() != arrives
        rows = store.read(lambda c: [dict(row) for row in c.execute(select(tables.jobs)).mappings()])
        for job in rows:
            assert (job["state"], job["step"]) == ("succeeded", 20)
            assert artifacts.run_dir(settings, job["id"]).read_config().seed == 3
        assert list(settings.job_dir("").glob("*/import.json")) == []

    def test_while_moving_is_completed_at_the_next_start(
        self, put: Put, take: Take, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put()

        def refuse(_source: Any, _target: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch, pytest.raises(StorageError, match="Input/output error") as error:
            patch.setattr(importer.os, "rename", refuse)
            take()
        assert str(settings.data_dir) not in str(error.value)
        importer.recover(store, settings)
        (step,) = store.read(lambda c: c.execute(select(tables.jobs.c.step)).scalars().all())
        assert step == 20

    def test_recovering_when_nothing_is_to_be_recovered_does_nothing(
        self, put: Put, take: Take, store: Store, settings: Settings
    ) -> None:
        put()
        job = take()
        importer.recover(store, settings)
        assert store.read(lambda c: queue.get(c, job["id"])) == job

    @pytest.mark.parametrize("absolute", [True, False])
    def test_a_marker_takes_nothing_from_outside_the_inbox(
        self, put: Put, take: Take, store: Store, settings: Settings, absolute: bool
    ) -> None:
        put()
        job = take()
        outside = settings.data_dir / "outside"
        artifacts.run_dir(settings, job["id"]).root.rename(outside)
        marker = {"name": str(outside) if absolute else "../outside"}
        (settings.job_dir(job["id"]) / "import.json").write_text(json.dumps(marker))
        importer.recover(store, settings)
        assert outside.is_dir()

    def test_one_that_cannot_be_completed_stops_neither_the_others_nor_the_start(
        self, put: Put, take: Take, store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        put()
        job = take()
        markers = [settings.job_dir(job["id"]) / "import.json", settings.job_dir(new_id("job")) / "import.json"]
        markers[1].parent.mkdir()
        markers[0].write_text("not JSON")
        shutil.rmtree(settings.job_dir(job["id"]) / "run")
        markers[1].write_text('{"name": "old"}')
        importer.recover(store, settings)
        assert [marker.exists() for marker in markers] == [True, False]
        printed = capsys.readouterr().out
        assert "import_not_completed" in printed and f"jobs/{job['id']}" in printed


@pytest.mark.parametrize("name", ["my_archive", "job_01m8g71frsen6s7j7v15h73g7q"])
def test_recovering_deletes_no_directory_that_has_more_than_an_import_wrote(
    store: Store, settings: Settings, name: str
) -> None:
    directory = settings.job_dir(name)
    directory.mkdir(parents=True)
    for file in ("import.json", "thesis.txt"):
        (directory / file).write_text('{"name": "x"}')
    importer.recover(store, settings)
    assert sorted(path.name for path in directory.iterdir()) == ["import.json", "thesis.txt"]


@pytest.mark.parametrize("name", ["../jobs/{}/run", "/etc", ".", 5])
def test_a_marker_names_nothing_outside_the_inbox(store: Store, settings: Settings, name: object) -> None:
    victim, job_id = add_run(store, settings), add_run(store, settings)
    shutil.rmtree(settings.job_dir(job_id) / "run")
    named = name.format(victim) if isinstance(name, str) else name
    (settings.job_dir(job_id) / "import.json").write_text(json.dumps({"name": named}))
    settings.inbox.mkdir()
    importer.recover(store, settings)
    assert (settings.job_dir(victim) / "run").is_dir() and not (settings.job_dir(job_id) / "run").exists()
