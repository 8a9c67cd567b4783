"""Precision settings of PyTorch are given back as they were found, also those that follow a more general one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch

from gan_mhe.evaluation.scores import full_precision
from gan_mhe.tf32 import CPU, CUDA, float32_precision
from gan_mhe.training.precision import Precision

general: Any = torch.backends
products: Any = torch.backends.cuda.matmul
GPU = torch.device("cuda")

CONTEXTS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "a step in float32": lambda: Precision("float32", GPU).step(),
    "a step in tf32": lambda: Precision("tf32", GPU).step(),
    "generated images": lambda: Precision("bf16", GPU).full_precision(),
    "scores": full_precision,
}


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    before = general.fp32_precision, products.fp32_precision
    yield
    general.fp32_precision = before[0]
    products.fp32_precision = "none"
    if products.fp32_precision != before[1]:
        products.fp32_precision = before[1]


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("inherited", ["none", "ieee", "tf32"])
def test_a_setting_that_follows_the_general_one_follows_it_afterwards(name: str, inherited: str) -> None:
    products.fp32_precision = "none"
    general.fp32_precision = inherited
    with CONTEXTS[name]():
        pass
    assert products.fp32_precision == inherited
    for value in ("ieee", "tf32"):
        general.fp32_precision = value
        assert products.fp32_precision == value


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_setting_of_its_own_is_its_own_afterwards(name: str) -> None:
    general.fp32_precision, products.fp32_precision = "ieee", "tf32"
    with CONTEXTS[name]():
        pass
    general.fp32_precision = "none"
    assert products.fp32_precision == "tf32"


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_inside_all_settings_are_as_asked_or_full_precision(precision: Any) -> None:
    general.fp32_precision = "tf32"
    with float32_precision(precision, CUDA):
        assert {each.fp32_precision for each in CUDA} == {precision}
    general.fp32_precision = "none"
    with float32_precision("ieee", CUDA + CPU):
        assert {each.fp32_precision for each in CUDA + CPU} <= {"none", "ieee"}
