"""Estimates against real steps, free memory against files written for the test, and the refusal of runs."""

import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.errors import MemoryLimitError
from gan_mhe.training import host_memory, memory_estimate
from gan_mhe.training.trainer import Trainer
from gan_mhe.variants import VARIANTS

CPU = torch.device("cpu")
MIB = 2**20
Configure = Callable[..., RunConfig]

# Prints by how much a run raises the peak resident set of a process that has made a tiny run before.
GROWTH = """
import sys, torch
from gan_mhe.config.documents import merge
from gan_mhe.config.run_config import RunConfig
from gan_mhe.training.host_memory import peak_bytes
from gan_mhe.training.trainer import Trainer

def train(document):
    config = RunConfig.model_validate(document)
    trainer = Trainer(config, torch.zeros(64, 3, 32, 32, dtype=torch.uint8), torch.device("cpu"))
    trainer.step()

large = RunConfig.model_validate_json(sys.argv[1]).document()
tiny = {"generator": {"width": 1 / 32}, "discriminator": {"width": 1 / 32}, "training": {"batch_size": 2}}
train(merge(large, tiny))
before = peak_bytes(torch.device("cpu"))
train(large)
print(peak_bytes(torch.device("cpu")) - before)
"""


def wide(make_config: Configure, variant: str = "none", **sections: Any) -> RunConfig:
    """A run four times as wide as in the other tests, large enough for the usual kernels of libraries."""
    usual = {"generator": {"width": 1 / 8}, "discriminator": {"width": 1 / 8}, "training": {"batch_size": 32}}
    return make_config(variant, **merge(usual, sections))


def allocated(trainer: Trainer) -> int:
    """Peak bytes in the trainer's second step, from PyTorch's own record of its CPU allocator."""
    trainer.step()
    trainer.set_step(1)
    parameters = [*trainer.generator.parameters(), *trainer.discriminator.parameters()]
    held = sum(tensor.nbytes for tensor in trainer.state().values() if tensor.ndim)
    held += sum(parameter.grad.nbytes for parameter in parameters if parameter.grad is not None)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        trainer.step()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    most = now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return held + most


def peak_of_tensors(config: RunConfig, images: Tensor) -> int:
    """Peak bytes of all tensors of a real trainer in its second step, in which every penalty is due."""
    ledger = memory_estimate.Ledger()
    with ledger:
        trainer = Trainer(config, images, CPU)
        trainer.step()
        trainer.set_step(0)
        ledger.peak = 0
        trainer.step()
    return ledger.peak


RESNETS = {"generator": {"architecture": "resnet"}, "discriminator": {"architecture": "resnet"}}
LARGE = {"discriminator": {"architecture": "cnn_official", "width": 0.75}, "training": {"batch_size": 2}}


# Weights, and so their penalties, are large beside the activations.
PENALTIES_DOMINATE = {
    "generator": {"width": 1 / 8},
    "discriminator": {"architecture": "cnn_official", "width": 1 / 4},
    "training": {"batch_size": 2},
}


# --- the estimate


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_estimate_of_a_variant_is_the_peak_of_a_real_steps_tensors(
    make_config: Configure, images: Tensor, variant: str
) -> None:
    config = make_config(variant, **PENALTIES_DOMINATE)
    # A CPU computes the projections of CoMHE in pieces.
    least = 0.75 if config.constraints.comhe else 0.98
    assert least < peak_of_tensors(config, images) / memory_estimate.step_bytes(config, 2) < 1.02


def test_the_estimate_of_a_sampled_penalty_is_the_peak_of_a_real_steps_tensors(
    make_config: Configure, images: Tensor, option: tuple[str, Mapping[str, Any]]
) -> None:
    variant, sections = option
    config = make_config(variant, **merge(PENALTIES_DOMINATE, sections))
    least = 0.75 if config.constraints.comhe else 0.98
    assert least < peak_of_tensors(config, images) / memory_estimate.step_bytes(config, 2) < 1.02


@pytest.mark.parametrize("variant", ["batch_norm", "layer_norm", "spectral_norm", "sphere_conv", "wgan_gp"])
def test_the_estimate_with_bfloat16_is_the_peak_of_a_real_steps_tensors(
    make_config: Configure, images: Tensor, variant: str
) -> None:
    config = wide(make_config, variant, training={"precision": "bf16"})
    estimate = memory_estimate.step_bytes(config, config.training.batch_size)
    assert peak_of_tensors(config, images) == pytest.approx(estimate, rel=0.04)


