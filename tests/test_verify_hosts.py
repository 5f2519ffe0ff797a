"""Hosts of a hosts file: what it may say, and one bundle on several QEMU versions at a time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.build import hosts as building
from fixtures.build.cache import hosts_dir
from tests.support.guests import small
from tests.support.runner import HOSTS, qemu_of, sector_bundle
from tests.support.spec_tables import SPECS, clauses
from tests.support.tools import require_tool, run
from vmpack.bundle import Bundle
from vmpack.errors import InputError, QemuMissingError, UsageError
from vmpack.machine import MachineConfig
from vmpack.ops import verify_hosts
from vmpack.ops.pack import pack
from vmpack.ops.verify_host import Task
from vmpack.ops.verify_hosts import verify_on
from vmpack.runner.milestones import Reached
from vmpack.runner.options import RunOptions
from vmpack.verify.compare import compare
from vmpack.verify.hosts import Host, Ssh, find_hosts, read_hosts, root_prefix
from vmpack.verify.hosts_model import HostEntry
from vmpack.verify.layers import LAYERS
from vmpack.verify.matrix import matrix, matrix_document
from vmpack.verify.result import HostResult

pytestmark = pytest.mark.qemu

TCG = RunOptions(accel="tcg")
DEADLINE_S = 120
ECHO = '[expected]\nmilestones = ["echo", "never"]\n'
OFF = '[expected]\nmilestones = ["sector"]\nending = "power-off"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "hosts.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def hosts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This machine's QEMU and those that `make hosts` built."""
    lines = [f'[host.machine]\nqemu = "{qemu_of("machine").prefix[-1]}"']
    for name in HOSTS[1:]:
        qemu_of(name)
        lines.append(f'[host.{name}]\nroot = "{hosts_dir() / name}"')
    return written(tmp_path_factory.mktemp("hosts"), "\n".join(lines))


def test_a_host_is_one_place(tmp_path: Path) -> None:
    """HOSTS-FILE-2, HOSTS-FILE-4."""
    path = written(
        tmp_path,
        '[host.own]\nqemu = "bin/qemu"\naccel = "kvm"\n[host.other]\nroot = "~/trixie"\n'
        '[host.slow]\naccel = "tcg"\n'
        '[host.far]\nssh = "me@far.example"\nport = 22\nidentity = "key"\nconfig = "/c"\n'
        'vmpack = "~/bin/vmpack"\nfolder = "there"\n[host.near]\nssh = "fe80::1%eth0"\n',
    )
    assert read_hosts(path) == {
        "here": Host("here"),
        "own": Host("own", "kvm", qemu=str(tmp_path / "bin/qemu")),
        "other": Host("other", root=os.path.expanduser("~/trixie")),
        "slow": Host("slow", "tcg"),
        "far": Host(
            "far",
            ssh=Ssh("me@far.example", 22, str(tmp_path / "key"), "/c", "~/bin/vmpack", "there"),
        ),
        "near": Host("near", ssh=Ssh("fe80::1%eth0")),
    }


@pytest.mark.parametrize(
    ("text", "field", "says", "hint"),
    [
        ('[host.a]\nqmu = "x"', "host.a.qmu", "unknown field", "qemu"),
        ('[hosts.a]\nqemu = "x"', "hosts", "unknown field", "did you mean host?"),
        ('[host.a]\naccel = "xen"', "host.a.accel", "not one of auto, kvm, tcg", ""),
        ('[host.a]\nqemu = "x"\nssh = "y"', "host.a.ssh", "two places", "keep one"),
        ("[host.a]", "host.a", "says no place", "name one of"),
        ('[host.a]\nqemu = "x"\nport = 1', "host.a.port", "that ssh reaches", "add ssh"),
        ('[host.here]\nqemu = "x"', "host.here", "taken", "another name"),
        ('[host.a]\nssh = "-oProxyCommand=x"', "host.a.ssh", "USER@", ""),
        ('[host.a]\nssh = "a b"', "host.a.ssh", "USER@", ""),
        ('[host.a]\nssh = "me@-x"', "host.a.ssh", "USER@", ""),
        ('[host.a]\nssh = "a\\nb"', "host.a.ssh", "USER@", ""),
        ('[host.a]\nssh = "a"\nport = 0', "host.a.port", "greater than or equal to 1", ""),
        ('[host.a]\nssh = "a"\nport = true', "host.a.port", "an integer", ""),
        ('[host.a]\nqemu = "x\\u001b[2J"', "host.a.qemu", "control characters", ""),
        ('[host."../a"]\nqemu = "x"', "host", "64 letters", ""),
        ("[host.a", "", "not TOML", ""),
    ],
)
def test_what_a_file_cannot_say(
    tmp_path: Path, text: str, field: str, says: str, hint: str
) -> None:
    """HOSTS-FILE-2, HOSTS-FILE-3."""
    with pytest.raises(UsageError) as caught:
        read_hosts(written(tmp_path, text))
    assert says in caught.value.message
    assert (caught.value.field or "").startswith(field)
    assert hint in (caught.value.hint or "")
    assert str(caught.value).isprintable()


