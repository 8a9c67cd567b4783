"""`data.json`: every number of a report, with the run that it comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gan_mhe.comparison.inference import ALPHA, CONFIDENCE
from gan_mhe.comparison.results import Comparison
from gan_mhe.config.summaries import SUMMARIES
from gan_mhe.records.events import encode_number
from gan_mhe.study.report.data import ArmReport, RunReport, Spread, StudyReport, means
from gan_mhe.study.report.environment import distinct

_OWN_KEYS = ("seed", "variant")


def document(report: StudyReport) -> dict[str, Any]:
    """The report as JSON values; non-finite numbers as strings."""
    contents: dict[str, Any] = {
        "study": report.study.model_dump(mode="json"),
        "protocol": protocol(report),
        "runs": [_run(run, report.study.metric) for run in report.runs()],
        "comparison": _comparison(report.by_steps),
        "comparison_at_equal_wall_time": _comparison(report.by_time),
        "arms": {arm.arm.name: _arm(arm, report.reference()) for arm in report.arms},
        "environment": distinct(report.environments()),
    }
    encoded: dict[str, Any] = _encode(contents)
    return encoded


def protocol(report: StudyReport) -> dict[str, Any]:
    """What all arms share: data, models, training and scoring, and the number of evaluations of each run."""
    config = report.reference().config
    scored = [run.score for run in report.runs() if run.score is not None and run.score.final is not None]
    return {
        "data": config.data.name,
        "image_size": config.data.image_size,
        **SUMMARIES[config.task].facts(config),
        "seeds": list(report.study.seeds),
        "scoring": config.evaluation.protocol,
        "fingerprint": report.by_steps.fingerprint if report.by_steps else None,
        "evaluations": max((score.evaluations for score in scored), default=0),
        "real": dict(scored[0].real or {}) if scored else None,
    }


def changes(arm: ArmReport, reference: ArmReport) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which an arm differs from the reference, with the reference's value and its own.

    If one of the two lacks a section, its values for the keys of the section are None. The section itself is left out.
    """
    mine, theirs = arm.config.identity(), reference.config.identity()
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if key not in _OWN_KEYS]
    sections = {key.rpartition(".")[0] for key in keys}
    return {
        key: (theirs.get(key), mine.get(key))
        for key in keys
        if theirs.get(key) != mine.get(key) and key not in sections
    }


def _run(run: RunReport, metric: str) -> dict[str, Any]:
    score = run.score
    return {
        "arm": run.arm,
        "seed": run.seed,
        "status": run.status,
        "message": run.message,
        "run_dir": run.run_dir,
        "config_digest": run.digest,
        "source_revision": run.environment.get("source_revision"),
        "train_seconds": run.train_seconds,
        "final": score.final if score else None,
        "best": score.best if score else None,
        "evaluations": score.evaluations if score else None,
        "fingerprint": score.fingerprints.get(metric) if score else None,
        "curve": [asdict(point) for point in run.curve],
        "gradient_ratio": means(run.ratios),
        "strength": means(run.strengths),
        "grid": f"{run.run_dir}/samples/{run.grid.name}" if run.grid else None,
    }


def _arm(arm: ArmReport, reference: ArmReport) -> dict[str, Any]:
    return {
        "digest_without_seed": arm.config.digest("without_seed"),
        "differs_from_reference": {key: list(values) for key, values in changes(arm, reference).items()},
        "train_seconds_mean": arm.train_seconds(),
        "gradient_ratio_mean": arm.ratios(),
        "strength_mean": arm.strengths(),
        "curve": _spreads(arm.curve()),
        "gradient_ratio": {name: _spreads(curve) for name, curve in arm.ratio_curves().items()},
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