@pytest.mark.parametrize(
    ("variant", "sections"),
    [
        ("none", {}),
        ("none", RESNETS),
        ("none", {"training": {"n_dis": 2}}),
        ("spectral_norm", {"generator": {"ema_halflife_steps": 5}}),
        ("batch_norm", {"loss": "hinge"}),
        ("layer_norm", RESNETS),
        ("mhe", LARGE),
        ("half_angular_mhe", LARGE),
        ("orthonormal", LARGE),
        ("mhe_sn", LARGE),
    ],
)
def test_the_estimate_is_what_the_allocator_gives_out(
    make_config: Configure, images: Tensor, variant: str, sections: dict[str, Any]
) -> None:
    config = wide(make_config, variant, **sections)
    estimate = memory_estimate.step_bytes(config, config.training.batch_size)
    assert allocated(Trainer(config, images, CPU)) == pytest.approx(estimate, rel=0.05)


@pytest.mark.parametrize(
    ("variant", "sections"),
    [
        ("wgan_gp", {}),
        ("wgan_gp", RESNETS),
        ("batch_norm", {"training": {"precision": "float64"}}),
        ("none", {"training": {"precision": "bf16"}}),
        ("none", LARGE),
    ],
)
def test_copies_inside_kernels_stay_within_the_margin(
    make_config: Configure, images: Tensor, variant: str, sections: dict[str, Any]
) -> None:
    config = wide(make_config, variant, **sections)
    estimate = memory_estimate.step_bytes(config, config.training.batch_size)
    assert 0.95 < allocated(Trainer(config, images, CPU)) / estimate < 1.6


def test_a_process_grows_by_about_the_estimate(make_config: Configure) -> None:
    config = make_config(discriminator={"architecture": "cnn_official", "width": 1 / 16}, training={"batch_size": 1024})
    command = [sys.executable, "-c", GROWTH, config.model_dump_json()]
    grown = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert 0.8 < grown / memory_estimate.step_bytes(config, 1024) < 1.6


def test_a_gradient_penalty_is_counted(make_config: Configure) -> None:
    with_penalty, without = (
        wide(make_config, variant, discriminator={"architecture": "resnet"}) for variant in ("gan_gp", "none")
    )
    assert memory_estimate.step_bytes(with_penalty, 32) > 1.1 * memory_estimate.step_bytes(without, 32)


def test_a_moving_average_adds_the_generators_weights(make_config: Configure, images: Tensor) -> None:
    plain, averaged = wide(make_config), wide(make_config, generator={"ema_halflife_steps": 5})
    generator = Trainer(plain, images, CPU).generator
    weights = sum(tensor.nbytes for tensor in (*generator.parameters(), *generator.buffers()))
    assert memory_estimate.step_bytes(averaged, 32) - memory_estimate.step_bytes(plain, 32) == weights


def test_the_estimate_of_a_huge_batch_is_proportional_to_it(make_config: Configure) -> None:
    config = make_config()
    large, larger = memory_estimate.step_bytes(config, 2**28), memory_estimate.step_bytes(config, 2**60)
    assert larger == pytest.approx(2**32 * large, rel=1e-3)


def test_the_latents_of_many_updates_per_step_are_counted(make_config: Configure) -> None:
    config, one = (wide(make_config, training={"n_dis": n_dis}) for n_dis in (10**6 + 1, 1))
    latents = 10**6 * 32 * config.generator.latent_dim * 4
    assert memory_estimate.step_bytes(config, 32) - memory_estimate.step_bytes(one, 32) > latents


def test_so_many_updates_per_step_that_nothing_fits_are_refused_by_name(make_config: Configure) -> None:
    config = make_config(training={"n_dis": 2**50})
    with pytest.raises(MemoryLimitError, match=f"training.n_dis, now {2**50}"):
        memory_estimate.check_fits(config, CPU, data_bytes=0)


def test_an_estimate_draws_no_random_numbers_and_needs_no_memory(make_config: Configure) -> None:
    config = wide(make_config, "spectral_norm")
    memory_estimate.step_bytes(config, 2)  # loads what torch loads at first use
    state, before = torch.random.get_rng_state(), host_memory.peak_bytes(CPU)
    assert memory_estimate.step_bytes(config, 2**20) > 64 * 2**30
    assert host_memory.peak_bytes(CPU) - before < 64 * MIB
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_device() == CPU


# --- the refusal


