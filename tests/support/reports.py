"""Results of verifications for tests of reports: plain data, compared by the real comparison."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, cast

from vmpack.runner.milestones import Reached
from vmpack.runner.options import Ending, Kind
from vmpack.runner.preflight import Pin
from vmpack.verify.boot import Boot, Expectation
from vmpack.verify.checks import CheckResult
from vmpack.verify.compare import compare
from vmpack.verify.console import console_facts
from vmpack.verify.layers import LayerName
from vmpack.verify.model import Facts, HostFacts, Observation
from vmpack.verify.picture import picture_facts
from vmpack.verify.record import Record
from vmpack.verify.report import ReportInput
from vmpack.verify.result import HostResult, RecordSource, VerifyResult

MACHINE_ID = "sha256:" + "ab" * 32
HOST = HostFacts("7.2.22", "tcg", "sha256:" + "cd" * 32, vmpack="0.1.0")
CONSOLE = b"".join(
    b"[    %d.000000] %s\r\n" % (number, line)
    for number, line in enumerate(
        [
            b"Linux version 6.1.0-30-amd64 (debian-kernel@lists.debian.org)",
            b"Command line: root=/dev/vda1 console=ttyS0",
            *(b"driver %s: ready" % name for name in b"ahci virtio rtc usb cdrom ext4".split()),
            b"virtio_blk virtio1: [vda] 131072 512-byte logical blocks",
            b"EXT4-fs (vda1): mounted filesystem with ordered data mode",
            b"Run /init as init process",
            b"systemd[1]: Reached target multi-user.target",
            b"tiny login: ",
        ]
    )
)
TIMES = {"kernel": 900, "init": 2100, "target multi-user": 5200, "login": 5400}


def png(text: str = "tiny login: _", size: tuple[int, int] = (720, 400)) -> bytes:
    """A picture of a text screen."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", size)
    ImageDraw.Draw(image).text((8, 8), text, fill=(170, 170, 170))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def observation(
    console: bytes = CONSOLE,
    *,
    host: HostFacts = HOST,
    picture: bytes | None = None,
    **layers: Facts,
) -> Observation:
    """What a boot showed; ``layers`` add to, or take the place of, a small machine's."""
    found: dict[LayerName, Facts] = {
        "ending": {"kind": "expected", "reason": None},
        "milestones": {"kernel": 1, "init": 1, "login": 1},
        "checks": {"check:disk": "passed"},
        "hardware": {"memory": 268435456, "pci:00:03.0": {"vendor": 6900, "device": 4097}},
        "firmware": {"kind": "bios", "code": host.firmware},
        "guest": {"uname": "Linux tiny 6.1.0", "unit:ssh.service": "active"},
        "console": console_facts(console),
        "picture": picture_facts("end", picture or png()),
    }
    found.update(cast("dict[LayerName, Facts]", layers))
    return Observation(host, found, ("agent",))


def boot(
    kind: Kind = "expected",
    message: str = "every milestone was reached",
    *,
    times: Mapping[str, int] = TIMES,
    missing: Sequence[str] = (),
    seen: Observation | None = None,
    console: bytes = CONSOLE,
    picture: bytes | None = None,
    checks: Sequence[CheckResult] = (),
    **ending: Any,
) -> Boot:
    """One boot."""
    return Boot(
        ending=Ending(kind, message, seconds=7.4, picture=picture, **ending),
        expectation=Expectation(("login",), "running", generic=False, timeout_s=60),
        reached=tuple(Reached(name, ms / 1000) for name, ms in times.items() if name == "login"),
        missing=tuple(missing),
        seen=tuple(Reached(name, ms / 1000) for name, ms in times.items() if name != "login"),
        checks=tuple(checks),
        console=console,
        console_total=len(console),
        qemu="7.2.22",
        accel="tcg",
        accel_reason="asked for",
        host=HOST,
        observation=seen,
    )


def host(
    name: str, boots: Sequence[Boot] = (), expected: Observation | None = None, **more: Any
) -> HostResult:
    """One host; with ``expected`` its last boot is compared with that."""
    seen = boots[-1].observation if boots else None
    comparison = None if expected is None or seen is None else compare(expected, seen)
    return HostResult(name, tuple(boots), comparison, **more)


def report(*hosts: HostResult, expected: Observation | None = None, **more: Any) -> ReportInput:
    """All of it."""
    record = None
    if expected is not None:
        record = RecordSource("bundle", Record(expected, MACHINE_ID), same_machine=True)
    result = VerifyResult(
        filename=more.pop("filename", "app.vmpack"),
        id="sha256:" + "12" * 32,
        machine_id=MACHINE_ID,
        name=more.pop("name", "tiny"),
        hosts=hosts,
        record=record,
        **more,
    )
    return ReportInput(result, {} if expected is None else TIMES)


def rich() -> ReportInput:
    """Three hosts: one as recorded, one that differs in many ways, one that cannot run it."""
    expected = observation()
    good = boot(
        seen=observation(
            host=HostFacts("10.0.13", "tcg", HOST.firmware), firmware={"kind": "bios"}
        ),
        checks=[CheckResult("disk", "command", "passed", "exit code 0", 0.21)],
        picture=png(),
    )
    lines = CONSOLE.replace(b"driver cdrom: ready", b"cdrom: timeout waiting for medium")
    bad = boot(
        seen=observation(
            lines,
            picture=png("emergency mode: root password?"),
            hardware={"memory": 134217728, "pci:00:04.0": {"vendor": 32902, "device": 4110}},
            guest={"uname": "Linux tiny 6.1.0", "unit:ssh.service": "failed"},
            checks={"check:disk": "failed"},
        ),
        kind="unexpected",
        message="check disk failed: exit code 1, expected 0",
        times={"kernel": 1100, "init": 2900, "emergency": 4000},
        missing=("login",),
        console=lines,
        picture=png("emergency mode: root password?"),
        console_tail=tuple(lines.decode().splitlines()[-6:]),
        stderr="qemu-system-x86_64: warning: TCG doesn't support requested feature",
        checks=[
            CheckResult("disk", "command", "failed", "exit code 1, expected 0", 0.4),
            CheckResult("screen", "screenshot", "not-compared", "taken", 0.1, png("other")),
        ],
    )
    pins = (
        Pin("machine", "pc-q35-7.2", "deprecated", "QEMU 13.2 is to go without it", "pack again"),
        Pin("cpu.model", "Nehalem-v1", "available", "TCG here has all of it"),
        Pin("tpm", "2.0", "unavailable", "there is no swtpm", "apt-get install swtpm"),
    )
    error = {"kind": "pin-unavailable", "message": "no swtpm", "hint": "apt-get install swtpm"}
    return report(
        host("bookworm", [good, boot(seen=good.observation)], expected),
        host("laptop", [bad], expected, pins=pins, notes=("vmxnet3 was left out",)),
        host("backports", error=error, pins=pins),
        expected=expected,
        unverified=("-device", "e1000"),
        notes=("the record is older than this vmpack",),
    )
