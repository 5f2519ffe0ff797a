"""What a console says about a boot: milestones in order, where it is stuck, any bytes at all."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmpack.runner.milestones import MAX_TARGETS, Detector, Lines, Pattern

DEBIAN = (
    b"\x1b[H\x1b[J\x1b[1;1HGRUB loading.\r\nWelcome to GRUB!\r\n\r\n"
    b"\x1b[H\x1b[J\x1b[1;1H  Booting `Debian GNU/Linux'\r\n\r\n"
    b"[    0.000000] Linux version 6.1.0-41-amd64 (debian-kernel@lists.debian.org)\r\n"
    b"[    2.160000] Run /init as init process\r\n"
    b"[    5.010000] systemd[1]: Detected virtualization qemu.\r\n"
    b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mnetwork.target\x1b[0m - Network.\r\r\n"
    b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi.\r\r\n"
    b"\r\nDebian GNU/Linux 12 vmpack-debian ttyS0\r\n\r\nvmpack-debian login: "
)


def fed(data: bytes, expected: Sequence[str] = (), *, step: int | None = None) -> Detector:
    """A detector after ``data``; its time is the offset of each chunk of ``step`` bytes."""
    detector = Detector(expected)
    step = step or len(data) or 1
    for start in range(0, len(data), step):
        detector.feed(data[start : start + step], start)
    return detector


@pytest.mark.parametrize("step", [1, 7, 100, None])
def test_a_boot_shows_its_milestones_however_it_is_cut(step: int | None) -> None:
    found = fed(DEBIAN, ["Linux version", "Reached target *multi-user", "login:"], step=step)
    assert found.missing == ()
    names = [one.name for one in found.reached]
    assert names == ["Linux version", "Reached target *multi-user", "login:"]
    assert [one.name for one in found.seen] == [
        *("boot-loader", "kernel", "init", "systemd", "virtualization"),
        *("target network", "target multi-user", "login"),
    ]
    details = {one.name: one.detail for one in found.seen if one.detail}
    assert details == {
        "boot-loader": "Debian GNU/Linux",
        "kernel": "6.1.0-41-amd64 (debian-kernel@lists.debian.org)",
        "init": "/init",
        "virtualization": "qemu",
    }
    assert found.trouble is None


def test_a_milestone_has_the_time_of_the_bytes_that_showed_it() -> None:
    detector = Detector(["Linux version", "login:"])
    assert detector.feed(b"Linux ver", 1.0) == []
    assert [one.seconds for one in detector.feed(b"sion 6.1", 2.5)] == [2.5, 2.5]
    assert [one.seconds for one in detector.feed(b"\r\nhost login: ", 4.0)] == [4.0, 4.0]


def test_milestones_come_in_the_order_that_is_expected() -> None:
    found = fed(b"second\nfirst\n", ["first", "second"])
    assert found.missing == ("second",)
    assert fed(b"second\nfirst\nsecond\n", ["first", "second"]).missing == ()


def test_the_same_pattern_twice_needs_two_matches() -> None:
    assert fed(b"ready once\n", ["ready", "ready"]).missing == ("ready",)
    assert fed(b"ready and ready\n", ["ready", "ready"]).missing == ()
    assert fed(b"rea", ["ready"]).missing == ("ready",)
    # A line that grows is looked at many times, and still counts once.
    assert fed(b"ready and nothing else", ["ready", "ready"], step=1).missing == ("ready",)


def test_a_login_prompt_may_come_before_the_last_target() -> None:
    early = b"host login: \r\n[  OK  ] Reached target multi-user.target\r\n"
    assert fed(early, ["Reached target *multi-user", "login:"]).missing == ()


def test_a_kernel_line_glued_into_another_hides_nothing() -> None:
    glued = b"[  OK  ] Started ssh.[   12.5] IPv6: link ready\r\nhost login: [   13.0] random: done"
    found = fed(glued, ["Started ssh", "link ready"])
    assert found.missing == ()
    assert found.has("login")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("Reached target multi-user", True),
        ("x Reached target a multi-user y", True),
        ("multi-user Reached target", False),
        ("Reached target\nmulti-user", False),
        ("reached target multi-user", False),
    ],
)
def test_a_pattern_is_literal_text_with_stars(text: str, matches: bool) -> None:
    assert (not fed(text.encode() + b"\n", ["Reached target*multi-user"]).missing) is matches


def test_characters_of_regular_expressions_mean_themselves() -> None:
    assert Pattern("[a-z]+ (x|y)?").find("[a-z]+ (x|y)?") == 13
    assert Pattern("a.c").find("abc") is None


def test_a_pattern_of_stars_takes_linear_time() -> None:
    pattern = Pattern("*".join("a" * 127) + "b")
    begun = time.process_time()
    assert pattern.find("a" * 8192) is None
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("console", "kind"),
    [
        (b"Booting from Hard Disk...\r\nBoot failed: not a bootable disk\r\n", "no-boot-device"),
        (b"No bootable device.\r\n", "no-boot-device"),
        (b"BdsDxe: No bootable option or device was found.\r\n", "no-boot-device"),
        (b"\x1b[2J\x1b[01;01HUEFI Interactive Shell v2.2\r\n", "firmware-shell"),
        (b"\x1b[0m\x1b[37m\x1b[40mShell> ", "firmware-shell"),
        (b"GRUB loading.\r\nerror: no such partition.\r\ngrub rescue> ", "bootloader-prompt"),
        (b"\x1b[1;1Hgrub> ", "bootloader-prompt"),
        # OVMF shows on the serial port what GRUB writes to the screen, and GRUB writes there too.
        (b"\r\n\r\ngrub>grub>  ", "bootloader-prompt"),
        (b"SYSLINUX 6.04\r\nboot: ", "bootloader-prompt"),
        (b"[ 1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n", "panic"),
        (b"You are in emergency mode. After logging in, type\r\n", "emergency-shell"),
        (b"ALERT!  does not exist.  Dropping to a shell!\r\n\r\n(initramfs) ", "emergency-shell"),
    ],
)
def test_where_a_boot_is_stuck(console: bytes, kind: str) -> None:
    for step in (1, None):
        trouble = fed(console, step=step).trouble
        assert trouble is not None
        assert trouble.kind == kind


def test_a_panic_says_why() -> None:
    trouble = fed(b"Kernel panic - not syncing: Attempted to kill init!\r\n").trouble
    assert trouble is not None
    assert trouble.message == "the guest's kernel panicked: Attempted to kill init!"


def test_a_shell_that_boots_after_all_was_no_end() -> None:
    assert fed(b"Shell> \r\nstartup.nsh\r\nLinux version 6.1\r\n").trouble is None


def test_a_panic_stays_one() -> None:
    panic = fed(b"Kernel panic - not syncing: x\r\nBooting `again'\r\n").trouble
    assert panic is not None


@pytest.mark.parametrize(
    "text",
    ["Last login: Mon Nov 23", "pam_unix(login:session): opened", "systemd-logind: started"],
)
def test_what_only_looks_like_a_login_prompt(text: str) -> None:
    assert not fed(text.encode() + b"\r\n").has("login")


def test_endless_output_costs_bounded_memory() -> None:
    lines = Lines()
    for _ in range(100):
        for text, _complete in lines.feed(b"x" * 65536):
            assert len(text) <= 8192
    found = fed(b"".join(b"Reached target t%d\n" % number for number in range(5000)))
    assert len(found.seen) <= MAX_TARGETS + 8


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_give_the_same_however_they_are_cut(data: bytes, step: int) -> None:
    def outcome(step: int | None) -> object:
        found = fed(data + DEBIAN, ["Linux version", "login:"], step=step)
        return [one.name for one in found.reached], found.missing, found.trouble

    assert outcome(step) == outcome(None)
