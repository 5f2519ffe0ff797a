"""Fuzzes the image readers: ``python tools/fuzz.py --seconds 60 [--seed N] [FORMAT ...]``.

Seeded, so that a failure happens again. Time and memory are capped: an image that makes a reader
take more is a failure, too. Failing images are kept in the folder that ``--keep`` names.

``--atheris FORMAT`` hands the same corpus to libFuzzer, which looks at the code that an image
reaches (``pip install atheris`` into the virtual environment); words after ``--`` are libFuzzer's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> int:
    """Fuzz, say what happened, 0 if nothing failed."""
    arguments = _arguments()
    if arguments.atheris:
        return _atheris(arguments)
    from tests.support.fuzz_corpus import READABLE, corpus_of, save

    if arguments.seconds is None and arguments.count is None:
        arguments.seconds = 60.0
    names = arguments.words or READABLE
    with tempfile.TemporaryDirectory(prefix="vmpack-fuzz-", dir=_fast_folder()) as scratch:
        if arguments.save:
            for name in names:
                save(corpus_of(name, None, Path(scratch)), arguments.save)
            return 0
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        failed = [name for name in names if not _fuzz(name, arguments, len(names), Path(scratch))]
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", metavar="FORMAT", help="default: all")
    parser.add_argument("--seconds", type=float, help="how long to go on, over all formats")
    parser.add_argument("--count", type=int, help="how many images to try, of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for failing images")
    parser.add_argument("--corpus", type=Path, help="folder that --save filled")
    parser.add_argument("--save", type=Path, help="build the corpus in this folder, try nothing")
    parser.add_argument("--atheris", metavar="FORMAT", help="let libFuzzer choose the changes")
    return parser.parse_args()


def _atheris(arguments: argparse.Namespace) -> int:
    # vmpack is not imported yet: atheris has to see that happen.
    from tests.support.fuzz_atheris import run_atheris

    try:
        run_atheris(arguments.atheris, arguments.corpus, arguments.keep, arguments.words)
    except ImportError as exc:
        print(f"{exc}: .venv/bin/python -m pip install '.[fuzz]'", file=sys.stderr)
    return 2


def _fuzz(name: str, arguments: argparse.Namespace, among: int, scratch: Path) -> bool:
    from tests.support.fuzz import fuzz
    from tests.support.fuzz_corpus import corpus_of

    report = fuzz(
        corpus_of(name, arguments.corpus, scratch / "corpus"),
        scratch / "mutated",
        seed=arguments.seed,
        keep=arguments.keep,
        count=arguments.count,
        seconds=None if arguments.seconds is None else arguments.seconds / among,
    )
    print(
        f"{name}: {report.tried} images, {report.refused} refused, slowest "
        f"{report.slowest_s:.2f} s, {len(report.failures)} failures, seed {arguments.seed}",
        flush=True,
    )
    for failure in report.failures[:10]:
        print(failure, file=sys.stderr)
    return not report.failures


def _fast_folder() -> str | None:
    """Memory, where there is such a folder: a mutated image is worth no disk's work."""
    return next((name for name in ("/dev/shm",) if Path(name).is_dir()), None)


if __name__ == "__main__":
    sys.exit(main())
