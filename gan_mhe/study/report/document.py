"""`data.json`: every number that a report states, so that each can be traced to runs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gan_mhe.comparison.inference import ALPHA, CONFIDENCE
from gan_mhe.comparison.results import Comparison
from gan_mhe.records.events import encode_number
from gan_mhe.study.report.data import ArmReport, CellReport, Spread, StudyReport, means
from gan_mhe.study.report.environment import distinct

_OWN_KEYS = ("seed", "variant")


def document(report: StudyReport) -> dict[str, Any]:
    """The report as JSON values; non-finite numbers by name."""
    contents: dict[str, Any] = {
        "study": report.study.model_dump(mode="json"),
        "protocol": protocol(report),
        "cells": [_cell(cell, report.study.metric) for cell in report.cells()],
        "comparison": _comparison(report.by_steps),
        "comparison_at_equal_wall_time": _comparison(report.by_time),
        "arms": {arm.arm.name: _arm(arm, report.reference()) for arm in report.arms},
        "environment": distinct(report.environments()),
    }
    encoded: dict[str, Any] = _encode(contents)
    return encoded


def protocol(report: StudyReport) -> dict[str, Any]:
    """What all arms share: data, length, batch, scoring and how often each run was scored."""
    config = report.reference().config
    scored = [cell.score for cell in report.cells() if cell.score is not None and cell.score.final is not None]
    return {
        "data": config.data.name,
        "image_size": config.data.image_size,
        "generator": f"{config.generator.architecture}, width {config.generator.width:g}",
        "discriminator": f"{config.discriminator.architecture}, width {config.discriminator.width:g}",
        "steps": config.training.steps,
        "batch_size": config.training.batch_size,
        "discriminator_updates_per_step": config.training.n_dis,
        "precision": config.training.precision,
        "seeds": list(report.study.seeds),
        "scoring": config.evaluation.protocol,
        "fingerprint": report.by_steps.fingerprint if report.by_steps else None,
        "evaluations": max((score.evaluations for score in scored), default=0),
        "real": dict(scored[0].real or {}) if scored else None,
    }


def changes(arm: ArmReport, reference: ArmReport) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which an arm differs from the reference: the reference's value, and its own.

    A key that belongs to a section that one of them has not is None there; so is the absent section itself, which is
    left out beside its keys.
    """
    mine, theirs = arm.config.identity(), reference.config.identity()
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if key not in _OWN_KEYS]
    sections = {key.rpartition(".")[0] for key in keys}
    return {
        key: (theirs.get(key), mine.get(key))
        for key in keys
        if theirs.get(key) != mine.get(key) and key not in sections
    }


def _cell(cell: CellReport, metric: str) -> dict[str, Any]:
    score = cell.score
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "status": cell.status,
        "message": cell.message,
        "place": cell.place,
        "config_digest": cell.digest,
        "source_revision": cell.environment.get("source_revision"),
        "train_seconds": cell.train_seconds,
        "final": score.final if score else None,
        "best": score.best if score else None,
        "evaluations": score.evaluations if score else None,
        "fingerprint": score.fingerprints.get(metric) if score else None,
        "curve": [asdict(point) for point in cell.curve],
        "gradient_ratio": means(cell.ratios),
        "strength": means(cell.strengths),
        "grid": f"{cell.place}/samples/{cell.grid.name}" if cell.grid else None,
    }


def _arm(arm: ArmReport, reference: ArmReport) -> dict[str, Any]:
    return {
        "digest_without_seed": arm.config.digest("without_seed"),
        "differs_from_reference": {key: list(values) for key, values in changes(arm, reference).items()},
        "train_seconds_mean": arm.train_seconds(),
        "gradient_ratio_mean": arm.ratios(),
        "strength_mean": arm.strengths(),
        "curve": _spreads(arm.curve()),
        "gradient_ratio": {name: _spreads(curve) for name, curve in arm.pulls().items()},
        "energy": _spreads(arm.energy()),
        "angle_radians": _spreads(arm.angle()),
    }


def _spreads(spreads: Sequence[Spread]) -> list[dict[str, Any]]:
    return [asdict(spread) for spread in spreads]


def _comparison(comparison: Comparison | None) -> dict[str, Any] | None:
    return None if comparison is None else {"confidence": CONFIDENCE, "alpha": round(ALPHA, 2), **asdict(comparison)}


def _encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    return encode_number(value)
