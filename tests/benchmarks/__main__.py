"""The benchmarks: every side in one run, in turn, so that a noisy machine is noisy for all.

``PYTHONPATH=tests python -m benchmarks [NAME …] [--rounds 5] [--json FILE]``

Each measure prints its median with minimum and maximum, and the ratio to its rival: the median of the ratios of the
rounds, because the two sides of one round ran within seconds of each other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from benchmarks import keys, signed
from benchmarks.stand import Row, running

MEASURES = keys.MEASURES | signed.MEASURES


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| measure | CloudPush | beside it | ratio | goal | met |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.measure} | {r.ours} | {r.beside} | {r.ratio} | {r.goal} | {'yes' if r.met else '**no**'} |" for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run the measures that were named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*MEASURES, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    rows: list[Row] = []
    with running(args.rounds) as b:
        for name in args.names or MEASURES:
            sys.stderr.write(f"measuring {name} …\n")
            rows.append(MEASURES[name](b))
            sys.stderr.write(f"  {rows[-1].ours}  {rows[-1].ratio}\n")
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{args.rounds} rounds; median (minimum–maximum)\n\n{table(rows)}"
    )
    if args.json:
        args.json.write_text(json.dumps([r.__dict__ for r in rows], indent=1))


if __name__ == "__main__":
    main()
