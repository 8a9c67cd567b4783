"""A worker for tests, called like the real one: `fake_worker.py REQUEST`. It trains nothing, in milliseconds a step.

It leaves a real run directory behind, resumes, and stops on SIGTERM as the real worker does. How it misbehaves is said
by environment variables, or for one job by `fake.json` beside its run directory, an object with the same names:

    FAKE_WORKER_STEP_SECONDS     seconds a step takes (0.02)
    FAKE_WORKER_FAIL_AT          step at which it raises an unexpected exception
    FAKE_WORKER_DIVERGE_AT       step at which its losses are NaN
    FAKE_WORKER_OOM_AT           step at which it runs out of memory
    FAKE_WORKER_DISK_FULL_AT     step at which the disk is full
    FAKE_WORKER_CRASH_AT         step at which it kills itself
    FAKE_WORKER_HANG_AT          step at which it makes no more progress; it still obeys a signal
    FAKE_WORKER_IGNORE_SIGTERM   1: no signal but SIGKILL ends it
    FAKE_WORKER_ONCE             1: each misbehaviour happens in the first attempt only

In `fake.json` they are called step_seconds, fail_at and so on. A task takes ten steps' time and misbehaves at step 0.
"""

import errno
import json
import math
import os
import shutil
import signal
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import CheckpointError, DivergedError, GanMheError, StorageError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import atomic_directory, atomic_write, canonical_json, sha256_bytes, write_json
from gan_mhe.records import events
from gan_mhe.records.recorder import Recorder
from gan_mhe.records.run_dir import RunDir

STOPPED_CODE = 75
FINGERPRINTS = {name: sha256_bytes(f"fake {name}".encode()) for name in METRICS}
REAL = {"inception_score": 9.7, "fid": 1.0, "kid": 0.0, "precision": 1.0, "recall": 1.0}
DATA = {
    **{"name": "digits", "split": "train", "images": 3, "classes": {"one": 2, "four": 1}},
    **{"passed_over": {}, "conversions": {}, "sha256": "0" * 64},
}
# What the variants are worth here, so that a comparison has something to show.
WORTH = {"none": 0.0, "spectral_norm": 1.0, "mhe": 1.2, "mhe_sn": 1.4}


class Stop:
    """The first signal asks, the second quits."""

    def __init__(self, ignore: bool) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if ignore else self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class Behaviour:
    """What goes wrong, and when."""

    def __init__(self, beside: Path | None) -> None:
        prefix = "FAKE_WORKER_"
        self._said: dict[str, Any] = {
            key.removeprefix(prefix).lower(): value for key, value in os.environ.items() if key.startswith(prefix)
        }
        if beside is not None and beside.exists():
            self._said |= json.loads(beside.read_text())
        self._spent = False

    def seconds(self) -> float:
        return float(self._said.get("step_seconds", 0.02))

    def ignores_signals(self) -> bool:
        return bool(int(self._said.get("ignore_sigterm", 0)))

    def spend(self) -> None:
        """This is not the first attempt."""
        self._spent = bool(int(self._said.get("once", 0)))

    def due(self, what: str, step: int) -> bool:
        return not self._spent and what in self._said and int(self._said[what]) == step

    def act(self, step: int) -> None:
        if self.due("crash_at", step):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.due("fail_at", step):
            raise RuntimeError(f"fake failure at step {step}")
        if self.due("oom_at", step):
            raise MemoryError
        if self.due("disk_full_at", step):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise StorageError(f"cannot write a checkpoint: {full.strerror}") from full


