"""A backup of a running service is complete, or says that it is not, and can be restored."""

import errno
import json
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gan_mhe.errors import StorageError
from server import data_directory, startup
from server.errors import DatabaseDamaged, StartRefused
from server.ids import new_id
from server.settings import Settings
from server.store import keys
from server.store import sqlite as database
from server.store.store import Store
from server.upkeep import backup, copying, doctor, restore, salvage
from tests.support.kept import add_run, change_ids_in_index, forget, hashes, job, overwrite_page


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "backup"


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path) -> Settings:
    """Another, empty data directory."""
    return settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})


def jobs(settings: Settings) -> list[str]:
    with sqlite3.connect(settings.database) as database:
        found = [row[0] for row in database.execute("SELECT id FROM jobs ORDER BY id")]
    database.close()
    return found


def test_a_backup_of_an_open_database_brings_all_back_elsewhere(
    store: Store, settings: Settings, target: Path, elsewhere: Settings
) -> None:
    job_id = add_run(store, settings, name="mine")
    keys.create(store, "ann", "default", ["admin"])
    settings.keys_required.touch()
    made = backup.back_up(settings, target)
    assert (made.jobs, made.files) == (1, len(hashes(target)) - 1)  # the manifest does not count itself
    restored = restore.from_backup(elsewhere, target)
    assert (restored.aside, restored.jobs, restored.adopted, restored.copied) == (None, 1, [], [job_id])
    assert hashes(elsewhere.job_dir("")) == hashes(settings.job_dir(""))
    again = Store(elsewhere.database)
    assert job(again, job_id) == job(store, job_id)
    assert [key["name"] for key in keys.listing(again)] == ["ann"] and elsewhere.keys_required.exists()
    again.close()


def test_a_restored_older_backup_takes_newer_runs_back_in_and_sets_the_newer_database_aside(
    store: Store, settings: Settings, target: Path
) -> None:
    old = add_run(store, settings)
    backup.back_up(settings, target)
    new = add_run(store, settings, name="later")
    files = hashes(settings.job_dir(""))
    store.close()
    restored = restore.from_backup(settings, target)
    assert jobs(settings) == sorted([old, new])
    assert [(each.job_id, each.state) for each in restored.adopted] == [(new, "succeeded")]
    assert hashes(settings.job_dir("")) == files
    assert restored.aside is not None and restored.aside.is_relative_to(settings.data_dir)
    with sqlite3.connect(restored.aside / "service.sqlite3") as aside:
        assert aside.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    aside.close()


def test_a_restore_that_was_cut_short_can_be_repeated(
    store: Store, settings: Settings, target: Path, elsewhere: Settings
) -> None:
    job_id = add_run(store, settings)
    backup.back_up(settings, target)
    shutil.copytree(target / "jobs" / job_id / "attempts", elsewhere.job_dir(f".{job_id}.tmp") / "attempts")
    assert restore.from_backup(elsewhere, target).copied == [job_id]
    assert hashes(elsewhere.job_dir("")) == hashes(settings.job_dir(""))


def test_files_that_are_here_are_not_replaced_by_those_of_the_backup(
    store: Store, settings: Settings, target: Path
) -> None:
    job_id = add_run(store, settings)
    backup.back_up(settings, target)
    (settings.job_dir(job_id) / "run" / "log.txt").write_text("newer")
    store.close()
    restore.from_backup(settings, target)
    assert (settings.job_dir(job_id) / "run" / "log.txt").read_text() == "newer"


def test_a_directory_that_is_not_empty_is_refused(store: Store, settings: Settings, target: Path) -> None:
    target.mkdir()
    (target / "note").write_text("mine")
    with pytest.raises(StartRefused, match="expected an empty directory"):
        backup.back_up(settings, target)
    assert hashes(target).keys() == {"note"}


def test_nothing_to_back_up_is_refused(settings: Settings, target: Path) -> None:
    with pytest.raises(StartRefused, match="there is no database"):
        backup.back_up(settings, target)
    assert not target.exists()


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_a_damaged_backup_is_refused_and_nothing_is_changed(
    store: Store, settings: Settings, target: Path, harm: str
) -> None:
    job_id = add_run(store, settings)
    backup.back_up(settings, target)
    store.close()
    file = target / "jobs" / job_id / "run" / "log.txt"
    file.unlink() if harm == "missing" else file.write_text("changed")
    before = hashes(settings.data_dir)
    with pytest.raises(StartRefused, match=rf"is damaged: jobs/{job_id}/run/log.txt; nothing was changed"):
        restore.from_backup(settings, target)
    assert hashes(settings.data_dir) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a complete backup: it has no backup.json"),
        ("{", "cannot be read"),
        ('{"format": 99}', "has format 99; this version reads 1"),
        ('{"format": 1, "files": 3}', "cannot be read"),
    ],
)
def test_a_directory_without_a_readable_manifest_is_refused(
    settings: Settings, target: Path, content: str | None, message: str
) -> None:
    target.mkdir()
    if content is not None:
        (target / "backup.json").write_text(content)
    with pytest.raises(StartRefused, match=message):
        restore.from_backup(settings, target)


