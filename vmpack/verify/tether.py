"""Ends this process when whoever started it over a connection is gone.

Profile: specs/hosts-v1.md, HOSTS-TETHER-*. A server of ssh does not end what it runs when its
client disappears; it only closes the standard input.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time

__all__ = ["GRACE_S", "end_with_stdin"]

GRACE_S = 10.0
"""Seconds to remove what was written, before the kernel ends it; QEMU goes with it."""
MAX_PATIENCE_S = 3600
_BEAT = re.compile(rb"(?:^|\n)([0-9]{1,4})(?=\n)")


def end_with_stdin(fd: int = 0) -> None:
    """End this process as SIGTERM does when the input ``fd`` ends, or falls silent.

    A line with a number in it promises the next line within so many seconds. Without any only the
    end counts. A process that does not end within :data:`GRACE_S` is killed.
    """
    thread = threading.Thread(target=_watch, args=(fd,), name="vmpack-tether", daemon=True)
    thread.start()


def _watch(fd: int) -> None:
    _wait_for_end(fd)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_end(fd: int) -> None:
    patience: float | None = None
    line = b"\n"
    while True:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(None if patience is None else patience * 1000):
            return
        try:
            data = os.read(fd, 4096)
        except OSError:
            return
        if not data:
            return
        line = (line + data)[-4096:]
        promised = _BEAT.findall(line)
        if promised:
            patience = min(max(int(promised[-1]), 1), MAX_PATIENCE_S)
            line = line[line.rfind(b"\n") :]
