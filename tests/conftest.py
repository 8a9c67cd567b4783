"""What tests of whole runs share: caches of their own, one thread, tiny configurations, the command as a process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gan_mhe.config import compose, documents
from gan_mhe.config.run_config import RunConfig
from tests.support.forked import Piped, Start, fork_piped

# One thread: tests run side by side, and two threads on a busy core are slower than one. Set before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Most tests that start a service train nothing in it: its fork server would load PyTorch for each of them.
os.environ.setdefault("GAN_MHE_WARM_START", "false")

_TINY = (
    "discriminator.width=0.03125",
    "generator.width=0.03125",
    "generator.latent_dim=16",
    "training.batch_size=4",
    "training.steps=12",
    "training.report_every_steps=3",
    "training.device=cpu",
    "sampling.every_steps=4",
    "sampling.num_images=4",
    "evaluation.num_samples=100",
    "evaluation.every_steps=0",
    "checkpoint.every_steps=5",
)
_MAIN = "from server.cli.app import main; main()"

Configure = Callable[..., RunConfig]


@pytest.fixture(scope="session", autouse=True)
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Decoded data and reference features of this test run alone."""
    path = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GAN_MHE_CACHE", str(path))
        yield path


@pytest.fixture(scope="session")
def tiny_keys() -> tuple[str, ...]:
    """`key=value` overrides that make 12 steps of any preset a matter of half a second."""
    return _TINY


@pytest.fixture(scope="session")
def tiny() -> Configure:
    """A preset, `debug_cpu` unless named, made tiny; further `key=value` overrides go on top."""

    def configure(*overrides: str, preset: str = "debug_cpu", variant: str | None = None, seed: int = 0) -> RunConfig:
        document = documents.load_document(documents.PRESETS / f"{preset}.toml")
        tables = compose.parse_overrides([*_TINY, *overrides])
        return compose.compose(document, variant=variant, seed=seed, overrides=tables)

    return configure


@pytest.fixture
def start_command(tmp_path: Path) -> Iterator[Start]:
    """Start `gan-mhe` with the given arguments as a process in `tmp_path`; `before` is Python to run in it first."""
    started: list[Piped] = []

    def start(*arguments: str, before: str = "") -> Piped:
        code = f"{before}\n{_MAIN}"
        process = fork_piped(code, arguments, cwd=tmp_path, environment=dict(os.environ))
        started.append(process)
        return process

    yield start
    for process in started:
        process.destroy()
