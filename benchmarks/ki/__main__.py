"""``python -m benchmarks.ki``: runs the arms, and writes ki.md, ki.json and pictures into benchmarks/results.

What is done is saved in ``benchmarks/results/ki-runs`` as it comes, so that a run that was interrupted goes on where it
was. ``--smoke`` asserts identities on one seed instead, ``--report`` writes the report of ki.json anew.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.case import ROOT
from benchmarks.ki import report, runs, smoke
from benchmarks.ki.settings import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks.ki", description=__doc__)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--smoke", action="store_true", help="identities on one seed, in a minute; writes nothing")
    asked.add_argument("--report", action="store_true", help="the report of the results that ki.json holds")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, each of one thread")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    given = parser.parse_args(arguments)
    if given.smoke:
        smoke.run()
        return
    file = given.output / "ki.json"
    if given.report:
        results = json.loads(file.read_text())
    else:
        results = runs.run(Settings(), given.output / "ki-runs", given.processes)
        file.write_text(json.dumps(results))
    for path in report.write(results, given.output):
        print(path)


if __name__ == "__main__":
    main()
