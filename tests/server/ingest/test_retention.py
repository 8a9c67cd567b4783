"""Retention: what goes, what always stays, and that no row names a file that is gone."""

import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from server.clock import now_ms
from server.ingest import retention
from server.queue import queue, removal
from server.queue.states import State
from server.settings import Settings
from server.store import artifacts, metric_points, tables
from server.store.store import Store

DAY_MS = 24 * 60 * 60 * 1000


class Job:
    """A job that has ended, with a grid and a checkpoint at some steps. best: the step of the best score."""

    def __init__(self, store: Store, settings: Settings, *, days_ago: float = 10, best: int | None = None) -> None:
        self.store, self.settings = store, settings
        new = queue.NewJob(project="p", request={}, request_sha256="0")
        ended = round(now_ms() - days_ago * DAY_MS)
        self.id: str = store.write(lambda c: queue.create(c, new, State.SUCCEEDED, finished_at=ended))["id"]
        self.run = artifacts.run_dir(settings, self.id)
        if best is not None:
            points = [(best, {"inception_score": 5.0}), (best + 1, {"inception_score": 1.0})]
            store.write(lambda c: metric_points.add(c, queue.get(c, self.id), 1, points))

    def draw(self, *steps: int) -> "Job":
        self.run.samples.mkdir(parents=True, exist_ok=True)
        for step in steps:
            self.run.sample(step).write_bytes(b"picture")
            row = self._row(step) | {"width": 1, "height": 1, "path": f"run/samples/step_{step:08d}.png"}
            self.store.write(lambda c, row=row: artifacts.add_sample(c, row))  # type: ignore[misc]
        return self

    def save(self, *steps: int) -> "Job":
        for step in steps:
            self.run.checkpoint(step).mkdir(parents=True)
            (self.run.checkpoint(step) / "manifest.json").write_text("{}")
            row = self._row(step) | {"status": "available", "path": f"run/checkpoints/step_{step:08d}"}
            self.store.write(lambda c, row=row: artifacts.add_checkpoint(c, row))  # type: ignore[misc]
        return self

    def _row(self, step: int) -> dict[str, Any]:
        sha256 = f"{step:064d}"
        return {"job_id": self.id, "step": step, "attempt": 1, "sha256": sha256, "size_bytes": 7, "created_at": 0}

    def becomes(self, state: State) -> None:
        self.store.write(
            lambda c: c.execute(update(tables.jobs).where(tables.jobs.c.id == self.id).values(state=state))
        )

    def grids(self) -> list[int]:
        """Steps with a picture, after a look at whether rows and files say the same."""
        rows = self.store.read(lambda c: artifacts.samples(c, self.id, after=-1, limit=10**6))
        kept = [row for row in rows if row["pruned_at"] is None]
        blobs = self.store.read(lambda c: c.execute(select(tables.blobs.c.path)).scalars().all())
        files = {path.name for path in self.run.samples.glob("*")}
        assert files == {row["path"].rsplit("/", 1)[1] for row in kept}
        assert set(blobs) >= {row["path"] for row in kept}
        return [row["step"] for row in kept]

    def checkpoints(self) -> list[int]:
        rows = self.store.read(lambda c: artifacts.checkpoints(c, self.id))
        kept = [row["step"] for row in rows if row["status"] == "available"]
        assert self.run.checkpoint_steps() == kept
        return kept


Configured = Callable[..., Settings]


@pytest.fixture
def configured(settings: Settings) -> Configured:
    """The settings with rules."""
    return lambda **rules: settings.model_copy(update=rules)