class Training:
    """What `gan_mhe.run.loop` does, without a network."""

    def __init__(self, request: Mapping[str, Any], stop: Stop, behaviour: Behaviour) -> None:
        self.config = RunConfig.model_validate(request["config"])
        self.request = request
        self.place = RunDir(Path(request["run_dir"]))
        self.stop = stop
        self.behaviour = behaviour
        self.step = 0
        self.notes: dict[str, Any] = {"best": None, "final": None, "evaluations": 0, "curve": []}
        self.notes["train_seconds"] = 0.0

    def run(self) -> tuple[str, dict[str, Any]]:
        """Outcome and result document."""
        with ExitStack() as held:
            held.enter_context(self.place.locked())
            result = self.place.read_result()
            if result and result["status"] == "completed" and result["step"] >= self.config.training.steps:
                return "completed", result
            if self.place.exists():
                self.behaviour.spend()
            write_json(self.place.config, self.config.document())
            write_json(self.place.environment, {"gan_mhe": "fake", "device": "cpu", "command": sys.argv})
            self.recorder = held.enter_context(Recorder(self.place, [Lines()]))
            try:
                return self._train()
            except DivergedError as error:
                write_json(self.place.result, self._result("diverged", str(error)))
                self.recorder.emit(events.Finished(error.step, "diverged", str(error)))
                raise
            except Exception as error:
                self.recorder.emit(events.Finished(self.step, "failed", str(error)))
                raise

    def _train(self) -> tuple[str, dict[str, Any]]:
        total = self.config.training.steps
        self._fork()
        refused = self._resume()
        self.recorder.emit(events.Started(self.step, total, resumed=self.step > 0))
        self.place.result.unlink(missing_ok=True)
        for step, why in refused.items():
            self.recorder.emit(events.CheckpointRejected(self.step, step, why))
        if self.step == 0:
            self._sample()
        while self.step < total:
            self._take_step()
            stopping = self.stop.asked and self.step < total
            if self._due(self.config.training.report_every_steps):
                self._report()
            if self._due(self.config.sampling.every_steps):
                self._sample()
            if self.config.evaluation.protocol != "none" and self._due(self.config.evaluation.every_steps):
                self._evaluate()
            if stopping or self._due(self.config.checkpoint.every_steps):
                self._save()
            if stopping:
                return self._finish("stopped")
        return self._finish("completed")

    def _take_step(self) -> None:
        self.behaviour.act(self.step)
        if self.behaviour.due("diverge_at", self.step):
            self.recorder.emit(events.Scalars(self.step, {"d_loss": math.nan, "g_loss": math.nan}))
            raise DivergedError(self.step, ["d_loss", "g_loss"])
        while self.behaviour.due("hang_at", self.step) and not self.stop.asked:
            time.sleep(0.01)
        time.sleep(self.behaviour.seconds())
        self.step += 1
        self.notes["train_seconds"] += self.behaviour.seconds()

    def _due(self, every_steps: int) -> bool:
        return self.step == self.config.training.steps or (every_steps > 0 and self.step % every_steps == 0)

    def _fork(self) -> None:
        fork = self.request.get("fork")
        if fork is None or self.place.checkpoint_steps():
            return
        source = RunDir(Path(fork["run_dir"]))
        _read_checkpoint(source.checkpoint(fork["step"]), source.read_config().digest("resumable"))
        self.step = fork["step"]
        self._save()

    def _resume(self) -> dict[int, str]:
        refused: dict[int, str] = {}
        for step in reversed(self.place.checkpoint_steps()):
            try:
                manifest = _read_checkpoint(self.place.checkpoint(step), self.config.digest("resumable"))
            except CheckpointError as error:
                refused[step] = str(error)
                continue
            self.step, self.notes = step, dict(manifest["notes"])
            return refused
        if self.request.get("require_checkpoint"):
            raise CheckpointError(f"no usable checkpoint in {self.place.root}: {refused or 'it has none'}")
        return refused

    def _report(self) -> None:
        total, rate = self.config.training.steps, 1 / max(self.behaviour.seconds(), 1e-3)
        values = {"d_loss": 1 + 1 / (1 + self.step), "g_loss": 0.7 + 0.001 * (self.config.seed % 100)}
        self.recorder.emit(events.Scalars(self.step, values))
        images = rate * self.config.training.batch_size
        self.recorder.emit(events.Progress(self.step, total, rate, images, (total - self.step) / rate))

    def _sample(self) -> None:
        path, content = self.place.sample(self.step), png(self.step, self.config.seed)
        atomic_write(path, content)
        self.recorder.emit(events.SampleGrid(self.step, self.place.relative(path), sha256_bytes(content)))

    def _evaluate(self) -> None:
        last = self.step == self.config.training.steps
        score: dict[str, Any] = {"step": self.step, "scores": scores(self.config, self.step)}
        self.notes["evaluations"] += 1
        self.notes["curve"].append(score)
        best = self.notes["best"]
        if best is None or score["scores"]["inception_score"] > best["scores"]["inception_score"]:
            self.notes["best"] = score
        if last:
            self.notes["final"] = score
        self._say_score("final" if last else "scheduled", score)

    def _say_score(self, purpose: str, score: Mapping[str, Any]) -> None:
        protocol = self.config.evaluation.protocol
        said = events.Evaluated(score["step"], purpose, score["scores"], protocol, FINGERPRINTS, 0.0)
        self.recorder.emit(said)

    def _save(self) -> None:
        path = self.place.checkpoint(self.step)
        digest = _write_checkpoint(path, self.step, self.config.digest("resumable"), self.notes)
        self.recorder.emit(events.CheckpointSaved(self.step, self.place.relative(path), digest))
        best = self.notes["best"] and self.notes["best"]["step"]
        steps = [step for step in self.place.checkpoint_steps() if step <= self.step]
        for step in set(steps) - {*steps[-self.config.checkpoint.keep_last :], best}:
            shutil.rmtree(self.place.checkpoint(step))

    def _finish(self, status: str) -> tuple[str, dict[str, Any]]:
        if status == "completed" and self.notes["evaluations"] > 1:
            self._say_score("best_rescored", self.notes["best"])
        result = self._result(status)
        write_json(self.place.result, result)
        self.recorder.emit(events.Finished(self.step, status, ""))
        return status, result

    def _result(self, status: str, message: str = "") -> dict[str, Any]:
        """The keys of `gan_mhe.records.result.RunResult`."""
        scored = self.config.evaluation.protocol != "none"
        return {
            "status": status,
            "step": self.step,
            "variant": self.config.variant,
            "seed": self.config.seed,
            "digest": self.config.digest(),
            "protocol": self.config.evaluation.protocol if scored else None,
            "fingerprints": FINGERPRINTS if scored else {},
            "metric": "inception_score",
            "final": self.notes["final"] if status == "completed" else None,
            "best": self.notes["best"] if status == "completed" else None,
            "evaluations": self.notes["evaluations"],
            "curve": self.notes["curve"],
            "real": REAL if scored else None,
            "train_seconds": self.notes["train_seconds"],
            "peak_memory_bytes": 0,
            "message": message,
            "data": DATA,
            "weights_sha256": None,
        }


