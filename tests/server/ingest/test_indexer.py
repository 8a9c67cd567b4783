"""The indexer: what a run says ends up in the store once, in whatever pieces it is read and whoever dies in between."""

import json
import math
import os
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, select, update
from sqlalchemy.exc import OperationalError

from gan_mhe.files import sha256_bytes
from gan_mhe.records.events import (
    CheckpointRejected,
    CheckpointSaved,
    Evaluated,
    Event,
    Finished,
    Notice,
    Progress,
    SampleGrid,
    Scalars,
    Started,
    effective,
    encode,
    encode_number,
)
from gan_mhe.records.recorder import Recorder
from server import crash_points
from server.clock import now_ms
from server.errors import DatabaseDamaged
from server.executors.base import Slot
from server.images import render
from server.ingest import indexer, run_events, tail
from server.ingest.indexer import Indexer
from server.queue import claims, queue
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts, journal, metric_history, metric_points, tables
from server.store import store as store_module
from server.store.rows import JobRow
from server.store.store import Store

SLOT = Slot("cpu0", "cpu", "train")
EVALUATED = (
    b'{"seq": 1, "type": "evaluated", "step": 1, "purpose": "final", "scores": {"a": 1}, "protocol": "p", '
    b'"seconds": 1, "fingerprints": {%s}}'
)
property_test = hypothesis_settings(
    deadline=None, derandomize=True, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def png(width: int = 8, height: int = 4, shade: int = 0) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + bytes([shade]) * width) * height))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


class Job:
    """A training job with an attempt, and the trainer's side of its run directory."""

    def __init__(self, store: Store, settings: Settings) -> None:
        new = queue.NewJob(project="p", request={}, request_sha256="0")
        self.store = store
        self.id: str = store.write(lambda connection: queue.create(connection, new))["id"]
        self.claim()
        self.directory = settings.job_dir(self.id)
        self.run = artifacts.run_dir(settings, self.id)
        self.console = self.directory / "console.log"

    def claim(self) -> None:
        self.store.write(lambda connection: claims.claim(connection, [SLOT], "fake"))

    def requeue(self) -> None:
        """The attempt has died; the next one starts."""

        def work(connection: Connection) -> None:
            ended = update(tables.attempts).where(tables.attempts.c.job_id == self.id).values(live=False)
            connection.execute(ended)
            job = queue.move(connection, queue.get(connection, self.id), State.RECOVERING)
            queue.move(connection, job, State.QUEUED)

        self.store.write(work)
        self.claim()

    def says(self, *events: Event) -> None:
        with Recorder(self.run, []) as recorder:
            for event in events:
                recorder.emit(event)

    def prints(self, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.console, "ab") as file:
            file.write(content)

    def appends(self, content: bytes) -> None:
        with open(self.run.events, "ab") as file:
            file.write(content)

    def draws(self, step: int, content: bytes | None = None) -> SampleGrid:
        content = png(shade=step % 256) if content is None else content
        self.run.samples.mkdir(parents=True, exist_ok=True)
        self.run.sample(step).write_bytes(content)
        return SampleGrid(step, self.run.relative(self.run.sample(step)), sha256_bytes(content))

    def saves(self, step: int, digest: str = "c" * 64) -> CheckpointSaved:
        directory = self.run.checkpoint(step)
        directory.mkdir(parents=True, exist_ok=True)
        for name in artifacts.CHECKPOINT_FILES:
            (directory / name).write_bytes(b"x" * 10)
        return CheckpointSaved(step, self.run.relative(directory), digest)

    def row(self) -> JobRow:
        return self.store.read(lambda connection: queue.get(connection, self.id))

    def journal(self, type_: str | None = None) -> list[Mapping[str, Any]]:
        rows = self.store.read(lambda connection: journal.of_job(connection, self.id, after=0, limit=10**6))
        return [row["data"] for row in rows if type_ in (None, row["type"])]

    def rows(self, table: Table) -> list[dict[str, Any]]:
        key = table.c.job_id == self.id if "job_id" in table.c else table.c.job_seq == self.row()["seq"]
        query = select(table).where(key).order_by(*table.primary_key)
        return self.store.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])


@pytest.fixture
def job(store: Store, settings: Settings) -> Job:
    return Job(store, settings)


@pytest.fixture
def reader(store: Store, settings: Settings) -> Indexer:
    return Indexer(store, settings)


def started(step: int = 0, total: int = 100) -> Started:
    return Started(step, total, resumed=step > 0)


def scores(step: int, score: float, purpose: str = "scheduled") -> Evaluated:
    values = {"inception_score": score, "fid": 1 / score}
    return Evaluated(step, purpose, values, "digits-v1", dict.fromkeys(values, "f" * 64), 1.5)


# One event after the other.


class TestStarted:
    def test_moves_a_starting_job_to_running(self, job: Job, reader: Indexer) -> None:
        job.says(started(total=70))
        reader.poll()
        assert (job.row()["state"], job.row()["total_steps"]) == ("running", 70)
        assert job.journal("job.started") == [{"step": 0, "total_steps": 70, "resumed": False, "attempt": 1}]

    def test_of_an_attempt_that_lost_its_lease_moves_nothing(self, job: Job, reader: Indexer) -> None:
        newer = update(tables.jobs).where(tables.jobs.c.id == job.id).values(lease_epoch=9)
        job.store.write(lambda connection: connection.execute(newer))
        job.says(started())
        reader.poll()
        assert job.row()["state"] == "starting"
        assert len(job.journal("job.started")) == 1

    def test_leaves_a_job_that_is_to_stop_in_its_state(self, job: Job, reader: Indexer) -> None:
        job.store.write(lambda connection: queue.cancel(connection, queue.get(connection, job.id)))
        job.says(started())
        reader.poll()
        assert job.row()["state"] == "cancelling"

    def test_of_an_ended_attempt_moves_nothing(self, job: Job, reader: Indexer) -> None:
        dead = update(tables.attempts).values(live=False)
        job.store.write(lambda connection: connection.execute(dead))
        job.says(started())
        reader.drain(job.id)
        assert job.row()["state"] == "starting"

    def test_says_when_and_from_where_the_attempt_began(self, job: Job, reader: Indexer) -> None:
        job.says(started(40))
        reader.poll()
        (attempt,) = job.rows(tables.attempts)
        said = json.loads(job.run.events.read_text())["time"]
        assert attempt["resumed_from_step"] == 40
        assert attempt["started_at"] == round(datetime.fromisoformat(said).timestamp() * 1000)

    def test_from_the_beginning_resumes_from_no_step(self, job: Job, reader: Indexer) -> None:
        job.says(started())
        reader.poll()
        assert job.rows(tables.attempts)[0]["resumed_from_step"] is None


