"""QMP over an inherited socket: commands, events, and the end of the connection as such."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vmpack.errors import OperationError, QemuDiedError

if TYPE_CHECKING:
    from qemu.qmp import QMPClient

__all__ = ["Event", "Qmp"]

Event = Mapping[str, Any]
COMMAND_S = 60.0
"""Seconds for a command: a machine that is only slow answers; one that is stuck does not."""


class Qmp:
    """A connection to one QEMU.

    The listener goes silent when QEMU dies, so whoever waits for an event also waits for the
    process: :class:`vmpack.runner.session.Session` does.
    """

    def __init__(self, on_event: Callable[[Event], None]):
        self._on_event = on_event
        self._client: QMPClient | None = None
        self._listener: asyncio.Task[None] | None = None

    async def connect(self, end: socket.socket) -> None:
        """Wait for the greeting on ``end`` of a socket pair. Raises :class:`QemuDiedError`."""
        from qemu.qmp import QMPClient, QMPError

        # Its words about a connection that ends are about what the session reports itself.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL + 1)
        client = QMPClient("vmpack")
        self._listener = asyncio.create_task(self._listen(client))
        try:
            await client.connect(end)
        except (QMPError, OSError, EOFError) as exc:
            raise QemuDiedError("QEMU ended before it answered") from exc
        self._client = client

    async def _listen(self, client: QMPClient) -> None:
        async for event in client.events:
            self._on_event(event)

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """What ``command`` returns.

        Raises :class:`OperationError` with QEMU's own words when it fails, and
        :class:`QemuDiedError` when the connection ends first.
        """
        from qemu.qmp import ExecuteError, QMPError

        if self._client is None:
            raise QemuDiedError("there is no connection to QEMU")
        try:
            async with asyncio.timeout(COMMAND_S):
                return await self._client.execute(command, arguments)
        except ExecuteError as exc:
            raise OperationError(f"{command}: {exc}") from exc
        except TimeoutError as exc:
            raise QemuDiedError(f"QEMU does not answer to {command}") from exc
        except (QMPError, OSError, EOFError) as exc:
            raise QemuDiedError("QEMU ended the connection") from exc

    async def close(self) -> None:
        """End the connection; its end may come from either side. Closing twice is harmless."""
        from qemu.qmp import QMPError

        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await client.disconnect()
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
