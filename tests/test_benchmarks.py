"""The step benchmark's own arithmetic: its reference loop, its counts, its processes, its figures."""

import dataclasses
import io
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from benchmarks import machine, plain, step
from gan_mhe.constraints.select import layer_weights
from gan_mhe.sphere import hyperspherical_energy
from gan_mhe.sphere.gram import gram

TINY = step.Setup(device="cpu", batch=4, width=0.03125, threads=1, block_seconds=0.0)


@pytest.fixture
def loop() -> plain.PlainLoop:
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return plain.PlainLoop(images, 4, torch.device("cpu"), mhe=True, width=0.03125)


# --- the plain loop


def test_the_plain_loop_adds_the_energy_that_ours_adds(loop: plain.PlainLoop) -> None:
    loop.discriminator.double()
    ours = [
        hyperspherical_energy(layer.weight_ND) for layer in layer_weights(loop.discriminator) if not layer.is_output
    ]
    assert len(ours) == 7
    torch.testing.assert_close(loop.energy(), torch.stack(ours).sum(), rtol=1e-12, atol=0)


def test_the_plain_loop_trains_both_networks_on_its_losses(loop: plain.PlainLoop) -> None:
    before = {name: value.clone() for name, value in loop.discriminator.named_parameters()}
    energy = loop.energy().item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        d_loss, g_loss = loop.step()
    # Untrained logits are near 0, where each softplus is log 2.
    assert d_loss == pytest.approx(2 * torch.tensor(2.0).log().item() + energy, abs=0.1)
    assert g_loss == pytest.approx(torch.tensor(2.0).log().item(), abs=0.1)
    assert all(not torch.equal(before[name], value) for name, value in loop.discriminator.named_parameters())
    assert loop.energy().item() < energy


# --- counts


def test_a_product_counts_two_operations_a_multiplication_and_each_matrix_once() -> None:
    left, right = torch.randn(5, 7), torch.randn(7, 3)
    assert machine.cost(lambda: left @ right) == machine.Cost(2 * 5 * 7 * 3, 4 * (5 * 7 + 7 * 3 + 5 * 3))


def test_a_convolution_counts_its_forward_and_both_of_its_backward_passes() -> None:
    layer = nn.Conv2d(3, 8, 4, stride=2, padding=1, bias=False)
    images = torch.randn(2, 3, 16, 16, requires_grad=True)
    one_pass = 2 * 2 * 8 * 3 * 4 * 4 * 8 * 8  # two, images, filters, channels, window, places
    assert machine.cost(lambda: F.conv2d(images, layer.weight, stride=2, padding=1)).flops == one_pass
    both = machine.cost(lambda: torch.autograd.grad(layer(images).sum(), [images, layer.weight]))
    assert both.flops == 3 * one_pass
    weight_alone = machine.cost(lambda: torch.autograd.grad(layer(images.detach()).sum(), [layer.weight]))
    assert weight_alone.flops == 2 * one_pass


def test_a_gram_product_counts_in_full_and_its_backward_pass_as_one_product() -> None:
    weight_ND = torch.randn(6, 11, requires_grad=True)
    assert machine.cost(lambda: gram(weight_ND)).flops == 2 * 6 * 6 * 11
    assert machine.cost(lambda: torch.autograd.grad(gram(weight_ND).sum(), [weight_ND])).flops == 2 * 2 * 6 * 6 * 11


def test_a_matrix_by_a_vector_counts_two_operations_an_entry() -> None:
    assert machine.cost(lambda: torch.randn(4, 9) @ torch.randn(9)).flops == 2 * 4 * 9


def test_views_and_fresh_memory_move_nothing() -> None:
    images = torch.randn(2, 3, 4)
    assert machine.cost(lambda: images.view(6, 4).t()[1:].detach().expand(2, 3, 6)).bytes == 0
    assert machine.cost(lambda: torch.empty_like(images)).bytes == 0


def test_an_operation_in_place_moves_what_it_reads_and_what_it_writes() -> None:
    target, source = torch.zeros(10), torch.ones(10)
    assert machine.cost(lambda: target.add_(source)).bytes == 3 * 40
    assert machine.cost(lambda: target.copy_(source)).bytes == 2 * 40
    assert machine.cost(lambda: target.zero_()).bytes == 40
    assert machine.cost(lambda: torch._foreach_add_([target], [source])).bytes == 3 * 40