class TestProgress:
    def test_is_on_the_job(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Progress(30, 100, 2.0, 128.0, 35.0))
        reader.poll()
        names = ("step", "steps_per_second", "images_per_second", "eta_seconds")
        assert [job.row()[name] for name in names] == [30, 2.0, 128.0, 35.0]

    def test_is_journalled_once_a_chunk(self, job: Job, reader: Indexer) -> None:
        job.says(started(), *(Progress(step, 100, 1.0, 1.0, 1.0) for step in range(1, 20)))
        reader.poll()
        assert [row["step"] for row in job.journal("job.progress")] == [19]

    def test_that_is_not_finite_is_named_in_the_journal_and_absent_on_the_job(self, job: Job, reader: Indexer) -> None:
        job.says(Progress(1, 100, math.nan, 0.0, math.inf))
        reader.poll()
        assert (job.row()["steps_per_second"], job.row()["eta_seconds"]) == (None, None)
        (row,) = job.journal("job.progress")
        assert (row["steps_per_second"], row["eta_seconds"]) == ("NaN", "Infinity")

    def test_ends_at_the_step_of_the_last_word(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Progress(30, 100, 2.0, 128.0, 35.0), Finished(41, "stopped", ""))
        reader.poll()
        assert job.row()["step"] == 41

    def test_stays_where_it_was_if_the_run_is_refused_before_it_resumes(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Finished(41, "stopped", ""))
        reader.poll()
        job.requeue()
        job.says(Finished(0, "failed", "other images"))
        reader.poll()
        assert job.row()["step"] == 41


class TestScalars:
    def test_of_a_chunk_are_one_batch(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Scalars(1, {"loss": 0.5, "lr": 1.0}), Scalars(2, {"loss": 0.25}))
        reader.poll()
        points = [{"step": 1, "values": {"loss": 0.5, "lr": 1.0}}, {"step": 2, "values": {"loss": 0.25}}]
        assert job.journal("metric.batch") == [{"points": points}]

    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    def test_that_are_not_finite_come_back_as_they_were(self, job: Job, reader: Indexer, number: float) -> None:
        job.says(Scalars(1, {"loss": number}))
        reader.poll()
        name = encode_number(number)
        assert job.journal("metric.batch") == [{"points": [{"step": 1, "values": {"loss": name}}]}]
        found = job.store.read(lambda connection: metric_history.history(connection, job.row(), "loss"))
        assert found.points[0]["last"] == name

    def test_belong_to_the_attempt_that_said_them(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Scalars(1, {"loss": 1.0}))
        reader.poll()
        job.requeue()
        job.says(started(1), Scalars(2, {"loss": 2.0}))
        reader.poll()
        assert [(row["step"], row["attempt"]) for row in job.rows(tables.metric_points)] == [(1, 1), (2, 2)]


