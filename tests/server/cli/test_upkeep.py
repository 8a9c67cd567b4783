"""Backup, restore, adopt, doctor and trash from the command line."""

import shutil
from pathlib import Path

import pytest

from server.ids import new_id
from server.settings import Settings
from server.store import keys
from server.store.store import Store
from tests.server.cli.test_operator import Command, gan_mhe
from tests.support.kept import add_run, change_ids_in_index, forget, overwrite_page

__all__ = ["gan_mhe"]


@pytest.fixture
def data(tmp_path: Path, migrated_database: Path) -> Settings:
    """The default data directory of the command, with a migrated database."""
    settings = Settings(data_dir=tmp_path / "gan-mhe-data")
    settings.data_dir.mkdir(mode=0o700)
    shutil.copyfile(migrated_database, settings.database)
    return settings


@pytest.fixture
def job_id(data: Settings) -> str:
    """A job with the files of a run; the database is closed."""
    store = Store(data.database)
    made = add_run(store, data, name="mine")
    store.tidy()
    store.close()
    return made


def test_a_backup_is_made_and_restored(gan_mhe: Command, data: Settings, job_id: str, tmp_path: Path) -> None:
    code, out, err = gan_mhe("backup", "kept")
    assert (code, err) == (0, "") and out.startswith("1 jobs, ") and out.rstrip().endswith("are in kept")
    shutil.rmtree(data.data_dir)
    code, out, err = gan_mhe("restore", "kept")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["the database has 1 jobs and tasks", "1 directories of jobs came from the backup"]
    assert (data.job_dir(job_id) / "run" / "result.json").exists()


@pytest.mark.parametrize("arguments", [(), ("kept", "--salvage"), ("--salvage", "--from-runs")])
def test_restore_needs_exactly_one_source(gan_mhe: Command, arguments: tuple[str, ...]) -> None:
    code, _, err = gan_mhe("restore", *arguments)
    assert code == 2 and "expected one of BACKUP, --salvage and --from-runs" in err


def test_a_lost_database_is_made_again_and_says_where_the_old_one_is(
    gan_mhe: Command, data: Settings, job_id: str
) -> None:
    overwrite_page(data.database, "jobs")
    code, out, _ = gan_mhe("restore", "--from-runs")
    assert code == 0 and f"{job_id} is back: succeeded" in out and "the replaced database is in" in out
    assert list((data.data_dir / "replaced").glob("*/service.sqlite3"))


def test_a_damaged_database_is_salvaged(gan_mhe: Command, data: Settings, job_id: str) -> None:
    change_ids_in_index(data.database)
    code, out, _ = gan_mhe("restore", "--salvage")
    assert code == 0 and "the database has 1 jobs and tasks" in out and "could not be read whole" not in out


def test_adopt_names_what_came_back_and_what_stays(gan_mhe: Command, data: Settings, job_id: str) -> None:
    store = Store(data.database)
    forget(store, job_id)
    store.close()
    empty = new_id("job")
    data.job_dir(empty).mkdir()
    code, out, _ = gan_mhe("adopt")
    assert code == 0
    assert set(out.splitlines()) == {
        f"{job_id} is back: succeeded",
        f"{empty} stays: it has no run: nothing was trained yet",
    }
    assert gan_mhe("adopt", job_id)[0] == 1


def test_without_a_database_no_command_makes_an_empty_one(gan_mhe: Command, data: Settings, job_id: str) -> None:
    data.database.unlink()
    for command in (("adopt",), ("keys", "create", "ann", "--scope", "admin"), ("doctor",), ("backup", "kept")):
        code, _, err = gan_mhe(*command)
        assert code == 1 and err
    code, _, err = gan_mhe("keys", "list")
    assert code == 1 and "gan-mhe restore --from-runs" in err


def test_the_doctor_finds_nothing_in_a_sound_service(gan_mhe: Command, data: Settings, job_id: str) -> None:
    code, out, err = gan_mhe("doctor", "--hashes")
    assert (code, err) == (0, ""), out
    assert [line.split()[0] for line in out.splitlines()] == ["ok"] * 9


@pytest.mark.parametrize(
    ("harm", "subject"),
    [
        ("index", "database"),
        ("row", "directories"),
        ("file", "files"),
        ("bit", "hashes"),
        ("mode", "permissions"),
        ("schema", "schema"),
    ],
)
def test_the_doctor_names_what_is_amiss_and_what_to_do(
    gan_mhe: Command, data: Settings, job_id: str, harm: str, subject: str
) -> None:
    [tensors] = (data.job_dir(job_id) / "run" / "checkpoints").glob("*/tensors.safetensors")
    if harm == "index":
        change_ids_in_index(data.database)
    elif harm == "mode":
        data.data_dir.chmod(0o755)
    elif harm == "file":
        tensors.unlink()
    elif harm == "bit":
        content = bytearray(tensors.read_bytes())
        content[-1] ^= 1
        tensors.write_bytes(content)
    else:
        store = Store(data.database)
        if harm == "row":
            forget(store, job_id)
        else:
            store.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0'"))
        store.close()
    code, out, _ = gan_mhe("doctor", "--hashes")
    lines = out.splitlines()
    assert code == 1
    [amiss] = [number for number, line in enumerate(lines) if line.split()[:2] == ["AMISS", subject]]
    assert lines[amiss + 1].lstrip().startswith("-> ")


def test_the_trash_is_listed_given_back_and_emptied(gan_mhe: Command, data: Settings, job_id: str) -> None:
    from server.ingest import trash

    store = Store(data.database)
    forget(store, job_id)
    store.close()
    trash.put(data, job_id)
    assert job_id in gan_mhe("trash", "list")[1]
    assert gan_mhe("trash", "restore", job_id)[1] == f"{job_id} is back: succeeded\n"
    trash.put(data, job_id)
    assert gan_mhe("trash", "empty")[0] == 0
    assert not (data.trash / job_id).exists()


def test_a_key_that_was_created_is_required_whatever_happens_to_the_database(gan_mhe: Command, data: Settings) -> None:
    assert gan_mhe("keys", "create", "ann", "--scope", "admin")[0] == 0
    assert data.keys_required.exists() and data.keys_required.stat().st_mode & 0o077 == 0
    store = Store(data.database)
    assert store.read(keys.exist)
    store.close()


def test_a_key_is_shown_even_if_the_note_of_it_cannot_be_written(gan_mhe: Command, data: Settings) -> None:
    data.keys_required.symlink_to(data.data_dir / "missing" / "file")
    code, out, err = gan_mhe("keys", "create", "ann", "--scope", "admin")
    assert code == 1 and out.startswith("gk_") and "keys-required" in err
