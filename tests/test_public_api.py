"""The names that `import gan_mhe` offers."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

import gan_mhe

NAMES = ("RunConfig", "VARIANTS", "train", "sample", "score", "compare")


def loads_torch(code: str) -> bool:
    program = f"import sys, gan_mhe; {code}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout == "True\n"


def test_importing_the_package_loads_no_torch() -> None:
    assert not loads_torch("gan_mhe.__version__")


def test_names_without_computation_load_no_torch() -> None:
    assert not loads_torch("gan_mhe.RunConfig, gan_mhe.VARIANTS, gan_mhe.compare")


def test_names_that_compute_load_torch_on_first_use() -> None:
    assert loads_torch("gan_mhe.train")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_object_that_the_documentation_names(name: str) -> None:
    line = next(line for line in (gan_mhe.__doc__ or "").splitlines() if line.split()[:1] == [name])
    module, _, attribute = line.split()[-1].rpartition(".")
    assert getattr(gan_mhe, name) is getattr(import_module(module), attribute)


def test_all_names_are_listed() -> None:
    assert set(gan_mhe.__all__) == {*NAMES, "__version__"}


def test_the_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gan_mhe.__version__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gan_mhe' has no attribute 'trian'"):
        gan_mhe.trian  # noqa: B018