class TestGrids:
    def test_are_thinned_out_evenly(self, store: Store, configured: Configured) -> None:
        rules = configured(samples_per_job=5)
        job = Job(store, rules).draw(*range(0, 900, 100))
        retention.apply(store, rules)
        assert job.grids() == [0, 200, 400, 600, 800]

    def test_once_thinned_out_stay(self, store: Store, configured: Configured) -> None:
        rules = configured(samples_per_job=3)
        job = Job(store, rules).draw(0, 10, 20, 30, 40)
        retention.apply(store, rules)
        retention.apply(store, rules)
        assert job.grids() == [0, 20, 40]

    def test_first_and_last_stay_even_where_one_may(self, store: Store, configured: Configured) -> None:
        rules = configured(samples_per_job=1)
        job = Job(store, rules).draw(0, 10, 20)
        retention.apply(store, rules)
        assert job.grids() == [0, 20]

    def ahead(self, monkeypatch: pytest.MonkeyPatch, seconds: float, *clocks: str) -> None:
        """Both clocks, or one, from now on."""
        for name in clocks or ("now_ms", "wall_ms"):
            monkeypatch.setattr(retention, name, lambda: now_ms() + round(seconds * 1000))

    def test_a_clock_set_forward_by_a_year_deletes_nothing_at_once(
        self, store: Store, configured: Configured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules, days_ago=6.9).save(10, 20)
        retention.apply(store, rules)
        self.ahead(monkeypatch, 365 * 86400)
        for _ in range(10):
            retention.apply(store, rules)
        assert job.checkpoints() == [10, 20]
        for _ in range(10):
            retention.apply(store, rules)
        assert job.checkpoints() == [20]

    @pytest.mark.parametrize("clock", ["now_ms", "wall_ms"])
    def test_one_clock_that_runs_ahead_deletes_nothing(
        self, store: Store, configured: Configured, monkeypatch: pytest.MonkeyPatch, clock: str
    ) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules, days_ago=6.9).save(10, 20)
        self.ahead(monkeypatch, 86400, clock)
        for _ in range(300):
            retention.apply(store, rules)
        assert job.checkpoints() == [10, 20]

    def test_a_clock_set_back_only_delays(
        self, store: Store, configured: Configured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rules = configured(checkpoint_days=7)
        retention.apply(store, rules)
        job = Job(store, rules, days_ago=7.1).save(10, 20)
        self.ahead(monkeypatch, -7200)
        retention.apply(store, rules)
        self.ahead(monkeypatch, 0)
        retention.apply(store, rules)
        assert job.checkpoints() == [20]

    def test_all_stay_without_a_rule(self, store: Store, configured: Configured) -> None:
        job = Job(store, configured()).draw(*range(50))
        retention.apply(store, configured())
        assert job.grids() == list(range(50))

    def test_of_a_job_under_way_stay(self, store: Store, configured: Configured) -> None:
        rules = configured(samples_per_job=2)
        job = Job(store, rules).draw(0, 10, 20)
        job.becomes(State.RUNNING)
        retention.apply(store, rules)
        assert job.grids() == [0, 10, 20]

    def test_with_equal_content_keep_a_file(self, store: Store, configured: Configured) -> None:
        rules = configured(samples_per_job=2)
        job = Job(store, rules).draw(0, 10, 20)
        same = update(tables.samples).values(sha256="a" * 64)
        store.write(lambda c: c.execute(same))
        store.write(lambda c: artifacts.add_blob(c, job.id, "a" * 64, "run/samples/step_00000010.png", "image/png", 7))
        retention.apply(store, rules)
        row = store.read(lambda c: artifacts.blob(c, "a" * 64, "p"))
        assert artifacts.blob_path(rules, row).is_file()

    @given(steps=st.lists(st.integers(0, 10**6), min_size=3, unique=True).map(sorted), data=st.data())
    def test_kept_are_as_many_as_may_with_first_and_last(self, steps: Sequence[int], data: st.DataObject) -> None:
        keep = data.draw(st.integers(2, len(steps)))
        kept = retention.evenly(steps, keep)
        assert len(set(kept)) == keep
        assert (kept[0], kept[-1]) == (steps[0], steps[-1])
        distances = [steps.index(b) - steps.index(a) for a, b in pairwise(kept)]
        assert max(distances) - min(distances) <= 1


class TestCheckpoints:
    def test_all_but_the_last_and_the_best_go(self, store: Store, configured: Configured) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules, best=20).save(10, 20, 30, 40)
        retention.apply(store, rules)
        assert job.checkpoints() == [20, 40]

    def test_the_best_is_the_one_by_the_metric_that_the_result_names(
        self, store: Store, configured: Configured
    ) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules, best=20).save(10, 20, 30, 40)
        points = [(10, {"fid": 3.0}), (11, {"fid": 30.0})]
        store.write(lambda c: metric_points.add(c, queue.get(c, job.id), 1, points))
        named = update(tables.jobs).where(tables.jobs.c.id == job.id).values(result={"metric": "fid"})
        store.write(lambda c: c.execute(named))
        retention.apply(store, rules)
        assert job.checkpoints() == [10, 40]

    def test_of_a_job_that_was_never_scored_the_last_stays(self, store: Store, configured: Configured) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules).save(10, 20)
        retention.apply(store, rules)
        assert job.checkpoints() == [20]

    def test_stay_until_their_time(self, store: Store, configured: Configured) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules, days_ago=6.9).save(10, 20)
        retention.apply(store, rules)
        assert job.checkpoints() == [10, 20]

    def test_all_stay_without_a_rule(self, store: Store, configured: Configured) -> None:
        job = Job(store, configured(), days_ago=10_000).save(10, 20)
        retention.apply(store, configured())
        assert job.checkpoints() == [10, 20]

    def test_of_a_job_that_may_go_on_stay(self, store: Store, configured: Configured) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules).save(10, 20)
        job.becomes(State.PAUSED)
        retention.apply(store, rules)
        assert job.checkpoints() == [10, 20]

    @pytest.mark.parametrize("kind", ["fork", "task"])
    def test_that_others_are_to_work_on_stay(self, store: Store, configured: Configured, kind: str) -> None:
        rules = configured(checkpoint_days=7)
        job = Job(store, rules).save(10, 20, 30)
        (_, wanted, _) = store.read(lambda c: artifacts.checkpoints(c, job.id))
        source = {"job_id": job.id, "checkpoint_id": wanted["id"], "step": wanted["step"], "same_config": True}
        new = (
            queue.NewJob(project="p", request={}, request_sha256="1", forked_from=source)
            if kind == "fork"
            else queue.NewJob(project="p", request=source, request_sha256="1", kind="sample")
        )
        waiting = store.write(lambda c: queue.create(c, new))
        retention.apply(store, rules)
        assert job.checkpoints() == [20, 30]
        store.write(lambda c: queue.cancel(c, queue.get(c, waiting["id"])))
        retention.apply(store, rules)
        assert job.checkpoints() == [30]


