"""What ``--display`` may say, and what QEMU is told for it. Pure.

A screen is shown in a window of the user's own desktop, or offered to a VNC viewer of this host:
VNC here has no password, so that no other host may reach it. Source: QEMU, qemu-options.hx,
``-display`` and ``-vnc``.
"""

from __future__ import annotations

import os
import re

from vmpack.binary import escape
from vmpack.errors import UsageError

__all__ = ["PLAIN", "WINDOWS", "address_of", "display_words", "is_window", "vnc_socket"]

WINDOWS = ("gtk", "sdl", "spice-app", "dbus", "egl-headless")
"""Kinds that use the user's own desktop session, its bus or its graphics card."""
PLAIN = ("none", "vnc")
LOOPBACK = ("", "127.0.0.1", "::1", "[::1]", "localhost")
FIRST_PORT = 5900
LAST_DISPLAY = 99
"""VNC displays are tried from 0 to this one until one is free: the next viewer may have one."""
_PLACE = re.compile(r"(?P<host>[^,]*):(?P<number>[0-9]{1,5})")


def display_words(text: str | None) -> list[str]:
    """QEMU's arguments for ``--display text``. Raises :class:`UsageError` for what is none."""
    if text is None:
        return ["-display", "none"]
    kind, _, place = text.partition("=")
    if kind == "vnc":
        return ["-display", f"vnc={_vnc(place)}"]
    name = text.partition(",")[0]
    if name == "curses":
        raise UsageError(
            "the terminal is the guest's console already",
            field="--display",
            hint="gtk, sdl or vnc show the screen beside it",
        )
    if name not in (*WINDOWS, "none"):
        raise UsageError(
            f"{escape(text)!r} is no display",
            field="--display",
            hint=f"take {', '.join((*PLAIN, *WINDOWS))}; vnc=unix:PATH offers it at a socket",
        )
    return ["-display", text]


def _vnc(place: str) -> str:
    """The address at which QEMU listens: a socket, or a port that only this host reaches."""
    if not place:
        return f"127.0.0.1:0,to={LAST_DISPLAY}"
    socket = vnc_socket(f"vnc={place}")
    if socket is not None and place != "unix:":
        return "unix:" + socket.replace(",", ",,")
    host, comma, more = place.partition(",")
    found = _PLACE.fullmatch(host)
    if found is None or int(found["number"]) > 65535 - FIRST_PORT:
        raise UsageError(
            f"{escape(place)!r} is no place for VNC",
            field="--display",
            hint="write vnc, vnc=:NUMBER or vnc=unix:PATH",
        )
    if found["host"] not in LOOPBACK:
        raise UsageError(
            f"whoever reaches {escape(found['host'])} could use the guest's keyboard",
            field="--display",
            hint="write vnc, and come through ssh -L 5900:127.0.0.1:5900",
        )
    return f"{found['host'] or '127.0.0.1'}:{found['number']}{comma}{more}"


def vnc_socket(text: str | None) -> str | None:
    """Absolute path of the socket that ``vnc=unix:PATH`` names."""
    if text is None or not text.startswith("vnc=unix:"):
        return None
    return os.path.abspath(text.removeprefix("vnc=unix:"))


def is_window(text: str | None) -> bool:
    """Whether QEMU needs the user's own desktop."""
    return text is not None and text.partition(",")[0] in WINDOWS


def address_of(answer: object, text: str | None) -> str | None:
    """Where a viewer finds the screen, from what QMP's ``query-vnc`` returned."""
    socket = vnc_socket(text)
    if socket is not None:
        return f"vnc+unix://{socket}"
    if not isinstance(answer, dict) or not answer.get("enabled"):
        return None
    host, port = str(answer.get("host")), str(answer.get("service"))
    return f"vnc://[{host}]:{port}" if ":" in host else f"vnc://{host}:{port}"