class Lines:
    """Events on the console."""

    def emit(self, event: events.Event) -> None:
        sys.stdout.write(events.describe(event) + "\n")
        sys.stdout.flush()


def scores(config: RunConfig, step: int) -> dict[str, float]:
    """Better with the steps, by variant, and a little by seed."""
    done = step / config.training.steps
    inception_score = 2 + 4 * done + WORTH.get(config.variant, 0.5) + 0.01 * (config.seed % 10)
    values = dict.fromkeys(METRICS, 0.5)
    return values | {"inception_score": inception_score, "inception_score_split_std": 0.1, "fid": 100 - 50 * done}


def png(step: int, seed: int) -> bytes:
    """A 2x2 picture of one colour, another for every step and seed."""
    shade = zlib.crc32(f"{step} {seed}".encode()) & 0xFFFFFF
    row = b"\0" + shade.to_bytes(3, "big") * 2
    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * 2)), (b"IEND", b""))
    framed = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _write_checkpoint(path: Path, step: int, lineage: str, notes: Mapping[str, Any]) -> str:
    """A manifest as the real one has, and a safetensors file without tensors."""
    header = json.dumps({"__metadata__": {"step": str(step)}}).encode()
    tensors = struct.pack("<Q", len(header)) + header
    manifest = {
        "format": 1,
        "step": step,
        "lineage": lineage,
        "tensors_sha256": sha256_bytes(tensors),
        "notes": dict(notes),
    }
    digest = sha256_bytes(canonical_json(manifest))
    with atomic_directory(path) as temporary:
        atomic_write(temporary / "tensors.safetensors", tensors)
        write_json(temporary / "manifest.json", manifest | {"sha256": digest})
    return digest


