"""The machine that measures: results mean nothing without it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fixtures.build.cache import cache_dir


def describe() -> dict[str, object]:
    """Processor, memory, kernel, file system, load before the first run, versions."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "sha-ni": bool(flags and "sha_ni" in flags[1].split()),
        "memory-mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "kernel": platform.release(),
        "file-system": _file_system(cache_dir()),
        "load-before": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "qemu-img": _first_line("qemu-img", "--version"),
        "qemu-libzstd": _linked_zstd(),
        # In a child: what this process imports counts towards the peaks of those that it starts.
        "vmpack-codecs": _first_line(
            sys.executable,
            "-c",
            "from vmpack.codecs import versions\n"
            "print(', '.join(map(' '.join, versions().items())))",
        ),
        "openssl": _first_line(sys.executable, "-c", "import ssl; print(ssl.OPENSSL_VERSION)"),
    }


def _first_line(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split("\n")[0]


def _file_system(folder: Path) -> str:
    return _first_line("stat", "--file-system", "--format=%T", os.fspath(folder))


def _linked_zstd() -> str:
    """The version in the file name of the libzstd that qemu-img loads."""
    program = shutil.which("qemu-img")
    if program is None:
        return "unknown"
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    found = re.search(r"libzstd\S* => (\S+)", linked)
    if found is None:
        return "unknown"
    return Path(found[1]).resolve().name.removeprefix("libzstd.so.")
