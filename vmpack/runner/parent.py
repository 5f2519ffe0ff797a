"""Children that do not outlive this process, however it ends."""

from __future__ import annotations

import ctypes
import signal

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends; prctl(2).

    For a child between fork and exec (``preexec_fn``): one system call, no lock and no import. It
    must come after a change of user, which clears the setting.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