def test_hosts_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOSTS-FILE-1, HOSTS-FILE-3."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert find_hosts([]) == find_hosts(["here"], "absent.toml") == [Host("here")]
    with pytest.raises(UsageError, match="no hosts file"):
        find_hosts(["a"])
    (tmp_path / "config/vmpack").mkdir(parents=True)
    written(tmp_path / "config/vmpack", '[host.rack]\naccel = "kvm"\n')
    assert find_hosts(["rack", "here"]) == [Host("rack", "kvm"), Host("here")]
    written(tmp_path, '[host.rack]\naccel = "tcg"\n')
    assert find_hosts(["rack"]) == [Host("rack", "tcg")]
    with pytest.raises(UsageError, match="no host is called rakc") as caught:
        find_hosts(["rakc"])
    assert caught.value.hint == "did you mean rack?"
    with pytest.raises(UsageError, match="named twice"):
        find_hosts(["rack", "rack"])
    with pytest.raises(InputError, match="folder"):
        find_hosts(["rack"], tmp_path)
    with pytest.raises(InputError):
        find_hosts(["rack"], tmp_path / "absent.toml")


def test_a_root_has_its_own_loader(tmp_path: Path) -> None:
    """HOSTS-ROOT-1."""
    with pytest.raises(QemuMissingError, match="is no folder"):
        root_prefix(tmp_path / "absent")
    with pytest.raises(QemuMissingError, match="has no usr/bin/qemu"):
        root_prefix(tmp_path)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/qemu-system-x86_64").write_bytes(b"")
    (tmp_path / "lib64").symlink_to("/lib64")
    with pytest.raises(QemuMissingError, match="no loader"):
        root_prefix(tmp_path)
    qemu_of("trixie")
    found = Host("t", root=str(hosts_dir() / "trixie")).find_qemu()
    assert found.version == qemu_of("trixie").version
    assert found.data_dirs == qemu_of("trixie").data_dirs


def test_make_hosts_names_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_tool("qemu-system-x86_64")
    qemu_of("trixie")
    monkeypatch.setenv("VMPACK_CACHE", str(tmp_path))
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts/trixie").symlink_to(
        Path(building.__file__).parents[2] / ".cache/hosts/trixie"
    )
    path = building.write_hosts_file({"trixie": tmp_path / "hosts/trixie"}, "bookworm")
    named = read_hosts(path)
    assert list(named) == ["here", "bookworm", "trixie"]
    said = re.findall(r"# QEMU ([\d.]+)", path.read_text())
    assert said == [".".join(map(str, named[n].find_qemu().version)) for n in list(named)[1:]]


def vmpack(*words: object) -> subprocess.CompletedProcess[bytes]:
    return run([sys.executable, "-m", "vmpack", *words], check=False, timeout_s=DEADLINE_S)


def test_one_bundle_on_three_versions(tmp_path: Path, hosts_file: Path) -> None:
    """HOSTS-RUN-2, HOSTS-RUN-3: results in order; who cannot do it keeps nobody from it."""
    text = hosts_file.read_text() + f'\n[host.gone]\nqemu = "{tmp_path}/gone"\n'
    own = written(tmp_path, text)
    bundle = sector_bundle(tmp_path, "poweroff", OFF)
    names = ["gone", *reversed(HOSTS)]
    words = [word for name in names for word in ("--on", name)]
    done = vmpack(*("verify", bundle, "--hosts", own, *words, "--accel", "tcg"), "--output", "json")
    assert done.returncode == 125, done.stderr
    told = json.loads(done.stdout)
    assert [host["name"] for host in told["hosts"]] == names
    assert [host["exit-code"] for host in told["hosts"]] == [125, 0, 0, 0]
    assert told["kind"] == told["hosts"][0]["error"]["kind"] == "qemu-missing"
    versions = [host["facts"]["qemu"] for host in told["hosts"][1:]]
    assert versions == [".".join(map(str, qemu_of(name).version)) for name in reversed(HOSTS)]


