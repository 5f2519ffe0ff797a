"""The text on a machine's screen, where a graphics card is in a text mode.

A guest without a serial console (a boot loader's rescue image, a memory test, a kernel that was not
told of one) shows where it is stuck on its screen alone. VGA's text modes keep two bytes for each
place of the screen, a character of code page 437 and its colours, in the 32 KiB from 0xb8000 on;
Linux scrolls by showing another part of them. Reading them in a text mode has no effect on the
guest, and in a graphics mode there is nothing to be read there. Source: FreeVGA, *VGA Text Mode
Operation*; QEMU, hw/display/vga.c, ``vga_mem_readb``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmpack.binary import escape
from vmpack.errors import VmpackError
from vmpack.runner.troubles import Trouble, trouble_of

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["COLUMNS", "Screen", "text_of"]

COLUMNS = 80
WINDOW = 0xB8000
WINDOW_BYTES = 0x8000
COMMAND = f"xp /{WINDOW_BYTES // 4}wx {WINDOW:#x}"
SHOWN = 25
"""Lines that a report shows; nothing tells which part of the 32 KiB is on the screen."""

_WORD = re.compile(r"\b0x([0-9a-f]{8})\b")


def text_of(dump: str) -> tuple[str, ...]:
    """The lines, those that are empty left out, of what QEMU's monitor says about the window.

    Empty for a graphics mode: no card answers there then, so that every bit is set.
    """
    words = _WORD.findall(dump[: 8 * WINDOW_BYTES])[: WINDOW_BYTES // 4]
    memory = b"".join(bytes.fromhex(word)[::-1] for word in words)
    if not memory.strip(b"\xff\0"):
        return ()
    text = memory[::2].decode("cp437").replace("\0", " ")
    lines = (text[place : place + COLUMNS].rstrip() for place in range(0, len(text), COLUMNS))
    return tuple(line for line in lines if line)


class Screen:
    """Looks at the text screen now and then; knows what it showed, and how often that changed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.lines: tuple[str, ...] = ()
        self.changes = 0
        self.trouble: Trouble | None = None
        """Where the boot is stuck, as far as the screen shows it."""

    async def look(self) -> None:
        """Read it again. A machine without a card, or one in a graphics mode, shows nothing."""
        if self._session.plan.config.display.model in (None, "none"):
            return
        try:
            words = {"command-line": COMMAND}
            dump = str(await self._session.qmp("human-monitor-command", **words))
        except VmpackError:
            return
        lines = text_of(dump)
        if lines != self.lines:
            self.lines = lines
            self.changes += 1
            self.trouble = None
            for line in lines:
                self.trouble = trouble_of(line, self.trouble)

    def tail(self) -> tuple[str, ...]:
        """The last lines, safe to print."""
        return tuple(escape(line) for line in self.lines[-SHOWN:])