def _read_checkpoint(path: Path, lineage: str | None = None, digest: str | None = None) -> dict[str, Any]:
    """Its manifest. CheckpointError when it is missing, damaged, foreign, or not the one of that digest."""
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
        stated = manifest.pop("sha256")
        tensors = sha256_bytes((path / "tensors.safetensors").read_bytes())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if sha256_bytes(canonical_json(manifest)) != stated or manifest["tensors_sha256"] != tensors:
        raise CheckpointError(f"{path} is damaged")
    if lineage not in (None, manifest["lineage"]) or digest not in (None, stated):
        raise CheckpointError(f"{path} is another checkpoint")
    return manifest


def _sample_task(request: Mapping[str, Any]) -> dict[str, Any]:
    place = RunDir(Path(request["run_dir"]))
    _read_checkpoint(place.checkpoint(request["step"]), digest=request["checkpoint_sha256"])
    content = png(request["step"], request["seed"])
    atomic_write(Path(request["output"]), content)
    media_types = {"png": "image/png", "webp": "image/webp", "zip": "application/zip", "npz": "application/x-npz"}
    asked = ("step", "checkpoint_sha256", "n", "seed", "truncation", "interpolation", "ema", "format")
    return {
        "sha256": sha256_bytes(content),
        "size_bytes": len(content),
        "media_type": media_types[request["format"]],
        "images": request["n"] * max(1, request["interpolation"]),
        "fixed": {key: request[key] for key in asked},
        "device": "cpu",
        "torch": "fake",
    }


def _score_task(request: Mapping[str, Any]) -> dict[str, Any]:
    place = RunDir(Path(request["run_dir"]))
    _read_checkpoint(place.checkpoint(request["step"]), digest=request["checkpoint_sha256"])
    config = place.read_config()
    protocol = request["overrides"].get("evaluation", {}).get("protocol", config.evaluation.protocol)
    found = scores(config, request["step"])
    return {"step": request["step"], "protocol": protocol, "fingerprints": FINGERPRINTS, "scores": found, "real": REAL}


def _work(request: Mapping[str, Any]) -> tuple[str, int | None, dict[str, Any]]:
    """Outcome, step and result."""
    train = request["kind"] == "train"
    behaviour = Behaviour(Path(request["run_dir"]).with_name("fake.json") if train else None)
    stop = Stop(behaviour.ignores_signals())
    if train:
        outcome, result = Training(request, stop, behaviour).run()
        return outcome, result["step"], result
    behaviour.act(0)
    limit = time.monotonic() + 10 * behaviour.seconds()
    while time.monotonic() < limit:
        time.sleep(0.005)
        if stop.asked:
            raise KeyboardInterrupt
    task = _sample_task if request["kind"] == "sample" else _score_task
    return "completed", request["step"], task(request)


def _failure(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "out_of_memory"
    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
        return "disk_full"
    return error.code if isinstance(error, GanMheError) else "error"


def main(path: Path) -> int:
    request = json.loads(path.read_text())
    said: dict[str, Any] = {"outcome": "failed", "code": None, "message": "", "step": None, "result": None}
    try:
        outcome, step, result = _work(request)
        said |= {"outcome": outcome, "step": step, "result": result}
    except KeyboardInterrupt:
        said |= {"outcome": "stopped", "message": "quit at once"}
    except Exception as error:
        traceback.print_exc()
        said |= {"code": _failure(error), "message": str(error), "step": getattr(error, "step", None)}
    write_json(Path(request["outcome"]), said)
    return {"completed": 0, "stopped": STOPPED_CODE, "failed": 1}[said["outcome"]]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
