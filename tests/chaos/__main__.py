"""``PYTHONPATH=tests python -m chaos --rounds 50 [--seed N] [--only TARGET] [--push KIND]``: exit code 1 if anything was not right."""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from chaos.rounds import MORE_TARGETS, Outcome, With, arena

#: `up` gives up on a service that ends five times within a minute, as it should.
BETWEEN_KILLS_SECONDS = 16.0


def main() -> None:
    """Run the rounds, each target in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--only", choices=MORE_TARGETS)
    parser.add_argument("--push", choices=list(With), type=With, default=With.BOTH, help="what with")
    parser.add_argument("--keep", action="store_true", help="keep the directory with its logs")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    base = Path(tempfile.mkdtemp(prefix="cp-chaos-"))
    print(f"seed {args.seed}, {args.rounds} rounds, in {base}")
    targets = [args.only] if args.only else MORE_TARGETS
    outcomes: list[Outcome] = []
    problems = 0
    try:
        with arena(base, seed=args.seed) as a:
            for number in range(1, args.rounds + 1):
                began = time.monotonic()
                outcome = a.round(number, targets[(number - 1) % len(targets)], args.push)
                outcome.problems += a.verify_audit()
                outcomes.append(outcome)
                problems += len(outcome.problems)
                _tell(outcome)
                time.sleep(max(0.0, BETWEEN_KILLS_SECONDS / len(targets) - (time.monotonic() - began)))
            left = a.settle() + a.verify_audit()
            problems += len(left)
            print(*left, a.aftermath.summary(), sep="\n")
    finally:
        if not args.keep and not problems:
            shutil.rmtree(base, ignore_errors=True)
    _summarise(outcomes)
    sys.exit(1 if problems else 0)


def _tell(outcome: Outcome) -> None:
    word = "right" if not outcome.problems else "WRONG"
    print(
        f"{outcome.number:4} {outcome.target:9} killed after {outcome.after:4.2f} s, {outcome.open} pushes open, "
        f"verdicts after {outcome.took:5.1f} s: {word}{outcome.told and f' ({outcome.told})'}",
        flush=True,
    )
    for problem in outcome.problems:
        print(f"       {problem}", flush=True)


def _summarise(outcomes: list[Outcome]) -> None:
    by_target: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_target[outcome.target].append(outcome)
    for target, rounds in by_target.items():
        slowest = max(o.took for o in rounds)
        wrong = sum(bool(o.problems) for o in rounds)
        print(f"{target}: {len(rounds)} kills, {wrong} wrong, slowest recovery {slowest:.1f} s")


if __name__ == "__main__":
    main()
