"""A real small guest is asked: without an agent, with agents that misbehave, by a login."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support import guests
from tests.support.runner import in_session
from vmpack.bundle import Bundle
from vmpack.errors import QemuDiedError
from vmpack.machine import MachineConfig
from vmpack.machine.expectation import Login, Verify
from vmpack.machine.seed_image import read_seed
from vmpack.ops.pack import pack
from vmpack.runner.options import RunOptions
from vmpack.runner.session import Session
from vmpack.verify.guest import GuestReport, observe_guest, patience, seed_for

pytestmark = [pytest.mark.qemu, pytest.mark.slow]
DEADLINE_S = 900.0
PORT = "set -- /dev/vport*p1; exec 3<>$1; "
LIAR = r"""while read -r l; do case $l in
*sync-del*) i=${l##*\"id\": }; printf '\377{"return": %s}\n' ${i%%\}*};;
*exec-status*) echo '{"return": {"exited": true, "exitcode": 0, "out-data": "PT0gdW5hbWUK"}}';;
*exec*) echo '{"return": {"pid": 7}}';; esac; done <&3 >&3""".replace("\n", " ")
AGENTS = {
    "silent": "cat <&3 >/dev/null",
    "endless": "while :; do echo '{\"return\": 1}'; done >&3",
    "liar": LIAR,
    "zeros": "cat /dev/zero >&3",
}
"""What plays the guest agent on its port."""


def test_a_guest_is_asked_whatever_plays_its_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hostile: 48."""
    monkeypatch.setattr(patience, "IDLE_S", 1.5)
    monkeypatch.setattr(patience, "LIMIT_S", 4.0)
    disk = guests.copy_of(guests.small("bios"), tmp_path)
    bundle = tmp_path / "small.vmpack"
    pack([disk], bundle, config=MachineConfig.from_toml('memory = "256M"\n[[nic]]\n'))
    with Bundle.open(bundle) as opened:
        seed = seed_for(opened, MachineConfig(verify=Verify(probe="cloud-init")))
    assert seed is not None
    vendor = (read_seed(seed.image) or {})["vendor-data"]
    plain = MachineConfig()
    login = MachineConfig(verify=Verify(login=Login(user="root")))

    async def work(session: Session) -> dict[str, GuestReport]:
        await _prompt(session, b"login:")
        found = {"none": await observe_guest(session, plain)}
        await _prompt(session, b"# ", "root")
        # The guest has no cloud-init; what it would run is on the disk that the guest sees.
        first = seed.image.index(vendor) + 1
        await _prompt(
            session, b":end:", f"tail -c +{first} /dev/vdb | head -c {len(vendor)} >/v; sh /v"
        )
        found["seed"] = await observe_guest(session, plain, seed=seed)
        for name, agent in AGENTS.items():
            await _prompt(session, b"# ", f"({PORT}{agent}) & sleep 0.1")
            await _opened(session, is_open=True)
            found[name] = await observe_guest(session, plain, expect="agent")
            await _prompt(session, b"# ", "kill $!; wait")
            await _opened(session, is_open=False)
        await _prompt(session, b"# ", f"({PORT}{AGENTS['liar']}) & sleep 0.1")
        await _opened(session, is_open=True)
        await _prompt(session, b"login:", "exit")
        told: list[int] = []
        place = session.console.total
        done = lambda: told.append(session.console.total)  # noqa: E731
        monkeypatch.undo()
        found["login"] = await observe_guest(session, login, console_done=done)
        assert told == [place]
        asking = asyncio.create_task(observe_guest(session, plain, expect="agent"))
        await asyncio.sleep(0)
        await session.kill()
        with pytest.raises(QemuDiedError):
            await asking
        return found

    options = RunOptions(accel="tcg", timeout_s=DEADLINE_S, seed=seed.image)
    found = in_session(bundle, work, options=options)
    assert found["none"] == GuestReport()
    assert "idle and does not answer" in found["silent"].problem
    assert "no whole answer within" in found["endless"].problem
    assert "longer than" in found["zeros"].problem
    assert "gave no whole answer" in found["liar"].problem
    assert all(found[name].facts is None for name in AGENTS)
    seeded = found["seed"]
    assert (seeded.means, seeded.problem) == ("cloud-init", "")
    assert (seeded.facts or {})["disk:vdb"] == {
        "size": len(seed.image),
        "read-only": True,
        "sector": 512,
        "model": "0x1af4",
        "serial": "seed",
    }
    report = found["login"]
    assert report.means == "serial-login"
    # What the last one has left in the channel is no answer either.
    assert report.problem.startswith("guest agent: ")
    facts = report.facts or {}
    assert facts["hostname"] == "vmpack-small"
    assert facts["disk:vda"] == {
        "size": 64 << 20,
        "read-only": False,
        "sector": 512,
        "model": "0x1af4",
        "serial": "root",
    }


async def _prompt(session: Session, wanted: bytes, line: str | None = None) -> None:
    """Type a line, and return when the guest shows ``wanted`` after it."""
    place = session.console.total
    if line is not None:
        await session.send(line.encode() + b"\r")
        place += len(line)
    assert await session.console.wait_for(wanted, DEADLINE_S, after=place), session.console.tail()


async def _opened(session: Session, *, is_open: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            ports = await session.qmp("query-chardev")
            if [one["frontend-open"] for one in ports if one["label"] == "agent"] == [is_open]:
                return
            await asyncio.sleep(0.02)
