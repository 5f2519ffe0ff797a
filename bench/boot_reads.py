"""A real boot's reads replayed with qemu-io: through a bundle's window and on the raw disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import Sample, Side, alternate, cpu_seconds, ratio, samples_dict, seconds
from bench.table import Row, Target

TARGETS = {"boot-reads-decoded": Target(2.5)}
MIB = 1 << 20
_COUNT = """
import json, sys
from vmpack import Bundle
bundle, record = Bundle.open(sys.argv[1]), json.load(open(sys.argv[2]))
reader, first = bundle.disk(), record["loader-reads"]
disk = bundle.disks[0]
parts = []
for reads in record["reads"][:first], record["reads"][first:]:
    sizes = [
        size
        for offset, length in reads
        for _, _, size in reader.compressed_frames(offset, length)
    ]
    asked = sum(length for _, length in reads)
    decoded = len(sizes) * reader.cluster_size
    parts.append({"reads": len(reads), "asked": asked, "decoded": decoded, "stored": sum(sizes)})
window = {"offset": disk.window_offset, "size": disk.window_size}
print(json.dumps({"parts": parts, "window": window}))
"""
"""QEMU keeps no decoded cluster: each read decodes every stored cluster that it touches."""


def rows(bundle: Path, disk: Path, turns: int, scratch: Path) -> list[Row]:
    """Record the reads (once), replay them ``turns`` times on each side, count what is decoded."""
    record = Path(_output(sys.executable, "-m", "bench.record").strip())
    counted = json.loads(_output(sys.executable, "-c", _COUNT, str(bundle), str(record)))
    commands = scratch / "reads.qemu-io"
    commands.write_text(
        "".join(f"read -q {at} {size}\n" for at, size in json.loads(record.read_text())["reads"])
    )
    nodes = {
        "window": _window(bundle, counted["window"]),
        "raw": {"driver": "raw", "read-only": True, "file": _file(disk)},
    }
    sides = [
        Side(
            name,
            ("qemu-io", "-r", "json:" + json.dumps(node)),
            stdin=commands,
            accept=_require_success,
        )
        for name, node in nodes.items()
    ]
    return results(alternate(sides, turns, scratch), *counted["parts"])


def results(
    taken: Mapping[str, Sequence[Sample]], loader: Mapping[str, int], system: Mapping[str, int]
) -> list[Row]:
    """The rows for these samples, and counts of the loader's and the system's reads.

    Each count has ``reads``, and bytes ``asked``, ``decoded`` and ``stored`` (read for that).
    """
    window, raw = taken["window"], taken["raw"]
    both = {key: loader[key] + system[key] for key in loader}
    seconds_row = Row(
        "boot-reads-seconds",
        f"a boot's {both['reads']:,} reads replayed, seconds",
        ratio(window, raw),
        "x",
        f"{seconds(window):.2f} s",
        f"raw {seconds(raw):.2f} s",
        details={
            "cpu-seconds": [round(cpu_seconds(window), 3), round(cpu_seconds(raw), 3)],
            **samples_dict(taken),
        },
    )
    return [
        seconds_row,
        _decoded("boot-reads-decoded", "a boot's reads, bytes decoded", both),
        _decoded("boot-reads-loader", "of these, the boot loader's", loader),
        _decoded("boot-reads-system", "of these, the system's", system),
    ]


def _decoded(key: str, what: str, count: Mapping[str, int]) -> Row:
    return Row(
        key,
        what,
        count["decoded"] / count["asked"],
        "x",
        f"{count['decoded'] / MIB:.0f} MiB",
        f"asked for {count['asked'] / MIB:.0f} MiB",
        TARGETS.get(key),
        dict(count),
    )


def _file(path: Path) -> dict[str, object]:
    return {"driver": "file", "filename": str(path), "read-only": True}


def _window(bundle: Path, place: Mapping[str, int]) -> dict[str, object]:
    raw = {"driver": "raw", **place, "read-only": True, "file": _file(bundle)}
    return {"driver": "qcow2", "read-only": True, "backing": None, "file": raw}


def _require_success(said: str) -> None:
    if "failed" in said or "rror" in said:
        raise RuntimeError(f"qemu-io could not read:\n{said[-2000:]}")


def _output(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout
