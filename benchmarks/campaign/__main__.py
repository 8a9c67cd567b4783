"""The command line of the campaign; exits 1 if anything failed."""

import argparse
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.campaign.auditor import Report
from benchmarks.campaign.harms import HARMS
from benchmarks.campaign.report import Record, say
from benchmarks.campaign.rounds import Campaign
from benchmarks.campaign.twins import Arm
from gan_mhe.errors import nearest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; return the exit code."""
    options = _options(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it leaves as little behind as after Ctrl-C
    out = options.out.resolve()
    out.mkdir(parents=True)
    arms = [Arm(variant, seed, options.steps) for seed in range(options.seeds) for variant in options.variants]
    campaign = Campaign(out, options.seed, arms, options.jobs)
    began, failed = time.monotonic(), True
    try:
        campaign.start()
        makers, skipped = campaign.usable({name: HARMS[name] for name in options.harms})
        say(f"seed {options.seed}, {options.minutes:g} minutes, {len(makers)} kinds of harm, results in {out}")
        record, final = Record(out, options.seed, skipped), None
        try:
            for done in campaign.run(makers):
                record.add(done)
                if time.monotonic() - began >= 60 * options.minutes or done.number == options.rounds:
                    final = campaign.final_audit()
                    break
        except KeyboardInterrupt:
            say("interrupted")
        final = final or Report(["the campaign ended early, without this audit"])
        failed = bool(record.summarize(final, (time.monotonic() - began) / 60)["failures"])
    finally:
        campaign.close(keep=failed)
    return int(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaign", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new directory for the results")
    parser.add_argument("--minutes", type=float, default=60, help="no round starts later than this")
    parser.add_argument("--rounds", type=int, help="stop after so many rounds")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="determines harms, moments and jobs")
    parser.add_argument("--harms", type=_harm, nargs="+", default=list(HARMS), metavar="HARM", help=", ".join(HARMS))
    parser.add_argument("--jobs", type=int, default=2, help="jobs submitted in a round")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds of each variant")
    parser.add_argument("--variants", nargs="+", default=["spectral_norm", "mhe_sn"], help="variants that are trained")
    parser.add_argument("--steps", type=int, default=120, help="steps of a training")
    options = parser.parse_args(arguments)
    if options.out.exists():
        parser.error(f"--out: {options.out} exists")
    return options


def _harm(name: str) -> str:
    if name not in HARMS:
        raise argparse.ArgumentTypeError(f"unknown harm {name!r}{nearest(name, HARMS)}")
    return name


if __name__ == "__main__":
    raise SystemExit(main())