@pytest.fixture
def leave_free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Let `free_bytes` report this number."""
    return lambda free: monkeypatch.setattr(host_memory, "free_bytes", lambda device: free)


def suggested_batch_size(message: str) -> int:
    return int(message.rpartition("; ")[2].removesuffix(" would fit").replace(",", ""))


@pytest.mark.parametrize("free", [128 * MIB, 2**30, 21 * 2**30])
def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(
    make_config: Configure, leave_free: Callable[[int | None], None], free: int
) -> None:
    leave_free(free)
    config = wide(make_config, training={"batch_size": 65536 * 8})
    with pytest.raises(
        MemoryLimitError, match=r"batch_size = 524288 needs about [\d.]+ GiB, .* free on cpu; "
    ) as caught:
        memory_estimate.check_fits(config, CPU, data_bytes=0)
    size = suggested_batch_size(str(caught.value))
    assert free / 3 < memory_estimate.step_bytes(config, size) < free / 1.5
    memory_estimate.check_fits(wide(make_config, training={"batch_size": size}), CPU, data_bytes=0)


def test_networks_too_large_for_any_batch_are_refused_and_their_widths_named(
    make_config: Configure, leave_free: Callable[[int | None], None]
) -> None:
    leave_free(2**30)
    config = make_config(generator={"width": 8}, discriminator={"width": 0.5})
    with pytest.raises(
        MemoryLimitError,
        match=r"even 2 needs .* generator\.width, now 8, discriminator\.width, now 0\.5, or training\.",
    ):
        memory_estimate.check_fits(config, CPU, data_bytes=0)


def test_a_run_that_fits_closely_is_not_refused(
    make_config: Configure, leave_free: Callable[[int | None], None]
) -> None:
    config = wide(make_config, training={"batch_size": 512})
    leave_free(memory_estimate.step_bytes(config, 512))
    memory_estimate.check_fits(config, CPU, data_bytes=0)


def test_images_still_to_be_copied_count(make_config: Configure, leave_free: Callable[[int | None], None]) -> None:
    leave_free(2**30)
    with pytest.raises(MemoryLimitError, match="even 2"):
        memory_estimate.check_fits(wide(make_config), CPU, data_bytes=2**31)


def test_nothing_is_refused_if_free_memory_is_unknown(
    make_config: Configure, leave_free: Callable[[int | None], None]
) -> None:
    leave_free(None)
    memory_estimate.check_fits(make_config(training={"batch_size": 2**40}), CPU, data_bytes=0)


# --- free and peak memory


def host(root: Path, files: dict[str, str]) -> Path:
    for name, content in {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    4096 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_without_control_groups_the_kernels_number_is_free(tmp_path: Path) -> None:
    assert host_memory.free_on_host(host(tmp_path, {})) == 4096 * 1024


def test_free_memory_is_unknown_without_proc(tmp_path: Path) -> None:
    assert host_memory.free_on_host(tmp_path) is None


@pytest.mark.parametrize(
    ("limits", "free"),
    [
        ({"a/b/memory.max": "3000000", "a/b/memory.current": "1000000"}, 2_000_000),
        ({"a/memory.max": "3000000", "a/memory.current": "1000000", "a/b/memory.max": "max"}, 2_000_000),
        ({"memory.max": "3000000", "memory.current": "1000000"}, 2_000_000),
        ({"a/b/memory.max": "max\n", "a/b/memory.current": "1000000"}, 4096 * 1024),
        ({"a/b/memory.max": "9000000", "a/b/memory.current": "1000000"}, 4096 * 1024),
    ],
)
def test_the_smallest_limit_above_the_process_decides(tmp_path: Path, limits: dict[str, str], free: int) -> None:
    files = {f"sys/fs/cgroup/{name}": content for name, content in limits.items()}
    assert host_memory.free_on_host(host(tmp_path, {"proc/self/cgroup": "0::/a/b\n", **files})) == free


def test_groups_of_version_1_are_read(tmp_path: Path) -> None:
    top = "sys/fs/cgroup/memory/a"
    files = {f"{top}/memory.limit_in_bytes": "3000000", f"{top}/memory.usage_in_bytes": "1000000"}
    groups = "5:devices:/x\n4:cpu,memory:/a\n0::/\n"
    assert host_memory.free_on_host(host(tmp_path, {"proc/self/cgroup": groups, **files})) == 2_000_000


def test_cached_file_pages_of_a_group_are_free(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a\n",
        "sys/fs/cgroup/a/memory.max": "3000000",
        "sys/fs/cgroup/a/memory.current": "1000000",
        "sys/fs/cgroup/a/memory.stat": "anon 1\nactive_file 300000\ninactive_file 400000\n",
    }
    assert host_memory.free_on_host(host(tmp_path, files)) == 2_700_000


def test_this_machine_has_memory_free() -> None:
    free = host_memory.free_bytes(CPU)
    assert free is not None and free > 16 * MIB


def test_the_peak_includes_memory_that_was_freed() -> None:
    before = host_memory.peak_bytes(CPU)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    block = torch.ones((before - resident + 256 * MIB) // 4)
    del block
    assert host_memory.peak_bytes(CPU) > before + 64 * MIB


def test_the_peak_excludes_that_of_the_parent_process(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = SimpleNamespace(ru_maxrss=2**40)
    monkeypatch.setattr(resource, "getrusage", lambda who: inherited)
    assert host_memory.peak_bytes(CPU) < 2**50


def test_without_proc_the_peak_is_that_of_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    assert host_memory.peak_bytes(CPU) == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
