"""The tables of names: one entry each, and the same names where they are implemented."""

from collections.abc import Collection
from typing import Any

import pytest

from gan_mhe import tasks
from gan_mhe.config import names
from gan_mhe.config.compose import parse
from gan_mhe.config.run_config import RunConfig
from gan_mhe.config.summaries import SUMMARIES
from gan_mhe.data import datasets
from gan_mhe.errors import ConfigError
from gan_mhe.evaluation.metrics import METRICS
from gan_mhe.networks import build, layers
from gan_mhe.training import losses

IMPLEMENTED = [
    (names.DATASETS, datasets.DATASETS),
    (names.LOSSES, losses.LOSSES),
    (names.GENERATORS, build.GENERATORS),
    (names.DISCRIMINATORS, build.DISCRIMINATORS),
    (names.IMAGE_SIZES, layers.IMAGE_SIZES),
    (names.TASKS, tasks.TASKS),
    (names.TASKS, SUMMARIES),
]
CONFIGURED = [
    ("DataConfig", "name", names.DATASETS),
    ("DataConfig", "split", names.SPLITS),
    ("DataConfig", "image_size", names.IMAGE_SIZES),
    ("GeneratorConfig", "architecture", names.GENERATORS),
    ("DiscriminatorConfig", "architecture", names.DISCRIMINATORS),
    ("", "loss", names.LOSSES),
]


@pytest.mark.parametrize(("named", "implemented"), IMPLEMENTED)
def test_every_name_is_implemented_and_nothing_else_is(named: Collection[Any], implemented: Collection[Any]) -> None:
    assert list(named) == list(implemented)


@pytest.mark.parametrize(("section", "field", "named"), CONFIGURED)
def test_the_schema_of_the_configuration_lists_the_names(section: str, field: str, named: Collection[Any]) -> None:
    schema = RunConfig.model_json_schema()
    properties = (schema["$defs"][section] if section else schema)["properties"]
    assert properties[field]["enum"] == list(named)


@pytest.mark.parametrize("table", [names.DATASETS, names.GENERATORS, names.DISCRIMINATORS, names.LOSSES])
def test_the_documentation_of_the_configuration_describes_every_name(table: Any) -> None:
    schema = str(RunConfig.model_json_schema())
    assert [name for name, row in table.items() if f"`{name}` ({row.description})" not in schema] == []


def test_a_data_set_with_a_folder_of_its_own_is_refused_without_one() -> None:
    needy = [name for name, dataset in names.DATASETS.items() if dataset.needs_root]
    assert needy == ["image_folder"]
    for name in needy:
        with pytest.raises(ConfigError, match=rf"^data\.root is missing; expected the folder of the {name}$"):
            parse({"data": {"name": name}})


@pytest.mark.parametrize("name", [name for name, dataset in names.DATASETS.items() if dataset.bundled])
def test_a_bundled_data_set_needs_neither_folder_nor_download(name: str, tmp_path: Any) -> None:
    loaded = datasets.load(name, root=None, split="train", image_size=32, download=False, cache_dir=tmp_path / "none")
    assert len(loaded.images) and not (tmp_path / "none").exists()


def test_every_task_ranks_by_a_metric_that_exists() -> None:
    assert [name for name, facts in names.TASKS.items() if facts.metric not in METRICS] == []


@pytest.mark.parametrize("task", names.TASKS.values())
def test_a_task_ranks_by_a_known_metric(task: names.TaskFacts) -> None:
    assert task.metric in METRICS
