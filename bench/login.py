"""``python -m bench.login BUNDLE [RAW]``: boots to the login prompt once, and prints what it cost.

With RAW the machine, its QEMU and its overlay are the same, and the raw image stands where the
bundle's window would.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from vmpack.bundle import Bundle
from vmpack.runner import argv
from vmpack.runner.blocks import Node, block_nodes
from vmpack.runner.options import Plan, RunOptions
from vmpack.runner.session import Session

BOOT_S = 600.0
PROMPT = b"login:"


def nodes_on_raw(raw: Path, plan: Plan) -> Iterator[Node]:
    """The block nodes of ``plan`` with its first disk read from ``raw``."""
    for node in block_nodes(plan):
        if node["node-name"] == "disk0":
            file = {"driver": "file", "filename": str(raw.resolve()), "read-only": True}
            yield {"driver": "raw", "node-name": "disk0", "read-only": True, "file": file}
        else:
            yield node


async def boot(bundle: Bundle) -> dict[str, float]:
    """Seconds from the guest's first instruction to its prompt, and QEMU's CPU time until then."""
    options = RunOptions(timeout_s=BOOT_S)
    async with Session.start(bundle, options) as session:
        ending = await session.wait(lambda console: PROMPT in console.data)
        if ending.kind != "expected":
            raise SystemExit(f"no login: {ending.message}")
        return {"seconds": ending.seconds, "cpu-seconds": session.process.cpu_seconds()}


def main() -> None:
    """Boot once; one JSON object on stdout."""
    if len(sys.argv) > 2:
        raw = Path(sys.argv[2])
        vars(argv)["block_nodes"] = lambda plan: nodes_on_raw(raw, plan)
    with Bundle.open(sys.argv[1]) as bundle:
        print(json.dumps(asyncio.run(boot(bundle))))


if __name__ == "__main__":
    main()
