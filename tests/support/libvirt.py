"""A libvirtd of the test's own: its own user, folders and sockets, ended by its process id.

It is a session daemon, so that it needs no rights and touches nothing of the host's libvirt. Where
the tests run as root it runs as ``nobody``: root's libvirtd would be the system's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.tools import require_tool, run

START_S = 60
BOOT_S = 180


@dataclass
class Libvirt:
    """A running libvirtd."""

    folder: Path
    """Where its domains' files may lie: it can enter it, and owns what :meth:`give` was called on.
    """
    socket: Path
    user: int | None

    @property
    def uri(self) -> str:
        """Its address for ``virsh --connect``."""
        return f"qemu+unix:///session?socket={self.socket}"

    def virsh(self, *words: object, check: bool = True) -> str:
        """What virsh prints."""
        argv = [require_tool("virsh"), "--quiet", "--connect", self.uri, *words]
        done = run(argv, check=check, timeout_s=BOOT_S)
        return (done.stdout + (b"" if check else done.stderr)).decode()

    def give(self, folder: Path) -> None:
        """Let libvirtd's user have ``folder`` and what is in it."""
        for path in (folder, *folder.rglob("*")):
            if self.user is not None:
                os.chown(path, self.user, -1)

    @contextlib.contextmanager
    def defined(self, xml: Path, name: str) -> Iterator[None]:
        """The domain of ``xml``, defined by libvirt's own schema, and gone afterwards."""
        self.virsh("define", "--validate", xml)
        try:
            yield
        finally:
            self.virsh("destroy", "--domain", name, check=False)
            self.virsh("undefine", "--nvram", "--domain", name, check=False)

    def open_files(self, name: str, path: Path) -> list[int]:
        """The flags with which the domain's QEMU has ``path`` open, for each descriptor."""
        pid = (self.socket.parent / f"qemu/run/{name}.pid").read_text().strip()
        found = []
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(fd) == str(path):
                text = Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text()
                found.append(int(re.findall(r"flags:\s*([0-7]+)", text)[0], 8))
        return found

    def wait_console(self, name: str, text: bytes, timeout_s: float = BOOT_S) -> bytes:
        """Start the domain, paused until its first serial port is read; what it printed."""
        self.virsh("start", "--paused", "--domain", name)
        port = os.open(self.virsh("ttyconsole", "--domain", name).strip(), os.O_RDWR | os.O_NOCTTY)
        said = b""
        try:
            self.virsh("resume", "--domain", name)
            end = time.monotonic() + timeout_s
            while text not in said:
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"never printed {text!r}:\n{said[-3000:].decode()}")
                if select.select([port], [], [], min(left, 1.0))[0]:
                    said += os.read(port, 65536)
        finally:
            os.close(port)
        return said


@contextlib.contextmanager
def libvirtd() -> Iterator[Libvirt]:
    """Start one; it ends with the block."""
    program = require_tool("libvirtd")
    require_tool("virsh")
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    # Not pytest's own folder, which only its user can enter; short, for the names of sockets.
    folder = Path(tempfile.mkdtemp(prefix="vmpack-lv-"))
    try:
        folder.chmod(0o755)
        home = folder / "home"
        (home / "config/libvirt").mkdir(parents=True)
        (home / "run").mkdir()
        (home / "config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
        found = Libvirt(folder, home / "run/libvirt/libvirt-sock", user)
        found.give(home)
        environment = {
            "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(home / "run"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_DATA_HOME": str(home / "data"),
        }
        with (folder / "libvirtd.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-f", "/dev/null"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=user,
                group=None if user is None else pwd.getpwuid(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        try:
            _wait_for(found, process)
            yield found
        finally:
            process.terminate()
            process.wait(START_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(found: Libvirt, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        if found.socket.exists() and "rror" not in found.virsh("uri", check=False):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    raise AssertionError("libvirtd did not start: " + (found.folder / "libvirtd.log").read_text())
