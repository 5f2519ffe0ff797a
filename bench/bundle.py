"""Pack, unpack and check on the Debian guest beside qemu-img and cp."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.measure import (
    Sample,
    Side,
    alternate,
    cpu_ratio,
    cpu_seconds,
    peak_bytes,
    ratio,
    samples_dict,
    seconds,
    sync_median,
)
from bench.table import Row, Target

MIB = 1 << 20
GB = 10**9
VMPACK = str(Path(sys.executable).with_name("vmpack"))
PEAK = Target(200, "MiB")
TARGETS = {
    "pack": Target(0.50),
    "pack-W": Target(0.75),
    "pack-bytes": Target(1.00),
    "pack-peak": PEAK,
    "unpack-raw": Target(0.85),
    "unpack-raw-no-verify": Target(0.70),
    "unpack-raw-peak": PEAK,
    "unpack-qcow2": Target(1.0),
    "unpack-qcow2-peak": PEAK,
    "check": Target(1.0, "GB/s", least=True),
    "check-peak": PEAK,
}
CP_FACTOR, CP_EXTRA_S = 1.5, 0.2
_CHECK = """
import sys, time
from vmpack import Bundle
for _ in range(2):
    with Bundle.open(sys.argv[1]) as bundle:
        start = time.process_time()
        findings = list(bundle.check())
        used = time.process_time() - start
    assert findings == [], findings
print(used)
"""
"""The second call counts: the first loads modules, which the whole command's row shows."""
_SHA256 = """
import hashlib, os, time
data = os.urandom(1 << 20)
start = time.process_time()
for _ in range(200):
    hashlib.sha256(data).digest()
print((200 << 20) / (time.process_time() - start))
"""


class Bench:
    """Runs the groups of rows on ``disk`` (raw) in ``folder``, with ``turns`` of each command."""

    def __init__(self, disk: Path, folder: Path, turns: int):
        self.disk = disk
        self.folder = folder
        self.turns = turns
        self.bundle = folder / "disk.vmpack"
        self.qcow2 = folder / "disk.qcow2"

    def need_inputs(self) -> None:
        """Make the bundle and qemu-img's image, unless :meth:`pack` has."""
        for side in self._pack_sides()[:2]:
            if not side.outputs[0].exists():
                alternate([side], 0, self.folder)

    def pack(self) -> list[Row]:
        """Raw into a bundle, beside qemu-img into a zstd qcow2 of the same cluster size."""
        taken = alternate(self._pack_sides(), self.turns, self.folder)
        sizes = self.bundle.stat().st_size, self.qcow2.stat().st_size
        return pack_rows(taken, bundle_bytes=sizes[0], qcow2_bytes=sizes[1])

    def _pack_sides(self) -> list[Side]:
        wide = self.folder / "wide.qcow2"
        pack = [VMPACK, "pack", str(self.disk), "-o", str(self.bundle), "--output", "json"]
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"]
        convert += ["-o", "compression_type=zstd,cluster_size=64k"]
        return [
            Side("vmpack", pack, [self.bundle]),
            Side("qemu-img", [*convert, str(self.disk), str(self.qcow2)], [self.qcow2]),
            Side("qemu-img -W", [*convert, "-W", "-m", "8", str(self.disk), str(wide)], [wide]),
        ]

    def unpack(self) -> list[Row]:
        """Bundle to raw beside qemu-img's zstd qcow2 to raw; bundle to qcow2 beside cp."""
        self.need_inputs()
        raw, fast, theirs = (self.folder / name for name in ("raw", "fast", "theirs.raw"))
        unpack = [VMPACK, "unpack", str(self.bundle), "--output", "json"]
        convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self.qcow2)]
        to_raw = alternate(
            [
                Side("vmpack", [*unpack, "--to", "raw", "-o", str(raw)], [raw]),
                Side("no-verify", [*unpack, "--to", "raw", "--no-verify", "-o", str(fast)], [fast]),
                Side("qemu-img", [*convert, str(theirs)], [theirs]),
            ],
            self.turns,
            self.folder,
        )
        frames, copy = self.folder / "frames", self.folder / "copy.qcow2"
        to_qcow2 = alternate(
            [
                Side("vmpack", [*unpack, "--to", "qcow2", "-o", str(frames)], [frames]),
                Side("cp", ["cp", str(frames / "root.qcow2"), str(copy)], [copy]),
            ],
            self.turns,
            self.folder,
        )
        return [*unpack_raw_rows(to_raw), *unpack_qcow2_rows(to_qcow2)]

    def check(self) -> list[Row]:
        """The digests of all stored bytes: the whole command, and the library's call in it."""
        self.need_inputs()
        used: list[float] = []
        speeds: list[float] = []
        taken = alternate(
            [
                Side("vmpack", [VMPACK, "check", str(self.bundle)]),
                Side(
                    "library",
                    [sys.executable, "-c", _CHECK, str(self.bundle)],
                    accept=lambda said: used.append(float(said)),
                ),
                Side(
                    "sha256",
                    [sys.executable, "-c", _SHA256],
                    accept=lambda said: speeds.append(float(said)),
                ),
            ],
            self.turns,
            self.folder,
        )
        return check_rows(
            taken,
            stored_bytes=self.bundle.stat().st_size,
            library_s=used[1:],
            sha256_speeds=speeds[1:],
        )


