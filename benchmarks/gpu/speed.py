"""Time of a training step by loop, engine, precision, batch size and network, in turns in one process."""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch.autograd import DeviceType

from benchmarks import step as step_benchmark
from benchmarks.gpu.kit import Results, Setup
from benchmarks.machine import ceilings, synchronize
from benchmarks.step import LAZY, Arm, Step
from gan_mhe.config.compose import compose
from gan_mhe.config.documents import PRESETS, load_document
from gan_mhe.rng import generator
from gan_mhe.training.trainer import Trainer

ROUNDS = 7
_WARM_UP = 6 * LAZY  # steps until the last graph of an arm with an interval is recorded and replayed
_IMAGES_AT_ONCE = (256, 1024)


def run(setup: Setup, results: Results) -> None:
    """Time all arms at each batch size, the ResNets and sampling, and count the kernels of a step."""
    sizes = (4,) if setup.tiny else (64, 256)
    results.measure(f"batch_{sizes[0]}", lambda: official(setup, sizes[0], results))
    results.measure("kernels", lambda: kernels(setup, sizes[0]))
    results.measure("resnet", lambda: resnets(setup, results))
    for count in (4,) if setup.tiny else _IMAGES_AT_ONCE:
        results.measure(f"sampling_{count}", lambda count=count: sampling(setup, count))
    for batch in sizes[1:]:
        results.measure(f"batch_{batch}", lambda batch=batch: official(setup, batch, results))


def arms(setup: Setup) -> list[Arm]:
    """The plain loop, and ours in each precision: captured with and without MHE and at an interval, and eager."""
    cuda = setup.device == "cuda"
    chosen = [Arm(None), Arm(None, mhe=False)]
    for precision in ("bf16", "tf32", "float32") if cuda else ("float32",):
        chosen += [Arm(precision), Arm(precision, mhe=False), Arm(precision, interval=LAZY)]
        chosen += [Arm(precision, engine="eager")] if cuda else []
    return chosen


def official(setup: Setup, batch: int, results: Results) -> dict[str, Any]:
    """The official networks; figures as `benchmarks.step.figures` defines them."""
    sizes = shared_setup(setup, batch)
    device = torch.device(setup.device)
    steps = {arm: _warmed_up(step_benchmark.make_step(arm, sizes)) for arm in arms(setup)}
    best = ceilings(device)
    seconds: dict[str, list[float]] = {}
    for number in range(1 if setup.tiny else ROUNDS):
        if number >= 3 and results.seconds_left() < 0:
            break
        for arm, step in steps.items():
            for suffix, value in step_benchmark.block(step, arm.interval, sizes).items():
                seconds.setdefault(arm.name + suffix, []).append(value)
    counted = [arm for arm in steps if arm.precision and arm.mhe and arm.engine == "auto" and arm.interval == 1]
    costs = {arm.name: step_benchmark.step_cost(arm, sizes) for arm in counted}
    figures = step_benchmark.figures(seconds, costs, best)
    return {
        "seconds_by_round": seconds,
        "ceilings": best,
        "cost_per_step": {name: asdict(cost) for name, cost in costs.items()},
        "figures": figures,
        "goals": [step_benchmark.verdict(goal, figures, sizes) for goal in step_benchmark.CUDA_GOALS],
    }


def shared_setup(setup: Setup, batch: int) -> step_benchmark.Setup:
    """The step benchmark's own settings for a short block."""
    width, seconds = (1 / 32, 0.01) if setup.tiny else (1.0, 0.25)
    return step_benchmark.Setup(setup.device, batch, width, threads=torch.get_num_threads(), block_seconds=seconds)


def resnets(setup: Setup, results: Results) -> dict[str, Any]:
    """Milliseconds of a step of the ResNet preset, five discriminator updates each."""
    sizes = shared_setup(setup, 4 if setup.tiny else 64)
    precisions = ("bf16", "tf32", "float32") if setup.device == "cuda" else ("float32",)
    steps = {
        f"{variant}/{precision}": _warmed_up(_resnet_step(setup, variant, precision))
        for variant in ("spectral_norm", "mhe_sn", "wgan_gp")
        for precision in precisions
    }
    found: dict[str, list[float]] = {}
    for _ in range(1 if setup.tiny else 3):
        for name, step in steps.items():
            found.setdefault(name, []).append(1000 * step_benchmark.block(step, 1, sizes)[""])
    return {"milliseconds": {name: step_benchmark.summary(values) for name, values in found.items()}}


def _resnet_step(setup: Setup, variant: str, precision: str) -> Step:
    width = 1 / 32 if setup.tiny else 1.0
    overrides = {
        "data": {"name": "synthetic"},
        "generator": {"width": width},
        "discriminator": {"width": width},
        "training": {"precision": precision, "n_dis": 1 if setup.tiny else 5},
        "evaluation": {"protocol": "none"},
    }
    config = compose(load_document(PRESETS / "cifar10_resnet.toml"), variant=variant, overrides=overrides)
    images = torch.randint(256, (1024, 3, 32, 32), dtype=torch.uint8, generator=generator("cpu", 0, "benchmark/images"))
    trainer = Trainer(config, images, torch.device(setup.device))
    return numbered(trainer)


def numbered(trainer: Trainer) -> Step:
    """A function that makes the trainer's next step."""
    number = 0

    def step() -> None:
        nonlocal number
        trainer.set_step(number)
        trainer.step()
        number += 1

    return step


def _warmed_up(step: Step) -> Step:
    for _ in range(_WARM_UP):
        step()
    return step


def kernels(setup: Setup, batch: int) -> dict[str, Any]:
    """Kernels of one step, the time they keep the device busy, and the ten most expensive: eager, and captured."""
    if setup.device != "cuda":
        return {"kernels": None}
    found = {}
    for engine in ("eager", "auto"):
        step = _warmed_up(step_benchmark.make_step(Arm("bf16", engine=engine), shared_setup(setup, batch)))
        found[engine] = _profiled(step)
    return found


def _profiled(step: Callable[[], object]) -> dict[str, Any]:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    begin = min(event.time_range.start for event in events)
    end = max(event.time_range.end for event in events)
    by_name: dict[str, list[float]] = {}
    for event in events:
        by_name.setdefault(event.name[:80], []).append(event.time_range.elapsed_us())
    dearest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:10]
    return {
        "kernels": len(events),
        "busy_milliseconds": sum(event.time_range.elapsed_us() for event in events) / 1000,
        "span_milliseconds": (end - begin) / 1000,
        "dearest": [{"name": name, "count": len(us), "milliseconds": sum(us) / 1000} for name, us in dearest],
    }


def sampling(setup: Setup, count: int) -> dict[str, Any]:
    """Images per second of the official generator, `count` at once, without encoding."""
    sizes = shared_setup(setup, 4 if setup.tiny else 64)
    device = torch.device(setup.device)
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    config = step_benchmark.configuration(Arm("float32"), sizes)
    trainer = Trainer(config, images, device)
    latents = torch.randn(count, config.generator.latent_dim, device=device)
    draw = _warmed_up(lambda: trainer.generate(latents))
    synchronize(device)
    rates = [count / step_benchmark.block(draw, 1, sizes)[""] for _ in range(1 if setup.tiny else 5)]
    return {"images_per_second": statistics.median(rates)}
