"""The files of deleted jobs stay for the stated time, come back when asked for, and go for good afterwards."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from server.clock import now_ms
from server.errors import NotFound, NotReady
from server.ids import new_id
from server.ingest import deletion, retention, trash
from server.settings import Settings
from server.store import removals
from server.store.store import Store
from server.upkeep.adopt import Adoption, adopt, take_back
from tests.support.kept import add_run, forget, hashes

DAY_MS = 86_400_000


def discard(store: Store, settings: Settings) -> str:
    """A deleted job."""
    job_id = add_run(store, settings, name="mine")
    forget(store, job_id)
    store.write(lambda connection: removals.ask(connection, job_id))
    deletion.delete_files(store, settings, job_id)
    return job_id


def after(settings: Settings, days: float) -> None:
    """What the trash does so many days later."""
    trash.empty_old(settings, trash.contents(settings), now_ms() + round(days * DAY_MS))


def test_a_deleted_job_lies_in_the_trash_whole(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    before = hashes(settings.job_dir(job_id))
    assert trash.put(settings, job_id)
    assert not settings.job_dir(job_id).exists() and hashes(settings.trash / job_id) == before
    assert [each.job_id for each in trash.contents(settings)] == [job_id]


def test_a_finished_deletion_is_taken_off_the_list(store: Store, settings: Settings) -> None:
    discard(store, settings)
    assert store.read(removals.asked) == []


@pytest.mark.parametrize(("days", "kept"), [(6.9, True), (7.1, False)])
def test_it_goes_for_good_after_the_stated_days_and_not_before(
    store: Store, settings: Settings, days: float, kept: bool
) -> None:
    job_id = discard(store, settings)
    after(settings, days)
    assert (settings.trash / job_id).exists() is kept
    assert (settings.trash / f"{job_id}.json").exists() is kept


def test_without_a_note_of_the_time_the_days_count_from_the_move(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    (settings.trash / f"{job_id}.json").unlink()
    [found] = trash.contents(settings)
    assert found.deleted_at == (settings.trash / job_id).stat().st_ctime_ns // 1_000_000
    after(settings, 6.9)
    assert (settings.trash / job_id).exists()
    after(settings, 7.1)
    assert not (settings.trash / job_id).exists()


def test_looking_into_the_trash_writes_nothing(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    (settings.trash / f"{job_id}.json").unlink()
    trash.contents(settings)
    assert [path.name for path in settings.trash.iterdir()] == [job_id]


@pytest.mark.parametrize("days", [-365, 365])
def test_a_clock_that_was_set_deletes_nothing_at_once(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    job_id = discard(store, settings)
    retention.apply(store, settings)  # so far time was counted
    later = now_ms() + days * DAY_MS
    for clock in ("now_ms", "wall_ms"):
        monkeypatch.setattr(retention, clock, lambda: later)
    for _ in range(5):
        retention.apply(store, settings)
    assert (settings.trash / job_id).exists()


def test_a_job_deleted_after_a_year_without_any_goes_after_the_stated_days(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash.empty(settings, [discard(store, settings)], why="asked")
    first = discard(store, settings)
    retention.apply(store, settings)
    trash.empty(settings, [first], why="asked")
    retention.apply(store, settings)  # from here on nothing is in the trash
    next_year = now_ms() + 365 * DAY_MS
    for module in (retention, trash):
        monkeypatch.setattr(module, "now_ms", lambda: next_year)
    monkeypatch.setattr(retention, "wall_ms", lambda: next_year)
    job_id = discard(store, settings)
    retention.apply(store, settings)
    assert store.read(retention._seen) == next_year and (settings.trash / job_id).exists()


def test_a_disk_that_is_short_of_space_costs_the_oldest_first(store: Store, settings: Settings) -> None:
    first, second = discard(store, settings), discard(store, settings)
    (settings.trash / f"{first}.json").write_text('{"deleted_at": 1}')
    assert trash.empty_oldest(settings)
    assert [each.job_id for each in trash.contents(settings)] == [second]
    assert trash.empty_oldest(settings) and not trash.empty_oldest(settings)


def test_what_cannot_be_deleted_holds_up_neither_the_rest_nor_the_pausing_of_jobs(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = discard(store, settings), discard(store, settings)
    (settings.trash / f"{stuck}.json").write_text('{"deleted_at": 1}')
    delete = shutil.rmtree

    def delete_others(path: Path, **options: bool) -> None:
        if path.name != stuck:
            delete(path, **options)

    monkeypatch.setattr(shutil, "rmtree", delete_others)
    assert trash.empty_oldest(settings) and not trash.empty_oldest(settings)
    assert [each.job_id for each in trash.contents(settings)] == [stuck] != [other]
    assert trash.empty(settings, [stuck], why="asked") == [stuck]


def test_a_job_that_a_backup_brought_back_can_be_deleted_again(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    shutil.copytree(settings.trash / job_id, settings.job_dir(job_id))
    (settings.job_dir(job_id) / "newer").write_text("")
    assert trash.put(settings, job_id)
    assert not settings.job_dir(job_id).exists() and (settings.trash / job_id / "newer").exists()


def test_files_in_the_trash_replace_none_in_jobs(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    shutil.copytree(settings.trash / job_id, settings.job_dir(job_id))
    with pytest.raises(NotReady, match="is there already"):
        trash.take_back(settings, job_id)
    assert (settings.trash / job_id).exists()


def test_zero_days_keep_nothing(store: Store, settings: Settings) -> None:
    rules = settings.model_copy(update={"trash_days": 0})
    job_id = discard(store, rules)
    assert not settings.job_dir(job_id).exists() and list(settings.trash.iterdir()) == []


def test_what_is_taken_back_is_a_job_again(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    before = hashes(settings.trash / job_id)
    trash.take_back(settings, job_id)
    assert adopt(store, settings, [job_id]) == [Adoption(job_id, "succeeded", None)]
    assert hashes(settings.job_dir(job_id)) == before and trash.contents(settings) == []


@pytest.mark.parametrize("name", ["job_01m8g71frsen6s7j7v15h73g7q", "..", "../jobs", "x"])
def test_what_is_not_in_the_trash_is_refused_and_nothing_else_is_deleted(
    store: Store, settings: Settings, name: str
) -> None:
    job_id = discard(store, settings)
    with pytest.raises(NotFound, match="in the trash"):
        trash.empty(settings, [job_id, name], why="asked")
    with pytest.raises(NotFound, match="in the trash"):
        trash.take_back(settings, name)
    assert (settings.trash / job_id).exists()


def test_a_deletion_whose_files_are_gone_already_is_finished(store: Store, settings: Settings) -> None:
    assert trash.put(settings, new_id("job"))
    assert trash.contents(settings) == []


@pytest.mark.parametrize(
    "note", ["", "[" * 100_000, '{"deleted_at": 1e999}', '{"deleted_at": -5}', '{"deleted_at": 1' + "0" * 30 + "}"]
)
def test_a_note_that_names_no_time_counts_as_none(store: Store, settings: Settings, note: str) -> None:
    job_id = discard(store, settings)
    (settings.trash / f"{job_id}.json").write_text(note)
    [found] = trash.contents(settings)
    assert abs(found.deleted_at - now_ms()) < DAY_MS


def test_to_look_into_the_trash_writes_nothing(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    (settings.trash / f"{job_id}.json").unlink()
    before = sorted(settings.trash.iterdir())
    trash.contents(settings)
    assert sorted(settings.trash.iterdir()) == before


def test_what_cannot_be_deleted_keeps_nothing_else_in_the_trash(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, _ = discard(store, settings), discard(store, settings)
    (settings.trash / f"{stuck}.json").write_text('{"deleted_at": 1}')
    delete = shutil.rmtree
    monkeypatch.setattr(
        shutil, "rmtree", lambda path, **options: None if Path(path).name == stuck else delete(path, **options)
    )
    assert trash.empty_oldest(settings)
    assert [each.job_id for each in trash.contents(settings)] == [stuck]
    assert not trash.empty_oldest(settings)  # so that the caller does something else
    assert trash.empty(settings, [stuck], why="asked") == [stuck]


def test_a_link_in_the_trash_goes_and_what_it_leads_to_stays(store: Store, settings: Settings, tmp_path: Path) -> None:
    job_id = add_run(store, settings)
    settings.job_dir(job_id).rename(tmp_path / "elsewhere")
    settings.job_dir(job_id).symlink_to(tmp_path / "elsewhere")
    assert trash.put(settings, job_id) and not os.path.lexists(settings.job_dir(job_id))
    assert trash.empty(settings, [job_id], why="asked") == []
    assert trash.contents(settings) == [] and hashes(tmp_path / "elsewhere")


def test_a_job_that_came_back_can_be_deleted_again(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    shutil.copytree(settings.trash / job_id, settings.job_dir(job_id))
    (settings.job_dir(job_id) / "run" / "log.txt").write_text("of the second life")
    adopt(store, settings)
    forget(store, job_id)
    store.write(lambda connection: removals.ask(connection, job_id))
    deletion.delete_files(store, settings, job_id)
    assert not settings.job_dir(job_id).exists() and store.read(removals.asked) == []
    assert (settings.trash / job_id / "run" / "log.txt").read_text() == "of the second life"


def test_jobs_on_another_file_system_come_into_the_trash_too(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, rename = add_run(store, settings), os.rename
    before = hashes(settings.job_dir(job_id))

    def within_one_file_system(old: Path, new: Path) -> None:
        if old.parent != new.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(old, new)

    monkeypatch.setattr(os, "rename", within_one_file_system)
    assert trash.put(settings, job_id)
    assert not settings.job_dir(job_id).exists() and hashes(settings.trash / job_id) == before
    trash.take_back(settings, job_id)
    assert hashes(settings.job_dir(job_id)) == before and trash.contents(settings) == []


def test_files_that_are_there_are_not_replaced_by_those_of_the_trash(store: Store, settings: Settings) -> None:
    job_id = discard(store, settings)
    settings.job_dir(job_id).mkdir(parents=True)
    with pytest.raises(NotReady, match=f"jobs/{job_id} is there already"):
        take_back(store, settings, job_id)
    assert [each.job_id for each in trash.contents(settings)] == [job_id]


def test_the_files_of_a_job_whose_row_was_restored_come_back_to_it(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    trash.put(settings, job_id)
    assert take_back(store, settings, job_id) == Adoption(job_id, "succeeded", None)
    assert settings.job_dir(job_id).is_dir()


def test_a_start_deletes_no_job_that_was_deleted_and_made_again(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    forget(store, job_id)
    store.write(lambda connection: removals.ask(connection, job_id))  # a deletion whose files could not be moved
    assert adopt(store, settings) == []  # only by its name: somebody wanted it to go
    assert adopt(store, settings, [job_id]) == [Adoption(job_id, "succeeded", None)]
    before = hashes(settings.job_dir(job_id))
    deletion.complete(store, settings)
    assert hashes(settings.job_dir(job_id)) == before and store.read(removals.asked) == []


def test_a_deletion_on_the_list_moves_no_files_of_a_job_with_a_row(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    store.write(lambda connection: removals.ask(connection, job_id))  # as a database of an earlier version may have it
    deletion.complete(store, settings)
    assert settings.job_dir(job_id).is_dir()


def test_only_what_a_move_put_aside_is_deleted_at_the_start(store: Store, settings: Settings) -> None:
    left, others = settings.job_dir(f".{new_id('job')}.tmp"), settings.job_dir(".mine.tmp")
    for directory in (left, others):
        directory.mkdir(parents=True)
    deletion.complete(store, settings)
    assert not left.exists() and others.exists()
