"""The pytest plugin: real machines under tests that pytester runs. Page: specs/pytest-plugin.md."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.guests import copy_of, small
from tests.support.runner import sector_bundle
from tests.support.tools import require_tool
from vmpack.machine import MachineConfig
from vmpack.ops.pack import pack

pytest_plugins = ["pytester"]
pytestmark = [pytest.mark.qemu, pytest.mark.slow]

WORDS = ("--vmpack-accel", "tcg", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``small.vmpack``, ``echo.vmpack`` and ``panic.vmpack``."""
    require_tool("qemu-system-x86_64")
    folder = tmp_path_factory.mktemp("bundles")
    disk = copy_of(small("bios"), folder)
    machine = MachineConfig.from_toml('memory = "256M"\n[cpu]\ncores = 1\n')
    pack([disk], folder / "small.vmpack", config=machine)
    sector_bundle(folder, "echo", '[expected]\nmilestones = ["vmpack"]\n')
    sector_bundle(folder, "panic")
    sector_bundle(folder, "poweroff")
    return folder


def run(pytester: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    """pytest over one file of tests, as a user runs it: another process."""
    pytester.makepyfile(text)
    return pytester.runpytest_subprocess(*WORDS, *words, timeout=300)


def test_tests_of_a_module_share_a_boot_and_not_what_they_do(
    pytester: pytest.Pytester, bundles: Path
) -> None:
    """PYT-VM-1, PYT-VM-2: what one test writes to disk and memory is not there in the next."""
    result = run(
        pytester,
        f"""
        import re
        import pytest

        pytestmark = pytest.mark.vmpack({str(bundles / "small.vmpack")!r})

        def login(vm):
            vm.console.expect("login:")
            vm.console.send("root\\n")
            vm.console.expect("# ")

        def test_writes(vm):
            login(vm)
            vm.console.send("echo one > /data/mark; sync; echo left=$((40+2))\\n")
            assert vm.console.expect(re.compile(r"left=(\\d+)"))[1] == "42"
            assert vm.screenshot().startswith(b"\\x89PNG")
            assert vm.qmp("query-status")["status"] == "running"

        def test_finds_nothing_of_it(vm):
            login(vm)
            vm.console.send("ls /data/mark; echo code=$?\\n")
            assert vm.console.expect(re.compile(r"code=(\\d)"))[1] == "1"
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_machine_that_was_reset_or_ended_boots_again(
    pytester: pytest.Pytester, bundles: Path
) -> None:
    """PYT-VM-1, PYT-VM-4: and what the boot ended with is there to be matched."""
    result = run(
        pytester,
        f"""
        import pytest

        echo = pytest.mark.vmpack({str(bundles / "echo.vmpack")!r})
        ends = pytest.mark.vmpack({str(bundles / "poweroff.vmpack")!r}, until="vmpack")

        @echo
        def test_reboots(vm):
            vm.console.expect("echo")
            vm.reboot()
            vm.console.expect("echo")
            vm.console.send("abc")
            vm.console.expect("abc")

        @echo
        def test_prompt(vm):
            vm.console.expect("echo")

        @ends
        def test_ends(vm):
            assert vm.wait().reason == "guest-shutdown"
            assert vm.ending is not None

        @ends
        def test_is_there_again(vm):
            vm.console.expect("vmpack")
        """,
    )
    result.assert_outcomes(passed=4)


def test_a_failure_tells_what_the_machine_did(pytester: pytest.Pytester, bundles: Path) -> None:
    """PYT-FAIL-1: last lines, ending, files; text from the guest is made safe."""
    result = run(
        pytester,
        f"""
        import pytest

        @pytest.mark.vmpack({str(bundles / "echo.vmpack")!r})
        def test_waits(vm):
            vm.console.expect("never printed", timeout=0.5)

        @pytest.mark.vmpack({str(bundles / "panic.vmpack")!r}, until="vmpack")
        def test_ends(vm):
            vm.wait()
            assert vm.ending is None
        """,
        "--vmpack-artifacts",
        "kept",
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*VmEndedError: 'never printed' did not come: not done within 0.5 s*",
            "*vm: last lines of the console*",
            "*vmpack*",
            "*panic: the guest panicked*",
        ]
    )
    names = sorted(path.name for path in (pytester.path / "kept").iterdir())
    assert [name.rpartition("::")[2].split("-")[-1] for name in names if name.endswith("txt")] == [
        "test_ends.console.txt",
        "test_waits.console.txt",
    ]
    assert any(name.endswith("test_waits.png") for name in names)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("", "*no bundle is named*"),
        ("@pytest.mark.vmpack('absent.vmpack')", "*absent.vmpack*no such file*"),
        ("@pytest.mark.vmpack('x', memroy='1G')", "*unexpected keyword argument 'memroy'*"),
        ("@pytest.mark.vmpack('test_x.py')", "*hint:*"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    pytester: pytest.Pytester, marker: str, said: str
) -> None:
    """PYT-MARK-2"""
    pytester.makepyfile(test_x=f"import pytest\n{marker}\ndef test_it(vm):\n    pass\n")
    result = pytester.runpytest_subprocess(*WORDS)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([said])
    assert "Traceback" not in result.stdout.str()


def test_the_command_line_names_the_bundle(pytester: pytest.Pytester, bundles: Path) -> None:
    """PYT-MARK-1"""
    result = run(
        pytester,
        """
        def test_it(vm):
            vm.console.send("hello")
            vm.console.expect("hello")
        """,
        "--vmpack-bundle",
        str(bundles / "echo.vmpack"),
    )
    result.assert_outcomes(passed=1)


def test_nothing_is_loaded_for_tests_that_have_no_machine(pytester: pytest.Pytester) -> None:
    """PYT-LOAD-1"""
    result = run(
        pytester,
        """
        import sys

        def test_it():
            mine = {name for name in sys.modules if name.split(".")[0] == "vmpack"}
            assert mine == {"vmpack", "vmpack.pytest_plugin"}
            assert not {"construct", "pydantic", "asyncio", "qemu"} & set(sys.modules)
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_qemu_outlives_pytest(
    pytester: pytest.Pytester, bundles: Path, number: signal.Signals
) -> None:
    """PYT-END-1"""
    pytester.makepyfile(
        f"""
        import pathlib
        import pytest

        @pytest.mark.vmpack({str(bundles / "echo.vmpack")!r})
        def test_it(vm):
            print("pid", vm.session.process.pid, flush=True)
            vm.console.expect("never printed", timeout=300)
        """
    )
    words = [sys.executable, "-m", "pytest", "-s", *WORDS]
    # Where a shell started the tests in the background, Ctrl-C would be ignored.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stdout is not None
        pid = next(int(line.split()[-1]) for line in process.stdout if "pid " in line)
        watched = os.pidfd_open(pid)
        try:
            process.send_signal(number)
            process.stdout.read()
            process.wait(60)
            # Readable as soon as the process has ended.
            import select

            assert select.select([watched], [], [], 30)[0], "QEMU lives on"
        finally:
            os.close(watched)