def test_a_repeated_row_is_read_once() -> None:
    row = torch.ones(1, 10)
    assert machine.cost(lambda: row.expand(5, 10) + 1.0).bytes == 40 + 5 * 40


def test_the_step_of_ours_saves_operations_against_the_plain_one() -> None:
    plainly, ours = (step.step_cost(step.Arm(precision), TINY) for precision in (None, "float32"))
    assert 0.8 * plainly.flops < ours.flops < plainly.flops


# --- arms


def test_an_arm_is_a_process_that_answers_with_the_seconds_of_a_step() -> None:
    with step.started(step.Arm("bf16", interval=4), TINY) as arm:
        assert arm.refused is None
        for _ in range(2):
            found = arm.block()
            assert found.keys() == {"_due", "_other"}
            assert all(0 < seconds < 60 for seconds in found.values())
    assert arm._process.returncode == 0


class Clock:
    """Time that passes only in steps, of which each `interval`-th takes longer."""

    def __init__(self, interval: int) -> None:
        self.now, self.steps, self._interval = 100.0, 0, interval

    def step(self) -> None:
        self.now += 0.5 if self.steps % self._interval else 2.0
        self.steps += 1


@pytest.mark.parametrize(("interval", "seconds", "steps"), [(1, {"": 2.0}, 4), (4, {"_due": 2.0, "_other": 0.5}, 12)])
def test_a_block_tells_the_steps_that_pull_by_mhe_from_the_others(
    monkeypatch: pytest.MonkeyPatch, interval: int, seconds: dict[str, float], steps: int
) -> None:
    clock = Clock(interval)
    monkeypatch.setattr(step.time, "perf_counter", lambda: clock.now)
    found = step.block(clock.step, interval, step.Setup("cpu", 4, 1.0, threads=1, block_seconds=6.5))
    assert found == seconds
    assert clock.steps == steps


def test_an_arm_that_cannot_be_made_here_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("go\n"))
    step.serve(step.Arm("float32", engine="cuda_graph"), TINY)
    (line,) = capsys.readouterr().out.splitlines()
    assert "cuda_graph needs a CUDA device" in json.loads(line)["refused"]


