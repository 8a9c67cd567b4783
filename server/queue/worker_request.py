"""The request that the worker of an attempt reads.

Job rows contain the operator's names for folders and files. Only this module turns the names into paths.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gan_mhe.config.documents import merge
from gan_mhe.errors import ConfigError
from server.executors.base import LaunchSpec, Slot
from server.queue.queue import TRAIN
from server.queue.tasks import SAMPLE
from server.settings import Settings
from server.store.rows import AttemptRow, JobRow


def attempt_dir(attempt: AttemptRow, settings: Settings) -> Path:
    """Return the directory for the files of an attempt's supervisor and worker."""
    return settings.job_dir(attempt["job_id"]) / "attempts" / str(attempt["number"])


def launch_spec(
    job: JobRow, attempt: AttemptRow, slot: Slot, settings: Settings, *, checkpoints: Collection[str]
) -> LaunchSpec:
    """Return everything that an executor needs to launch an attempt. Parameters and errors as for `worker_request`."""
    directory, limit = attempt_dir(attempt, settings), job["wall_seconds_limit"]
    return LaunchSpec(
        attempt_id=attempt["id"],
        job_id=job["id"],
        number=attempt["number"],
        epoch=attempt["epoch"],
        slot=slot,
        request=worker_request(job, settings, slot, directory, checkpoints=checkpoints),
        directory=directory,
        console=settings.job_dir(job["id"]) / "console.log",
        grace_seconds=settings.grace_seconds,
        lease_ttl_seconds=settings.lease_ttl_seconds,
        wall_seconds=None if limit is None else max(0.0, limit - job["wall_seconds_used"]),
    )


def worker_request(
    job: JobRow, settings: Settings, slot: Slot, directory: Path, *, checkpoints: Collection[str]
) -> dict[str, Any]:
    """Return the request of an attempt that runs in `directory`. All paths are absolute.

    checkpoints: the status of each of the job's checkpoints. With an available one the worker refuses to start from
    step 0; if all are rejected it sets them aside. Raises ConfigError if the operator no longer offers a folder or file
    that the job names.
    """
    if job["kind"] == TRAIN:
        return _training(job, settings, slot, directory, checkpoints)
    return _task(job, settings, slot, directory)


def _training(
    job: JobRow, settings: Settings, slot: Slot, directory: Path, checkpoints: Collection[str]
) -> dict[str, Any]:
    source, has_checkpoint = job["forked_from"], "available" in checkpoints
    fork = None
    if source is not None and not has_checkpoint:
        fork = {
            "run_dir": str(_run_dir(settings, source["job_id"])),
            "step": source["step"],
            "same_config": source["same_config"],
        }
    own = {"data": _data(settings, job["request"]["data"]), "training": {"device": _device(slot)}}
    weights = _evaluation(settings, job["request"]["evaluation"])
    return {
        "kind": TRAIN,
        "run_dir": str(_run_dir(settings, job["id"])),
        "config": merge(job["request"], {**own, "evaluation": weights}),
        "outcome": _outcome(directory),
        "require_checkpoint": has_checkpoint,
        "set_aside": not has_checkpoint and "rejected" in checkpoints,
        "fork": fork,
    }


def _task(job: JobRow, settings: Settings, slot: Slot, directory: Path) -> dict[str, Any]:
    request = dict(job["request"])
    run_dir = str(_run_dir(settings, request.pop("job_id")))
    own = {"kind": job["kind"], "run_dir": run_dir, "outcome": _outcome(directory)}
    del request["checkpoint_id"]  # the worker identifies the checkpoint by step and hash
    if job["kind"] == SAMPLE:
        place = settings.job_dir(job["id"]).resolve()
        files = {"output": str(place / output_path(job)), "partial": str(place / _partial_path(directory.name))}
        return {**request, **own, **files}
    evaluation = request.pop("evaluation")
    overrides = {
        "evaluation": {**evaluation, **_evaluation(settings, evaluation)},
        "training": {"device": _device(slot)},
    }
    return {**request, **own, "overrides": overrides}


def output_path(job: JobRow) -> str:
    """Return the path of a sampling task's images, relative to the task's directory."""
    return f"output/images.{job['request']['format']}"


def partial_output(settings: Settings, attempt: AttemptRow) -> Path:
    """Return the file into which an attempt of a sampling task draws. Each has its own, so that no reader mixes two."""
    return settings.job_dir(attempt["job_id"]) / _partial_path(str(attempt["number"]))


def _partial_path(attempt_number: str) -> str:
    return f"output/{attempt_number}.partial"


def _run_dir(settings: Settings, job_id: str) -> Path:
    return settings.job_dir(job_id).resolve() / "run"


def _outcome(directory: Path) -> str:
    return str(directory.resolve() / "outcome.json")


def _device(slot: Slot) -> str:
    """Return the slot's device as the worker sees it: the executor makes only one GPU visible to it."""
    return "cuda:0" if slot.device.startswith("cuda") else slot.device


def _data(settings: Settings, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the root that the data section names. Without one, the data set's own name counts."""
    if data["root"] is None and data["name"] not in settings.data_roots:
        return {}
    return {"root": _path("data.root", data["root"] or data["name"], settings.data_roots)}


def _evaluation(settings: Settings, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    if evaluation["weights"] is None:
        return {}
    return {"weights": _path("evaluation.weights", evaluation["weights"], settings.weights)}


def _path(field: str, name: str, known: Mapping[str, Path]) -> str:
    if name not in known:
        raise ConfigError(f"{field}: the service no longer offers {name!r}; it offers {', '.join(known) or 'none'}")
    return str(known[name].resolve())
