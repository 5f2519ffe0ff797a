"""A verification on another machine: the vmpack there boots, the comparison is made here.

Three commands, each over a connection of its own: what is there, the bundle if it is not, and the
boots, whose report comes back as a tar archive. Profile: specs/hosts-v1.md, HOSTS-SSH-*.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import vmpack
from vmpack.binary import escape
from vmpack.errors import RemoteError, VmpackError
from vmpack.progress import SILENT, Progress
from vmpack.verify.ssh import Answer, Feed, ask

if TYPE_CHECKING:
    from vmpack.bundle import Bundle
    from vmpack.runner.options import RunOptions
    from vmpack.verify.hosts import Host, Ssh
    from vmpack.verify.record import Record
    from vmpack.verify.result import HostResult

__all__ = ["BEAT_S", "PATIENCE_S", "Order", "verify_there"]

BEAT_S = 10.0
PATIENCE_S = 60
"""Seconds of silence after which the vmpack there ends: the network may vanish without a word."""
PROBE_S = 120.0
MAX_PROBE = 32 << 20
MAX_REPORT = 256 << 20
PIECE = 1 << 20
BOOT_S = 600.0
SLOW = 6
"""A boot's seconds are those in which its host had a CPU for it; so many more may pass."""
SPARE_S = 900.0

# $1 mark, $2 vmpack, $3 folder or nothing, $4 name of the bundle. One line, neither a backslash nor
# an exclamation mark: any login shell can hand it on. What a dead command left behind is removed.
_PLACE = (
    "m=$1; v=$2; n=$4; d=${3:-${XDG_CACHE_HOME:-$HOME/.cache}/vmpack/bundles}; umask 077; cd; "
    'mkdir -p -- "$d" && cd -- "$d" && [ -w . ] || exit 72; '
    "case $v in /*) ;; */*) v=$HOME/$v;; esac; "
    "for f in .vmpack-[0-9]*; do [ -e $f ] || continue; p=${f#.vmpack-}; "
    "[ -d /proc/${p%%-*} ] || rm -rf -- $f; done; "
)
_PROBE = _PLACE + (
    'command -v "$v" >/dev/null 2>&1 || exit 71; echo "$m"; '
    '"$v" --version --output json || exit 71; '
    '[ -f "$n" ] || exit 0; "$v" info --output json "./$n" 2>/dev/null; exit 0'
)
# $5 size in bytes.
_COPY = _PLACE + (
    'echo "$m"; t=.vmpack-$$-copy; trap "rm -f $t" EXIT; cat >$t || exit 73; '
    '[ $(wc -c <$t) -eq $5 ] || exit 74; chmod 444 $t && mv -f -- $t "$n" || exit 73; exit 0'
)
# $5 verify or record, $6 name of the record to compare with or nothing; then options of verify.
# A broken pipe must not end the shell before it has removed what it made.
_VERIFY = _PLACE + (
    'k=$5; a=$6; shift 6; trap "" PIPE; r=.vmpack-$$-report; trap "rm -rf $r" EXIT; '
    'mkdir $r || exit 72; echo "$m"; '
    'if [ "$k" = record ]; then set -- --record --record-to $r/record.json "$@"; fi; '
    'if [ -n "$a" ]; then set -- --against "./$a" "$@"; fi; '
    '"$v" verify --output json --progress none --end-with-stdin --report $r/report "$@" "./$n" '
    ">$r/result.json 2>$r/stderr.txt; echo $? >$r/code; [ -s $r/code ] || exit 73; "
    "tar -C $r -cf - . || exit 75; exit 0"
)


@dataclass(frozen=True, slots=True)
class Order:
    """What the other machine is asked to do."""

    options: RunOptions
    boots: int = 1
    expected: Record | None = None
    """What each boot is compared with, here, and where it ends, there."""
    preflight: bool = False
    as_target: str | None = None

    def words(self) -> list[str]:
        """The options for the vmpack there."""
        words = [f"--accel={self.options.accel}"]
        if self.preflight:
            return [*words, "--preflight"]
        words.append(f"--boots={self.boots}")
        if self.options.timeout_s is not None:
            words.append(f"--timeout={self.options.timeout_s:.3f}")
        if self.as_target is not None:
            words.append(f"--as={self.as_target}")
        return [*words, *(f"--qemu-arg={word}" for word in self.options.qemu_args)]

    @property
    def most_seconds(self) -> float:
        """Of the whole of it, by the clock on the wall."""
        if self.preflight:
            return SPARE_S
        return self.boots * SLOW * (self.options.timeout_s or BOOT_S) + SPARE_S


async def verify_there(
    host: Host, bundle: Bundle, order: Order, progress: Progress = SILENT
) -> HostResult:
    """What the host behind ssh did; its boots held against the record here.

    Raises :class:`RemoteError` when it cannot be asked; what its vmpack cannot do is told in the
    result.
    """
    from vmpack.verify.remote_result import host_result

    assert host.ssh is not None
    there = _There(host.name, host.ssh, progress)
    name = f"{bundle.id.removeprefix('sha256:')}.vmpack"
    progress.stage(f"{host.name}: connecting", None)
    version, found = await there.probe(name)
    if found != bundle.id:
        size = bundle.source.size
        await there.copy(name, size, lambda: _pieces(bundle.source.fd, size, progress))
    record = await there.copy_record(order, bundle)
    progress.stage(f"{host.name}: booting", None)
    archive = await there.verify(name, record, order, bundle)
    try:
        result = host_result(host.name, archive.output, archive.size, order, bundle)
    finally:
        archive.output.close()
    return _with_version(result, version)


