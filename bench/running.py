"""A machine that runs from its bundle, beside QEMU alone: to the login, to the start, in memory."""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.bundle import VMPACK
from bench.measure import Sample, Side, cpu_ratio, cpu_seconds, ratio, run, samples_dict, seconds
from bench.table import Row, Target
from fixtures.build import sectors
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack

TARGETS = {
    "run-login": Target(1.05),
    "run-start": Target(0.4, "s"),
    "run-memory": Target(80, "MiB"),
}
MIB = 1 << 20
START_TURNS = 4
"""Starts take tenths of a second: so many for each turn of the others."""

GREETING = b"vmpack boot sector"
MEMORY_MIB = 64


def rows(bundle: Path, disk: Path, turns: int, scratch: Path) -> list[Row]:
    """Boot to the login ``turns`` times on each side, start a boot sector, weigh vmpack."""
    return [
        login_row(logins(bundle, disk, turns, scratch)),
        start_row(starts(START_TURNS * turns, scratch)),
        memory_row(peak_while_running(bundle)),
    ]


def logins(bundle: Path, disk: Path, turns: int, scratch: Path) -> dict[str, list[Sample]]:
    """Samples of boots from the bundle and from the raw disk, in turn, after one warm turn."""
    own = [sys.executable, "-m", "bench.login", str(bundle)]
    commands = {"bundle": own, "raw": [*own, str(disk)]}
    taken: dict[str, list[Sample]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, words in commands.items():
            said: list[str] = []
            sample = run(Side(name, words, accept=said.append), scratch)
            told = json.loads(said[0])
            if turn:
                # The machine's own time: starting this script's Python is no part of a boot.
                taken[name].append(
                    dataclasses.replace(sample, wall_s=told["seconds"], cpu_s=told["cpu-seconds"])
                )
    return taken


def login_row(taken: Mapping[str, Sequence[Sample]]) -> Row:
    """Time to the login prompt."""
    ours, raw = taken["bundle"], taken["raw"]
    return Row(
        "run-login",
        "boot to login, from the bundle",
        ratio(ours, raw),
        "x",
        f"{seconds(ours):.1f} s ({cpu_seconds(ours):.1f} s CPU)",
        f"raw, same overlay {seconds(raw):.1f} s ({cpu_seconds(raw):.1f} s CPU)",
        TARGETS["run-login"],
        {"cpu-ratio": round(cpu_ratio(ours, raw), 3), **samples_dict(taken)},
    )


def starts(turns: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds from a command to the guest's first line, for vmpack and for QEMU alone."""
    disk = sectors.write_disk("poweroff", scratch / "poweroff.raw")
    bundle = scratch / "poweroff.vmpack"
    config = MachineConfig.from_toml(f'memory = "{MEMORY_MIB}M"')
    pack([disk], bundle, config=config, force=True)
    node = {"driver": "file", "filename": str(disk)}
    raw = {"driver": "raw", "node-name": "disk", "read-only": True, "file": node}
    device = {"driver": "virtio-blk-pci", "drive": "disk", "bootindex": 1}
    commands = {
        "vmpack": [VMPACK, "run", str(bundle)],
        "qemu": [
            *("qemu-system-x86_64", "-accel", "tcg", "-machine", "pc-q35-7.2"),
            *("-cpu", "Nehalem-v1", "-m", str(MEMORY_MIB), "-smp", "2", "-nodefaults"),
            *("-no-user-config", "-display", "none", "-vga", "std", "-serial", "stdio"),
            *("-blockdev", json.dumps(raw), "-device", json.dumps(device)),
        ],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, words in commands.items():
            spent = _to_greeting(words)
            if turn:
                taken[name].append(spent)
    return taken


def _to_greeting(words: Sequence[str]) -> float:
    begun = time.perf_counter()
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if GREETING in line:
                spent = time.perf_counter() - begun
                break
        else:
            raise RuntimeError(f"{' '.join(words)}: never said {GREETING.decode()!r}")
        # It powers off by itself; its last words are of no interest.
        process.communicate()
    return spent


def start_row(taken: Mapping[str, Sequence[float]]) -> Row:
    """What vmpack adds before the guest's first instruction; firmware is in both, and cancels."""
    ours, qemu = taken["vmpack"], taken["qemu"]
    more = statistics.median(a - b for a, b in zip(ours, qemu, strict=True))
    return Row(
        "run-start",
        "from command to guest, more than QEMU",
        more,
        "s",
        f"{statistics.median(ours):.2f} s",
        f"qemu-system-x86_64 {statistics.median(qemu):.2f} s",
        TARGETS["run-start"],
        {name: [round(one, 4) for one in samples] for name, samples in taken.items()},
    )


def peak_while_running(bundle: Path) -> int:
    """Bytes of the largest resident set of vmpack itself, QEMU not included, during one boot."""
    process = subprocess.Popen(
        [VMPACK, "verify", "-q", str(bundle)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak = 0
    with process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            for line in status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) * 1024
            time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"vmpack verify ended with {process.returncode}")
    return peak


def memory_row(peak: int) -> Row:
    """Memory of vmpack while its guest runs."""
    return Row(
        "run-memory",
        "memory of vmpack while a guest runs",
        peak / MIB,
        "MiB",
        target=TARGETS["run-memory"],
    )
