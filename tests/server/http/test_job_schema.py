"""What a list shows of jobs, without reading the same thing again for each."""

import pytest

from gan_mhe.config.run_config import RunConfig
from server.http.schemas import jobs


def document(seed: int, **sections: object) -> dict[str, object]:
    return RunConfig.model_validate({"variant": "mhe", "seed": seed, **sections}).document()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The configurations that were read since the test began."""
    found: list[object] = []
    stored = RunConfig.stored

    def keep(configuration: object) -> RunConfig:
        found.append(configuration)
        return stored(configuration)

    jobs._label_of.cache_clear()
    monkeypatch.setattr(RunConfig, "stored", keep)
    return found


def test_the_seeds_of_an_arm_have_one_configuration_read_for_all(read: list[object]) -> None:
    labels = [jobs._label(document(seed)) for seed in range(5)]
    assert labels == [RunConfig(variant="mhe").label] * 5
    assert len(read) == 1


def test_another_setting_is_read_and_shown(read: list[object]) -> None:
    other = {"constraints": {"normalization": "spectral"}}
    assert jobs._label(document(0)) != jobs._label(document(0, **other))
    assert len(read) == 2


def test_a_configuration_that_cannot_be_read_has_no_label_however_often_it_is_asked_for(read: list[object]) -> None:
    assert [jobs._label({"variant": 3, "seed": seed}) for seed in range(3)] == [None] * 3