class TestSampleGrid:
    def test_is_listed_with_its_size_and_found_by_its_hash(self, job: Job, reader: Indexer) -> None:
        content = png(30, 20)
        job.says(job.draws(25, content))
        reader.poll()
        (row,) = job.rows(tables.samples)
        assert (row["step"], row["width"], row["height"], row["size_bytes"]) == (25, 30, 20, len(content))
        assert job.journal("sample.created") == [
            {
                "step": 25,
                "sha256": row["sha256"],
                "width": 30,
                "height": 20,
                "size_bytes": len(content),
                "url": f"/v1/blobs/{sha256_bytes(content)}",
            }
        ]
        (blob,) = job.rows(tables.blobs)
        assert (job.directory / blob["path"]).read_bytes() == content

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", png()[:20]])
    def test_that_is_no_png_is_not_listed(self, job: Job, reader: Indexer, content: bytes) -> None:
        job.says(job.draws(25, content))
        reader.poll()
        assert job.rows(tables.samples) == []
        assert "sample grid of step 25" in job.journal("job.notice")[0]["message"]

    def test_with_other_content_than_said_is_not_listed(self, job: Job, reader: Indexer) -> None:
        event = job.draws(25)
        job.draws(25, png(shade=200))
        job.says(event)
        reader.poll()
        assert job.rows(tables.samples) == job.rows(tables.blobs) == []
        assert job.journal("sample.created") == []

    def test_is_looked_for_by_its_step_and_never_by_the_path_that_is_said(
        self, job: Job, reader: Indexer, tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "canary.png"
        elsewhere.write_bytes(png())
        job.says(SampleGrid(3, str(elsewhere), sha256_bytes(png())))
        reader.poll()
        assert job.rows(tables.samples) == []

    def test_that_is_a_link_out_of_the_job_is_not_listed(self, job: Job, reader: Indexer, tmp_path: Path) -> None:
        elsewhere = tmp_path / "canary.png"
        elsewhere.write_bytes(png())
        job.run.samples.mkdir(parents=True)
        job.run.sample(3).symlink_to(elsewhere)
        job.says(SampleGrid(3, "samples/step_00000003.png", sha256_bytes(png())))
        reader.poll()
        assert job.rows(tables.samples) == []

    def test_drawn_twice_with_equal_content_stays_when_one_of_them_is_discarded(
        self, job: Job, reader: Indexer
    ) -> None:
        content = png()
        job.says(started(), job.draws(0, content), job.draws(50, content))
        job.says(started(10))
        reader.poll()
        (blob,) = job.rows(tables.blobs)
        assert blob["path"].endswith("step_00000000.png")


class TestCheckpoint:
    def test_is_listed_with_the_size_of_its_files(self, job: Job, reader: Indexer) -> None:
        job.says(job.saves(50))
        reader.poll()
        (row,) = job.rows(tables.checkpoints)
        assert (row["step"], row["size_bytes"], row["status"]) == (50, 20, "available")
        data = {"id": row["id"], "step": 50, "sha256": "c" * 64, "size_bytes": 20}
        assert job.journal("checkpoint.created") == [data]

    def test_that_the_trainer_deletes_later_is_no_longer_available(self, job: Job, reader: Indexer) -> None:
        job.says(job.saves(50), job.saves(60))
        reader.poll()
        remove(job.run.checkpoint(50))
        job.says(Scalars(61, {"loss": 1.0}))
        reader.poll()
        assert [row["status"] for row in job.rows(tables.checkpoints)] == ["pruned", "available"]

    def test_deleted_after_the_last_word_is_noticed_at_the_end(self, job: Job, reader: Indexer) -> None:
        job.says(job.saves(50), job.saves(60))
        reader.poll()
        remove(job.run.checkpoint(50))
        reader.drain(job.id)
        assert [row["status"] for row in job.rows(tables.checkpoints)] == ["pruned", "available"]

    def test_stays_available_while_the_whole_place_is_out_of_reach(self, job: Job, reader: Indexer) -> None:
        job.says(job.saves(50))
        reader.poll()
        job.run.checkpoints.rename(job.directory / "aside")
        reader.drain(job.id)
        assert job.rows(tables.checkpoints)[0]["status"] == "available"

    def test_that_is_refused_is_marked_and_said(self, job: Job, reader: Indexer) -> None:
        job.says(started(), job.saves(50), job.saves(60))
        job.says(started(50), CheckpointRejected(50, 60, "manifest.json is damaged"))
        reader.poll()
        assert [row["status"] for row in job.rows(tables.checkpoints)] == ["available", "rejected"]
        assert job.journal("checkpoint.rejected") == [{"step": 60, "message": "manifest.json is damaged"}]

    def test_rejected_with_a_path_is_told_without_it(self, job: Job, reader: Indexer) -> None:
        path = "/srv/elsewhere/manifest.json"
        job.says(started(), job.saves(50), CheckpointRejected(50, 50, f"{path} is damaged"), Notice(50, f"see {path}"))
        reader.poll()
        assert job.journal("checkpoint.rejected") == [{"step": 50, "message": "manifest.json is damaged"}]
        assert job.journal("job.notice") == [{"step": 50, "message": "see manifest.json"}]

    def test_saved_again_with_other_content_has_another_id(self, job: Job, reader: Indexer) -> None:
        job.says(started(), job.saves(50, "a" * 64))
        reader.poll()
        (before,) = job.rows(tables.checkpoints)
        job.says(started(), job.saves(50, "b" * 64))
        reader.poll()
        (after,) = job.rows(tables.checkpoints)
        assert after["id"] != before["id"]
        assert (after["sha256"], after["status"]) == ("b" * 64, "available")

    def test_saved_again_with_the_same_content_keeps_its_id(self, job: Job, reader: Indexer) -> None:
        job.says(started(), job.saves(50))
        reader.poll()
        (before,) = job.rows(tables.checkpoints)
        job.says(started(), job.saves(50))
        reader.poll()
        assert [row["id"] for row in job.rows(tables.checkpoints)] == [before["id"]]


def remove(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


class TestEvaluated:
    def test_is_a_row_a_message_and_points_of_the_history(self, job: Job, reader: Indexer) -> None:
        job.says(scores(50, 4.0))
        reader.poll()
        (row,) = job.rows(tables.evaluations)
        assert (row["step"], row["purpose"], row["scores"]) == (50, "scheduled", {"inception_score": 4.0, "fid": 0.25})
        assert job.journal("evaluation.completed")[0]["scores"] == {"inception_score": 4.0, "fid": 0.25}
        assert {(row["name"], row["best"]) for row in job.rows(tables.metric_summary)} == {
            ("inception_score", 4.0),
            ("fid", 0.25),
        }

    def test_of_an_older_run_has_one_fingerprint_for_all_scores(self, job: Job, reader: Indexer) -> None:
        document = encode(scores(50, 4.0))
        del document["fingerprints"]
        job.says(started())
        job.appends(json.dumps({"seq": 1, "time": "", **document, "fingerprint": "f" * 64}).encode() + b"\n")
        reader.poll()
        said = job.journal("evaluation.completed")[0]
        assert said["fingerprints"] == {"inception_score": "f" * 64, "fid": "f" * 64}

    def test_is_a_row_whose_fingerprint_covers_those_of_all_scores(self, job: Job, reader: Indexer) -> None:
        same, other = scores(10, 4.0), replace(scores(20, 4.0), fingerprints={"inception_score": "e", "fid": "f"})
        job.says(same, replace(same, step=15), other)
        reader.poll()
        first, second, third = (row["fingerprint"] for row in job.rows(tables.evaluations))
        assert first == second != third
        assert len(first) == 64

    def test_with_nan_says_so_by_name(self, job: Job, reader: Indexer) -> None:
        job.says(Evaluated(5, "final", {"fid": math.nan}, "digits-v1", {"fid": "f" * 64}, 1.0))
        reader.poll()
        assert job.rows(tables.evaluations)[0]["scores"] == {"fid": "NaN"}

    def test_again_does_not_overwrite_the_history_of_its_step(self, job: Job, reader: Indexer) -> None:
        job.says(scores(50, 4.0), scores(50, 3.0, "best_rescored"))
        reader.poll()
        assert len(job.rows(tables.evaluations)) == 2
        found = job.store.read(lambda connection: metric_history.history(connection, job.row(), "inception_score"))
        assert [point["last"] for point in found.points] == [4.0]


def test_a_notice_of_the_run_is_a_notice_of_the_job(job: Job, reader: Indexer) -> None:
    job.says(Notice(3, "the penalty skips layer 7"))
    reader.poll()
    assert job.journal("job.notice") == [{"step": 3, "message": "the penalty skips layer 7"}]


# In whatever pieces it is read.


def contents(job: Job) -> dict[str, Any]:
    """All that was taken in of a run, without what is chosen at random or counted by pieces."""
    row = job.row()
    names = (
        "state",
        "step",
        "total_steps",
        "steps_per_second",
        "eta_seconds",
        "events_offset",
        "events_seq",
        "attempts",
    )
    found: dict[str, Any] = {name: row[name] for name in names}
    for table in (
        tables.attempts,
        tables.metric_points,
        tables.metric_blocks,
        tables.metric_summary,
        tables.evaluations,
        tables.samples,
        tables.checkpoints,
        tables.blobs,
    ):
        random = {"id", "job_id", "job_seq", "created_at", "started_at"}
        found[table.name] = [{k: v for k, v in each.items() if k not in random} for each in job.rows(table)]
    found["points"] = [point for batch in job.journal("metric.batch") for point in batch["points"]]
    once = ("job.started", "sample.created", "evaluation.completed", "checkpoint.rejected")
    found["journal"] = {type_: job.journal(type_) for type_ in once}
    found["checkpoints said"] = [{**data, "id": None} for data in job.journal("checkpoint.created")]
    return found


def story(job: Job) -> list[Event]:
    """A run that is resumed from the last but one checkpoint and then completed."""
    return [
        started(0, 9),
        job.draws(0),
        Scalars(1, {"a": 1.0}),
        Progress(2, 9, 1.0, 2.0, 7.0),
        job.saves(2),
        Scalars(3, {"a": math.nan, "b": 2.0}),
        scores(4, 2.0),
        job.saves(4),
        started(2, 9),
        CheckpointRejected(2, 4, "torn"),
        Scalars(3, {"a": 3.0}),
        scores(4, 3.0),
        job.saves(4, "d" * 64),
        job.draws(9),
        scores(9, 1.0, "final"),
        scores(4, 2.5, "best_rescored"),
        Finished(9, "completed", ""),
    ]


@pytest.fixture
def told(store: Store, settings: Settings, reader: Indexer) -> tuple[bytes, dict[str, Any]]:
    """The journal of `story`, and what it leaves when it is read in one piece."""
    whole = Job(store, settings)
    whole.says(*story(whole))
    reader.poll()
    reference = contents(whole)
    store.write(lambda connection: connection.execute(update(tables.attempts).values(live=False)))
    return whole.run.events.read_bytes(), reference


def retell(store: Store, settings: Settings) -> Job:
    """Another job with the files of `story` and no journal yet."""
    again = Job(store, settings)
    story(again)
    again.run.events.touch()
    return again


class TestPieces:
    def test_the_story_is_worth_telling(self, told: tuple[bytes, dict[str, Any]]) -> None:
        _, reference = told
        assert len(reference["metric_points"]) > 5 and len(reference["samples"]) == 2
        assert any(row["superseded"] for row in reference["metric_points"])
        assert [row["status"] for row in reference["checkpoints"]] == ["available", "available"]

    def test_read_byte_by_byte_it_is_the_same(
        self, store: Store, settings: Settings, reader: Indexer, told: tuple[bytes, dict[str, Any]]
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        with open(again.run.events, "ab", buffering=0) as file:
            for byte in text:
                file.write(bytes([byte]))
                reader.poll()
        assert contents(again) == reference

    def test_with_every_transaction_undone_once_it_is_the_same(
        self,
        store: Store,
        settings: Settings,
        told: tuple[bytes, dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        undone = 0
        with open(again.run.events, "ab", buffering=0) as file:
            for line in text.splitlines(keepends=True):
                file.write(line)
                with monkeypatch.context() as patch:
                    patch.setattr(store_module, "crash_point", undo_before_commit)
                    with pytest.raises(Undone):
                        Indexer(store, settings).poll()
                    undone += 1
                Indexer(store, settings).poll()
        assert undone == len(text.splitlines())
        assert contents(again) == reference

    @property_test
    @given(data=st.data())
    def test_split_anywhere_and_undone_sometimes_it_is_the_same(
        self, store: Store, settings: Settings, told: tuple[bytes, dict[str, Any]], data: st.DataObject
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=6).map(sorted))
        with pytest.MonkeyPatch.context() as patch:
            for end in [*cuts, len(text)]:
                again.run.events.write_bytes(text[:end])
                if data.draw(st.booleans()):
                    patch.setattr(store_module, "crash_point", undo_before_commit)
                    with suppress(Undone):
                        Indexer(store, settings).poll()
                patch.setattr(store_module, "crash_point", crash_points.crash_point)
                Indexer(store, settings).drain(again.id)
        assert contents(again) == reference

    def test_in_small_chunks_it_is_the_same(
        self,
        store: Store,
        settings: Settings,
        reader: Indexer,
        told: tuple[bytes, dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        again.run.events.write_bytes(text)
        monkeypatch.setattr(tail, "CHUNK_BYTES", 50)  # less than any line
        reader.drain(again.id)
        assert contents(again) == reference
        assert len(again.journal("metric.batch")) > 2

    def test_while_it_is_being_written_it_is_the_same(
        self, store: Store, settings: Settings, reader: Indexer, told: tuple[bytes, dict[str, Any]]
    ) -> None:
        _, reference = told
        again = Job(store, settings)
        writer = threading.Thread(target=lambda: again.says(*story(again)))
        writer.start()
        while writer.is_alive():
            reader.poll()
        writer.join()
        reader.drain(again.id)
        assert contents(again) == reference

    def test_read_by_two_at_once_it_is_the_same(
        self, store: Store, settings: Settings, told: tuple[bytes, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        again.run.events.write_bytes(text)
        monkeypatch.setattr(tail, "CHUNK_BYTES", 50)
        both = [threading.Thread(target=Indexer(store, settings).drain, args=(again.id,)) for _ in range(2)]
        for each in both:
            each.start()
        for each in both:
            each.join()
        assert contents(again) == reference

    @pytest.mark.parametrize("point", ["ingest.before_commit", "ingest.after_commit"])
    def test_killed_around_a_commit_it_is_the_same(
        self, store: Store, settings: Settings, reader: Indexer, told: tuple[bytes, dict[str, Any]], point: str
    ) -> None:
        text, reference = told
        again = retell(store, settings)
        again.run.events.write_bytes(text[: len(text) // 2])
        code = (
            "import sys; from server.ingest.indexer import Indexer; from server.store.store import Store; "
            "from server.settings import Settings; settings = Settings(data_dir=sys.argv[1]); "
            "Indexer(Store(settings.database), settings).poll()"
        )
        killed = subprocess.run(
            [sys.executable, "-c", code, str(settings.data_dir)],
            env={**os.environ, crash_points.VARIABLE: point},
            timeout=60,
        )
        assert killed.returncode == -9
        assert (again.row()["events_offset"] > 0) == (point == "ingest.after_commit")
        again.run.events.write_bytes(text)
        reader.drain(again.id)
        assert contents(again) == reference


class Undone(BaseException):
    """Stands for whatever keeps a transaction from being committed."""


def undo_before_commit(point: str) -> None:
    if point == "ingest.before_commit":
        raise Undone


# What holds after resumes.

STEPS = st.integers(0, 12)
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def attempts(draw: st.DrawFn) -> list[Event]:
    """Events of several attempts, each of which begins at any step and rises from there."""
    told: list[Event] = []
    for index in range(draw(st.integers(1, 4))):
        first = draw(STEPS) if index else 0
        told.append(Started(first, 20, resumed=first > 0))
        for step in sorted(draw(st.lists(st.integers(first + 1, 20), max_size=6))):
            told.append(
                draw(
                    st.sampled_from([scores(step, 1.0 + step), scores(step, 2.0, "best_rescored")])
                    | st.builds(Scalars, st.just(step), st.dictionaries(st.sampled_from("ab"), NUMBERS, min_size=1))
                    | st.just(CheckpointSaved(step, "", "c" * 64))
                    | st.just(Finished(step, "stopped", ""))
                )
            )
    return told


class TestResume:
    @property_test
    @given(told=attempts(), pieces=st.booleans())
    def test_what_is_left_is_what_is_in_effect(
        self, store: Store, settings: Settings, told: list[Event], pieces: bool
    ) -> None:
        job = Job(store, settings)
        for step in range(21):
            job.saves(step)
        reader = Indexer(store, settings)
        for event in told:
            job.says(event)
            if pieces:
                reader.poll()
        reader.drain(job.id)
        assert left(job) == in_effect(told)

    def test_discards_grids_and_their_files_by_hash(self, job: Job, reader: Indexer) -> None:
        job.says(started(), job.draws(0), job.draws(50), job.draws(60))
        reader.poll()
        job.requeue()
        job.says(started(50))
        reader.poll()
        assert [row["step"] for row in job.rows(tables.samples)] == [0, 50]
        assert {row["path"] for row in job.rows(tables.blobs)} == {row["path"] for row in job.rows(tables.samples)}

    def test_discards_the_second_score_of_the_best_which_concludes_a_run(self, job: Job, reader: Indexer) -> None:
        job.says(started(), scores(10, 4.0), scores(10, 3.0, "best_rescored"), Finished(50, "completed", ""))
        job.says(started(50))
        reader.poll()
        assert [row["purpose"] for row in job.rows(tables.evaluations)] == ["scheduled"]

    def test_from_the_beginning_discards_step_0_too(self, job: Job, reader: Indexer) -> None:
        job.says(started(), job.draws(0), scores(0, 1.0))
        reader.poll()
        job.says(started())
        reader.poll()
        assert job.rows(tables.samples) == job.rows(tables.evaluations) == job.rows(tables.metric_summary) == []


def left(job: Job) -> dict[str, Any]:
    """What the store says is in effect."""
    names = job.store.read(
        lambda connection: {row.id: row.name for row in connection.execute(select(tables.metric_names))}
    )
    points = {
        (names[row["name_id"]], row["step"]): metric_points.to_json(row["value"], row["kind"])
        for row in job.rows(tables.metric_points)
        if not row["superseded"]
    }
    available = [row for row in job.rows(tables.checkpoints) if row["status"] == "available"]
    return {
        "points": points,
        "summaries": {row["name"]: row["step"] for row in job.rows(tables.metric_summary)},
        "scores": {(row["step"], row["purpose"]) for row in job.rows(tables.evaluations)},
        "checkpoints": sorted(row["step"] for row in available),
    }


def in_effect(told: Sequence[Event]) -> dict[str, Any]:
    """The same by the run's own rule."""
    points: dict[tuple[str, int], Any] = {}
    found: set[tuple[int, str]] = set()
    saved: set[int] = set()
    for event in effective(told):
        match event:
            case Scalars(step=step, values=values):
                points |= {(name, step): encode_number(number) for name, number in values.items()}
            case Evaluated(step=step, purpose=purpose):
                found.add((step, purpose))
                if purpose != "best_rescored":
                    points |= {(name, step): encode_number(number) for name, number in event.scores.items()}
            case CheckpointSaved(step=step):
                saved.add(step)
    last: dict[str, int] = {}
    for name, step in points:
        last[name] = max(step, last.get(name, -1))
    return {"points": points, "summaries": last, "scores": found, "checkpoints": sorted(saved)}


# Damage.


def notices(job: Job) -> list[str]:
    return [row["message"] for row in job.journal("job.notice")]


class TestDamage:
    def test_a_torn_last_line_waits_for_its_end(self, job: Job, reader: Indexer) -> None:
        job.says(started())
        line = json.dumps({"seq": 1, "time": "now", **encode(Scalars(1, {"loss": 1.0}))}).encode() + b"\n"
        job.appends(line[:-5])
        reader.poll()
        assert (job.row()["events_seq"], notices(job)) == (1, [])
        job.appends(line[-5:])
        reader.poll()
        assert (job.row()["events_seq"], notices(job)) == (2, [])
        assert len(job.rows(tables.metric_points)) == 1

    def test_a_torn_line_that_the_next_attempt_cuts_off_was_never_there(self, job: Job, reader: Indexer) -> None:
        job.says(started())
        job.appends(b'{"seq": 1, "type": "scal')
        reader.poll()
        job.says(started(), Scalars(1, {"loss": 1.0}))  # opening the journal cuts it
        reader.poll()
        assert (job.row()["events_seq"], notices(job)) == (3, [])

    @pytest.mark.parametrize(
        "line",
        [
            b"\x00\xff\xfe\x80garbage",
            b"",
            b"[]",
            b'"text"',
            b"{",
            b"[" * 100_000,
            b'{"seq": 1, "type": "rumour"}',
            b'{"seq": 1, "type": ["scalars"]}',
            b'{"seq": 1, "type": "scalars", "step": 1}',
            b'{"seq": 1, "type": "scalars", "step": null, "values": {}}',
            b'{"seq": 1, "type": "scalars", "step": -1, "values": {}}',
            b'{"seq": 1, "type": "scalars", "step": 1' + b"0" * 30 + b', "values": {"a": 1}}',
            b'{"seq": 1, "type": "scalars", "step": 1, "values": [1]}',
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {"a": "high"}}',
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {"a": 1' + b"0" * 400 + b"}}",
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {"a": NaN}}',
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {"a\\u0000": 1}}',
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {%s}}'
            % b", ".join(b'"%d": 1' % number for number in range(1001)),
            b'{"seq": 1, "type": "checkpoint_saved", "step": 1, "path": "", "sha256": "c\\r\\n"}',
            b'{"seq": 1, "type": "notice", "step": true, "message": ""}',
            b'{"seq": 1, "type": "notice", "step": 1, "message": ' + b"[" * 65 + b"]" * 65 + b"}",
            b'{"seq": 1, "type": "scalars", "step": 1, "values": {"' + b"a" * 300 + b'": 1}}',
            EVALUATED % b'"a": 5',
            EVALUATED % (b'"a": "' + b"a" * 300 + b'"'),
            b'{"seq": "1", "type": "notice", "step": 1, "message": ""}',
            b'{"seq": true, "type": "notice", "step": 1, "message": ""}',
            b'{"type": "notice", "step": 1, "message": ""}',
        ],
    )
    def test_a_line_that_cannot_be_read_is_said_once_and_passed_over(
        self, job: Job, reader: Indexer, line: bytes
    ) -> None:
        job.says(started())
        job.appends(line + b"\n")
        reader.poll()
        job.says(Scalars(2, {"loss": 1.0}))
        reader.poll()
        (notice,) = notices(job)
        assert notice.startswith("line 1 of the run's journal cannot be read: ")
        assert [row["step"] for row in job.rows(tables.metric_points)] == [2]
        assert job.row()["events_seq"] == 3

    def test_half_of_a_surrogate_pair_is_stored_as_a_question_mark(self, job: Job, reader: Indexer) -> None:
        job.says(started())
        job.appends(b'{"seq": 1, "type": "scalars", "step": 1, "values": {"a\\ud800": 1}}\n')
        reader.poll()
        latest = job.store.read(lambda c: metric_history.latest(c, job.row()))
        assert [row["name"] for row in latest] == ["a?"]

    def test_names_beyond_the_bound_are_left_out_and_said_once(
        self, job: Job, reader: Indexer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(metric_points, "MAX_NAMES", 3)
        job.says(started())
        for step in range(3):
            job.says(Scalars(step, dict.fromkeys("abcde", 1.0)), Scalars(step, {"z": 1.0}))
            reader.poll()
        assert notices(job) == ["the run reports 3 metrics; further names are left out"]
        named = {name for row in job.journal("metric.batch") for point in row["points"] for name in point["values"]}
        assert named == {"a", "b", "c"}

    @pytest.mark.parametrize(
        "time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01", "9999-12-31", 5, None]
    )
    def test_a_time_that_cannot_be_shown_becomes_the_present(self, time: Any) -> None:
        line = json.dumps({"seq": 0, "time": time, **encode(Notice(1, ""))}).encode()
        assert abs(run_events.parse(line).time - now_ms()) < 3_600_000

    @pytest.mark.parametrize(("width", "height"), [(0, 0), (0, 5), (2**32 - 1, 2**32 - 1), (2**13, 2**13 + 1)])
    def test_a_grid_of_an_impossible_size_is_passed_over(
        self, job: Job, reader: Indexer, width: int, height: int
    ) -> None:
        header = png().replace(struct.pack(">II", 8, 4), struct.pack(">II", width, height))
        job.says(started(), job.draws(0, header))
        reader.poll()
        assert job.rows(tables.samples) == []
        assert len(notices(job)) == 1 and "sample grid of step 0" in notices(job)[0]

    def test_a_long_message_is_cut(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Notice(0, "x" * 200_000))
        reader.poll()
        reader.poll()
        assert len(notices(job)[0]) < 11_000

    def test_an_error_that_nobody_foresaw_is_said_once_and_leaves_other_jobs_alone(
        self, store: Store, settings: Settings, reader: Indexer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken, whole = Job(store, settings), Job(store, settings)
        broken.says(started())
        whole.says(started())
        read = run_events.Ingest.read

        def fail(self: run_events.Ingest, lines: Sequence[bytes | None]) -> None:
            if self._job["id"] == broken.id:
                raise RuntimeError("unforeseen")
            read(self, lines)

        monkeypatch.setattr(run_events.Ingest, "read", fail)
        for _ in range(3):
            reader.poll()
        reader.drain(broken.id)
        assert notices(broken) == ["the run's files cannot be read further; the service's log says why"]
        assert whole.row()["state"] == "running"

    def test_missing_lines_are_said_once(self, job: Job, reader: Indexer) -> None:
        job.says(started())
        for seq in (4, 5):
            job.appends(json.dumps({"seq": seq, "time": "", **encode(Scalars(seq, {"a": 1.0}))}).encode() + b"\n")
            reader.poll()
        assert notices(job) == ["lines 1 to 3 of the run's journal are missing"]
        assert [row["step"] for row in job.rows(tables.metric_points)] == [4, 5]

    def test_numbers_that_go_back_are_said_once(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Notice(0, "one"), Notice(0, "two"))
        for seq in (1, 2):
            job.appends(json.dumps({"seq": seq, "time": "", **encode(Scalars(seq, {"a": 1.0}))}).encode() + b"\n")
        reader.poll()
        assert notices(job) == ["one", "two", "the run's journal goes back from line 3 to 1"]

    def test_a_flood_of_garbage_is_a_few_notices(
        self, job: Job, reader: Indexer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "CHUNK_BYTES", 30_000)
        job.says(started())
        job.appends(b"\xff\n" * 50_000)
        reader.drain(job.id)
        assert job.row()["events_seq"] == 50_001
        assert len(notices(job)) == 4
        assert all(len(notice) < 1000 for notice in notices(job))
        assert "more problems" in notices(job)[0]

    def test_a_line_longer_than_a_chunk_is_read(
        self, job: Job, reader: Indexer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "CHUNK_BYTES", 100)
        job.says(started(), Scalars(1, {f"layer/{index}": 1.0 for index in range(500)}), Scalars(2, {"a": 1.0}))
        reader.drain(job.id)
        assert len(job.rows(tables.metric_points)) == 501
        assert notices(job) == []

    def test_a_line_too_long_to_be_true_is_passed_over(
        self, job: Job, reader: Indexer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tail, "MAX_LINE_BYTES", 10_000)
        monkeypatch.setattr(tail, "CHUNK_BYTES", 1000)
        job.says(started())
        job.appends(b"x" * 20_500 + b"\n")
        job.says(Scalars(2, {"a": 1.0}))
        reader.drain(job.id)
        assert notices(job) == ["line 1 of the run's journal cannot be read: it is too long"]
        assert len(job.rows(tables.metric_points)) == 1

    def test_a_journal_that_lost_its_end_is_gone_on_with(self, job: Job, reader: Indexer) -> None:
        job.says(started(), Scalars(1, {"a": 1.0}), Scalars(2, {"a": 2.0}))
        reader.poll()
        lines = job.run.events.read_bytes().splitlines(keepends=True)
        job.run.events.write_bytes(lines[0] + lines[1][:10])
        reader.poll()
        job.says(started(), Scalars(3, {"a": 3.0}))
        reader.poll()
        assert len(notices(job)) == 1 and "lost" in notices(job)[0]
        assert job.row()["events_seq"] == 3
        assert [row["step"] for row in job.rows(tables.metric_points) if not row["superseded"]] == [3]

    def test_files_that_cannot_be_read_are_said_once(self, job: Job, reader: Indexer) -> None:
        job.run.events.mkdir(parents=True)
        for _ in range(3):
            reader.poll()
        reader.drain(job.id)
        assert notices(job) == ["the run's files cannot be read: Is a directory"]

    def test_a_job_without_files_is_left_alone(self, job: Job, reader: Indexer) -> None:
        before = job.journal()
        reader.poll()
        reader.drain(job.id)
        assert job.journal() == before

    def test_damage_in_one_job_leaves_the_others_alone(self, store: Store, settings: Settings, reader: Indexer) -> None:
        broken, whole = Job(store, settings), Job(store, settings)
        broken.run.events.mkdir(parents=True)
        whole.says(started())
        reader.poll()
        assert whole.row()["state"] == "running"


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_a_worker_whose_wall_clock_was_set_began_between_its_claim_and_now(
    job: Job, reader: Indexer, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    said = datetime.now(UTC) + timedelta(seconds=step)
    monkeypatch.setattr(run_events, "_milliseconds", lambda time: round(said.timestamp() * 1000))
    job.says(started())
    reader.poll()
    (attempt,) = job.rows(tables.attempts)
    assert attempt["created_at"] <= attempt["started_at"] <= now_ms()


def test_one_poll_takes_a_bounded_part_of_each_job(job: Job, reader: Indexer) -> None:
    job.says(*(Notice(step, "x" * 1000) for step in range(600)))
    reader.poll()
    assert 0 < job.row()["events_offset"] <= tail.CHUNK_BYTES
    reader.poll()
    reader.poll()
    assert job.row()["events_offset"] == job.run.events.stat().st_size


@pytest.mark.parametrize("error", [OperationalError("", {}, Exception("disk I/O error")), DatabaseDamaged("page 7")])
def test_an_error_of_the_database_is_raised_after_the_others_were_read_and_blames_no_files(
    job: Job,
    reader: Indexer,
    store: Store,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    other = Job(store, settings)
    for each in (job, other):
        each.says(started())
    read = reader._read_events

    def read_others(row: JobRow) -> bool:
        if row["id"] == job.id:
            raise error
        return read(row)

    monkeypatch.setattr(reader, "_read_events", read_others)
    with pytest.raises(ExceptionGroup) as raised:
        reader.poll()
    assert raised.value.exceptions == (error,) and error.__notes__[-1] == f"job {job.id}"
    assert (job.row()["state"], other.row()["state"]) == ("starting", "running")
    assert job.journal("job.notice") == []


def test_a_grid_may_have_as_many_pixels_as_are_rendered() -> None:
    assert run_events.MAX_GRID_PIXELS == render.MAX_PIXELS


def test_a_poll_passes_over_jobs_without_an_attempt(job: Job, reader: Indexer) -> None:
    job.says(started())
    job.store.write(lambda connection: connection.execute(update(tables.attempts).values(live=False)))
    reader.poll()
    assert job.row()["events_offset"] == 0
    reader.drain(job.id)
    assert job.row()["events_offset"] == job.run.events.stat().st_size


# What is printed.


class TestConsole:
    def test_whole_lines_are_passed_on_once(self, job: Job, reader: Indexer) -> None:
        job.prints(b"one\ntwo\nthr")
        reader.poll()
        job.prints(b"ee\n")
        reader.poll()
        reader.poll()
        assert job.journal("log.lines") == [
            {"offset": 0, "next_offset": 8, "text": "one\ntwo\n", "skipped": 0},
            {"offset": 8, "next_offset": 14, "text": "three\n", "skipped": 0},
        ]

    def test_the_end_comes_without_a_line_end(self, job: Job, reader: Indexer) -> None:
        job.prints(b"Segmentation fault")
        reader.poll()
        assert job.journal("log.lines") == []
        reader.drain(job.id)
        assert [row["text"] for row in job.journal("log.lines")] == ["Segmentation fault"]

    @pytest.mark.parametrize(
        ("printed", "shown"),
        [
            (b"\x1b[31mred\x1b[0m", "red"),
            (b"\x1b[1;38;5;196mbold\x1b[K", "bold"),
            (b"\x1b]0;title\x07text", "text"),
            (b"\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
            (b"\x1b(Bplain\x1b=", "plain"),
            (b"a\x00b\x08c\x7fd\xc2\x9be", "abcd"),
            (b"10%\r20%\r\n", "10%\n20%\n"),
            (b"tab\tstays", "tab\tstays"),
            (b"\xff\xfe\xe2\x82", "\ufffd\ufffd\ufffd"),
            ("Größe 日本 \U0001f600".encode(), "Größe 日本 \U0001f600"),
            (b"\x1b]unfinished\nnext", "\nnext"),
            (b"cut \x1b[", "cut "),
        ],
    )
    def test_only_text_is_passed_on(self, job: Job, reader: Indexer, printed: bytes, shown: str) -> None:
        job.prints(printed)
        reader.drain(job.id)
        assert [row["text"] for row in job.journal("log.lines")] == [shown]

    def test_of_a_flood_the_newest_is_passed_on_and_the_rest_counted(self, job: Job, reader: Indexer) -> None:
        lines = [f"line {number}\n".encode() for number in range(10_000)]
        job.prints(b"".join(lines))
        reader.poll()
        (row,) = job.journal("log.lines")
        assert len(row["text"].encode()) <= tail.TEXT_BYTES
        assert row["text"].startswith("line ") and row["text"].endswith("line 9999\n")
        assert row["skipped"] == row["offset"] > 0
        assert row["next_offset"] == job.console.stat().st_size == job.row()["console_offset"]

    def test_a_flood_is_one_row_a_second(self, job: Job, reader: Indexer, clock: Callable[[float], None]) -> None:
        for _ in range(20):
            job.prints(b"x" * 100 + b"\n" * 10_000)
            reader.poll()
        assert len(job.journal("log.lines")) == 1
        clock(indexer.FLOOD_SECONDS)
        reader.poll()
        assert len(job.journal("log.lines")) == 2
        assert job.row()["console_offset"] == job.console.stat().st_size

    def test_a_flood_of_one_job_does_not_silence_another(
        self, store: Store, settings: Settings, reader: Indexer
    ) -> None:
        loud, quiet = Job(store, settings), Job(store, settings)
        loud.prints(b"x" * 100_000)
        reader.poll()
        quiet.prints(b"hello\n")
        reader.poll()
        assert [row["text"] for row in quiet.journal("log.lines")] == ["hello\n"]

    @pytest.mark.parametrize("end", [b"", b"\n"])
    def test_one_endless_line_is_passed_on_in_part(self, job: Job, reader: Indexer, end: bytes) -> None:
        job.prints(b"x" * 100_000 + end)
        reader.poll()
        (row,) = job.journal("log.lines")
        assert set(row["text"].strip()) == {"x"}
        assert job.row()["console_offset"] == 100_000 + len(end)

    def test_the_end_of_a_flood_is_read_at_the_end_of_the_attempt(self, job: Job, reader: Indexer) -> None:
        job.prints(b"x\n" * 50_000)
        reader.poll()
        job.prints(b"the error\n")
        reader.drain(job.id)
        assert [row["text"] for row in job.journal("log.lines")][-1] == "the error\n"

    def test_a_console_that_became_shorter_is_read_from_its_beginning(self, job: Job, reader: Indexer) -> None:
        job.prints(b"before\n")
        reader.poll()
        job.console.write_bytes(b"new\n")
        reader.poll()
        assert [row["text"] for row in job.journal("log.lines")] == ["before\n", "new\n"]
        assert job.row()["console_offset"] == 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """The indexer's clock stands still until the test moves it on."""
    now = [1000.0]
    monkeypatch.setattr(indexer.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    yield advance
