"""The operator's settings, read from the environment and validated."""

import pytest
from pydantic import ValidationError

from server.service import local_executor
from server.settings import Settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GAN_MHE_WORKER_NICENESS", "-1"),
        ("GAN_MHE_WORKER_NICENESS", "20"),
        ("GAN_MHE_WORKER_NICENESS", "high"),
        ("GAN_MHE_CUDA_SLOTS_PER_DEVICE", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.removeprefix("GAN_MHE_").lower()):
        Settings()


def test_how_much_workers_yield_and_share_is_the_operators_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Settings().worker_niceness, Settings().cuda_slots_per_device) == (5, 1)
    monkeypatch.setenv("GAN_MHE_WORKER_NICENESS", "19")
    monkeypatch.setenv("GAN_MHE_CUDA_SLOTS_PER_DEVICE", "4")
    assert (Settings().worker_niceness, Settings().cuda_slots_per_device) == (19, 4)


def test_the_executor_is_given_the_niceness_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAN_MHE_WORKER_NICENESS", "11")
    assert local_executor(Settings())._worker_niceness == 11
