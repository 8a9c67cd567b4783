"""Grids, checkpoints and blobs as rows: found by those who may, and never a file outside the job."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from gan_mhe.files import atomic_write, sha256_bytes
from server.errors import NotFound, NotReady
from server.queue import queue, removal
from server.settings import Settings
from server.store import artifacts, tables
from server.store.rows import NewCheckpointRow, SampleRow
from server.store.store import Store
from tests.support.few_parameters import few_parameters


def new_job(store: Store, project: str = "p") -> str:
    new = queue.NewJob(project=project, request={}, request_sha256="0")
    return str(store.write(lambda connection: queue.create(connection, new))["id"])


def sample_row(job_id: str, step: int, sha256: str = "a" * 64) -> SampleRow:
    return {
        "job_id": job_id,
        "step": step,
        "attempt": 1,
        "sha256": sha256,
        "path": f"run/samples/step_{step:08d}.png",
        "size_bytes": 9,
        "width": 3,
        "height": 2,
        "created_at": 0,
        "pruned_at": None,
    }


def add_sample(store: Store, job_id: str, step: int, sha256: str = "a" * 64) -> None:
    store.write(lambda connection: artifacts.add_sample(connection, sample_row(job_id, step, sha256)))


def checkpoint_row(job_id: str, step: int, sha256: str = "c" * 64) -> NewCheckpointRow:
    return {
        "job_id": job_id,
        "step": step,
        "attempt": 1,
        "sha256": sha256,
        "path": f"run/checkpoints/step_{step:08d}",
        "size_bytes": 9,
        "status": "available",
        "created_at": 0,
    }


def add_checkpoint(store: Store, job_id: str, step: int, sha256: str = "c" * 64) -> str:
    return store.write(lambda connection: artifacts.add_checkpoint(connection, checkpoint_row(job_id, step, sha256)))


def blobs(store: Store, job_id: str) -> dict[str, str]:
    query = select(tables.blobs.c.sha256, tables.blobs.c.path).where(tables.blobs.c.job_id == job_id)
    return store.read(lambda connection: {row.sha256: row.path for row in connection.execute(query)})


class TestSamples:
    def test_are_listed_by_rising_step_in_parts(self, store: Store) -> None:
        job_id = new_job(store)
        for step in (30, 0, 20, 10):
            add_sample(store, job_id, step)
        first = store.read(lambda connection: artifacts.samples(connection, job_id, after=-1, limit=3))
        rest = store.read(lambda connection: artifacts.samples(connection, job_id, after=20, limit=3))
        assert [row["step"] for row in first] == [0, 10, 20]
        assert [row["step"] for row in rest] == [30]

    def test_are_found_by_step(self, store: Store) -> None:
        job_id = new_job(store)
        add_sample(store, job_id, 10, "b" * 64)
        assert store.read(lambda connection: artifacts.sample(connection, job_id, 10))["sha256"] == "b" * 64
        with pytest.raises(NotFound, match="no sample grid of step 11"):
            store.read(lambda connection: artifacts.sample(connection, job_id, 11))

    def test_the_latest_is_the_newest_that_is_kept(self, store: Store) -> None:
        job_id = new_job(store)
        with pytest.raises(NotReady, match="no sample grid yet"):
            store.read(lambda connection: artifacts.latest_sample(connection, job_id))
        for step in (0, 10, 20):
            add_sample(store, job_id, step, str(step) * 32)
        store.write(lambda connection: artifacts.prune_samples(connection, job_id, [20]))
        assert store.read(lambda connection: artifacts.latest_sample(connection, job_id))["step"] == 10

    def test_that_are_replaced_take_their_old_hash_with_them(self, store: Store) -> None:
        job_id = new_job(store)
        add_sample(store, job_id, 10, "a" * 64)
        add_sample(store, job_id, 10, "b" * 64)
        assert list(blobs(store, job_id)) == ["b" * 64]

    def test_that_are_pruned_leave_a_row_without_a_file(self, store: Store) -> None:
        job_id = new_job(store)
        add_sample(store, job_id, 10)
        paths = store.write(lambda connection: artifacts.prune_samples(connection, job_id, [10]))
        assert paths == ["run/samples/step_00000010.png"]
        assert blobs(store, job_id) == {}
        (row,) = store.read(lambda connection: artifacts.samples(connection, job_id, after=-1, limit=9))
        assert row["pruned_at"] is not None

    def test_with_equal_content_keep_their_hash_until_the_last_is_pruned(self, store: Store) -> None:
        job_id = new_job(store)
        for step in (10, 20):
            add_sample(store, job_id, step, "a" * 64)
        store.write(lambda connection: artifacts.prune_samples(connection, job_id, [20]))
        assert blobs(store, job_id) == {"a" * 64: "run/samples/step_00000010.png"}
        store.write(lambda connection: artifacts.prune_samples(connection, job_id, [10]))
        assert blobs(store, job_id) == {}

    def test_of_another_job_with_equal_content_stay(self, store: Store) -> None:
        job_id, other = new_job(store), new_job(store)
        for each in (job_id, other):
            add_sample(store, each, 10, "a" * 64)
        store.write(lambda connection: artifacts.discard_after(connection, job_id, -1))
        assert blobs(store, job_id) == {}
        assert list(blobs(store, other)) == ["a" * 64]


class TestCheckpoints:
    def test_are_listed_by_rising_step(self, store: Store) -> None:
        job_id = new_job(store)
        for step in (20, 10):
            add_checkpoint(store, job_id, step)
        rows = store.read(lambda connection: artifacts.checkpoints(connection, job_id))
        assert [row["step"] for row in rows] == [10, 20]

    def test_are_found_by_their_own_project_only(self, store: Store) -> None:
        checkpoint_id = add_checkpoint(store, new_job(store, "mine"), 10)
        assert store.read(lambda connection: artifacts.checkpoint(connection, checkpoint_id, "mine"))["step"] == 10
        with pytest.raises(NotFound, match=checkpoint_id):
            store.read(lambda connection: artifacts.checkpoint(connection, checkpoint_id, "theirs"))


class TestBlobs:
    def test_are_found_by_their_own_project_only(self, store: Store) -> None:
        add_sample(store, new_job(store, "mine"), 10)
        assert store.read(lambda connection: artifacts.blob(connection, "a" * 64, "mine"))["size_bytes"] == 9
        with pytest.raises(NotFound):
            store.read(lambda connection: artifacts.blob(connection, "a" * 64, "theirs"))

    def test_that_several_jobs_have_are_found_with_the_newest(self, store: Store) -> None:
        older, newer = new_job(store), new_job(store)
        for each in (newer, older):
            add_sample(store, each, 10)
        assert store.read(lambda connection: artifacts.blob(connection, "a" * 64, "p"))["job_id"] == newer

    def test_go_with_their_job(self, store: Store) -> None:
        job_id = new_job(store)
        add_sample(store, job_id, 10)

        def remove(connection: Connection) -> None:
            removal.remove(connection, queue.cancel(connection, queue.get(connection, job_id)))

        store.write(remove)
        with pytest.raises(NotFound):
            store.read(lambda connection: artifacts.blob(connection, "a" * 64, "p"))


class TestPaths:
    @pytest.fixture
    def row(self, settings: Settings) -> Mapping[str, Any]:
        job_id = "job_" + "0" * 26
        samples = settings.job_dir(job_id) / "run/samples"
        samples.mkdir(parents=True)
        (samples / "a.png").write_bytes(b"picture")
        return {"job_id": job_id, "path": "run/samples/a.png"}

    def test_a_file_of_the_job_is_found(self, settings: Settings, row: Mapping[str, Any]) -> None:
        assert artifacts.blob_path(settings, row).read_bytes() == b"picture"

    @pytest.mark.parametrize("path", ["run/samples/b.png", "run/samples", "", "run/samples/a.png/x"])
    def test_what_is_no_file_is_not_found(self, settings: Settings, row: Mapping[str, Any], path: str) -> None:
        with pytest.raises(NotFound):
            artifacts.blob_path(settings, {**row, "path": path})

    @pytest.mark.parametrize(
        "path", ["../../canary", "run/../../../canary", "/etc/passwd", "out", "away/canary", "loop"]
    )
    def test_no_path_leads_out_of_the_job(self, settings: Settings, row: Mapping[str, Any], path: str) -> None:
        (settings.data_dir / "canary").write_text("secret")
        directory = settings.job_dir(row["job_id"])
        (directory / "out").symlink_to(settings.data_dir / "canary")
        (directory / "away").symlink_to(settings.data_dir)
        (directory / "loop").symlink_to(directory / "loop")
        with pytest.raises(NotFound):
            artifacts.blob_path(settings, {**row, "path": path})

    def test_a_data_directory_behind_a_link_is_no_way_out(self, tmp_path: Path, settings: Settings) -> None:
        real = settings.data_dir.rename(tmp_path / "elsewhere")
        settings.data_dir.symlink_to(real)
        file = settings.job_dir("job_x") / "output/grid.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
        assert artifacts.blob_path(settings, {"job_id": "job_x", "path": "output/grid.png"}).is_file()

    def test_a_checkpoint_has_two_files(self, settings: Settings, row: Mapping[str, Any]) -> None:
        directory = settings.job_dir(row["job_id"]) / "run/checkpoints/step_00000010"
        directory.mkdir(parents=True)
        checkpoint = {**row, "id": "ckpt_x", "path": "run/checkpoints/step_00000010", "status": "available"}
        (directory / "manifest.json").write_text("{}")
        with pytest.raises(NotFound, match=r"lost its tensors\.safetensors"):
            artifacts.checkpoint_files(settings, checkpoint)
        (directory / "tensors.safetensors").write_bytes(b"")
        files = artifacts.checkpoint_files(settings, checkpoint)
        assert files == {name: (directory / name).resolve() for name in ("tensors.safetensors", "manifest.json")}

    @pytest.mark.parametrize("status", ["pruned", "rejected"])
    def test_a_checkpoint_that_is_not_available_is_not_to_be_had(self, settings: Settings, status: str) -> None:
        with pytest.raises(NotReady, match=f"ckpt_x is {status}"):
            artifacts.checkpoint_files(settings, {"id": "ckpt_x", "job_id": "job_x", "path": "run", "status": status})

    def test_content_is_found_until_it_is_changed(self, settings: Settings, row: Mapping[str, Any]) -> None:
        known = {**row, "sha256": sha256_bytes(b"picture")}
        path = artifacts.content_path(settings, known)
        assert path.read_bytes() == b"picture"
        atomic_write(path, b"another")
        with pytest.raises(NotFound, match="other content"):
            artifacts.content_path(settings, known)


class TestMany:
    """More rows than one statement of SQLite may have parameters."""

    COUNT = 1200

    def test_grids_are_pruned_and_discarded(self, store: Store) -> None:
        job = new_job(store)
        store.write(few_parameters)

        def add(connection: Connection) -> None:
            for step in range(self.COUNT):
                artifacts.add_sample(connection, sample_row(job, step, f"{step:064d}"))

        store.write(add)
        steps = range(0, self.COUNT, 2)
        assert len(store.write(lambda c: artifacts.prune_samples(c, job, steps))) == len(steps)
        store.write(lambda c: artifacts.discard_after(c, job, -1))
        assert store.read(lambda c: artifacts.samples(c, job, after=-1, limit=9)) == []
        with pytest.raises(NotFound):
            store.read(lambda c: artifacts.blob(c, f"{1:064d}", "p"))

    def test_checkpoints_are_pruned(self, store: Store) -> None:
        job = new_job(store)
        store.write(few_parameters)

        def add(connection: Connection) -> None:
            for step in range(self.COUNT):
                artifacts.add_checkpoint(connection, checkpoint_row(job, step))

        store.write(add)
        assert len(store.write(lambda c: artifacts.prune_checkpoints(c, job, range(self.COUNT)))) == self.COUNT

    def test_checkpoints_beyond_the_bound_are_no_longer_listed_unless_they_are_kept(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(artifacts, "MAX_CHECKPOINTS", 3)
        job = new_job(store)
        for step in range(6):
            row = checkpoint_row(job, step)
            row["status"] = artifacts.AVAILABLE if step == 0 else artifacts.PRUNED
            store.write(partial(artifacts.add_checkpoint, row=row))
        assert [row["step"] for row in store.read(lambda c: artifacts.checkpoints(c, job))] == [0, 3, 4, 5]
