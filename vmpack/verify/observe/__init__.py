"""What a boot shows from outside: facts by layer, read while QEMU still answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmpack.verify.model import HostFacts, Observation

if TYPE_CHECKING:
    from vmpack.runner.session import Session

__all__ = ["host_facts", "observe_session"]


def host_facts(session: Session, name: str, changed: Sequence[str] = ()) -> HostFacts:
    """What ``session`` runs with; ``changed`` is what was changed on purpose."""
    from vmpack.verify.observe.firmware import code_digest

    return HostFacts(
        qemu=".".join(map(str, session.host.qemu.version)),
        accel=session.host.accel,
        firmware=code_digest(session.host.qemu, session.host.firmware),
        name=name,
        vmpack=_version(),
        changed=tuple(changed),
    )


async def observe_session(session: Session, host: HostFacts) -> Observation:
    """Everything that can be seen of the machine now."""
    return Observation(host, {"firmware": {"kind": session.host.firmware.kind}})


def _version() -> str:
    from vmpack import __version__

    return __version__
