"""What people and programs read of a campaign."""

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.campaign.auditor import Report
from benchmarks.campaign.rounds import Round


class Record:
    """Prints a line for each round, and writes rounds.jsonl and summary.json."""

    def __init__(self, out: Path, seed: int, skipped: Mapping[str, str]) -> None:
        self._out = out
        self._seed = seed
        self._skipped = skipped
        self._rounds: list[Round] = []
        for name, why in skipped.items():
            say(f"skipped: {name}: {why}")
        say(f"{'round':>5}  {'harm':<34} {'after':>6}  {'ready':>6}  {'settled':>7}  {'audited':<24} verdict")

    def add(self, done: Round) -> None:
        """Print and store one round."""
        self._rounds.append(done)
        audited = f"{done.checkpoints} checkpoints, {done.compared} runs"
        verdict = f"FAILED  {done.detail}" if done.failures else f"ok  {done.detail}"
        say(
            f"{done.number:>5}  {done.harm:<34} {_seconds(done.moment_seconds):>6}  {_seconds(done.ready_seconds):>6}  "
            f"{_seconds(done.settled_seconds):>7}  {audited:<24} {verdict}"
        )
        for failure in done.failures:
            say(f"       {failure}")
        with open(self._out / "rounds.jsonl", "a") as file:
            file.write(json.dumps(done.document()) + "\n")

    def summarize(self, final: Report, minutes: float) -> dict[str, Any]:
        """Write and print the summary. final: the audit of everything at the end."""
        document = _summary(self._rounds, final) | {
            "seed": self._seed,
            "minutes": round(minutes, 1),
            "skipped": dict(self._skipped),
        }
        (self._out / "summary.json").write_text(json.dumps(document, indent=2) + "\n")
        say("")
        for key, value in document.items():
            if key != "failures":
                say(f"{key.replace('_', ' '):<20} {_shown(value)}")
        for failure in document["failures"]:
            say(f"FAILED in round {failure['round']} ({failure['harm']}, {failure['at']}): {failure['what']}")
        say(f"{len(document['failures'])} failures; see {self._out}")
        return document


def _summary(rounds: Sequence[Round], final: Report) -> dict[str, Any]:
    harms: dict[str, dict[str, int]] = {}
    for each in rounds:
        names = harms.setdefault(each.group, {})
        names[each.harm] = names.get(each.harm, 0) + 1
    failures = [
        {"round": each.number, "seed": each.seed, "harm": each.harm, "at": each.started_at, "what": what}
        for each in rounds
        for what in each.failures
    ]
    at = rounds[-1].started_at if rounds else ""
    failures += [
        {"round": len(rounds), "harm": "audit of everything", "at": at, "what": what} for what in final.failures
    ]
    return {
        "rounds": len(rounds),
        "kills": sum(each.kills for each in rounds),
        "harms": harms,
        "recoveries": _spread([each.ready_seconds for each in rounds if each.ready_seconds is not None]),
        "settlings": _spread([each.settled_seconds for each in rounds if each.settled_seconds is not None]),
        "checkpoints_audited": final.checkpoints,
        "twins_compared": final.compared,
        "largest_rss_bytes": max((each.rss_bytes for each in rounds), default=0),
        "most_open_files": max((each.open_files for each in rounds), default=0),
        "failures": failures,
    }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {"count": 0}
    return {
        "count": len(seconds),
        "median_seconds": round(statistics.median(seconds), 2),
        "longest_seconds": round(max(seconds), 2),
    }


def _shown(value: Any) -> str:
    return ", ".join(f"{key} {_shown(each)}" for key, each in value.items()) if isinstance(value, dict) else str(value)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
