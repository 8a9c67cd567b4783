"""A made-up study: run directories as runs leave them, with numbers that a test chooses."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gan_mhe.config.run_config import RunConfig
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.files import JsonLines, write_json
from gan_mhe.records.events import Evaluated, Event, Finished, Scalars, Started, encode, encode_number
from gan_mhe.records.run_dir import RunDir
from gan_mhe.study.definition import Study, run_directory, runs

FINGERPRINTS = dict.fromkeys(METRICS, "f" * 64)
STEPS = 600
EVALUATIONS = 6
TILE = 64
BASE: dict[str, Any] = {
    "training": {"steps": STEPS, "batch_size": 16, "report_every_steps": 100},
    "sampling": {"num_images": 16},
    "evaluation": {"protocol": "digits-v1", "every_steps": 100},
}


def tile_colour(index: int) -> tuple[int, int, int]:
    """Of one image of a made-up grid: another for each."""
    return 255 - 10 * index, 10 * index, 128


@dataclass
class Made:
    """A study with the folder of its runs. `end` and its like write one cell as a run would have left it."""

    study: Study
    root: Path
    pictures: bool = False
    ratios: Mapping[str, float] = field(default_factory=dict)

    def place(self, arm: str, seed: int) -> RunDir:
        return RunDir(run_directory(self.root, arm, seed))

    def begin(self, arm: str, seed: int, events: Iterable[Event] = ()) -> RunDir:
        """A run without a result."""
        place, config = self.place(arm, seed), self.config(arm, seed)
        write_json(place.config, config.document())
        write_json(place.environment, {"python": "3.11.9", "packages": {"torch": "2.11.0"}, "command": ["x"]})
        journal = JsonLines(place.events)
        for event in events:
            journal.append({"seq": journal.lines, "time": "2025-01-01T00:00:00Z"} | encode(event))
        journal.close()
        return place

    def end(self, arm: str, seed: int, score: float | None, *, events: bool = True, **changes: Any) -> None:
        """A completed run with this final score, or without one."""
        said = self._events(arm, seed, score) if events else []
        place = self.begin(arm, seed, said)
        if self.pictures:
            draw_grid(place.sample(0), black=True)
            draw_grid(place.sample(STEPS))
        scores = None if score is None else {"step": STEPS, "scores": _scores(score)}
        result = {
            "status": "completed",
            "step": STEPS,
            "protocol": None if score is None else "digits-v1",
            "fingerprints": {} if score is None else FINGERPRINTS,
            "final": scores,
            "best": scores,
            "evaluations": 0 if score is None else EVALUATIONS,
            "real": None if score is None else _scores(9.71),
            "train_seconds": 60.0 + seed,
            "message": "",
        }
        write_json(place.result, result | changes)

    def config(self, arm: str, seed: int) -> RunConfig:
        return self._configs[arm, seed]

    @cached_property
    def _configs(self) -> dict[tuple[str, int], RunConfig]:
        return {(run.arm.name, run.seed): run.config for run in runs(self.study)}

    def _events(self, arm: str, seed: int, score: float | None) -> list[Event]:
        said: list[Event] = [Started(0, STEPS, resumed=False)]
        for number in range(1, EVALUATIONS + 1):
            step = number * STEPS // EVALUATIONS
            said.append(Scalars(step, self._scalars(arm, seed, step)))
            if score is not None:
                now = score * (1 - math.exp(-4 * number / EVALUATIONS)) / (1 - math.exp(-4))
                purpose = "final" if step == STEPS else "scheduled"
                said.append(Evaluated(step, purpose, _numbers(now), "digits-v1", FINGERPRINTS, 1.0))
        return [*said, Finished(STEPS, "completed", "")]

    def _scalars(self, arm: str, seed: int, step: int) -> dict[str, float]:
        place = [each.name for each in self.study.arms].index(arm)
        energy = -0.2 - 0.02 * place * step / STEPS
        values = {"d_loss": 1.0, "energy/conv0": energy, "energy/conv1": energy - 0.1}
        values |= {"angle/conv0": 0.5 + 0.05 * place * step / STEPS, "angle/conv1": 0.7 + 0.01 * seed}
        if arm in self.ratios:
            ratio = self.ratios[arm]
            values |= {"gradient_ratio/mhe": ratio, "gradient_ratio/mhe/conv0": 99.0, "strength/mhe": 2 * ratio}
        return values


def _numbers(score: float) -> dict[str, float]:
    return {name: score if name == "inception_score" else 100 - score for name in METRICS}


def _scores(score: float) -> dict[str, Any]:
    return {name: encode_number(value) for name, value in _numbers(score).items()}


def draw_grid(path: Path, *, black: bool = False, columns: int = 4, rows: int = 4) -> None:
    """A grid as runs draw it: tiles of 64 pixels with 2 black pixels around each."""
    side = TILE + 2
    grid = Image.new("RGB", (columns * side + 2, rows * side + 2))
    for index in range(0 if black else columns * rows):
        corner = 2 + index % columns * side, 2 + index // columns * side
        grid.paste(tile_colour(index), (*corner, corner[0] + TILE, corner[1] + TILE))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(path)


Make = Callable[..., Made]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A study of the given arms, `{"name": ..., "variant": ...}` each, or names of variants; without runs."""
    return partial(make_study, tmp_path)


@pytest.fixture(scope="module")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make`, for tests that only look at one report."""
    return partial(make_study, tmp_path_factory.mktemp("report"))


@pytest.fixture(name="tile_colour")
def _tile_colour() -> Callable[[int], tuple[int, int, int]]:
    return tile_colour


def make_study(
    folder: Path, arms: Sequence[str | Mapping[str, Any]], seeds: Sequence[int] = (0, 1, 2), **fields: Any
) -> Made:
    tables = [{"name": arm, "variant": arm} if isinstance(arm, str) else dict(arm) for arm in arms]
    for table in tables:
        if "strength" in table:
            table["set"] = {"constraints.mhe.lambda_hidden": table["strength"]}
    document = {
        "name": "made-up",
        "question": "Does a regulariser help?",
        "config": "digits_cnn",
        "seeds": seeds,
        "arms": tables,
        "reference": tables[0]["name"],
        "base": BASE,
    }
    return Made(Study.model_validate(document | fields), folder / "study")