def _with_version(result: HostResult, version: str) -> HostResult:
    if version == vmpack.__version__:
        return result
    note = f"vmpack {escape(version)} there, {vmpack.__version__} here: observers may differ"
    return replace(result, notes=(*result.notes, note))


class _There:
    """One machine, command by command."""

    def __init__(self, name: str, ssh: Ssh, progress: Progress) -> None:
        self._name = name
        self._ssh = ssh
        self._progress = progress

    async def probe(self, name: str) -> tuple[str, str | None]:
        """The version of vmpack there, and the id of the bundle that is there under ``name``."""
        answer = await self._ask(_PROBE, name, [], _nothing, MAX_PROBE, PROBE_S)
        with answer.output as file:
            text = file.read().decode(errors="replace")
        decoder = json.JSONDecoder()
        try:
            first, end = decoder.raw_decode(text.lstrip())
            version = str(first["version"])[:40]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RemoteError(
                f"what is called {escape(self._ssh.vmpack)} on {self._name} is not vmpack",
                hint="name it with vmpack = in the hosts file",
            ) from None
        try:
            facts, _ = decoder.raw_decode(text.lstrip()[end:].lstrip())
            return version, str(facts["id"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return version, None

    async def copy(self, name: str, size: int, feed: Feed) -> None:
        """Bring a file there under that name, whole or not at all."""
        self._progress.stage(f"{self._name}: copying", size)
        answer = await self._ask(_COPY, name, [str(size)], feed, PIECE, None)
        answer.output.close()

    async def copy_record(self, order: Order, bundle: Bundle) -> str:
        """Name there of the record to compare with; empty for none, and for the bundle's own."""
        if order.expected is None or order.preflight:
            return ""
        if _is_own(order.expected, bundle):
            return ""
        document = replace(order.expected, replay=None).as_dict()
        data = json.dumps(document, sort_keys=True).encode()
        name = f"{hashlib.sha256(data).hexdigest()}.json"

        async def feed() -> AsyncIterator[bytes]:
            yield data

        await self.copy(name, len(data), feed)
        return name

    async def verify(self, name: str, record: str, order: Order, bundle: Bundle) -> Answer:
        """The boots; the archive of their report."""
        # A record in the bundle would end the boots of a new one at the first that differs.
        anew = order.expected is None and bundle.manifest.behaviour is not None
        kind = "record" if anew and order.boots > 1 and not order.preflight else "verify"
        arguments = [kind, record, *order.words()]
        return await self._ask(_VERIFY, name, arguments, _beats, MAX_REPORT, order.most_seconds)

    async def _ask(
        self,
        script: str,
        name: str,
        arguments: Sequence[str],
        feed: Feed,
        limit: int,
        timeout_s: float | None,
    ) -> Answer:
        places = [_from_home(self._ssh.vmpack), _from_home(self._ssh.folder or "")]
        answer = await ask(
            self._name,
            self._ssh,
            script,
            [*places, name, *arguments],
            feed=feed,
            limit=limit,
            timeout_s=timeout_s,
        )
        if answer.code:
            answer.output.close()
            raise self._failed(answer)
        return answer

    def _failed(self, answer: Answer) -> RemoteError:
        said = answer.words[-600:] or "without a word"
        folder = self._ssh.folder or "the folder for bundles"
        if answer.code == 71:
            return RemoteError(
                f"there is no {escape(self._ssh.vmpack)} on {self._name} that runs"
                + (f": {answer.words[-600:]}" if answer.words else ""),
                hint="install vmpack there (pipx install vmpack), or name it with vmpack = in the"
                " hosts file: a command over ssh has a shorter PATH than a login",
            )
        if answer.code == 72:
            return RemoteError(
                f"{self._name} cannot write to {escape(folder)}: {said}",
                hint="name another folder there with folder = in the hosts file",
            )
        if answer.code in (73, 74):
            return RemoteError(
                f"{self._name} cannot keep a file in {escape(folder)}: {said}",
                hint="free some space there, or name another folder with folder = in the hosts"
                " file",
            )
        return RemoteError(
            f"a command on {self._name} ended with {answer.code}: {said}",
            hint=f"is a shell there, and tar? Try it by hand: ssh {self._ssh.target}",
        )


def _is_own(record: Record, bundle: Bundle) -> bool:
    """Whether the bundle carries that very record."""
    from vmpack.verify.record import Record

    if bundle.manifest.behaviour is None:
        return False
    try:
        own = Record.from_dict(bundle.manifest.behaviour)
    except VmpackError:
        return False
    return (own.observation, own.end) == (record.observation, record.end)


def _from_home(path: str) -> str:
    """``~/x`` as sh there takes it within quotes, after a cd to the home folder."""
    return f"./{path[2:]}" if path.startswith("~/") else path


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _pieces(fd: int, size: int, progress: Progress) -> AsyncIterator[bytes]:
    offset = 0
    while offset < size:
        piece = await asyncio.to_thread(os.pread, fd, min(PIECE, size - offset), offset)
        if not piece:
            return
        yield piece
        offset += len(piece)
        progress.advance(len(piece))


async def _beats() -> AsyncIterator[bytes]:
    """Until it is cancelled: the vmpack there lives as long as this goes on."""
    while True:
        yield f"{PATIENCE_S}\n".encode()
        await asyncio.sleep(BEAT_S)
