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
bundle, reads = Bundle.open(sys.argv[1]), json.load(open(sys.argv[2]))
reader = bundle.disk()
clusters = stored = 0
for offset, length in reads:
    for _, _, size in reader.compressed_frames(offset, length):
        clusters, stored = clusters + 1, stored + size
disk = bundle.disks[0]
window = {"offset": disk.window_offset, "size": disk.window_size}
decoded = clusters * reader.cluster_size
print(json.dumps({"decoded": decoded, "stored": stored, "window": window}))
"""
"""QEMU keeps no decoded cluster: each read decodes every stored cluster that it touches."""


def rows(bundle: Path, disk: Path, turns: int, scratch: Path) -> list[Row]:
    """Record the reads (once), replay them ``turns`` times on each side, count what is decoded."""
    reads_file = Path(_output(sys.executable, "-m", "bench.record").strip())
    reads = json.loads(reads_file.read_text())
    counted = json.loads(_output(sys.executable, "-c", _COUNT, str(bundle), str(reads_file)))
    commands = scratch / "reads.qemu-io"
    commands.write_text("".join(f"read -q {offset} {length}\n" for offset, length in reads))
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
    asked = sum(length for _, length in reads)
    taken = alternate(sides, turns, scratch)
    return results(
        taken,
        reads=len(reads),
        asked_bytes=asked,
        decoded_bytes=counted["decoded"],
        stored_bytes=counted["stored"],
    )


def results(
    taken: Mapping[str, Sequence[Sample]],
    *,
    reads: int,
    asked_bytes: int,
    decoded_bytes: int,
    stored_bytes: int,
) -> list[Row]:
    """The rows for these samples and counts."""
    window, raw = taken["window"], taken["raw"]
    return [
        Row(
            "boot-reads-seconds",
            f"a boot's {reads:,} reads replayed, seconds",
            ratio(window, raw),
            "x",
            f"{seconds(window):.2f} s",
            f"raw {seconds(raw):.2f} s",
            details={
                "reads": reads,
                "cpu-seconds": [round(cpu_seconds(window), 3), round(cpu_seconds(raw), 3)],
                "samples": samples_dict(taken),
            },
        ),
        Row(
            "boot-reads-decoded",
            "a boot's reads, bytes decoded",
            decoded_bytes / asked_bytes,
            "x",
            f"{decoded_bytes / MIB:.0f} MiB",
            f"asked for {asked_bytes / MIB:.0f} MiB",
            TARGETS["boot-reads-decoded"],
            {
                "asked-bytes": asked_bytes,
                "decoded-bytes": decoded_bytes,
                "stored-bytes-read": stored_bytes,
            },
        ),
    ]


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