def pack_rows(
    taken: Mapping[str, Sequence[Sample]], *, bundle_bytes: int, qcow2_bytes: int
) -> list[Row]:
    """Seconds against both ways of qemu-img, bytes, peak memory."""
    rows = [
        _compared(key, f"pack, against {name}", taken, name)
        for key, name in (("pack", "qemu-img"), ("pack-W", "qemu-img -W"))
    ]
    rows.append(
        Row(
            "pack-bytes",
            "pack, bytes of the file",
            bundle_bytes / qcow2_bytes,
            "x",
            f"{bundle_bytes:,}",
            f"qemu-img {qcow2_bytes:,}",
            TARGETS["pack-bytes"],
            {"bundle-bytes": bundle_bytes, "qcow2-bytes": qcow2_bytes},
        )
    )
    rows.append(_peak("pack-peak", "pack, peak memory", taken, "vmpack", "qemu-img"))
    rows[0] = _with_samples(rows[0], taken)
    return rows


def unpack_raw_rows(taken: Mapping[str, Sequence[Sample]]) -> list[Row]:
    """Seconds with and without digests, peak memory."""
    first = _compared("unpack-raw", "unpack to raw, digests checked", taken, "qemu-img")
    return [
        _with_samples(first, taken),
        _compared(
            "unpack-raw-no-verify",
            "unpack to raw, --no-verify",
            taken,
            "qemu-img",
            ours="no-verify",
        ),
        _peak("unpack-raw-peak", "unpack to raw, peak memory", taken, "vmpack", "qemu-img"),
    ]


def unpack_qcow2_rows(taken: Mapping[str, Sequence[Sample]]) -> list[Row]:
    """Seconds against what ``cp`` of the same bytes allows, peak memory."""
    ours, cp = taken["vmpack"], taken["cp"]
    allowed = CP_FACTOR * seconds(cp) + CP_EXTRA_S
    row = Row(
        "unpack-qcow2",
        f"unpack to qcow2, of {CP_FACTOR:g} x cp + {CP_EXTRA_S:g} s",
        seconds(ours) / allowed,
        "x",
        _time(ours),
        f"cp {_time(cp)}, so {allowed:.2f} s",
        TARGETS["unpack-qcow2"],
        _times(ours, cp),
    )
    peak = _peak("unpack-qcow2-peak", "unpack to qcow2, peak memory", taken, "vmpack", "cp")
    return [_with_samples(row, taken), peak]


def check_rows(
    taken: Mapping[str, Sequence[Sample]],
    *,
    stored_bytes: int,
    library_s: Sequence[float],
    sha256_speeds: Sequence[float],
) -> list[Row]:
    """Stored bytes for each second of CPU time, in the library and of the whole command."""
    middle = sorted(library_s)[len(library_s) // 2]
    ceiling = sorted(sha256_speeds)[len(sha256_speeds) // 2] / GB
    command = cpu_seconds(taken["vmpack"])
    row = Row(
        "check",
        "check, a core's stored bytes a second (library)",
        stored_bytes / GB / middle,
        "GB/s",
        f"{middle:.3f} s CPU",
        f"SHA-256 alone {ceiling:.2f} GB/s",
        TARGETS["check"],
        {
            "stored-bytes": stored_bytes,
            "cpu-seconds": round(middle, 4),
            "sha256-gb-per-second": round(ceiling, 3),
        },
    )
    whole = Row(
        "check-command",
        "check, the whole command",
        stored_bytes / GB / command,
        "GB/s",
        f"{command:.3f} s CPU, {seconds(taken['vmpack']):.2f} s",
        details={"cpu-seconds": round(command, 4)},
    )
    peak = _peak("check-peak", "check, peak memory", taken, "vmpack", "vmpack")
    return [_with_samples(row, taken), whole, peak]


def _compared(
    key: str,
    what: str,
    taken: Mapping[str, Sequence[Sample]],
    theirs: str,
    ours: str = "vmpack",
) -> Row:
    mine, other = taken[ours], taken[theirs]
    return Row(
        key,
        what,
        ratio(mine, other),
        "x",
        _time(mine),
        f"{_time(other)}; CPU ratio {cpu_ratio(mine, other):.2f}",
        TARGETS[key],
        _times(mine, other),
    )


def _peak(
    key: str, what: str, taken: Mapping[str, Sequence[Sample]], ours: str, theirs: str
) -> Row:
    mine = peak_bytes(taken[ours])
    beside = "" if theirs == ours else f"{theirs} {peak_bytes(taken[theirs]) / MIB:.0f} MiB"
    return Row(
        key,
        what,
        mine / MIB,
        "MiB",
        f"{mine / MIB:.0f} MiB",
        beside,
        TARGETS[key],
        {"peak-bytes": mine},
    )


def _time(samples: Sequence[Sample]) -> str:
    sync = sync_median(samples)
    text = f"{seconds(samples):.2f} s"
    return text + (f" (+{sync:.2f} fsync)" if sync else "")


def _times(ours: Sequence[Sample], theirs: Sequence[Sample]) -> dict[str, object]:
    return {
        "seconds": [round(seconds(ours), 4), round(seconds(theirs), 4)],
        "cpu-seconds": [round(cpu_seconds(ours), 4), round(cpu_seconds(theirs), 4)],
        "cpu-ratio": round(cpu_ratio(ours, theirs), 4),
        "sync-seconds": round(sync_median(ours), 4),
    }


def _with_samples(row: Row, taken: Mapping[str, Sequence[Sample]]) -> Row:
    return replace(row, details={**row.details, **samples_dict(taken)})