def test_nothing_is_restored_under_a_running_server(store: Store, settings: Settings, target: Path) -> None:
    add_run(store, settings)
    backup.back_up(settings, target)
    before = hashes(settings.job_dir(""))
    with data_directory.locked(settings.data_dir):
        for way in (
            lambda: restore.from_backup(settings, target),
            lambda: restore.from_damaged(settings),
            lambda: restore.from_runs(settings),
        ):
            with pytest.raises(StartRefused, match="in use by another server"):
                way()
    assert hashes(settings.job_dir("")) == before and len(jobs(settings)) == 1


def test_a_damaged_database_makes_no_backup_that_looks_whole(store: Store, settings: Settings, target: Path) -> None:
    add_run(store, settings)
    store.tidy()
    store.close()
    change_ids_in_index(settings.database)
    with pytest.raises(DatabaseDamaged):
        backup.back_up(settings, target)
    with pytest.raises(StartRefused, match="not a complete backup"):
        restore.from_backup(settings, target)


def flip_a_bit_of_every_id(settings: Settings) -> None:
    """Change the ids in the index of `jobs`, so that it disagrees with the table."""
    with sqlite3.connect(settings.database) as database:
        [page] = database.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_jobs_1'"
        ).fetchone()
        [size] = database.execute("PRAGMA page_size").fetchone()
    database.close()
    content = bytearray(settings.database.read_bytes())
    start, end = (page - 1) * size, page * size
    content[start:end] = content[start:end].replace(b"job_0", b"job_1")
    settings.database.write_bytes(content)


def test_a_database_lost_without_a_backup_is_made_again_from_the_runs(store: Store, settings: Settings) -> None:
    first, second = add_run(store, settings, name="a"), add_run(store, settings, name="b")
    store.close()
    settings.database.unlink()
    restored = restore.from_runs(settings)
    assert restored.jobs == 2 and {each.job_id for each in restored.adopted} == {first, second}


def test_a_damaged_index_costs_nothing_when_the_database_is_salvaged(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings, name="a")
    token = keys.create(store, "ann", "default", ["admin"])
    before = job(store, job_id)
    store.tidy()
    store.close()
    change_ids_in_index(settings.database)
    restored = restore.from_damaged(settings)
    again = Store(settings.database)
    assert (restored.damaged_tables, restored.adopted) == ([], [])
    assert job(again, job_id) == before and again.examine() and again.damage is None
    assert again.read(lambda connection: keys.verify(connection, token)) is not None
    again.close()


def test_a_damaged_page_costs_its_rows_and_the_runs_come_back(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings, name="a")
    token = keys.create(store, "ann", "default", ["admin"])
    store.tidy()
    store.close()
    overwrite_page(settings.database, "jobs")
    restored = restore.from_damaged(settings)
    again = Store(settings.database)
    assert "jobs" in restored.damaged_tables
    assert [(each.job_id, each.state) for each in restored.adopted] == [(job_id, "succeeded")]
    assert job(again, job_id)["name"] == "a"
    assert again.read(lambda connection: keys.verify(connection, token)) is not None
    again.close()


