"""What vmpack does, on a real machine: run by ``make demo``, readable from top to bottom.

Every line that starts with ``$`` is a command that really ran, and what follows is what it printed.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.build.cache import cache_dir
from fixtures.build.debian import NAME

MIB = 1 << 20
CONFIG = """\
name = "debian-demo"

[expected]
milestones = ["Linux version", "Reached target *multi-user", "login:"]

[[verify.check]]
name = "services"
command = "systemctl is-system-running --wait"
stdout = "running"
"""
VMPACK = str(Path(sys.executable).with_name("vmpack"))
TERMINAL = sys.stdout.isatty()


class Demo:
    """Runs commands in ``folder``, shows them as a person would type them, keeps their times."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def run(self, *words: str, expect: int = 0, keep: str = "", shown: str = "") -> str:
        """Run a command; anything but the exit code ``expect`` ends the demo."""
        print(bold(f"$ {shown or shlex.join(words)}"), flush=True)
        program = VMPACK if words[0] == "vmpack" else words[0]
        started = time.monotonic()
        done = subprocess.run(
            [program, *words[1:]],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not TERMINAL or expect else None,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if keep:
            self.seconds[keep] = seconds
        said = done.stdout + (done.stderr or "")
        print(textwrap.indent(said.rstrip(), "  "))
        print(dim(f"  ({seconds:.1f} s, exit code {done.returncode})"), flush=True)
        if done.returncode != expect:
            sys.exit(f"the demo expected exit code {expect}: this is a bug in vmpack")
        return done.stdout

    def size(self, name: str) -> int:
        """Bytes that a file takes on disk, holes left out."""
        return (self.folder / name).stat().st_blocks * 512


def bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if TERMINAL else text


def dim(text: str) -> str:
    return f"\033[2m{text}\033[0m" if TERMINAL else text


def chapter(title: str, *lines: str) -> None:
    """A heading and what is about to happen, in a sentence or two."""
    print("\n" + bold(f"== {title}"))
    for line in lines:
        print(textwrap.fill(line, 88))
    print(flush=True)


def window_of(info: dict[str, Any], bundle: str) -> str:
    """How QEMU is told to open the first disk of a bundle, read-only on all three layers."""
    window = info["disks"][0]["window"]
    file = {"driver": "file", "filename": bundle, "read-only": True}
    raw = {"driver": "raw", **window, "read-only": True, "file": file}
    node = {"driver": "qcow2", "read-only": True, "backing": None, "file": raw}
    return "json:" + json.dumps(node)


def damage(original: Path, copy: Path) -> int:
    """Copy a bundle and flip one bit of it, in the middle; returns the offset."""
    shutil.copyfile(original, copy)
    offset = copy.stat().st_size // 2
    with copy.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    return offset


def walk(demo: Demo) -> None:
    """The whole story, from a disk to a bundle and back."""
    size, data = (demo.folder / NAME).stat().st_size, demo.size(NAME)
    chapter(
        "A machine",
        f"{NAME} is the disk of a real Debian 12: boot loader, kernel, systemd, ssh. "
        f"{size / MIB:,.0f} MiB large, {data / MIB:,.0f} MiB of it in use.",
    )
    chapter(
        "Into one file",
        "A few lines say how a good boot of it looks. Everything else about the machine is found "
        "on its disk, or pinned by vmpack.",
    )
    (demo.folder / "vm.toml").write_text(CONFIG)
    demo.run("cat", "vm.toml")
    demo.run("vmpack", "pack", NAME, "-o", "debian.vmpack", "--config", "vm.toml", keep="pack")
    demo.run("vmpack", "info", "debian.vmpack")
    info = json.loads(
        subprocess.check_output(
            [VMPACK, "info", "--output", "json", "debian.vmpack"], cwd=demo.folder
        )
    )
    chapter(
        "QEMU reads the disk inside the bundle by itself",
        "No vmpack is involved here: stock qemu-img opens the disk through its window, a range of "
        "the file that is a qcow2 image of its own.",
    )
    window = window_of(info, "debian.vmpack")
    demo.run("qemu-img", "check", window)
    raw = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": NAME}})
    demo.run("qemu-img", "compare", window, f"json:{raw}", keep="qemu-img compare")
    boot(demo)
    chapter(
        "Every byte has a digest",
        "First the bundle, unchanged by two boots, then a copy with one bit flipped.",
    )
    demo.run("vmpack", "check", "--full", "debian.vmpack", keep="check --full")
    offset = damage(demo.folder / "debian.vmpack", demo.folder / "damaged.vmpack")
    print(f"\n(one bit flipped at offset {offset})")
    demo.run("vmpack", "check", "damaged.vmpack", expect=2)
    chapter("And out again", "As qcow2, and as raw, which must be the disk that went in.")
    demo.run("vmpack", "unpack", "debian.vmpack", "-o", "as-qcow2", keep="unpack to qcow2")
    demo.run(
        "vmpack", "unpack", "debian.vmpack", "-o", "as-raw", "--to", "raw", keep="unpack to raw"
    )
    disk = info["disks"][0]["id"]
    demo.run("vmpack", "compare", f"as-qcow2/{disk}.qcow2", NAME)
    formats = ("-f", "raw", "-F", "raw")
    demo.run("qemu-img", "compare", *formats, f"as-raw/{disk}.raw", NAME)
    summary(demo, data)


def boot(demo: Demo) -> None:
    """The machine runs, straight from the bundle."""
    chapter(
        "It boots, straight from that file",
        "QEMU reads the disk where it lies; nothing is unpacked, and what the machine writes is "
        "thrown away. vmpack holds the boot against what vm.toml expects.",
    )
    demo.run("vmpack", "verify", "debian.vmpack", "--report", "report", keep="boot and verify")
    picture = demo.folder / "report" / "here" / "boot-1.png"
    print(f"\nIts screen, at the end of the boot: {picture}")
    chapter("Work in it", "A command through its guest agent, with its output and exit code.")
    demo.run(
        *("vmpack", "run", "debian.vmpack", "--exec", "cat /etc/debian_version; nproc; exit 3"),
        expect=3,
        keep="boot and run",
    )


def summary(demo: Demo, data: int) -> None:
    """Sizes and times, as measured just now on this machine."""
    chapter("In figures", "Measured just now, on this machine.")
    bundle = (demo.folder / "debian.vmpack").stat().st_size
    print(f"  data on the disk   {data / MIB:8,.0f} MiB")
    print(f"  bundle             {bundle / MIB:8,.0f} MiB ({bundle / data:.0%} of it)")
    for name, seconds in demo.seconds.items():
        print(f"  {name:<18} {seconds:8.1f} s")
    print(f"\nThe files are in {demo.folder}")


def main() -> None:
    """Set the stage in a fresh folder of the cache, then walk through it."""
    folder = cache_dir() / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / NAME).symlink_to(os.path.relpath(cache_dir() / NAME, folder))
    walk(Demo(folder))


if __name__ == "__main__":
    main()