def test_the_small_guest_does_the_same_on_two_versions(tmp_path: Path, hosts_file: Path) -> None:
    """HOSTS-MATRIX-1, and nothing differs in a layer that promises to be equal."""
    bundle = tmp_path / "small.vmpack"
    pack([small("bios")], bundle, config=MachineConfig.from_toml('memory = "256M"'))
    names = [HOSTS[0], HOSTS[-1]]
    found = find_hosts(names, hosts_file)
    with Bundle.open(bundle) as opened:
        first, second = asyncio.run(verify_on(found, opened, Task(TCG)))
    assert (first.kind, second.kind) == ("expected", "expected")
    mine, other = first.boots[0].observation, second.boots[0].observation
    assert mine is not None
    assert other is not None
    compared = compare(mine, other)
    # How alike the console of a kernel without CPU time is has a test of its own.
    assert [one for one in compared.differences if one.promise in ("exact", "shared")] == []
    hosts = [first, HostResult(second.name, second.boots, compared)]
    rows = matrix(hosts)
    assert rows[:2] == [("layer", *names), ("boot", "expected", "expected")]
    verdicts = dict(zip([one.name for one in LAYERS], rows[2:], strict=True))
    assert verdicts["milestones"] == ("milestones", "-", "same")
    assert verdicts["hardware"][2] in ("same", "drift")
    told = json.loads(json.dumps(matrix_document(hosts)))
    assert (told["hosts"], told["layers"]["ending"]) == (names, [None, "same"])


def test_a_matrix_without_a_record_is_of_endings(tmp_path: Path) -> None:
    error = {"kind": "remote\x1b[2J"}
    rows = matrix([HostResult("a", error=error), HostResult("b")])
    assert rows == [("layer", "a", "b"), ("boot", "remote\\x1b[2J", "expected")]
    assert matrix_document([HostResult("b")])["layers"] == {one.name: [None] for one in LAYERS}


def children() -> list[int]:
    """QEMUs that this process has started and that still run."""
    pids = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in pids if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def running_when(bundle: Path, hosts: list[Host], count: int) -> tuple[list[str], int]:
    """The first ``count`` hosts whose guest runs (for ever), and how many QEMUs there were then."""
    names: list[str] = []
    running: list[int] = []

    async def work() -> None:
        all_there = asyncio.Event()

        def reached(host: str, boot: int, milestone: Reached) -> None:
            names.append(host)
            running.append(len(children()))
            if len(names) == count:
                all_there.set()

        with Bundle.open(bundle) as opened:
            job = asyncio.create_task(verify_on(hosts, opened, Task(TCG), on_reached=reached))
            async with asyncio.timeout(DEADLINE_S):
                await all_there.wait()
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
            assert job.cancelled()

    asyncio.run(work())
    return names, max(running)


@pytest.mark.parametrize(("cores", "cpus", "together"), [(2, 1, 2), (1, 1, 1), (3, 2, 1)])
def test_guests_share_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, cpus: int, together: int
) -> None:
    """HOSTS-RUN-1, HOSTS-RUN-4: together within the cores, and cancelling ends them all."""
    monkeypatch.setattr(verify_hosts, "cores", lambda: cores)
    bundle = sector_bundle(tmp_path, "echo", f"cpu.cores = {cpus}\n{ECHO}")
    hosts = [Host("one"), Host("two"), Host("three")]
    names, most = running_when(bundle, hosts, together)
    assert sorted(names) == sorted(host.name for host in hosts[:together])
    assert most == together
    assert children() == []


def test_a_guest_with_more_cpus_than_there_are_runs_alone() -> None:
    """HOSTS-RUN-1."""
    order: list[str] = []

    async def work() -> None:
        shared = verify_hosts._Cores(2)

        async def one(name: str, count: int) -> None:
            async with shared.take(count):
                order.append(f"+{name}")
                await asyncio.sleep(0)
                order.append(f"-{name}")

        await asyncio.gather(one("a", 1), one("big", 64), one("b", 1), one("c", 1))

    asyncio.run(work())
    assert order == ["+a", "-a", "+big", "-big", "+b", "+c", "-b", "-c"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_end_of_vmpack_is_that_of_every_guest(
    tmp_path: Path, hosts_file: Path, number: signal.Signals
) -> None:
    """HOSTS-RUN-4."""
    bundle = sector_bundle(tmp_path, "echo", ECHO)
    words = ["verify", "-v", str(bundle), "--hosts", str(hosts_file), "--accel", "tcg"]
    words += ["--on", "machine", "--on", "here"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vmpack", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert b"echo" in process.stderr.readline()
    here = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    guests = [os.pidfd_open(int(pid)) for pid in here]
    assert guests
    process.send_signal(number)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    for guest in guests:
        # Readable when the process has ended.
        assert select.select([guest], [], [], DEADLINE_S)[0]
        os.close(guest)


def test_every_field_stands_in_the_page() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (SPECS / "hosts-v1.md").read_text(), re.MULTILINE)
    assert rows == list(HostEntry.model_fields)


def test_every_clause_is_tested() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_verify_*.py"))
    assert [name for name in clauses("hosts-v1.md") if f"{name}" not in tests] == []