def test_a_file_that_vanishes_while_it_is_copied_is_left_out(
    store: Store, settings: Settings, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.upkeep import copying

    job_id = add_run(store, settings)
    gone = settings.job_dir(job_id) / "run" / "log.txt"
    copy = copying.copy_file

    def copy_late(source: Path, to: Path) -> str:
        if source == gone:
            gone.unlink()
        return copy(source, to)

    monkeypatch.setattr(copying, "copy_file", copy_late)
    backup.back_up(settings, target)
    files = json.loads((target / "backup.json").read_text())["files"]
    assert f"jobs/{job_id}/run/log.txt" not in files and f"jobs/{job_id}/run/events.jsonl" in files
    assert backup.damaged_files(target, backup.read(target)) == []


def test_forgotten_rows_are_adopted_again_from_a_backup_that_has_only_files(
    store: Store, settings: Settings, target: Path, elsewhere: Settings
) -> None:
    job_id = add_run(store, settings)
    forget(store, job_id)
    backup.back_up(settings, target)
    restored = restore.from_backup(elsewhere, target)
    assert [each.job_id for each in restored.adopted] == [job_id]
    shutil.rmtree(target)


def test_what_is_no_plain_file_is_named_and_stops_no_backup(
    store: Store, settings: Settings, target: Path, tmp_path: Path
) -> None:
    job_id = add_run(store, settings)
    run = settings.job_dir(job_id) / "run"
    run.rename(tmp_path / "large")
    run.symlink_to(tmp_path / "large")
    os.mkfifo(settings.job_dir(job_id) / "pipe")
    settings.job_dir(new_id("job")).write_text("no directory")
    made = backup.back_up(settings, target)
    assert made.left_out == [f"jobs/{job_id}/pipe", f"jobs/{job_id}/run"]


def test_a_backup_into_the_directory_that_it_copies_is_refused(store: Store, settings: Settings) -> None:
    job_id = add_run(store, settings)
    inside = settings.job_dir(job_id) / "backup"
    with pytest.raises(StartRefused, match="outside of what is copied"):
        backup.back_up(settings, inside)
    assert not inside.exists()


def test_a_backup_without_the_volume_of_the_jobs_is_refused(store: Store, settings: Settings, target: Path) -> None:
    add_run(store, settings)
    shutil.rmtree(settings.job_dir(""))
    settings.job_dir("").symlink_to("/nonexistent/volume")
    with pytest.raises(StartRefused, match="no file of the 1 jobs that ran: is their volume mounted"):
        backup.back_up(settings, target)
    with pytest.raises(StartRefused, match="not a complete backup"):
        backup.read(target)


def test_a_start_without_the_volume_of_the_jobs_says_so(
    store: Store, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(store, settings)
    settings.job_dir("").rename(settings.data_dir / "elsewhere")
    startup.mend(store, settings)
    assert "files_of_jobs_missing" in capsys.readouterr().out


def test_a_full_disk_makes_no_backup_that_looks_whole(
    store: Store, settings: Settings, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(store, settings)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying.os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot copy .* to .*: No space left on device"):
        backup.back_up(settings, target)
    with pytest.raises(StartRefused, match="not a complete backup"):
        backup.read(target)


def test_a_restore_that_was_cut_short_is_repeated(
    store: Store, settings: Settings, target: Path, elsewhere: Settings
) -> None:
    job_id = add_run(store, settings)
    backup.back_up(settings, target)
    half = elsewhere.job_dir(f".{job_id}.tmp") / "run" / "config.json"
    half.parent.mkdir(parents=True)
    half.write_text("{")
    restore.from_backup(elsewhere, target)
    assert hashes(elsewhere.job_dir("")) == hashes(settings.job_dir(""))


def test_a_backup_of_a_newer_version_changes_nothing(
    store: Store, settings: Settings, target: Path, elsewhere: Settings
) -> None:
    add_run(store, settings)
    store.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    backup.back_up(settings, target)
    with pytest.raises(StartRefused, match=r"has schema '9999', which this version does not know.*Nothing was changed"):
        restore.from_backup(elsewhere, target)
    assert not elsewhere.data_dir.exists()


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"service.sqlite3": "0", "jobs/../victim/file": "0"},
        {"service.sqlite3": "0", "/etc/passwd": "0"},
        {"service.sqlite3": "0", "jobs/job_01m8g71frsen6s7j7v15h73g7q/../../x": "0"},
    ],
)
def test_a_manifest_names_files_of_jobs_alone(
    store: Store, settings: Settings, target: Path, elsewhere: Settings, files: dict[str, str]
) -> None:
    backup.back_up(settings, target)
    manifest = json.loads((target / "backup.json").read_text())
    (target / "backup.json").write_text(json.dumps({**manifest, "files": files}))
    with pytest.raises(StartRefused, match=r"cannot be read: .*expected"):
        restore.from_backup(elsewhere, target)
    assert not elsewhere.data_dir.exists()


def test_a_restore_cut_short_before_the_new_database_was_in_place_says_where_the_old_one_is(
    store: Store, settings: Settings
) -> None:
    add_run(store, settings)
    store.close()
    aside = restore._move_aside(settings)
    for way in (lambda: startup.open_service(settings), lambda: restore.from_damaged(settings)):
        with pytest.raises(StartRefused, match=f"{aside}"):
            way()


def test_the_log_of_a_database_is_set_aside_with_it_even_if_a_restore_was_cut_short_between_them(
    store: Store, settings: Settings
) -> None:
    store.close()
    log = settings.database.with_name("service.sqlite3-wal")
    restore._move_aside(settings)
    log.write_bytes(b"frames")
    assert restore.from_runs(settings).aside is not None
    [aside] = (settings.data_dir / "replaced").iterdir()
    assert {path.name for path in aside.iterdir()} >= {"service.sqlite3", "service.sqlite3-wal"}


def test_a_salvage_onto_a_full_disk_fails_and_leaves_the_database_in_place(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        keys.create(store, f"{number}" * 40, "default", ["admin"])
    store.tidy()
    store.close()
    before = settings.database.read_bytes()
    writer_engine = database.writer_engine

    def small(path: Path) -> Any:
        engine = writer_engine(path)
        with engine.connect() as connection:  # the one connection of this engine
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            if pages > 1:  # migrated
                connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}")
        return engine

    monkeypatch.setattr(salvage.sqlite, "writer_engine", small)
    with pytest.raises(StorageError, match="cannot write the new database: database or disk is full"):
        salvage.salvage(settings.database, settings.data_dir / "new.sqlite3")
    assert settings.database.read_bytes() == before


def test_the_doctor_says_when_the_database_cannot_be_written(
    store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.data_dir.chmod(0o700)
    monkeypatch.setattr(os, "access", lambda path, mode: path != settings.database)
    amiss = [finding for finding in doctor.examine(store, settings, hashes=False) if not finding.well]
    assert [finding.text for finding in amiss] == ["this user cannot write the database"]
