"""Fuzzes the image readers: ``python tools/fuzz.py --seconds 60 [--seed N]`` (``make fuzz``).

Seeded, so that a failure happens again. Memory is capped: an image that makes a reader allocate
more is a failure, too. Failing images are kept in the folder that ``--keep`` names.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.fuzz import fuzz, qcow2_corpus

MEMORY_LIMIT = 1 << 30


def main() -> int:
    """Fuzz, say what happened, 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long to go on")
    parser.add_argument("--count", type=int, help="how many images to try")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for failing images")
    arguments = parser.parse_args()
    if arguments.seconds is None and arguments.count is None:
        arguments.seconds = 60.0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        corpus = qcow2_corpus(Path(scratch))
        report = fuzz(
            corpus,
            folder,
            format_name="qcow2",
            seed=arguments.seed,
            count=arguments.count,
            seconds=arguments.seconds,
        )
    print(
        f"{report.tried} images, {report.refused} refused, slowest {report.slowest_s:.2f} s, "
        f"{len(report.failures)} failures, seed {arguments.seed}"
    )
    for failure in report.failures[:10]:
        print(failure, file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