def test_an_arm_that_died_is_named() -> None:
    command = [sys.executable, "-c", "print('{\"refused\": null}'); raise SystemExit(3)"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        arm = step.ArmProcess(step.Arm(None), process)
        process.wait()
        with pytest.raises(RuntimeError, match="arm plain_mhe_sn ended with exit status 3"):
            arm.block()


def test_arms_have_different_names_and_the_configurations_they_say() -> None:
    every = step.arms(torch.device("cpu"))
    assert len({arm.name for arm in every}) == len(every) >= 5
    lazy = step.configuration(step.Arm("bf16", interval=4), TINY)
    assert lazy.constraints.mhe is not None
    assert (lazy.constraints.mhe.interval, lazy.constraints.mhe.lambda_hidden) == (4, 1.0)
    assert (lazy.constraints.normalization, lazy.training.precision) == ("spectral", "bf16")
    without = step.configuration(step.Arm("float32", mhe=False), TINY)
    assert without.constraints.mhe is None
    assert without.constraints.normalization == "spectral"


# --- figures

SECONDS = {
    "plain_mhe_sn": [10.0, 30.0, 8.0],
    "plain_spectral_norm": [5.0, 15.0, 6.0],
    "ours_bf16_mhe_sn": [5.0, 10.0, 2.0],
    "ours_bf16_spectral_norm": [4.0, 9.0, 1.0],
    "ours_bf16_mhe_sn_interval_4_due": [10.0, 10.0, 4.0],
    "ours_bf16_mhe_sn_interval_4_other": [9.0, 8.0, 2.0],
    "ours_bf16_mhe_sn_eager": [20.0, 30.0, 2.0],
}
COSTS = {"ours_bf16_mhe_sn": machine.Cost(flops=40 * 10**9, bytes=10 * 10**9)}
CEILINGS = {"bfloat16": 16.0, "float32": 4.0, "copy": 1.0}


@pytest.mark.parametrize(
    ("figure", "lowest_median_highest"),
    [
        ("speedup_bf16", (2, 3, 4)),
        ("speedup_bf16_without_mhe", (1.25, 15 / 9, 6)),
        ("speedup_bf16_eager", (0.5, 1, 4)),
        ("mhe_share_plain", (0.25, 0.5, 0.5)),
        ("mhe_share_bf16", (0.1, 0.2, 0.5)),
        ("mhe_share_bf16_interval_4", (1 / 37, 2 / 34, 0.2)),
        ("fraction_of_ceiling_bf16", (0.25, 0.5, 1.25)),
        ("fraction_of_copy_bf16", (1, 2, 5)),
        ("milliseconds_bf16", (2000, 5000, 10000)),
        ("recipe_minutes_bf16", (200_000 * 2 / 60, 200_000 * 5 / 60, 200_000 * 10 / 60)),
    ],
)
def test_a_figure_is_formed_within_rounds(figure: str, lowest_median_highest: tuple[float, float, float]) -> None:
    found = step.figures(SECONDS, COSTS, CEILINGS)[figure]
    assert (found["min"], found["median"], found["max"]) == pytest.approx(lowest_median_highest)


def test_figures_of_absent_arms_are_left_out() -> None:
    found = step.figures(SECONDS, COSTS, CEILINGS)
    assert not [name for name in found if "float32" in name or "compiled" in name]


@pytest.mark.parametrize(
    ("at_least", "median", "width", "outcome"),
    [
        (True, 2.5, 1.0, "met"),
        (True, 2.4, 1.0, "missed"),
        (False, 2.5, 1.0, "met"),
        (False, 2.6, 1.0, "missed"),
        (True, 9.0, 0.25, "n/a"),
        (True, None, 1.0, "n/a"),
    ],
)
def test_a_goal_is_met_by_its_median_at_full_size(
    at_least: bool, median: float | None, width: float, outcome: str
) -> None:
    found = {} if median is None else {"speedup_bf16": {"median": median, "min": 0.0, "max": 99.0}}
    setup = step.Setup("cpu", 64, width, threads=1)
    judged = step.verdict(step.Goal("speedup_bf16", at_least, 2.5), found, setup)
    assert (judged["verdict"], judged["value"]) == (outcome, median)
    assert (judged["why"] is not None) == (outcome == "n/a")


def test_every_goal_is_shown_beside_its_figure() -> None:
    found = step.figures(SECONDS, COSTS, CEILINGS)
    setup = step.Setup("cpu", 64, 1.0, threads=1)
    measured = {
        "machine": {"cpu_model": "a processor", "packages": {"torch": "2"}},
        "setup": dataclasses.asdict(setup) | {"rounds": 3},
        "ceilings": CEILINGS,
        "seconds_per_step": {arm: step.summary(values) for arm, values in SECONDS.items()},
        "refused": {"ours_bf16_mhe_sn_compiled": "no compiler"},
        "cost_per_step": {arm: dataclasses.asdict(each) for arm, each in COSTS.items()},
        "figures": found,
        "goals": [step.verdict(goal, found, setup) for goal in step.CPU_GOALS],
    }
    text = io.StringIO()
    step.show(measured, Console(file=text, width=80))
    rows = {words[0]: words[1:] for words in map(str.split, text.getvalue().splitlines()) if words}
    assert rows["speedup_bf16"] == ["3.000", "2.000", "4.000", ">=", "2.5", "met"]
    assert rows["mhe_share_bf16"] == ["0.200", "0.100", "0.500", "<=", "0.08", "missed"]
    assert rows["speedup_float32"] == ["-", "-", "-", ">=", "1.3", "n/a"]
    assert rows["ours_bf16_mhe_sn_compiled:"] == ["no", "compiler"]


@pytest.mark.parametrize("wrong", ["--rounds=0", "--batch=20000", "--width=nan"])
def test_a_size_out_of_range_is_refused_before_anything_starts(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["step.py", wrong])
    with pytest.raises(SystemExit):
        step.main()
    assert f"{wrong.partition('=')[0]}: expected" in capsys.readouterr().err
