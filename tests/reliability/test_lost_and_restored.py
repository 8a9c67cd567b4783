"""The database replaced under real processes: what was trained is there again, each run in one job."""

from pathlib import Path

from server.settings import Settings
from server.upkeep import backup, restore
from tests.support.audit import audit
from tests.support.kept import hashes
from tests.support.server_process import Server

STEPS = 60


def settings_of(server: Server) -> Settings:
    return Settings(data_dir=server.data_dir)


def trained(server: Server) -> dict[str, str]:
    """The files of all runs that their runs do not write again."""
    found = hashes(server.data_dir / "jobs")
    return {path: sha256 for path, sha256 in found.items() if "/checkpoints/" in path or "/samples/" in path}


def test_a_backup_of_a_running_job_restored_after_its_end_knows_the_end_and_takes_later_jobs_in(
    server: Server, tmp_path: Path
) -> None:
    server.start()
    first = server.submit(STEPS, name="first")
    server.wait_for(first, "running", step=15)
    backup.back_up(settings_of(server), tmp_path / "backup")
    server.wait_for(first, "succeeded")
    later = server.submit(20, name="later")
    server.wait_for(later, "succeeded")
    server.kill()
    before = trained(server)
    restored = restore.from_backup(settings_of(server), tmp_path / "backup")
    assert [each.job_id for each in restored.adopted] == [later]
    server.start()
    job = server.wait_for(first, "succeeded")
    assert job["attempt"]["number"] == 1, "it was trained again"
    assert server.job(later)["state"] == "succeeded" and server.job(later)["name"] == "later"
    assert trained(server) == before
    audit(server)


def test_a_server_killed_without_its_log_of_writes_leaves_a_run_that_can_be_adopted(server: Server) -> None:
    server.start()
    job_id = server.submit(STEPS, name="mine")
    server.wait_for(job_id, "running", step=25)
    supervisor, trainer = server.pids(job_id)
    server.kill()
    server.kill_all(trainer, supervisor)
    for part in ("", "-wal", "-shm"):
        server.data_dir.joinpath(f"service.sqlite3{part}").unlink(missing_ok=True)
    before = trained(server)
    [adoption] = restore.from_runs(settings_of(server)).adopted
    assert (adoption.job_id, adoption.state) == (job_id, "paused")
    server.start()
    server.act(job_id, "resume")
    job = server.wait_for(job_id, "succeeded")
    assert (job["attempt"]["number"], job["name"]) == (2, "mine")
    rows = server.rows("SELECT resumed_from_step FROM attempts WHERE job_id = ?", job_id)
    assert all(row["resumed_from_step"] >= 20 for row in rows) and len(rows) == 1
    grids = {path: sha256 for path, sha256 in before.items() if "/samples/" in path}
    assert grids and grids.items() <= trained(server).items()
    audit(server)
