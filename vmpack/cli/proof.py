"""What ``unpack`` and ``convert`` show of ``--verify-boot``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vmpack.cli.console import GREEN, RED

if TYPE_CHECKING:
    from types import SimpleNamespace

    from vmpack.cli.console import Console
    from vmpack.ops.verify_boot import BootProof
    from vmpack.runner.options import RunOptions


def boot_options(arguments: SimpleNamespace) -> RunOptions | None:
    """How to boot what was written; ``None`` where that was not asked for."""
    if not arguments.verify_boot:
        return None
    from vmpack.runner.options import RunOptions

    return RunOptions()


def proof_dict(proof: BootProof | None) -> dict[str, object]:
    """The member of the JSON document, where there is one."""
    return {} if proof is None else {"verify-boot": proof.as_dict()}


def proof_lines(console: Console, proof: BootProof | None) -> Iterator[str]:
    """The boot of what was written, for people."""
    if proof is None:
        return
    boot, ending = proof.boot, proof.boot.ending
    shown = {"read-back": "read back", "config": "by the source's config"}[proof.machine]
    like = f", as {proof.profile} shows it" if proof.profile else ""
    yield f"booted what was written, {shown}{like}: QEMU {boot.qemu}, {boot.accel}"
    verdict = "as expected" if boot.good else ending.kind
    mark = console.style(verdict, GREEN if boot.good else RED)
    yield f"  {mark}: {ending.message}, {ending.seconds:.1f} s after the start"
    if not boot.good:
        yield from (f"  | {line}" for line in ending.console_tail[-12:])
        yield from (f"  QEMU: {line}" for line in ending.stderr.splitlines()[-5:])
        yield "  the files stay: their content was proven, the boot was not"
    yield from (f"  note: {note}" for note in proof.notes)
