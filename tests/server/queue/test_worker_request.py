"""What workers are asked to do: requests with the operator's paths in place of names."""

from pathlib import Path
from typing import Any

import pytest

from gan_mhe.config.run_config import RunConfig
from server.executors.base import Slot
from server.store import tables
from tests.support.world import World


class TestRequests:
    def request(self, world: World, job_id: str) -> Any:
        world.tick()
        return world.executor.launched[world.attempt(job_id)].request

    def checkpoint(self, world: World, job_id: str, status: str = "available", step: int = 5) -> None:
        row = {"id": f"ckpt_{job_id}_{step}", "job_id": job_id, "step": step, "attempt": 1, "sha256": "0", "path": "p",
               "size_bytes": 1, "status": status, "created_at": 0}  # fmt: skip
        world.store.write(lambda connection: connection.execute(tables.checkpoints.insert().values(row)))

    def test_training_is_asked_for_with_its_configuration_and_the_slots_device(self, world: World) -> None:
        job_id = world.submit()
        request = self.request(world, job_id)
        directory = world.settings.job_dir(job_id)
        expected = RunConfig.model_validate({"training": {"device": "cpu"}}).document()
        assert request == {
            "kind": "train",
            "run_dir": str(directory / "run"),
            "outcome": str(directory / "attempts" / "1" / "outcome.json"),
            "config": expected,
            "require_checkpoint": False,
            "set_aside": False,
            "fork": None,
        }

    def test_a_gpu_is_always_the_first_that_the_worker_sees(self, world: World) -> None:
        world.executor.slots = [Slot("cuda3/0", "cuda:3", "train")]
        assert self.request(world, world.submit())["config"]["training"]["device"] == "cuda:0"

    def test_names_become_the_operators_paths(self, world: World, tmp_path: Path) -> None:
        world.limited(data_roots={"faces": tmp_path / "faces"}, weights={"inception": tmp_path / "w.pt"})
        request = RunConfig.model_validate(
            {"data": {"name": "image_folder", "root": "faces"}, "evaluation": {"weights": "inception"}}
        ).document()
        config = self.request(world, world.submit(request=request))["config"]
        assert (config["data"]["root"], config["evaluation"]["weights"]) == (
            str(tmp_path / "faces"), str(tmp_path / "w.pt")
        )  # fmt: skip

    def test_a_set_of_torchvision_is_found_by_its_own_name(self, world: World, tmp_path: Path) -> None:
        world.limited(data_roots={"cifar10": tmp_path / "here"})
        documents = [RunConfig.model_validate({"data": {"name": name}}).document() for name in ("cifar10", "cifar100")]
        roots = [
            self.request(world, world.submit(request=document))["config"]["data"]["root"] for document in documents
        ]
        assert roots == [str(tmp_path / "here"), None]

    @pytest.mark.parametrize(("status", "required"), [("available", True), ("pruned", False), ("rejected", False)])
    def test_a_job_with_a_checkpoint_must_not_start_over(self, world: World, status: str, required: bool) -> None:
        job_id = world.submit()
        self.checkpoint(world, job_id, status)
        assert self.request(world, job_id)["require_checkpoint"] is required

    @pytest.mark.parametrize(
        ("statuses", "aside"),
        [((), False), (("pruned",), False), (("rejected",), True), (("rejected", "available"), False)],
    )
    def test_checkpoints_that_were_all_rejected_are_set_aside(
        self, world: World, statuses: tuple[str, ...], aside: bool
    ) -> None:
        job_id = world.submit()
        for step, status in enumerate(statuses):
            self.checkpoint(world, job_id, status, step)
        assert self.request(world, job_id)["set_aside"] is aside

    def test_a_fork_begins_from_the_other_jobs_checkpoint_until_it_has_its_own(self, world: World) -> None:
        forked_from = {"job_id": "job_source", "checkpoint_id": "ckpt", "step": 7, "same_config": True}
        job_id = world.submit(forked_from=forked_from)
        run_dir = str(world.settings.job_dir("job_source") / "run")
        assert self.request(world, job_id)["fork"] == {"run_dir": run_dir, "step": 7, "same_config": True}
        self.checkpoint(world, job_id)
        world.ends(job_id, exit_code=None, signal=9)
        world.passes(1)
        request = self.request(world, job_id)
        assert (request["fork"], request["require_checkpoint"]) == (None, True)

    def test_sampling_is_asked_for_with_its_parameters_and_a_place(self, world: World) -> None:
        job_id = world.submit("sample")
        directory = world.settings.job_dir(job_id)
        assert self.request(world, job_id) == {
            "kind": "sample",
            "run_dir": str(world.settings.job_dir("job_source") / "run"),
            "outcome": str(directory / "attempts" / "1" / "outcome.json"),
            "output": str(directory / "output" / "images.png"),
            "partial": str(directory / "output" / "1.partial"),
            "step": 100,
            "checkpoint_sha256": "c" * 64,
            "n": 4,
            "seed": 1,
            "truncation": None,
            "interpolation": 0,
            "ema": False,
            "format": "png",
        }

    def test_each_attempt_draws_into_a_file_of_its_own_and_leaves_none_when_it_was_killed(self, world: World) -> None:
        job_id = world.submit("sample")
        partial = Path(self.request(world, job_id)["partial"])
        partial.parent.mkdir(parents=True)
        partial.write_bytes(b"half")
        world.ends(job_id, exit_code=None, signal=9)
        assert not partial.exists()
        world.passes(1)
        assert Path(self.request(world, job_id)["partial"]) == partial.with_name("2.partial")

    def test_scoring_is_asked_for_with_the_evaluation_to_be_made(self, world: World, tmp_path: Path) -> None:
        world.limited(weights={"inception": tmp_path / "w.pt"})
        evaluation = RunConfig.model_validate({"evaluation": {"weights": "inception"}}).document()["evaluation"]
        source = {"job_id": "job_source", "checkpoint_id": "c", "checkpoint_sha256": "0", "step": 3}
        request = self.request(world, world.submit("score", request={**source, "evaluation": evaluation}))
        assert {"job_id", "checkpoint_id", "evaluation"}.isdisjoint(request)
        assert request["overrides"] == {
            "evaluation": {**evaluation, "weights": str(tmp_path / "w.pt")},
            "training": {"device": "cpu"},
        }

    def test_the_worker_accepts_every_kind_of_request(self, world: World) -> None:
        from gan_mhe import worker

        world.executor.slots.append(Slot("task1", "cpu", "task"))
        for kind in ("train", "sample", "score"):
            assert worker._parse(self.request(world, world.submit(kind))).kind == kind
