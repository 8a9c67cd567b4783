"""Runs of another version's table of variants: read, resumed, sampled, scored and compared as they were written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gan_mhe.comparison.compare import compare, read_score
from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import ConfigError
from gan_mhe.files import write_json
from gan_mhe.records.run_dir import RunDir
from gan_mhe.run import sample
from gan_mhe.run.loop import execute
from gan_mhe.run.score import score_checkpoint

Configure = Callable[..., RunConfig]
OLD = "mhe_of_old"


@pytest.fixture(scope="module")
def old(tiny: Configure, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A completed run of a variant that does not exist."""
    written = tiny("training.steps=4", preset="digits_cnn", variant="mhe").document()
    root = tmp_path_factory.mktemp("old") / "run"
    execute(RunConfig.stored(merge(written, {"variant": OLD})), root)
    return RunDir(root)


def test_it_is_sampled(old: RunDir) -> None:
    assert sample.generate(old, n=2, seed=0).shape == (2, 3, 32, 32)


def test_it_is_scored_again_and_only_with_evaluation_keys(old: RunDir) -> None:
    scored = score_checkpoint(old, step=None, overrides={"evaluation": {"num_samples": 100}})
    assert scored["step"] == 4
    with pytest.raises(ConfigError, match="a score can change evaluation keys only; got variant"):
        score_checkpoint(old, step=None, overrides={"variant": "mhe"})


def test_it_is_compared_under_its_name(old: RunDir) -> None:
    assert [(row.variant, row.n) for row in compare([read_score(old)]).rows] == [(OLD, 1)]


def test_it_is_left_as_it_is_when_it_is_executed_again(old: RunDir) -> None:
    before = old.result.read_bytes()
    assert execute(old.read_config(), old.root).status == "completed"
    assert old.result.read_bytes() == before


def test_a_schedule_that_was_written_or_not_is_not_the_variants(tiny: Configure, tmp_path: Path) -> None:
    config = tiny(variant="mhe")
    assert config.constraints.mhe is not None and config.constraints.mhe.schedule.warmup_steps == 500
    run, written = RunDir(tmp_path), config.document()
    for mhe in ({**written["constraints"]["mhe"], "schedule": {"warmup_steps": 0}}, {"lambda_hidden": 1.0}):
        write_json(run.config, written | {"constraints": {"mhe": mhe}})
        found = run.read_config()
        assert found.variant == "mhe" and found.constraints.mhe is not None
        assert found.constraints.mhe.schedule.warmup_steps == 0