class TestCrash:
    @pytest.fixture
    def cut_short(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Store, Settings], None]:
        """Apply the rules up to the first deletion of a file."""

        def apply(store: Store, rules: Settings) -> None:
            def die(_place: Any) -> None:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(retention, "_delete", die)
                retention.apply(store, rules)

        return apply

    def test_between_rows_and_files_leaves_no_row_without_a_file(
        self, store: Store, configured: Configured, cut_short: Callable[[Store, Settings], None]
    ) -> None:
        rules = configured(samples_per_job=2, checkpoint_days=7)
        job = Job(store, rules).draw(0, 10, 20).save(10, 20)
        cut_short(store, rules)
        assert len(list(job.run.samples.iterdir())) == 3
        for row in store.read(lambda c: artifacts.samples(c, job.id, after=-1, limit=9)):
            assert (row["pruned_at"] is not None) == (row["step"] == 10)
        retention.apply(store, configured())  # even where the rules are no more
        assert (job.grids(), job.checkpoints()) == ([0, 20], [20])

    def test_then_a_retry_keeps_what_it_writes_again(
        self, store: Store, configured: Configured, cut_short: Callable[[Store, Settings], None]
    ) -> None:
        rules = configured(samples_per_job=2)
        job = Job(store, rules).draw(0, 10, 20)
        cut_short(store, rules)
        job.becomes(State.RUNNING)
        retention.apply(store, rules)
        assert job.run.sample(10).exists()
        job.draw(10)
        job.becomes(State.FAILED)
        retention.apply(store, configured())
        assert job.grids() == [0, 10, 20]

    def test_then_a_deletion_of_the_job_leaves_nothing_to_do(
        self, store: Store, configured: Configured, cut_short: Callable[[Store, Settings], None]
    ) -> None:
        rules = configured(samples_per_job=2)
        job = Job(store, rules).draw(0, 10, 20)
        cut_short(store, rules)
        store.write(lambda c: removal.remove(c, queue.get(c, job.id)))
        shutil.rmtree(rules.job_dir(job.id))
        retention.apply(store, rules)
        keys = store.read(lambda c: c.execute(select(tables.service_state.c.key)).scalars().all())
        assert keys == [f"remove:{job.id}"]  # the deletion itself, which the next start completes
