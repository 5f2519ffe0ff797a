"""A real sshd in a network namespace of its own: another machine, as far as ssh can tell."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

from tests.support.tools import missing, require_tool, run

DEADLINE_S = 120
BENCHMARKS = IPv4Address("198.18.0.0")
"""A /15 that no network uses but for measurements; RFC 2544."""
VMPACK = Path(sys.executable).with_name("vmpack")


class Sshd:
    """One machine behind a veth pair. ``folder`` holds its keys, its configuration, its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Two runs of the tests at a time have two machines.
        tag = secrets.token_hex(3)
        self.namespace = f"vmpt-{tag}"
        self.link = f"vmpt{tag}"
        block = BENCHMARKS + 4 * secrets.randbelow(1 << 15)
        self.ours, self.address = str(block + 1), str(block + 2)
        self.identity = folder / "user-key"
        self.known = folder / "known-hosts"
        self.config = folder / "ssh-config"
        self.home = folder / "home"
        self._process: subprocess.Popen[bytes] | None = None

    def hosts_toml(self, name: str = "far", **more: str) -> Path:
        """A hosts file that names this machine."""
        entries = {
            "ssh": f"root@{self.address}",
            "identity": str(self.identity),
            "config": str(self.config),
            "vmpack": str(VMPACK),
            "folder": str(self.folder / "bundles"),
            **more,
        }
        lines = [f"[host.{name}]", *(f'{key} = "{value}"' for key, value in entries.items())]
        path = self.folder / "hosts.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def prepare(self) -> None:
        """Keys and configuration; the namespace, joined to this machine's by two addresses."""
        self.home.mkdir(parents=True)
        keygen = require_tool("ssh-keygen")
        for name in ("host-key", "user-key"):
            run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name])
        (self.folder / "authorized").write_bytes((self.folder / "user-key.pub").read_bytes())
        self.know((self.folder / "host-key.pub").read_text())
        self.config.write_text(f"UserKnownHostsFile {self.known}\nGlobalKnownHostsFile /dev/null\n")
        (self.folder / "sshd-config").write_text(
            f"HostKey {self.folder}/host-key\n"
            f"AuthorizedKeysFile {self.folder}/authorized\n"
            f"PidFile {self.folder}/pid\n"
            f"ListenAddress {self.address}\n"
            f"SetEnv HOME={self.home} XDG_CACHE_HOME={self.home}/cache\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            "MaxStartups 100\nUseDNS no\nLogLevel ERROR\n"
        )
        for words in (
            f"ip netns add {self.namespace}",
            f"ip link add {self.link} type veth peer name far netns {self.namespace}",
            f"ip addr add {self.ours}/30 dev {self.link}",
            f"ip link set {self.link} up",
            f"ip -n {self.namespace} addr add {self.address}/30 dev far",
            f"ip -n {self.namespace} link set far up",
            f"ip -n {self.namespace} link set lo up",
        ):
            run(words.split())

    def know(self, key: str) -> None:
        """Have the client take ``key`` for this machine's."""
        self.known.write_text(f"{self.address} {' '.join(key.split()[:2])}\n")

    def start(self) -> None:
        """Start sshd; it answers when this returns."""
        # Debian's sshd wants this folder, which its own start-up script makes.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = require_tool("sshd")
        words = f"ip netns exec {self.namespace} {sshd} -D -e -f {self.folder}/sshd-config"
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(words.split(), stdout=log, stderr=log)
        self.wait_for(lambda: (self.folder / "pid").exists())

    def pids(self) -> dict[int, str]:
        """What runs on this machine: process ids, and their command lines."""
        found = {}
        for word in run(["ip", "netns", "pids", self.namespace]).stdout.split():
            with suppress(OSError):
                line = Path(f"/proc/{int(word)}/cmdline").read_bytes()
                found[int(word)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
        return {pid: line for pid, line in found.items() if line}

    def qemus(self) -> list[int]:
        """Those that are QEMU itself."""
        return [pid for pid, line in self.pids().items() if line.startswith("/usr/bin/qemu-system")]

    def kill(self) -> None:
        """SIGKILL to every sshd of this machine, those of sessions included."""
        for pid, line in self.pids().items():
            if "sshd" in line.split()[0]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(DEADLINE_S)
        (self.folder / "pid").unlink(missing_ok=True)

    def wait_for(self, holds: Callable[[], bool], what: str = "sshd") -> None:
        """Wait until ``holds()``; by the clock only where it never does."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            log = (self.folder / "sshd.log").read_text(errors="replace")
            assert time.monotonic() < deadline, f"{what} never came: {log} {self.pids()}"
            assert self._process is not None
            if what == "sshd":
                assert self._process.poll() is None, log
            time.sleep(0.01)

    def close(self) -> None:
        """End everything of this machine and remove it."""
        self.kill()
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run(["ip", "link", "del", self.link], check=False)
        run(["ip", "netns", "del", self.namespace], check=False)

    def run(self, *words: object) -> str:
        """What a command prints that sees this machine's mounts and network."""
        listener = (self.folder / "pid").read_text().strip()
        return run(["nsenter", "-t", listener, "-m", "-n", *words]).stdout.decode()


@contextmanager
def machine(folder: Path) -> Iterator[Sshd]:
    """A machine with a running sshd. Without root, or without namespaces, the test is skipped."""
    for tool in ("ssh", "sshd", "ssh-keygen", "ip", "nsenter"):
        require_tool(tool)
    if os.geteuid() != 0:
        missing("root, for a network namespace", "run the tests as root")
    try_words = ["ip", "netns", "add", (probe := f"vmpt-{secrets.token_hex(3)}")]
    if run(try_words, check=False).returncode:
        missing("the right to make network namespaces", "run the tests with CAP_SYS_ADMIN")
    run(["ip", "netns", "del", probe])
    folder.mkdir(parents=True, exist_ok=True)
    made = Sshd(folder)
    try:
        made.prepare()
        made.start()
        yield made
    finally:
        made.close()
