"""Schedules as pure functions of the generator step."""

import math

from gan_mhe.config.sections import Schedule


def factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """The factor of `schedule` at `step` (counted from 0) of a run of `total_steps`, in [0, 1].

    During warm-up (step + 1) / warmup_steps; afterwards 1, or a decay that reaches 0 at `total_steps`.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    match schedule.kind:
        case "constant":
            return 1.0
        case "linear_decay":
            return max(0.0, 1.0 - progress)
        case "cosine_decay":
            return (1.0 + math.cos(math.pi * min(1.0, progress))) / 2
